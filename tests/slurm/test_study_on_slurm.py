"""A small study on a real Slurm: a sweep as an array, and what a cluster does to a training."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from sftflow.core.jsonio import read_jsonl, read_record
from support import EVALSCOPE, ROOT, SWIFT, copy_workflow, stand_in_cards
from test_slurm import ON_SLURM, asked_for, submitted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("slurm"),
    pytest.mark.skipif(not (SWIFT.exists() and EVALSCOPE.exists()), reason="needs both tools"),
]

RUNS = ["rank-lora_rank4", "rank-lora_rank8"]
# As the tests' own environment finds the tools, each job on a node finds them.
ACTIVE = os.environ | {"PYTHON_SWIFT": str(SWIFT), "PYTHON_EVALSCOPE": str(EVALSCOPE)}
ON_NODES = ["prepare_dataset", "native_model", "tokenize_run", "find_contamination", "train_run",
            "merge_run", "serve_subject", "evaluate_suite"]  # fmt: skip
STUB = ROOT / "tests/faults/stub_server.py"
QUICK = ["--seconds-between-status-checks", "3"]
QUICK += ["--default-resources", "runtime=10", "mem_mb=500", "nodes=1"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The demo, with a sweep of two short trainings instead of its run."""
    folder = copy_workflow(tmp_path_factory.mktemp("on-slurm"))
    path = folder / "config/config.yaml"
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    study["sweeps"] = {"rank": {"run": "tiny-sft", "grid": {"lora_rank": [4, 8]}}}
    study["runs"]["slow"] = {"model": "tiny", "dataset": "psychology"}
    study["training"] |= {"num_train_epochs": 0.15, "save_steps": 10, "eval_steps": 60}
    study["training"]["checkpoints"] = None
    for rule in ON_NODES:  # two jobs at once in the node's two cores and 4 GB
        asked = study["resources"].setdefault(rule, {})
        asked |= {"threads": 1, "mem_mb": 1000}
    study["resources"]["train_run"]["runtime"] = 10
    path.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    return folder


def command(clone: Path, *targets: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "2", *targets, *ON_SLURM, *QUICK]


def begin(clone: Path, *more: str) -> subprocess.Popen:
    log = open(clone / "said", "w", encoding="utf-8")
    return subprocess.Popen(
        command(clone, *more), cwd=clone, env=ACTIVE, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def until(true: Callable, child: subprocess.Popen | None = None, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert child is None or child.poll() is None, "snakemake has ended"
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.5)


def events(clone: Path, run: str) -> list[dict]:
    files = (clone / f"results/runs/{run}").glob("checkpoints/*/events.jsonl")
    return [event for file in files for event in read_jsonl(file)]


def saves(clone: Path, run: str) -> int:
    return sum(event["event"] == "saved" for event in events(clone, run))


def training(clone: Path, run: str) -> dict:
    return read_record(clone / f"results/runs/{run}/training.json")


def queue() -> list[str]:
    shown = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True)
    return shown.stdout.split()


def test_a_cancelled_training_goes_on(clone):
    """scancel, as an administrator does it: the retry resumes at the last checkpoint."""
    run = RUNS[0]
    child = begin(clone, f"results/runs/{run}/training.json", "--retries", "2")
    try:
        until(lambda: saves(clone, run), child)
        subprocess.run(["scancel", submitted((clone / "said").read_text("utf-8"))[-1]], check=True)
        assert child.wait(300) == 0, (clone / "said").read_text("utf-8")[-3000:]
    finally:
        os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
    assert training(clone, run)["resumed"] == 1


