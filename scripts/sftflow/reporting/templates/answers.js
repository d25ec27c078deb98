"use strict";
// Shows the answers that the page holds. Everything goes into the page as textContent: what a
// prompt or an answer contains is shown, never run.

const PAGE = 20; // questions shown at a time
const $ = (id) => document.getElementById(id);
// Each filter: its name, and whether a row (see rowsOf) belongs to it.
const has = (trait) => (row) => row.sides.some((side) => side.some((answer) => answer.traits.includes(trait)));
const FILTERS = {
  "All": () => true,
  "Fixed": (row) => row.change > 0,
  "Broken": (row) => row.change < 0,
  "Unstated": has("unparsed"),
  "Misread": has("misread"),
  "Cut off": has("truncated"),
  "Empty": has("empty"),
  "Contaminated": has("contaminated"),
};
const NAMES = { unparsed: "Unstated", misread: "Misread", truncated: "Cut off", empty: "Empty", contaminated: "Contaminated" };

let data; // as reporting/browser.py's content() has it
let state = {}; // pair, benchmark, subset, show, search, question, language: what the address says
let rows = []; // of the pair
let found = []; // those that the filters leave
let chosen = 0; // place of the chosen question among them

const t = (text) => data.texts[state.language]?.[text] ?? text;

// Control characters (ANSI's escape) as pictures; direction marks stay, inside their own box.
const plain = (text) => text.replace(/[\x00-\x08\x0b-\x1f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)));

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children); // strings become text nodes
  return element;
}

