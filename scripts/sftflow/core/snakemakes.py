"""Which snakemakes run in a folder, and the lock of one that was killed.

Snakemake locks what it makes by files that name outputs, but not who wrote them; after `kill -9` or
a power cut they stay, and every later run ends with LockException. So each snakemake that reads our
Snakefile writes down its host and process beside them. A lock is removed when whoever wrote it was
one of these, of this host, and is gone. All else is left alone: that of another host, or of a
snakemake that is not known here.
"""

import atexit
import contextlib
import fcntl
import os
import platform
from pathlib import Path

from sftflow.core import process
from sftflow.core.handover import SCRATCH
from sftflow.core.jsonio import read_json, write_json

LOCKS = Path(".snakemake/locks")
KNOWN = SCRATCH / "running"


def enter() -> str | None:
    """Be known here, and remove a lock that nobody holds; what to tell the user, if anything."""
    KNOWN.mkdir(parents=True, exist_ok=True)
    own = (KNOWN / f"{platform.node()}-{os.getpid()}.json").resolve()
    with open(KNOWN / ".turn", "ab") as turn:  # of two that start at once, one looks first
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(turn, fcntl.LOCK_EX)
        own.unlink(missing_ok=True)  # of an earlier process by our number
        known = {path: who for path in KNOWN.glob("*.json") if (who := _read(path))}
        locks = [lock for lock in LOCKS.glob("*.lock") if lock.is_file()]
        stays = _why_it_stays(locks, list(known.values())) if locks else None
        if not stays:
            for path in [*locks, *(path for path, who in known.items() if not _runs(who))]:
                path.unlink(missing_ok=True)
        write_json(own, {"host": platform.node(), "pid": os.getpid(), "born": process.born()})
        atexit.register(_leave, own, os.getpid())
    return (stays or REMOVED) if locks else None


REMOVED = "the lock of a snakemake that was killed here is removed: nobody holds it"


def _why_it_stays(locks: list[Path], known: list[dict]) -> str | None:
    """Who may hold the lock; None where that is nobody."""
    here = [who for who in known if who["host"] == platform.node()]
    running = [who["pid"] for who in here if _runs(who)] + process.snakemakes_in(Path.cwd())
    if running:
        return f"another snakemake is at work in this folder: process {running[0]}"
    if away := [who for who in known if who not in here]:
        return (
            f"this folder may be locked by a snakemake on {away[0]['host']} (process "
            f"{away[0]['pid']}). If it does not run there any more, add --unlock once"
        )
    if not any(all(lock.stat().st_mtime >= who["at"] for lock in locks) for who in here):
        return (
            "this folder is locked by a snakemake that is not known here. If none runs in it, "
            "on any host, add --unlock once"
        )
    return None


def _read(path: Path) -> dict | None:
    try:
        return read_json(path) | {"at": path.stat().st_mtime}
    except (OSError, ValueError):
        return None


def _runs(who: dict) -> bool:
    return who["host"] == platform.node() and process.born(who["pid"]) == who["born"]


def _leave(own: Path, pid: int) -> None:
    if os.getpid() == pid:  # not a fork of it
        with contextlib.suppress(OSError):
            own.unlink()
