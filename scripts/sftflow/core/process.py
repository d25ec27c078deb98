"""Child processes that never outlive the job that started them.

Every tool runs under a small guard (this file as a program): the leader of its own process group,
which ends with the tool's exit status, and ends the tool and all that the tool has started when it
is told to (TERM) or when the job is gone, however the job ended:

    snakemake ── shell ── script (follow_snakemake) ── guard ── tool ── tool's workers

The guard asks who its parent is instead of asking the kernel for a parent-death signal, because
that signal is sent when the *thread* that started a child ends. Below the guard, which has one
thread, the signal is right: a guard that is killed takes the tool with it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE = 5.0  # seconds between TERM and KILL when nobody is left to ask for another number
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def start(
    command: Sequence[str | os.PathLike],
    env: Mapping[str, str] | None = None,
    log: str | os.PathLike | None = None,
    cwd: str | os.PathLike | None = None,
) -> subprocess.Popen:
    """Start a tool in its own process group; its output is appended to `log` (default: our stderr).

    Returns the guard's Popen: `poll`, `wait` and `returncode` speak for the tool (128 + N when
    signal N ended it). Nothing has to be done for clean-up, but `stop` does it in good order.
    """
    guard = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid())]
    with open(log, "ab") if log else contextlib.nullcontext(sys.stderr) as output:
        return subprocess.Popen(
            guard + [os.fspath(part) for part in command],
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )


def stop(process: subprocess.Popen, grace: float = 10.0) -> int:
    """End a started tool and everything it has started: TERM, after `grace` seconds KILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            doomed = [*descendants(process.pid), process.pid]
            _signal(doomed, signal.SIGKILL)
            process.wait()
            while any(map(_stat, doomed)):  # a killed process takes a moment to be gone
                time.sleep(0.01)
    return process.wait()


def tail(path: str | os.PathLike, lines: int = 40) -> str:
    """The last lines of a log, for an error message; empty when there is no log."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 400 * lines))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children.setdefault(stat[0], []).append(int(entry.name))
    below = list(children.get(pid, []))
    for child in below:  # grows while it is read: breadth first
        below += children.get(child, [])
    return below


def memory(pid: int) -> int:
    """Resident memory of a process and everything below it, in bytes."""
    total = 0
    for one in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError, IndexError):  # ended meanwhile
            status = Path(f"/proc/{one}/status").read_text(encoding="utf-8")
            total += 1024 * int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])
    return total


def follow_snakemake(grace: float = 4.0, interval: float = 1.0) -> None:
    """End this process when the snakemake that started it is gone, or a shell between the two.

    `kill -9` of snakemake leaves its jobs running otherwise. Ends by TERM, which here becomes
    SystemExit so that context managers clean up; after `grace` seconds by KILL. Started by hand,
    without a snakemake above, it only turns TERM into SystemExit.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chain = _up_to_snakemake()
    if chain:
        threading.Thread(target=_follow, args=(chain, grace, interval), daemon=True).start()


def _follow(chain: dict[int, int], grace: float, interval: float) -> None:
    while all((stat := _stat(pid)) and stat[1] == born for pid, born in chain.items()):
        time.sleep(interval)
    print("snakemake is gone: this job ends too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)


def _up_to_snakemake() -> dict[int, int]:
    """{pid: start time} of the ancestors up to the nearest snakemake; empty when there is none."""
    chain: dict[int, int] = {}
    pid = os.getppid()
    while pid > 1 and (stat := _stat(pid)):
        chain[pid] = stat[1]
        with contextlib.suppress(OSError):
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:4]
            # python …/bin/snakemake, or python -m snakemake; a shell's script may only mention it
            if any(os.path.basename(part) == b"snakemake" for part in program):
                return chain
        pid = stat[0]
    return {}


def _stat(pid: int) -> tuple[int, int] | None:
    """(parent's pid, start time in clock ticks) of a living process, else None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before ")" may hold anything
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[19]))


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _guard(parent: int, command: list[str]) -> int:
    """Run `command`, return its status; end it and its descendants on TERM, INT or orphanhood."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what the tool leaves behind becomes our child
    try:
        tool = subprocess.Popen(
            command, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        )
    except OSError as error:
        print(f"cannot start {command[0]}: {error}", file=sys.stderr)
        return 127
    deadline = None
    while tool.poll() is None:
        if deadline is None and (told.is_set() or os.getppid() != parent):
            _signal(descendants(os.getpid()), signal.SIGTERM)
            deadline = time.monotonic() + GRACE
        elif deadline is not None and time.monotonic() > deadline:
            _signal(descendants(os.getpid()), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            tool.wait(0.2)
    while left := descendants(os.getpid()):
        _signal(left, signal.SIGKILL)
        time.sleep(0.05)
    return tool.returncode if tool.returncode >= 0 else 128 - tool.returncode


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), sys.argv[2:]))
