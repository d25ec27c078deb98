"""What lies in results/: scores by subject and benchmark, and whether they may be used."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from sftflow.core.cli import UserError
from sftflow.core.layout import Results
from sftflow.reporting import stale
from sftflow.reporting.text import MISSING, STALE, label
from sftflow.scoring import stats
from sftflow.scoring.consistent import QUESTION, contradiction


class Mean(NamedTuple):
    """A mean over a suite, bootstrap draws of it, and their interval."""

    score: float
    drawn: np.ndarray
    interval: stats.Interval | None


# {(suite, subject): {"micro" | "macro": its mean}}
Draws = dict[tuple[str, str], dict[str, Mean]]


@dataclass(frozen=True)
class Cell:
    """One subject's result on one benchmark: its score file, or why there is none to use."""

    subject: str
    benchmark: str
    score: dict  # empty where there is none
    state: str = "ok"  # ok, missing or stale
    note: str = ""
    labels: tuple[str, str] = ("", "")  # of subject and benchmark, for people

    @property
    def usable(self) -> bool:
        return self.state == "ok"

    @property
    def path(self) -> str:
        return f"scores/{self.subject}/{self.benchmark}.json"

    @property
    def title(self) -> str:
        return self.labels[1] or self.benchmark


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
            labels = label(study, "subjects", subject), label(study, "benchmarks", benchmark)
            cells[subject, benchmark] = Cell(subject, benchmark, score or {}, state, note, labels)
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
    absent = [f"{cell.title} {cell.state}" for cell in cells if not cell.usable]
    if absent:
        return "incomplete: " + ", ".join(absent)
    metrics = {cell.score["metric"] for cell in cells}
    if len(metrics) > 1:
        return f"no mean over different metrics ({', '.join(sorted(metrics))})"
    return None


@dataclass(frozen=True)
class SuiteItems:
    """The items (N,) of a suite's benchmarks, one after another, as questions (n,) that count once.

    `question` has each item's place among the questions, `copies` each question's number of items,
    `benchmark` each item's place among the benchmarks. `clusters` has the questions' passages, None
    where no two share one. `shared` questions stand in more than one benchmark.
    """

    question: np.ndarray
    copies: np.ndarray
    benchmark: np.ndarray
    clusters: np.ndarray | None
    shared: int

    def together(self, scores: list[np.ndarray]) -> np.ndarray:
        """Item scores by benchmark -> (n,): of a question, the mean over its copies."""
        joined = np.concatenate(scores)
        if len(joined) == len(self.copies):
            return joined
        return np.bincount(self.question, weights=joined) / self.copies


def suite_items(parts: list[dict]) -> SuiteItems:
    """From the `items` of a suite's score files. The same question text is the same question."""
    sizes = [len(part["scores"]) for part in parts]
    benchmark = np.repeat(np.arange(len(parts)), sizes)
    texts = np.frombuffer("".join(part["questions"] for part in parts).encode(), f"S{QUESTION}")
    _, first, question = np.unique(texts, return_index=True, return_inverse=True)
    # in the order in which they come: without copies, items and questions are the same
    place = np.empty(len(first), int)
    place[np.argsort(first)] = np.arange(len(first))
    question = place[question]
    pairs = np.unique(np.column_stack([question, benchmark]), axis=0)
    passages = [
        f"{number} {cluster}"
        for number, part in enumerate(parts)
        for cluster in part["clusters"] or range(len(part["scores"]))
    ]
    clusters = None
    if any(part["clusters"] for part in parts):
        clusters = linked(question, np.unique(passages, return_inverse=True)[1])
    return SuiteItems(
        question,
        np.bincount(question),
        benchmark,
        clusters,
        int((np.bincount(pairs[:, 0]) > 1).sum()),
    )


def linked(question: np.ndarray, passage: np.ndarray) -> np.ndarray:
    """Clusters of questions (n,), given for each item (N,) its question and its passage."""
    n = question.max() + 1
    nodes = n + passage.max() + 1
    edges = coo_array((np.ones(len(question)), (question, n + passage)), shape=(nodes, nodes))
    return connected_components(edges, directed=False)[1][:n]


