"""Sweeps: each point of a grid, its seeds as replicates.

The validation loss chooses, and scores play no part in it.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from sftflow.config import halving
from sftflow.config.expand import said
from sftflow.config.jobs import trainings
from sftflow.core.layout import PATHS, Results
from sftflow.reporting.cells import Cell, Draws, asked
from sftflow.reporting.flags import kinds, training_flags
from sftflow.reporting.suites import cell_text
from sftflow.reporting.text import (
    MISSING,
    NONE,
    Table,
    confidence_text,
    headings,
    number,
    pick,
    with_interval,
)

CHOSEN = "chosen"
LEFT_OUT = "left out"
DIVERGED = "diverged"
TIED = "within the seeds' spread"
MISFITS = "validation losses of other dialogues or models"


@dataclass(frozen=True)
class Point:
    """One point of a sweep: its place in the grid, and its trainings, one for each seed."""

    sweep: str
    values: dict[str, Any]
    records: dict[str, dict]  # training.json by run; {} where it is not trained yet
    measured_on: tuple  # what its validation loss was measured on: only equal ones compare
    rungs: dict[str, dict]  # of a point that was left out, where it stopped; then no records

    @property
    def losses(self) -> list[float]:
        return self.known("validation_loss")

    def known(self, key: str) -> list[float]:
        found = (record.get(key) for record in (self.rungs or self.records).values())
        return [value for value in found if value is not None]


def points(study: dict, results: Results) -> dict[str, list[Point]]:
    """The points of each sweep, in the order of its grid."""
    runs: dict[tuple[str, str], list[str]] = {}
    for name, run in trainings(study).items():
        if run["sweep"]:
            runs.setdefault((run["sweep"], run["group"]), []).append(name)
    left = {
        point["point"]: point["rungs"]
        for decision in decisions(study, results).values()
        for point in decision["stopped"]
    }
    found: dict[str, list[Point]] = {}
    for (sweep, group), names in runs.items():
        out = left.get(group, {})
        records = {
            name: {} if out else results.read(PATHS.training, run=name) or {} for name in names
        }
        values = trainings(study)[names[0]]["point"]
        point = Point(sweep, values, records, measured_on(study, results, names[0]), out)
        found.setdefault(sweep, []).append(point)
    return found


def decisions(study: dict, results: Results) -> dict[str, dict]:
    """Which points of each sweep with halving go on; none of one that is not decided."""
    made = {sweep: halving.decision(study, results, sweep) for sweep in halving.halved(study)}
    return {sweep: decision for sweep, decision in made.items() if decision}


def measured_on(study: dict, results: Results, name: str) -> tuple:
    """Losses per token compare for one model on the same validation rows only."""
    run, receipt = trainings(study)[name], results.read(PATHS.run_receipt, run=name) or {}
    files = {entry["path"]: entry["sha256"] for entry in receipt.get("files", [])}
    cut = run["training"]["max_length"] if pick(receipt, "truncated.count") else None
    return run["model"], run["dataset"], files.get("validation.jsonl"), cut


def ordered(made: list[Point]) -> list[Point]:
    """The least validation loss first, none last; points whose losses compare stay together, and
    those that were left out come after them, the last one first."""
    kinds = list(dict.fromkeys(point.measured_on for point in made))

    def place(point: Point) -> tuple:
        losses, out = point.losses, [rung["part"] for rung in point.rungs.values()]
        order = out[:1], not losses, fmean(losses) if losses else 0
        return kinds.index(point.measured_on), *order

    return sorted(made, key=place)


def choice(made: list[Point]) -> list[str]:
    """What the validation loss says of each ordered point: CHOSEN, TIED with it, LEFT_OUT by its
    sweep's halving, or nothing."""
    alike = Counter(point.measured_on for point in made if point.losses or point.rungs)
    best: dict[tuple, Point] = {}
    words = []
    for point in made:
        if point.rungs:
            words.append(LEFT_OUT)
        elif not point.losses or alike[point.measured_on] < 2:
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


