"""Successive halving: who goes on, what is remembered of it, and when it no longer counts."""

import copy
from functools import partial

import halve
import made_up
import pytest
from sftflow.config import halving, jobs, resolve
from sftflow.core import cli
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record, write_json, write_record
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import plan

RANKS = [4, 8, 16, 32]
RAW = made_up.RAW | {
    "sweeps": {"rank": {"run": "tuned", "grid": {"lora_rank": RANKS}, "halving": {}}},
    "evaluate": {"subjects": ["base", "tuned", "rank"]},
    "comparisons": [{"baseline": "base", "candidate": "rank"}],
}
RUNS = [f"rank-lora_rank{rank}" for rank in RANKS]


def read(results, raw: dict = RAW) -> dict:
    return resolve.load(raw, going_on=partial(halving.going_on, results))


def changed(**halved) -> dict:
    raw = copy.deepcopy(RAW)
    raw["sweeps"]["rank"] |= halved
    return raw


def rungs(losses: dict[str, float | None]) -> dict[str, dict]:
    failed = {"why": "the loss is nan"}
    return {
        run: {"part": 4, "validation_loss": loss} | (failed if loss is None else {})
        for run, loss in losses.items()
    }


def test_the_better_part_goes_on_rounded_up():
    points = {name: [name] for name in "abcde"}
    made = halving.decide(points, rungs(dict(zip("abcde", (5, 1, 4, 2, 3), strict=True))), 2, [])
    assert made["points"] == made["going_on"] == ["b", "d", "e"]
    assert [point["point"] for point in made["stopped"]] == ["c", "a"]
    equal = halving.decide(points, rungs(dict.fromkeys("abcde", 1.0)), 3, [])
    assert equal["points"] == ["a", "b"], "of equal ones the first in the grid"


def test_seeds_count_by_their_mean_and_one_that_failed_is_the_worst():
    """The best single run of an unlucky recipe is luck."""
    points = {"a": ["a1", "a2"], "b": ["b1", "b2"], "c": ["c1", "c2"]}
    losses = {"a1": 0.1, "a2": 9.0, "b1": 2.0, "b2": 3.0, "c1": 0.1, "c2": None}
    made = halving.decide(points, rungs(losses), 2, [{"point": "z", "part": 8}])
    assert made["points"] == ["b", "a"] and made["going_on"] == ["b1", "b2", "a1", "a2"]
    assert [point["point"] for point in made["stopped"]] == ["c", "z"]
    assert halving.passed(made | {"part": 4}) == [
        {"part": 8, "of": 4, "on": 3},
        {"part": 4, "of": 3, "on": 2},
    ]
    few = halving.decide(points, rungs(losses | {"a1": None, "b1": None, "c2": 1.0}), 2, [])
    assert few["points"] == ["c"], "nobody goes on who has failed"
    with pytest.raises(UserError, match="every one has failed, the first so: the loss is nan"):
        halving.decide(points, rungs(dict.fromkeys(losses)), 2, [])


def test_rungs_are_at_parts_of_the_steps():
    assert halving.parts({"factor": 2, "rungs": 2}) == [4, 2]
    assert halving.parts({"factor": 3, "rungs": 3}) == [27, 9, 3]
    three = {"factor": 3, "rungs": 3}
    assert [halving.before(three, part) for part in (27, 9, 3)] == [None, 27, 9]


