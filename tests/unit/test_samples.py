"""What counts as an answer in the asked form, and which reports of evalscope are refused."""

from collections import Counter

import pytest
from sftflow.core.cli import UserError
from sftflow.evaluation.samples import Question, check_counts, check_report, parsed, passages


@pytest.mark.parametrize(
    "answer",
    [
        "ANSWER: B",
        "Let me think.\nANSWER: B",
        "**Answer: (B)**",
        "The answer is B.",
        "答案：B",
        "思考……\n答案: **B**",
        "正确答案是 B。",
        "ANSWER: $\\boxed{B}$",
        "answer: [B]",
    ],
)
def test_explicit_choice_is_parsed(answer):
    assert parsed(answer, "B", 4)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I think it is Behaviourism, by John B",
        "ANSWER: [LETTER]",
        "ANSWER: E",
        "ANSWER: Because",
        "答案：",
        "The Answer is unclear to me",
    ],
)
def test_chance_find_is_not_parsed(answer):
    assert not parsed(answer, "B", 4)


def test_option_must_exist():
    assert parsed("ANSWER: J", "J", 10) and not parsed("ANSWER: J", "", 4)


@pytest.mark.parametrize(
    ("answer", "is_parsed"),
    [
        ("so \\boxed{42}", True),
        ("so \\boxed{\\$1,200}", True),
        ("ANSWER: 42", True),
        ("The answer is 42.", True),
        ("#### 42", True),
        ("First 3 apples, then 42 pears", False),
        ("\\boxed{}", False),
    ],
)
def test_numbers(answer, is_parsed):
    assert parsed(answer, "42", None) is is_parsed


def test_free_text():
    assert parsed("anything", "a text", None) and not parsed("anything", " ", None)


def question(subset, index):
    return Question("id", subset, index, 0, [], "A", 4, "k", 0)


def test_counts():
    manifest = {"subsets": {"a": 3, "b": 2, "empty": 0}}
    benchmark = {"subsets": ["a", "b"], "limit": 2, "repeats": 1}
    found = [question("a", 0), question("a", 1), question("b", 0), question("b", 1)]
    check_counts("m", benchmark, manifest, found)
    with pytest.raises(UserError, match="promises 2"):
        check_counts("m", benchmark, manifest, found[:-1])
    with pytest.raises(UserError, match="no subset 'c'; its data holds a, b"):
        check_counts("m", benchmark | {"subsets": ["c"]}, manifest, [])
    with pytest.raises(UserError, match="empty"):
        check_counts("m", benchmark | {"subsets": ["empty"]}, manifest, [])


def report(**changes):
    subsets = [{"name": "a", "num": 2, "score": 0.5}, {"name": "OVERALL", "is_aggregate": True}]
    metric = {"identity": {"name": "accuracy"}, "score": 0.5, "categories": [{"subsets": subsets}]}
    summary = {"errored": 0, "incomplete": False, "requested": 2, "succeeded": 2}
    return {"metrics": [metric], "execution_summary": summary, **changes}


def test_whole_report():
    figures = check_report("m", report(), Counter(a=2))
    assert figures == {"metric": "accuracy", "score": 0.5, "subsets": {"a": 0.5}}


@pytest.mark.parametrize(
    ("changes", "asked", "text"),
    [
        ({"metrics": []}, {"a": 2}, "no metric"),
        ({"execution_summary": {"errored": 1}}, {"a": 2}, "failed"),
        ({"execution_summary": {"incomplete": True}}, {"a": 2}, "scored"),
        ({}, {"a": 3}, "were asked"),
        ({}, {"a": 2, "b": 1}, "were asked"),
    ],
)
def test_silent_exits_are_errors(changes, asked, text):
    with pytest.raises(UserError, match=text):
        check_report("m", report(**changes), asked)


def test_questions_on_one_passage_are_known_by_it():
    long, other = "This refers to the text.\n" + "A long text. " * 30, "Another text. " * 30
    found = passages(
        [f"{long}\nWho?", f"{long}\nWhen?", f"{other}\nWho?", "Short.\nA", "Short.\nB"]
    )
    assert found[0] == found[1] is not None
    assert found[2:] == [None] * 3 and passages([]) == []
