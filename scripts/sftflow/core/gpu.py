"""The machine's GPUs: which there are, who may use one, and what they do while a job runs.

Needs nvidia-ml-py (imported as `pynvml`); without it, without a driver or without a GPU everything
here says "no GPU", and figures that need one are absent.
"""

import contextlib
import getpass
import math
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from sftflow.core.cli import UserError, note

if TYPE_CHECKING:
    from filelock import FileLock

GIB = 2**30
PLACES = 240  # of a curve over time: as many as a picture shows
SUBMITTED = "SFTFLOW_SUBMITTED"  # set in the jobs that a snakemake elsewhere has submitted


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
    """Handles of the GPUs that CUDA_VISIBLE_DEVICES leaves us; all of them when it is not set.

    As CUDA takes it: numbers, ids of whole cards or of their parts (MIG), and beginnings of ids.
    UserError for one that is not here.
    """
    every = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is None:
        return every
    found = []
    for name in filter(None, (part.strip() for part in stated.split(","))):
        if name == "-1":  # CUDA sees nothing from here on
            break
        cards = [card for card in every if nvml.nvmlDeviceGetUUID(card).startswith(name)]
        if name.isdigit() and int(name) < len(every):
            found.append(every[int(name)])
        elif len(cards) == 1:
            found += cards
        else:
            try:
                found.append(nvml.nvmlDeviceGetHandleByUUID(name))
            except nvml.NVMLError:
                known = ", ".join(nvml.nvmlDeviceGetUUID(card) for card in every) or "none"
                raise UserError(
                    f"CUDA_VISIBLE_DEVICES names {name!r}, which is no GPU of this machine "
                    f"(0 to {len(every) - 1}: {known})"
                ) from None
    return found


def _whole(nvml, handle):
    """The card that a part of one (MIG) belongs to; the card itself else."""
    try:
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except (AttributeError, nvml.NVMLError):
        return handle


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
                "capability": list(nvml.nvmlDeviceGetCudaComputeCapability(_whole(nvml, handle))),
            }
            for handle in _visible(nvml)
        ]


def cards(count: int) -> list[dict]:
    """`describe()` for a job that wants `count` GPUs; [] where it may do without.

    UserError where a scheduler granted some and none is to be seen: to go on without them would
    take days, in silence.
    """
    visible = describe() if count else []
    if count and not visible and (grant := granted()):
        raise UserError(f"{grant}, but none is to be seen here: {unseen()}")
    return visible


def refuse_absent(found: list[dict], device: str | None, section: str) -> None:
    """UserError where the config's `section`.device says cuda, and no GPU was found."""
    if device == "cuda" and not found:
        raise UserError(f"{section}.device is cuda, but this machine shows no GPU: {unseen()}")


def granted() -> str | None:
    """Which GPUs a scheduler has given this job, in words; None where none did."""
    if named := os.environ.get("SLURM_JOB_GPUS") or os.environ.get("SLURM_STEP_GPUS"):
        return f"Slurm granted this job GPU {named}"
    if SUBMITTED in os.environ and "SLURM_JOB_ID" not in os.environ:
        return "this job was submitted to a cluster for its GPU (device: cpu would ask for none)"
    return None


