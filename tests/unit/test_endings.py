"""What the terminal says: when a step will be done, why a job failed, and what came out."""

import io
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import made_up
import pytest
import snakemake.logging
from sftflow.core import endings, progress, terminal
from sftflow.core.jsonio import write_text
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import summary
from sftflow.reporting.evidence import Evidence
from sftflow.training import alarm
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent


@pytest.fixture
def said(monkeypatch):
    """say(seconds, done): the line that is printed then, or None."""
    clock, lines = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "note", lines.append)
    bar = progress.Progress("evaluate", 100, "answers")

    def say(seconds: float, done: int) -> str | None:
        clock[0], before = seconds, len(lines)
        bar.update(done)
        return lines[-1] if len(lines) > before else None

    return say


def test_a_start_up_is_no_speed(said):
    said(0, 0)
    assert said(300, 1) == "evaluate  1/100 answers  1 %"
    assert said(306, 2) == "evaluate  2/100 answers  2 %"
    assert said(312, 3) == "evaluate  3/100 answers  3 %  ETA 0:09:42"  # 6 s each


def test_what_was_there_before_is_no_speed(said):
    said(0, 40)
    said(10, 40)
    assert "ETA" not in said(20, 41)
    assert said(30, 46).endswith("46/100 answers  46 %  ETA 0:01:48")


def test_answers_that_all_come_at_once_say_nothing_of_the_rest(said):
    said(0, 0)
    assert "ETA" not in said(10, 32)
    assert said(20, 64).endswith("ETA 0:00:11")


LONG = "".join(f"line {n}\n" for n in range(300))


@pytest.mark.parametrize(
    ("log", "last", "count"),
    [
        (f"{LONG}error: no such file\n  look there\n", ["error: no such file", "  look there"], 20),
        (f"{LONG}ValueError: bad\n", ["ValueError: bad"], 20),
        (f"{LONG}torch.OutOfMemoryError: full\nbye\nbye\n", ["torch.OutOfMemoryError: full"], 20),
        (LONG, ["line 299"], 20),
        ("error: one\n" + LONG, ["line 18"], 20),
        ("10 %\r20 %\r30 %\r\n\x1b[31mred\x1b[0m\x07\n", ["30 %", "red"], 2),
        ("", [], 0),
    ],
)
def test_a_failed_log_ends_with_the_reason(log, last, count):
    lines = endings.last_words(log)
    assert lines[len(lines) - len(last) :] == last and len(lines) == count


SAID = (("a.server.log", "up"), ("a.log", "error: a"))


def test_failed_jobs_are_told_once_each(tmp_path):
    (tmp_path / "a.log").write_text("error: a\n")
    (tmp_path / "a.server.log").write_text("up\n")
    (tmp_path / "b.log").write_text("")
    one = SimpleNamespace(log=[tmp_path / "a.log", tmp_path / "a.server.log"])
    gone = SimpleNamespace(log=[tmp_path / "gone.log", tmp_path / "b.log"])
    text = endings.failures([one, SimpleNamespace(jobs=[one, gone])], {})
    ends = [f"\n{tmp_path}/{name}, its last lines:\n  {line}" for name, line in SAID]
    assert text == "\n".join(ends)


def test_of_a_job_that_slurm_ended_the_reason_is_last(tmp_path):
    """Its own log knows of a signal only."""
    (log := tmp_path / "a.log").write_text("snakemake is gone: this job ends too\n")
    handler, _ = snakemakes({Quietness.REASON})
    ended = terminal.why_ended([handler])

    def fails(status: str) -> str:
        told = {"event": LogEvent.JOB_ERROR, "log": [str(log), "slurm.log"], "rule_msg":
                f"SLURM-job '4' failed, SLURM status is: '{status}'. Reason: Unknown."}  # fmt: skip
        record = logging.LogRecord("snakemake", logging.ERROR, "", 0, "Error", None, None)
        record.__dict__ |= told
        handler.filter(record)
        return endings.failures([SimpleNamespace(log=[log])], ended).splitlines()[-1]

    assert fails("TIMEOUT") == (
        f"{log}: Slurm ended this job (TIMEOUT): its time was over; more: `resources`, runtime "
        "(minutes)"
    )
    assert fails("FAILED") == "  snakemake is gone: this job ends too"


