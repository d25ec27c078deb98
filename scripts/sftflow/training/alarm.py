"""A line of ms-swift's log that says a model's own Python code will run, wherever none can.

ms-swift warns before it loads any model. A model in native form lies in a folder without code, so
there is nothing to run; only where there is (`allow_remote_code`), the line stays.
"""

import ast
import logging
import re
from pathlib import Path

LOADING = re.compile(r"Loading model from (.+) with trust_remote_code=True\.")


def holds(record: logging.LogRecord) -> bool:
    """Whether a line of the log is true, as far as it is about such code."""
    found = LOADING.match(record.getMessage())
    return not found or any(Path(ast.literal_eval(found[1])).glob("*.py"))


def silence() -> None:
    """From now on, in this process."""
    logging.getLogger("swift").addFilter(holds)
