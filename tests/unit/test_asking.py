"""What the session that proves a subject asks ahead: what this run of Snakemake asks later."""

import os

import pytest
import yaml
from sftflow.config import asking, resolve
from sftflow.core import handover
from sftflow.core.layout import PATHS
from support import ROOT

RESULTS = "results"


@pytest.fixture
def study() -> dict:
    """The demo with two more base models: one judges, so does an endpoint, and one is neither."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    raw["models"]["other"] = {"source": "config/demo/model2"}
    raw["endpoints"] = {"far": {"url": "http://far/v1", "model": "m", "version": "1"}}
    raw["evaluate"] = {"subjects": ["tiny", "tiny-sft", "far"]}
    raw["judges"] = {"strong": {"subject": "other"}, "remote": {"subject": "far"}}
    return resolve.resolve(raw)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Tell what a run makes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(handover.PLANNED, "")
    return handover.tell_plan


def asked(study: dict, subject: str) -> list[str]:
    return [job["output"].removeprefix("results/") for job in asking.ahead(study, subject, RESULTS)]


ALL = ["evaluations/tiny/general.json", "evaluations/tiny/psychology.json",
       "dialogue/tiny/answers.json"]  # fmt: skip
JUDGED = ["judgements/strong/tiny--tiny-sft.json", "crisis/strong/tiny.json",
          "crisis/strong/tiny-sft.json", "crisis/strong/far.json"]  # fmt: skip


def test_without_a_plan_everything_that_the_study_asks_and_of_an_endpoint_nothing(study):
    assert asked(study, "tiny") == ALL
    assert asked(study, "other") == JUDGED
    assert asked(study, "far") == []  # it is not started, so nothing is gained


def test_only_what_this_run_asks(study, plan):
    plan([])  # readiness alone
    assert asked(study, "tiny") == []
    plan([f"results/{ALL[1]}", "results/scores/tiny/mmlu.json"])
    assert asked(study, "tiny") == [ALL[1]]
    plan([os.path.abspath(f"results/{ALL[2]}")])
    assert asked(study, "tiny") == [ALL[2]]


def test_files_that_this_run_makes_must_be_new(study, plan):
    old, new = (f"results/benchmarks/{name}/manifest.json" for name in ("mmlu", "mmlu_pro"))
    plan([f"results/{ALL[1]}", new])
    (job,) = asking.ahead(study, "tiny", RESULTS)
    assert job["inputs"][old] == 0 and job["inputs"][new] > 1e9
    assert job["settings"]["suite"] == "psychology" and job["rule"] == "evaluate_suite"


def test_a_judge_of_ours_waits_for_the_answers_that_it_judges(study):
    answers = ["dialogue/far/answers.json", "dialogue/tiny-sft/answers.json",
               "dialogue/tiny/answers.json"]  # fmt: skip
    assert asking.judged_first(study, "other", PATHS) == answers
    for subject in ("tiny", "tiny-sft", "far"):
        assert asking.judged_first(study, subject, PATHS) == []
    # of two judges neither waits for the other
    study["judges"]["third"] = {"subject": "tiny"}
    assert asking.judged_first(study, "other", PATHS) == answers[:2]
    assert asking.judged_first(study, "tiny", PATHS) == answers[:2]
