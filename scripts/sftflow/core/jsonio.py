"""JSON in and out, and digests: the one place that decides what "the same content" means."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sftflow.core.cli import UserError


class NotJson(UserError, ValueError):
    """A file that was to hold JSON."""


def read_json(path: str | Path) -> Any:
    """The value in a file. NotJson, which names it, where it is cut off, or something else."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise NotJson(
            f"{path} is not valid JSON ({error}): delete it if it lies in results/, and it is made "
            "again"
        ) from None


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


def write_bytes(path: str | Path, content: bytes) -> None:
    with writing(path) as file:
        file.buffer.write(content)


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Not-a-number is an error: it is not JSON, and a number that is none belongs in no table.

    indent=None, one line, is ten times as fast for what is large.
    """
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def sealed(content: dict) -> dict:
    """A record: its content, and "sha256", the digest of that content."""
    content = {name: value for name, value in content.items() if name != "sha256"}
    return content | {"sha256": digest(content)}


def write_record(path: str | Path, content: dict, indent: int | None = 2) -> None:
    """Write a record, which `read_record` takes only as it was written."""
    write_json(path, sealed(content), indent)


def read_record(path: str | Path) -> dict:
    """The content of a record. Raises UserError when it is not what `write_record` wrote."""
    content = read_json(path)
    stated = content.pop("sha256", None) if isinstance(content, dict) else None
    if stated is None:
        raise UserError(
            f"{path} states no sha256 of its own content, so this version of the workflow did not "
            "write it. Results of an older version are not taken over: use another results folder, "
            "or delete that file, and it is made again"
        )
    if stated != (found := digest(content)):
        raise UserError(
            f"{path} was changed after it had been written (sha256 of its content: "
            f"{short(stated)} stated, {short(found)} found): delete it, and it is made again"
        )
    return content


def short(digest: object) -> str:
    """A digest as people compare it."""
    return f"{str(digest)[:12]}…"


def read_jsonl(path: str | Path) -> Iterator[Any]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def read_lines(path: str | Path, sha256: str) -> Iterator[Any]:
    """The lines that a record names with their digest. UserError when they are others, or gone."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing: copy it along, or delete the record that names it")
    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} was changed after it had been written: delete it, and run again")
    # all at once: half the time of one by one
    return iter(json.loads(b"[" + b",".join(content.splitlines()) + b"]"))


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


def file_digests(paths: Iterable[str | Path]) -> list[str]:
    """`file_digest` of several files at once; hashing does not hold Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(file_digest, paths))


def file_entries(folder: Path, paths: Iterable[Path]) -> list[dict]:
    """Files below `folder` as manifests list them: {path, size (bytes), sha256}."""
    paths = list(paths)
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": sha256,
        }
        for path, sha256 in zip(paths, file_digests(paths), strict=True)
    ]


def tree_paths(folder: Path) -> list[Path]:
    """Every file below `folder`, links followed, sorted."""
    walk = os.walk(folder, followlinks=True)
    return sorted(Path(base) / name for base, _, names in walk for name in names)


def tree_files(folder: str | Path) -> list[dict]:
    """Every file below `folder`, links followed: {path, size (bytes), sha256}, sorted by path."""
    folder = Path(folder)
    return file_entries(folder, tree_paths(folder))


def tree_digest(files: list[dict]) -> str:
    """Digest of a folder's content: names and bytes, wherever the folder lies."""
    return digest([[file["path"], file["sha256"]] for file in files])
