"""Benchmark data: what was asked for, whole, in a form that needs no network afterwards."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import fetch_benchmark
import pytest
import yaml
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json, read_jsonl, tree_files, write_json
from sftflow.inputs import benchmarks
from support import EVALSCOPE, ROOT

PRESETS = yaml.safe_load((ROOT / "config/benchmarks.yaml").read_text("utf-8"))
MCQ = {"question": "1 + 1?", "A": "2", "B": "3", "answer": "A"}


class Made:
    """Stands for `datasets`, which this environment does not have: {config: {split: rows}}."""

    def __init__(self, content: dict):
        self.content = content

    def configs(self) -> list[str]:
        return list(self.content)

    def rows(self, config: str, split: str) -> list[dict]:
        return self.content[config][split]


def mmlu(subject: str, count: int) -> list[dict]:
    return [
        {"question": f"{subject} {i}?", "subject": subject, "choices": list("abcd"), "answer": 0}
        for i in range(count)
    ]


def settings(name: str, **changes) -> dict:
    return PRESETS[name] | changes


def copied(source, data: Path, asked: dict) -> dict[str, int]:
    """{subset: questions} of what is copied."""
    return fetch_benchmark.copy_published(source, data, asked)[0]


# --- subsets -------------------------------------------------------------------------------------


def test_only_the_subsets_asked_for_are_copied_in_their_order(tmp_path):
    mixed = [q for pair in zip(mmlu("virology", 3), mmlu("anatomy", 3), strict=True) for q in pair]
    made = Made({"all": {"test": mixed + mmlu("prehistory", 2), "dev": mixed}})
    asked = settings("mmlu", subsets=["anatomy", "prehistory"], shots=0)
    assert copied(made, tmp_path, asked) == {"anatomy": 3, "prehistory": 2}
    (found,) = map(list, map(read_jsonl, tmp_path.glob("all/test-*.jsonl")))
    assert found == [q for q in mixed if q["subject"] == "anatomy"] + mmlu("prehistory", 2)
    assert not list(tmp_path.glob("all/dev*"))  # 0 shots: no examples are needed


def test_a_misspelt_subset_is_an_error_that_names_the_valid_ones(tmp_path):
    made = Made({"all": {"test": mmlu("anatomy", 3) + mmlu("virology", 3)}})
    asked = settings("mmlu", subsets=["anatomi"], shots=0)
    with pytest.raises(UserError, match=r"did you mean 'anatomy'.*Valid names: anatomy, virology"):
        copied(made, tmp_path, asked)


def test_a_subset_per_config_and_its_examples(tmp_path):
    row = {"question": "?", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "A"}
    made = Made({name: {"val": [row] * 2, "dev": [row] * 5} for name in ("law", "logic")})
    assert copied(made, tmp_path, settings("ceval", subsets=["law"])) == {"law": 2}
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jsonl"))
    dev, val = found
    assert dev.startswith("law/dev-") and val.startswith("law/val-")
    assert benchmarks.json_lines(tmp_path / "README.md") == {"law": {"val": val, "dev": dev}}


def test_other_questions_have_other_file_names(tmp_path):
    """`datasets` serves a local folder from its cache as long as the names in it stay the same."""
    names = set()
    for count in (2, 3):
        made = Made({"all": {"test": mmlu("anatomy", count)}})
        asked = settings("mmlu", subsets=["anatomy"], shots=0)
        copied(made, tmp_path / str(count), asked)
        names |= {path.name for path in (tmp_path / str(count)).rglob("*.jsonl")}
    assert len(names) == 2


def test_names_in_lower_case_where_evalscope_knows_them_so(tmp_path):
    row = dict.fromkeys(PRESETS["mmlu_pro"]["fields"], "x") | {"category": "Psychology"}
    row |= {"options": ["y", "z"], "answer": "B"}
    made = Made({"default": {"test": [row]}})
    asked = settings("mmlu_pro", subsets=["psychology"], shots=0)
    assert copied(made, tmp_path, asked) == {"psychology": 1}


def test_too_few_examples_for_the_shots_are_an_error(tmp_path):
    made = Made({"all": {"test": mmlu("anatomy", 3), "dev": mmlu("anatomy", 2)}})
    with pytest.raises(UserError, match=r"dev: fewer examples than the 5 shots in anatomy \(2\)"):
        copied(made, tmp_path, settings("mmlu", subsets=["anatomy"]))


# --- fields --------------------------------------------------------------------------------------


def test_a_question_that_lacks_a_field_is_an_error_that_says_where(tmp_path):
    rows = mmlu("anatomy", 3)
    del rows[0]["choices"]
    with pytest.raises(UserError, match=r"all/test: no field 'choices'; the fields are question"):
        benchmarks.checked(rows, PRESETS["mmlu"], "all/test")
    rows = mmlu("anatomy", 3)
    rows[2]["answer"] = None
    with pytest.raises(UserError, match="all/test, row 3: answer is empty"):
        benchmarks.checked(rows, PRESETS["mmlu"], "all/test")


def test_a_field_of_two_kinds_is_an_error_as_it_would_be_later():
    rows = mmlu("anatomy", 2)
    rows[1]["question"] = 7
    with pytest.raises(UserError, match="row 2: question is int, in rows before it str"):
        benchmarks.checked(rows, PRESETS["mmlu"], "all/test")


def test_an_empty_split_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no questions in main"):
        copied(Made({"main": {"test": []}}), tmp_path, settings("gsm8k", shots=0))


# --- files ---------------------------------------------------------------------------------------

README = """---
license: mit
configs:
- config_name: main
  data_files:
  - {split: test, path: questions/test.jsonl}
