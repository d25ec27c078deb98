"""Overlap with benchmarks: a question trained on is found, a related one is not accused."""

import json
import subprocess

import pytest
from sftflow.core.jsonio import read_json, write_json, write_jsonl
from sftflow.inputs import contamination
from sftflow.inputs.contamination import Index, Question, summarise
from support import EVALSCOPE, ROOT

ENGLISH = "Which of the following best describes the bystander effect in social psychology?"
CHINESE = "下列关于艾宾浩斯遗忘曲线的说法，正确的是哪一项？"
LENGTHS = {"zh": 13, "en": 8}


def overlap(question: str, *messages: str, threshold: float = 0.7) -> dict:
    index, asked = Index(LENGTHS), [Question("q", "subset", question)]
    for each in asked:
        index.add(each)
    for number, message in enumerate(messages):
        index.search(f"dialogue {number}", message)
    return summarise(asked, index, threshold, shown=5)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ENGLISH, f"Quiz me. {ENGLISH} A) x B) y"),
        (ENGLISH, ENGLISH.upper().replace("?", " --").replace(" ", "\n")),
        (CHINESE, f"请回答：{CHINESE}谢谢"),
        (CHINESE, " ".join(CHINESE.replace("，", ",").replace("？", ""))),
    ],
)
def test_a_copied_question_is_found_whatever_its_punctuation(question, message):
    found = overlap(question, "something else", message)
    assert found["overlapping"] == 1 and found["ids"] == ["q"]
    assert found["examples"][0]["dialogue"] == "dialogue 1"
    assert found["examples"][0]["coverage"] == 1.0


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ENGLISH, "The bystander effect in social psychology: people help less in a crowd."),
        (CHINESE, "艾宾浩斯遗忘曲线说明遗忘先快后慢。"),
        (ENGLISH, CHINESE),
    ],
)
def test_the_same_subject_in_other_words_is_no_copy(question, message):
    assert overlap(question, message)["overlapping"] == 0


def test_parts_from_several_dialogues_add_up():
    words = ENGLISH.split()
    parts = " ".join(words[:9]), " ".join(words[2:])
    assert overlap(ENGLISH, *parts)["overlapping"] == 1
    assert overlap(ENGLISH, parts[0], threshold=0.7)["overlapping"] == 0
    assert overlap(ENGLISH, parts[0], threshold=0.1)["overlapping"] == 1


def test_no_n_gram_reaches_over_two_messages():
    words = ENGLISH.split()
    assert overlap(ENGLISH, " ".join(words[:6]), " ".join(words[6:]))["overlapping"] == 0


def test_a_short_question_is_one_n_gram_and_a_tiny_one_says_nothing():
    assert overlap("What is classical conditioning?", "what is classical conditioning")["ids"]
    assert not overlap("Who? Me.", "Who? Me.")["ids"]


def test_language_is_that_of_the_question():
    assert contamination.language("用英文解释 bystander effect 的含义") == "zh"
    assert contamination.language("The word 心 means heart and mind") == "en"
    assert contamination.language("12 + 30 = ?") == "en"


def test_examples_come_with_most_overlap_first_and_counts_are_whole():
    index, asked = Index(LENGTHS), [Question(str(n), "s", f"{ENGLISH} {n}") for n in range(9)]
    for each in asked:
        index.add(each)
    index.search("d", f"{ENGLISH} 5")
    found = summarise(asked, index, 0.5, shown=2)
    assert found["n"] == 9 and found["overlapping"] == 9 and found["share"] == 1.0
    assert found["examples"][0]["id"] == "5"
    assert len(found["examples"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(not EVALSCOPE.exists(), reason="needs envs/evalscope")
def test_benchmarks_of_one_form_keep_their_own_questions(tmp_path):
    """The library that reads them knows data by the folder's last name, which is always data."""
    manifests = []
    for name, words in {"first": "memory span", "second": "operant conditioning"}.items():
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        row = {"question": f"{ENGLISH} {words}", "subject": "anatomy", "choices": list("wxyz")}
        (data / "test.jsonl").write_text(json.dumps(row | {"answer": 0}) + "\n")
        (data / "README.md").write_text(
            "---\nconfigs:\n- config_name: all\n  data_files:\n"
            "  - split: test\n    path: test.jsonl\n---\n"
        )
        about = {"benchmark": name, "dataset": "mmlu", "subsets": {"anatomy": 1}}
        manifests.append(data.parent / "manifest.json")
        write_json(manifests[-1], about)
    dialogue = {"id": "d", "messages": [{"content": f"{ENGLISH} operant conditioning"}]}
    write_jsonl(tmp_path / "train.jsonl", [dialogue])
    settings = {"zh_ngram": 13, "en_ngram": 8, "threshold": 1.0}
    command = [EVALSCOPE, ROOT / "scripts/contamination.py", "--dataset", "talks",
               "--dialogues", tmp_path / "train.jsonl", "--settings", json.dumps(settings),
               "--output", tmp_path / "found.json", "--benchmarks", *manifests]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = read_json(tmp_path / "found.json")["benchmarks"]
    assert {name: entry["overlapping"] for name, entry in found.items()} == {
        "first": 0,
        "second": 1,
    }
