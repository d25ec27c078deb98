"""Overlap with benchmarks: a question trained on is found, a related one is not accused."""

import json
import re
import subprocess
import time
from functools import cache

import planted_leaks
import pytest
import zhconv
from planted_leaks import KINDS
from sftflow.config.schema import schema
from sftflow.core.jsonio import (
    file_entries,
    read_json,
    read_jsonl,
    tree_digest,
    tree_files,
    write_json,
    write_jsonl,
    write_record,
)
from sftflow.inputs import contamination, folded
from sftflow.inputs.contamination import Question, find, summarise
from support import EVALSCOPE, ROOT

ENGLISH = "Which of the following best describes the bystander effect in social psychology?"
CHINESE = "下列关于艾宾浩斯遗忘曲线的说法，正确的是哪一项？"
OPTIONS = (
    "先快后慢，逐渐趋于平稳",
    "始终以相同的速度下降",
    "先慢后快，最后完全消失",
    "与学习的材料毫无关系",
)
DEFAULTS = {
    name: key["default"]
    for name, key in schema()["properties"]["contamination"]["properties"].items()
}


def overlap(question: str, *dialogues: str | list[str], options=(), threshold: float = 0.8) -> dict:
    """What is found of one question; a dialogue is one turn, or several in turn."""
    asked = [Question("q", "subset", question, tuple(options))]
    turns = [[each] if isinstance(each, str) else each for each in dialogues]
    rows = [
        {
            "id": f"dialogue {number}",
            "messages": [
                {"role": ("user", "assistant")[place % 2], "content": text}
                for place, text in enumerate(texts)
            ],
        }
        for number, texts in enumerate(turns)
    ]
    entries = find(asked, lambda: iter(rows), threshold, DEFAULTS["min_words"])
    return summarise(asked, entries, shown=5)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ENGLISH, f"Quiz me. {ENGLISH} A) x B) y"),
        (ENGLISH, ENGLISH.upper().replace("?", " --").replace(" ", "\n")),
        (ENGLISH, ENGLISH.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})),
        (CHINESE, f"请回答：{CHINESE}谢谢"),
        (CHINESE, " ".join(CHINESE.replace("，", ",").replace("？", ""))),
        (CHINESE, zhconv.convert(CHINESE, "zh-hant")),
    ],
)
def test_a_copied_question_is_found_however_it_is_written(question, message):
    found = overlap(question, "something else", message)
    assert found["overlapping"] == 1 and found["ids"] == ["q"]
    assert found["kinds"] == {"stem": 1}
    assert found["examples"][0]["dialogue"] == "dialogue 1"
    assert found["examples"][0]["coverage"] == 1.0


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ENGLISH, "The bystander effect in social psychology: people help less in a crowd."),
        (CHINESE, "艾宾浩斯遗忘曲线说明遗忘先快后慢。"),
        (ENGLISH, CHINESE),
        (CHINESE, "!?。，"),
        ("?!", "?!"),
    ],
)
def test_the_same_subject_in_other_words_is_no_copy(question, message):
    assert overlap(question, message)["overlapping"] == 0


@pytest.mark.parametrize("place", range(12))
def test_any_one_word_may_be_another(place):
    words = ENGLISH.split()
    words[place] = "purple"
    assert overlap(ENGLISH, " ".join(words))["overlapping"] == 1


@pytest.mark.parametrize("reply", ["Go on.", "I see. " * 60])
def test_a_question_split_over_two_turns_is_found(reply):
    words = ENGLISH.split()
    split = [" ".join(words[:6]), reply, " ".join(words[6:])]
    assert overlap(ENGLISH, split)["overlapping"] == 1
    assert overlap(CHINESE, [CHINESE[:11], CHINESE[11:]])["overlapping"] == 1


def test_parts_in_different_dialogues_or_far_from_each_other_are_no_copy():
    words = ENGLISH.split()
    first, second = " ".join(words[:6]), " ".join(words[6:])
    assert overlap(ENGLISH, first, second)["overlapping"] == 0
    assert overlap(ENGLISH, f"{first} {'and then some ' * 60} {second}")["overlapping"] == 0


def test_a_short_stem_counts_with_its_options_however_they_are_labelled():
    stem = "遗忘曲线表明遗忘"
    for style in ("{}. {}", "({}) {}", "{}、{}", "{}：{}"):
        listed = "\n".join(style.format(*each) for each in zip("ABCD", OPTIONS, strict=True))
        for options in (
            OPTIONS,
            [f"({x}) {text}" for x, text in zip("ABCD", OPTIONS, strict=True)],
        ):
            found = overlap(stem, "闲聊", f"请选择。{stem}\n{listed}", options=options)
            assert found["kinds"] == {"whole": 1}, style


