"""The page of answers: what it holds, what it says is missing, and where the report leads into it.
In a browser: tests/browser."""

import base64
import gzip
import json
import re
from pathlib import Path

import made_up
import pytest
import report as program
from sftflow.core import cli
from sftflow.core.jsonio import read_json, write_json
from sftflow.core.layout import Results, answers_at
from sftflow.reporting import browser, cells
from sftflow.reporting.chinese import ANSWERS_PAGE
from sftflow.reporting.text import TEMPLATES


@pytest.fixture
def results(tmp_path: Path) -> Path:
    study = made_up.write_study(tmp_path, shares={"base": 0.35, "tuned": 0.75})
    made_up.write_records(tmp_path, study)
    write_json(tmp_path / "study.json", study)
    return tmp_path


def gathered(results: Path) -> browser.Shown:
    study = read_json(results / "study.json")
    return browser.gather(study, Results(results), cells.load_cells(study, Results(results)))


def held(page: str) -> dict:
    """The JSON that a page holds."""
    data = re.search(r'id="data">([^<]*)<', page)
    assert data
    return json.loads(gzip.decompress(base64.b64decode(data[1])))


def written(results: Path, monkeypatch) -> tuple[str, str]:
    """(the page of answers, the report) as the program writes them; figures play no part."""
    monkeypatch.setattr(program, "draw", lambda *_: {})
    given = ["report.py", "--settings", str(results / "study.json"), "--results", str(results)]
    monkeypatch.setattr("sys.argv", given)
    assert cli.run(program.main) == 0
    names = ("answers", "report")
    answers, report = ((results / f"report/{name}.html").read_text("utf-8") for name in names)
    return answers, report


def score_of(results: Path, subject: str, benchmark: str) -> dict:
    return read_json(results / f"scores/{subject}/{benchmark}.json")


def test_every_answer_of_a_pair_stands_beside_its_question(results):
    study = read_json(results / "study.json")
    found = browser.content(study, gathered(results))
    assert found["pairs"] == [("base", "tuned")] and not found["absent"]
    for subject in ("base", "tuned"):
        for benchmark in ("gsm8k", "mmlu"):
            sides = found["answers"][subject][benchmark]
            asked = found["questions"][benchmark]
            score = score_of(results, subject, benchmark)
            assert len(sides) == len(asked) == score["n"]
            assert sum(a["score"] for side in sides for a in side) / score["n"] == score["score"]
            for (_, subset, index, prompt, target), (answer,) in zip(asked, sides, strict=True):
                assert prompt == [["user", f"Question {index} of {subset}?"]]
                assert (answer["stated"] == target) == (answer["score"] == 1)


def test_counts_of_the_score_are_those_of_the_filters(results):
    study = read_json(results / "study.json")
    records = made_up.samples(0.5, 7, study["benchmarks"]["gsm8k"])
    records[0] |= {"stated": None, "right": False, "answer": "I am"}
    records[1] |= {"ending": "cut off", "right": False, "finish_reason": "length"}
    records[2] |= {"stated": "3", "extracted": "4"}
    overlap = {"gsm8k": {"ids": [records[3]["id"], records[4]["id"]]}}
    session = made_up.write_session(results, study, "tuned", "general", {"gsm8k": records})
    made_up.write_scores(results, session, overlap)
    (results / "study.json").write_text(json.dumps(study))
    shown = browser.Shown()
    score = score_of(results, "tuned", "gsm8k")
    browser.add(shown, Results(results), cells.Cell("tuned", "gsm8k", score))
    answers = [a for side in shown.answers["tuned"]["gsm8k"].values() for a in side]
    for name in ("unparsed", "misread", "truncated", "empty"):
        assert sum(name in answer["traits"] for answer in answers) == score[name]
    assert sum("contaminated" in answer["traits"] for answer in answers) == 2
    assert score["unparsed"] == score["misread"] == score["truncated"] == 1


def test_what_is_not_there_is_said_in_page_and_report(results, monkeypatch):
    (results / score_of(results, "tuned", "mmlu")["samples"]).unlink()
    changed = results / score_of(results, "base", "gsm8k")["samples"]
    changed.write_text(changed.read_text().replace('"score": 1.0', '"score": 0.0', 1))
    answers, report = written(results, monkeypatch)
    absent = held(answers)["absent"]
    assert len(absent) == 2
    assert any("tuned mmlu" in line and "is not there" in line for line in absent)
    assert any("base gsm8k" in line and "other answers" in line for line in absent)
    for text in ("not there: tuned mmlu", "此处没有：tuned mmlu"):
        assert text in report
    assert 'href="../scores/tuned/mmlu.json"' in report  # nothing to lead to


def test_a_folder_of_scores_alone_gives_a_page_that_says_so(results, monkeypatch):
    (results / "evaluations").rename(results / "elsewhere")
    answers, _ = written(results, monkeypatch)
    assert len(held(answers)["absent"]) == 4 and not held(answers)["answers"]


def test_scores_and_differences_of_the_report_lead_into_the_page(results, monkeypatch):
    answers, report = written(results, monkeypatch)
    assert "scores/" not in "".join(re.findall(r'href="([^"]*)"', report))
    for place in (
        "subject=tuned&amp;benchmark=mmlu",
        "pair=base--tuned&amp;benchmark=gsm8k",
        "pair=base--tuned",
    ):
        for language in ("zh", "en"):
            assert f'href="answers.html#{place}&amp;language={language}"' in report, place
    size = len(answers.encode())
    assert f"{size / 1e3:.0f} kB" in report
    table = (results / "report/report.en.md").read_text()
    assert f"../{answers_at(pair='base--tuned', benchmark='mmlu')}" in table


def test_same_results_give_the_same_page(results, monkeypatch):
    assert written(results, monkeypatch) == written(results, monkeypatch)


def test_nothing_of_an_answer_is_markup_in_the_page(results):
    study = read_json(results / "study.json")
    shown = gathered(results)
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    for side in shown.answers["tuned"]["mmlu"].values():
        side[0] |= {"answer": hostile, "stated": hostile}
    page = browser.page(study, shown)
    assert "alert(1)" not in page and page.count("<script") == 2
    assert "alert(1)" in str(held(page))
    script = (TEMPLATES / "answers.js").read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval", script)


def test_a_page_holds_no_more_answers_than_a_browser_can(results, monkeypatch):
    monkeypatch.setattr(browser, "MOST", 130)
    study = read_json(results / "study.json")
    study["comparisons"].append({"baseline": "base", "candidate": "other"})
    found = cells.load_cells(study, Results(results))
    for benchmark in ("gsm8k", "mmlu"):
        copy = found["tuned", benchmark]
        found["other", benchmark] = cells.Cell("other", benchmark, copy.score)
    shown = browser.gather(study, Results(results), found)
    assert shown.pairs == [("base", "tuned")] and shown.count == 120
    assert shown.absent == ["base → other: the page holds 130 answers at most"]


def test_every_text_of_the_page_has_its_chinese():
    script = (TEMPLATES / "answers.js").read_text("utf-8")
    page = (TEMPLATES / "answers.html.j2").read_text("utf-8")
    texts = set(re.findall(r'data-text="([^"]+)"', page))
    texts |= set(re.findall(r'\bt\("([^"]+)"\)', script))
    texts |= set(re.findall(r'^  "([^"]+)": ', script, re.M))  # filters
    texts |= set(re.findall(r'^    \["([^"]+)", ', script, re.M))  # facts
    texts |= {"No question is left by these filters.", "No answers are here."}
    assert texts | {"complete", "cut off", "empty", "refused"} == set(ANSWERS_PAGE)
