"""One worker for one thing: a lock in results/ that a dead worker can't keep.

A job may outlive the snakemake that submitted it, and two clones may share their results; then the
kernel of one host can't tell who is at work. filelock's lease can: a file made with O_EXCL that
names host, process and the process's start, and is touched while its holder lives. A holder of this
host that is gone loses it at once, one of another host after LEASE seconds without a touch, by the
clock of whoever waits. A holder that lost it (it slept, or its disk did) ends; one whose file is
still its own did not lose it, whatever number the file system calls it by now.

Needs filelock, as every environment with a program of ours has it.
"""

import contextlib
import getpass
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sftflow.core import process
from sftflow.core.cli import UserError, note
from sftflow.core.jsonio import read_json, write_json

LEASE = 120.0  # seconds; all who meet must agree
PATIENCE = 15.0  # seconds: a worker that is being ended is gone by then
WORKER = ".worker.lock"  # of a folder that one works on: a run's
JOBS = {"SLURM_JOB_ID": "Slurm", "LSB_JOBID": "LSF", "PBS_JOBID": "PBS"}


@contextlib.contextmanager
def alone(what: str | Path, lock: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Be the only one who works on `what`; UserError, naming the other, after `patience` seconds.

    `lock` is the file that all meet at. Beside it lies who holds it, for people. Whom nobody can
    see from here is given LEASE seconds more to show that it lives.
    """
    from filelock import SoftFileLease, Timeout

    lock.parent.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(
        lock, lease_duration=LEASE, thread_local=False, poll_interval=0.2,
        on_compromise=lambda seen: _doubted(what, lock, seen, ended),
    )  # fmt: skip
    ended = threading.Event()
    holder = lock.with_name(f"{lock.name}.holder")
    try:
        lease.acquire(timeout=0)
    except Timeout:
        note(f"waiting for {what}: {_named(who := _read(holder))} is at work on it")
        seen = who.get("host") == platform.node() and process.alive(who["pid"])
        try:
            lease.acquire(timeout=patience if seen else LEASE + patience)
        except Timeout:
            raise UserError(
                f"{_named(_read(holder) or who)} is at work on {what}: wait for it, or end it, and "
                "start again"
            ) from None
    try:
        if before := _read(holder):  # it did not come to its end
            note(f"{what}: {_named(before)} is gone, this job takes over")
            _wait_for_tools(before)
        write_json(holder, _this())
        yield
    finally:
        ended.set()
        holder.unlink(missing_ok=True)
        lease.release()


def _this() -> dict:
    """Who we are."""
    jobs = [f"{name} job {os.environ[key]}" for key, name in JOBS.items() if key in os.environ]
    return {
        "user": _user(),
        "host": platform.node(),
        "pid": os.getpid(),
        "job": jobs[0] if jobs else None,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an uid without a name, as in containers
        return str(os.getuid())


def _read(holder: Path) -> dict:
    try:
        return read_json(holder)
    except (OSError, ValueError):
        return {}


def _named(who: dict) -> str:
    if not who:
        return "another process"
    job = f", {who['job']}" if who["job"] else ""
    return f"process {who['pid']} on {who['host']} ({who['user']}{job}, since {who['since']})"


def _wait_for_tools(before: dict) -> None:
    """A worker that was killed has a tool for some seconds more, which may be writing still."""
    end = time.monotonic() + PATIENCE
    while before["host"] == platform.node() and (left := process.left_by(before["pid"])):
        if time.monotonic() > end:
            raise UserError(
                f"{_named(before)} is gone, but left a process that does not end: kill {left[0]}"
            )
        time.sleep(0.2)


def _doubted(what: str | Path, lock: Path, seen: Any, ended: threading.Event) -> None:
    """The lease saw something that it takes for a loss, and touches its file no more.

    Some file systems (of sandboxes) number a file anew while it is open. As long as the file holds
    the lease's own token, nobody took it, and it is touched here instead.
    """
    while not ended.is_set():
        if not _touched(lock, seen.token) and not ended.is_set():
            print(
                f"error: this job lost the lock of {what} ({seen.reason}): it gave no sign of life "
                f"for {LEASE:g} s and another one took over, or {lock} was deleted",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            os.kill(os.getpid(), signal.SIGTERM)
            return
        ended.wait(LEASE / 3)


def _touched(lock: Path, token: str) -> bool:
    """Whether the lock is still there and ours. Who checks it moves it aside for a moment."""
    for _ in range(3):
        with contextlib.suppress(OSError):
            if token in lock.read_text("utf-8"):
                os.utime(lock)
                return True
        time.sleep(0.1)
    return False
