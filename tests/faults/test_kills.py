"""A bounded part of the kill matrix (kills.py): one kill of each victim."""

import pytest
from kills import HUP, KILL, STAGES, Demo, trial

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "kind", "manner"),
    [
        ("tokenize_run", "snakemake", [KILL]),
        ("train_run", "snakemake", [HUP]),  # a closed ssh
        ("merge_run", "program", [KILL]),
    ],
)
def test_a_kill_leaves_nothing_and_the_next_run_makes_the_rest(demo, name, kind, manner):
    place = Demo(demo.folder.resolve())
    assert trial(place, STAGES[name], kind, "ci", 1.0, manner) in ("passed", "too late")
