"""GPUs: absent here, and with a stand-in for NVIDIA's management library."""

import sys
import threading
import time
import types

import pytest
from sftflow.core import gpu
from sftflow.core.cli import UserError


class StandIn(types.ModuleType):
    """Two GPUs of 80 GiB at 50 % and 300 W each."""

    NVMLError = RuntimeError

    def __init__(self):
        super().__init__("pynvml")
        self.nvmlInit = self.nvmlShutdown = lambda: None
        self.nvmlDeviceGetCount = lambda: 2
        self.nvmlDeviceGetHandleByIndex = int
        self.nvmlDeviceGetHandleByUUID = lambda uuid: int(uuid.rpartition("-")[2])
        self.nvmlDeviceGetUUID = lambda handle: f"GPU-test-{handle}"
        self.nvmlDeviceGetName = lambda handle: "NVIDIA Stand-in"
        self.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(
            total=80 * gpu.GIB, used=(handle + 1) * gpu.GIB
        )
        self.nvmlDeviceGetCudaComputeCapability = lambda handle: (9, 0)
        self.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=50)
        self.nvmlDeviceGetPowerUsage = lambda handle: 300_000


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pynvml", StandIn())
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # import fails


def test_without_gpu_everything_is_absent(no_gpu):
    assert gpu.describe() == []
    with gpu.claim(1) as mine:
        assert mine == []
    with gpu.Sampler(0.01) as sampler:
        time.sleep(0.05)
    assert sampler.summary(0, time.time()) == {}


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