async function unpack() {
  const packed = atob($("data").textContent);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const pairName = (pair) => pair.join("--");
const mean = (side) => side.reduce((sum, answer) => sum + answer.score, 0) / side.length;

// The questions that both of a pair answered: {benchmark, key, subset, prompt, target, sides, change}
function rowsOf(pair) {
  const result = [];
  for (const benchmark of Object.keys(data.benchmarks)) {
    const lists = pair.map((subject) => data.answers[subject]?.[benchmark] ?? []);
    data.questions[benchmark].forEach(([key, subset, index, prompt, target], place) => {
      const sides = lists.map((list) => list[place]);
      if (!sides.every(Boolean)) return;
      // 64 digits identify a question, and 12 do; "#2" is the same question once more
      const id = key.slice(0, 12) + key.slice(64);
      result.push({ benchmark, id, subset, index, prompt, target, sides, change: mean(sides[1]) - mean(sides[0]) });
    });
  }
  return result;
}

// What a search looks through, made when it is first needed.
function haystack(row) {
  row.text ??= [
    ...row.prompt.map(([, text]) => text), row.target, row.subset, row.id,
    ...row.sides.flat().flatMap((answer) => [answer.answer, answer.thought ?? "", answer.stated ?? ""]),
  ].join("\n").toLowerCase();
  return row.text;
}

function readAddress() {
  const told = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const pairs = data.pairs.map(pairName);
  if (told.subject && !told.pair) {
    const pair = data.pairs.find((p) => p[1] === told.subject) ?? data.pairs.find((p) => p[0] === told.subject);
    told.pair = pair && pairName(pair);
  }
  const old = state.pair;
  state = {
    pair: pairs.includes(told.pair) ? told.pair : pairs[0],
    benchmark: told.benchmark in data.benchmarks ? told.benchmark : "",
    subset: told.subset ?? "",
    show: told.show in FILTERS ? told.show : "All",
    search: told.search ?? "",
    question: told.question ?? "",
    language: data.languages.includes(told.language) ? told.language : (state.language ?? data.languages[0]),
  };
  if (state.pair !== old && state.pair) rows = rowsOf(data.pairs[pairs.indexOf(state.pair)]);
  select();
  draw();
}

const address = (changes) =>
  "#" + new URLSearchParams(Object.entries({ ...state, ...changes }).filter(([name, value]) => value && !(name === "show" && value === "All")));

function go(changes) {
  history.replaceState(null, "", address({ question: "", ...changes }));
  readAddress();
}

const inScope = (row) => (!state.benchmark || row.benchmark === state.benchmark) && (!state.subset || row.subset === state.subset);

function select() {
  const wanted = state.search.toLowerCase();
  const scope = rows.filter((row) => inScope(row) && (!wanted || haystack(row).includes(wanted)));
  state.counts = Object.fromEntries(Object.entries(FILTERS).map(([name, holds]) => [name, scope.filter(holds).length]));
  found = scope.filter(FILTERS[state.show]);
  const place = found.findIndex((row) => state.question && row.id.startsWith(state.question));
  chosen = Math.max(place, 0);
}

function options(id, entries, value) {
  $(id).replaceChildren(...entries.map(([name, text]) => make("option", { value: name, textContent: plain(text), selected: name === value })));
}

function draw() {
  document.documentElement.lang = state.language;
  document.title = t("Answers side by side");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  const called = (subject) => (data.labels[subject] ?? subject);
  options("pair", data.pairs.map((pair) => [pairName(pair), pair.map(called).join(" → ")]), state.pair);
  options("benchmark", [["", t("all")], ...Object.entries(data.benchmarks)], state.benchmark);
  const subsets = [...new Set(rows.filter((row) => !state.benchmark || row.benchmark === state.benchmark).map((row) => row.subset))].sort();
  options("subset", [["", t("all")], ...subsets.map((name) => [name, name])], state.subset);
  options("language", data.languages.map((name) => [name, { zh: "中文", en: "English" }[name] ?? name]), state.language);
  $("language").hidden = data.languages.length < 2;
  if ($("search").value !== state.search) $("search").value = state.search;
  $("filters").replaceChildren(...Object.keys(FILTERS).map((name) => {
    const button = make("button", { textContent: `${t(name)} ${state.counts[name]}`, onclick: () => go({ show: name }) });
    button.setAttribute("aria-pressed", name === state.show);
    return button;
  }));
  $("count").textContent = `${found.length.toLocaleString("en")} / ${rows.length.toLocaleString("en")} ${t("questions")}`;
  $("absent").hidden = !data.absent.length;
  $("absent").lastElementChild.replaceChildren(...data.absent.map((line) => make("li", { textContent: plain(line) })));
  $("absent").open = !rows.length;
  drawCards();
}

function drawCards() {
  const first = Math.floor(chosen / PAGE) * PAGE;
  const shown = found.slice(first, first + PAGE);
  $("cards").replaceChildren(...shown.map((row, i) => card(row, first + i)));
  if (!shown.length) $("cards").append(make("p", { textContent: t(rows.length ? "No question is left by these filters." : "No answers are here.") }));
  $("place").textContent = found.length ? `${first + 1} – ${first + shown.length} / ${found.length}` : "";
  $("before").disabled = first === 0;
  $("after").disabled = first + PAGE >= found.length;
  mark();
}

function mark() {
  const cards = [...$("cards").querySelectorAll("article")];
  cards.forEach((element, i) => element.classList.toggle("chosen", i === chosen % PAGE));
  if (state.question) cards[chosen % PAGE]?.scrollIntoView();
}

function move(place) {
  if (!found.length) return;
  const page = Math.floor(chosen / PAGE);
  chosen = Math.min(Math.max(place, 0), found.length - 1);
  state.question = found[chosen].id;
  history.replaceState(null, "", address({}));
  if (Math.floor(chosen / PAGE) === page) mark();
  else drawCards();
}

const share = (score) => Number(score.toFixed(3)).toString();
const box = (text) => make("pre", { textContent: plain(text), dir: "auto" });

function card(row, place) {
  const kind = row.change > 0 ? ["good", "Fixed"] : row.change < 0 ? ["bad", "Broken"] : null;
  const link = make("a", { href: address({ question: row.id }), textContent: row.id, title: t("Link to this question") });
  return make("article", { onclick: () => { if (place !== chosen) { chosen = place; state.question = ""; mark(); } } },
    make("header", {},
      make("b", { textContent: plain(`${data.benchmarks[row.benchmark]} · ${row.subset} ${row.index}`) }), link,
      ...(kind ? [make("span", { className: kind[0], textContent: t(kind[1]) })] : [])),
    ...messages(row.prompt),
    make("p", { className: "soft" }, t("Target") + " ", make("bdi", { textContent: plain(row.target) })),
    make("div", { className: "sides" }, ...row.sides.map((side, i) => sideOf(side, state.pair && data.pairs.find((p) => pairName(p) === state.pair)[i]))));
}

const messages = (prompt) => prompt.flatMap(([role, text]) => [...(prompt.length > 1 ? [make("small", { textContent: plain(role) })] : []), box(text)]);

function sideOf(side, subject) {
  return make("section", {}, make("h2", { textContent: plain(data.labels[subject] ?? subject) }), ...side.flatMap(answerOf));
}

function answerOf(answer) {
  const facts = [
    ["Stated", answer.stated ?? "—"],
    ["Read", answer.read || "—"],
    ["Score", share(answer.score)],
    ["Ending", t(answer.ending)],
  ].flatMap(([name, value]) => [
    make("dt", { textContent: t(name) }),
    make("dd", { textContent: plain(value), dir: "auto", className: name === "Score" ? (answer.score === 1 ? "good" : answer.score === 0 ? "bad" : "") : "" }),
  ]);
  const traits = answer.traits.flatMap((name) => [make("span", { className: "trait", textContent: t(NAMES[name]) }), " "]);
  return [
    ...(answer.prompt ? [make("details", {}, make("summary", { textContent: t("It was asked in other words") }), ...messages(answer.prompt))] : []),
    ...(answer.thought ? [make("details", {}, make("summary", { textContent: t("Reasoning") }), box(answer.thought))] : []),
    box(answer.answer), make("dl", {}, ...facts), make("p", {}, ...traits),
  ];
}

function listen() {
  $("pair").onchange = (event) => go({ pair: event.target.value });
  $("benchmark").onchange = (event) => go({ benchmark: event.target.value, subset: "" });
  $("subset").onchange = (event) => go({ subset: event.target.value });
  $("language").onchange = (event) => go({ language: event.target.value });
  let waiting;
  $("search").oninput = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => go({ search: $("search").value }), 150);
  };
  const turn = (pages) => { move((Math.floor(chosen / PAGE) + pages) * PAGE); };
  $("before").onclick = () => turn(-1);
  $("after").onclick = () => turn(1);
  window.onhashchange = readAddress;
  document.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const step = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }[event.key];
    if (step) move(chosen + step);
    else if (event.key === "/") $("search").focus();
    else return;
    event.preventDefault();
  };
}

unpack().then((content) => {
  data = content;
  listen();
  readAddress();
  document.body.dataset.ready = "yes";
}, (error) => {
  $("cards").textContent = `The answers can't be unpacked (${error}). Browsers since 2023 can.`;
});
