"""Published forms that become questions of general_mcq, on made-up data."""

import json
from pathlib import Path

import fetch_benchmark
import pytest
from published_forms import MADE, exam, write
from sftflow.config import resolve
from sftflow.config.schema import preset_schema, presets
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_jsonl
from sftflow.inputs import converted


def fetched(folder: Path, name: str, **changes) -> tuple[dict, list[str], dict[str, list[dict]]]:
    """({subset: questions}, notes, {subset: rows}) of a preset on made-up data."""
    preset = presets()[name]
    asked = preset | preset.get("defaults", {}) | {"subsets": [], **changes}
    data = folder / "made"
    data.mkdir()
    counts, notes = fetch_benchmark.copy_own(write(folder / "in", preset["form"]), data, asked)
    split = asked["eval_split"]
    return counts, notes, {n: list(read_jsonl(data / f"{n}_{split}.jsonl")) for n in counts}


def test_questions_with_one_right_option_and_with_several_are_told_apart(tmp_path):
    counts, notes, rows = fetched(tmp_path, "cpsyexam")
    assert counts == {"CA": 1, "KG": 1}
    assert [row["answer"] for row in rows["KG"]] == ["B"] and "E" not in rows["KG"][0]
    assert rows["CA"][0]["E"] == "桦"
    assert [note for note in notes if "2 left out: no key can score them" in note]
    (tmp_path / "several").mkdir()
    counts, _, rows = fetched(tmp_path / "several", "cpsyexam_multi")
    assert rows["KG"][0]["answer"] == ["A", "C"] and rows["CA"][0]["answer"] == ["A", "B"]


def test_answers_that_are_missing_are_one_error():
    row = exam(None)
    tree = {"dev/CA-林-单项选择题.json": lambda: json.dumps([row]).encode()}
    (_, read) = converted.FORMS["cpsyexam"](tree, {"eval_split": "val"})["CA"]["val"]
    with pytest.raises(UserError, match=r"CA-林-单项选择题\.json: the answers are missing"):
        read()


def test_each_thing_asked_of_a_scenario_is_a_question_in_its_language(tmp_path):
    counts, _, rows = fetched(tmp_path, "emobench")
    assert counts == dict.fromkeys(presets()["emobench"]["subsets"], 1)
    keys = {name: found[0]["answer"] for name, found in rows.items()}
    assert keys["EA_zh"] == "B" and keys["EU_emotion_en"] == "A" and keys["EU_cause_zh"] == "C"
    assert rows["EA_zh"][0]["question"].startswith("下雨了。\n") and "小林" in str(rows["EA_zh"])
    assert rows["EA_en"][0]["question"].startswith("Rain.\nWhat")


def test_only_mental_health_is_asked_and_a_key_out_of_range_is_left_out(tmp_path):
    counts, notes, rows = fetched(tmp_path, "safety_bench")
    assert counts == {"zh_subset": 1} and rows["zh_subset"][0]["answer"] == "B"
    assert [note for note in notes if "1 left out" in note]


@pytest.mark.parametrize("form", MADE)
def test_another_folder_is_an_error_that_says_what_is_looked_for(tmp_path, form):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("")
    with pytest.raises(UserError, match=r"looked for .*; there is in/notes\.txt"):
        converted.FORMS[form]({"in/notes.txt": bytes}, {"eval_split": "dev"})


def test_every_form_is_declared_and_used():
    declared = preset_schema()["additionalProperties"]["properties"]["form"]["enum"]
    assert set(declared) == set(converted.FORMS) == set(MADE)
    assert {p["form"] for p in presets().values() if "form" in p} == set(MADE)


def test_what_a_preset_states_goes_into_the_benchmark_unless_the_config_says_otherwise():
    study = resolve.load({"suites": {"s": ["cpsyexam", "cpsyexam_multi", "emobench"]}})
    found = study["benchmarks"]
    assert not found["cpsyexam"]["multiple_correct"] and found["cpsyexam_multi"]["multiple_correct"]
    assert found["cpsyexam"]["hub"] == found["emobench"]["hub"] == "huggingface"
    assert found["cpsyexam"]["form"] == "cpsyexam"
