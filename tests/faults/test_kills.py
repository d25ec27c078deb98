"""The kill matrix (kills.py): a bounded part of it, kills that take seconds; what it covers."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from kills import APART, HUP, KILL, STAGES, TERM, Demo, copy_of, table, trial, victims
from sftflow.core import process
from support import ROOT
from test_full_disk import Disk, mounted


@pytest.fixture(scope="module")
def place(demo) -> Demo:
    return copy_of(demo.folder.resolve())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "manner", "seconds"),
    [
        ("tokenize_run", "snakemake", [KILL], 1),
        ("tokenize_run", "snakemake", [HUP], 1),  # a closed ssh
        ("find_contamination", "program", [KILL], 1),
        ("restore_merged", "program", [KILL], 3),
        ("evaluate_suite", "program", [TERM], 5),
    ],
)
def test_a_kill_leaves_nothing_and_the_next_run_makes_the_rest(place, name, kind, manner, seconds):
    assert trial(place, STAGES[name], kind, "ci", seconds, manner) == "passed"


@pytest.fixture(scope="module")
def on_small_disk(demo) -> Iterator[tuple[Demo, Disk]]:
    """A copy of the demo whose results lie on a disk of their own."""
    copy = copy_of(demo.folder.resolve())
    results = copy.results.rename(copy.folder / "aside")
    copy.results.mkdir()
    with mounted(copy.results, "256m") as disk:
        shutil.copytree(results, copy.results, symlinks=True, dirs_exist_ok=True)
        yield copy, disk


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenize_run", "score_suite"])
def test_a_full_disk_is_one_sentence_and_the_next_run_makes_the_rest(on_small_disk, name):
    """Stages that write little; test_full_disk.py has the others."""
    (copy, disk), stage = on_small_disk, STAGES[name]
    before = copy.outcome(stage)
    copy.forget(stage)
    with disk.full():
        assert copy.start(stage).wait(300) == 1
    told = [line for line in copy.said().splitlines() if "error: " in line]
    assert "make room (`snakemake usage` says" in told[-1] and not copy.broken()
    copy.made(copy.start(stage))
    assert copy.outcome(stage) == before


def test_the_program_is_not_a_subshell_of_what_starts_it(tmp_path):
    """It has the same command line, and is gone when the kill comes: then it is "too late"."""
    run = tmp_path / "run"
    run.write_text("got=$(sleep 9; true)\n", encoding="utf-8")
    with subprocess.Popen(["sh", "-c", f"sh {run} workflow score.py; true"]) as top:
        while len(below := process.descendants(top.pid)) < 3:
            assert top.poll() is None
        assert victims(top.pid, STAGES["score_suite"])["program"] == below[0]
        for pid in [top.pid, *below]:
            os.kill(pid, KILL)


def test_every_rule_is_killed_or_stands_apart():
    smk = [path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk")]
    rules = re.findall(r"^rule (\w+):", "\n".join([*smk, "rule all:"]), re.M)
    rules += re.findall(r'^ +name:\n +f"(\w+)_\{', "\n".join(smk), re.M)  # one for each suite
    assert {name.partition(",")[0] for name in STAGES} | APART.keys() == set(rules)


def test_the_table_counts_what_was_tried_and_names_what_failed():
    row = {"stage": "train_run", "victim": "tool", "seed": "0-1", "outcome": "passed"}
    said = table([row, row | {"seed": "0-2", "outcome": "['KILL']; left\nmore"}])
    assert "| train_run | – | 1 / 2 | – |" in said and "1 of 2 passed." in said
    assert "- train_run, tool (seed 0-2): ['KILL']; left\n" in said
    assert "Not tried: sync_environment, " in said
