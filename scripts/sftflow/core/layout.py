"""Where everything lies below results/, and how it is read."""

from pathlib import Path

from sftflow.core.jsonio import read_record


class Results:
    """The outputs of a study. What is not there reads as None."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def read(self, path: str) -> dict | None:
        """A record below results/; UserError when it was changed after it had been written."""
        try:
            return read_record(self.folder / path)
        except FileNotFoundError:
            return None
