"""GPUs: absent here, and with a stand-in for NVIDIA's management library."""

import getpass
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sftflow.core import gpu
from sftflow.core.cli import UserError
from stand_in_gpus import StandIn


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", StandIn())
    monkeypatch.setattr(gpu, "LEASES", tmp_path)
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # import fails


def test_without_gpu_everything_is_absent(no_gpu):
    assert gpu.describe() == []
    with gpu.claim(1) as mine:
        assert mine == []
    with gpu.Sampler(0.01) as sampler:
        time.sleep(0.05)
    assert sampler.summary(0, time.time()) == sampler.curve(0, time.time()) == {}


def test_visible_gpus(two_gpus, monkeypatch):
    assert [g["uuid"] for g in gpu.describe()] == ["GPU-test-0", "GPU-test-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [g["uuid"] for g in gpu.describe()] == ["GPU-test-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-test-0")
    assert gpu.describe()[0]["capability"] == [9, 0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu.describe() == []


def test_two_jobs_hold_different_gpus_and_a_third_waits(two_gpus):
    with gpu.claim(1) as first:
        assert [g["uuid"] for g in gpu.describe()] == [first[0]["uuid"]]
    held, seen = threading.Event(), []

    def other():
        with gpu.claim(2, interval=0.01) as both:
            seen.extend(both)

    with gpu.claim(1):
        gpu.os.environ.pop("CUDA_VISIBLE_DEVICES")  # the other job's environment is its own
        waiting = threading.Thread(target=other)
        waiting.start()
        held.wait(0.1)
        assert not seen
        gpu.os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-test-0"
    waiting.join(5)
    assert len(seen) == 2


@pytest.mark.parametrize("trials", ["20", pytest.param("500", marks=pytest.mark.slow)])
def test_jobs_that_want_both_cards_never_wait_for_each_other(tmp_path, trials):
    """Each keeping the one that the other waits for, they would hang for ever. Three jobs a trial,
    processes of their own, begun at once in an order that a seed gives."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("lease_trials.py")), str(tmp_path), trials],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [trials, "trials,", "0", "hung"], done.stderr


def test_leases_lie_where_every_job_and_every_user_of_a_host_looks(two_gpus, tmp_path):
    """They followed TMPDIR, which clusters set for each job, and belonged to one user."""
    places = {
        subprocess.run(
            [sys.executable, "-c", "from sftflow.core import gpu; print(gpu.LEASES)"],
            cwd=Path(gpu.__file__).parents[2], env=os.environ | {"TMPDIR": str(folder)},
            capture_output=True, text=True, check=True,
        ).stdout
        for folder in (tmp_path, tmp_path.parent)
    }  # fmt: skip
    assert len(places) == 1
    before = os.umask(0o077)
    try:
        with gpu.claim(1):
            modes = {path.stat().st_mode & 0o777 for path in tmp_path.glob("*/*.lock")}
            assert modes == {0o666} and (tmp_path / "sftflow-gpus").stat().st_mode & 0o777 == 0o777
    finally:
        os.umask(before)


def test_cards_on_which_others_compute_are_passed_over(two_gpus, capsys):
    sys.modules["pynvml"].busy = {0: [4711]}
    with gpu.claim(1) as mine:
        assert [g["uuid"] for g in mine] == ["GPU-test-1"]
    assert "GPU-test-0: in use (process 4711)" in capsys.readouterr().out


def test_cards_that_slurm_granted_are_used_whoever_computes_there(two_gpus, monkeypatch):
    sys.modules["pynvml"].busy = {0: [4711]}
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with gpu.claim(1) as mine:
        assert mine[0]["uuid"] == "GPU-test-0"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"SLURM_JOB_GPUS": "3"}, r"Slurm granted this job GPU 3, .*no driver of NVIDIA"),
        ({"SLURM_STEP_GPUS": "1"}, r"Slurm granted this job GPU 1"),
        ({"SLURM_JOB_GPUS": "3", "CUDA_VISIBLE_DEVICES": ""}, r"CUDA_VISIBLE_DEVICES is ''"),
        ({"SLURM_JOB_GPUS": "3", "CUDA_VISIBLE_DEVICES": "-1,0"}, r"is '-1,0', which hides all"),
        ({"SLURM_JOB_GPUS": "0", "APPTAINER_CONTAINER": "/a.sif"}, "GPU 0, .*without --nv"),
        ({"SFTFLOW_SUBMITTED": "1"}, r"submitted to a cluster for its GPU"),
    ],
)
def test_a_card_that_was_granted_and_nobody_sees_is_an_error(no_gpu, monkeypatch, told, reason):
    """Training on the CPU instead, without a word, would take days."""
    monkeypatch.setattr(gpu.Path, "exists", lambda path: False)  # whatever runs these tests
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=reason), gpu.claim(1):
        pass
    with pytest.raises(UserError, match=reason):
        gpu.cards(2)
    with gpu.claim(0) as mine:
        assert mine == []


def test_a_job_of_slurm_without_cards_may_do_without(no_gpu, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SFTFLOW_SUBMITTED", "1")
    assert gpu.cards(1) == []


def test_who_holds_a_card_is_said(two_gpus, capsys):
    with gpu.claim(2):
        gpu.os.environ.pop("CUDA_VISIBLE_DEVICES")
        waiting = threading.Thread(target=lambda: gpu.claim(1, interval=0.01).__enter__())
        waiting.start()
        time.sleep(0.1)
        gpu.os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-test-0"
    waiting.join(5)
    assert f"held by {getpass.getuser()}, process {os.getpid()}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("GPU-test-0", ["GPU-test-0"]),
        ("MIG-part-of-1", ["GPU-test-1"]),  # the stand-in has no ids for parts
        ("1,-1,0", ["GPU-test-1"]),
        ("-1", []),
    ],
)
def test_visible_devices_as_cuda_takes_them(two_gpus, monkeypatch, stated, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", stated)
    assert [g["uuid"] for g in gpu.describe()] == found


@pytest.mark.parametrize("stated", ["2", "GPU-else", "GPU-test"])
def test_a_card_that_is_not_here_is_one_error(two_gpus, monkeypatch, stated):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", stated)
    with pytest.raises(UserError, match=f"names '{stated}', which is no GPU of this machine"):
        gpu.describe()


def test_more_gpus_than_there_are(two_gpus):
    with pytest.raises(UserError, match="3 GPUs asked for"), gpu.claim(3):
        pass


def test_samples_between_two_times(two_gpus):
    with gpu.Sampler(0.01) as sampler:
        time.sleep(0.1)
    end = time.time()
    out = sampler.summary(end - 3600, end)
    assert out["gpu_utilisation_percent"] == 50 and out["gpu_power_watt"] == 600
    assert out["gpu_memory_gib"] == 2 and 0 < out["gpu_energy_wh"] < 1
    assert sampler.summary(0, end - 3600) == {}


def test_a_curve_has_as_many_places_as_a_picture_shows(no_gpu):
    """A second's means, of memory the highest; a whole night is no longer than a minute."""
    sampler = gpu.Sampler()
    sampler.samples = [(100.0 + i, i % 2 * 100, 600, i / 1000) for i in range(2 * gpu.PLACES)]
    curve = sampler.curve(100, 1e6)
    assert {len(series) for series in curve.values()} == {gpu.PLACES}
    assert curve["seconds"][:2] == [0.5, 2.5] and set(curve["utilisation_percent"]) == {50}
    assert curve["memory_gib"][-1] == 0.48
    assert len(sampler.curve(100, 109)["seconds"]) == 10
