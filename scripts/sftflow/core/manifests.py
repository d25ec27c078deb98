"""Manifests: which files lie in a folder, and whether they still do.

A manifest is a record with `files` [{path, size (bytes), sha256}], beside the folder that it lists:
source.json beside source/, adapter.json beside adapter/, and manifest.json beside the weights/ of a
model or the data/ of a benchmark. It then also has `digest`, which follows from `files`. A receipt
lists files that lie beside it, among others.

Whoever uses the files calls `verified` first. That reads every file once: afterwards a hidden file
beside the manifest (.manifest.verified.json) knows them by device, inode, size and both times.
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from sftflow.core.cli import UserError
from sftflow.core.jsonio import (
    file_digests,
    read_json,
    read_record,
    short,
    tree_digest,
    tree_paths,
    write_json,
)

IDENTITY = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
# A file that changed less than this many seconds ago may change again within the same tick of the
# file system's clock, and so without a trace: it is not remembered yet.
SETTLED = 2.0
NAMED = 5  # problems that an error names


def folder_of(manifest: Path, content: dict) -> Path:
    """Where the files of a manifest lie."""
    if manifest.stem == "receipt":
        return manifest.parent
    if manifest.stem == "manifest":
        return manifest.with_name("data" if "benchmark" in content else "weights")
    return manifest.with_name(manifest.stem)


def manifest_of(folder: Path) -> Path:
    """The manifest of a folder with weights, an adapter or data."""
    stem = "manifest" if folder.name in ("weights", "data") else folder.name
    return folder.with_name(f"{stem}.json")


def verified(manifest: Path, folder: Path | None = None) -> dict:
    """The content of a manifest whose files are what it lists; UserError when they are not."""
    content = read_record(manifest)
    folder = folder or folder_of(manifest, content)
    found = problems(manifest, content, folder, memory_of(manifest))
    if found:
        more = [f"and {len(found) - NAMED} more"] * (len(found) > NAMED)
        raise UserError(
            "\n  ".join([f"{folder} is not what {manifest} lists:", *found[:NAMED], *more])
            + f"\nDelete {manifest}, and it is made again."
        )
    return content


def lost(manifest: Path) -> list[Path]:
    """Files that a manifest lists and that are not there."""
    content = read_record(manifest)
    folder = folder_of(manifest, content)
    return [path for file in content["files"] if not (path := folder / file["path"]).is_file()]


def problems(manifest: Path, content: dict, folder: Path, memory: Path | None) -> list[str]:
    """What is wrong with the files of a manifest, one line each.

    `memory` says where known files are remembered; with None every file is read.
    """
    files = content["files"]
    listed = {folder / file["path"]: file for file in files}
    found = [f"{path} is missing" for path in listed if not path.is_file()]
    if manifest.stem != "receipt":  # a folder of its own
        if content["digest"] != tree_digest(files):
            found.append(f"the digest in {manifest} is not that of the files that it lists")
        found += [
            f"{path} is not listed: move it away"
            for path in tree_paths(folder)
            if path not in listed and not ignored(path.relative_to(folder))
        ]
    there = {path: file for path, file in listed.items() if path.is_file()}
    sizes = {path: path.stat().st_size for path in there}
    same_size = {path: file for path, file in there.items() if sizes[path] == file["size"]}
    digests = unequal({path: file["sha256"] for path, file in same_size.items()}, memory)
    return found + [
        f"{path} is another file: {file['size']:,} bytes, sha256 {short(file['sha256'])} listed, "
        f"{sizes[path]:,} bytes" + (f", {short(digests[path])}" if path in digests else "")
        + " found"
        for path, file in there.items()
        if path in digests or path not in same_size
    ]  # fmt: skip


def ignored(path: Path) -> bool:
    """What systems and tools leave anywhere: hidden files, compiled Python."""
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def memory_of(manifest: Path) -> Path:
    return manifest.with_name(f".{manifest.stem}.verified.json")


def unequal(expected: dict[Path, str], memory: Path | None) -> dict[Path, str]:
    """{file: its sha256} of the files whose sha256 is not the expected one.

    A memory only ever confirms: what it does not know, or knows otherwise, is read. Jobs that
    begin together, as those of a sweep, read in turn, so that one of them reads for all.
    """
    known = recall(memory) if memory else {}
    if any(known.get(stat_key(path)) != sha256 for path, sha256 in expected.items()) and memory:
        with turn(memory):
            return read(expected, memory, recall(memory))
    return read(expected, memory, known)


@contextlib.contextmanager
def turn(memory: Path) -> Iterator[None]:
    """Be the only one who adds to this memory; where nothing can be locked, one of several."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock = stack.enter_context(open(memory.with_suffix(".lock"), "wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(expected: dict[Path, str], memory: Path | None, known: dict[str, str]) -> dict[Path, str]:
    """What `unequal` gives, by reading what is not known."""
    identities = {path: stat_key(path) for path in expected}
    unknown = [path for path in expected if known.get(identities[path]) != expected[path]]
    settled = time.time() - SETTLED
    digests = dict(zip(unknown, file_digests(unknown), strict=True))
    confirmed = {
        identities[path]: digest
        for path, digest in digests.items()
        if digest == expected[path]
        and stat_key(path) == identities[path]
        and path.stat().st_ctime < settled
    }
    if memory and confirmed:
        remember(memory, known, confirmed, set(identities.values()))
    return {path: digest for path, digest in digests.items() if digest != expected[path]}


def stat_key(path: Path) -> str:
    state = path.stat()
    return " ".join(str(getattr(state, name)) for name in IDENTITY)


def recall(memory: Path) -> dict[str, str]:
    """{identity of a file: sha256}; {} when there is none, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        known = read_json(memory)
        if isinstance(known, dict):
            return known
    return {}


def remember(
    memory: Path, known: dict[str, str], confirmed: dict[str, str], current: set[str]
) -> None:
    """Add to a memory, and drop what is no longer there; where nothing can be written, do nothing.

    Machines that share a file system number its device each in their own way: the rest decides.
    """
    rest = {name.partition(" ")[2] for name in current}
    kept = {name: digest for name, digest in known.items() if name.partition(" ")[2] in rest}
    with contextlib.suppress(OSError):
        write_json(memory, kept | confirmed)