def unseen() -> str:
    """Why no GPU is to be seen here, as far as it can be told."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None and stated.partition(",")[0].strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES is {stated!r}, which hides all"
    if not Path("/dev/nvidiactl").exists():
        inside = {"APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"} & os.environ.keys()
        if inside:
            return "this container was started without --nv"
        if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
            return "this container was started without GPUs (docker run --gpus all)"
        return "no driver of NVIDIA is loaded on this host (nvidia-smi would list its GPUs)"
    try:
        import pynvml

        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
    except Exception as error:  # ImportError, or any of the library's own
        return f"NVIDIA's library says {error} (does nvidia-smi list GPUs?)"
    return "NVIDIA's library shows none (does nvidia-smi list GPUs?)"


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
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    names = [found["name"] for found in describe()]
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "gpus": names}


def _foreign(uuid: str) -> list[int]:
    """Processes that compute on a card; of a card that we hold the lock of, other people's."""
    with _library() as nvml:
        if nvml is None:
            return []
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            return [one.pid for one in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
        except (AttributeError, nvml.NVMLError):  # a driver that does not tell
            return []


# Of this host, whatever a job's TMPDIR is and whoever runs it. A container with a /dev/shm of its
# own does not see it: give it the host's (apptainer does).
LEASES = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def _leases() -> Path:
    """The folder of the locks, in which every user may write."""
    folder = LEASES / "sftflow-gpus"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # another user has made it, and opened it to all
        folder.chmod(0o777)
    return folder


@contextlib.contextmanager
def claim(count: int, interval: float = 1.0) -> Iterator[list[dict]]:
    """Hold `count` of the visible GPUs, waiting for whoever holds them.

    Yields their descriptions and names them in CUDA_VISIBLE_DEVICES for every child process.
    Without a GPU, or with `count` 0, it yields [] and changes nothing. Raises UserError when the
    machine has fewer GPUs than asked for, or the scheduler granted some and none is to be seen.

    One job of a host at a time gathers cards, in its turn; so nobody waits for a card while he
    keeps one that another waits for. Cards on which others compute without a lease are passed over,
    unless a scheduler has granted them.
    """
    visible = cards(count)
    if not visible:
        yield []
        return
    if len(visible) < count:
        raise UserError(f"{count} GPUs asked for, this machine shows {len(visible)}: lower gpus")
    with contextlib.ExitStack() as held:
        mine = _gather(visible, count, interval, held)
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu["uuid"] for gpu in mine)
        try:
            yield mine
        finally:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _gather(
    visible: list[dict], count: int, interval: float, held: contextlib.ExitStack
) -> list[dict]:
    """Leases on `count` of the cards, given back when `held` is closed."""
    from filelock import FileLock, Timeout

    folder, granted = _leases(), "SLURM_JOB_ID" in os.environ
    mine: list[dict] = []
    said: set[str] = set()

    def lock(name: str) -> FileLock:
        # the lock goes with the process; the mode, so that other users may wait for it, too
        return FileLock(folder / f"{name}.lock", mode=0o666, thread_local=False)

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            note(text)

    with contextlib.ExitStack() as turn:
        queue = lock("queue")
        try:
            turn.enter_context(queue.acquire(timeout=0))
        except Timeout:
            say(f"waiting for {count} GPU(s), behind a job that waits for some")
            turn.enter_context(queue.acquire(poll_interval=interval))
        while True:
            for gpu in [gpu for gpu in visible if gpu not in mine]:
                if len(mine) < count and _leased(
                    lock(gpu["uuid"]), gpu, folder, granted, say, held
                ):
                    mine.append(gpu)
            if len(mine) == count:
                return mine
            time.sleep(interval)


def _leased(
    lease: "FileLock", gpu: dict, folder: Path, granted: bool,
    say: Callable[[str], None], held: contextlib.ExitStack,
) -> bool:  # fmt: skip
    from filelock import Timeout

    holder, name = folder / f"{gpu['uuid']}.holder", f"{gpu['name']} {gpu['uuid']}"
    try:
        lease.acquire(timeout=0)
    except Timeout:
        who = holder.read_text("utf-8") if holder.exists() else "another job"
        say(f"waiting for {name}, held by {who}")
        return False
    if not granted and (others := _foreign(gpu["uuid"])):
        lease.release()
        say(f"passing over {name}: in use (process {', '.join(map(str, others))})")
        return False
    held.callback(lease.release)
    with contextlib.suppress(OSError):
        holder.unlink(missing_ok=True)  # it may be another user's
        holder.write_text(f"{getpass.getuser()}, process {os.getpid()}", "utf-8")
    return True


class Sampler:
    """Samples utilisation (%), power (W) and memory (GiB) of the visible GPUs in the background.

    `curve(begin, end)` is what they were over time, at most PLACES places: means, of memory the
    highest; {} without a GPU.

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

    def _within(self, begin: float, end: float) -> list[tuple[float, float, float, float]]:
        return [sample for sample in self.samples if begin <= sample[0] <= end]

    def curve(self, begin: float, end: float) -> dict:
        within = self._within(begin, end)
        if not within:
            return {}
        size = math.ceil(len(within) / PLACES)
        parts = [
            tuple(zip(*within[first : first + size], strict=True))
            for first in range(0, len(within), size)
        ]
        return {
            "seconds": [round(fmean(times) - begin, 1) for times, *_ in parts],
            "utilisation_percent": [round(fmean(use), 1) for _, use, _, _ in parts],
            "power_watt": [round(fmean(power), 1) for _, _, power, _ in parts],
            "memory_gib": [round(max(memory), 2) for *_, memory in parts],
        }

    def summary(self, begin: float = 0.0, end: float = float("inf")) -> dict:
        within = self._within(begin, end)
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
