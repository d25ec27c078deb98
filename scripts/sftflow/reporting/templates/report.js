"use strict";
// What the report's page does beyond showing: tables sort and filter, links open their language,
// j and k go from section to section. Without it the page is whole.

const MANY = 8; // rows from which on a table has a filter
const rows = (table) => [...table.tBodies[0].rows];

// The first number of a cell as a number, 1:02:03 as seconds; null where there is none.
function numberOf(text) {
  const found = text.replaceAll(",", "").match(/[-+]?\d+(?::\d+)+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?/i);
  return found && found[0].split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
}

// Ascending, descending, as it was; what has no value stays last.
function sort(head) {
  const table = head.closest("table");
  const column = head.cellIndex;
  const next = { ascending: "descending", descending: "none" }[head.ariaSort] ?? "ascending";
  for (const other of head.parentNode.cells) other.ariaSort = "none";
  head.ariaSort = next;
  const sign = next === "descending" ? -1 : 1;
  const numbers = head.classList.contains("number");
  const value = (row) => {
    if (next === "none") return Number(row.dataset.place);
    const text = row.cells[column].textContent.trim();
    return numbers ? numberOf(text) : text === "—" ? null : text;
  };
  const keyed = rows(table).map((row) => [value(row), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, document.documentElement.lang, { numeric: true }));
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll(".table > table")) {
  rows(table).forEach((row, place) => { row.dataset.place = place; });
  if (rows(table).length < 2) continue;
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.onclick = () => sort(head);
    head.append(button);
    head.ariaSort = "none";
  }
  if (rows(table).length < MANY) continue;
  const filter = document.createElement("input");
  filter.type = "search";
  filter.placeholder = filter.ariaLabel = table.closest("main").dataset.filter;
  filter.oninput = () => {
    const wanted = filter.value.toLowerCase();
    for (const row of rows(table)) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  };
  table.parentNode.before(filter);
}

function choose(language) {
  const pick = document.getElementById(`pick-${language}`);
  if (pick) pick.checked = true;
  document.documentElement.lang = document.querySelector(".pick:checked").value;
}

function follow() {
  choose(location.hash.slice(1).split("-")[0]);
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

if (matchMedia("(max-width: 1099px)").matches) {
  for (const contents of document.querySelectorAll("nav details")) contents.open = false;
}
for (const pick of document.querySelectorAll(".pick")) pick.onchange = () => choose(pick.value);
window.onhashchange = follow;
document.onkeydown = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search]")) return;
  if (event.key !== "j" && event.key !== "k") return;
  const headings = [...document.querySelectorAll(`.language[lang="${document.documentElement.lang}"] :is(h2, h3)`)];
  const tops = headings.map((heading) => heading.getBoundingClientRect().top);
  const next = event.key === "j" ? tops.findIndex((top) => top > 40) : tops.findLastIndex((top) => top < 0);
  headings[next]?.scrollIntoView();
};
follow();
document.body.dataset.ready = "yes";
