"""Values: numbers that came as text, numbers that are none, studies beyond all size."""

import json

import pytest
import yaml
from sftflow.config import resolve
from support import run_check

INPUTS = """
models: {base: {source: a/b}}
datasets: {talk: {source: a/d}, chat: {source: a/e}}
"""
STUDY = INPUTS + "runs: {tuned: {model: base, dataset: talk}}\n"


@pytest.fixture
def told(tmp_path):
    """Exit status and text of check.py: the study above with more lines (or other runs)."""

    def told(more: str = "", *arguments: str) -> tuple[int, str]:
        study = (INPUTS if more.startswith("runs:") else STUDY) + more
        (tmp_path / "study.yaml").write_text(study, encoding="utf-8")
        return run_check(tmp_path, "study.yaml", *arguments)

    return told


def test_a_sound_study_is_counted(told):
    assert told() == (
        0,
        "warning: datasets.chat: no run uses it\nsound: 1 model, 2 datasets, 1 run, 1 comparison\n",
    )


@pytest.mark.parametrize(
    ("argument", "stated"),
    [
        ("training={num_train_epochs: 2}", {"num_train_epochs": 2}),
        ("training={num_train_epochs: 2.5}", {"num_train_epochs": 2.5}),
        ("training={learning_rate: 2e-4, weight_decay: .5}", {"learning_rate": 2e-4}),
        ("training={seed: +7, lora_rank: 1e1}", {"seed": 7, "lora_rank": 10}),
        ("training={use_dora: true, use_rslora: 'No'}", {"use_dora": True, "use_rslora": False}),
        ("training={use_liger_kernel: true, padding_free: auto}", {"use_liger_kernel": True}),
        ("training={max_memory_gib: null, lora_alpha: ~}", {"max_memory_gib": None}),
        ("training={max_memory_gib: 30}", {"max_memory_gib": 30}),
        ("training={target_modules: [q_proj]}", {"target_modules": ["q_proj"]}),
        ("training=", {"lora_rank": 8}),
    ],
)
def test_what_config_makes_text_of_is_understood(told, argument, stated):
    """Snakemake reads every value inside a map as a text."""
    status, text = told("", "--config", argument)
    assert (status, text.count("sound")) == (0, 1), text
    key, _, value = argument.partition("=")
    read = yaml.load(value, Loader=yaml.BaseLoader) or None
    training = resolve.load({**yaml.safe_load(STUDY), key: read})["training"]
    for name, wanted in stated.items():
        assert (training[name], type(training[name])) == (wanted, type(wanted))


def test_it_is_understood_below_names_lists_and_grids_too():
    stated = """
runs: {tuned: {model: base, dataset: talk, seeds: ["1", "2"], training: {max_length: "64"}}}
models: {base: {source: a/b, revision: "1234567", template: "null", allow_remote_code: "false"}}
sweeps: {s: {run: tuned, grid: {lora_rank: ["4", "8"], use_dora: ["true"], dataset: [chat]}}}
benchmarks: {mmlu: {limit: "null", shots: "0", generation: {temperature: "0.5"}}}
resources: {train_run: {gpu: "0"}}
"""
    study = resolve.load({**yaml.safe_load(STUDY), **yaml.safe_load(stated)})
    assert study["runs"]["tuned-seed1"]["training"]["seed"] == 1
    point = study["runs"]["s-lora_rank4-use_doratrue-datasetchat-seed2"]
    assert point["training"]["max_length"] == 64
    assert (point["training"]["lora_rank"], point["training"]["use_dora"]) == (4, True)
    assert study["models"]["base"]["revision"] == "1234567"  # a text stays a text
    assert study["models"]["base"]["template"] is None
    assert study["models"]["base"]["allow_remote_code"] is False
    assert study["benchmarks"]["mmlu"]["limit"] is None
    assert study["benchmarks"]["mmlu"]["generation"]["temperature"] == 0.5
    assert study["resources"]["train_run"] == {"gpu": 0}


