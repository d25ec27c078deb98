"""A key that no answer could match is refused with its row; one in another form is brought into
evalscope's."""

import pytest
from sftflow.core.cli import UserError
from sftflow.inputs import benchmarks
from sftflow.inputs.keys import SHOWN, right_keys

OPTIONS = {"A": "one", "B": "two", "C": "three", "D": "four"}


def own(answer, several=False, **changes):
    """The row of an own question as it is copied; a change to None stays in the row as null."""
    row = {"question": "How many?", **OPTIONS, "answer": answer} | changes
    settings = {"dataset": "general_mcq", "multiple_correct": several}
    settings["fields"] = ["question", "A", "B", "answer"]
    (copied,) = benchmarks.checked([row], settings, "sleep_val.jsonl")
    return copied


@pytest.mark.parametrize("key", ["B", "(B)", "B.", "b", "Ｂ", " B ", "（B）", "【B】", "b)", ["B"]])
def test_forms_of_a_letter_are_one(key):
    assert own(key) == {"question": "How many?", **OPTIONS, "answer": "B"}


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("1", {}, r"row 1: the answer is '1'; write the letter of the right option, A to D"),
        (1, {}, "the answer is 1; write the letter"),
        ("two", {}, "the answer is 'two'; write the letter"),
        ("BD", {}, r"'BD': where several options are right together, set multiple_correct: true"),
        ("B, D", {}, "set multiple_correct"),
        (["B", "D"], {}, "set multiple_correct"),
        ("E", {}, "there is no option E: the options are A to D"),
        ("D", {"D": None}, "there is no option D: the options are A to C"),
        ("D", {"D": " "}, "there is no option D"),
        ("A", {"C": None}, "option C is empty or missing, and there is an option D"),
        ("A", {"F": "six"}, "option E is empty or missing, and there is an option F"),
        ("A", {"D": "two "}, r"options B and D are the same \('two'\)"),
        ("A", {"C": ["x"]}, r"option C is \['x'\]; write a text"),
        ("A", {"question": 7}, "the question is no text"),
        ("A", {x: x.lower() for x in "EFGHIJK"}, "11 options; evalscope knows A to J"),
        ("", {}, "row 1: answer is empty"),
        ("A", {"B": None}, "row 1: B is empty"),
    ],
)
def test_what_can_never_be_right_is_refused_with_its_row(key, changes, message):
    with pytest.raises(UserError, match=r"sleep_val\.jsonl.*" + message):
        own(key, **changes)


def test_options_that_a_table_leaves_empty_at_the_end_are_none():
    copied = own("b", C="", D=None)
    assert copied == {"question": "How many?", "A": "one", "B": "two", "answer": "B"}
    assert own("A", C=3)["C"] == "3"


@pytest.mark.parametrize("key", ["AC", "A,C", "C A", "A、C", ["a", "C"], "A and C", "AC."])
def test_several_letters_where_several_are_asked_for(key):
    assert own(key, several=True)["answer"] == ["A", "C"]


def test_one_letter_is_a_list_where_several_are_asked_for():
    assert own("B", several=True)["answer"] == ["B"]
    with pytest.raises(UserError, match="write the letters of the right options, such as AC"):
        own("(A)(C)", several=True)
    with pytest.raises(UserError, match="there is no option E"):
        own("AE", several=True)
    with pytest.raises(UserError, match="write the letters"):
        own("1,2", several=True)


def test_many_wrong_rows_are_told_together():
    rows = [{"question": "?", **OPTIONS, "answer": "1"}] * (SHOWN + 2)
    with pytest.raises(UserError) as told:
        right_keys(rows, {"dataset": "general_mcq"}, "f")
    assert "f, row 5: " in str(told.value) and "row 6" not in str(told.value)
    assert "and 2 more rows" in str(told.value)


@pytest.mark.parametrize(
    "row",
    [
        {"query": "Why?", "response": "So."},
        {"question": "Why?", "answer": "So."},
        {"messages": [{"role": "user", "content": "Why?"}], "answer": "So."},
    ],
)
def test_own_open_questions_in_each_form(row):
    assert right_keys([row], {"dataset": "general_qa"}, "f") == [row]
    for name in ("answer", "response"):
        with pytest.raises(UserError, match="f, row 1: there is no answer to compare with"):
            right_keys([row | {name: ""}], {"dataset": "general_qa"}, "f")
            right_keys([row | {"answer": None, "response": None}], {"dataset": "general_qa"}, "f")


def test_an_open_question_without_a_question():
    with pytest.raises(UserError, match="row 1: there is no question"):
        right_keys([{"prompt": "Why?", "response": "So."}], {"dataset": "general_qa"}, "f")


