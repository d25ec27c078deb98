"""Merged weights that were deleted, or dropped with `keep: adapter`, come back alone."""

from pathlib import Path

import pytest
from support import copy_finished, gone, jobs, run_snakemake

pytestmark = pytest.mark.slow

MERGED = "runs/tiny-sft/merged"


@pytest.fixture(scope="module")
def sparing(demo, tmp_path_factory) -> Path:
    """A copy of the demo, run once more with `keep: adapter`."""
    folder = copy_finished(demo.folder, tmp_path_factory.mktemp("sparing"))
    done = run_snakemake(folder, "--config", "keep=adapter")
    assert done.returncode == 0, done.stdout[-3000:]
    assert set(jobs(done.stdout)) == {"drop_weights", "all", "total"}
    return folder


def test_deleted_merged_weights_are_noticed_and_nothing_else_is_made(demo):
    """`rm -rf` of a merged folder ended in "Nothing to be done"."""
    with gone(demo.results / MERGED, demo.folder / "aside"):
        planned = run_snakemake(demo.folder, "-n")
    assert set(jobs(planned.stdout)) == {"restore_merged", "all", "total"}


def test_what_nothing_needs_is_dropped_and_comes_back_for_who_needs_it(sparing):
    """The same weights, in the job that needs them; no training, no question, nobody else's job."""
    run = sparing / "results/runs/tiny-sft"
    assert not (run / "merged").exists() and (run / "adapter").exists()
    assert not list(run.glob("checkpoints/*/checkpoint-*"))
    before = (run / "merged.json").read_bytes()
    answers = {p: p.read_bytes() for p in sparing.glob("results/evaluations/*/answers/*/*.jsonl")}
    asked = sparing / "results/evaluations/tiny-sft/general.json"
    asked.unlink()  # of what lies between others, Snakemake misses only what it is asked for
    targets = [str(path.relative_to(sparing)) for path in (asked, run / "dropped.json")]
    done = run_snakemake(sparing, *targets, "--config", "keep=adapter")
    assert done.returncode == 0, done.stdout[-3000:]
    made = set(jobs(done.stdout))
    assert "evaluate_suite" in made and not made & {"train_run", "serve_subject", "merge_run"}
    assert "made again" in done.stdout and not (run / "merged").exists()
    assert (run / "merged.json").read_bytes() == before
    assert {path: path.read_bytes() for path in answers} == answers
