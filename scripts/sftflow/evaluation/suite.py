"""The benchmarks of a suite, asked together."""

from importlib.metadata import version
from pathlib import Path

from sftflow.core import identity, layout
from sftflow.core.cli import UserError
from sftflow.core.manifests import folder_of, verified
from sftflow.evaluation.answers import AnswerStore
from sftflow.evaluation.plans import Plan, finished, guarded, prepare
from sftflow.evaluation.session import Session, ask_all
from sftflow.evaluation.subject import Subject


class Suite:
    """What is asked of a subject; a failing benchmark has its `error` in its plan, and stops no
    other."""

    def __init__(self, subject: Subject, manifests: list[Path]):
        self.subject = subject
        self.file = subject.settings["suite"]
        self.plans = make_plans(subject, manifests)

    def ask(self, session: Session, store: AnswerStore) -> None:
        for plan in self.plans:
            if plan.open:
                guarded(plan, prepare, self.subject.name, store)
        ask_all(session, store, self.plans, f"evaluate {self.subject.name} {self.file}")


def make_plans(subject: Subject, manifests: list[Path]) -> list[Plan]:
    """One plan per benchmark, in the config's order; a finished one has its entry already."""
    fetched = {}
    for path in manifests:
        found = verified(path)
        fetched[found["benchmark"]] = (found, folder_of(path, found))
    plans = []
    for name, benchmark in subject.settings["benchmarks"].items():
        if name not in fetched:
            raise UserError(f"--benchmarks names no manifest of {name}")
        data, folder = fetched[name]
        parts = {
            "weights": subject.weights,
            "data": data["digest"],
            "settings": identity.settings(benchmark, subject.system, version("evalscope")),
            "generation": subject.generation(benchmark["generation"]),
            "backend": subject.backend,
        }
        home = layout.evaluation_folder(subject.name, name, identity.identity(parts))
        plan = Plan(name, benchmark, data, folder, parts, subject.results, home)
        plan.entry = finished(plan)
        plans.append(plan)
    return plans