def test_a_chat_that_holds_a_four_character_question_is_not_accused():
    chats = ["你好，何为记忆？我想了解一下。", "何为记忆"]
    found = overlap("何为记忆", *chats)
    assert (found["overlapping"], found["uncheckable"]) == (0, 1)
    found = overlap("何为记忆", *chats, options=OPTIONS)
    assert (found["overlapping"], found["uncheckable"]) == (0, 0)


def test_options_alone_count_unless_every_dialogue_draws_on_the_same():
    text = "；".join(reversed(OPTIONS))
    assert overlap("何为记忆", text, "闲聊", options=OPTIONS)["kinds"] == {"options": 1}
    assert overlap(CHINESE, *[text] * 9, options=OPTIONS)["overlapping"] == 0


def test_what_all_questions_share_makes_no_copy():
    """One template, other terms: the questions differ in what is rare."""
    terms = [f"{one} {two}" for one in ("halo", "mere", "spacing", "framing", "primacy", "recency")
             for two in ("effect", "bias", "error", "illusion")]  # fmt: skip
    asked = [
        Question(term, "s", f"Which of the following best describes the {term} in psychology?")
        for term in terms
    ]
    text = "Which of the following best describes the placebo trial in psychology?"
    rows = [{"id": "d", "messages": [{"role": "user", "content": text}]}]
    entries = find(asked, lambda: iter(rows), **_arguments())
    assert summarise(asked, entries, 1)["overlapping"] == 0
    rows[0]["messages"][0]["content"] = asked[5].stem
    entries = find(asked, lambda: iter(rows), **_arguments())
    assert summarise(asked, entries, 1)["ids"] == [asked[5].identity]


def _arguments() -> dict:
    return {"threshold": DEFAULTS["threshold"], "least": DEFAULTS["min_words"]}


def test_both_languages_in_one_text():
    question = "用 operant conditioning 训练鸽子时，下列哪种 schedule of reinforcement 消退最慢？"
    assert overlap(question, f"Hi! {question.upper()} 谢谢")["examples"][0]["coverage"] == 1.0


def test_a_passage_is_quoted_from_the_first_to_the_last_word():
    found = overlap(ENGLISH, ["Hello there.", f"Well: {ENGLISH} That's all, 先生。"])
    assert found["examples"][0]["passage"] == ENGLISH.lower().rstrip("?")


def test_examples_come_with_most_overlap_first_and_counts_are_whole():
    asked = [Question(str(n), "s", f"{ENGLISH} {n}") for n in range(9)]
    rows = [{"id": "d", "messages": [{"role": "user", "content": f"{ENGLISH} 5"}]}]
    found = summarise(asked, find(asked, lambda: iter(rows), 0.5, 0.1), shown=2)
    assert found["n"] == 9 and found["overlapping"] == 9 and found["share"] == 1.0
    assert found["examples"][0]["id"] == "5"
    assert len(found["examples"]) == 2


def test_tokens_have_places_in_the_folded_text():
    vocabulary = folded.Vocabulary()
    text = folded.fold("Ｔｈｅ 3rd 條件反射, cafe\u0301！")
    tokens = vocabulary.learn(text)
    assert [text[slice(*span)] for span in folded.spans(text)] == [
        "the",
        "3rd",
        *"条件反射",
        "café",
    ]
    assert len(tokens) == 7 and tokens[2:6] == "条件反射"
    assert vocabulary.read("never asked") == 2 * folded.UNKNOWN


# --- planted leaks -------------------------------------------------------------------------------


@cache
def planted() -> tuple[dict, list]:
    """({identity: (kind, question)}, entries in the same order) at the default settings."""
    questions, dialogues = planted_leaks.corpus(seed=13, each=40)
    asked = [question for _, question in questions.values()]
    return questions, find(asked, lambda: iter(dialogues), **_arguments())


def recall(kind: str, language: str) -> tuple[int, int]:
    """(found, all) of the questions whose leak is of a kind."""
    questions, entries = planted()
    found = [
        entry.match is not None
        for (how, question), entry in zip(questions.values(), entries, strict=True)
        if how == kind and question.subset == language
    ]
    return sum(found), len(found)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "translated"])
