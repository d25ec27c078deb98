"""Trainings that are killed, run out of memory, diverge or hold a secret: real ms-swift, no GPU."""

import contextlib
import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from sftflow.core.jsonio import (
    file_entries,
    read_json,
    read_record,
    tree_digest,
    tree_files,
    write_jsonl,
    write_record,
)
from sftflow.core.layout import Results
from sftflow.core.process import descendants
from sftflow.core.worker import WORKER
from sftflow.reporting import records
from sftflow.training.checkpoints import checkpoints
from sftflow.training.record import Events, history
from support import ROOT, SWIFT
from swanlab_server import SwanLab

HERE = Path(__file__).parent
KEY = "canary-4c1f0e"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced"),
]

TRAINING = {
    "tuner_type": "lora", "lora_rank": 4, "lora_alpha": 16, "lora_dropout": 0.05,
    "target_modules": "all-linear", "use_dora": False, "use_rslora": False,
    "torch_dtype": "float32", "num_train_epochs": 2, "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.1, "max_length": 256,
    "too_long": "drop", "eval_steps": 10, "save_steps": 5, "save_total_limit": 3,
    "logging_steps": 5, "dataloader_num_workers": 8, "seed": 42, "device": "cpu", "gpus": 1,
    "gradient_checkpointing": "auto", "use_liger_kernel": "auto", "group_by_length": "auto",
    "attn_impl": "auto", "extra": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([SWIFT, HERE / "training_tiny.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def demo(tiny, tmp_path_factory) -> Path:
    """The same with the demo's model and dialogues: a model that knows something."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(ROOT / "config/demo/model", folder / "weights")
    files = tree_files(folder / "weights")
    manifest = read_json(tiny / "manifest.json") | {"model": "demo", "parameters": 4_749_568}
    made = {"files": files, "digest": tree_digest(files)}
    write_record(folder / "manifest.json", manifest | made)
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    with open(ROOT / "config/demo/dialogues.jsonl", encoding="utf-8") as file:
        talks = [json.loads(line)["conversations"] for line in itertools.islice(file, 240)]
    rows = [
        {
            "messages": [{"role": roles[t["from"]], "content": t["value"]} for t in talk],
            "id": str(i),
        }
        for i, talk in enumerate(talks)
    ]
    parts = {"train": rows[:200], "validation": rows[200:]}
    for name, part in parts.items():
        write_jsonl(folder / f"{name}.jsonl", part)
    entries = file_entries(folder, [folder / f"{name}.jsonl" for name in parts])
    receipt = read_json(tiny / "receipt.json") | {"files": entries, "digest": tree_digest(entries)}
    write_record(folder / "receipt.json", receipt)
    return folder


def settings(**training) -> dict:
    return {
        "run": "tiny",
        "training": copy.deepcopy(TRAINING) | training,
        "model": {"name": "tiny", "model_type": "llama", "template": "chatml"},
        "swanlab": {"mode": "disabled"},
    }


def start(tiny: Path, output: Path, chosen: dict, *more: str | Path, **kwargs) -> subprocess.Popen:
    output.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [
            SWIFT, ROOT / "scripts" / "train.py",
            "--receipt", tiny / "receipt.json", "--manifest", tiny / "manifest.json",
            "--settings", json.dumps(chosen), "--output", output, *more,
        ],
        stdout=subprocess.PIPE,
        stderr=open(output / "log", "a", encoding="utf-8"),
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "SWANLAB_API_KEY": KEY},
        **kwargs,
    )  # fmt: skip


def run(tiny: Path, output: Path, chosen: dict, *more: str | Path) -> tuple[int, str, str]:
    """Exit status, what the person saw, what the log says."""
    process = start(tiny, output, chosen, *more)
    seen, _ = process.communicate(timeout=300)
    return process.returncode, seen, (output / "log").read_text()


def merge(tiny: Path, output: Path) -> subprocess.CompletedProcess:
    chosen = {
        "run": "tiny", "training": {"torch_dtype": "float32", "device": "cpu"},
        "model": {"model_type": "llama", "template": "chatml"},
    }  # fmt: skip
    return subprocess.run(
        [
            SWIFT, ROOT / "scripts" / "merge.py", "--adapter", output / "adapter.json",
            "--manifest", tiny / "manifest.json",
            "--settings", json.dumps(chosen), "--output", output,
        ],
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def folder_of(output: Path) -> Path:
    (found,) = (output / "checkpoints").iterdir()
    return found


def curve(output: Path) -> list[tuple[int, float, float]]:
    events = history(Events(folder_of(output) / "events.jsonl").new())
    return [(e["step"], e["loss"], e["learning_rate"]) for e in events if e["event"] == "step"]


def below(pid: int) -> list[str]:
    """Command lines of the living processes, of a training with its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                if b"plugin.py" in command:  # the training itself: its environment, too
                    command += (entry / "environ").read_bytes()
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    """An uninterrupted training, recorded by SwanLab offline with a key in the environment."""
    output = tmp_path_factory.mktemp("whole")
    chosen = settings() | {"swanlab": {"mode": "offline", "project": "test"}}
    process = start(tiny, output, chosen)
    seen: set[str] = set()
    while process.poll() is None:
        seen.update(below(process.pid))
        time.sleep(0.5)
    assert process.returncode == 0, (output / "log").read_text()[-3000:]
    (output / "processes").write_text("\n".join(seen))
    return output


def test_record_is_complete(whole):
    record = read_json(whole / "training.json")
    assert record["steps"] == 26 and record["epochs"] == 2
    assert record["train_rows"] == 200 and record["validation_rows"] == 40
    assert record["final_loss"] < record["curve"]["loss"][0]
    assert len(record["curve"]["loss"]) == len(record["curve"]["learning_rate"]) == 26
    assert record["validation_curve"]["step"] == [0, 10, 20, 26]
    checked = record["validation_curve"]["loss"]
    assert record["validation_loss_before"] == checked[0] > record["validation_loss"] == checked[-1]
    assert record["validation_change_se"] > 0 and record["loss_weights"] == "labelled tokens"
    assert record["window_steps"] == 10 and not record["flags"]
    labelled, losses = record["curve"]["labelled"][-10:], record["curve"]["loss"][-10:]
    assert record["final_loss"] == pytest.approx(
        sum(map(float.__mul__, losses, map(float, labelled))) / sum(labelled)
    )
    assert 0 < record["token_accuracy"] < 1
    assert record["tokens"] < record["positions"]
    assert record["swanlab"]["status"] == "recorded"
    assert not [name for name in record if name.startswith("gpu_")], "absent, not zero"
    assert read_json(whole / "adapter.json")["training"] == record["identity"]


def test_key_is_nowhere(whole):
    """Files, logs, what SwanLab would upload, the arguments of every process meanwhile, and the
    environment of the training."""
    assert "SFTFLOW_PLUGIN=" in (whole / "processes").read_text()
    assert list((whole / "swanlab").glob("run-*/*.swanlab"))
    holders = [p for p in whole.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert not holders


def test_scores_join_the_record(whole):
    score = whole / "score.json"
    write_record(score, {"suite": "general", "benchmark": "gsm8k", "score": 0.5})
    done = subprocess.run(
        [
            SWIFT, ROOT / "scripts" / "track.py", "--training", whole / "training.json",
            "--settings", json.dumps({"mode": "offline", "project": "test"}), "--scores", score,
            "--output", whole / "swanlab", "--record", whole / "swanlab.json",
        ],
        capture_output=True, text=True, env=os.environ | {"SWANLAB_API_KEY": KEY},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = read_json(whole / "swanlab.json")
    assert record["status"] == "recorded" and record["scores"] == 1
    assert record["id"] == read_json(whole / "training.json")["swanlab"]["id"]
    (uploaded,) = (whole / "swanlab").glob("run-*/*.swanlab")
    assert b"scores/general/gsm8k" in uploaded.read_bytes()


def kill_at(step: int, process: subprocess.Popen, output: Path, all_at_once: bool = False) -> None:
    """Kill a training that has made this step, and wait until what it started is gone, too;
    `all_at_once`: kill that at the same time, so that it makes no further step."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        found = list(output.glob("checkpoints/*/events.jsonl"))
        if found and any(e.get("step") == step for e in Events(found[0]).new()):
            break
        time.sleep(0.02)
    for pid in descendants(process.pid) if all_at_once else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(8)  # the guard notices, TERM, then KILL


def test_killed_training_goes_on_with_the_same_curve(tiny, whole, tmp_path):
    output = tmp_path / "run"
    process = start(tiny, output, settings())
    kill_at(12, process, output)
    assert not [line for line in below(process.pid) if str(output) in line], "nothing left behind"
    folder = folder_of(output)
    kept = [step for step, _ in checkpoints(folder)]
    assert kept[-1] < 26, "killed in time"
    damaged = kept.pop()  # as if the kill had come while it was written
    os.truncate(folder / f"checkpoint-{damaged}" / "optimizer.pt", 100)
    assert [step for step, _ in checkpoints(folder)] == kept
    status, seen, log = run(tiny, output, settings())
    assert status == 0, log[-3000:]
    assert f"goes on from step {kept[-1]}" in seen
    assert curve(output) == curve(whole)
    digest = lambda folder: read_json(folder / "adapter.json")["files"][1]["sha256"]  # noqa: E731
    assert digest(output) == digest(whole), "the same weights, bit for bit"
    record = read_json(output / "training.json")
    assert record["resumed"] == 1
    assert record["seconds"] > record["train_seconds"], "of both attempts"
    every = Events(folder / "events.jsonl").new()
    assert [e["step"] for e in every if e["event"] == "validation"].count(0) == 1
    assert record["validation_curve"] == read_json(whole / "training.json")["validation_curve"]

    began = time.monotonic()  # a finished training is not trained again
    assert run(tiny, output, settings())[0] == 0
    assert time.monotonic() - began < 10


def climbed(tiny: Path, output: Path, part: int, **training) -> dict:
    """The record of a rung at 1/part of the steps."""
    rung = output / f"rungs/{part}.json"
    status, _, log = run(
        tiny, output, settings(**training), "--part", str(part), "--rung", str(rung)
    )
    assert status == 0, log[-3000:]
    return read_record(rung)


def test_a_training_in_rungs_is_the_training_in_one_go(tiny, whole, tmp_path):
    """26 steps, stopped after 7 and 13, one of them killed on the way: else halving would choose
    among other trainings than those that it then reports."""
    output = tmp_path / "run"
    process = start(tiny, output, settings(), "--part", "4", "--rung", str(output / "4.json"))
    kill_at(6, process, output, all_at_once=True)  # the checkpoint of step 5 is there
    first = climbed(tiny, output, 4)
    events = Events(folder_of(output) / "events.jsonl").new()
    assert [e["first_step"] for e in events if e["event"] == "start"] == [0, 5]
    assert (first["step"], first["steps"]) == (7, 26)
    assert [step for step, _ in checkpoints(folder_of(output))] == [5, 7]
    assert not (output / "training.json").exists() and not (output / "adapter.json").exists()
    second = climbed(tiny, output, 2)
    assert (second["step"], second["training"]) == (13, first["training"])
    assert second["validation_loss"] < first["validation_loss"]
    before = (folder_of(output) / "events.jsonl").read_text()
    (output / "rungs/4.json").unlink()
    assert climbed(tiny, output, 4) == first, "known, so nothing is trained for it"
    assert (folder_of(output) / "events.jsonl").read_text() == before

    status, seen, log = run(tiny, output, settings())
    assert status == 0, log[-3000:]
    assert "goes on from step 13" in seen
    assert curve(output) == curve(whole)
    made, plain = (read_json(place / "training.json") for place in (output, whole))
    assert made["identity"] == plain["identity"] == first["training"]
    digest = lambda folder: read_json(folder / "adapter.json")["files"][1]["sha256"]  # noqa: E731
    assert digest(output) == digest(whole), "the same weights, bit for bit"
    losses = dict(zip(*(made["validation_curve"][k] for k in ("step", "loss")), strict=True))
    assert (losses[7], losses[13]) == (first["validation_loss"], second["validation_loss"])
    plain = dict(zip(*(plain["validation_curve"][k] for k in ("step", "loss")), strict=True))
    assert plain.items() <= losses.items()

    shutil.rmtree(output / "checkpoints")  # finished, and without the loss of another rung
    third = climbed(tiny, output, 8)
    assert (third["step"], third["training"]) == (4, first["training"])
    assert third["validation_loss"] > first["validation_loss"]
    assert run(tiny, output, settings())[0] == 0
    assert read_json(output / "training.json") == made


def test_a_point_that_diverges_is_the_worst_and_one_left_out_costs_nothing(tiny, tmp_path):
    """A grid with one learning rate too many must not fail as a whole."""
    plugin = {"external_plugins": [str(HERE / "training_nan_plugin.py")]}
    lost = climbed(tiny, tmp_path / "run", 2, extra=plugin)
    assert lost["validation_loss"] is None
    assert "not finite" in lost["why"] or "the loss is" in lost["why"]

    decision = tmp_path / "halving.json"
    write_record(decision, {"schema": 1, "going_on": ["other"]})
    nowhere, rung = tmp_path / "left", tmp_path / "left/2.json"
    began = time.monotonic()
    status, _, log = run(
        tmp_path, nowhere, settings(), "--part", "2", "--rung", rung, "--after", decision
    )
    assert status == 0, log[-3000:]
    assert read_record(rung)["left_out"] and time.monotonic() - began < 5
    assert not list(nowhere.glob("checkpoints/*"))


def test_of_two_trainings_in_one_place_one_trains_and_takes_over_from_the_other(tiny, tmp_path):
    """As when a Slurm job outlives its submitter, or two clones share their results."""
    output = tmp_path / "run"
    holder = output / f"{WORKER}.holder"
    first = start(tiny, output, settings(num_train_epochs=1))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(output.glob("checkpoints/*/events.jsonl")):
        time.sleep(0.05)
    second = start(tiny, output, settings(num_train_epochs=1))
    named = second.stdout.readline()
    first.kill()
    first.wait()
    seen, _ = second.communicate(timeout=300)
    assert second.returncode == 0, (output / "log").read_text()[-3000:]
    assert named.startswith(f"waiting for {output}: process {first.pid} on")
    assert "is gone, this job takes over" in seen
    events = Events(folder_of(output) / "events.jsonl").new()
    assert [e["event"] for e in events].count("end") == 1
    whole = [e["step"] for e in history(events) if e["event"] == "step"]
    assert whole == list(range(1, 14)), "nobody else wrote in between"
    assert not holder.exists() and not (output / WORKER).exists()


def test_out_of_memory_lowers_the_micro_batch_not_the_step(tiny, whole, tmp_path):
    plugin = {"external_plugins": [str(HERE / "training_oom_plugin.py")]}
    # and a SwanLab that can't be reached, whose key nobody is told
    chosen = settings(extra=plugin) | {"swanlab": {"mode": "cloud", "project": "test"}}
    status, seen, log = run(tiny, tmp_path / "run", chosen)
    assert status == 0, log[-3000:]
    assert KEY not in log
    record = read_json(tmp_path / "run" / "training.json")
    assert [(o["micro_batch"], o["accumulation"]) for o in record["out_of_memory"]] == [
        (4, 4),
        (2, 8),
    ]
    assert "out of memory: micro-batch 4 × 4" in seen
    assert record["swanlab"]["status"] == "kept" and record["swanlab"]["why"] in seen
    assert list((tmp_path / "run" / "swanlab").glob("run-*/*.swanlab"))
    for got, expected in zip(curve(tmp_path / "run"), curve(whole), strict=True):
        assert got == pytest.approx(expected, rel=2e-3), "the same dialogues in every step"


def test_validation_in_between_changes_no_weight(tiny, tmp_path):
    """Dropout draws from the random state of the training; a validation must not."""
    weights = []
    for name, steps in (("often", 2), ("never", 1000)):
        chosen = settings(num_train_epochs=1, lora_dropout=0.3, eval_steps=steps)
        status, _, log = run(tiny, tmp_path / name, chosen)
        assert status == 0, log[-3000:]
        record = read_json(tmp_path / name / "training.json")
        weights.append((tmp_path / name / "adapter/adapter_model.safetensors").read_bytes())
        checked = record["validation_curve"]["step"]
        assert checked == ([0, 2, 4, 6, 8, 10, 12, 13] if steps == 2 else [0, 13])
    assert weights[0] == weights[1]


@pytest.mark.parametrize("answers", [True, False])
def test_swanlabs_server_changes_no_weight(tiny, whole, tmp_path, answers):
    """One that hears everything, and one that never answers."""
    with SwanLab(KEY) as server:
        if not answers:
            server.fault = lambda method, path: time.sleep(600)
        tracked = {"mode": "cloud", "host": server.host, "project": "test", "workspace": None}
        status, seen, log = run(tiny, tmp_path / "run", settings() | {"swanlab": tracked})
        assert status == 0, log[-3000:]
        ended = time.time()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        made = [(folder / "adapter" / name).read_bytes() for folder in (tmp_path / "run", whole)]
        assert made[0] == made[1]
    assert curve(tmp_path / "run") == curve(whole)
    record = read_json(tmp_path / "run" / "training.json")
    if answers:
        id = record["swanlab"]["id"]
        assert record["swanlab"]["status"] == "recorded"
        assert server.curve(id, "train/loss") == [(step, loss) for step, loss, _ in curve(whole)]
        assert server.experiments[id]["state"] == "FINISHED"
    else:
        assert record["swanlab"]["status"] == "kept" and record["swanlab"]["why"] in seen
        events = Events(folder_of(tmp_path / "run") / "events.jsonl").new()
        assert ended - events[-1]["time"] < 80
    assert KEY not in log + seen


def test_a_recorder_that_is_killed_costs_the_record_alone(tiny, whole, tmp_path):
    """SwanLab's process, by somebody who looks for memory."""
    output = tmp_path / "run"
    training = start(tiny, output, settings() | {"swanlab": {"mode": "offline", "project": "test"}})

    def recorders() -> list[int]:
        found = []
        for pid in descendants(training.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"/track.py\0" in words and b"/process.py\0" not in words:  # not its guard
                    found.append(pid)
        return found

    while not recorders():
        assert training.poll() is None
        time.sleep(0.05)
    os.kill(recorders()[0], signal.SIGKILL)
    seen, _ = training.communicate(timeout=300)
    assert training.returncode == 0 and curve(output) == curve(whole)
    record = read_json(output / "training.json")["swanlab"]
    assert record["status"] == "failed" and record["why"] in seen


def test_two_processes_make_the_same_steps(tiny, whole, tmp_path):
    """As on two GPUs: half the accumulation, the same dialogues in every step, one event log."""
    command = yaml.safe_load((whole / "command.yaml").read_text())
    command |= {"gradient_accumulation_steps": 1, "output_dir": str(tmp_path / "run")}
    (tmp_path / "command.yaml").write_text(yaml.safe_dump(command))
    done = subprocess.run(
        [
            SWIFT, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            ROOT / "scripts" / "sftflow" / "training" / "plugin.py", tmp_path / "command.yaml",
        ],
        capture_output=True, text=True,
        env=os.environ | {
            "SFTFLOW_PLUGIN": json.dumps({"events": str(tmp_path / "events.jsonl")}),
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [e for e in Events(tmp_path / "events.jsonl").new() if e["event"] == "step"]
    every = history(Events(folder_of(whole) / "events.jsonl").new())
    expected = [e for e in every if e["event"] == "step"]
    assert [e["tokens"] for e in steps] == [e["tokens"] for e in expected]
    assert [e["loss"] for e in steps] == pytest.approx([e["loss"] for e in expected], rel=2e-3)
    assert [e["labelled"] for e in steps] == [e["labelled"] for e in expected]
    checks, alone = (
        [e for e in found if e["event"] == "validation"]
        for found in (Events(tmp_path / "events.jsonl").new(), every)
    )
    assert [e["step"] for e in checks] == [e["step"] for e in alone]
    assert [sum(e["labelled"]) for e in checks] == [sum(e["labelled"]) for e in alone]
    assert [e["loss"] for e in checks] == pytest.approx([e["loss"] for e in alone], rel=2e-3)
    assert [step for step, _ in checkpoints(tmp_path / "run")] == [20, 25, 26]


def test_a_training_that_was_given_a_gpu_never_goes_on_without(whole, tmp_path):
    """NVIDIA's library shows a GPU that this torch can't use: an old driver, no /dev/nvidia-uvm."""
    command = yaml.safe_load((whole / "command.yaml").read_text())
    command |= {"output_dir": str(tmp_path / "run")}
    (tmp_path / "command.yaml").write_text(yaml.safe_dump(command))
    told = {"events": str(tmp_path / "events.jsonl"), "device": "cuda"}
    done = subprocess.run(
        [SWIFT, ROOT / "scripts/sftflow/training/plugin.py", tmp_path / "command.yaml"],
        capture_output=True, text=True,
        env=os.environ | {"SFTFLOW_PLUGIN": json.dumps(told), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    (failed,) = Events(tmp_path / "events.jsonl").new()
    assert failed["kind"] == "device" and "computes on the CPU" in failed["message"]


def test_diverging_loss_stops_and_keeps_the_last_good_checkpoint(tiny, tmp_path):
    chosen = settings(
        learning_rate=50.0, save_steps=1, warmup_ratio=0.3, extra={"max_grad_norm": 0}
    )
    status, _, log = run(tiny, tmp_path / "run", chosen)
    assert status == 1
    assert "lower learning_rate" in log.splitlines()[-1]
    assert "Traceback" not in log.splitlines()[-1]
    assert checkpoints(folder_of(tmp_path / "run")), "the last good one is kept"
    assert not (tmp_path / "run" / "training.json").exists()


def test_a_destroyed_model_is_flagged_wherever_the_training_is_shown(demo, tmp_path):
    chosen = settings(learning_rate=1.0, num_train_epochs=1)
    status, seen, log = run(demo, tmp_path / "runs/wild", chosen)
    assert status == 0, log[-3000:]
    record = read_json(tmp_path / "runs/wild/training.json")
    assert record["validation_loss"] > 2 * record["validation_loss_before"]
    (flag,) = record["flags"]
    assert flag["kind"] == "destroyed" and "lower learning_rate" in flag["remedy"]
    assert f"train tiny  destroyed: {flag['text']}" in seen
    made = {"training": chosen["training"], "model": "demo", "dataset": "d", "sweep": None}
    study = {"runs": {"wild": made}, "models": {}, "datasets": {}}
    table = records.training_table(study, Results(tmp_path))
    assert table.sections[0][1]["Flags"].tolist() == ["destroyed"]
    assert any(flag["text"] in note and flag["remedy"] in note for note in table.notes)


def test_a_learning_rate_of_300_does_not_pass_in_silence(demo, tmp_path):
    """Whether a number overflows, which stops the training, is the machine's business."""
    chosen = settings(learning_rate=300.0, num_train_epochs=1)
    status, seen, log = run(demo, tmp_path / "run", chosen)
    assert "lower learning_rate" in (log.splitlines()[-1] if status else seen)


def test_a_gradient_that_is_no_number_stops_before_its_checkpoint(tiny, tmp_path):
    plugin = {"external_plugins": [str(HERE / "training_nan_plugin.py")]}
    chosen = settings(save_steps=1, save_total_limit=1, extra=plugin)
    status, _, log = run(tiny, tmp_path / "run", chosen)
    assert status == 1
    assert "the gradient is not finite at step 7" in log.splitlines()[-1]
    assert checkpoints(folder_of(tmp_path / "run"))[-1][0] == 6


def test_unknown_flag_names_the_nearest(tiny, tmp_path):
    status, _, log = run(tiny, tmp_path / "run", settings(extra={"neftune_alpha": 5, "sed": 1}))
    assert status == 1
    message = log.splitlines()[-1]
    assert "(did you mean neftune_noise_alpha?)" in message and "did you mean seed?" in message


def test_rows_that_ms_swift_drops_are_an_error(tiny, tmp_path):
    status, _, log = run(tiny, tmp_path / "run", settings(max_length=40, extra={"strict": False}))
    assert status == 1
    assert "of the 200 train_rows that the receipt counts" in log.splitlines()[-1]


def test_packed_rows_and_fused_lora_give_the_losses_of_the_padded_reference(tiny, tmp_path):
    """What a GPU gets by default, and checkpointing, against padded rows and PEFT's own LoRA."""
    curves, records = [], []
    for name, changed in {
        "padded": {},
        "packed": {"attn_impl": "varlen", "fused_lora": True, "gradient_checkpointing": True},
    }.items():
        chosen = settings(num_train_epochs=1, lora_dropout=0.0, **changed)
        status, _, log = run(tiny, tmp_path / name, chosen)
        assert status == 0, log[-3000:]
        curves.append(curve(tmp_path / name))
        records.append(read_json(tmp_path / name / "training.json"))
    assert [loss for _, loss, _ in curves[1]] == pytest.approx(
        [loss for _, loss, _ in curves[0]], rel=1e-4
    )
    padded, packed = records
    assert packed["padded_share"] == 0 < padded["padded_share"]
    assert packed["tokens"] == padded["tokens"] == packed["positions"]
    assert packed["validation_curve"]["token_accuracy"] == pytest.approx(
        padded["validation_curve"]["token_accuracy"], abs=0.03
    )
    start = next(e for e in Events(folder_of(tmp_path / "packed") / "events.jsonl").new())
    assert (start["fused_layers"], start["checkpointed_layers"]) == (14, 2)
    applied = {each["name"] for each in packed["patches"] if each["applied"]}
    assert applied >= {"packed_rows", "fused_lora", "checkpointed_layers", "level_micro_batches"}


def test_a_base_in_fp8_learns_what_one_in_bf16_does(demo, tmp_path):
    records = []
    for precision in ("torch_dtype", "fp8"):
        chosen = settings(
            num_train_epochs=1, learning_rate=3e-3, torch_dtype="bfloat16", precision=precision,
            attn_impl="varlen", fused_lora=True,
        )  # fmt: skip
        status, _, log = run(demo, tmp_path / precision, chosen)
        assert status == 0, log[-3000:]
        records.append(read_json(tmp_path / precision / "training.json"))
    plain, rounded = records
    assert [record["fp8_layers"] for record in records] == [0, 28]
    assert plain["identity"] != rounded["identity"]
    learned = [each["validation_loss_before"] - each["validation_loss"] for each in records]
    assert min(learned) > 0.1
    assert rounded["validation_loss"] == pytest.approx(plain["validation_loss"], rel=0.005)
    assert rounded["validation_loss"] != plain["validation_loss"]


FOREIGN = """\
import importlib.metadata

known = importlib.metadata.version
told = {"ms-swift": "4.99.0", "peft": "0.99.0"}
importlib.metadata.version = lambda name: told.get(name) or known(name)
"""


def test_untested_versions_train_with_stock_parts(tiny, tmp_path, monkeypatch):
    """Also where packed rows and fused LoRA are asked for: padded rows, PEFT's LoRA, reasons."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "sitecustomize.py").write_text(FOREIGN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "foreign"))
    changed = {"attn_impl": "varlen", "fused_lora": True, "num_train_epochs": 1}
    status, _, log = run(tiny, tmp_path / "run", settings(**changed))
    assert status == 0, log[-3000:]
    record = read_json(tmp_path / "run" / "training.json")
    why = {each["name"]: each["why"] for each in record["patches"] if not each["applied"]}
    assert why["packed_rows"] == "ms-swift 4.99.0 is not among the tested versions, ~=4.6.0"
    assert why["fused_lora"] == "peft 0.99.0 is not among the tested versions, >=0.20,<0.22"
    assert record["versions"]["peft"] == "0.99.0"
    assert record["padded_share"] > 0 and record["final_loss"] < record["curve"]["loss"][0]


@pytest.mark.parametrize(
    "changed",
    [{"tuner_type": "full", "learning_rate": 1e-3}, {"use_dora": True}, {"use_rslora": True}],
    ids=["full", "dora", "rslora"],
)
def test_other_ways_of_tuning_train_and_merge(tiny, tmp_path, changed):
    output = tmp_path / "run"
    status, _, log = run(tiny, output, settings(num_train_epochs=1, **changed))
    assert status == 0, log[-3000:]
    done = merge(tiny, output)
    assert done.returncode == 0, done.stderr[-3000:]
    merged = read_json(output / "merged.json")
    assert merged["check"]["base_mean"] > 4 * merged["check"]["merged_mean"]
    assert (output / "merged" / "model.safetensors").exists()
    assert (output / "merged" / "tokenizer.json").exists()


def test_merge_is_made_afresh_and_a_wrong_one_fails(tiny, whole):
    (whole / "merged").mkdir()
    (whole / "merged" / "stale").touch()
    done = merge(tiny, whole)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (whole / "merged" / "stale").exists()
    config = whole / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(read_json(config) | {"lora_alpha": 1}))
    done = merge(tiny, whole)
    assert done.returncode == 1 and f"{config} is another file" in done.stderr
    assert done.stderr.endswith(f"Delete {whole}/adapter.json, and it is made again.\n")


def test_help_needs_no_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "scripts" / "train.py", "--help"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
    )  # fmt: skip
    assert done.returncode == 0 and "torch" not in done.stderr
