"""Three facts of an answer kept apart, and which reports of evalscope are refused."""

from collections import Counter

import pytest
from sftflow.core.cli import UserError
from sftflow.evaluation.samples import (
    Question,
    check_counts,
    check_report,
    misread,
    passages,
    record,
)

WORDS = ["one", "two", "three", "four"]


def question(subset, index, target="A", options=WORDS):
    return Question("id", subset, index, 0, [], target, options, "k", 0)


def answered(content, read, score, stop="stop", metric="accuracy", **asked):
    """The record of an answer, in the form that evalscope's predictions and reviews have."""
    message = {"role": "assistant", "content": content}
    output = {"choices": [{"message": message, "stop_reason": stop}], "usage": None, "time": 0.1}
    reviewed = {"extracted_prediction": read, "value": {"x": 0, metric: score}}
    reviewed["main_score_name"] = metric
    review = {"sample_score": {"score": reviewed}}
    return record(question("a", 0, **asked), {"model_output": output}, review)


def facts(found):
    return found["stated"], found["extracted"], found["score"], found["right"], found["ending"]


def test_what_is_stated_read_and_scored_stands_apart():
    found = answered("The answer is B. A is a common mistake.", "A", 0, target="B")
    assert facts(found) == ("B", "A", 0, True, "complete")
    assert misread(found) and "parsed" not in found
    found = answered("ANSWER: B\nExplanation: C and D differ.", "", 0, target="B")
    assert facts(found) == ("B", "", 0, True, "complete") and misread(found)


def test_a_lucky_find_scores_and_is_not_right():
    found = answered("Many have written on this, D", "D", 1, target="D")
    assert facts(found) == (None, "D", 1, False, "complete") and not misread(found)


@pytest.mark.parametrize("content", ["<think>A? ANSWER: B", "The answer is B.\nThe answer is"])
def test_what_is_cut_off_is_not_right(content):
    found = answered(content, "B", 1, stop="max_tokens", target="B")
    assert found["ending"] == "cut off" and found["right"] is False
    assert found["finish_reason"] == "length"


def test_an_options_own_text_is_a_choice():
    assert facts(answered("Two.", "", 0, target="B"))[0] == "B"


@pytest.mark.parametrize(
    ("target", "content", "right"),
    [
        (["A", "C"], "ANSWER: C", True),  # MMLU-Redux: any of them
        (["A", "C"], "ANSWER: B", False),
        ("b", "ANSWER: B", True),
        ("B", "answer: b", True),
    ],
)
def test_any_of_several_right_answers_and_either_case(target, content, right):
    assert answered(content, "", 0, target=target)["right"] is right


def test_several_letters_that_are_right_together():
    asked = {"metric": "multi_choice_acc", "target": ["A", "C"]}
    found = answered("答案：C、A", "AC", 1, **asked)
    assert facts(found) == ("AC", "AC", 1, True, "complete") and found["target"] == "AC"
    assert answered("答案：A", "A", 0.5, **asked)["right"] is False


def test_numbers_are_right_by_value():
    asked = {"options": None, "target": "1234"}
    found = answered("So it is 1,234.\n#### 1,234.00", "1,234.00", 1, **asked)
    assert facts(found)[0] == "1234" and found["right"] and not misread(found)


def test_graded_answers_are_neither_right_nor_wrong():
    found = answered("A store.", "A store.", 0.7, metric="Rouge-L-R", options=None, target="store")
    assert facts(found) == ("A store.", "A store.", 0.7, None, "complete") and not misread(found)


@pytest.mark.parametrize(
    ("content", "stop", "end", "reason"),
    [
        (None, "max_tokens", "cut off", "length"),
        ("", "stop", "empty", "stop"),
        (None, "content_filter", "refused", "content_filter"),
        ([{"type": "text", "text": "I won't.", "refusal": True}], "stop", "refused", "refusal"),
        ([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": ""}], "stop", "empty",
         "stop"),
    ],
)  # fmt: skip
def test_an_answer_without_text_is_an_answer_with_its_reason(content, stop, end, reason):
    found = answered(content, "", 0, stop=stop)
    assert facts(found) == (None, "", 0, False, end) and found["finish_reason"] == reason


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


def test_the_reports_own_main_metric_counts():
    """general_qa: BLEU comes first in the report, Rouge-L is what its samples are scored by."""
    rouge = {"name": "rouge", "dimensions": {"statistic": "recall", "variant": "l"}}
    bleu = {"name": "bleu", "dimensions": {"ngram": 1}}
    both = [
        {**report()["metrics"][0], "identity": identity, "score": score}
        for identity, score in ((bleu, 0.08), (rouge, 0.33))
    ]
    found = check_report("m", report(metrics=both, primary_metric_identity=rouge), Counter(a=2))
    assert (found["metric"], found["score"]) == ("rouge l recall", 0.33)
    with pytest.raises(UserError, match="no main metric among bleu 1, rouge l recall"):
        check_report("m", report(metrics=both), Counter(a=2))


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
