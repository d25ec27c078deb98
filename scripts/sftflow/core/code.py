"""Which code a result depends on, as a digest: what a program imports, not a list kept by hand."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from sftflow.core.handover import HOME

SCRIPTS = HOME / "scripts"


@cache
def digest(*programs: str, files: tuple[str, ...] = ()) -> str:
    """sha256 over programs, whatever of this project they import, and other files.

    Names are paths below the checkout; of a folder, every file counts.
    """
    modules: set[Path] = set()
    for program in programs:
        modules |= imported(HOME / program)
    return _digest(modules | _files(files))


def files_digest(*names: str) -> str:
    """sha256 over files, and over every file in folders; what they import does not count."""
    return _digest(_files(names))


def imported(program: Path) -> set[Path]:
    """A program, and the modules of this project that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [program]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(file)
    return found


@cache
def _imports(file: Path) -> list[Path]:
    names: list[str] = []
    for node in _statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    modules = {SCRIPTS / f"{name.replace('.', '/')}.py" for name in names if "sftflow" in name}
    return [module for module in modules if module.is_file()]


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement, however deep: an import is no part of an expression, and expressions are
    nine tenths of what `ast.walk` visits, each time that Snakemake starts."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, block, [])


def _files(names: Iterable[str]) -> set[Path]:
    found: set[Path] = set()
    for path in (HOME / name for name in names):
        found |= {path} if path.is_file() else set(path.rglob("*"))
    return {file for file in found if file.is_file() and "__pycache__" not in file.parts}


def _digest(files: set[Path]) -> str:
    sha = hashlib.sha256()
    for file in sorted(files):
        sha.update(f"{file.relative_to(HOME)}\n".encode() + file.read_bytes())
    return sha.hexdigest()
