# Functions only: what rules ask of the study, which is the config in its resolved form.

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from sftflow.core.cli import UserError
from sftflow.config.commandline import asked_for, submits, unknown_targets
from sftflow.config.reading import read_all
from sftflow.config.resolve import load, warnings
from sftflow.core.jsonio import digest, write_text
from sftflow.inputs.hubs import local_digest

# Somebody else's Snakefile may import this one as a module: command line and config files are then not ours to judge.
ALONE = (
    workflow.is_main_process
    and Path(workflow.main_snakefile).resolve().parent
    == Path(workflow.snakefile).resolve().parents[1]
)


def resolved(raw: dict) -> dict:
    """The study. Every error in the config is told at once, before any job starts."""
    main = workflow.is_main_process  # jobs, perhaps elsewhere, read the Snakefile again
    gpus = main and not submits(workflow.resource_settings.nodes)
    try:
        _, twice = read_all(workflow.configfiles if ALONE else ())
        return load(raw, twice, here=main, gpus=gpus)
    except UserError as error:
        raise WorkflowError(str(error)) from None


study = resolved(config)

if workflow.is_main_process:
    for warning in warnings(study):
        logger.warning(warning)


# Programs -------------------------------------------------------------------------------------------------------------


def interpreter(env: str) -> str:
    """Python of a tool's environment, or of the workflow itself. Relative, so that a moved clone reruns nothing."""
    if env == "workflow":
        own = Path(workflow.basedir) / ".venv" / "bin" / "python"
        return ".venv/bin/python" if sys.executable == str(own) else sys.executable
    return "python" if study["software"] == "active" else f"envs/{env}/.venv/bin/python"


def as_json(value: dict) -> str:
    """The JSON of `--settings`. What is not in it triggers no rerun."""
    return json.dumps(value, ensure_ascii=False)


def pick(entry: dict, *keys: str) -> dict:
    return {key: entry[key] for key in keys}


# Resources ------------------------------------------------------------------------------------------------------------


def ask(rule: str, resource: str, default: int) -> int:
    """A resource of a rule's jobs: as the config's `resources` states it, or the rule's own default."""
    return study["resources"].get(rule, {}).get(resource, default)


def gpus(rule: str, settings: dict) -> int:
    """GPUs of a job with these training or serving settings."""
    local = settings.get("backend") != "endpoint" and settings["device"] != "cpu"
    return ask(rule, "gpu", settings["gpus"]) if local else 0


def run_gpus(rule: str) -> Callable:
    return lambda wildcards: gpus(rule, study["runs"][wildcards.run]["training"])


def subject_gpus(rule: str) -> Callable:
    return lambda wildcards: gpus(rule, study["subjects"][wildcards.subject]["serving"])


# Data and models ------------------------------------------------------------------------------------------------------


def content(entry: dict) -> str | None:
    """Digest of a local source. A file that was edited is fetched again; one that was only touched is not."""
    memory = Path(".snakemake/sources.json")
    return local_digest(entry["source"], memory) if entry["hub"] == "local" else None


def dataset_content(wildcards) -> str | None:
    return content(study["datasets"][wildcards.dataset])


def benchmark_content(wildcards) -> str | None:
    return content(study["benchmarks"][wildcards.benchmark])


def model_content(wildcards) -> str | None:
    return content(study["models"][wildcards.model])


def dataset_source(wildcards) -> str:
    return as_json(pick(study["datasets"][wildcards.dataset], "source", "hub", "revision"))


def prepare_settings(wildcards) -> str:
    keys = ("on_bad_rows", "max_bad_share", "validation_share", "split_seed")
    return as_json(pick(study["datasets"][wildcards.dataset], *keys))


def benchmark_source(wildcards) -> str:
    """What decides which questions are copied; not how they are asked."""
    keys = ("dataset", "source", "hub", "revision", "config", "subset_field", "eval_split")
    keys += ("few_shot_split", "shots", "fields", "subsets")
    return as_json(pick(study["benchmarks"][wildcards.benchmark], *keys))


def model_source(wildcards) -> str:
    keys = ("source", "hub", "revision", "allow_remote_code")
    return as_json(pick(study["models"][wildcards.model], *keys))