def test_a_date_is_a_text_and_a_whole_float_a_whole_number():
    stated = "{endpoints: {e: {url: 'http://h', model: m, version: 2025-08-01}}, "
    stated += "training: {max_length: 2048.0, extra: {since: 2025-08-01}}}"
    study = resolve.load(yaml.safe_load(stated))
    assert study["endpoints"]["e"]["version"] == "2025-08-01"
    assert type(study["training"]["max_length"]) is int
    json.dumps(study)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (
            "training: {learning_rate: .nan}",
            "training.learning_rate: must be a finite number, not na",
        ),
        (
            "training: {learning_rate: -.inf}",
            "training.learning_rate: must be a finite number, not",
        ),
        (
            "training: {max_memory_gib: .inf}",
            "training.max_memory_gib: must be a finite number, not",
        ),
        ("training: {lora_rank: .inf}", "training.lora_rank: must be a finite number, not inf"),
        (
            "training: {warmup_ratio: .inf}",
            "training.warmup_ratio: must be a finite number, not inf",
        ),
        (
            "training: {extra: {a: [1, .nan]}}",
            "training.extra.a[1]: must be a finite number, not na",
        ),
        ("sweeps: {s: {run: tuned, grid: {learning_rate: [.nan]}}}", "must be a finite number"),
        ("training: {learning_rate: 1e999}", "learning_rate: must be a finite number, not inf"),
        (
            "training: {seed: 99999999999}",
            "training.seed: must be at most 4,294,967,295, not 99999",
        ),
        ("training: {seed: -99999999999}", "training.seed: must be at least 0, not -99999999999"),
        (
            "resources: {plan: {mem_mb: 1" + 99 * "0" + "}}",
            "must be at most 4,294,967,295, not a nu",
        ),
        ("training: {learning_rate: 1" + 400 * "0" + "}", "not a number of 401 digits"),
        ("training: {lora_rank: '2.5'}", "training.lora_rank: must be a whole number, not 2.5"),
        ("training: {learning_rate: 'nan'}", "training.learning_rate: must be a number, not 'nan'"),
        (
            "sweeps: {s: {run: tuned, grid: {seed: "
            + str(list(range(200)))
            + ", lora_rank: "
            + str(list(range(1, 101)))
            + "}}}",
            "sweeps.s.grid: stands for 20,000 runs; a study has at most 10,000",
        ),
        (
            "runs: {tuned: {model: base, dataset: talk, seeds: " + str(list(range(10001))) + "}}",
            "runs.tuned.seeds: stands for 10,001 runs; a study has at most 10,000",
        ),
        (
            "runs: {tuned: {model: base, dataset: talk, seeds: " + str(list(range(6000))) + "}}\n"
            "sweeps: {s: {run: tuned, grid: {lora_rank: [4]}}}",
            "runs, sweeps: 12,000 runs together; a study has at most 10,000",
        ),
    ],
)
def test_no_number_and_beyond_all_size(told, more, line):
    status, text = told(more)
    assert (status, text.splitlines()[0]) == (1, "error: the config has an error:"), text
    assert line in text


def test_a_grid_of_a_million_million_runs_is_counted_not_expanded(told):
    axes = {key: list(range(1, 101)) for key in ("lora_rank", "seed", "max_length", "gpus")}
    axes |= {"save_steps": list(range(1, 101)), "eval_steps": list(range(1, 101))}
    status, text = told(f"sweeps: {{s: {{run: tuned, grid: {json.dumps(axes)}}}}}\nstage: al")
    assert status == 1
    assert "sweeps.s.grid: stands for 1,000,000,000,000 runs" in text
    assert "stage: unknown value 'al'; did you mean 'all'?" in text  # beside all other errors


def test_a_long_list_with_one_value_twice_is_refused_at_once(told):
    seeds = [*range(5000), 4999]
    assert (
        "seed: lists 4999 twice"
        in told(f"sweeps: {{s: {{run: tuned, grid: {{seed: {seeds}}}}}}}")[1]
    )


RESERVED = {
    "model": "own weights are served",
    "host": "under a name and port of its own",
    "port": "under a name and port of its own",
    "served_model_name": "under a name and port of its own",
    "trust_remote_code": "set models.<model>.allow_remote_code",
    "api_key": "a new key for each server",
    "max_batch_size": "write {place}.max_batch_size",
    # the same keys under vLLM's names, in its spelling
    "max-num-seqs": "follows from {place}.max_batch_size",
    "--dtype": "follows from {place}.torch_dtype",
    "tensor-parallel-size": "follows from {place}.gpus",
    "max_new_tokens": "follows from generation.max_tokens",
}


@pytest.mark.parametrize("place", ["serving", "models.base.serving", "runs.tuned.serving"])
@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_what_a_server_is_told_by_the_workflow_is_not_overridden(place, backend, tmp_path):
    stated = yaml.safe_load(STUDY)
    entry = stated
    for part in place.split("."):
        entry = entry.setdefault(part, {})
    allowed = {"seed": 3, "enforce-eager": True}  # a flag of the server, and of no key
    entry |= {"backend": backend, "extra": dict.fromkeys(RESERVED, "x") | allowed}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(stated), encoding="utf-8")
    status, text = run_check(tmp_path, "study.yaml")
    told = {line.split(": ")[0].strip(): line for line in text.splitlines()[1:-1]}
    assert status == 1 and f"has {len(RESERVED)} errors" in text
    for flag, why in RESERVED.items():
        assert why.format(place=place) in told[f"{place}.extra.{flag}"]