---
# Questions
"""


def test_json_lines_that_a_readme_names_are_read_without_any_library(tmp_path):
    (tmp_path / "questions").mkdir()
    (tmp_path / "README.md").write_text(README)
    row = {"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
    (tmp_path / "questions/test.jsonl").write_text(json.dumps(row) + "\n")
    source = fetch_benchmark.opened(tmp_path, "", PRESETS["gsm8k"])
    assert source.configs() == ["main"] and source.rows("main", "test") == [row]
    with pytest.raises(UserError, match="main/train"):
        source.rows("main", "train")


@pytest.mark.parametrize("path", ["data/*.jsonl", "data/test.parquet", "[a.jsonl, b.jsonl]"])
def test_any_other_form_is_left_to_the_library(tmp_path, path):
    (tmp_path / "README.md").write_text(README.replace("questions/test.jsonl", path))
    assert benchmarks.json_lines(tmp_path / "README.md") is None
    assert benchmarks.json_lines(tmp_path / "none.md") is None


def test_what_is_written_can_be_fetched_again(tmp_path):
    made = Made({"all": {"test": mmlu("anatomy", 3), "dev": mmlu("anatomy", 5)}})
    asked = settings("mmlu", subsets=["anatomy"])
    copied(made, tmp_path / "a", asked)
    again = fetch_benchmark.opened(tmp_path / "a", "", asked)
    copied(again, tmp_path / "b", asked)
    assert tree_files(tmp_path / "a") == tree_files(tmp_path / "b")


@pytest.mark.skipif(not EVALSCOPE.exists(), reason="envs/evalscope is not synced")
@pytest.mark.slow
def test_evalscope_loads_every_demo_benchmark_whole_and_offline(tmp_path):
    """Each in the published form on disk; counts as in the manifest, and no hub is asked."""
    code = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
os.environ |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
from pathlib import Path
import contamination
from sftflow.core.jsonio import read_json
found = {}
for path in map(Path, sys.argv[2:]):
    manifest = read_json(path)
    questions = contamination.asked(manifest, path.parent / "data")
    counts = {}
    for question in questions:
        counts[question.subset] = counts.get(question.subset, 0) + 1
    found[manifest["benchmark"]] = counts
print(json.dumps(found))
"""
    expected = {}
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text("utf-8"))
    for name, entry in config["benchmarks"].items():
        asked = settings(name, **{"shots": 0} | entry | {"source": str(ROOT / entry["source"])})
        source = fetch_benchmark.opened(Path(asked["source"]), "", asked)
        folder = tmp_path / name
        subsets = copied(source, folder / "data", asked)
        write_json(
            folder / "manifest.json", {"benchmark": name, "dataset": name, "subsets": subsets}
        )
        expected[name] = subsets
    paths = [tmp_path / name / "manifest.json" for name in expected]
    command = [EVALSCOPE, "-c", code, ROOT / "scripts", *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


# --- the user's own questions --------------------------------------------------------------------


def test_own_questions_as_json_lines_or_tables(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "sleep_val.jsonl").write_text(json.dumps(MCQ) + "\n")
    with open(source / "mood_val.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(MCQ))
        writer.writeheader()
        writer.writerows([MCQ, MCQ])
    asked = settings("general_mcq", subsets=["mood", "sleep"])
    assert fetch_benchmark.copy_own(source, tmp_path, asked)[0] == {"mood": 2, "sleep": 1}
    assert list(read_jsonl(tmp_path / "mood_val.jsonl")) == [MCQ, MCQ]
    with pytest.raises(UserError, match="Valid names: mood, sleep"):
        fetch_benchmark.copy_own(source, tmp_path, settings("general_mcq", subsets=["default"]))


def run(folder: Path, monkeypatch, **changes) -> dict:
    arguments = ["--benchmark", "b", "--settings", json.dumps(changes)]
    places = ["--output", str(folder / "manifest.json")]
    monkeypatch.setattr(sys, "argv", ["fetch_benchmark.py", *arguments, *places])
    fetch_benchmark.main()
    return read_json(folder / "manifest.json")


def test_the_digest_follows_the_questions_and_not_the_limit(tmp_path, monkeypatch):
    source = tmp_path / "own"
    source.mkdir()
    (source / "default_val.jsonl").write_text(json.dumps(MCQ) + "\n")
    asked = settings("general_mcq", subsets=["default"], source=str(source), hub=None)
    first = run(tmp_path / "a", monkeypatch, **asked)
    assert first["subsets"] == {"default": 1} and first["hub"] == "local"
    assert run(tmp_path / "b", monkeypatch, **asked | {"limit": 5})["digest"] == first["digest"]
    (source / "default_val.jsonl").write_text(json.dumps(MCQ | {"answer": "B"}) + "\n")
    assert run(tmp_path / "a", monkeypatch, **asked)["digest"] != first["digest"]


def test_an_error_names_the_benchmark_and_where_its_data_came_from(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/default_val.jsonl").write_text(json.dumps({"question": "?"}) + "\n")
    asked = settings("general_mcq", subsets=["default"], source=str(tmp_path / "own"))
    with pytest.raises(UserError, match=r"benchmark b \(.*own\): default_val\.jsonl: no field 'A'"):
        run(tmp_path / "a", monkeypatch, **asked)
