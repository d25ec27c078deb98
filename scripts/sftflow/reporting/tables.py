"""Every table: its name, and how it is built (root environment only: pandas, scipy).

Everything that the study asks for has its row: what is missing, stale or cannot be compared says so
in its place.
"""

from sftflow.core.layout import Results
from sftflow.reporting import sweeps
from sftflow.reporting.cells import extra_scores
from sftflow.reporting.comparison import comparison_table
from sftflow.reporting.curve import curve_table
from sftflow.reporting.dialogue import dialogue_table
from sftflow.reporting.evidence import Evidence
from sftflow.reporting.records import (
    chat_table,
    data_table,
    inference_table,
    training_table,
)
from sftflow.reporting.suites import suite_table
from sftflow.reporting.text import Table


def build(
    study: dict, results: Results, references: dict, wanted: list[str], workers: int = 0
) -> list[Table]:
    """The tables of these names; scores are read only for the tables that show them, and, for the
    two that show most, beside each other where there are workers."""
    plain = {
        "training": training_table,
        "inference": inference_table,
        "chat": chat_table,
        "data": data_table,
    }
    most = {"comparison", "dialogue"} <= set(wanted)
    found = Evidence(study, results, references, workers if most else 0)
    tables = []
    for name in wanted:
        if name in plain:
            tables.append(plain[name](study, results))
        elif name == "comparison":
            tables.append(comparison_table(study, found.cells, found.draws, found.rows))
            if extra := extra_scores(study, results):
                tables[-1].notes.append(
                    "Scores that lie in results/ but that this config does not ask for, left out: "
                    + ", ".join(extra[:20])
                    + (" …" if len(extra) > 20 else "")
                )
        elif name == "dialogue":
            tables.append(dialogue_table(found.talk, found.claims))
        elif name == "curve":
            tables.append(curve_table(found.curves, found.cells))
        elif name == "sweep":
            made = sweeps.decisions(study, results)
            tables.append(sweeps.sweep_table(study, found.sweeps, found.cells, found.draws, made))
        else:
            tables.append(suite_table(study, name, found.cells, found.draws, references))
    return tables