def native_settings(wildcards) -> str:
    return as_json(pick(study["models"][wildcards.model], "native_form", "allow_remote_code"))


def model_facts(model: str) -> dict:
    """What training, merging and serving must know about a base model besides its weights."""
    keys = ("model_type", "template", "torch_dtype", "system")
    return {"name": model} | pick(study["models"][model], *keys)


# Runs -----------------------------------------------------------------------------------------------------------------


def dataset_file(name: str) -> Callable:
    return lambda wildcards: f"<results>/datasets/{study['runs'][wildcards.run]['dataset']}/{name}"


def model_manifest(wildcards) -> str:
    return f"<results>/models/{study['runs'][wildcards.run]['model']}/manifest.json"


def tokenize_settings(wildcards) -> str:
    run = study["runs"][wildcards.run]
    keys = ("max_length", "too_long", "per_device_train_batch_size", "gradient_accumulation_steps")
    keys += ("gpus", "seed", "num_train_epochs")
    return as_json(
        {
            "run": wildcards.run,
            "training": pick(run["training"], *keys),
            "model": model_facts(run["model"]),
        }
    )


def train_settings(wildcards) -> str:
    run = study["runs"][wildcards.run]
    return as_json(
        {
            "run": wildcards.run,
            "training": run["training"],
            "model": model_facts(run["model"]),
            "swanlab": study["tracking"]["swanlab"],
        }
    )


def merge_settings(wildcards) -> str:
    run = study["runs"][wildcards.run]
    return as_json(
        {
            "run": wildcards.run,
            **pick(run["training"], "torch_dtype", "device"),
            "model": model_facts(run["model"]),
        }
    )


# Subjects -------------------------------------------------------------------------------------------------------------


def weights_of(subject: str, form: str) -> dict[str, str]:
    """The manifests of the weights that a subject is in this form; none for an endpoint, whose weights are elsewhere."""
    entry = study["subjects"][subject]
    base = f"<results>/models/{entry['model']}/manifest.json"
    run = f"<results>/runs/{entry['run']}"
    return {
        "base": {"weights": base},
        "merged": {"weights": f"{run}/merged.json"},
        "adapter": {"weights": base, "adapter": f"{run}/adapter.json"},
        "endpoint": {},
    }[form]


def served_files(wildcards) -> dict[str, str]:
    """Manifests of a subject's weights, and the environment that serves them."""
    entry = study["subjects"][wildcards.subject]
    backend = entry["serving"]["backend"]
    tool = {"transformers": {"environment": "swift"}, "vllm": {"environment": "vllm"}}
    environment = {
        name: f"<results>/environments/{env}.json" for name, env in tool.get(backend, {}).items()
    }
    return weights_of(wildcards.subject, entry["form"]) | environment


def both_forms(wildcards) -> dict[str, str]:
    """For readiness: a merged run's load time is wanted as adapter on its base, too. Nothing is merged to be timed."""
    merged = study["subjects"][wildcards.subject]["form"] == "merged"
    other = weights_of(wildcards.subject, "adapter") if merged else {}
    return served_files(wildcards) | {f"other_{name}": path for name, path in other.items()}


def folder(manifest: str) -> Path:
    """Where the files of a manifest lie: in a folder beside it."""
    manifest = Path(manifest)
    return manifest.with_name("weights" if manifest.name == "manifest.json" else manifest.stem)


def weights_flags(wildcards, input) -> str:
    """Flags that tell serve.py and evaluate.py what to serve, with what."""
    flags = []
    if "weights" in input.keys():
        flags += ["--weights", folder(input.weights), "--manifest", input.weights]
    if "adapter" in input.keys():
        flags += ["--adapter", folder(input.adapter), "--adapter-manifest", input.adapter]
    if "environment" in input.keys():
        python = interpreter(Path(input.environment).stem)
        flags += ["--environment", input.environment, "--python", python]
    return shlex.join(map(str, flags))


def other_form_flags(wildcards, input) -> str:
    flags = []
    if "other_weights" in input.keys():
        flags += ["--also-weights", folder(input.other_weights)]
    if "other_adapter" in input.keys():
        flags += ["--also-adapter", folder(input.other_adapter)]
    return shlex.join(map(str, flags))


