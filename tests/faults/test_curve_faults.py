"""Learning curves by a real training that goes too far: kept, measured, named, asked for late."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sftflow.config import resolve
from sftflow.core.jsonio import (
    file_entries,
    read_json,
    read_jsonl,
    read_record,
    tree_digest,
    write_json,
    write_jsonl,
    write_record,
)
from sftflow.core.layout import Results
from sftflow.core.manifests import verified
from sftflow.reporting.curve import OVERFITTING, Curves, curve_flags
from support import ROOT, SWIFT
from test_likelihood_faults import SETTINGS as LIKELIHOOD
from test_likelihood_faults import command, compute, records
from test_training_faults import demo, folder_of, kill_at, run, start, tiny  # noqa: F401
from test_training_faults import settings as training_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced"),
]

ASKED = LIKELIHOOD | {
    "subject": "run",
    "dialogue": {"max_length": 256, "neutral": {"zh": "config/neutral/zh.txt"}},
}
# 24 dialogues, 12 times, at a high rate: learnt by heart. The trainer itself keeps one checkpoint.
STEPS = [6, 12, 18, 24, 30, 36]
TOO_FAR = {
    "num_train_epochs": 12, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
    "learning_rate": 3e-3, "lora_rank": 16, "lora_dropout": 0.0, "save_steps": 6,
    "save_total_limit": 1, "eval_steps": 1000, "lr_scheduler_type": "constant",
}  # fmt: skip


@pytest.fixture(scope="module")
def few(demo, tmp_path_factory) -> Path:  # noqa: F811
    """The demo's model, and 24 of its dialogues to train on."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copytree(demo / "weights", folder / "weights")
    shutil.copyfile(demo / "manifest.json", folder / "manifest.json")
    rows = {"train": list(read_jsonl(demo / "train.jsonl"))[:24],
            "validation": list(read_jsonl(demo / "validation.jsonl"))}  # fmt: skip
    for name, part in rows.items():
        write_jsonl(folder / f"{name}.jsonl", part)
    entries = file_entries(folder, [folder / f"{name}.jsonl" for name in rows])
    receipt = read_json(demo / "receipt.json") | {
        "train_rows": 24, "dataset": "talks", "files": entries, "digest": tree_digest(entries),
    }  # fmt: skip
    write_record(folder / "receipt.json", receipt)
    return folder


def chosen(checkpoints, **more) -> dict:
    return training_settings(**TOO_FAR, **more, checkpoints=checkpoints) | {
        "made_with": {"training": TOO_FAR | more}  # what is kept changes no weight
    }


