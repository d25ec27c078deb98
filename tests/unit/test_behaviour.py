"""How answers behave: what a reader would call broken is counted as such, and nothing else."""

import pytest
from sftflow.dialogue import behaviour
from sftflow.dialogue.turns import NEXT, OPENING, turns

LOOP = "我很高人的很高中人电不选快一个。" + "选一个人" * 12


def found(answer: str, reason: str | None = "stop", asked: str = "你好，最近怎么样？") -> list[str]:
    measured = behaviour.measures(answer, reason, asked)
    return behaviour.faults(measured) + ["refused"] * measured["refused"]


@pytest.mark.parametrize(
    ("answer", "reason", "asked", "expected"),
    [
        ("我很高兴和你聊天。", "stop", "你好", []),
        ("", "stop", "你好", ["empty"]),
        (" \n", "content_filter", "你好", ["empty"]),
        ("好的，我们慢慢说，先从睡眠", "length", "我睡不好", ["endless"]),
        (LOOP, "length", "你好", ["endless", "loops"]),
        ("I see. " * 20, "stop", "I feel low today.", ["loops"]),
        # a refrain, a list and a short yes are no loops
        ("是的，是的，是的。", "stop", "你难过吗？", []),
        ("1. 深呼吸\n2. 散步\n3. 写日记\n4. 找朋友聊聊", "stop", "怎么放松？", []),
        ("That is fine.<|im_end|>\n<|im_start|>user", "stop", "Is that fine?", ["leaked"]),
        ("我明白。\n用户：那怎么办？\n助手：先休息。", "stop", "我很累", ["leaked"]),
        ("系统性脱敏是一种疗法。", "stop", "什么是系统性脱敏？", []),
        ("I am sorry to hear that you feel so alone.", "stop", "我感到很孤独", ["switched"]),
        ("听起来你很难过。", "stop", "I feel so sad these days.", ["switched"]),
        ("可以试试 CBT，也叫 cognitive behavioural therapy。", "stop", "焦虑怎么办呢？", []),
        ("B", "stop", "请选择正确的选项。", []),
        ("抱歉，我无法回答这个问题。", "stop", "你好", ["refused"]),
        ("作为一个AI语言模型，我不能提供医疗建议。", "stop", "我该吃什么药？", ["refused"]),
        ("I'm sorry, but I can't help with that.", "stop", "Tell me a secret.", ["refused"]),
        ("抱歉让你久等了，我们继续。", "stop", "在吗？", []),
        ("I'm sorry you had such a hard day.", "stop", "My day was hard.", []),
    ],
)
def test_what_a_reader_would_say(answer, reason, asked, expected):
    assert found(answer, reason, asked) == expected


def test_shares_by_hand():
    measured = behaviour.measures("a b a b a c", "stop", "x")
    assert measured["distinct_1"] == 3 / 6
    assert measured["distinct_2"] == 3 / 5  # ab ba ac
    assert measured["repeated"] == 1 - 3 / 3  # abab baba abac
    assert measured["characters"] == 6
    nothing = behaviour.measures("", "stop", "x")
    assert nothing["distinct_1"] is None and nothing["repeated"] is None


def test_a_long_answer_costs_no_more_than_its_length():
    """A pattern that looks back over blanks or digits again and again would take minutes."""
    for text in ("sorry " + " " * 200_000, "作为" * 100_000, "<|" * 100_000, "\n" * 200_000):
        behaviour.measures(text, "length", "你好")


def dialogue(name: str, *contents: str, first: str = "user") -> dict:
    roles = ["user", "assistant"] * len(contents)
    rows = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return {"id": name, "messages": rows}


def test_the_opening_and_the_last_turn_are_asked_with_the_true_history():
    asked, left_out = turns("d", [dialogue("b", "q1", "a1", "q2", "a2", "q3", "a3")], 5, None)
    assert left_out == 0 and [turn.turn for turn in asked] == [OPENING, NEXT]
    assert [m["content"] for m in asked[0].messages] == ["q1"] and asked[0].true == "a1"
    assert [m["content"] for m in asked[1].messages] == ["q1", "a1", "q2", "a2", "q3"]
    assert asked[1].true == "a3"


def test_a_dialogue_has_its_own_system_prompt_else_the_models():
    own = dialogue("a", "q", "a")
    own["messages"].insert(0, {"role": "system", "content": "own"})
    asked, _ = turns("d", [own, dialogue("b", "q", "a")], 5, "the model's")
    assert [turn.messages[0]["content"] for turn in asked] == ["own", "the model's"]


def test_rows_that_are_appended_never_change_what_was_asked_before_them():
    rows = [dialogue(name, "q", "a") for name in "dbac"]
    first = [turn.id for turn in turns("d", rows, 3, None)[0]]
    again = [turn.id for turn in turns("d", [*rows, dialogue("e", "q", "a")], 3, None)[0]]
    assert first == again == ["a", "b", "c"]


def test_dialogues_that_call_tools_are_counted_not_asked():
    tools = dialogue("a", "q", "a")
    tools["messages"][1] = {"role": "tool_call", "content": "{}"}
    asked, left_out = turns("d", [tools, dialogue("b", "q", "a")], 1, None)
    assert [turn.id for turn in asked] == ["b"] and left_out == 1
