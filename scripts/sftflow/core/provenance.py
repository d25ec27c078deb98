"""What Snakemake knows of each output travels with the results folder.

Snakemake writes down, below .snakemake/metadata, with which inputs (by checksum), params and code
an output was made. Without that it can only go by dates, which a copy does not keep. So a copy of
those records lies in <results>/provenance/, and a working folder that has none of its own takes
them from there: content decides whether something is made again, wherever the folder was copied.
"""

import base64
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

METADATA = Path(".snakemake/metadata")
FOLDER = "provenance"


def restore(results: str) -> None:
    """Give Snakemake the records that lie in the results folder and that it does not have."""
    kept = Path(results) / FOLDER
    for path in _records(kept):
        target = METADATA / path.relative_to(kept)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def settle(results: str) -> str | None:
    """Make dates to come those of now; what to tell the user, if there were any.

    Snakemake fails each job whose output is older than its input, as all are after a clock was set
    back. The records kept here are written last: where none of them is of later, nothing is.
    """
    now = time.time()
    if not any(path.stat().st_mtime > now + 1 for path in _records(Path(results) / FOLDER)):
        return None
    for path in Path(results).rglob("*"):
        if path.lstat().st_mtime > now:
            os.utime(path, (now, now), follow_symlinks=False)
    return f"files in {results} had dates to come (was the clock set back?): they are of now"


def keep(results: str) -> None:
    """Copy Snakemake's records of what lies in the results folder into it, where they differ."""
    kept = Path(results) / FOLDER
    with contextlib.suppress(OSError):  # a full disk has been told by the job that met it
        for path in _records(METADATA):
            target = kept / path.relative_to(METADATA)
            if _is_of(path.relative_to(METADATA), results):
                content = path.read_bytes()
                if not target.exists() or target.read_bytes() != content:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)


def _records(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else iter(())


def _is_of(record: Path, results: str) -> bool:
    """A record is named by its output's path in base64; long names are cut into folders "@…"."""
    code = "".join(part.removeprefix("@") for part in record.parts)
    try:
        return base64.urlsafe_b64decode(code).decode().startswith(f"{results.rstrip('/')}/")
    except ValueError:
        return False
