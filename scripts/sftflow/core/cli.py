"""What every command-line program does the same way."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something the user can put right. The text says what is wrong, where, and what to do."""


def settings(text: str) -> dict:
    """Argparse type: a file with one JSON object; for a try by hand also the object itself."""
    given = text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
    return json.loads(given)


def study_parser(description: str) -> argparse.ArgumentParser:
    """Parser of a program that reads a whole study and what lies in its results."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings",
        type=Path,
        required=True,
        metavar="STUDY",
        help="the resolved config: study.json",
    )
    parser.add_argument(
        "--results", type=Path, help="folder of all outputs (default: where the study lies)"
    )
    return parser


def study(args: argparse.Namespace) -> tuple[dict, Path]:
    """(the study, its results folder) from the arguments of `study_parser`."""
    return settings(str(args.settings)), args.results or args.settings.parent


def note(text: str) -> None:
    """A line for the person at the terminal: stdout is theirs, stderr is the log."""
    print(text, flush=True)


def run(main: Callable[[], None]) -> int:
    """Run a program; turn a UserError into one clear message and exit status 1."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
