"""A sweep with halving, through `snakemake`: what the first command decides, the second makes."""

from pathlib import Path

import pytest
import yaml
from sftflow.core.jsonio import read_record
from sftflow.training.record import Events
from support import copy_finished, jobs, run_snakemake

pytestmark = pytest.mark.slow
RATES = ["1e-05", "0.003", "0.001"]


@pytest.fixture
def halved(demo, tmp_path) -> Path:
    """The finished demo with three more points, one of which learns next to nothing."""
    folder = copy_finished(demo.folder, tmp_path / "study")
    path = folder / "config/config.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["training"] |= {"num_train_epochs": 0.05, "save_steps": 5, "eval_steps": 10}
    grid = {"learning_rate": [float(rate) for rate in RATES]}
    raw["sweeps"] = {"rate": {"run": "tiny-sft", "grid": grid, "halving": {"rungs": 1}}}
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    return folder


def test_the_first_command_decides_and_the_same_again_trains_who_goes_on(halved):
    results, (worst, *best) = halved / "results", [f"rate-learning_rate{rate}" for rate in RATES]
    first = run_snakemake(halved, "train")
    assert first.returncode == 0, first.stdout[-3000:]
    assert f"Sweep rate: 2 of 3 points go on ({', '.join(best)}). The same command" in first.stdout
    decision = results / "sweeps/rate/halving-2.json"
    made = read_record(decision)
    assert [point["point"] for point in made["stopped"]] == [worst]
    rung = made["stopped"][0]["rungs"][worst]
    assert 0 < rung["step"] < rung["steps"]
    assert not list(results.glob("runs/rate-*/training.json"))

    second = run_snakemake(halved, "train")
    assert second.returncode == 0, second.stdout[-3000:]
    assert "go on" not in second.stdout
    for run in best:
        record = read_record(results / f"runs/{run}/training.json")
        assert (record["steps"], record["resumed"]) == (rung["steps"], 1)
    assert not (results / f"runs/{worst}/training.json").exists()
    assert "Nothing to be done" in run_snakemake(halved, "train").stdout
    planned = jobs(run_snakemake(halved, "-n").stdout)
    assert planned["merge_run"] == 3, "of the demo's run, which has other steps now, and these two"

    logs = {path: path.read_bytes() for path in results.glob("runs/*/checkpoints/*/events.jsonl")}
    assert logs and Events(next(iter(logs))).new()
    decision.unlink()  # decided again from what is there: nothing is trained for it
    again = run_snakemake(halved, "train")
    assert again.returncode == 0, again.stdout[-3000:]
    assert read_record(decision) == made and set(jobs(again.stdout)) == {
        "halve_sweep", "train", "total",
    }  # fmt: skip
    assert {path: path.read_bytes() for path in logs} == logs
