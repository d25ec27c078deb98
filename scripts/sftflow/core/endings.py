"""What the terminal says last: the result of a run that went well, or why it failed."""

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sftflow.core.layout import PATHS, Results

LINES = 20  # of a failed log
WIDTH = 400  # characters of a line
CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")  # a terminal would obey
# How our programs say it, and how Python does.
OURS = re.compile(r"error: ")
REASON = re.compile(r"[\w.]*(Error|Exception|Interrupt|Killed)\b")


def result(folder: str) -> str:
    """What the report found, and where it lies; empty where there is none."""
    results = Results(folder)
    report, told = results.path(PATHS.html), results.path(PATHS.summary)
    if not report.exists() or not told.exists():
        return ""
    answers = results.path(PATHS.answers)
    return f"\n{told.read_text(encoding='utf-8')}\nReport:  {report}\nAnswers: {answers}"


def failures(jobs: Iterable, ended: Mapping[str, str]) -> str:
    """Of each failed job of Snakemake's the end of its logs, and the reason last: that stands in
    its first log, beside which a server may have another. Why it was `ended`, its log can't say."""
    single = (job for group in jobs for job in getattr(group, "jobs", [group]))
    logs = dict.fromkeys(str(log) for job in single for log in reversed(job.log))
    told = [(end_of(Path(log)), f"\n{log}: {ended[log]}" if log in ended else "") for log in logs]
    return "\n".join(filter(None, itertools.chain(*told)))


def end_of(log: Path) -> str:
    """The last lines of a log under its name; of one that is empty or not there nothing."""
    try:
        lines = last_words(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    told = [f"\n{log}, its last lines:", *(f"  {line}" for line in lines)]
    return "\n".join(told) if lines else ""


def last_words(text: str) -> list[str]:
    """The last lines, fit for a terminal, and the reason at their end.

    A progress bar is its last state. What our programs say is wrong may be several lines; a tool
    may still say something after its exception, which is then said again.
    """
    bars = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    lines = [CODES.sub("", line)[:WIDTH] for line in bars if line.strip()]
    ours = [place for place, line in enumerate(lines) if OURS.match(line)]
    if ours:
        said = lines[ours[-1] :][:LINES]
        before = lines[: ours[-1]][-(LINES - len(said)) :] if len(said) < LINES else []
        return [*before, *said]
    theirs = [line for line in lines if REASON.match(line)]
    end = lines[-LINES:]
    return end if not theirs or theirs[-1] == lines[-1] else [*end[1:], theirs[-1]]
