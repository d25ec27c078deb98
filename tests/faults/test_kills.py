"""A bounded part of the kill matrix (kills.py): three kills that take seconds."""

import pytest
from kills import HUP, KILL, STAGES, Demo, trial

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "kind", "manner"),
    [
        ("tokenize_run", "snakemake", [KILL]),
        ("tokenize_run", "snakemake", [HUP]),  # a closed ssh
        ("find_contamination", "program", [KILL]),
    ],
)
def test_a_kill_leaves_nothing_and_the_next_run_makes_the_rest(demo, name, kind, manner):
    place = Demo(demo.folder.resolve())
    assert trial(place, STAGES[name], kind, "ci", 1.0, manner) == "passed"
