"""What a config names must be there: local sources, names of the libraries, a GPU."""

import json
import subprocess
from pathlib import Path

import pytest
from sftflow.config.names import swift_names
from sftflow.core import gpu
from support import ROOT, SWIFT, run_check


@pytest.fixture
def study(tmp_path: Path):
    """A folder with local sources, and check.py of a study of them with some text replaced."""
    model = tmp_path / "weights" / "here" / "base"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").touch()
    (tmp_path / "dialogues.jsonl").touch()
    (tmp_path / "questions" / "own" / "clinic").mkdir(parents=True)
    text = """
models:
  base: {source: weights/here/base}
datasets:
  talk: {source: dialogues.jsonl}
benchmarks:
  clinic: {preset: general_mcq, source: questions/own/clinic, subsets: [exam]}
suites: {general: [clinic]}
runs:
  tuned: {model: base, dataset: talk, training: {}}
"""

    def told(*changes: tuple[str, str], more: str = "", arguments: tuple = ()) -> tuple[int, str]:
        changed = text
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new)
        (tmp_path / "study.yaml").write_text(changed + more)
        return run_check(tmp_path, "study.yaml", *arguments)

    return told


def test_local_sources_that_are_there_are_no_errors(study):
    status, text = study()
    assert (status, text) == (
        0,
        "sound: 1 model, 1 dataset, 1 run, 1 benchmark, 1 suite, 1 comparison\n",
    )


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "weights/here/base",
            "weights/here/bsae",
            "models.base.source: no such file or folder: {0}/weights/here/bsae (relative paths are "
            "read from {0}); did you mean 'weights/here/base'?",
        ),
        ("weights/here/base", "weihgts/here/base", "did you mean 'weights/here/base'?"),
        ("weights/here/base", "weihgts/here/other", "did you mean 'weights'?"),
        ("weights/here/base", "/nowhere/at/all", "no such file or folder: /nowhere/at/all\n"),
        ("weights/here/base", "dialogues.jsonl", "is a file; give the folder that holds config.js"),
        (
            "weights/here/base",
            "weights/here",
            "models.base.source: no config.json in {0}/weights/he",
        ),
        (
            "dialogues.jsonl",
            "dialog.jsonl",
            "datasets.talk.source: no such file or folder: {0}/dialog.jsonl (relative paths are "
            "read from {0}); did you mean 'dialogues.jsonl'?",
        ),
        ("dialogues.jsonl", "data/own.jsonl", "datasets.talk.source: no such file or folder"),
        ("source: dialogues.jsonl", "source: a/b, hub: local", "no such file or folder: {0}/a/b "),
        (
            "questions/own/clinic",
            "questions/own/clinics",
            "benchmarks.clinic.source: no such file or folder: {0}/questions/own/clinics (relative",
        ),
    ],
)
def test_a_local_source_that_is_not_there(study, tmp_path, old, new, line):
    status, text = study((old, new))
    assert (status, text.count("\n")) == (1, 3), text
    assert line.format(tmp_path) in text


def test_every_missing_source_is_told_beside_other_errors(study):
    status, text = study(("weights", "wiegths"), ("dialogues", "dialog"), more="stag: all")
    assert (status, text.splitlines()[0]) == (1, "error: the config has 3 errors:")


