"""The search for numbers that stand in no file: it finds them, and knows what is skipped."""

import made_up
import pytest
import report
import tables as program
from sftflow.core import cli
from sftflow.core.jsonio import write_json
from stated_numbers import Known, of_texts, stated, unknown


def test_numbers_are_read_as_a_reader_reads_them():
    page = (
        "## 9.3 Nine\n\n`5`, [3](../x7.json): 1,234.5, +0.10, 0:01:02, 2026-01-02, v1.2.3, 12.3 s"
    )
    assert [(text, value) for _, text, value, _ in stated(page)] == [
        ("3", 3.0), ("1,234.5", 1234.5), ("+0.10", 0.1), ("0:01:02", 62.0), ("12.3", 12.3),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_made_up_number_is_found_in_a_whole_report(tmp_path, monkeypatch):
    study = made_up.write_study(tmp_path, shares={"base": 0.3, "tuned": 0.8})
    made_up.write_records(tmp_path, study)
    write_json(tmp_path / "study.json", study)
    for each in (program, report):
        arguments = ["--results", str(tmp_path), "--settings", str(tmp_path / "study.json")]
        monkeypatch.setattr("sys.argv", ["x.py", *arguments])
        assert cli.run(each.main) == 0
    known, besides = Known(tmp_path), of_texts()
    for page in [*tmp_path.glob("report/*.md"), *tmp_path.glob("tables/*.md")]:
        text = page.read_text(encoding="utf-8")
        assert unknown(text, known, besides) == [], page.name
        assert unknown(text + "\n| MMLU | 71.83 |", known, besides) == ["71.83 in | MMLU | 71.83 |"]