def test_leaks_are_found(kind, language):
    found, n = recall(kind, language)
    assert found >= 0.95 * n
    assert n or (kind, language) == ("traditional", "en")


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_who_leaked_nothing_is_not_accused(language):
    found, n = recall("clean", language)
    assert n == 200 and found <= 0.005 * n


@pytest.mark.slow
def test_the_figures_beside_the_table_are_those_measured():
    counts = {kind: [recall(kind, language) for language in ("en", "zh")] for kind in KINDS}
    clean = [recall("clean", language) for language in ("en", "zh")]
    assert contamination.MEASURED == {
        "planted": sum(n for each in counts.values() for _, n in each),
        "recall": {
            kind: round(sum(found for found, _ in each) / sum(n for _, n in each), 3)
            for kind, each in counts.items()
        },
        "clean": sum(n for _, n in clean),
        "false_positives": round(sum(found for found, _ in clean) / sum(n for _, n in clean), 4),
    }


def demo_questions() -> list[Question]:
    """All that the demo's benchmarks ask with options or without, in their own fields."""
    asked = []
    for path in sorted((ROOT / "config/demo/benchmarks").rglob("*.jsonl")):
        if path.stem in ("test", "val") or "super_gpqa" in str(path):
            for n, row in enumerate(read_jsonl(path)):
                letters = [row[letter] for letter in "ABCD"] if "A" in row else []
                options = row.get("choices") or row.get("options") or letters
                asked.append(Question(f"{path} {n}", "s", row["question"], tuple(options)))
    return asked


def demo_dialogues() -> list[dict]:
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    return [
        {
            "id": str(number),
            "messages": [
                {"role": roles[turn["from"]], "content": turn["value"]}
                for turn in row["conversations"]
            ],
        }
        for number, row in enumerate(read_jsonl(ROOT / "config/demo/dialogues.jsonl"))
    ]


def test_the_demo_teaches_what_it_asks_in_other_words():
    asked, dialogues = demo_questions(), demo_dialogues()
    assert len(asked) == 240
    found = summarise(asked, find(asked, lambda: iter(dialogues), **_arguments()), 5)
    assert (found["overlapping"], found["uncheckable"]) == (0, 0)
    for question, dialogue in zip(asked[::4], dialogues, strict=False):
        dialogue["messages"][-1]["content"] += "\n" + question.stem
    found = summarise(asked, find(asked, lambda: iter(dialogues), **_arguments()), 5)
    leaked = {question.identity for question in asked[::4]}
    assert set(found["ids"]) >= leaked
    assert {bare(q) for q in asked if q.identity in found["ids"]} == {bare(q) for q in asked[::4]}


def bare(question: Question) -> str:
    """What a question of the demo describes, without the words around it: several ask the same."""
    around = r"^which[^:]*?(is|names|here:) |^下列哪一项是|( is known as|是|[?？])$"
    return re.sub(around, "", question.stem.lower())


def test_time_grows_with_the_text_and_not_faster():
    """Repetitive text is where a comparison turns quadratic."""

    def seconds(times: int) -> float:
        start = time.process_time()
        overlap("的的的的的的的的是什么意思呢" * 3, "的" * 20_000 * times, "的是" * 10_000 * times)
        return time.process_time() - start

    assert seconds(8) < 20 * max(seconds(1), 0.02)


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
        files = tree_files(data)
        write_record(manifests[-1], about | {"files": files, "digest": tree_digest(files)})
    turn = {"role": "user", "content": f"{ENGLISH} operant conditioning"}
    write_jsonl(tmp_path / "train.jsonl", [{"id": "d", "messages": [turn]}])
    receipt = {"dataset": "talks", "files": file_entries(tmp_path, [tmp_path / "train.jsonl"])}
    write_record(tmp_path / "receipt.json", receipt)
    write_json(tmp_path / "settings.json", {"threshold": 1.0, "min_words": 5})
    command = [EVALSCOPE, ROOT / "scripts/contamination.py",
               "--dataset-receipt", tmp_path / "receipt.json",
               "--settings", tmp_path / "settings.json", "--benchmarks", *manifests,
               "--output", tmp_path / "found.json"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    record = read_json(tmp_path / "found.json")
    assert (record["dialogues"], record["measured"]) == (1, contamination.MEASURED)
    found = record["benchmarks"]
    assert {name: entry["overlapping"] for name, entry in found.items()} == {
        "first": 0,
        "second": 1,
    }