@pytest.mark.parametrize(
    "messages",
    [
        "Why?",
        [{"role": "human", "content": "Why?"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
        ["Why?"],
    ],
)
def test_messages_that_evalscope_could_not_ask(messages):
    row = {"messages": messages, "answer": "So."}
    with pytest.raises(UserError, match=r"row 1: messages is no list of \{role, content\}"):
        right_keys([row], {"dataset": "general_qa"}, "f")


@pytest.mark.parametrize(("name", "what"), [("query", "question"), ("response", "answer")])
def test_white_space_is_no_text(name, what):
    row = {"query": "Why?", "response": "So.", name: " \n"}
    with pytest.raises(UserError, match=f"row 1: there is no {what}"):
        right_keys([row], {"dataset": "general_qa"}, "f")


CHOICES = {"choices": list("wxyz")}
LISTED = [f"({x}) {x.lower()}" for x in "ABCD"]


@pytest.mark.parametrize(
    ("dataset", "row", "changes"),
    [
        ("gsm8k", {"answer": "1 + 1 = 2\n#### 2"}, {}),
        ("mmlu", {**CHOICES, "answer": 3}, {}),
        ("mmlu_pro", {"options": list("vwxyz"), "answer": "(E)"}, {"answer": "E"}),
        ("super_gpqa", {"options": list("wxyz"), "answer_letter": "b"}, {"answer_letter": "B"}),
        ("ceval", {"answer": "d"}, {"answer": "D"}),
        ("cmmlu", {"choices": LISTED, "answer": "B"}, {"answer": "(B)"}),
        ("unknown", {"answer": "?"}, {}),
    ],
)
def test_published_keys_in_evalscopes_form(dataset, row, changes):
    assert right_keys([row], {"dataset": dataset}, "f") == [row | changes]


@pytest.mark.parametrize(
    ("dataset", "row", "message"),
    [
        ("gsm8k", {"answer": "nobody knows"}, "ends with no number"),
        ("gsm8k", {"answer": "It is 7."}, "ends with no number .*write it after ####"),
        ("mmlu", {**CHOICES, "answer": 4}, "the answer is 4; write the number .* 0 to 3"),
        ("mmlu", {"choices": list("wx"), "answer": 2}, "0 to 1"),
        ("mmlu", {**CHOICES, "answer": "A"}, "the answer is 'A'"),
        ("mmlu_pro", {"options": list("wxyz"), "answer": "E"}, "there is no option E"),
        ("super_gpqa", {"options": list("wxyz"), "answer_letter": "K"}, "there is no option K"),
        ("ceval", {"answer": "E"}, "there is no option E"),
        ("cmmlu", {"choices": LISTED, "answer": "(E)"}, "there is no option E"),
        ("cmmlu", {"choices": list("wxyz"), "answer": "(B)"}, r"must begin with '\(A\) '"),
    ],
)
def test_published_keys_that_cannot_be_right(dataset, row, message):
    with pytest.raises(UserError, match=f"all/test, row 1: .*{message}"):
        right_keys([row], {"dataset": dataset}, "all/test")


def redux(kind, fixed, answer=1):
    row = {**CHOICES, "answer": answer, "error_type": kind, "correct_answer": fixed}
    return right_keys([row], {"dataset": "mmlu_redux"}, "f")[0]["correct_answer"]


@pytest.mark.parametrize(
    ("kind", "fixed", "copied"),
    [
        ("ok", None, None),
        ("no_correct_answer", "none of these", "none of these"),
        ("wrong_groundtruth", "D", "3"),
        ("wrong_groundtruth", "(d)", "3"),
        ("wrong_groundtruth", "0", "0"),
        ("multiple_correct_answers", "0, 2", "0, 2"),
        ("multiple_correct_answers", "(0 2)", "0, 2"),
        ("multiple_correct_answers", "A and C", "0, 2"),
        ("multiple_correct_answers", "A, C", "0, 2"),  # evalscope: all four
        ("multiple_correct_answers", "wide,xenon", "wide,xenon"),
    ],
)
def test_corrected_answers_as_evalscope_reads_them(kind, fixed, copied):
    assert redux(kind, fixed) == copied


@pytest.mark.parametrize(
    ("kind", "fixed"),
    [
        ("wrong_groundtruth", "4"),
        ("wrong_groundtruth", "0, 2"),
        ("wrong_groundtruth", "the second"),
        ("multiple_correct_answers", "0, 4"),
        ("multiple_correct_answers", "A and E"),
    ],
)
def test_corrected_answers_that_are_no_options(kind, fixed):
    with pytest.raises(UserError, match=r"row 1: the correct_answer is .*, 0 to 3"):
        redux(kind, fixed)
    with pytest.raises(UserError, match="row 1: the answer is 4"):
        redux("ok", None, answer=4)
