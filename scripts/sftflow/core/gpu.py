"""The machine's GPUs: which there are, who may use one, and what they do while a job runs.

Needs nvidia-ml-py (imported as `pynvml`); without it, without a driver or without a GPU everything
here says "no GPU", and figures that need one are absent.
"""

import contextlib
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sftflow.core.cli import UserError

GIB = 2**30


@contextlib.contextmanager
def _library() -> Iterator:
    """NVIDIA's management library, or None."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, or any of the library's own errors: there is no usable GPU
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _visible(nvml) -> list:
    """Handles of the GPUs that CUDA_VISIBLE_DEVICES leaves us; all of them when it is not set."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    names = [name.strip() for name in wanted.split(",") if name.strip() not in ("", "-1")]
    return [
        nvml.nvmlDeviceGetHandleByIndex(int(name))
        if name.isdigit()
        else nvml.nvmlDeviceGetHandleByUUID(name)
        for name in names
    ]


def describe() -> list[dict]:
    """The visible GPUs as {uuid, name, memory_gib, capability: [major, minor]}; [] without any."""
    with _library() as nvml:
        if nvml is None:
            return []
        return [
            {
                "uuid": nvml.nvmlDeviceGetUUID(handle),
                "name": nvml.nvmlDeviceGetName(handle),
                "memory_gib": nvml.nvmlDeviceGetMemoryInfo(handle).total / GIB,
                "capability": list(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
            }
            for handle in _visible(nvml)
        ]


def absent() -> bool:
    """Whether CUDA programs surely see no GPU here; False where it can't be known."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return True
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, that of WSL
    return not any(Path(driver).exists() for driver in drivers) and not describe()


def hardware() -> dict:
    """{cpu, cores, gpus: [names]} of this machine."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    names = [found["name"] for found in describe()]
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "gpus": names}


@contextlib.contextmanager
def claim(count: int, interval: float = 1.0) -> Iterator[list[dict]]:
    """Hold `count` of the visible GPUs, waiting for other jobs of this user that hold them.

    Yields their descriptions and names them in CUDA_VISIBLE_DEVICES for every child process.
    Without a GPU, or with `count` 0, it yields [] and changes nothing. Raises UserError when the
    machine has fewer GPUs than asked for.
    """
    visible = describe() if count else []
    if not visible:
        yield []
        return
    if len(visible) < count:
        raise UserError(f"{count} GPUs asked for, this machine shows {len(visible)}")
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir()) / f"sftflow-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as held:
        mine: list[dict] = []
        while len(mine) < count:
            for gpu in visible:
                if len(mine) < count and gpu not in mine:
                    lock = FileLock(folder / f"{gpu['uuid']}.lock")
                    with contextlib.suppress(Timeout):
                        held.enter_context(lock.acquire(timeout=0))
                        mine.append(gpu)
            if len(mine) < count:
                time.sleep(interval)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu["uuid"] for gpu in mine)
        try:
            yield mine
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


class Sampler:
    """Samples utilisation (%), power (W) and memory (GiB) of the visible GPUs in the background.

    `summary(begin, end)` after the `with` block: mean utilisation, mean power, peak memory, energy
    (Wh) and the number of samples between two times (seconds since the epoch); {} without a GPU.
    """

    def __init__(self, interval: float = 1.0):
        self.interval = interval
        self.samples: list[tuple[float, float, float, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        with _library() as nvml:
            if nvml is None:
                return
            handles = _visible(nvml)
            while handles and not self._end.wait(self.interval):
                with contextlib.suppress(nvml.NVMLError):
                    self.samples.append(
                        (
                            time.time(),
                            sum(nvml.nvmlDeviceGetUtilizationRates(h).gpu for h in handles)
                            / len(handles),
                            sum(nvml.nvmlDeviceGetPowerUsage(h) for h in handles) / 1000,
                            max(nvml.nvmlDeviceGetMemoryInfo(h).used for h in handles) / GIB,
                        )
                    )

    def summary(self, begin: float = 0.0, end: float = float("inf")) -> dict:
        within = [sample for sample in self.samples if begin <= sample[0] <= end]
        if not within:
            return {}
        times, utilisation, power, memory = zip(*within, strict=True)
        seconds = times[-1] - times[0] + self.interval
        mean_power = sum(power) / len(power)
        return {
            "gpu_utilisation_percent": round(sum(utilisation) / len(utilisation), 1),
            "gpu_power_watt": round(mean_power, 1),
            "gpu_energy_wh": round(mean_power * seconds / 3600, 2),
            "gpu_memory_gib": round(max(memory), 2),
            "gpu_samples": len(within),
        }
