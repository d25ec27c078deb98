"""How the study gets from Snakemake to the jobs: by file, and never by a command line.

Snakemake resolves the config once and puts the study into .snakemake/sftflow/<digest>.json, a file
that never changes. Which one belongs to which results folder is told to the jobs by the environment
variable SFTFLOW_STUDIES, since whatever stands in a rule would make all jobs run again when it
changes. A second Snakemake with another config can't disturb the jobs of the first.
"""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sftflow.core import process
from sftflow.core.cli import UserError
from sftflow.core.gpu import SUBMITTED
from sftflow.core.jsonio import digest, read_json, write_json

SCRATCH = Path(".snakemake/sftflow")
STUDIES = "SFTFLOW_STUDIES"
PLANNED = "SFTFLOW_PLANNED"
HOME = Path(__file__).resolve().parents[3]  # the checkout


def announce(study: dict, results: str, submitted: bool = False) -> None:
    """Tell the jobs of this process (and the rules' shell commands: $SFTFLOW) what the study is.

    `submitted`: this process is a job of its own, that a snakemake elsewhere sent to a cluster.
    """
    path = SCRATCH.resolve() / f"study-{digest(study)[:16]}.json"
    if not path.exists():
        write_json(path, study)
    studies = json.loads(os.environ.get(STUDIES, "{}"))
    os.environ[STUDIES] = json.dumps(studies | {_told(results): _told(path)})
    process.lead()
    os.environ["PYTHONUTF8"] = "1"  # whatever the locale is, of the tools' own files, too
    if submitted:
        os.environ[SUBMITTED] = "1"
    os.environ["SFTFLOW"] = str(HOME / "scripts/run")
    os.environ["SFTFLOW_PYTHON"] = sys.executable


def _told(path: str | Path) -> str:
    """The bytes of a path, as text: Snakemake and its jobs may read them in other locales."""
    return os.fsencode(Path(path).resolve()).decode("latin-1")


def study_of(results: Path) -> dict:
    """The study that belongs to a results folder. Raises UserError outside Snakemake."""
    studies = json.loads(os.environ.get(STUDIES, "{}"))
    try:
        return read_json(os.fsdecode(studies[_told(results)].encode("latin-1")))
    except KeyError:
        raise UserError(
            f"no study is known for {results}: this command is for Snakemake's jobs; "
            "give --settings a file of your own to run a program by hand"
        ) from None


@dataclass(frozen=True)
class Plan:
    """The files that this run of Snakemake makes, and when it began; `unknown`: nobody told."""

    files: frozenset[str] = frozenset()
    begun: float = 0
    unknown: bool = True

    def __contains__(self, file: str) -> bool:
        return _told(file) in self.files


def tell_plan(files: Iterable[str]) -> None:
    """Tell the jobs of this run what it makes. Somebody else's workflow that has this one as a
    module does not."""
    path = SCRATCH.resolve() / "planned.json"
    write_json(path, sorted(map(_told, files)))
    os.environ[PLANNED] = str(path)


def planned() -> Plan:
    begun = _begun()
    if begun is None:
        return Plan()
    return Plan(frozenset(read_json(os.environ[PLANNED])), begun, False)


def _begun() -> float | None:
    """When this run of Snakemake began; None where it told no plan."""
    path = os.environ.get(PLANNED)
    return os.path.getmtime(path) if path and os.path.exists(path) else None


def _mark(output: str | Path) -> Path:
    return SCRATCH / "asked" / digest(_told(output))[:16]


def tell_asked(output: str) -> None:
    """Tell this run that everything is answered which the job of this output would ask."""
    write_json(_mark(output), output)


def asked(output: str | Path) -> bool:
    """Whether this run of Snakemake has the answers already that the job of an output asks for."""
    if (begun := _begun()) is None:
        return False
    mark = _mark(output)
    return mark.exists() and os.path.getmtime(mark) >= begun
