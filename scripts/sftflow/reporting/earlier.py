"""What is new since an earlier report: scores that changed, appeared or vanished."""

import csv
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record
from sftflow.core.layout import earlier_files
from sftflow.reporting.cells import Cell
from sftflow.reporting.text import NONE, label, percent, signed

Scores = dict[tuple[str, str], float]  # {(subject, benchmark): share}


def scores(cells: Iterable[Cell]) -> list[dict]:
    """What a report keeps of its scores, for a later one to be compared with."""
    return [
        {
            "subject": cell.subject, "benchmark": cell.benchmark, "n": cell.score["n"],
            "score": cell.score["score"], "ci95": cell.score["ci95"],
        }
        for cell in cells
        if cell.usable
    ]  # fmt: skip


def read(place: str | None) -> Scores | None:
    """The scores of an earlier report; UserError where there are none."""
    if place is None:
        return None
    found: Scores = {}
    for file in earlier_files(place):
        found |= of_table(file) if file.suffix == ".csv" else of_record(read_record(file))
    if not found:
        raise UserError(
            f"report.compare_with: {place} holds no scores: name a results folder, its tables/, or "
            "the report/report.json of one"
        )
    return found


def of_record(content: dict) -> Scores:
    """Of a report, or of one score."""
    entries = content.get("scores", [content])
    return {(one["subject"], one["benchmark"]): one["score"] for one in entries if "score" in one}


def of_table(path: Path) -> Scores:
    """Of the table of a suite: the first row of a score file is about the whole benchmark."""
    found: Scores = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            parts = Path(row.get("file") or "").parts
            if len(parts) == 3 and parts[0] == "scores" and row.get("score"):
                found.setdefault((parts[1], Path(parts[2]).stem), float(row["score"]))
    return found


SAME = 1e-9  # of a share
APPEARED, VANISHED, CHANGED = "new", "gone", "changed"


def news(study: dict, before: Scores, cells: Iterable[Cell]) -> pd.DataFrame:
    """One row for each score that is not what it was."""
    now = {(cell.subject, cell.benchmark): cell.score["score"] for cell in cells if cell.usable}
    rows = []
    for subject, benchmark in dict.fromkeys([*now, *before]):
        old, new = before.get((subject, benchmark)), now.get((subject, benchmark))
        change, kind = NONE, APPEARED if old is None else VANISHED
        if old is not None and new is not None:
            if abs(new - old) <= SAME:
                continue
            change, kind = signed(100 * (new - old), 1), CHANGED
        rows.append(
            {
                "Subject": label(study, "subjects", subject),
                "Benchmark": label(study, "benchmarks", benchmark),
                "Earlier": percent(old),
                "Now": percent(new),
                "Change": change,
                "News": kind,
            }
        )
    return pd.DataFrame(rows)
