"""Every table: its name, and how it is built (root environment only: pandas, scipy).

Everything that the study asks for has its row: what is missing, stale or cannot be compared says so
in its place.
"""

from sftflow.core.layout import Results
from sftflow.reporting.cells import extra_scores, load_cells, suite_draws
from sftflow.reporting.comparison import comparison_rows, comparison_table
from sftflow.reporting.curve import Curves, curve_table
from sftflow.reporting.dialogue import Compared, dialogue_table, suite_claims
from sftflow.reporting.records import (
    chat_table,
    data_table,
    inference_table,
    training_table,
)
from sftflow.reporting.suites import suite_table
from sftflow.reporting.sweeps import sweep_table
from sftflow.reporting.text import Table


def build(study: dict, results: Results, references: dict, wanted: list[str]) -> list[Table]:
    """The tables of these names; scores are read only for the tables that show them."""
    plain = {
        "training": training_table,
        "inference": inference_table,
        "chat": chat_table,
        "data": data_table,
    }
    scores_wanted = bool(set(wanted) - plain.keys())
    cells = load_cells(study, results) if scores_wanted else {}
    draws = suite_draws(study, cells) if scores_wanted else {}
    compared = comparison_rows(study, cells) if {"comparison", "dialogue"} & set(wanted) else []
    tables = []
    for name in wanted:
        if name in plain:
            tables.append(plain[name](study, results))
        elif name == "comparison":
            tables.append(comparison_table(study, cells, draws, compared))
            if extra := extra_scores(study, results):
                tables[-1].notes.append(
                    "Scores that lie in results/ but that this config does not ask for, left out: "
                    + ", ".join(extra[:20])
                    + (" …" if len(extra) > 20 else "")
                )
        elif name == "dialogue":
            tables.append(dialogue_table(Compared(study, results), suite_claims(compared)))
        elif name == "curve":
            tables.append(curve_table(Curves(study, results), cells))
        elif name == "sweep":
            tables.append(sweep_table(study, results, cells, draws))
        else:
            tables.append(suite_table(study, name, cells, draws, references))
    return tables
