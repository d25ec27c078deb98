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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

GRACE = 5.0  # seconds between TERM and KILL when nobody is left to ask for another number
END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SNAKEMAKE = "SFTFLOW_SNAKEMAKE"  # pid, start time and PID namespace of the snakemake of a job
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


def alive(pid: int) -> bool:
    """Whether there is such a process on this host, and it has not ended."""
    return _stat(pid) is not None


def born(pid: int | None = None) -> int | None:
    """When a process (this one) started, in clock ticks; None when there is none."""
    stat = _stat(pid or os.getpid())
    return stat[1] if stat else None


def snakemakes_in(folder: Path) -> list[int]:
    """Other processes that are snakemakes at work in a folder, of whoever can be looked at.

    Jobs of one, which are started with --nolock, are none.
    """
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            words = (entry / "cmdline").read_bytes().split(b"\0")
            python = b"python" in os.path.basename(words[0])  # not `uv run snakemake` above it
            if pid != os.getpid() and python and _is_snakemake(words) and b"--nolock" not in words:
                if os.path.samefile(entry / "cwd", folder):
                    found.append(pid)
    return found


def _is_snakemake(words: list[bytes]) -> bool:
    """python …/bin/snakemake, or python -m snakemake; a shell's script may only mention it."""
    return any(os.path.basename(word) == b"snakemake" for word in words[:4])


def left_by(pid: int) -> list[int]:
    """Guards, with their tools, whose job was the process `pid` and is gone; they are ending."""
    command = [os.fsencode(part) for part in ("-I", "-S", os.path.abspath(__file__), str(pid))]
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # ended meanwhile
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if words[1:5] == command and (stat := _stat(int(entry.name))) and stat[0] != pid:
                found.append(int(entry.name))
    return found


def memory(pid: int) -> int:
    """Resident memory of a process and everything below it, in bytes."""
    total = 0
    for one in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError, IndexError):  # ended meanwhile
            status = Path(f"/proc/{one}/status").read_text("utf-8", "replace")
            total += 1024 * int(status.partition("VmRSS:")[2].split(maxsplit=1)[0])
    return total


def lead() -> None:
    """Of the snakemake itself: let the jobs know whom they are to follow."""
    os.environ[SNAKEMAKE] = f"{os.getpid()}:{born()}:{_namespace()}"


def end_jobs_when_told(before: Callable[[], None]) -> None:
    """Of the snakemake itself: TERM, HUP (a closed terminal) and Ctrl-C end the jobs, then it.

    Left alone, Snakemake waits for running jobs on TERM, which may take days, and dies of HUP
    without giving its lock back. `before` is called once. Told again, nothing is waited for.
    """
    told: list[int] = []

    def end(number: int, _) -> None:
        told.append(number)
        below = descendants(os.getpid())
        if len(told) > 1:
            return _signal(below, signal.SIGKILL)
        before()
        _signal(below, signal.SIGTERM)
        raise KeyboardInterrupt

    _on(END, end)


def follow_snakemake(grace: float = 4.0, interval: float = 1.0) -> None:
    """End this process when the snakemake that started it is gone, or a shell between the two.

    `kill -9` of snakemake leaves its jobs running otherwise. Ends by TERM, which here becomes
    SystemExit so that context managers clean up; after `grace` seconds by KILL. Started by hand,
    without a snakemake above, it only turns TERM and HUP into SystemExit.
    """
    _on((signal.SIGTERM, signal.SIGHUP), lambda number, _: sys.exit(128 + number))
    chain = _up_to_snakemake()
    if chain is not None:
        threading.Thread(target=_follow, args=(chain, grace, interval), daemon=True).start()


def _on(numbers: Iterable[signal.Signals], handler: Callable) -> None:
    """Handle signals, but those that whoever started this wants ignored (nohup)."""
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(number, handler)


def _follow(chain: dict[int, int], grace: float, interval: float) -> None:
    while chain and all((stat := _stat(pid)) and stat[1] == born for pid, born in chain.items()):
        time.sleep(interval)
    print("snakemake is gone: this job ends too", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    _signal([*descendants(os.getpid()), os.getpid()], signal.SIGKILL)


def die_with_parent() -> None:
    """Of a worker of a pool: whose parent is killed waits for work for ever otherwise."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def forked(work: Callable, items: Iterable, workers: int) -> Iterator:
    """`map(work, items)` in forked processes, which share what was imported here."""
    import multiprocessing  # not for the guard, which is a process at each start of a tool

    if workers < 2:
        yield from map(work, items)
        return
    with multiprocessing.get_context("fork").Pool(workers, _begin, (work,)) as pool:
        yield from pool.imap(_worked, items, chunksize=64)


@contextlib.contextmanager
def beside(work: Callable, items: Iterable, workers: int) -> Iterator[Callable[[], list]]:
    """As `forked`, but begun at once: what it yields waits for the results. Without workers they
    are made when they are asked for.

    Its workers end when nothing is left to do: a Pool ends them by a signal, and one that comes
    while a worker begins is lost, and waited for without end.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    if workers < 1:
        yield lambda: list(map(work, items))
        return
    with ProcessPoolExecutor(workers, get_context("fork"), _begin, (work,)) as pool:
        made = pool.map(_worked, items)
        yield lambda: list(made)


_WORK: Callable  # of a forked process


def _begin(work: Callable) -> None:
    global _WORK
    _WORK = work
    die_with_parent()


def _worked(item: Any) -> Any:
    return _WORK(item)


def _up_to_snakemake() -> dict[int, int] | None:
    """{pid: start time} of the ancestors up to the snakemake that this process is a job of.

    Empty when that one is gone already, None when there is none.
    """
    pid, born, namespace = os.environ.get(SNAKEMAKE, "0:0:").split(":")
    if namespace == _namespace():  # else in a container, where it has another number
        chain = _up_to(lambda above: above == int(pid))
        return chain if chain.get(int(pid)) == int(born) else {}

    def named(above: int) -> bool:
        with contextlib.suppress(OSError):
            return _is_snakemake(Path(f"/proc/{above}/cmdline").read_bytes().split(b"\0"))
        return False

    return _up_to(named) or None


def _up_to(found: Callable[[int], bool]) -> dict[int, int]:
    """{pid: start time} of the ancestors up to the first that is `found`; empty without one."""
    chain: dict[int, int] = {}
    pid = os.getppid()
    while pid > 1 and (stat := _stat(pid)):
        chain[pid] = stat[1]
        if found(pid):
            return chain
        pid = stat[0]
    return {}


def _namespace() -> str:
    """Of this process's number."""
    try:
        return os.readlink("/proc/self/ns/pid")[5:-1]  # pid:[…]
    except OSError:
        return "-"


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


def _heard(numbers: Iterable[signal.Signals]) -> list[int]:
    """Grows with each of these signals that comes.

    No Event: a signal that comes while another one sets it waits for its lock for ever, and who is
    told to end is told by several at once.
    """
    told: list[int] = []
    for number in numbers:
        signal.signal(number, lambda number, _: told.append(number))
    return told


def _guard(parent: int, command: list[str]) -> int:
    """Run `command`, return its status; end it and its descendants on TERM, INT or orphanhood."""
    told = _heard(END)
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
        if deadline is None and (told or os.getppid() != parent):
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
