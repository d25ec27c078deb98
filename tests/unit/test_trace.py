"""From a cell back to its origin, and forward before anything is spent."""

import json
import trace
from pathlib import Path

import made_up
import pytest
from sftflow.core import cli
from sftflow.core.jsonio import digest, read_json, read_jsonl, write_json, write_record


@pytest.fixture
def results(tmp_path: Path) -> Path:
    study = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, study)
    return tmp_path


@pytest.fixture
def say(results, monkeypatch, capsys):
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["trace.py", *arguments, "--results", str(results)])
        status = cli.run(trace.main)
        out, err = capsys.readouterr()
        return status, out + err

    return call


def test_the_chain_of_a_run(results, say):
    status, said = say("tuned", "mmlu")
    assert status == 0
    score = read_json(results / "scores/tuned/mmlu.json")
    for expected in (
        score["identity"],
        f"{score['score']:.4f}",
        "as the session wrote it",
        digest("tuned") + " (the merged weights that are there now)",
        "runs/tuned/training.json",
        "runs/tuned/command.yaml",
        "datasets/talks/receipt.json",
        "talks.jsonl",
        "models/base/manifest.json",
        "1" * 40,  # revision of the base model
        "0" * 40,  # commit of the workflow
        "uv.lock " + digest("evalscope"),
        "made up",  # hardware
    ):
        assert expected in said, expected


def test_what_changed_since_is_told(results, say):
    write_record(results / "runs/tuned/merged.json", {"digest": digest("other")})
    write_record(results / "benchmarks/mmlu/manifest.json", {"digest": digest("other")})
    samples = results / read_json(results / "scores/tuned/mmlu.json")["samples"]
    samples.write_text(samples.read_text() + "\n")
    said = say("tuned", "mmlu")[1]
    assert "OTHER weights" in said and "CHANGED since" in said and "NOT what the session" in said
    samples.unlink()
    assert "MISSING" in say("tuned", "mmlu")[1]
    status, said = say("tuned", "mmlu", "--sample", "0")
    assert status == 1 and "missing" in said


def test_packages_that_changed_since_are_told(results, say):
    path = results / "environments/swift.json"
    record = read_json(path)
    record["packages"] = record["packages"] | {"torch": "2.99.0"}
    write_record(path, record)
    assert "CHANGED since: torch was 2.11.0" in say("tuned", "mmlu")[1]


def test_scores_alone_are_enough_for_what_they_hold(results, say):
    for folder in ("models", "runs", "datasets", "environments", "evaluations"):
        (results / folder).rename(results / f"no-{folder}")
    status, said = say("base", "gsm8k")
    assert status == 0 and "nothing to compare with" in said


def test_one_question_with_its_exact_prompt_and_answer(say):
    status, said = say("base", "mmlu", "--sample", "21")
    assert status == 0
    assert "Question 1 of professional_psychology?" in said
    assert "ANSWER:" in said and "right: B" in said
    assert "states: " in said and "read as: " in said and "ending: complete" in said
    by_id = say(
        "base", "mmlu", "--sample", made_up.sample(1, True, "professional_psychology")["id"]
    )
    assert by_id == (0, said)
    status, said = say("base", "mmlu", "--sample", "400")
    assert status == 1 and "0 to 39" in said


def test_wrong_answers_are_listed_by_the_number_that_sample_takes(say):
    said = say("base", "mmlu", "--wrong")[1]
    number = said.split()[0]
    assert "score: 0.0" in say("base", "mmlu", "--sample", number)[1]


def test_an_unknown_score_lists_those_that_are_there(say):
    status, said = say("tuned", "mnlu")
    assert status == 1 and "tuned mmlu" in said and "Traceback" not in said


def numbers(said: str) -> list[int]:
    return [int(line.split()[0]) for line in said.splitlines()]


def right(results: Path, subject: str) -> list[bool]:
    samples = read_json(results / f"scores/{subject}/mmlu.json")["samples"]
    return [sample["score"] == 1 for sample in read_jsonl(results / samples)]


def test_a_question_shows_the_baseline_beside_the_candidate(results, say):
    """That of the study's comparison, or the one that is named; once asked, twice answered."""
    write_json(results / "study.json", {"comparisons": [PAIR]})
    status, said = say("tuned", "mmlu", "--sample", "21")
    assert status == 0 and said.count("Question 1 of professional_psychology?") == 1
    assert said.index("=== base") < said.index("=== tuned")
    assert say("tuned", "mmlu", "--sample", "21", "--with", "base") == (0, said)
    assert "===" not in say("base", "mmlu", "--sample", "21")[1]
    status, said = say("tuned", "mmlu", "--sample", "21", "--with", "other")
    assert status == 1 and "base mmlu" in said


PAIR = {"baseline": "base", "candidate": "tuned"}


def test_fixed_and_broken_questions_are_listed(results, say):
    before, after = right(results, "base"), right(results, "tuned")
    for option, wanted in (("--fixed", (False, True)), ("--broken", (True, False))):
        status, said = say("tuned", "mmlu", option, "--with", "base")
        both = enumerate(zip(before, after, strict=True))
        assert status == 0 and "base: " in said and "tuned: " in said
        assert numbers(said) == [place for place, found in both if found == wanted], option
    status, said = say("base", "mmlu", "--fixed")
    assert status == 1 and "--with" in said


def test_the_results_folder_is_the_one_that_the_config_names(results, say, tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    raw = made_up.RAW | {"pathvars": {"results": str(results)}}
    config.write_text(json.dumps(raw), "utf-8")
    monkeypatch.setattr("sys.argv", ["trace.py", "tuned", "mmlu", "--configfile", str(config)])
    assert cli.run(trace.main) == 0
