"""Where everything lies below results/, and how it is read."""

from pathlib import Path

from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json


def evaluation_folder(subject: str, benchmark: str, identity: str) -> str:
    """Of one evaluated benchmark: samples.jsonl, entry.json and evalscope/."""
    return f"evaluations/{subject}/{benchmark}/{identity[:16]}"


def answers_folder(subject: str, way: str) -> str:
    """Of what a subject answered in one way (identity.way): <suite>.jsonl for each suite."""
    return f"evaluations/{subject}/answers/{way[:16]}"


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
