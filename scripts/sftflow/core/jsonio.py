"""JSON in and out, and digests: the one place that decides what "the same content" means."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

STAMP = ".snakemake_timestamp"  # Snakemake leaves it in every folder that is an output


def read_json(path: str | Path) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


@contextmanager
def writing(path: str | Path) -> Iterator[TextIO]:
    """A text file to stream into; it takes its place when complete.

    A reader, or a killed job, sees the old file or the new one, never half.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    with writing(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Not-a-number is an error: it is not JSON, and a number that is none belongs in no table."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_jsonl(path: str | Path) -> Iterator[Any]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    with writing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def canonical(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: str | Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_files(folder: str | Path) -> list[dict]:
    """Every file below `folder`, links followed: {path, size (bytes), sha256}, sorted by path."""
    folder = Path(folder)
    walk = os.walk(folder, followlinks=True)
    paths = (Path(base) / name for base, _, names in walk for name in names if name != STAMP)
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(paths)
    ]


def tree_digest(files: list[dict]) -> str:
    """Digest of a folder's content: names and bytes, wherever the folder lies."""
    return digest([[file["path"], file["sha256"]] for file in files])
