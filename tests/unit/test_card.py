"""The model card: a hub can read it, its numbers are the scores', and it touches no weights."""

import json
import subprocess

import cards
import made_up
import pytest
import yaml
from sftflow.core import cli
from sftflow.core.jsonio import read_json, write_json
from sftflow.core.layout import Results, forms_of
from sftflow.reporting.card import card
from sftflow.reporting.evidence import Evidence
from support import EVALSCOPE


@pytest.fixture
def found(tmp_path) -> Evidence:
    study = made_up.write_study(tmp_path, shares={"base": 0.3, "tuned": 0.8})
    made_up.write_records(tmp_path, study)
    write_json(tmp_path / "study.json", study)
    return Evidence(study, Results(tmp_path), {})


def parts(text: str) -> tuple[dict, str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_each_score_is_a_result_of_the_index(found):
    front, body = parts(card(found, "tuned", "merged"))
    assert front["base_model"] == "org/base" and front["base_model_relation"] == "finetune"
    assert (front["license"], front["library_name"]) == ("apache-2.0", "transformers")
    assert "datasets" not in front  # a local file is on no hub
    (model,) = front["model-index"]
    values = {one["dataset"]["type"]: one["metrics"][0] for one in model["results"]}
    for benchmark in ("gsm8k", "mmlu"):
        score = read_json(found.results.folder / f"scores/tuned/{benchmark}.json")
        assert values[benchmark]["value"] == score["score"]
        assert values[benchmark]["args"] == {"n": score["n"], "ci95": score["ci95"]}
    assert "| suite psychology" in body and "better" in body and "Benchmark in the tra" in body


def test_an_adapter_says_that_it_is_one(found):
    front, body = parts(card(found, "tuned", "adapter"))
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")
    assert "An adapter for Base 1B" in body


def test_the_program_writes_one_for_each_form_beside_the_weights(found, monkeypatch):
    folder = found.results.folder
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    arguments = ["--results", str(folder), "--settings", str(folder / "study.json")]
    monkeypatch.setattr("sys.argv", ["cards.py", *arguments])
    assert cli.run(cards.main) == 0
    made = sorted(str(path.relative_to(folder)) for path in folder.rglob("README.md"))
    assert made == [f"runs/tuned/cards/{form}/README.md" for form in ("adapter", "merged")]
    assert before == {path: path.read_bytes() for path in folder.rglob("*.json")}
    assert forms_of(found.study, "tuned") == ["adapter", "merged"]


@pytest.mark.slow
def test_a_hub_reads_it(found, tmp_path):
    """huggingface_hub's own reader, which lies in evalscope's environment."""
    if not EVALSCOPE.exists():
        pytest.skip("needs envs/evalscope")
    (tmp_path / "README.md").write_text(card(found, "tuned", "merged"), encoding="utf-8")
    program = (
        "import json, sys; from huggingface_hub import ModelCard; c = ModelCard.load(sys.argv[1]);"
        "print(json.dumps([[r.dataset_type, r.metric_value] for r in c.data.eval_results]))"
    )
    done = subprocess.run(
        [EVALSCOPE, "-c", program, tmp_path / "README.md"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {name for name, _ in json.loads(done.stdout)} == {"gsm8k", "mmlu"}
