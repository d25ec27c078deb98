"""Where everything lies below results/, and how it is read."""

from pathlib import Path

from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json


class Results:
    """The outputs of a study. What is not there reads as None."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def read(self, path: str) -> dict | None:
        try:
            return read_json(self.folder / path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{self.folder / path} is not valid JSON ({error}): delete it, and it is made again"
            ) from None
