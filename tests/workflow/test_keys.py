"""Every key of the config keeps what its annotation says: in the plan, the identities, the marks.

A key that "cannot change a weight" and costs a training is a lie that costs GPU hours; one that
can, and is not seen, is a wrong number in a table.
"""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from sftflow.config import jobs as told
from sftflow.config import resolve
from sftflow.config.schema import follow, schema
from sftflow.core import identity
from sftflow.core.layout import Results
from sftflow.reporting import cells
from sftflow.training import settings as training
from support import ROOT, copy_finished, jobs, run_snakemake

# Rules that only show: they follow every key, and cost seconds.
SHOWING = {"plan", "data", "train", "tables", "report", "cards", "all", "total", "verify", "usage"}
# Jobs whose records stand behind a score.
BEHIND_SCORES = {
    "fetch_dataset", "prepare_dataset", "fetch_model", "native_tokenizer", "native_model",
    "fetch_benchmark", "tokenize_run", "train_run", "merge_run", "evaluate_suite", "score_suite",
    "find_contamination",
}  # fmt: skip
AFFECTS = {"weights", "answers", "scores", "record", "cost"}

ENTRY = {
    "models": "tiny", "datasets": "psychology", "runs": "tiny-sft", "benchmarks": "mmlu",
    "endpoints": "far", "sweeps": "grid",
}  # fmt: skip
# Where any other value would not do: {key: the value it gets}.
VALUES = {
    "stage": "report", "software": "active",
    "dialogue.crisis": True, "dialogue.neutral": {"zh": "config/neutral/en.txt"},
    "endpoints.*.extra_body": {"reasoning_effort": "low"}, "endpoints.*.omit": ["seed"],
    "endpoints.*.headers": {"X-Team": "$TEAM"},
    "endpoints.*.rename": {"max_tokens": "max_completion_tokens"},
    "models.*.source": "config/demo/copy", "models.*.hub": "huggingface",
    "models.*.revision": "v1", "models.*.model_type": "qwen2", "models.*.template": "internlm2",
    "models.*.agent_template": "hermes",
    "models.*.native_form": "none", "models.*.reference": "internlm2_5-7b-chat",
    "datasets.*.source": "config/demo/copy.jsonl", "datasets.*.hub": "huggingface",
    "datasets.*.revision": "v1", "datasets.*.validation_share": 0.06,
    "benchmarks.*.preset": "mmlu", "benchmarks.*.source": "config/demo/benchmarks/copy",
    "benchmarks.*.hub": "huggingface", "benchmarks.*.revision": "v1",
    "benchmarks.*.subsets": ["professional_psychology"], "benchmarks.*.shots": 1,
    "benchmarks.*.prompt": "{question} {choices} ANSWER:", "benchmarks.*.limit": 5,
    "runs.*.model": "other", "runs.*.dataset": "other", "runs.*.serve": "adapter",
    "endpoints.*.url": "http://elsewhere/v1", "endpoints.*.key_env": "KEY",
    "training.lr_scheduler_type": "linear", "training.attn_impl": "eager",
    "training.target_modules": ["q_proj"], "training.extra": {"neftune_noise_alpha": 5},
    "training.checkpoints": [300],
    "training.gpus": 1, "training.warmup_ratio": 0.2, "training.lora_dropout": 0.1,
    "training.device": "auto", "serving.device": "auto", "training.tuner_type": "lora",
    "serving.extra": {"attn_impl": "eager"}, "serving.max_model_len": 900,
    "report.notes": "README.md", "report.compare_with": "results",
    "training.max_memory_gib": 9, "prompts": ["Hello"], "languages": ["en"],
    "generation.top_p": 0.9, "serving.backend": "vllm",
    "evaluate.subjects": ["tiny", "tiny-sft"], "evaluate.suites": ["general", "psychology"],
    "contamination.threshold": 0.7, "statistics.confidence": 0.9,
    "tracking.swanlab.host": "http://elsewhere:8000",
}  # fmt: skip
# Keys that make other jobs rather than other results of the same ones, or name what is elsewhere.
STRUCTURE = {
    "pathvars.results", "pathvars.logs", "runs.*.seeds", "sweeps.*.run", "sweeps.*.grid.*",
    "sweeps.*.halving.factor", "sweeps.*.halving.rungs",
    "suites.*", "comparisons[].baseline", "comparisons[].candidate", "benchmarks.*.preset",
    "runs.*.model", "runs.*.dataset", "stage", "software", "keep",
    # nobody judges here: tests/unit/test_judgements.py
    "judges.*.subject", "judges.*.limit", "judges.*.rubric", "judges.*.max_tokens",
    "judges.*.label",
}  # fmt: skip
# A change of these alone is refused, or changes nothing in this study.
IDLE = {
    "training.gpus", "training.tuner_type", "training.precision", "evaluate.subjects",
    "evaluate.suites",
    "generation.seed", "generation.top_p", "generation.top_k",  # at temperature 0
    "benchmarks.*.multiple_correct",  # of own questions only
}  # fmt: skip


