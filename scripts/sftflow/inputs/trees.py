"""The files of a folder, those inside its .zip and .tar archives among them, read where they lie.

Nothing is unpacked: a member's name is only ever looked up, so that none can lead out of its
archive.
"""

import bz2
import gzip
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from sftflow.core.cli import UserError
from sftflow.core.jsonio import tree_paths

PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
COMPRESSED: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7z": lzma.open}
POINTER = b"version https://git-lfs.github.com/spec/"
POINTS = (
    "{} is a pointer of Git LFS, not the data: run `git lfs pull` in the clone, or download the "
    "file itself"
)
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError,
    EOFError, OSError,
)  # fmt: skip

Tree = dict[str, Callable[[], bytes]]  # path from the top: how to read it


def tree(top: Path, packed: bool = True) -> Tree:
    """Every file below `top`, archives (if `packed`) as folders; none that systems add beside them.

    The bytes are read when they are asked for: UserError where they are encrypted, broken, or a
    pointer of Git LFS to bytes that were not downloaded.
    """
    found: Tree = {}
    for path in tree_paths(top):
        name = path.relative_to(top).as_posix()
        if not _kept(name):
            continue
        if packed and name.lower().endswith(PACKED):
            with _told(name):
                members = _zipped if name.lower().endswith(".zip") else _tarred
                for inside, read in members(path, name):
                    if f"{name}/{inside}" in found:
                        raise UserError(f"{name} holds {inside} twice: leave one")
                    found[f"{name}/{inside}"] = read
        else:
            found[name] = path.read_bytes
    return {name: _data(name, read) for name, read in found.items()}


def pointer(top: Path) -> str | None:
    """The sentence about a file below `top` that Git LFS has not downloaded, if there is one."""
    for path in tree_paths(top):
        if path.is_file() and path.stat().st_size < 1000 and path.read_bytes().startswith(POINTER):
            return POINTS.format(path.relative_to(top))
    return None


def snapshot(top: Path) -> Path:
    """`top`, or the newest snapshot in it where it is a folder of Hugging Face's cache."""
    commits = sorted(top.glob("snapshots/*/"))
    if not commits:
        return top
    main = top / "refs/main"
    newest = (
        top / "snapshots" / main.read_text(encoding="utf-8").strip()
        if main.is_file()
        else commits[0]
    )
    if newest not in commits or (len(commits) > 1 and not main.is_file()):
        names = ", ".join(path.name for path in commits)
        raise UserError(f"the cache holds several snapshots; give one of them as source: {names}")
    return newest


def _kept(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not any(part.startswith((".", "~$")) or part == "__MACOSX" for part in parts)


def _inside(archive: str, name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise UserError(f"{archive} holds a path that leads out of it ({name!r}): not read")
    return str(path)


def _zipped(path: Path, shown: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    archive = zipfile.ZipFile(path)
    for member in archive.infolist():
        name = _inside(shown, _zip_name(member))
        if not member.is_dir() and _kept(name):
            yield name, partial(archive.read, member)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A name that is not marked as UTF-8 is in whatever the packer's machine used: UTF-8, GBK."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        raw = member.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return member.filename
    for encoding in ("utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return member.filename


def _tarred(path: Path, shown: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    file = _plain(path)
    archive = tarfile.open(fileobj=file, mode="r:")
    members = archive.getmembers()
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it stops before its end mark")
    for member in members:
        name = _inside(shown, member.name) if member.name.strip("./") else ""
        if name and member.isfile() and _kept(name):
            yield name, partial(_member, archive, member)


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _plain(path: Path) -> IO[bytes]:
    """A tar, uncompressed in a temporary file: members are then read in any order at once."""
    file = open(path, "rb")
    start = file.read(3)
    file.seek(0)
    opened = next((open_ for mark, open_ in COMPRESSED.items() if start.startswith(mark)), None)
    if opened is None:
        return file
    plain = tempfile.TemporaryFile()
    with file, opened(file) as packed:
        shutil.copyfileobj(packed, plain)
    plain.seek(0)
    return plain


def _data(name: str, read: Callable[[], bytes]) -> Callable[[], bytes]:
    def checked() -> bytes:
        with _told(name):
            content = read()
        if content.startswith(POINTER):
            raise UserError(POINTS.format(name))
        return content

    return checked


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What archives raise, as one sentence."""
    try:
        yield
    except RuntimeError as error:  # of NotImplementedError, too: a way to compress
        if "password" not in str(error):
            raise UserError(
                f"cannot read {name}: {error}; unpack it, and give the folder"
            ) from None
        raise UserError(
            f"{name} is encrypted: unpack it with its password, and give the folder"
        ) from None
    except BROKEN as error:
        raise UserError(f"cannot read {name}: {error}; is it whole?") from None