def test_a_run_without_a_report_has_no_result(tmp_path):
    assert endings.result(str(tmp_path)) == ""


def test_the_result_is_said_without_what_a_terminal_obeys(tmp_path):
    hostile = made_up.RAW | {
        "models": {"base": {"source": "org/base", "label": "\x1b[31mred\u202e"}}
    }
    study = made_up.write_study(tmp_path, hostile, {"base": 0.35, "tuned": 0.75})
    made_up.write_records(tmp_path, study)
    told = summary.in_terminal(Evidence(study, Results(tmp_path), {}))
    assert told.startswith("tuned against  [31mred \n  Knowledge: general +")
    assert "psychology +" in told and "Flags" in told
    assert all(line.isprintable() for line in told.splitlines())
    write_text(tmp_path / PATHS.summary, told)
    write_text(tmp_path / PATHS.html, "")
    assert endings.result(str(tmp_path)).startswith(f"\n{told}\nReport:  {tmp_path}/report/")


@pytest.mark.parametrize("name", ["weights", "it's a 权重"])
def test_only_a_folder_without_code_silences_the_alarm(tmp_path: Path, name):
    folder = tmp_path / name
    folder.mkdir()

    def line(text: str) -> logging.LogRecord:
        return logging.LogRecord("swift", logging.WARNING, "", 0, text, None, None)

    loading = line(
        f"Loading model from {str(folder)!r} with trust_remote_code=True. This will execute custom"
    )
    assert not alarm.holds(loading)
    assert alarm.holds(line("Loading something else"))
    (folder / "modeling_own.py").write_text("")
    assert alarm.holds(loading)


# --- jobs ----------------------------------------------------------------------------------------


def snakemakes(quiet: set) -> tuple[logging.Handler, io.StringIO]:
    """Snakemake's own handler, and what it writes."""
    stream = io.StringIO()
    handler = snakemake.logging.ColorizingTextHandler(nocolor=True, stream=stream)
    handler.setFormatter(snakemake.logging.DefaultFormatter(quiet=quiet))
    return handler, stream


def run_of_a_job(handler: logging.Handler) -> None:
    """What Snakemake logs of one."""
    job = {"jobid": 14, "rule_msg": "Fetching benchmark mmlu", "rule_name": "f", "reason": "Forced"}
    for event, message, told in (
        (None, "Select jobs to execute...", {}),
        (LogEvent.JOB_STARTED, "Execute 1 jobs...", {"jobs": [14]}),
        (LogEvent.JOB_INFO, None, job),
        (LogEvent.JOB_FINISHED, "Finished jobid: 14 (Rule: f)", {"job_id": 14}),
        (LogEvent.PROGRESS, None, {"done": 3, "total": 52}),
        (None, "What is said besides", {}),
    ):
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, message, None, None)
        record.__dict__ |= told | ({"event": event} if event else {})
        handler.handle(record)


def test_a_job_is_two_lines_and_says_its_share_of_the_whole():
    handler, stream = snakemakes({Quietness.REASON})
    terminal.one_line_each([handler, logging.NullHandler()])
    run_of_a_job(handler)
    begun, done, other = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  Fetching benchmark mmlu", begun)
    assert done[10:] == "3 of 52 steps (6%) done: Fetching benchmark mmlu (0:00:00)"
    assert other == "What is said besides"


def test_who_asks_for_reasons_hears_all_that_snakemake_says():
    handler, stream = snakemakes(set())
    terminal.one_line_each([handler])
    run_of_a_job(handler)
    assert "Reason: Forced" in stream.getvalue() and "Select jobs" in stream.getvalue()


def test_jobs_that_are_ended_on_request_are_no_errors():
    handler, stream = snakemakes({Quietness.REASON})
    terminal.say_no_errors([handler])
    for event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR, LogEvent.ERROR, None):
        record = logging.LogRecord("snakemake", logging.ERROR, "", 0, f"said {event}", None, None)
        record.__dict__ |= {"event": event} if event else {}
        handler.handle(record)
    assert stream.getvalue() == "said None\n"