def suite_draws(study: dict, cells: dict) -> Draws:
    """Means of every subject that has a complete suite.

    Micro is the mean over all questions, each once; macro is over benchmarks. Questions are
    resampled within their benchmark (those of several benchmarks among themselves), the same ones
    for every subject that was asked the same set.
    """
    settings = study["statistics"]
    draws: Draws = {}
    for suite in study["evaluate"]["suites"]:
        names = study["suites"][suite]
        same: dict[tuple, list[str]] = {}
        for subject in study["evaluate"]["subjects"]:
            mine = [cells[subject, name] for name in names]
            if incomplete(mine) is None:
                asked_ = tuple(cell.score["items"]["digest"] for cell in mine)
                same.setdefault(asked_, []).append(subject)
        for group in same.values():
            scores = [
                np.column_stack([item_scores(cells[subject, name].score) for subject in group])
                for name in names
            ]
            layout = suite_items([cells[group[0], name].score["items"] for name in names])
            drawn = stats.bootstrap_means(
                strata(layout, np.concatenate(scores)), settings["bootstrap"], settings["seed"]
            )
            micro = averages(layout.question) @ np.concatenate(scores)
            macro = np.mean([part.mean(axis=0) for part in scores], axis=0)
            over_benchmarks = np.mean([drawn[place] for place in range(len(names))], axis=0)
            for kind, means, resampled in (
                ("micro", [of.mean() for of in micro.T], drawn["micro"]),
                ("macro", macro, over_benchmarks),
            ):
                lines = resampled.T.copy()  # a subject's draws side by side, as they are read
                intervals = stats.percentile_intervals(lines, settings["confidence"])
                for subject, *mean in zip(group, means, lines, intervals, strict=True):
                    draws.setdefault((suite, subject), {})[kind] = Mean(*mean)
    return draws


def sums(index: np.ndarray, groups: int | None = None) -> csr_array:
    """A matrix (groups, N) that adds up what has the same index (N,)."""
    shape = (index.max() + 1 if groups is None else groups, len(index))
    return csr_array((np.ones(len(index)), (index, np.arange(len(index)))), shape=shape)


def averages(index: np.ndarray) -> csr_array:
    return csr_array(sums(index) / np.bincount(index)[:, None])


def strata(layout: SuiteItems, scores: np.ndarray) -> list[stats.Stratum]:
    """Clusters by their benchmark, and those of several together, for scores (N, subjects).

    Each contributes to its benchmarks' means, by their place, and to the mean "micro".
    """
    n = len(layout.copies)
    of_question = np.arange(n) if layout.clusters is None else layout.clusters
    of_item = of_question[layout.question]
    count = of_item.max() + 1
    places = range(layout.benchmark.max() + 1)
    none, several = -1, len(places)
    found = np.full(count, none)
    for place in places:
        here = np.unique(of_item[layout.benchmark == place])
        found[here] = np.where(found[here] == none, place, several)
    once = np.bincount(of_item, minlength=count) == np.bincount(of_question, minlength=count)
    micro = sums(of_question) @ (averages(layout.question) @ scores)
    result = []
    for kind in np.unique(found):
        inside = found == kind
        column = np.cumsum(inside) - 1  # of a cluster, among those inside
        parts: stats.Stratum = []
        for place in places if kind == several else (kind,):
            mine = (layout.benchmark == place) & inside[of_item]
            if mine.any():
                index = column[of_item[mine]]
                add = sums(index, inside.sum())
                parts.append(((place,), add @ scores[mine], add @ np.ones(mine.sum())))
        if kind != several and once[inside].all():
            ((names, totals, sizes),) = parts
            parts = [((*names, "micro"), totals, sizes)]
        else:
            sizes = np.bincount(of_question, minlength=count)[inside]
            parts.append((("micro",), micro[inside], sizes))
        result.append(parts)
    return result


def seed_groups(study: dict) -> dict[str, list[str]]:
    """Runs that differ in their training seed only, by the name they were configured under."""
    groups: dict[str, list[str]] = {}
    for name, run in study["runs"].items():
        groups.setdefault(run.get("group") or name, []).append(name)
    return {group: runs for group, runs in groups.items() if len(runs) > 1}