def subject_settings(subject: str) -> dict:
    entry = study["subjects"][subject]
    settings = {"subject": subject, **pick(entry, "form", "serving")}
    if entry["kind"] == "endpoint":
        keys = ("url", "model", "version", "key_env")
        return settings | {"endpoint": pick(study["endpoints"][subject], *keys)}
    return settings | {"model": model_facts(entry["model"])}


def serve_settings(wildcards) -> str:
    return as_json(subject_settings(wildcards.subject) | pick(study, "prompts"))


# Evaluation -----------------------------------------------------------------------------------------------------------


def evaluate_settings(wildcards) -> str:
    keys = ("dataset", "subsets", "shots", "prompt", "limit", "generation", "repeats")
    names = study["suites"][wildcards.suite]
    return as_json(
        subject_settings(wildcards.subject)
        | {
            "suite": wildcards.suite,
            "generation": study["generation"],
            "benchmarks": {name: pick(study["benchmarks"][name], *keys) for name in names},
        }
    )


def evaluation_of(wildcards) -> str:
    suite = study["benchmarks"][wildcards.benchmark]["suite"]
    return f"<results>/evaluations/{wildcards.subject}/{suite}.json"


def contamination_of(wildcards) -> list[str]:
    """What a run was trained on may hold questions; a model that was not trained here, nobody can say."""
    run = study["subjects"][wildcards.subject]["run"]
    return [f"<results>/datasets/{study['runs'][run]['dataset']}/contamination.json"] if run else []


def contamination_flag(wildcards, input) -> str:
    return shlex.join(["--contamination", *input.contamination] if input.contamination else [])


# Reporting ------------------------------------------------------------------------------------------------------------

RESULTS = workflow.pathvars.get("results")

asked = [name for suite in study["evaluate"]["suites"] for name in study["suites"][suite]]

score_tables = ["inference", *study["evaluate"]["suites"], "comparison", "chat", "sweep"]

evaluated = study["evaluate"]["subjects"]

trained = list(study["runs"])

tracked = [run for run in trained if run in evaluated] if study["stage"] == "all" else []

base_models = list(study["models"])

used_datasets = sorted({run["dataset"] for run in study["runs"].values()})

# Which values the wildcards of outputs can have.
wildcard_values = {
    "env": [lock.parent.name for lock in Path(workflow.basedir, "envs").glob("*/uv.lock")],
    "dataset": list(study["datasets"]),
    "benchmark": list(study["benchmarks"]),
    "model": base_models,
    "run": trained,
    "subject": list(study["subjects"]),
    "suite": list(study["suites"]),
}

study_text = json.dumps(
    {
        key: value
        for key, value in study.items()
        if key not in ("stage", "software", "resources", "pathvars")
    },
    ensure_ascii=False,
    indent=2,
)


def reported(pattern: str, **names) -> list[str]:
    """Files that a table is made from; with stage=report, those of them that are there."""
    paths = collect(pattern, **names)
    if study["stage"] == "all":
        return [f"<results>/{path}" for path in paths]
    return [f"<results>/{path}" for path in paths if (Path(RESULTS) / path).exists()]


def page(name: str) -> str:
    """A table for people; it also goes into the report that Snakemake itself makes."""
    return report(f"<results>/tables/{name}.md", category="Tables", labels={"table": name})


def table_files(*names: str) -> list[str]:
    """A table's two files: for people, and for programs."""
    return [page(name) for name in names] + [f"<results>/tables/{name}.csv" for name in names]


def programs(*patterns: str) -> list[str]:
    """Programs and modules that compute what stands in tables and reports."""
    return sorted(str(path) for pattern in patterns for path in Path("scripts").glob(pattern))


SCORE_PROGRAMS = programs("score.py", "sftflow/scoring/*.py")

TABLE_PROGRAMS = programs("tables.py", "sftflow/reporting/*.py", "sftflow/scoring/*.py")

PLAN_PROGRAMS = programs(
    "plan.py", "sftflow/reporting/*.py", "sftflow/scoring/*.py", "sftflow/training/*.py"
)

REPORT_PROGRAMS = programs("report.py", "sftflow/reporting/templates/*")

FIGURES = ["loss", "learning_rate", "scores", "token_lengths"]
