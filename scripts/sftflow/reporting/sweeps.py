"""Sweeps: each point of a grid, its seeds as replicates.

The validation loss chooses, and scores play no part in it.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from sftflow.config.expand import said
from sftflow.core.layout import Results
from sftflow.reporting.cells import Cell, Draws, asked
from sftflow.reporting.flags import kinds, training_flags
from sftflow.reporting.suites import cell_text
from sftflow.reporting.text import (
    MISSING,
    NONE,
    Table,
    confidence_text,
    headings,
    label,
    number,
    pick,
    with_interval,
)

CHOSEN = "chosen"
TIED = "within the seeds' spread"
MISFITS = "validation losses of other dialogues or models"


@dataclass(frozen=True)
class Point:
    """One point of a sweep: its place in the grid, and its trainings, one for each seed."""

    sweep: str
    values: dict[str, Any]
    records: dict[str, dict]  # training.json by run; {} where it is not trained yet
    measured_on: tuple  # what its validation loss was measured on: only equal ones compare

    @property
    def losses(self) -> list[float]:
        return self.known("validation_loss")

    def known(self, key: str) -> list[float]:
        found = (record.get(key) for record in self.records.values())
        return [value for value in found if value is not None]


def points(study: dict, results: Results) -> dict[str, list[Point]]:
    """The points of each sweep, in the order of its grid."""
    runs: dict[tuple[str, str], list[str]] = {}
    for name, run in study["runs"].items():
        if run["sweep"]:
            runs.setdefault((run["sweep"], run["group"]), []).append(name)
    found: dict[str, list[Point]] = {}
    for (sweep, _), names in runs.items():
        records = {name: results.read(f"runs/{name}/training.json") or {} for name in names}
        values = study["runs"][names[0]]["point"]
        point = Point(sweep, values, records, measured_on(study, results, names[0]))
        found.setdefault(sweep, []).append(point)
    return found


def measured_on(study: dict, results: Results, name: str) -> tuple:
    """Losses per token compare for one model on the same validation rows only."""
    run, receipt = study["runs"][name], results.read(f"runs/{name}/receipt.json") or {}
    files = {entry["path"]: entry["sha256"] for entry in receipt.get("files", [])}
    cut = run["training"]["max_length"] if pick(receipt, "truncated.count") else None
    return run["model"], run["dataset"], files.get("validation.jsonl"), cut


def ordered(made: list[Point]) -> list[Point]:
    """The least validation loss first, none last; points whose losses compare stay together."""
    kinds = list(dict.fromkeys(point.measured_on for point in made))

    def place(point: Point) -> tuple:
        losses = point.losses
        return kinds.index(point.measured_on), not losses, fmean(losses) if losses else 0

    return sorted(made, key=place)


def choice(made: list[Point]) -> list[str]:
    """What the validation loss says of each ordered point: CHOSEN, TIED with it, or nothing."""
    alike = Counter(point.measured_on for point in made if point.losses)
    best: dict[tuple, Point] = {}
    words = []
    for point in made:
        if not point.losses or alike[point.measured_on] < 2:
            words.append("")
        elif point.measured_on not in best:
            best[point.measured_on] = point
            words.append(CHOSEN)
        else:
            words.append(TIED if tied(best[point.measured_on].losses, point.losses) else "")
    return words


def tied(least: list[float], other: list[float]) -> bool:
    """Whether two means over seeds differ by less than two standard errors of their difference."""
    if min(len(least), len(other)) < 2:
        return False
    error = (stdev(least) ** 2 / len(least) + stdev(other) ** 2 / len(other)) ** 0.5
    return fmean(other) - fmean(least) < 2 * error


def sweep_table(study: dict, found: dict[str, list[Point]], cells: dict, draws: Draws) -> Table:
    """One section for each sweep, one row for each point; the .csv has one row for each run."""
    found = {sweep: ordered(made) for sweep, made in found.items()}
    words = {sweep: choice(made) for sweep, made in found.items()}
    return Table(
        "sweep",
        "Sweeps",
        "Each point of a grid, the least validation loss first: it chooses, and scores play no "
        f"part in it. Accuracy in percent, with {confidence_text(study)} interval for one "
        "training, as mean ± SD for several seeds."
        if found
        else "The config defines no sweep.",
        [(sweep, frame(study, made, words[sweep], cells, draws)) for sweep, made in found.items()],
        pd.DataFrame(
            row
            for sweep, made in found.items()
            for point, word in zip(made, words[sweep], strict=True)
            for row in rows_of(study, point, word, cells, draws)
        ),
        [*notes(found), *NOTES] if found else [],
    )


NOTES = [
    "SD: between seeds, of the trainings that are there. A point is within the seeds' spread where "
    "its mean differs from the chosen one's by less than two standard errors; with one seed nobody "
    "can tell.",
    "Suite means are micro means, over all questions of the suite.",
    "The best of many points looks better than it is: confirm it on other questions. The "
    "tests in the table of comparisons are adjusted over the points of a sweep.",
]


def notes(found: dict[str, list[Point]]) -> list[str]:
    """Sweeps whose validation losses do not all compare."""
    return [
        f"{sweep}: {MISFITS} do not compare. Points that do stand together, and one is chosen "
        "among them; a point by itself is not judged. The table of the dialogue has the likelihood "
        "of the same held-out dialogues."
        for sweep, made in found.items()
        if len({point.measured_on for point in made}) > 1
    ]


def frame(
    study: dict, made: list[Point], words: list[str], cells: dict, draws: Draws
) -> pd.DataFrame:
    suites, columns = study["evaluate"]["suites"], headings(study, "benchmarks", asked(study))
    rows = []
    for point, word in zip(made, words, strict=True):
        trained, names = len(point.losses), list(point.records)
        flags = [training_flags(*item) for item in point.records.items() if item[1]]
        rows.append(
            {
                **{key: said(value) for key, value in point.values.items()},
                "Chosen": word or NONE,
                "Validation loss": spread(point.losses, 4) if trained else MISSING,
                "Final loss": spread(point.known("final_loss"), 4),
                "Seeds": f"{trained} of {len(names)}" if trained < len(names) else f"{trained}",
                "Steps": number(max(point.known("steps"), default=None)),
                "Flags": kinds(chain.from_iterable(flags)) or NONE,
                **{f"Suite {s}": suite_text(study, s, names, draws) for s in suites},
                **{columns[b]: score_text([cells.get((n, b)) for n in names]) for b in columns},
                "Run": label(study, "runs", names[0])
                if len(names) == 1
                else study["runs"][names[0]]["group"],
            }
        )
    return pd.DataFrame(rows)


def spread(values: list[float], digits: int) -> str:
    """`1.2345 ± 0.0123`: mean and standard deviation between seeds."""
    if not values:
        return NONE
    deviation = f" ± {number(stdev(values), digits)}" if len(values) > 1 else ""
    return number(fmean(values), digits) + deviation


def suite_text(study: dict, suite: str, names: list[str], draws: Draws) -> str:
    found = [draws[suite, name]["micro"] for name in names if (suite, name) in draws]
    if len(names) > 1:
        return spread([100 * mean.score for mean in found], 1)
    return with_interval(found[0].score, found[0].interval) if found else NONE


def score_text(found: list[Cell | None]) -> str:
    there = [cell for cell in found if cell]
    if not there:
        return "not evaluated"
    if len(found) == 1:
        return cell_text(there[0])
    scores = [100 * cell.score["score"] for cell in there if cell.usable]
    few = f" ({len(scores)} of {len(found)})" if 0 < len(scores) < len(found) else ""
    return spread(scores, 1) + few if scores else MISSING


def rows_of(study: dict, point: Point, word: str, cells: dict, draws: Draws) -> list[dict]:
    """The unrounded numbers of each training of a point."""
    keys = ("steps", "final_loss", "validation_loss")
    rows = []
    for name, record in point.records.items():
        found = {b: cells.get((name, b)) for b in asked(study)}
        means = {s: draws.get((s, name)) for s in study["evaluate"]["suites"]}
        rows.append(
            {
                "sweep": point.sweep,
                "run": name,
                **{key: said(value) for key, value in point.values.items()},
                "seed": study["runs"][name]["training"]["seed"],
                "choice": word or None,
                **{key: record.get(key) for key in keys},
                **{
                    f"suite {s}": mean["micro"].score if mean else None for s, mean in means.items()
                },
                **{b: c.score["score"] if c and c.usable else None for b, c in found.items()},
            }
        )
    return rows


def chosen(found: dict[str, list[Point]]) -> list[dict]:
    """For the report: {sweep, point, loss, of, rivals} of each chosen point.

    `of` points it was chosen from, and `rivals` nobody can tell from it.
    """
    told = []
    for sweep, made in found.items():
        made = ordered(made)
        pairs = list(zip(made, choice(made), strict=True))
        for point, word in pairs:
            if word == CHOSEN:
                alike = [word for p, word in pairs if p.measured_on == point.measured_on]
                values = (f"{key} {said(value)}" for key, value in point.values.items())
                told.append(
                    {
                        "sweep": sweep,
                        "point": ", ".join(values),
                        "loss": spread(point.losses, 4),
                        "of": len(alike),
                        "rivals": alike.count(TIED),
                    }
                )
    return told


def drawn(found: dict[str, list[Point]]) -> dict[str, list[dict]]:
    """For the figure: {sweep: [{values, losses}]}; its name says where not all losses compare."""
    return {
        sweep + (" (not all comparable)" if len({p.measured_on for p in made}) > 1 else ""): [
            {"values": point.values, "losses": point.losses} for point in made if point.losses
        ]
        for sweep, made in found.items()
    }