def of_training(clone: Path, run: str) -> list[int]:
    """The processes of a training's ms-swift."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if (entry / "cmdline").read_text().split("\0")[2:-1] == [
                str(clone / f"results/runs/{run}/command.yaml")
            ]:
                found.append(int(entry.name))
    return found


def test_a_training_that_runs_out_of_time_goes_on(clone):
    """It hangs, and Slurm ends it at its limit. The retry has longer, here not long enough; the
    reason is said last, and the next snakemake resumes at the last checkpoint."""
    run, target = "slow", "results/runs/slow/training.json"
    child = begin(clone, target, "--retries", "1")
    try:
        for limit in "00:10:00", "00:15:00":
            before = saves(clone, run)
            until(lambda before=before: saves(clone, run) > before, child, 400)
            job = submitted((clone / "said").read_text("utf-8"))[-1]
            assert asked_for(job)["TimeLimit"] == limit
            for pid in of_training(clone, run):
                os.kill(pid, signal.SIGSTOP)
            subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=1"], check=True)
            until(lambda job=job: job not in queue())
        assert child.wait(300) == 1
    finally:
        os.killpg(child.pid, signal.SIGKILL) if child.poll() is None else None
    said = (clone / "said").read_text("utf-8").rstrip().splitlines()
    assert any(
        "(TIMEOUT): its time was over; more: `resources`, runtime" in line for line in said[-6:]
    )
    done = subprocess.run(command(clone, target), cwd=clone, env=ACTIVE, timeout=400)
    assert done.returncode == 0
    assert training(clone, run)["resumed"] == 2


def test_a_lost_submitter_costs_no_training(clone):
    """Its login node went down: the job trains on, and whoever asks again waits for it."""
    run = RUNS[1]
    child = begin(clone, f"results/runs/{run}/training.json")
    until(lambda: saves(clone, run), child)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    again = subprocess.run(
        command(clone, f"results/runs/{run}/training.json"),
        cwd=clone, env=ACTIVE, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-3000:]
    assert training(clone, run)["resumed"] == 0, "the second job has trained, too"
    until(lambda: not queue(), seconds=60)


def test_a_sweep_is_an_array_and_comes_to_its_tables(clone):
    """End to end: the rest of the sweep, merged, served and asked on the cluster."""
    scores = [f"results/scores/{name}/gsm8k.json" for name in ["tiny", *RUNS]]
    done = subprocess.run(
        [*command(clone, *scores), "--slurm-array-jobs=merge_run"],
        cwd=clone, env=ACTIVE, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert re.search(r"array", said, re.IGNORECASE)
    assert all((clone / score).exists() for score in scores)
    assert "rule_score_suite" not in said, "what takes a second is no job of the cluster"


def test_two_subjects_are_asked_at_once_each_on_a_card_of_its_own(clone):
    """Cards and server are stand-ins; which card a job is given, and gives its server, is not."""
    path, log = clone / "config/config.yaml", clone / "asked.jsonl"
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    study["serving"] |= {"device": "auto", "backend": "transformers", "time_both_forms": False}
    path.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    python = clone / "stub"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {STUB} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    session = {"device": "cuda:0", "import_seconds": 0, "load_seconds": 0}
    stub = {"log": str(log), "delay": 0.5, "session": session}
    told = {"STUB": json.dumps(stub), "SFTFLOW_PASS": "STUB", "PYTHON_SWIFT": str(python)}
    for run in RUNS:
        shutil.rmtree(clone / f"results/evaluations/{run}", ignore_errors=True)
        (clone / f"results/subjects/{run}/readiness.json").unlink(missing_ok=True)
    targets = [f"results/evaluations/{run}/general.json" for run in RUNS]
    done = subprocess.run(
        command(clone, *targets), cwd=clone, env=ACTIVE | stand_in_cards(clone / "cards") | told,
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    asked: dict[str, list[dict]] = {}
    for row in read_jsonl(log):
        asked.setdefault(row["card"], []).append(row)
    assert asked.keys() == {"GPU-test-0", "GPU-test-1"}
    one, other = ([row["at"] for row in rows] for rows in asked.values())
    assert max(one[0], other[0]) < min(one[-1], other[-1]), "one waited for the other"
    assert len({tuple(sorted({row["key"] for row in rows})) for rows in asked.values()}) == 1
    for run in RUNS:
        ready = read_record(clone / f"results/subjects/{run}/readiness.json")
        assert len(ready["hardware"]["gpus"]) == 1
