"""Parts of the report: pictures, and what is said of a model. The whole: test_tables.py."""

import re
from types import SimpleNamespace

import made_up
import pandas as pd
import pytest
import report as program
from sftflow.core.jsonio import write_record
from sftflow.core.layout import Results
from sftflow.core.spans import merged
from sftflow.reporting import figures
from sftflow.reporting.chinese import translate
from sftflow.reporting.report import (
    collect,
    draw,
    history_frame,
    lengths_once,
    model_row,
    provenance,
)

TURNS = {"talks": {"histogram": [[2, 60], [3, 0], [4, 40]]}}
TOKENS = {"tuned": {"histogram": [[32, 10], [48, 70], [64, 20]]}}


def test_lengths_are_shown_in_turns_and_in_tokens():
    picture = figures.token_lengths(TOKENS, TURNS)
    for text in ("Turns per dialogue", "Tokens per dialogue", "talks", "tuned"):
        assert f">{text}</text>" in picture.svg()
    assert picture.svg() == picture.svg() and picture.png() == picture.png()


def test_runs_of_one_dataset_share_a_histogram():
    """Runs trained on the same lengths are one line; of another model's tokenizer a second."""
    runs = {name: {"dataset": "talks", "label": None} for name in ("a", "b", "c")}
    study = {"runs": runs, "datasets": {"talks": {"label": "Talks"}}}
    same = {"histogram": [[32, 10]]}
    assert lengths_once(study, dict(a=same, b=same, c=same)) == {"Talks": same}
    other = {"histogram": [[48, 10]]}
    assert lengths_once(study, dict(a=same, b=same, c=other)) == {
        "Talks (a)": same,
        "Talks (c)": other,
    }


def test_lines_are_told_apart_in_grey():
    """By dashes and markers, not by colour alone."""
    curve = {"step": [1, 2], "loss": [2.0, 1.0], "learning_rate": [1e-4, 0.0]}
    checks = {"step": [0, 2], "loss": [2.0, 1.5]}
    runs = {name: {"curve": curve, "validation_curve": checks} for name in "abc"}
    picture = re.sub("#[0-9a-f]{6}", "grey", figures.loss(runs).svg())
    dashes = set(re.findall(r"stroke-dasharray: [\d., ]+", picture))
    assert len(dashes) == 2  # and one without
    assert len(set(re.findall(r'<path id="m\w+" d="([^"]+)"', picture))) >= 3


def test_no_receipts_yet_is_said():
    assert figures.token_lengths({}, {}).svg().count("no data yet") == 2


@pytest.mark.slow
def test_a_png_without_a_font_for_its_labels_says_so(tmp_path, monkeypatch):
    """An SVG leaves its glyphs to the reader's fonts; a PNG holds what this machine could draw."""
    made = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, made)
    results = Results(tmp_path)
    found = collect(made, results)
    monkeypatch.setattr(figures, "chinese_font", lambda: None)
    program.write_figures(made, found, results, "zh")
    assert "学习率" in (tmp_path / "figures/learning_rate.zh.svg").read_text("utf-8")
    english = draw(made, found, "en")["learning_rate"]
    drawn = (tmp_path / "figures/learning_rate.zh.png").read_bytes()
    assert drawn == english.png(program.NO_FONT) != english.png()


def test_foreign_code_is_said_in_both_languages(tmp_path):
    study = {"models": {"m": {"label": None, "source": "x/m"}}}
    for foreign in (True, False):
        write_record(tmp_path / "models/m/manifest.json", {"remote_code": foreign})
        row = pd.DataFrame([model_row(study, Results(tmp_path), "m")])
        for language in ("en", "zh"):
            shown = translate(row, language).to_csv()
            assert ("allow_remote_code: true" in shown) == foreign
            assert ("运行模型自带的代码" in shown) == (foreign and language == "zh")


def scored(subject: str, *spans: tuple[float, float], **more) -> SimpleNamespace:
    made = {
        "started": "2026-01-01T00:00:00+00:00", "git": None, "hardware": {"cpu": "c", "gpus": []},
        "seconds": sum(end - begin for begin, end in spans), "spans": [list(s) for s in spans],
    }  # fmt: skip
    return SimpleNamespace(subject=subject, score={"provenance": made | more})


def test_answering_counts_a_second_once_however_many_benchmarks_share_it():
    cells = {
        1: scored("base", (0.0, 10.0)),
        2: scored("base", (5.0, 12.0), (100.0, 103.0)),  # asked again, for more questions
        3: scored("base", (101.0, 102.0)),
        4: scored("tuned", (5.0, 9.0)),  # a server of its own
    }
    assert provenance(cells)["seconds"] == 12 + 3 + 4


def test_answering_of_scores_without_spans_goes_by_start_and_length():
    cells = {
        1: scored("base", seconds=10.0, spans=None),
        2: scored("base", seconds=4.0, spans=None),
    }
    assert provenance(cells)["seconds"] == 10


def test_spans():
    assert merged([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert merged([(5, 6), (0, 2), (1, 3), (3, 4)], pause=1) == [(0, 6)]
    assert merged([]) == []


def test_thick_line_of_the_loss_ends_at_the_final_loss():
    assert figures.running_mean([4.0, 2.0, 3.0, 1.0], [1, 1, 1, 3], 2) == [4.0, 3.0, 2.5, 1.5]


def test_a_forest_of_many_pairs_fits_a_page_and_says_what_it_leaves_out():
    rows = [
        {"pair": f"run {i} − base", "name": name, "suite": name == "all", "difference": 0.1,
         "ci_low": 0.0, "ci_high": 0.2, "verdict": "better" if i > 90 else "undecided"}
        for i in range(100) for name in ("all", "mmlu")
    ]  # fmt: skip
    picture = figures.differences(rows)
    assert picture.height < 13
    drawn = re.findall(">([^<>]+)</text>", picture.svg())
    assert drawn.count("all") == 20 and "What changed (20 of 200)" in drawn
    assert "run 99 − base" in drawn and "mmlu" not in drawn
    cut = figures.differences([rows[182] | {"name": "again"}, *rows]).svg()
    assert len(re.findall("− base</text>", cut)) == cut.count(">all</text>"), "a pair without a row"


def test_many_subjects_of_one_day_are_counted():
    """A line of the change log that names 1,000 subjects is 9,000 characters wide."""
    cells = {}
    for place in range(1000):
        cell = scored(f"run{place:04}", (0, 1))
        cell.labels = (f"run{place:04}", "MMLU")
        cells[place] = cell
    few = dict(list(cells.items())[:2])
    assert list(history_frame({}, few)["Subject"]) == ["run0000, run0001"]
    (told,) = history_frame({}, cells)["Subject"]
    assert told.startswith("run0000, run0001") and told.endswith("… (1,000)") and len(told) < 100
