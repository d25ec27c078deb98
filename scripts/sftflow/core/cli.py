"""What every command-line program does the same way."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from sftflow.core import process, space


class UserError(Exception):
    """Something the user can put right. The text says what is wrong, where, and what to do."""


def settings(text: str) -> dict:
    """Argparse type: a file with one JSON object; for a try by hand also the object itself."""
    given = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
    return json.loads(given)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of a program; its help begins with its docstring, lines as they are."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of a program that reads a whole study and what lies in its results."""
    found = parser(description)
    found.add_argument(
        "--settings",
        type=Path,
        required=True,
        metavar="STUDY",
        help="the resolved config: study.json",
    )
    found.add_argument(
        "--results", type=Path, help="folder of all outputs (default: where the study lies)"
    )
    return found


def study(args: argparse.Namespace) -> tuple[dict, Path]:
    """(the study, its results folder) from the arguments of `study_parser`."""
    return settings(str(args.settings)), args.results or args.settings.parent


def note(text: str) -> None:
    """A line for the person at the terminal: stdout is theirs, stderr is the log."""
    print(text, flush=True)


def run(main: Callable[[], None]) -> int:
    """Run a program, which ends with the snakemake that started it.

    A UserError becomes one clear message and exit status 1, and so does a full disk.
    """
    process.follow_snakemake()
    try:
        main()
    except UserError as error:
        complain(str(error))
        return 1
    except Exception as error:
        if not space.is_lack(error):
            raise
        complain(f"{error}: {space.ROOM}")
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    return 0


def complain(text: str) -> None:
    """Say in the log why this ends; at the terminal where the log's own disk is full."""
    try:
        print(f"error: {text}", file=sys.stderr, flush=True)
    except OSError:
        with contextlib.suppress(OSError):
            note(f"error: {text}")