def test_nobody_is_a_run_before_it_is_decided_and_then_those_that_go_on_are(tmp_path):
    study = read(tmp_path)
    assert list(study["contenders"]) == RUNS and list(study["runs"]) == ["tuned"]
    assert study["evaluate"]["subjects"] == ["base", "tuned"] and study["comparisons"] == []
    assert study["sweeps"]["rank"] == {
        "run": "tuned", "grid": {"lora_rank": RANKS}, "halving": {"factor": 2, "rungs": 2},
        "runs": [],
    }  # fmt: skip
    assert not list(halving.news(tmp_path, study))

    first, second = dict(zip(RUNS, (1.4, 1.3, 1.2, 1.1), strict=True)), {RUNS[2]: 1, RUNS[3]: 0.9}
    made_up.write_halving(tmp_path, RAW, "rank", {4: first, 2: second})
    (sentence,) = halving.news(tmp_path, study)
    assert sentence.startswith(f"Sweep rank: 1 of 4 points go on ({RUNS[3]}). The same command")
    study = read(tmp_path)
    assert list(study["runs"]) == ["tuned", RUNS[3]] and list(study["contenders"]) == RUNS
    assert study["evaluate"]["subjects"] == ["base", "tuned", RUNS[3]]
    assert study["comparisons"] == [{"baseline": "base", "candidate": RUNS[3]}]
    assert study["sweeps"]["rank"]["runs"] == [RUNS[3]]
    assert not list(halving.news(tmp_path, study))


@pytest.mark.parametrize(
    ("other", "decided"),
    [
        (changed(halving={"factor": 2, "rungs": 1}), False),
        (changed(halving={"factor": 3, "rungs": 1}), False),
        (changed(grid={"lora_rank": [*RANKS, 64]}), False),
        (RAW | {"training": {"learning_rate": 1e-3}}, False),
        (RAW | {"datasets": {"talks": {"source": "other.jsonl"}}}, False),
        (RAW | {"training": {"save_steps": 7}, "serving": {"concurrency": 3}}, True),
    ],
)
def test_a_decision_is_of_these_trainings_and_this_halving(tmp_path, other, decided):
    """Points that were chosen by other trainings would be reported as chosen by these."""
    losses = dict(zip(RUNS, (1.4, 1.3, 1.2, 1.1), strict=True))
    made_up.write_halving(tmp_path, RAW, "rank", {4: losses, 2: {RUNS[2]: 1, RUNS[3]: 0.9}})
    assert bool(read(tmp_path, other)["sweeps"]["rank"]["runs"]) == decided


def test_the_program_decides_from_the_rungs_and_the_decision_before(tmp_path, monkeypatch, capsys):
    study = read(tmp_path)
    losses = dict(zip(RUNS, (1.4, 1.3, 1.2, 1.1), strict=True))
    made_up.write_halving(tmp_path, RAW, "rank", {4: losses})
    for run, loss in ((RUNS[2], 1.0), (RUNS[3], 1.05)):
        rung = {"run": run, "part": 2, "step": 20, "steps": 40, "validation_loss": loss}
        write_record(tmp_path / PATHS.rung.format(run=run, part=2), rung)
    write_json(tmp_path / "told.json", jobs.halve_sweep(study, "rank", "2"))
    output = tmp_path / PATHS.halving.format(sweep="rank", part=2)
    arguments = [
        "--settings", tmp_path / "told.json", "--results", tmp_path, "--output", output,
        "--after", tmp_path / PATHS.halving.format(sweep="rank", part=4),
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["halve.py", *map(str, arguments)])
    assert cli.run(halve.main) == 0
    assert "after 1/2 of the steps 1 of 2 points go on" in capsys.readouterr().out
    made = read_record(output)
    assert made["points"] == [RUNS[2]]
    assert [point["point"] for point in made["stopped"]] == [RUNS[3], RUNS[1], RUNS[0]]
    assert read(tmp_path)["sweeps"]["rank"]["runs"] == [RUNS[2]]


def test_the_plan_counts_what_a_point_takes_on_average(tmp_path):
    """4 points: a quarter of the steps each, two another quarter, one another half."""
    share, starts = halving.on_average({"factor": 2, "rungs": 2}, 4)
    assert (share, starts) == (pytest.approx((4 + 2 + 2) / 16), pytest.approx((4 + 2 + 1) / 4))
    study = read(tmp_path)
    table = plan.plan_table(study, Results(tmp_path), "H100")
    trained = dict(table.sections)["What has to be trained"]
    assert len(trained) == 5
    assert "rank is halved: each of its 4 points" in table.notes[-1]
    assert "50.0 % of the steps in 1.75 jobs" in table.notes[-1]
