"""Labels, notes, prompts and answers of others do nothing in any file that is written of them."""

import csv
import json
import re
from html.parser import HTMLParser

import cards
import made_up
import pytest
import report
import tables as program
from markdown_it import MarkdownIt
from sftflow.core import cli
from sftflow.core.jsonio import read_record, write_json, write_record
from sftflow.reporting.text import OBEYED

# Each does something somewhere; all are in every text that is not ours.
CANARIES = (
    "<script>canary()</script>", "<img src=x onerror=canary()>", "[go](javascript:canary)",
    "![pixel](http://canary.example/p.png)", "[page](http://canary.example)", "a | b",
    r"\input{canary} \write18{canary} $x_1$ 50 % & #1 ~ ^ {", "`code` **bold** </table>",
    "\x1b[31mred\x1b]0;title\x07", "\u202egnp.exe\u2066", "=HYPERLINK(\"http://canary.example\")",
    "{{ canary }} {% raw %}",
)  # fmt: skip
HOSTILE = " ".join(CANARIES)
NOTES = "\n\n".join([*CANARIES, "## 5", *CANARIES, "```", "</pre><script>canary()</script>"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study whose texts are all hostile, and every page that is written of it."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "notes.md").write_text(NOTES, encoding="utf-8")
    raw = json.loads(json.dumps(made_up.RAW))
    raw["models"]["base"]["label"] = "=1+1 base " + HOSTILE
    raw["runs"]["tuned"]["label"] = "+tuned " + HOSTILE
    raw["benchmarks"]["mmlu"] |= {"label": "@mmlu " + HOSTILE, "note": "-note " + HOSTILE}
    raw["prompts"] = ["ask " + HOSTILE]
    raw["report"] = {"notes": str(folder / "notes.md")}
    study = made_up.write_study(folder, raw, {"base": 0.3, "tuned": 0.8})
    made_up.write_records(folder, study)
    for subject in study["subjects"]:
        path = folder / f"subjects/{subject}/chat.json"
        record = read_record(path)
        for answer in record["answers"]:
            answer["answer"] = "=said\n" + HOSTILE
        write_record(path, record)
    path = folder / "datasets/talks/contamination.json"
    record = read_record(path)
    for example in record["benchmarks"]["mmlu"]["examples"]:
        example |= {"question": HOSTILE, "passage": "=" + HOSTILE}
    write_record(path, record)
    row = {"messages": [{"role": "user", "content": "```\n" + HOSTILE}], "id": "0" * 64}
    (folder / "datasets/talks/train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    write_json(folder / "study.json", study)
    with pytest.MonkeyPatch.context() as patch:
        for each in (program, report, cards):
            told = ["--results", str(folder), "--settings", str(folder / "study.json")]
            patch.setattr("sys.argv", ["x.py", *told])
            assert cli.run(each.main) == 0
    return folder


def pages(results, *patterns: str) -> dict[str, str]:
    found = {
        str(path.relative_to(results)): path.read_bytes().decode("utf-8")
        for pattern in patterns
        for path in results.glob(pattern)
    }
    assert found
    return found


def test_terminals_and_the_order_of_text_obey_nothing(results):
    written = pages(
        results, "tables/*", "report/*.md", "report/*.txt", "report/report.html",
        "runs/*/cards/*/*.md",
    )  # fmt: skip
    assert {name: found for name, page in written.items() if (found := OBEYED.findall(page))} == {}


def test_markdown_shows_and_does_nothing(results):
    """Also in a viewer that takes raw HTML."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for name, page in pages(results, "tables/*.md", "report/*.md", "runs/*/cards/*/*.md").items():
        body = re.sub(r"\A---\n.*?\n---\n", "", page, flags=re.S)
        shown = parser.render(body)
        assert not re.search(r"<(script|img(?! src=\"\.\./figures)|/table>\s*\|)", shown), name
        links = re.findall(r'(?:href|src)="([^"]*)"', shown)
        foreign = {link for link in links if not link.startswith("../")}
        allowed = {"http://canary.example"} if name.startswith("report") else set()
        assert foreign <= allowed, name  # the author's own notes may link to a page


def test_tables_keep_their_columns(results):
    for name, page in pages(results, "tables/*.md", "report/*.md").items():
        fenced = re.sub(r"```.*?```", "", page, flags=re.S)
        for block in re.findall(r"(?:^\|.*\n)+", fenced, re.M):
            counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(counts) == 1, f"{name}: {block[:300]}"


class Parsed(HTMLParser):
    """Tags with their attributes, and the text, as a browser has them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_page_runs_nothing_and_asks_nobody(results):
    page = pages(results, "report/report.html")["report/report.html"]
    found = Parsed(page)
    assert [tag for tag, _ in found.tags].count("script") == 1  # ours
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        links = [attributes.get(name) or "" for name in ("href", "src")]
        assert not [link for link in links if link.startswith("javascript:")]
        if tag in ("img", "link", "iframe"):
            assert links[1].startswith("data:") and not links[0]
    assert "<script>canary()</script>" in found.text  # it is shown


def test_spreadsheets_compute_nothing(results):
    for name, page in pages(results, "tables/*.csv").items():
        for row in csv.reader(page.splitlines()):
            for cell in row:
                number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell)
                assert number or not cell.lstrip().startswith(("=", "+", "-", "@")), (name, cell)


def test_latex_runs_nothing(results):
    for name, page in pages(results, "tables/*.tex").items():
        body = page.partition("\n\n")[2]
        assert r"\input{" not in body and r"\write18{" not in body, name
        assert not re.search(r"(?<!\\)\$x", body), name


def test_a_card_is_still_a_card(results):
    for page in pages(results, "runs/*/cards/*/*.md").values():
        assert page.count("\n---\n") == 1 and page.startswith("---\n")
