"""What a session asks: one plan for each benchmark. Who answers is of no concern here."""

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftflow.core import identity, space
from sftflow.core.cli import UserError
from sftflow.core.jsonio import file_digest, read_json
from sftflow.evaluation.answers import AnswerStore
from sftflow.evaluation.samples import check_counts


@dataclass
class Plan:
    """A benchmark on its way: what is asked, what is answered, what has gone wrong."""

    name: str
    benchmark: dict
    manifest: dict
    data: Path
    parts: dict
    results: Path
    home: str  # its folder, relative to `results`
    entry: dict | None = None  # the finished benchmark, as it stands in the session's manifest
    config: Any = None
    questions: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    error: str | None = None

    @property
    def identity(self) -> str:
        return identity.identity(self.parts)

    @property
    def folder(self) -> Path:
        return self.results / self.home

    @property
    def open(self) -> bool:
        """Neither finished nor failed."""
        return self.entry is None and self.error is None


@dataclass
class Wanted:
    """A request that has no answer, and the plans that wait for it."""

    key: str
    n: int
    request: dict
    plans: list[Plan]


def finished(plan: Plan) -> dict | None:
    """The entry of a benchmark that has been through, when its records are still what they were."""
    path = plan.folder / "entry.json"
    if not path.exists():
        return None
    entry = read_json(path)
    samples = plan.results / entry["samples"]
    whole = samples.exists() and file_digest(samples) == entry["samples_sha256"]
    return entry if whole and entry["identity"] == plan.identity else None


def guarded(plan: Plan, step, *args) -> None:
    """A step for one benchmark, whose failure is that benchmark's own."""
    try:
        step(plan, *args)
    except UserError as error:
        plan.error = str(error)
    except Exception as error:
        if space.is_lack(error):  # of every benchmark
            raise
        traceback.print_exc()
        plan.error = f"{type(error).__name__}: {error}"


def prepare(plan: Plan, subject: str, store: AnswerStore) -> None:
    """Load the benchmark through evalscope and see which of its questions have no answer yet."""
    from sftflow.evaluation import harness  # evalscope takes seconds to import

    generation, system = plan.parts["generation"], plan.parts["settings"]["system"]
    model = harness.StoredModel(subject, store, system)
    plan.config = harness.task(
        plan.benchmark, plan.data, subject, generation, plan.folder / "evalscope"
    )
    plan.questions, plan.missing = harness.questions(plan.config, model)
    check_counts(plan.name, plan.benchmark, plan.manifest, plan.questions)


def wanted(plans: list[Plan]) -> list[Wanted]:
    """What the plans miss: each request once, however many benchmarks hold it in the same words."""
    found: dict[tuple[str, int], Wanted] = {}
    for plan in plans:
        for miss in plan.missing:
            new = Wanted(miss.key, miss.n, miss.request, [])
            found.setdefault((miss.key, miss.n), new).plans.append(plan)
    return list(found.values())
