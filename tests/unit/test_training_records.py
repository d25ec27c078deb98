"""The merge check's verdict, and what SwanLab is told."""

import json
import math

import merge
import pytest
import track
from sftflow.core.jsonio import write_record


def verdict(merged: float, base: float, dtype: str = "float32") -> str | None:
    check = merge.judge([merged] * 3, [base] * 3, dtype)
    assert check["positions"] == 3 and check["tolerance"] == merge.TOLERANCE[dtype]
    return check.get("problem")


def test_good_merges_pass():
    assert verdict(1e-15, 1e-3) is None
    assert verdict(1e-3, 0.1, "bfloat16") is None


def test_wrong_merges_fail():
    assert "not base + adapter" in verdict(1e-3, 1e-3)
    assert "not base + adapter" in verdict(math.nan, 1e-3)
    assert "hardly nearer" in verdict(5e-3, 6e-3, "bfloat16"), "as with a wrong scale"
    assert "hardly nearer" in verdict(0.0, 0.0), "tuned and base are the same"


def test_metrics_of_events():
    step = {"event": "step", "loss": 2.0, "learning_rate": 1e-4, "tokens": 100, "seconds": 0.5}
    assert track.metrics(step)["train/tokens_per_second"] == 200
    assert track.metrics({"event": "validation", "loss": 1.0}) == {"validation/loss": 1.0}
    assert track.metrics({"event": "saved", "step": 5}) == {}


def test_following_ends_with_the_training(tmp_path):
    path = tmp_path / "events.jsonl"
    names = ("start", "failed", "start", "end", "later")
    path.write_text("".join(json.dumps({"event": name}) + "\n" for name in names))
    assert [event["event"] for event in track.follow(path)] == list(names[:4])


def test_scores_by_suite_and_benchmark(tmp_path):
    file = tmp_path / "score.json"
    write_record(file, {"suite": "psychology", "benchmark": "mmlu", "score": 0.25})
    assert track.scores([file]) == {"scores/psychology/mmlu": 0.25}


def test_experiment_is_the_trainings():
    training = {
        "run": "r", "identity": "0123456789abcdef" * 4, "model": "m", "settings": {"seed": 1},
        "choices": {},
    }  # fmt: skip
    found = track.experiment(training)
    assert found["run"] == "r" and found["id"] == "0123456789abcdef0123"
    assert found["config"]["settings"] == pytest.approx({"seed": 1})
