"""Read a results folder once more, and say of everything in it whether it is what was written.

in:   --results   any part of a results folder
out:  a table on the terminal: what, files, size, ok or the problems; exit status 1 with any problem
env:  any Python from 3.11 on; standard library alone.

Read are: the files of every manifest and receipt, against their sha256; every record, against the
sha256 of its content; scores, against their items; samples, against their session; answers, line by
line. Nothing is taken from memory, so it takes as long as it takes to read the folder.
"""

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sftflow.core import cli, manifests
from sftflow.core.cli import UserError, note
from sftflow.core.jsonio import file_digest, read_record, sealed, short
from sftflow.core.layout import PATHS, every
from sftflow.scoring.consistent import contradiction

MANIFESTS = (
    PATHS.model_source, PATHS.model_tokenizer, PATHS.model, PATHS.dataset_source,
    PATHS.dataset_receipt, PATHS.benchmark, PATHS.run_receipt, PATHS.adapter, PATHS.checkpoint,
    PATHS.merged,
    "runs/*/trainings/*/adapter.json", "runs/*/trainings/*/steps/*/adapter.json",
)  # fmt: skip
# Records of one folder share a row where it may hold many.
FOLDERS = ("environments", "subjects/*", "scores/*", "runs/*/rungs", "sweeps/*")
RECORDS = (
    PATHS.contamination, PATHS.training, "runs/*/trainings/*/training.json", PATHS.checkpoints,
    PATHS.ratings,
)  # fmt: skip


@dataclass
class Row:
    """What was read: how many files, bytes, and what is wrong with them."""

    what: str
    files: int = 0
    size: int = 0
    problems: list[str] = field(default_factory=list)
    remark: str = "ok"

    def read(self, path: Path) -> dict | None:
        """A record, counted; None, and a problem, when it is not what was written."""
        self.files += 1
        self.size += path.stat().st_size
        try:
            return read_record(path)
        except UserError as error:
            self.problems.append(str(error))
            return None


def rows(results: Path) -> Iterator[Row]:
    """One after the other, as they are read."""

    def found(kind: str) -> list[tuple[Path, Row]]:
        paths = sorted(results.glob(every(kind)))
        shown = [path for path in paths if not path.name.startswith(".")]
        return [(path, Row(path.relative_to(results).as_posix())) for path in shown]

    for pattern in MANIFESTS:
        for path, row in found(pattern):
            check_manifest(path, row)
            yield row
    for pattern in RECORDS:
        for path, row in found(pattern):
            row.read(path)
            yield row
    for pattern in FOLDERS:
        for folder, row in found(pattern):
            paths = sorted(folder.glob("[!.]*.json"))
            row.what += "/*.json"
            for path in paths:
                record = row.read(path)
                if record and pattern == "scores/*" and (wrong := contradiction(record)):
                    row.problems.append(f"{path} contradicts itself: {wrong}")
            if paths:
                yield row
    for path, row in found(PATHS.evaluation):
        check_session(results, path, row)
        yield row
    for pattern in (
        PATHS.likelihood, PATHS.dialogue_answers, PATHS.behaviour, PATHS.judgement, PATHS.crisis,
        PATHS.curve,
    ):  # fmt: skip
        for path, row in found(pattern):
            check_records(results, path, row)
            yield row
    for folder, row in found("evaluations/*/answers"):
        for path in sorted(folder.glob("*/*.jsonl")):
            check_answers(path, row)
        if row.files:
            yield row


def check_manifest(path: Path, row: Row) -> None:
    """The files that it lists. Where none of them was copied along, there is nothing to check."""
    content = row.read(path)
    if content is None:
        return
    folder = manifests.folder_of(path, content)
    listed = [folder / file["path"] for file in content["files"]]
    there = [file for file in listed if file.is_file()]
    if listed and not there:
        row.remark = "ok, but its files are not here"
        return
    row.files += len(there)
    row.size += sum(file.stat().st_size for file in there)
    if wrong := manifests.problems(path, content, folder, memory=None):
        row.problems += [*wrong, f"delete {path}, and it is made again"]


def check_records(results: Path, path: Path, row: Row) -> None:
    """A record, and the lines that it, or each of its steps, points to."""
    content = row.read(path) or {"steps": []}
    for one in content.get("steps", [content]):
        lines = results / one["records"]
        remedy = f"Delete it and {path}, and they are made again"
        check_lines(lines, one["records_sha256"], str(lines), remedy, row)


def check_session(results: Path, path: Path, row: Row) -> None:
    """A session's manifest, and the samples that it points to."""
    for name, entry in ((row.read(path) or {}).get("benchmarks") or {}).items():
        samples = results / entry["samples"]
        remedy = "Delete it, and it is made again from the answers"
        check_lines(samples, entry["samples_sha256"], f"{samples} ({name})", remedy, row)


def check_lines(file: Path, sha256: str, what: str, remedy: str, row: Row) -> None:
    """A file of lines against the digest that names it; one that was not copied along is not."""
    if not file.is_file():
        return
    row.files += 1
    row.size += file.stat().st_size
    if (found := file_digest(file)) != sha256:
        row.problems.append(
            f"{what}: sha256 {short(sha256)} listed, {short(found)} found. {remedy}"
        )


def check_answers(path: Path, row: Row) -> None:
    """Each whole line is an answer, and what its own sha256 says.

    A last line without its end is what a killed job leaves: no answer, and no problem.
    """
    row.files += 1
    row.size += path.stat().st_size
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            answer = json.loads(line)
            whole = isinstance(answer, dict) and {"key", "n", "response"} <= answer.keys()
            whole = whole and sealed(answer) == answer
        except ValueError:
            whole = False
        if not whole:
            row.problems.append(
                f"{path}, line {number}, is not an answer as it was written. Delete that line, and "
                "its question is asked again"
            )


def show(row: Row, width: int) -> None:
    first, *others = row.problems or [row.remark]
    note(f"{row.what:<{width}}  {row.files:>7,}  {row.size:>16,}  {first}")
    for problem in others:
        note(f"{'':<{width + 29}}{problem}")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="what to verify")
    results = parser.parse_args().results
    if not results.is_dir():
        raise UserError(f"{results}: there is no such folder")
    width, seen = 44, []
    note(f"{'what':<{width}}  {'files':>7}  {'bytes':>16}")
    for row in rows(results):
        show(row, width)
        seen.append(row)
    total = f"{sum(row.files for row in seen):,} files, {sum(row.size for row in seen):,} bytes"
    if wrong := [row.what for row in seen if row.problems]:
        raise UserError(f"{total}: not what was written: {', '.join(wrong)}; see the table")
    note(f"{total}: all is what was written")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `verify.py | head` is no error
    sys.exit(cli.run(main))
