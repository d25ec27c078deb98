"""Checkpoints that are complete."""

from pathlib import Path

from sftflow.core.jsonio import read_json

COMPLETE = "complete.json"  # written beside a checkpoint's files once all of them are there


def file_sizes(folder: Path) -> dict[str, int]:
    """{path: bytes} of the files in a checkpoint, its marker apart."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE and not path.name.startswith(".")
    }


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every complete checkpoint below `folder`, oldest first.

    Complete: its marker exists and every file that it lists still has the size it had.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            marker = read_json(path / COMPLETE)
        except (OSError, ValueError):
            continue
        if marker["files"].items() <= file_sizes(path).items():
            found.append((marker["step"], path))
    return sorted(found)
