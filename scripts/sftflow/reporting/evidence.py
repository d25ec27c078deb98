"""All that there is to say of a study, each part read and worked out once: what tables, report and
the summary in the terminal share; and every flag."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import chain

from sftflow.core import process
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import cells as reading
from sftflow.reporting.comparison import comparison_flags, comparison_rows
from sftflow.reporting.curve import Curves, curve_flags
from sftflow.reporting.dialogue import Claims, Compared, dialogue_flags, suite_claims
from sftflow.reporting.flags import Flag, in_order, training_flags
from sftflow.reporting.records import contamination_flags, dropped_flags, served_flags
from sftflow.reporting.suites import reference_for, score_flags
from sftflow.reporting.sweeps import Point, points
from sftflow.reporting.text import MISSING, label


class Evidence:
    """Parts are made when they are asked for first; with `workers`, what most subjects have is made
    at once, and beside each other. `references`: schema.references()."""

    def __init__(self, study: dict, results: Results, references: dict, workers: int = 0):
        self.study, self.results, self.references = study, results, references
        if workers:
            with self._beside("talk"):
                self.cells  # noqa: B018
                with self._beside("draws"):
                    self.rows  # noqa: B018

    @contextmanager
    def _beside(self, part: str) -> Iterator[None]:
        """Make a part in another process meanwhile."""
        with process.beside(self.__getattribute__, [part], 1) as made:
            yield
            (self.__dict__[part],) = made()

    @cached_property
    def cells(self) -> dict[tuple[str, str], reading.Cell]:
        return reading.load_cells(self.study, self.results)

    @cached_property
    def draws(self) -> reading.Draws:
        return reading.suite_draws(self.study, self.cells)

    @cached_property
    def rows(self) -> list[dict]:
        """Of the comparison."""
        return comparison_rows(self.study, self.cells)

    @cached_property
    def claims(self) -> Claims:
        return suite_claims(self.rows)

    @cached_property
    def talk(self) -> Compared:
        return Compared(self.study, self.results)

    @cached_property
    def curves(self) -> Curves:
        return Curves(self.study, self.results)

    @cached_property
    def sweeps(self) -> dict[str, list[Point]]:
        return points(self.study, self.results)

    @cached_property
    def training(self) -> dict[str, dict]:
        """training.json by run, of those that are trained."""
        found = ((run, self.results.read(PATHS.training, run=run)) for run in self.study["runs"])
        return {run: record for run, record in found if record}

    @cached_property
    def flags(self) -> list[Flag]:
        """Every flag, what matters most first."""
        return in_order(
            chain(
                *(training_flags(*item) for item in self.training.items()),
                curve_flags(self.curves),
                dialogue_flags(self.talk),
                comparison_flags(self.study, self.rows),
                served_flags(self.study, self.results),
                contamination_flags(self.study, self.results),
                dropped_flags(self.study, self.results),
                cell_flags(self.study, self.cells, self.references),
                stale_flags(self.talk, self.curves),
            )
        )


def cell_flags(study: dict, cells: dict, references: dict) -> Iterator[Flag]:
    """What is wrong with a score, or that there is none to use."""
    for cell in cells.values():
        name = label(study, "benchmarks", cell.benchmark)
        if cell.usable:
            yield from score_flags(study, cell, reference_for(study, references, cell))
        elif cell.state == MISSING:
            yield Flag("missing", cell.subject, {"benchmark": name})
        else:
            changes = cell.note.removeprefix("stale: ")
            yield Flag("stale", cell.subject, {"what": name, "changes": changes})


def stale_flags(talk: Compared, curves: Curves) -> Iterator[Flag]:
    for path, why in sorted((talk.records.stale | talk.judged.stale | curves.stale).items()):
        yield Flag("stale", path.split("/")[1], {"what": path, "changes": why})