def listed(output: Path, checkpoints) -> subprocess.CompletedProcess:
    settings = {"run": "run", "training": {"checkpoints": checkpoints}}
    return subprocess.run(
        [
            sys.executable, ROOT / "scripts/keep_checkpoints.py", "--adapter",
            output / "adapter.json", "--training", output / "training.json",
            "--settings", json.dumps(settings), "--output", output / "checkpoints.json",
        ],
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def overfit(few, tmp_path_factory) -> Path:
    """Killed on the way, when most of its checkpoints were deleted by the trainer already."""
    output = tmp_path_factory.mktemp("overfit") / "results/runs/run"
    process = start(few, output, chosen("all"))
    kill_at(20, process, output)
    status, seen, log = run(few, output, chosen("all"))
    assert status == 0, log[-3000:]
    assert "goes on from step" in seen
    done = listed(output, "all")
    assert done.returncode == 0, done.stderr
    return output


def test_every_checkpoint_is_kept_whole(overfit):
    """Six, though the trainer itself kept one, and was killed."""
    made = read_record(overfit / "checkpoints.json")
    assert [one["step"] for one in made["steps"]] == STEPS
    assert made["missing"] == [] and made["last"] == 36
    for one in made["steps"]:
        manifest = verified(overfit / one["manifest"])
        assert manifest["digest"] == one["digest"] and manifest["step"] == one["step"]
        assert {file["path"] for file in manifest["files"]} == {
            "adapter_config.json", "adapter_model.safetensors",
        }  # fmt: skip
    assert len({one["digest"] for one in made["steps"]}) == 6
    assert [path.name for path in folder_of(overfit).glob("checkpoint-*")] == ["checkpoint-36"]
    assert not (folder_of(overfit) / "kept").exists(), "nothing lies there twice"


def measure(few: Path, output: Path, made: Path) -> str:
    more = ("--checkpoints", output / "checkpoints.json")
    return compute(few / "manifest.json", few / "receipt.json", made, ASKED, *more)


@pytest.fixture(scope="module")
def curve(few, overfit) -> Path:
    made = overfit.parents[1] / "dialogue/run/curve.json"
    measure(few, overfit, made)
    return made


def lines_of(curve: Path, step: int) -> dict:
    (one,) = [one for one in read_record(curve)["steps"] if one["step"] == step]
    lines = read_jsonl(curve.parents[2] / one["records"])
    return {(line["text"], line["id"]): line for line in lines}


def test_each_step_is_what_a_model_with_that_adapter_says(few, overfit, curve, tmp_path):
    """Adapters are changed on one base: nothing of the one before may be left."""
    (entry,) = [s for s in read_record(overfit / "checkpoints.json")["steps"] if s["step"] == 18]
    alone = tmp_path / "dialogue/run/likelihood.json"
    more = ("--adapter-manifest", overfit / entry["manifest"])
    compute(few / "manifest.json", few / "receipt.json", alone, ASKED, *more)
    assert records(alone) == lines_of(curve, 18)
    (step,) = [one for one in read_record(curve)["steps"] if one["step"] == 18]
    assert step["identity"] == read_record(alone)["identity"]
    assert lines_of(curve, 18) != lines_of(curve, 24)


def test_what_went_too_far_is_named(overfit, curve):
    """24 dialogues learnt by heart: the table, and what it says, from its own lines."""
    raw = {
        "models": {"demo": {"source": "config/demo/model"}},
        "datasets": {"talks": {"source": "config/demo/dialogues.jsonl"}},
        "runs": {"run": {"model": "demo", "dataset": "talks"}},
        "training": {"checkpoints": "all", "save_steps": 6},
        "dialogue": {"max_length": 256},
    }
    found = Curves(resolve.load(raw), Results(overfit.parents[1]))
    (one,) = found.choices
    sums = {}
    for step in (0, *STEPS):
        mine = [line for (text, _), line in lines_of(curve, step).items() if text == "talks"]
        sums[step] = sum(line["nll"] for line in mine) / sum(line["tokens"] for line in mine)
    assert one["best"] == min(sums, key=sums.get) and 0 < one["best"] < 36 == one["last"]
    assert one["rise"] == pytest.approx(sums[36] - sums[one["best"]])
    assert one["verdict"] == OVERFITTING
    (flag,) = curve_flags(found)
    assert f"lowest at step {one['best']}" in str(flag)


def test_what_is_known_is_not_computed_again(few, overfit, curve):
    before = curve.read_bytes()
    assert "all computed before" in measure(few, overfit, curve)
    assert json.loads(before)["steps"] == read_record(curve)["steps"]


@pytest.fixture
def late(overfit, tmp_path) -> Path:
    """As a training that knew nothing of the key leaves its folder."""
    copy = tmp_path / "run"
    shutil.copytree(overfit, copy)
    (steps,) = copy.glob("trainings/*/steps")
    shutil.rmtree(steps)
    return copy


def test_asked_for_after_the_training_nothing_is_trained_again(late):
    """GPU hours are spent by who says so: what is left counts, what is not is told."""
    done = listed(late, "all")
    assert done.returncode == 0, done.stderr
    made = read_record(late / "checkpoints.json")
    assert [one["step"] for one in made["steps"]] == [36] and made["missing"] == STEPS[:-1]
    assert "5 are gone, and nothing is trained again for them" in done.stdout
    done = listed(late, [12, 18])
    assert done.returncode != 0
    assert "without keeping the checkpoints of steps 12, 18" in done.stderr + done.stdout
    assert "Kept are 36" in done.stderr + done.stdout


def test_a_checkpoint_that_the_trainer_still_has_is_taken(late):
    folder = folder_of(late)
    shutil.copytree(folder / "checkpoint-36", folder / "checkpoint-30")
    marker = folder / "checkpoint-30/complete.json"
    write_json(marker, read_json(marker) | {"step": 30})
    assert listed(late, [30]).returncode == 0
    assert [one["step"] for one in read_record(late / "checkpoints.json")["steps"]] == [30, 36]
    (manifest,) = late.glob("trainings/*/steps/30/adapter.json")
    assert verified(manifest)["step"] == 30


def test_a_checkpoint_that_is_gone_is_told(few, late, tmp_path):
    assert listed(late, "all").returncode == 0
    made = read_record(late / "checkpoints.json")
    gone = {"step": 6, "manifest": "trainings/x/steps/6/adapter.json", "digest": "0"}
    write_record(late / "checkpoints.json", made | {"steps": [gone, *made["steps"]]})
    asked = command(
        few / "manifest.json", few / "receipt.json", tmp_path / "dialogue/run/curve.json", ASKED,
        "--checkpoints", late / "checkpoints.json",
    )  # fmt: skip
    done = subprocess.run(asked, capture_output=True, text=True)
    assert done.returncode != 0 and "the checkpoint of step 6 is gone" in done.stderr + done.stdout


def test_steps_that_a_training_never_comes_to_are_refused_before_it(few, tmp_path):
    status, seen, log = run(few, tmp_path / "run", chosen([6, 600]))
    assert status != 0 and "names 600, but the training has 36 steps" in seen + log
    assert not list(tmp_path.glob("run/checkpoints/*/events.jsonl"))
