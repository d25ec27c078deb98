"""What lies in results/: scores by subject and benchmark, and whether they may be used."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from sftflow.core.cli import UserError
from sftflow.core.layout import Results
from sftflow.reporting import stale
from sftflow.reporting.text import MISSING, STALE, label
from sftflow.scoring import stats
from sftflow.scoring.consistent import contradiction

# {(suite, subject): {"micro" | "macro": (mean, bootstrap draws of it)}}
Draws = dict[tuple[str, str], dict[str, tuple[float, np.ndarray]]]


@dataclass(frozen=True)
class Cell:
    """One subject's result on one benchmark: its score file, or why there is none to use."""

    subject: str
    benchmark: str
    score: dict  # empty where there is none
    state: str = "ok"  # ok, missing or stale
    note: str = ""

    @property
    def usable(self) -> bool:
        return self.state == "ok"

    @property
    def path(self) -> str:
        return f"scores/{self.subject}/{self.benchmark}.json"


def asked(study: dict) -> list[str]:
    """Every benchmark that is evaluated, in the order of the suites."""
    return [name for suite in study["evaluate"]["suites"] for name in study["suites"][suite]]


def load_cells(study: dict, results: Results) -> dict[tuple[str, str], Cell]:
    """Every cell that the study asks for, by (subject, benchmark)."""
    changes = stale.checker(study, results.read)
    cells = {}
    for benchmark in asked(study):
        for subject in study["evaluate"]["subjects"]:
            score = read_score(results, f"scores/{subject}/{benchmark}.json")
            state, note = "ok", ""
            if score is None:
                state, note = MISSING, "no score file"
            elif changed := changes(subject, benchmark, score):
                state, note = STALE, "stale: " + "; ".join(changed)
            cells[subject, benchmark] = Cell(subject, benchmark, score or {}, state, note)
    return cells


def read_score(results: Results, path: str) -> dict | None:
    """A score file that agrees with its own items; None where there is none."""
    score = results.read(path)
    if score and (found := contradiction(score)):
        raise UserError(
            f"{results.folder / path} contradicts itself: {found}. Delete it, and it is made again"
        )
    return score


def extra_scores(study: dict, results: Results) -> list[str]:
    """Score files that lie there but that the study does not ask for: named, never mixed in."""
    wanted = {
        f"scores/{subject}/{benchmark}.json"
        for benchmark in asked(study)
        for subject in study["evaluate"]["subjects"]
    }
    found = (
        path.relative_to(results.folder).as_posix()
        for path in results.folder.glob("scores/*/*.json")
    )
    return sorted(set(found) - wanted)


def item_scores(score: dict) -> np.ndarray:
    """Scores of a score file's items (n,), in the order of their keys."""
    scores = score["items"]["scores"]
    if isinstance(scores, str):
        return np.frombuffer(scores.encode(), np.uint8).astype(float) - ord("0")
    return np.asarray(scores, float)


def measured(study: dict, benchmark: str, cells: Iterable[Cell | None]) -> str:
    """The benchmark's label, with the metric where that is not accuracy."""
    metrics = {cell.score["metric"] for cell in cells if cell and cell.score} - {"accuracy"}
    name = label(study, "benchmarks", benchmark)
    return f"{name} ({', '.join(sorted(metrics))})" if metrics else name


def incomplete(cells: list[Cell]) -> str | None:
    """Why no mean may be taken over these cells; None if it may."""
    absent = [f"{cell.benchmark} {cell.state}" for cell in cells if not cell.usable]
    if absent:
        return "incomplete: " + ", ".join(absent)
    metrics = {cell.score["metric"] for cell in cells}
    if len(metrics) > 1:
        return f"no mean over different metrics ({', '.join(sorted(metrics))})"
    return None


def suite_draws(study: dict, cells: dict) -> Draws:
    """Means of every subject that has a complete suite.

    Micro is the mean over all questions, macro over benchmarks; questions are resampled within
    their benchmark, the same ones for every subject that was asked the same set.
    """
    settings = study["statistics"]
    draws = {}
    for suite in study["evaluate"]["suites"]:
        names = study["suites"][suite]
        complete = [
            subject
            for subject in study["evaluate"]["subjects"]
            if incomplete([cells[subject, name] for name in names]) is None
        ]
        parts: dict[str, list[tuple[int, float, np.ndarray]]] = {s: [] for s in complete}
        for place, name in enumerate(names):
            same: dict[str, list[str]] = {}
            for subject in complete:
                same.setdefault(cells[subject, name].score["items"]["digest"], []).append(subject)
            for group in same.values():
                items = [cells[subject, name].score["items"] for subject in group]
                means = stats.bootstrap_means(
                    np.column_stack([item_scores(cells[s, name].score) for s in group]),
                    items[0]["clusters"],
                    settings["bootstrap"],
                    [settings["seed"], place],
                )
                for subject, column in zip(group, means.T, strict=True):
                    score = cells[subject, name].score
                    parts[subject].append((score["n"], score["score"], column))
        for subject, found in parts.items():
            sizes, scores, columns = (np.array(values) for values in zip(*found, strict=True))
            draws[suite, subject] = {
                "micro": (np.average(scores, weights=sizes), np.average(columns, 0, sizes)),
                "macro": (scores.mean(), columns.mean(axis=0)),
            }
    return draws


def seed_groups(study: dict) -> dict[str, list[str]]:
    """Runs that differ in their training seed only, by the name they were configured under."""
    groups: dict[str, list[str]] = {}
    for name, run in study["runs"].items():
        groups.setdefault(run.get("group") or name, []).append(name)
    return {group: runs for group, runs in groups.items() if len(runs) > 1}