def keys(node: dict | None = None, path: str = "") -> Iterator[tuple[str, dict]]:
    """(path, schema node) of every key that carries a value: "training.seed", "models.*.hub"."""
    node = follow(node or schema())
    if "jobs" in node:
        yield path, node
        return
    for key, below in node.get("properties", {}).items():
        reference = below.get("$ref", "")
        inherited = reference.startswith("#/properties/") and reference.count("/") == 2
        if not inherited:
            yield from keys(below, f"{path}.{key}".removeprefix("."))
    for key, mark in (("additionalProperties", ".*"), ("items", "[]")):
        if isinstance(node.get(key), dict):
            yield from keys(node[key], path + mark)


KEYS = dict(keys())
WALKED = sorted(KEYS.keys() - STRUCTURE - IDLE)


def other(path: str, node: dict, now: object) -> object:
    """Another value that the key may have."""
    if path in VALUES:
        return VALUES[path]
    if "enum" in node:
        return next(value for value in node["enum"] if value not in (now, node.get("default")))
    kind = node["type"] if isinstance(node["type"], str) else node["type"][0]
    if kind == "boolean":
        return not now
    if kind in ("integer", "number"):
        return type(KEYS[path].get("default") or 1)(float(now or 1) * 2)
    return f"{now or ''}x"


def changed(raw: dict, path: str) -> dict:
    """The config with another value for one key; of named entries, for the one in ENTRY."""
    raw = copy.deepcopy(raw)
    parts, place = path.split("."), raw
    for index, part in enumerate(parts[:-1]):
        name = ENTRY.get(parts[index - 1], "train_run") if part == "*" else part
        place = place.setdefault(name, {})
    now = place.get(parts[-1], KEYS[path].get("default"))
    place[parts[-1]] = other(path, KEYS[path], now)
    return raw