def test_a_model_without_safetensors(study, tmp_path):
    (tmp_path / "weights/here/base/model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "models.base.source: no *.safetensors in" in study()[1]
    assert study(("base}", "base, allow_remote_code: true}"))[0] == 0


def test_a_hub_id_is_one_whether_or_not_it_can_be_reached(study):
    assert study(("dialogues.jsonl", "own/dialogues"))[0] == 0
    status, text = study(("weights/here/base", "weights/heer"))
    assert status == 0  # but it may not be meant
    assert (
        "warning: models.base.source: taken for an id on modelscope, since 'weights/heer'" in text
    )
    assert "did you mean 'weights/here'?" in text


def test_with_stage_report_no_source_is_needed(study):
    changes = (("weights/here/base", "gone/with/the/disk"), ("dialogues.jsonl", "gone.jsonl"))
    assert study(*changes)[0] == 1
    assert study(*changes, arguments=("--config", "stage=report"))[0] == 0


# --- names ---------------------------------------------------------------------------------------

WRONG_NAMES = [
    ("models.base.template", "models: {base: {source: a/b, template: chatlm}}", "chatml"),
    ("models.base.model_type", "models: {base: {source: a/b, model_type: lama}}", "llama"),
    ("training.lr_scheduler_type", "training: {lr_scheduler_type: cosin}", "cosine"),
    ("training.attn_impl", "training: {attn_impl: flash_attention2}", "flash_attention_2"),
    ("training.extra.optim", "training: {extra: {optim: adam_torch}}", "adamw_torch"),
    ("training.extra.optimizer", "training: {extra: {optimizer: muno}}", "muon"),
    (
        "runs.r.training.lr_scheduler_type",
        "models: {m: {source: a/b}}\ndatasets: {d: {source: a/c}}\n"
        "runs: {r: {model: m, dataset: d, training: {lr_scheduler_type: linaer}}}",
        "linear",
    ),
    (
        "sweeps.s.grid.lr_scheduler_type[1]",
        "models: {m: {source: a/b}}\ndatasets: {d: {source: a/c}}\n"
        "runs: {r: {model: m, dataset: d}}\n"
        "sweeps: {s: {run: r, grid: {lr_scheduler_type: [cosine, constnat]}}}",
        "constant",
    ),
]


@pytest.mark.parametrize(("place", "text", "right"), WRONG_NAMES)
def test_an_unknown_name_has_a_nearest_one(tmp_path, place, text, right):
    (tmp_path / "study.yaml").write_text(text)
    status, told = run_check(tmp_path, "study.yaml")
    assert (status, told.count("\n")) == (1, 3), told
    versions = swift_names()["versions"]
    known = f"ms-swift {versions['ms-swift']} or transformers {versions['transformers']}"
    assert f"  {place}: '" in told
    assert f"is not known to {known}; did you mean '" in told
    assert f"'{right}'" in told
    # another version may know it
    status, told = run_check(tmp_path, "study.yaml", "--config", "software=active")
    assert status == 0
    assert told.count("is not known to") == told.count(f"warning: {place}: '") == 1


def test_the_workflows_own_names_and_kernels_from_a_hub_are_known(tmp_path):
    (tmp_path / "study.yaml").write_text(
        "models: {a: {source: a/b, template: null, model_type: qwen2}}\n"
        "datasets: {d: {source: a/b}}\nruns: {r: {model: a, dataset: d}}\n"
        "sweeps: {s: {run: r, grid: {attn_impl: [auto, varlen, eager, kernels-community/fa3]}}}"
    )
    assert run_check(tmp_path, "study.yaml")[0] == 0


@pytest.mark.slow
def test_the_names_are_those_of_the_locked_environment(tmp_path):
    if not SWIFT.exists():
        pytest.skip("envs/swift is not synced")
    written = tmp_path / "names.json"
    program = ROOT / "scripts/dev/swift_names.py"
    subprocess.run([SWIFT, program, "--output", written], check=True)
    assert json.loads(written.read_text()) == swift_names(), f"run: {SWIFT} {program}"


# --- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "more", "place"),
    [
        ((), "training: {device: cuda}", "training.device"),
        ((), "serving: {device: cuda}", "serving.device"),
        ((("training: {}", "training: {device: cuda}"),), "", "runs.tuned.training.device"),
        ((("base}", "base, serving: {device: cuda}}"),), "", "models.base.serving.device"),
        ((), "sweeps: {s: {run: tuned, grid: {device: [cpu, cuda]}}}", "sweeps.s.grid.device"),
    ],
)
def test_cuda_without_a_gpu(study, monkeypatch, changes, more, place):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that no machine has one
    status, text = study(*changes, more=more)
    assert (status, text.count("\n")) == (1, 3), text
    assert f"{place}: cuda, but this machine has no GPU; write auto or cpu" in text
    assert study(*changes, more=more, arguments=("--cluster",))[0] == 0
    assert study(*changes, more=more, arguments=("--config", "stage=report"))[0] == 0


def test_in_doubt_a_gpu_is_not_said_to_be_absent(study, monkeypatch):
    monkeypatch.setattr(gpu, "absent", lambda: False)
    assert study(more="training: {device: cuda}")[0] == 0
