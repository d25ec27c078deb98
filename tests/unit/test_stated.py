"""What answers state, held against a corpus labelled by hand, and how they end."""

import json
from pathlib import Path

import pytest
from sftflow.evaluation.stated import LONGEST, Form, ending, equal, stated
from test_linear import seconds

CORPUS = [
    json.loads(line)
    for line in (Path(__file__).parent / "stated_corpus.jsonl").read_text("utf-8").splitlines()
]
CHOICE, NUMBER = Form("choice", ("",) * 4), Form("number")


def form(row: dict) -> Form:
    """`options`: their texts, or how many there are where an answer alone must do."""
    options = row.get("options", ())
    return Form(row["form"], ("",) * options if isinstance(options, int) else tuple(options))


def test_corpus_covers_every_benchmark_in_both_languages():
    benchmarks = {row["note"].partition(":")[0] for row in CORPUS}
    assert benchmarks == {
        "gsm8k", "ceval", "cmmlu", "mmlu", "mmlu_pro", "mmlu_redux", "super_gpqa", "general_mcq",
        "general_qa",
    }  # fmt: skip
    unstated = sum(row["stated"] is None for row in CORPUS)
    assert len(CORPUS) >= 300 and unstated >= 100


def test_what_is_stated_is_recognised_and_nothing_else():
    """The labels are what a careful reader says; a false statement is worse than a missed one."""
    missed, false = [], []
    for row in CORPUS:
        found = stated(row["answer"], form(row))
        if found != row["stated"]:
            (missed if found is None else false).append((row["note"], row["answer"], found))
    assert false == []
    assert len(missed) <= 0.02 * sum(row["stated"] is not None for row in CORPUS), missed


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        " ", "\n", "A", "a", "1", "#", "$", "(", "~~", "<think>", "\\boxed{", "\\text{", "A\n",
        "A, ", "A or ", "A) x\n", "1,", "= 1 ", "answer of ", "answer is ", "answer: x, ",
        "answer: 1. ", "The answer is A.\n", "I choose ", "B is correct ", "no, that is wrong ",
        "答", "答案", "不对，", "选", "因此",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "form", [Form("choice", ("a store", "A or B") * 5), NUMBER], ids=["choice", "number"]
)
def test_no_loop_takes_long(text, form):
    """A million characters, which no model writes in one answer; quadratic time would be hours.
    On a slow machine it takes no longer than as many characters as are read."""
    took, read = (
        seconds(lambda answer: stated(answer, form), text * (length // len(text)))
        for length in (1_000_000, LONGEST)
    )
    assert took < max(2, 3 * read)


@pytest.mark.parametrize(
    ("answer", "reason", "end"),
    [
        ("ANSWER: B", "stop", "complete"),
        ("ANSWER: B", None, "complete"),
        ("ANSWER: B", "length", "cut off"),
        ("", "length", "cut off"),
        ("<think>is it A", "stop", "cut off"),
        ("[THINK]is it A", "stop", "cut off"),
        ("<seed:think>is it A</seed:think>B", "stop", "complete"),
        ("it is A</think>B", "stop", "complete"),
        ("<think>A</think>B<think>or", "stop", "cut off"),
        ("<thinking budget=9>A", "stop", "cut off"),
        ("I think <i>B</i> is [THINKing]", "stop", "complete"),
        ("<think>is it A</think>B", "stop", "complete"),
        ("<think>is it A</think> \n", "stop", "empty"),
        ("  \n", "stop", "empty"),
        ("", "content_filter", "refused"),
        ("Part of", "sensitive", "refused"),
        ("I cannot help with that.", "stop", "complete"),
    ],
)
def test_endings(answer, reason, end):
    assert ending(answer, reason) == end


@pytest.mark.parametrize(
    ("one", "other", "form", "same"),
    [
        ("42", "42.0", NUMBER, True),
        ("1234", "1,234", NUMBER, True),
        ("1/2", "0.5", NUMBER, True),
        ("42", "$42", NUMBER, True),
        ("42", "42 apples", NUMBER, True),
        ("1/2", "\\frac{1}{2}", NUMBER, True),
        ("-3", "−3", NUMBER, True),
        ("42", "", NUMBER, False),
        ("1", "1e999999999", NUMBER, False),
        ("42", "24", NUMBER, False),
        ("1/0", "1/0", NUMBER, False),
        ("42", "forty", NUMBER, False),
        ("B", "b", CHOICE, True),
        ("AC", "CA", CHOICE, True),
        ("B", "", CHOICE, False),
    ],
)
def test_equal(one, other, form, same):
    assert equal(one, other, form) is same


def test_letters_beyond_the_options_are_no_answer():
    assert stated("ANSWER: J", Form("choice", ("",) * 10)) == "J"
    assert stated("ANSWER: J", CHOICE) is None


@pytest.mark.parametrize(
    "answer",
    [
        "The answer is B, because A describes something else.", "**B**", "\\boxed{B}", "选B",
        "ANSWER: B\nExplanation: C and D have another meaning.", "B. memory", "故选B", "【答案】B",
    ],
)  # fmt: skip
def test_usual_forms_are_statements(answer):
    """Each was counted as unparsed, or read as another letter."""
    assert stated(answer, Form("choice", ("perception", "memory", "language", "mood"))) == "B"
