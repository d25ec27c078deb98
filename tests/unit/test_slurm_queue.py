"""What is said of jobs that Slurm does not start, and which log belongs to which attempt."""

import os

import run
from sftflow.core import slurm

LISTED = """\
11|Priority|rule_train_run_wildcards_a
12|ReqNodeNotAvail, UnavailableNodes:n1|rule_train_run_wildcards_b
13|ReqNodeNotAvail, UnavailableNodes:n1|rule_merge_run_wildcards_c
14|PartitionTimeLimit|rule_find_contamination_wildcards_d
15|BadConstraints|somebody's own job
16|Resources|rule_serve_subject_wildcards_e
"""


def test_only_what_may_wait_for_ever_is_told():
    assert slurm.held(LISTED) == {
        "ReqNodeNotAvail, UnavailableNodes:n1": ["12 (train_run b)", "13 (merge_run c)"],
        "PartitionTimeLimit": ["14 (find_contamination d)"],
    }


def test_a_reason_is_told_once_until_it_is_gone():
    said, told = [], set()
    for listed in (LISTED, LISTED, "", LISTED):
        slurm.tell(said.append, told, listed)
    assert len(said) == 4
    assert "job 12 (train_run b) and 1 more: ReqNodeNotAvail" in said[0]


def test_without_slurm_nothing_is_listed(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm.pending() == ""


def test_the_log_of_an_attempt_before_is_kept(tmp_path):
    """Snakemake deletes the log before each; three earlier ones stay."""
    log = tmp_path / "a.log"
    for attempt in range(6):
        log.unlink(missing_ok=True)
        with open(log, "wb") as file:
            run.keep_earlier(file.fileno())
            os.write(file.fileno(), f"attempt {attempt}".encode())
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {
        "a.log": "attempt 5", ".a.log": "attempt 5", "a.log.1": "attempt 4", "a.log.2": "attempt 3",
        "a.log.3": "attempt 2",
    }  # fmt: skip
