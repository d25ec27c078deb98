"""What lies in a results folder, how large it is, and what of it can go."""

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


def files(folder: Path) -> Iterator[os.stat_result]:
    """Of everything below a folder, or of one file; what a link names lies elsewhere."""
    if folder.is_symlink() or folder.is_file():
        yield folder.lstat()
        return
    for base, _, names in os.walk(folder):
        yield from (os.lstat(os.path.join(base, name)) for name in names)


def size(folders: Iterable[Path]) -> int:
    """Bytes on the disk: a file with several names counts once."""
    found = {(each.st_dev, each.st_ino): each.st_size for path in folders for each in files(path)}
    return sum(found.values())


def freed(folders: Iterable[Path]) -> int:
    """Bytes that are free when these folders go: not of a file that has a name elsewhere, too."""
    names: dict[tuple[int, int], list[os.stat_result]] = {}
    for each in (each for path in folders for each in files(path)):
        names.setdefault((each.st_dev, each.st_ino), []).append(each)
    return sum(same[0].st_size for same in names.values() if len(same) >= same[0].st_nlink)


def shown(size: int) -> str:
    """12.3 MB, 15.5 GB: as disks are sold."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


# --- a full disk ----------------------------------------------------------------------------------

ROOM = (
    "make room (`snakemake usage` says what can go), and run again: what is done is kept, and the "
    "rest goes on from there"
)
# safetensors and torch have words of their own
LACK = re.compile(
    r"No space left on device|Disk quota exceeded|os error (28|122)\b"
    r"|PytorchStreamWriter failed writing file"
)
LEAST = 1 << 20  # bytes that any job needs


def is_lack(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is a full disk."""
    while error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or LACK.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder is: for tools that end without a word."""
    return shutil.disk_usage(folder).free < LEAST


# --- what can go ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spare:
    """A folder that can go, and what is lost with it."""

    folder: Path
    then: str


def merged(run: Path) -> list[Path]:
    """A run's merged weights, which its adapter gives once more; what a killed merge left."""
    whole = (run / "merged.json").exists() and (run / "adapter.json").exists()
    return [path for path in (run / "merged", run / "merged.new") if whole and path.is_dir()]


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints, with their optimizer's state, of trainings that are finished and kept."""
    return sorted(
        path
        for path in run.glob("checkpoints/*/checkpoint-*")
        if (run / "trainings" / path.parent.name / "adapter.json").exists()
    )


def spare(results: Path) -> Iterator[Spare]:
    """Everything that can go, and why; the same folder never twice."""
    for run in sorted(results.glob("runs/*")):
        for path in merged(run):
            yield Spare(path, "merged again when something needs it")
        for folder in sorted({path.parent for path in checkpoints(run)}):
            yield Spare(folder, "its training is finished; steps that were not kept are gone then")
    for model in sorted(results.glob("models/*")):
        if (model / "source").is_dir() and (model / "weights").is_dir():
            yield Spare(model / "source", "fetched again if the model is to be made again")


def parts(results: Path) -> Iterator[tuple[str, list[Path]]]:
    """(name, folders) of what a table has a line for: each run, model, … ; small kinds together."""
    for kind in sorted(path for path in results.iterdir() if path.is_dir()):
        named = sorted(path for path in kind.iterdir() if path.is_dir())
        if kind.name in ("runs", "models", "datasets", "benchmarks", "evaluations"):
            yield from ((f"{kind.name}/{path.name}", [path]) for path in named)
        else:
            yield kind.name, [kind]
