"""The report in a real browser: contents, sorting, filters, links into the answers, keys, phone,
dark, print; no error, no request."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
import report as program
from sftflow.core import cli
from sftflow.core.jsonio import read_record, write_json, write_record
from sftflow.reporting import figures
from test_chinese import everything

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs chromium"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The report of a study with everything, something wrong in each."""
    folder = tmp_path_factory.mktemp("it's a 页")
    return report_of(folder, everything(folder))


def report_of(folder: Path, study: dict) -> Path:
    write_json(folder / "study.json", study)
    with pytest.MonkeyPatch.context() as patch:
        given = ["--settings", str(folder / "study.json"), "--results", str(folder)]
        patch.setattr("sys.argv", ["report.py", *given])
        assert cli.run(program.main) == 0
    return folder / "report/report.html"


HOSTILE = (
    "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">",
    "![p](https://example.org/p.png) [c](https://example.org) [j](javascript:alert(1)) `x` $x^2$",
    "\u202egnp.exe \u2067\u05d0 \x1b[31mred \\textbf{x} | a | b |\n\n# head\n\n```\nfence",
)


def test_hostile_labels_and_answers_do_nothing(tab, tmp_path):
    """Of subjects, benchmarks and notes, and of a model in the table of fixed prompts."""
    made = everything(tmp_path)
    for kind, text in zip(("subjects", "runs", "benchmarks"), HOSTILE, strict=True):
        for entry in made[kind].values():
            entry["label"] = text
            entry["note"] = text
    for path in tmp_path.glob("subjects/*/chat.json"):
        record = read_record(path)
        for answer, text in zip(record["answers"], HOSTILE, strict=False):
            answer["answer"] = text
        write_record(path, record)
    tab.open(report_of(tmp_path, made))
    assert tab.do("document.title") == "Fine-tuning report"
    assert (
        tab.do("document.querySelectorAll('main :is(img:not([src^=\"data:\"]), script)').length")
        == 0
    )
    targets = tab.do("[...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert [t for t in targets if not t.startswith(("#", "../", "answers.html"))] == []
    assert "<script>document.title" in tab.do("document.querySelector('main').textContent")
    assert tab.do("[...document.querySelectorAll('h1')].length") == 2  # one for each language


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[chromium.Page]:
    with chromium.page(tmp_path_factory.mktemp("profile")) as found:
        yield found
    assert not found.errors and not found.requests


def column(name: str, language: str = "en") -> str:
    """The first table that has it, as JavaScript: the cells of its column."""
    cells = (
        f'[...document.querySelectorAll(`.language[lang="{language}"] td[data-label^="{name}"]`)]'
    )
    return f"{cells}.filter((cell, _, all) => cell.closest('table') === all[0].closest('table'))"


def texts(tab: chromium.Page, cells: str) -> list[str]:
    return tab.do(f"{cells}.map(cell => cell.textContent)")


def test_contents_lead_to_every_section_in_its_language(tab, written):
    tab.open(written)
    assert tab.do("document.documentElement.lang") == "zh"
    places = tab.do("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert len(places) == len(set(places)) == tab.do("document.querySelectorAll('h2, h3').length")
    assert tab.do(f"{places}.every(place => document.getElementById(place.slice(1)))")
    tab.open(written, "#en-9-5")
    assert tab.do("document.documentElement.lang") == "en"
    assert abs(tab.do("document.getElementById('en-9-5').getBoundingClientRect().top")) < 60
    assert tab.do("getComputedStyle(document.querySelector('[lang=zh]')).display") == "none"


def test_a_table_sorts_by_any_column_and_back(tab, written):
    tab.open(written, "#en-9-5")
    cells = column("Baseline score")
    before = texts(tab, cells)
    head = f"{cells}[0].closest('table').tHead.rows[0].cells[{cells}[0].cellIndex]"
    tab.do(f"{head}.firstChild.focus()")
    orders = []
    for _ in range(3):
        tab.press(" ")
        orders.append((tab.do(f"{head}.ariaSort"), texts(tab, cells)))
    known = sorted((text for text in before if text != "—"), key=float)
    unknown = ["—"] * before.count("—")
    assert orders == [
        ("ascending", known + unknown), ("descending", known[::-1] + unknown), ("none", before),
    ]  # fmt: skip


def test_a_long_table_is_filtered_as_one_types(tab, written):
    tab.open(written, "#en-1")
    box = "document.querySelector('.language[lang=en] input[type=search]')"
    shown = f"[...{box}.nextElementSibling.querySelectorAll('tbody tr')].filter(row => !row.hidden)"
    wanted = tab.do(f"{shown}[3].textContent").strip().split()[0].lower()
    count = tab.do(f"{shown}.length")
    tab.do(f"{box}.focus()")
    tab.press(*wanted)
    left = tab.do(f"{shown}.map(row => row.textContent.toLowerCase())")
    assert 0 < len(left) < count and all(wanted in text for text in left)


def test_keys_go_from_section_to_section(tab, written):
    tab.open(written)
    top = "Math.round(scrollY)"
    tab.press("j", "j", "j")
    third = tab.do(top)
    tab.press("j")
    assert tab.do(top) > third > 0
    tab.press("k", "k")
    assert tab.do(top) < third


def test_scores_and_differences_lead_to_their_answers(tab, written):
    tab.open(written)
    links = tab.do("[...document.querySelectorAll('main a')].map(a => a.getAttribute('href'))")
    leading = [link for link in links if link.startswith("answers.html#")]
    answers = written.with_name("answers.html")
    for name in (
        "subject=tuned&benchmark=mmlu&", "subject=tuned&benchmark=mmlu&subset=",
        "pair=base--tuned&benchmark=gsm8k&lang", "benchmark=mmlu&show=Fixed&language=en",
    ):  # fmt: skip
        link = next(link for link in leading if name in link)
        tab.open(answers, link.removeprefix("answers.html"))
        count, _, whole = tab.do("document.getElementById('count').textContent").partition(" / ")
        assert 0 < int(count) < int(whole.split()[0]), name
    assert tab.do("document.documentElement.lang") == "en"
    pressed = tab.do("document.querySelector('#filters [aria-pressed=true]').textContent")
    assert pressed == f"Fixed {count}"


def test_on_a_phone_nothing_is_cut_off(tab, written):
    for language, name in (("zh", "结论"), ("en", "Verdict")):
        tab.open(written, f"#{language}-9-5", width=390)
        assert tab.do("document.documentElement.scrollWidth") <= 390
        cells = f'.language[lang="{language}"] td[data-label="{name}"]'
        verdicts = f"[...document.querySelectorAll('{cells}')]"
        assert tab.do(f"{verdicts}.length") > 5
        boxes = "map(cell => cell.getBoundingClientRect()).filter(box => box.width)"
        assert tab.do(f"{verdicts}.{boxes}.every(box => box.left >= 0 && box.right <= 390)")
        wider = "filter(box => box.scrollWidth > box.clientWidth + 1).length"
        assert tab.do(f"[...document.querySelectorAll('.table')].{wider}") == 0


def test_dark_where_the_reader_wants_it(tab, written):
    for dark, color in ((True, "rgb(15, 21, 32)"), (False, "rgb(248, 250, 252)")):
        tab.open(written, dark=dark)
        assert tab.do("getComputedStyle(document.body).backgroundColor") == color


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs poppler's pdftotext")
@pytest.mark.parametrize("language, name", [("zh", "结论"), ("en", "Verdict")])
def test_on_paper_every_verdict_is_there(tab, written, tmp_path, language, name):
    if language == "zh" and not figures.chinese_font():
        pytest.skip("needs a font with Chinese glyphs")
    tab.open(written, f"#{language}-1")
    asked = f'[...document.querySelectorAll(`.language[lang="{language}"] :is(td, th, li)`)]'
    wanted = {"".join(text.split()) for text in texts(tab, asked)}
    verdicts = texts(
        tab, f'[...document.querySelectorAll(`.language[lang="{language}"] [data-label="{name}"]`)]'
    )
    tab.print(tmp_path / "report.pdf")
    done = subprocess.run(
        ["pdftotext", "-raw", tmp_path / "report.pdf", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    paper = "".join(done.stdout.split())
    for verdict in set(verdicts):
        assert "".join(verdict.split()) in paper, verdict
    # nothing else is cut off either: each word of each cell
    words = {word for text in wanted for word in re.findall(r"\w{3,}", text) if word.isascii()}
    lost = {word for word in words if word not in paper}
    assert len(lost) <= len(words) / 100, lost