def sweep_table(
    study: dict, found: dict[str, list[Point]], cells: dict, draws: Draws, made: dict[str, dict]
) -> Table:
    """One section for each sweep, one row for each point; the .csv has one row for each run.
    made: the decisions of sweeps with halving."""
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
        [*halvings(study, made), *notes(found), *NOTES] if found else [],
    )


NOTES = [
    "SD: between seeds, of the trainings that are there. A point is within the seeds' spread where "
    "its mean differs from the chosen one's by less than two standard errors; with one seed nobody "
    "can tell.",
    "Suite means are micro means, over all questions of the suite.",
    "The best of many points looks better than it is: confirm it on other questions. The "
    "tests in the table of comparisons are adjusted over the points of a sweep.",
]


def halvings(study: dict, made: dict[str, dict]) -> list[str]:
    """How the halving of each sweep went."""
    told = []
    for sweep in halving.halved(study):
        if sweep not in made:
            told.append(f"{sweep}: which points go on is not decided yet.")
            continue
        rungs = [
            f"after 1/{rung['part']} of the steps {rung['on']} of {rung['of']} points went on"
            for rung in halving.passed(made[sweep])
        ]
        told.append(
            f"{sweep}: successive halving by validation loss: {', '.join(rungs)}. A point that was "
            "left out stands with its loss at the step where it stopped, which does not compare "
            "with losses at the end; it was neither served nor evaluated."
        )
        told += [
            f"{run}: {rung['why']}"
            for point in made[sweep]["stopped"]
            for run, rung in point["rungs"].items()
            if "why" in rung
        ]
    return told


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
        first = trainings(study)[names[0]]
        flags = [training_flags(*item) for item in point.records.items() if item[1]]
        rows.append(
            {
                **{key: said(value) for key, value in point.values.items()},
                "Chosen": word or NONE,
                "Validation loss": loss_text(point),
                "Final loss": spread(point.known("final_loss"), 4),
                "Seeds": f"{trained} of {len(names)}" if trained < len(names) else f"{trained}",
                "Steps": steps_text(point),
                "Flags": kinds(chain.from_iterable(flags)) or NONE,
                **{f"Suite {s}": suite_text(study, s, names, draws) for s in suites},
                **{columns[b]: score_text([cells.get((n, b)) for n in names]) for b in columns},
                "Run": first["label"] if len(names) == 1 else first["group"],
            }
        )
    return pd.DataFrame(rows)


def loss_text(point: Point) -> str:
    if len(point.losses) < len(point.rungs):
        return DIVERGED
    return spread(point.losses, 4) if point.losses else MISSING


def steps_text(point: Point) -> str:
    """Of a point that was left out: `95 of 375`."""
    steps = number(max(point.known("steps"), default=None))
    return f"{number(max(point.known('step')))} of {steps}" if point.rungs else steps


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
    """The unrounded numbers of each training of a point; of one that was left out, so far."""
    keys = ("steps", "final_loss", "validation_loss")
    stopped = {name: rung | {"steps": rung["step"]} for name, rung in point.rungs.items()}
    rows = []
    for name, record in (stopped or point.records).items():
        found = {b: cells.get((name, b)) for b in asked(study)}
        means = {s: draws.get((s, name)) for s in study["evaluate"]["suites"]}
        rows.append(
            {
                "sweep": point.sweep,
                "run": name,
                **{key: said(value) for key, value in point.values.items()},
                "seed": trainings(study)[name]["training"]["seed"],
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
    """For the report: {sweep, point, loss, of, left_out, rivals} of each chosen point.

    `of` points it was chosen from, some of them `left_out`, and `rivals` nobody can tell from it.
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
                        "left_out": alike.count(LEFT_OUT),
                        "rivals": alike.count(TIED),
                    }
                )
    return told


def drawn(found: dict[str, list[Point]]) -> dict[str, list[dict]]:
    """For the figure: {sweep: [{values, losses}]}; its name says where not all losses compare."""
    return {
        sweep + (" (not all comparable)" if len({p.measured_on for p in made}) > 1 else ""): [
            {"values": point.values, "losses": point.losses}
            for point in made
            if point.losses and not point.rungs
        ]
        for sweep, made in found.items()
    }
