"""What the terminal says of a job: one line when it begins, and one when it is done, with the share
of the whole and how long it took. Snakemake's own are six, four of which say nothing of the job.

Only where reasons are not asked for: a dry run, and `--quiet host`, say all that Snakemake does.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from logging import Handler, LogRecord
from typing import Any

from sftflow.core import slurm

SAYS_NOTHING = "Select jobs to execute..."


def one_line_each(handlers: Iterable[Handler]) -> None:
    for handler in handlers:
        shown = getattr(handler.formatter, "quiet", ())
        if "reason" in map(name, shown) and hasattr(handler, "last_msg_was_job_info"):
            Lines(handler).take_over()


def why_ended(handlers: Iterable[Handler]) -> dict[str, str]:
    """{first log of a job: why the cluster ended it}, filled as Snakemake's executor tells."""
    found: dict[str, str] = {}

    def hear(record: LogRecord) -> bool:
        told = vars(record)
        if name(told.get("event")) == "job_error" and told["log"]:
            found.pop(first := str(told["log"][0]), None)  # of the attempt before
            if why := slurm.why_ended(str(told["rule_msg"])):
                found[first] = why
        return True

    for handler in handlers:
        handler.addFilter(hear)
    return found


def say_no_errors(handlers: Iterable[Handler]) -> None:
    """From now on: each job that is ended on request would be one, of ten lines and more."""
    for handler in handlers:
        handler.addFilter(lambda record: not name(getattr(record, "event", "")).endswith("error"))


def name(member: object) -> str:
    """Of an enum's member; "" of anything else."""
    return getattr(member, "name", "").lower()


@dataclass
class Lines:
    handler: Handler
    running: dict[int, tuple[str, float]] = field(default_factory=dict)  # job: what, since when
    ended: list[str] = field(default_factory=list)
    share: Callable[[dict], str] = str  # how Snakemake says it

    def take_over(self) -> None:
        formatter: Any = self.handler.formatter
        self.share = formatter.format_progress
        for event in ("job_info", "job_finished", "progress"):
            setattr(formatter, f"format_{event}", getattr(self, event))
        self.handler.addFilter(self.worth_a_line)

    def worth_a_line(self, record: LogRecord) -> bool:
        event = name(getattr(record, "event", ""))
        if event == "job_info":
            self.handler.last_msg_was_job_info = True  # type: ignore[attr-defined]  # no blank line
        return event != "job_started" and record.msg != SAYS_NOTHING

    def job_info(self, told: dict) -> str:
        what = told["rule_msg"] or told["rule_name"]
        self.running[told["jobid"]] = what, time.monotonic()
        return f"{time.strftime('%H:%M:%S')}  {what}"

    def job_finished(self, told: dict) -> str:
        what, since = self.running.pop(told["job_id"], (told["msg"], time.monotonic()))
        self.ended.append(f"{what} ({timedelta(seconds=round(time.monotonic() - since))})")
        return ""  # progress says it, with the share

    def progress(self, told: dict) -> str:
        share, ended, self.ended = self.share(told), "; ".join(self.ended), []
        return f"{time.strftime('%H:%M:%S')}  {share}: {ended}" if ended else share
