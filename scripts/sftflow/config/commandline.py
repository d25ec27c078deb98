"""What Snakemake keeps from a Snakefile while it is read: the command line's targets and executor.

`workflow.dag_settings`, which holds the targets, is set after the last line of the Snakefile, and a
wrong target ends the run before any hook (`onerror` is for jobs). So Snakemake's own parser is
asked again. Needs Snakemake, for its own process only.
"""

import argparse
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sftflow.config.names import nearest


def command_line() -> argparse.Namespace | None:
    """Snakemake's arguments, less what profiles add; None when its command did not start it."""
    program = Path(sys.argv[0])
    if program.stem != "snakemake" and program.parts[-2:] != ("snakemake", "__main__.py"):
        return None
    from snakemake.cli import get_argument_parser

    return get_argument_parser().parse_known_args()[0]


def asked_for() -> set[str]:
    """Rules and files that the command line names, to make or to start from."""
    given = command_line()
    return {*given.targets, *given.forcerun, *given.until, *given.omit_from} if given else set()


def submits(nodes: int | None) -> bool:
    """Whether jobs may run on other machines. `nodes`: workflow.resource_settings.nodes."""
    given = command_line()
    return nodes is not None or (given is not None and given.executor not in (None, "local"))


def unknown_targets(
    asked: Iterable[str], rules: Iterable[str], outputs: Iterable[str], names: dict[str, list[str]]
) -> Iterator[str]:
    """What is asked for and is no rule, no output and no file, with the nearest that is one.

    `outputs` are patterns such as "results/runs/{run}/merged.json", `names` the values of their
    wildcards; a pattern with another wildcard stands for anything.
    """
    rules, outputs = set(rules), list(outputs)
    strange = {name for name in asked if name not in rules and not os.path.exists(name)}
    if not strange:
        return
    files = {os.path.relpath(file) for pattern in outputs for file in _expand(pattern, names)}
    for name in sorted(strange):
        path = os.path.relpath(name)
        open_ended = any(re.fullmatch(_regex(pattern, names), path) for pattern in outputs)
        if "://" in name or path in files or open_ended:
            continue
        form = os.path.abspath if os.path.isabs(name) else os.path.relpath
        known = {*map(form, files), *(() if os.sep in name else rules)}
        yield f"{name}: no rule, and no file that this study makes{nearest(name, sorted(known))}"


def _wildcards(pattern: str) -> list[str]:
    return re.findall(r"{(\w+)[^}]*}", pattern)


def _expand(pattern: str, names: dict[str, list[str]]) -> Iterator[str]:
    """A pattern with every combination of its wildcards' values; none if one has no values."""
    wildcards = list(dict.fromkeys(_wildcards(pattern)))
    for values in itertools.product(*(names.get(wildcard, []) for wildcard in wildcards)):
        path = pattern
        for wildcard, value in zip(wildcards, values, strict=True):
            path = re.sub(rf"{{{wildcard}[^}}]*}}", value, path)
        yield path


def _regex(pattern: str, names: dict[str, list[str]]) -> str:
    """Matches what a pattern with unknown wildcards stands for; nothing for any other pattern."""
    if set(_wildcards(pattern)) <= set(names):
        return r"(?!)"
    parts = re.split(r"{\w+[^}]*}", os.path.relpath(pattern))
    return ".+".join(map(re.escape, parts))
