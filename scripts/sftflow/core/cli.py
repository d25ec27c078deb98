"""What every command-line program does the same way."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something the user can put right. The text says what is wrong, where, and what to do."""


def settings(text: str) -> dict:
    """Argparse type: JSON given inline, or @FILE."""
    return json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)


def study_parser(description: str) -> argparse.ArgumentParser:
    """Parser of a program that reads a whole study and what lies in its results."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of all outputs"
    )
    parser.add_argument(
        "--settings", type=settings, required=True, help="resolved config: JSON, or @FILE"
    )
    return parser


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
