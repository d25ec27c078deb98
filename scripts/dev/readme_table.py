"""Print README's table of what the demo changed, from a finished run of the demo.

    uv run python scripts/dev/readme_table.py [results]

Suites only: their verdicts are far from the edge, so that another processor, whose answers differ
in a few places, gives the same ones. tests/workflow/test_demo.py holds README against its own run.
"""

import sys
from pathlib import Path

import pandas as pd

HEADING = (
    "| questions (n) | base | tuned | difference [interval] | fixed / broken | p | verdict |",
    "|---|---|---|---|---|---|---|",
)


def suites(results: Path) -> list[dict]:
    """The comparison's rows that speak of a whole suite, as comparison.csv has them."""
    rows = pd.read_csv(results / "tables/comparison.csv")
    return rows[rows["benchmark"].isna()].to_dict("records")


def line(row: dict) -> str:
    low, high = (f"{100 * row[end]:+.1f}".replace("-", "−") for end in ("ci_low", "ci_high"))
    difference = f"{100 * row['difference']:+.1f}".replace("-", "−")
    p = "< 0.0001" if row["p_holm"] < 1e-4 else f"{row['p_holm']:.2f}"
    return (
        f"| **{row['suite']} ({row['n']:.0f})** | {100 * row['baseline_score']:.1f} "
        f"| {100 * row['candidate_score']:.1f} | {difference} [{low}, {high}] "
        f"| {row['fixed']:.0f} / {row['broken']:.0f} | {p} | {row['verdict']} |"
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1] if sys.argv[1:] else "results")
    print("\n".join([*HEADING, *map(line, suites(folder))]))
