"""Where everything lies below results/: each path once, as a template; and how it is read."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from sftflow.core.cli import UserError
from sftflow.core.handover import HOME
from sftflow.core.jsonio import read_json, read_lines, read_record


@dataclass(frozen=True)
class Paths:
    """Templates of all outputs, relative to the results folder; `under` puts it before them."""

    environment: str = "environments/{env}.json"
    dataset_source: str = "datasets/{dataset}/source.json"
    dataset_rows: str = "datasets/{dataset}/{side}.jsonl"  # side: train or validation
    dataset_receipt: str = "datasets/{dataset}/receipt.json"
    contamination: str = "datasets/{dataset}/contamination.json"
    model_source: str = "models/{model}/source.json"
    model_tokenizer: str = "models/{model}/tokenizer.json"
    tokenizer: str = "models/{model}/tokenizer"  # of its native form, all but the weights
    model: str = "models/{model}/manifest.json"
    weights: str = "models/{model}/weights"
    benchmark: str = "benchmarks/{benchmark}/manifest.json"
    questions: str = "benchmarks/{benchmark}/data"
    run_rows: str = "runs/{run}/{side}.jsonl"
    run_receipt: str = "runs/{run}/receipt.json"
    training: str = "runs/{run}/training.json"
    adapter: str = "runs/{run}/adapter.json"
    adapter_weights: str = "runs/{run}/adapter"
    merged: str = "runs/{run}/merged.json"
    merged_weights: str = "runs/{run}/merged"
    dropped: str = "runs/{run}/dropped.json"
    command: str = "runs/{run}/command.yaml"
    checkpoints: str = "runs/{run}/checkpoints.json"
    checkpoint: str = "runs/{run}/steps/{step}/adapter.json"
    checkpoint_weights: str = "runs/{run}/steps/{step}/adapter"
    card: str = "runs/{run}/cards/{form}/README.md"  # form: adapter or merged
    tracked: str = "runs/{run}/swanlab.json"
    rung: str = "runs/{run}/rungs/{part}.json"  # at 1/part of its steps
    halving: str = "sweeps/{sweep}/halving-{part}.json"  # who goes on after that rung
    readiness: str = "subjects/{subject}/readiness.json"
    chat: str = "subjects/{subject}/chat.json"
    likelihood: str = "dialogue/{subject}/likelihood.json"
    curve: str = "dialogue/{run}/curve.json"
    dialogue_answers: str = "dialogue/{subject}/answers.json"
    behaviour: str = "dialogue/{subject}/behaviour.json"
    judgement: str = "judgements/{judge}/{pair}.json"  # pair: as pair_name has it
    crisis: str = "crisis/{judge}/{subject}.json"
    ratings: str = "ratings/{name}.json"  # of people; name: a pair, or a subject's crisis answers
    evaluation: str = "evaluations/{subject}/{suite}.json"
    score: str = "scores/{subject}/{benchmark}.json"
    table: str = "tables/{table}.{form}"  # form: md, csv or tex
    plan: str = "tables/plan.json"  # the predicted seconds, unrounded
    figure: str = "figures/{figure}.{language}.{form}"  # form: svg or png
    page: str = "report/report.{language}.md"
    html: str = "report/report.html"
    record: str = "report/report.json"  # its numbers, unrounded
    answers: str = "report/answers.html"
    summary: str = "report/summary.txt"  # what the terminal says at the end
    settings: str = "settings/{rule}/{name}.json"
    study: str = "study.json"
    backend: str = "backend.json"  # what serving.backend: auto stands for here

    @classmethod
    def under(cls, folder: str) -> "Paths":
        return cls(**{field.name: f"{folder}/{field.default}" for field in fields(cls)})


PATHS = Paths()

# Tables beside those of the suites, in the order of the report, and the figures of the report.
TABLES = (
    "training", "inference", "comparison", "dialogue", "curve", "chat", "data", "sweep", "plan",
)  # fmt: skip
FIGURES = (
    "differences", "loss", "learning_rate", "gpu", "learning_curve", "scores", "token_lengths",
    "sweep",
)  # fmt: skip

CRISIS = "config/dialogue/crisis.jsonl"  # messages of a crisis that come with the workflow
NLTK_DATA = "nltk_data"  # beside the questions whose scorer reads it
CRISIS_SET = "crisis"  # their name among the datasets of a subject's answers


def pair_name(pair: dict) -> str:
    """A comparison as the name of its files."""
    return f"{pair['baseline']}--{pair['candidate']}"


def answers_at(**where: str) -> str:
    """A place in the page of answers: `answers_at(pair=…, benchmark=…)`, what is "" left out."""
    given = "&".join(f"{name}={quoted(value)}" for name, value in where.items() if value)
    return f"{PATHS.answers}#{given}"


quoted = cache(quote_plus)  # the same names again and again


def table_names(suites: Iterable[str]) -> list[str]:
    """Every table of a study but the plan, in the order of the report."""
    middle = TABLES.index("comparison")
    return [*TABLES[:middle], *suites, *(name for name in TABLES[middle:] if name != "plan")]


def every(template: str) -> str:
    """The glob pattern of all outputs of one kind: "scores/*/*.json" of PATHS.score."""
    return re.sub(r"\{\w+\}", "*", template)


def weights_of(subject: dict, form: str, paths: Paths = PATHS) -> dict[str, str]:
    """What a subject's weights are in this form: manifests, and the folders that they list.

    {weights, weights_folder} and, of an adapter on its base, {adapter, adapter_folder}; {} for an
    endpoint, whose weights are elsewhere. `subject` is an entry of the study's `subjects`.
    """
    run, model = subject["run"], subject["model"]
    if form == "endpoint":
        return {}
    if form == "merged":
        manifest, folder = paths.merged, paths.merged_weights
        return {"weights": manifest.format(run=run), "weights_folder": folder.format(run=run)}
    found = {
        "weights": paths.model.format(model=model),
        "weights_folder": paths.weights.format(model=model),
    }
    if form == "adapter":
        manifest, folder = adapter_of(subject, paths)
        found |= {"adapter": manifest, "adapter_folder": folder}
    return found


def adapter_of(subject: dict, paths: Paths = PATHS) -> tuple[str, str]:
    """Manifest and folder of a subject's adapter: of its run's last step, or of a checkpoint."""
    run, step = subject["run"], subject.get("step")
    if step is None:
        return paths.adapter.format(run=run), paths.adapter_weights.format(run=run)
    names = {"run": run, "step": step}
    return paths.checkpoint.format(**names), paths.checkpoint_weights.format(**names)


def forms_of(study: dict, run: str) -> list[str]:
    """The forms in which a run's weights lie in results/: its model cards'."""
    if study["runs"][run]["training"]["tuner_type"] == "full":
        return ["merged"]
    return ["adapter", *["merged"] * (study["subjects"][run]["form"] == "merged")]


def checkpoint_name(run: str, step: int) -> str:
    """A checkpoint as a subject; no name in a config has this sign."""
    return f"{run}@{step}"


def evaluation_folder(subject: str, benchmark: str, identity: str) -> str:
    """Of one evaluated benchmark: samples.jsonl, entry.json and evalscope/."""
    return f"evaluations/{subject}/{benchmark}/{identity[:16]}"


def answers_folder(subject: str, way: str) -> str:
    """Of what a subject answered in one way (identity.way): <suite>.jsonl for each suite."""
    return f"evaluations/{subject}/answers/{way[:16]}"


def refuse_older(results: str | Path) -> None:
    """UserError where a results folder was made by a version whose records had no digests."""
    kept = Path(results)
    for kind in (PATHS.score, PATHS.model, PATHS.environment):
        record = next(kept.glob(every(kind)), None)
        if record and "sha256" not in read_json(record):
            raise UserError(
                f"{kept} was made by sftflow 0.1, whose records can't be verified: move it away, "
                "or name another folder under 'pathvars: {results: …}', and run again"
            )


def earlier_files(place: str) -> list[Path]:
    """What the scores of an earlier report are read from: its report.json, else the score files of
    a results folder, else its tables."""
    path = Path(place).expanduser()
    if path.is_file():
        return [path]
    tables = sorted(path.glob("*.csv")) or sorted(path.glob("tables/*.csv"))
    return Results(path).every(PATHS.score) or tables


def local_source(source: str) -> Path:
    """A local source as a path: from the working folder, else (the demo's) from the checkout."""
    path = Path(source).expanduser()
    shipped = HOME / path
    return shipped if not path.exists() and shipped.exists() else path


class Results:
    """The outputs of a study, each record read once. What is not there reads as None."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._read: dict[str, dict | None] = {}

    def __reduce__(self) -> tuple:
        """To another process goes the place, not what was read."""
        return Results, (self.folder,)

    def path(self, template: str, **names: str) -> Path:
        """Where one output lies: `path(PATHS.training, run="a")`."""
        return self.folder / template.format(**names)

    def every(self, template: str) -> list[Path]:
        """All outputs of one kind that are there, sorted."""
        return sorted(self.folder.glob(every(template)))

    def read(self, template: str, **names: str) -> dict | None:
        """A record below results/, which nobody may change; UserError when somebody did, after it
        had been written."""
        name = template.format(**names)
        if name not in self._read:
            try:
                self._read[name] = read_record(self.folder / name)
            except FileNotFoundError:
                self._read[name] = None
        return self._read[name]

    def lines(self, record: dict) -> Iterator[Any]:
        """The lines of the file that a record names as `records`."""
        return read_lines(self.folder / record["records"], record["records_sha256"])
