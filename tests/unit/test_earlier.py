"""What is new since an earlier report: from its results, its tables, or what it kept of itself."""

import shutil

import made_up
import pytest
from sftflow.core.cli import UserError
from sftflow.core.jsonio import write_record
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import earlier, tables, writing
from sftflow.reporting.cells import load_cells


@pytest.fixture
def reports(tmp_path):
    """(study, folder of the earlier one, cells of the later one)."""
    before, now = tmp_path / "before", tmp_path / "now"
    study = made_up.write_study(before, shares={"base": 0.3, "tuned": 0.6})
    made_up.write_records(before, study)
    for table in tables.build(study, Results(before), {}, study["evaluate"]["suites"]):
        writing.write(table, Results(before))
    cells = load_cells(study, Results(before)).values()
    write_record(Results(before).path(PATHS.record), {"scores": earlier.scores(cells)})
    made_up.write_study(now, shares={"base": 0.3, "tuned": 0.9})
    made_up.write_records(now, study)
    (now / "scores/base/gsm8k.json").unlink()
    return study, before, list(load_cells(study, Results(now)).values())


@pytest.mark.parametrize("what", ["results", "tables", "report/report.json"])
def test_each_form_of_an_earlier_report_tells_the_same(reports, what):
    study, before, cells = reports
    if what != "results":
        shutil.rmtree(before / "scores")
    found = earlier.news(study, earlier.read(str(before / what.removeprefix("results"))), cells)
    rows = {(row["Subject"], row["Benchmark"]): row for row in found.to_dict("records")}
    assert set(rows) == {("Base 1B", "GSM8K"), ("tuned", "GSM8K"), ("tuned", "MMLU")}
    gone = rows["Base 1B", "GSM8K"]
    assert (gone["News"], gone["Now"]) == (earlier.VANISHED, "—")
    row = rows["tuned", "MMLU"]
    assert row["News"] == earlier.CHANGED
    assert float(row["Change"]) == pytest.approx(float(row["Now"]) - float(row["Earlier"]), abs=0.1)


def test_what_holds_no_scores_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no scores"):
        earlier.read(str(tmp_path))
    assert earlier.read(None) is None


def test_new_scores_are_new(reports):
    study, _, cells = reports
    found = earlier.news(study, {}, cells)
    assert set(found["News"]) == {earlier.APPEARED} and len(found) == 3