@pytest.fixture(scope="session")
def study(demo, tmp_path_factory) -> Path:
    """The finished demo, with an endpoint that nobody asks and copies of its sources beside."""
    folder = copy_finished(demo.folder, tmp_path_factory.mktemp("keys"))
    for source in ("model", "dialogues.jsonl", "benchmarks/mmlu"):
        path = folder / "config/demo" / source
        twin = path.with_name("copy" + path.suffix)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, twin)
    path = folder / "config/config.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["endpoints"] = {"far": {"url": "http://far/v1", "model": "m", "version": "1"}}
    raw["evaluate"] = {"subjects": ["tiny", "tiny-sft"]}
    raw["sweeps"] = {}
    raw["resources"]["prepare_dataset"] = {"threads": 1}
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    done = run_snakemake(folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


def expected(path: str) -> set[str]:
    """The rules whose jobs must be planned when this key changes; here nobody judges, and nobody
    asks the endpoint."""
    if path.startswith("endpoints"):
        return set()
    section, _, key = path.replace(".*", "").rpartition(".")
    section = section.removeprefix("tracking.")
    node = KEYS[path]
    rules = set(node["jobs"]) - {"judge_pair", "judge_crisis", "halve_sweep"}
    return {rule for rule in rules if key in told.deciding(rule, section)}


def test_every_key_is_annotated():
    for path, node in KEYS.items():
        assert node.get("affects") in AFFECTS, path
        assert set(node["jobs"]) <= told.JOBS.keys(), path
    unannotated = [path for path, node in leaves(schema()) if "jobs" not in node]
    assert unannotated == []


def leaves(node: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    node = follow(node)
    below = [*node.get("properties", {}).items()]
    below += [
        ("*", node[k]) for k in ("additionalProperties", "items") if isinstance(node.get(k), dict)
    ]
    if "jobs" in node or not below:
        yield path, node
        return
    for key, child in below:
        if "items" == key and "enum" in child:
            continue
        yield from leaves(child, f"{path}.{key}")


def planned_keys() -> list[str]:
    """One key for each section and set of jobs that are due: Snakemake sees no more of them. All
    with EXHAUSTIVE=1, which takes minutes; what is below the plan is walked whole either way."""
    if os.environ.get("EXHAUSTIVE"):
        return WALKED
    kinds = {(path.rpartition(".")[0], frozenset(expected(path))): path for path in WALKED}
    return sorted(kinds.values())


@pytest.mark.slow
def test_the_plan_follows_the_annotation(study):
    """`snakemake -n` after a change of a key alone."""
    walked = planned_keys()
    raw = yaml.safe_load((study / "config/config.yaml").read_text(encoding="utf-8"))

    def plan(path: str) -> set[str]:
        file = study / f"changed-{path.replace('*', '_')}.yaml"
        file.write_text(yaml.safe_dump(changed(raw, path), allow_unicode=True), encoding="utf-8")
        # the directory is only looked at: several may
        done = run_snakemake(study, "-n", "--nolock", "--configfile", file.name)
        assert done.returncode == 0, f"{path}: {done.stdout[-1500:]}"
        return set(jobs(done.stdout)) - SHOWING

    with ThreadPoolExecutor(2) as pool:
        plans = dict(zip(walked, pool.map(plan, walked), strict=True))
    wrong = {}
    for path, planned in plans.items():
        due = expected(path)
        if due - planned or (not due and planned):
            wrong[path] = f"affects {KEYS[path]['affects']}, due {due}, planned {planned}"
    assert wrong == {}


@pytest.mark.slow
def test_stale_marks_follow_the_annotation(study, monkeypatch):
    """With stage=report a table must say which scores no longer stand for the config."""
    monkeypatch.chdir(study)
    raw = yaml.safe_load(Path("config/config.yaml").read_text(encoding="utf-8"))
    results = Results(study / "results")
    wrong = {}
    for path in WALKED:
        changed_study = resolve.load(changed(raw, path))
        stale = {c.note for c in cells.load_cells(changed_study, results).values() if not c.usable}
        due = bool(expected(path) & BEHIND_SCORES)
        if bool(stale) != due:
            wrong[path] = f"affects {KEYS[path]['affects']}: {stale or 'no mark'}"
    assert wrong == {}


@pytest.mark.slow
def test_identities_follow_the_annotation(study, monkeypatch):
    """A checkpoint is resumed, an answer found again, exactly where nothing that counts changed."""
    monkeypatch.chdir(study)
    raw = yaml.safe_load(Path("config/config.yaml").read_text(encoding="utf-8"))
    versions = {"evalscope": "1", "ms-swift": "1", "torch": "1", "transformers": "1", "vllm": "1"}

    def identities(raw: dict) -> tuple[str, str]:
        study = resolve.load(raw)
        asked = told.asked_benchmark(study, "mmlu")
        parts = {
            "weights": "w", "data": "d",
            "settings": identity.settings(asked, study["models"]["tiny"]["system"], "1"),
            "generation": identity.generation(asked["generation"]),
            "backend": identity.backend(told.backend(study, "tiny-sft"), versions),
        }  # fmt: skip
        made_with = told.train_run(study, "tiny-sft")["made_with"]
        manifest, receipt = {"digest": "m"}, {"digest": "r"}
        return (
            training.identity(made_with, manifest, receipt, "cpu", versions),
            identity.identity(parts),
        )

    before = identities(raw)
    wrong = {}
    for path in WALKED:
        trained, answered = (
            a != b for a, b in zip(before, identities(changed(raw, path)), strict=True)
        )
        if trained != ("train_run" in expected(path)):
            wrong[path] = f"training identity {'changes' if trained else 'stays'}"
        due = "evaluate_suite" in expected(path) and not path.startswith("runs")
        if answered != due:
            wrong[path] = f"answer identity {'changes' if answered else 'stays'}"
    assert wrong == {}


def test_what_a_job_is_told_is_what_its_keys_say():
    """No key reaches a job that the schema does not name, and each that it names arrives."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    raw["endpoints"] = {"far": {"url": "http://far/v1", "model": "m", "version": "1"}}
    raw["judges"] = {"strong": {"subject": "far"}}
    raw["sweeps"] = {"rank": {"run": "tiny-sft", "grid": {"lora_rank": [4, 8, 16]}, "halving": {}}}
    study = resolve.resolve(raw)
    names = {"dataset": "psychology", "model": "tiny", "run": "tiny-sft", "benchmark": "mmlu",
             "subject": "tiny-sft", "suite": "psychology", "env": "swift", "judge": "strong",
             "sweep": "rank", "part": "2",
             "pair": "tiny--tiny-sft", "baseline": "tiny", "candidate": "tiny-sft"}  # fmt: skip
    for rule in told.JOBS:
        settings = told.settings(study, rule, *(names[name] for name in told.wildcards(rule)))
        text = json.dumps(settings)
        assert settings["made_with"], rule
        for section, entry in (("training", study["training"]), ("serving", study["serving"])):
            for key in entry:
                here = key in settings.get(section, {})
                assert here == (key in told.told(rule, section)), f"{rule}: {section}.{key}"
        assert "resources" not in text and "label" not in settings


def test_the_walk_leaves_no_key_out():
    assert set(VALUES) <= KEYS.keys()
    assert WALKED and not (STRUCTURE | IDLE) - KEYS.keys()
