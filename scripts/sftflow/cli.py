"""What every command-line program does the same way."""

import json
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something the user can put right. The text says what is wrong, where, and what to do."""


def settings(text: str) -> dict:
    """Argparse type: JSON given inline, or @FILE."""
    return json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)


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
