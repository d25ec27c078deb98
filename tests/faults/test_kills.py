"""The kill matrix (kills.py): a bounded part of it, kills that take seconds; what it covers."""

import re

import pytest
from kills import APART, HUP, KILL, STAGES, TERM, Demo, copy_of, table, trial
from support import ROOT


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


def test_every_rule_is_killed_or_stands_apart():
    smk = [path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk")]
    rules = re.findall(r"^rule (\w+):", "\n".join([*smk, "rule all:"]), re.M)
    assert {name.partition(",")[0] for name in STAGES} | APART.keys() == set(rules)


def test_the_table_counts_what_was_tried_and_names_what_failed():
    row = {"stage": "train_run", "victim": "tool", "seed": "0-1", "outcome": "passed"}
    said = table([row, row | {"seed": "0-2", "outcome": "['KILL']; left\nmore"}])
    assert "| train_run | – | 1 / 2 | – |" in said and "1 of 2 passed." in said
    assert "- train_run, tool (seed 0-2): ['KILL']; left\n" in said
    assert "Not tried: sync_environment, " in said
