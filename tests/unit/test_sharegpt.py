"""Dialogues: no row disappears without a reason, and no row changes what it says."""

import json
import sys
from pathlib import Path

import fetch_dataset
import prepare_dataset
import pytest
from sftflow.core.cli import UserError
from sftflow.core.jsonio import (
    file_entries,
    read_jsonl,
    read_record,
    tree_digest,
    tree_files,
    write_record,
)
from sftflow.inputs import sharegpt

SETTINGS = {
    "on_bad_rows": "drop",
    "max_bad_share": 1.0,
    "validation_share": 0.0,
    "split_seed": 42,
}
ASK, ANSWER = {"from": "human", "value": "你好"}, {"from": "gpt", "value": "你好！"}
CALLED = {"from": "observation", "value": "sunny"}


def row(*turns: dict, **more) -> dict:
    return {"conversations": list(turns), **more}


def messages(raw: dict) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in normal(raw)["messages"]]


def normal(raw: dict, **wanted: str) -> dict:
    return sharegpt.normalise(raw, **wanted).row


def reason(raw, **wanted: str) -> str:
    with pytest.raises(sharegpt.BadRow) as caught:
        sharegpt.normalise(raw, **wanted)
    return caught.value.reason


# --- what is understood --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        row(ASK, ANSWER),
        {
            "messages": [
                {"role": "user", "content": "你好"},
                {"role": "Assistant", "content": "你好！"},
            ]
        },
        {
            "conversation": [
                {"role": "human", "value": "你好"},
                {"from": "bot", "content": "你好！"},
            ]
        },
        {"conversations": json.dumps([ASK, ANSWER])},
        row({"human": "你好", "assistant": "你好！"}),
        row({"from": "user", "value": [{"type": "text", "text": "你好"}]}, ANSWER),
    ],
)
def test_common_dialects_say_the_same(raw):
    assert messages(raw) == [("user", "你好"), ("assistant", "你好！")]
    assert normal(raw)["id"] == normal(row(ASK, ANSWER))["id"]


def test_a_system_prompt_beside_the_turns_comes_first():
    assert messages(row(ASK, ANSWER, system="Be kind."))[0] == ("system", "Be kind.")
    both = row({"from": "system", "value": "Be kind."}, ASK, ANSWER, system="Be kind.")
    assert [role for role, _ in messages(both)] == ["system", "user", "assistant"]


def test_tool_turns_keep_their_place_and_tools_their_description():
    call = {"name": "weather", "arguments": {"city": "北京"}}
    raw = row(
        ASK,
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "sunny"},
        ANSWER,
        tools=[{"name": "weather"}],
    )
    assert [role for role, _ in messages(raw)] == ["user", "tool_call", "tool", "assistant"]
    assert json.loads(normal(raw)["tools"]) == [{"name": "weather"}]


def test_openai_tool_calls_become_tool_call_turns():
    function = {"name": "weather", "arguments": '{"city": "北京"}'}
    raw = {
        "messages": [
            {"role": "user", "content": "天气？"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": function}]},
            {"role": "tool", "content": "sunny"},
            {"role": "assistant", "content": "晴天。"},
        ]
    }
    found = messages(raw)
    assert [role for role, _ in found] == ["user", "tool_call", "tool", "assistant"]
    assert json.loads(found[1][1]) == {"name": "weather", "arguments": {"city": "北京"}}


def test_a_last_question_that_nobody_answers_is_left_out_and_told():
    made = sharegpt.normalise(row(ASK, ANSWER, ASK))
    assert made.shortened and len(made.row["messages"]) == 2


@pytest.mark.parametrize(
    "value",
    [
        '{"name": "weather", "parameters": "{\\"city\\": 1}"}',
        "{'name': 'weather', 'arguments': {'city': 1}}",
        {"function": {"name": "weather", "arguments": {"city": 1}}},
        '[{"name": "weather", "arguments": {"city": 1}}]',
    ],
)
def test_tool_calls_have_one_form_whoever_wrote_them(value):
    found = messages(row(ASK, {"from": "function_call", "value": value}, CALLED, ANSWER))
    assert found[1] == ("tool_call", '{"name": "weather", "arguments": {"city": 1}}')


# --- tools ----------------------------------------------------------------------------------------

CALL = {"name": "weather", "arguments": {}}
CALL_TURN = {"from": "function_call", "value": json.dumps(CALL)}


@pytest.mark.parametrize("empty", ["", " ", None, {}, "{}"])
def test_a_call_may_have_no_arguments(empty):
    call = {"function": {"name": "weather", "arguments": empty}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    raw = {"messages": [{"role": "user", "content": "?"}, asked, {"role": "tool", "content": "x"}]}
    assert messages(raw)[1] == ("tool_call", json.dumps(CALL))


@pytest.mark.parametrize(
    ("result", "text"),
    [("", ""), (None, ""), ({}, "{}"), ([1, 2], "[1, 2]"), (25.3, "25.3"),
     ([{"type": "text", "text": "sun"}], "sun")],
)  # fmt: skip
def test_a_tool_may_answer_nothing_or_anything(result, text):
    raw = row(ASK, CALL_TURN, {"from": "tool", "value": result}, ANSWER)
    assert messages(raw)[2] == ("tool", text)


def test_hermes_calls_in_text_become_calls_where_a_tool_answers():
    said = "Let me see.\n<tool_call>\n{'name': 'weather', 'arguments': {}}\n</tool_call>"
    system = {"from": "system", "value": 'Tools: <tools>[{"name": "weather"}]</tools>'}
    result = {"from": "tool", "value": "<tool_response>\nsunny\n</tool_response>"}
    raw = row(system, ASK, {"from": "gpt", "value": said}, result, ANSWER)
    assert messages(raw)[2:] == [
        ("assistant", "Let me see.\n"),
        ("tool_call", json.dumps(CALL)),
        ("tool", "sunny"),
        ("assistant", "你好！"),
    ]
    assert messages(raw)[0] == ("system", system["value"])  # its own words stay
    unanswered = row(ASK, {"from": "gpt", "value": said})
    assert messages(unanswered)[1] == ("assistant", said)


def test_two_hermes_calls_and_their_two_results():
    call = f"<tool_call>{json.dumps(CALL)}</tool_call>"
    result = "<tool_response>a</tool_response>\n<tool_response>b</tool_response>"
    raw = row(ASK, {"from": "gpt", "value": call + "\n" + call}, {"from": "tool", "value": result})
    raw["conversations"].append(ANSWER)
    found = messages(raw)
    assert [role for role, _ in found[1:5]] == ["tool_call", "tool_call", "tool", "tool"]
    assert [text for _, text in found[3:5]] == ["a", "b"]
    raw["conversations"][1]["value"] = call + " and then " + call
    assert reason(raw) == "invalid tool call"


def test_results_stand_in_the_order_of_their_calls():
    calls = [{"id": i, "function": {"name": i, "arguments": "{}"}} for i in ("a", "b")]
    raw = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "b", "content": "of b"},
            {"role": "tool", "tool_call_id": "a", "content": "of a"},
            {"role": "assistant", "content": "done"},
        ]
    }
    assert [text for _, text in messages(raw)[3:5]] == ["of a", "of b"]


def test_a_name_of_a_call_that_is_none_is_left_alone():
    calls = [{"id": {"no": "text"}, "function": {"name": "f"}}]
    raw = {
        "messages": [
            {"role": "user", "content": "?"},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "tool_call_id": ["neither"], "content": [{"type": {}}]},
        ]
    }
    assert [role for role, _ in messages(raw)] == ["user", "tool_call"]


def test_the_call_of_openais_first_form():
    call = {"name": "weather", "arguments": "{}"}
    asked = {"role": "assistant", "content": None, "function_call": call}
    result = {"role": "function", "name": "weather", "content": "sunny"}
    raw = {"messages": [{"role": "user", "content": "?"}, asked, result], "functions": [call]}
    assert messages(raw)[1] == ("tool_call", json.dumps(CALL))
    assert json.loads(normal(raw)["tools"]) == [call]


@pytest.mark.parametrize("tools", [" ", "", None, [], "[]", {}, "null"])
def test_blank_tools_are_none(tools):
    assert "tools" not in normal(row(ASK, ANSWER, tools=tools))


@pytest.mark.parametrize(
    "tools", ["not json", ["text"], "[1]", [{"description": "nameless"}], '[{"name": NaN}]', 7]
)
def test_tools_that_no_template_takes_are_a_reason(tools):
    assert reason(row(ASK, ANSWER, tools=tools)) == "invalid tools"


# --- what changes what is learnt ------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark", [{"loss": False}, {"weight": 0}, {"train": False}, {"loss_scale": 0.0}]
)
def test_a_masked_answer_stays_masked(mark):
    raw = row(ASK, ANSWER | mark, ASK, ANSWER)
    made = sharegpt.normalise(raw)
    assert made.row["messages"][1] == {"role": "assistant", "content": "你好！", "loss": False}
    assert "loss" not in made.row["messages"][3] and made.masked == 1
    assert made.row["id"] != normal(row(ASK, ANSWER, ASK, ANSWER))["id"]


@pytest.mark.parametrize("mark", [{"loss": True}, {"weight": 1}, {"loss": None}, {"weight": 1.0}])
def test_an_answer_that_is_learnt_anyway_is_the_same_row(mark):
    raw = row(ASK | {"train": False, "weight": 0}, ANSWER | mark)
    assert normal(raw) == normal(row(ASK, ANSWER))


def test_what_follows_the_last_learnt_answer_is_left_out():
    made = sharegpt.normalise(row(ASK, ANSWER, ASK, ANSWER | {"loss": False}))
    assert made.shortened and made.row == normal(row(ASK, ANSWER))


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_goes_where_the_dataset_says(key):
    raw = row(ASK, ANSWER | {key: " Greet back. "})
    assert messages(raw)[1][1] == "<think>\nGreet back.\n</think>\n\n你好！"
    assert normal(raw, reasoning="drop") == normal(row(ASK, ANSWER))
    assert reason(raw, reasoning="refuse") == "reasoning"
    assert sharegpt.normalise(raw).reasoning == 1


def test_reasoning_in_other_places():
    parts = [{"type": "thinking", "thinking": "Greet."}, {"type": "text", "text": "你好！"}]
    thought = "<think>\nGreet.\n</think>\n\n你好！"
    assert messages(row(ASK, {"from": "gpt", "value": parts}))[1][1] == thought
    assert messages(row(ASK, ANSWER, reasoning_content="Greet."))[1][1] == thought
    pair = {"question": "你好", "answer": "你好！", "reasoning": "Greet."}
    assert messages(pair)[1][1] == thought
    written = row(ASK, {"from": "gpt", "value": thought, "reasoning_content": "Greet."})
    assert messages(written)[1][1] == thought  # not twice
    assert reason(row(ASK, ANSWER, ASK, ANSWER, reasoning="of which?")) == "reasoning"


@pytest.mark.parametrize("empty", ["", " ", None])
def test_an_empty_system_prompt_is_none(empty):
    raw = row({"from": "system", "value": empty}, ASK, ANSWER, system_prompt=empty)
    assert normal(raw) == normal(row(ASK, ANSWER))


def test_one_system_prompt_in_three_places():
    raw = row({"from": "system", "value": "S"}, ASK, ANSWER, system="S", system_prompt="S ")
    assert [role for role, _ in messages(raw)] == ["system", "user", "assistant"]
    assert reason(raw | {"system_prompt": "other"}) == "system not first"
    assert reason(row(ASK, ANSWER, system="S", system_prompt="T")) == "system not first"


@pytest.mark.parametrize("field", ["images", "image", "videos", "audios", "objects"])
def test_media_anywhere_is_no_text(field):
    seen = {"from": "human", "value": "<image>what is this"}
    assert reason(row(seen, ANSWER, **{field: ["x.png"]})) == "not text"
    assert reason(row(seen | {field: "x.png"}, ANSWER)) == "not text"
    assert messages(row(ASK, ANSWER, **{field: []}))  # a text row of a mixed set
    assert messages(row(ASK | {field: 0}, ANSWER, **{field: False}))


def test_fields_that_say_nothing_to_the_trainer_are_named():
    made = sharegpt.normalise(row(ASK, ANSWER | {"emotion": "calm"}, topic="sleep", score=1))
    assert made.ignored == {"turn.emotion", "topic", "score"}


# --- other forms ----------------------------------------------------------------------------------

Q, A = "你好", "你好！"


@pytest.mark.parametrize(
    "raw",
    [
        {"instruction": Q, "input": "", "output": A},
        {"instruction": Q, "output": A, "history": [], "system": ""},
        {"query": Q, "response": A, "history": None},
        {"prompt": Q, "completion": A},
        {"prompt": [{"role": "user", "content": Q}],
         "completion": [{"role": "assistant", "content": A}]},
        {"Context": Q, "Response": A},
        {"question": Q, "answer": [A]},
        {"conversation": [{"system": "", "input": Q, "output": A}]},
        [{"role": "client", "content": Q}, {"role": "counselor", "content": A}],
        {"dialog": [{"speaker": "seeker", "content": Q}, {"speaker": "supporter", "content": A}]},
        {"messages": [{"role": "user", "content": Q, "from": None, "value": None},
                      {"role": "assistant", "content": A, "tool_calls": None}],
         "conversations": None, "images": None},
        {"messages": [{"role": "user", "content": Q}, {"role": "assistant", "content": A}],
         "conversations": [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]},
    ],
)  # fmt: skip
def test_other_forms_say_the_same(raw):
    assert normal(raw)["id"] == normal(row(ASK, ANSWER))["id"]


@pytest.mark.parametrize(
    "before",
    [
        [["q", "a"]],
        '[["q", "a"]]',
        [{"query": "q", "response": "a"}],
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    ],
)
def test_history_comes_first(before):
    raw = {"instruction": "I", "input": "x", "output": "y", "history": before, "system": "S"}
    assert messages(raw) == [
        ("system", "S"), ("user", "q"), ("assistant", "a"), ("user", "I\nx"), ("assistant", "y"),
    ]  # fmt: skip


def test_rounds_with_one_system_prompt():
    first = {"system": "S", "input": "q", "output": "a"}
    raw = {"conversation": [first, {**first, "input": "r"}, {"input": "s", "output": "a"}]}
    roles = [role for role, _ in messages(raw)]
    assert roles == ["system", *["user", "assistant"] * 3]
    raw["conversation"][1]["system"] = "T"
    assert reason(raw) == "system not first"
    same = [{"human": "q", "assistant": "a"}] * 2
    assert len(messages({"conversations": same})) == 4


def test_neighbours_of_one_speaker_join_only_where_the_dataset_says_so():
    raw = row(ASK, {"from": "human", "value": "在吗"}, ANSWER, ANSWER)
    assert reason(raw) == "roles do not alternate"
    made = sharegpt.normalise(raw, same_speaker="join")
    texts = [message["content"] for message in made.row["messages"]]
    assert texts == ["你好\n在吗", "你好！\n你好！"] and made.joined == 2
    half = row(ASK, ANSWER | {"loss": False}, ANSWER)
    assert reason(half, same_speaker="join") == "roles do not alternate"


# --- what is dropped, and why --------------------------------------------------------------------

BAD = {
    "ambiguous fields": {"question": "q", "context": "c", "answer": "a"},
    "preference data": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "template settings": row(ASK, ANSWER, chat_template_kwargs={"enable_thinking": False}),
    "reasoning": row(ASK, ANSWER, ASK, ANSWER, reasoning_content="of which answer?"),
    "loss not carried": row(ASK, ANSWER | {"loss_scale": 0.5}),
    "nothing trained": row(ASK, ANSWER | {"loss": False}),
    "invalid tools": row(ASK, ANSWER, tools="not json"),
    "tool result without call": row(ASK, ANSWER, CALLED, ANSWER),
    "invalid tool call": row(ASK, {"from": "function_call", "value": "weather(x)"}, CALLED, ANSWER),
    "not an object": ["a string"],
    "no conversations": {"conversations": []},
    "unknown role": row({"from": "narrator", "value": "x"}, ANSWER),
    "not text": row({"from": "human", "value": [{"type": "image", "image": "x"}]}, ANSWER),
    "empty turn": row({"from": "human", "value": " \n"}, ANSWER),
    "system not first": row(ASK, {"from": "system", "value": "x"}, ANSWER),
    "starts with assistant": row(ANSWER, ASK, ANSWER),
    "roles do not alternate": row(ASK, ASK, ANSWER),
    "no assistant turn": row(ASK),
    "invalid UTF-8": row({"from": "human", "value": "half a pair: \ud800"}, ANSWER),
}


BAD_FILES = {"invalid JSON", "exact duplicate"}  # see test_rows.py and the receipt's test
MORE = [
    ("ambiguous fields", {"question": "q", "answer": "a", "response": "b"}),
    ("ambiguous fields", {"question": "q", "answers": "x", "answer": ["a", "b"]}),
    ("ambiguous fields", {"question": "q", "answer": "a", "Answer": "b"}),
    ("ambiguous fields", {"messages": [ASK, ANSWER], "conversations": [ANSWER, ASK]}),
    ("ambiguous fields", row(ASK, ANSWER | {"text": "another"})),
    ("preference data", row(ASK, ANSWER, rejected_response="no")),
    ("preference data", row(ASK, ANSWER, label=False)),
    ("loss not carried", row(ASK | {"loss": True}, ANSWER)),
    ("loss not carried", row(ASK, ANSWER | {"weight": "0"})),
    ("loss not carried", row(ASK, ANSWER | {"loss": True, "weight": 0})),
    ("loss not carried", row(ASK, ANSWER, weight=0.3)),
    ("nothing trained", row(ASK, ANSWER, train=False)),
    ("not text", row({"from": "human", "value": float("nan")}, ANSWER)),
    ("not text", row(ASK, ANSWER, system=float("nan"))),
    ("not text", row({"from": "human", "value": [{"type": "image", "text": "a cat"}]}, ANSWER)),
    ("not text", {"query": "q", "response": "a", "history": "what we said"}),
    ("invalid tool call", row(ASK, {"from": "tool_call", "value": '{"name": "f", "arguments": 1}'},
                              CALLED, ANSWER)),
    ("invalid tool call", row(ASK, {"from": "tool_call", "value": {"name": "f", "arguments": {
        "x": float("nan")}}}, CALLED, ANSWER)),
    ("empty turn", {"instruction": "q", "input": "", "output": ""}),
    ("no conversations", {"text": "a page of a book"}),
    ("no assistant turn", row({"from": "system", "value": ""})),
    ("unknown role", {"conversation": [{"input": "q"}]}),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "raw"), MORE)
def test_neighbours_of_these_kinds(expected, raw):
    assert reason(raw) == expected


@pytest.mark.parametrize("expected", BAD)
def test_each_reason_has_its_row(expected):
    assert reason(BAD[expected]) == expected


def test_two_different_system_prompts_are_not_chosen_between():
    both = row({"from": "system", "value": "A"}, ASK, ANSWER, system="B")
    assert reason(both) == "system not first"


def test_every_reason_is_explained():
    assert {*BAD, *BAD_FILES} == set(sharegpt.REASONS)


# --- the program ---------------------------------------------------------------------------------


def prepare(folder: Path, lines: list[bytes] | list[dict], **settings) -> dict:
    """Run prepare over lines as the program does; the outputs lie in `folder`."""
    source = folder / "source.jsonl"
    data = [
        r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in lines
    ]
    source.write_bytes(b"\n".join(data))
    rows = prepare_dataset.located_rows(folder, [source.name], {})
    return prepare_dataset.prepare(
        rows, folder / "train.jsonl", folder / "validation.jsonl", SETTINGS | settings
    )


def dialogues(count: int, start: int = 0) -> list[dict]:
    return [row(ASK, {"from": "gpt", "value": f"answer {i}"}) for i in range(start, start + count)]


def test_the_receipt_names_lines_by_reason(tmp_path):
    good, bad = row(ASK, ANSWER), row(ANSWER)
    counts = prepare(tmp_path, [good, b"{", bad, good, *[bad] * 30, *dialogues(5)])
    assert counts["rows_read"] == 39
    assert counts["rows_kept"] == counts["train_rows"] == 6
    assert counts["dropped"]["invalid JSON"] == {"count": 1, "lines": [2]}
    assert counts["dropped"]["exact duplicate"] == {"count": 1, "lines": [4]}
    assert counts["dropped"]["starts with assistant"]["count"] == 31
    assert counts["dropped"]["starts with assistant"]["lines"] == [3, *range(5, 24)]


def test_several_files_are_told_apart(tmp_path):
    (tmp_path / "a.jsonl").write_text("{\n" + json.dumps(row(ASK, ANSWER)))
    (tmp_path / "b.jsonl").write_text(json.dumps(row(ASK, ANSWER)) + "\n{\n")
    forms: dict = {}
    found = prepare_dataset.located_rows(tmp_path, ["a.jsonl", "b.jsonl"], forms)
    assert [where for where, _ in found] == ["a.jsonl:1", "a.jsonl:2", "b.jsonl:1", "b.jsonl:2"]
    assert forms["JSON lines"].lines == ["a.jsonl", "b.jsonl"]


def test_too_many_bad_rows_stop_the_job_and_say_why(tmp_path):
    lines = [*dialogues(97), b"{", b"{", row(ANSWER)]
    with pytest.raises(UserError, match=r"3 of 100 rows \(3\.0%\)(.|\n)*invalid JSON(.|\n)*98, 99"):
        prepare(tmp_path, lines, max_bad_share=0.02)
    assert not (tmp_path / "train.jsonl").exists()
    assert prepare(tmp_path, lines, max_bad_share=0.03)["rows_kept"] == 97
    with pytest.raises(UserError, match="on_bad_rows is error"):
        prepare(tmp_path, lines, max_bad_share=1.0, on_bad_rows="error")


def test_appended_rows_never_move_a_dialogue_to_the_other_side(tmp_path):
    def sides(count: int) -> dict[str, str]:
        prepare(tmp_path, dialogues(count), validation_share=0.2)
        files = {side: tmp_path / f"{side}.jsonl" for side in ("train", "validation")}
        return {r["id"]: side for side, path in files.items() for r in read_jsonl(path)}

    few, many = sides(200), sides(400)
    assert few.items() <= many.items()
    assert 20 < list(few.values()).count("validation") < 60


def test_the_seed_moves_the_split_and_the_digest_follows(tmp_path):
    digests = {
        prepare(tmp_path, dialogues(100), validation_share=0.2, split_seed=seed)["digest"]
        for seed in (1, 2)
    }
    assert len(digests) == 2


def test_an_empty_validation_is_an_error_that_helps(tmp_path):
    with pytest.raises(UserError, match=r"of 3 rows gave no row to validate on.*split_seed: (\d+)"):
        prepare(tmp_path, dialogues(3), validation_share=0.05)
    with pytest.raises(UserError, match="no rows"):
        prepare(tmp_path, [])


def test_fetching_leaves_out_what_lies_beside_the_data(tmp_path, monkeypatch):
    (tmp_path / "data" / "train").mkdir(parents=True)
    names = ("train/a.jsonl", "train/b.csv", "dataset_infos.json", "train/state.json", "README.md")
    for name in names:
        (tmp_path / "data" / name).write_text("{}")
    settings = json.dumps({"source": str(tmp_path / "data"), "hub": "local"})
    output = tmp_path / "out" / "source.json"
    arguments = ["--dataset", "d", "--settings", settings, "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["fetch_dataset.py", *arguments])
    fetch_dataset.main()
    found = [file["path"] for file in read_record(output)["files"]]
    assert found == ["train/a.jsonl", "train/b.csv"]


def test_the_receipt_says_forms_and_what_was_done(tmp_path):
    talk = row(ASK, ANSWER | {"loss": False}, ASK, ANSWER | {"thinking": "t"}, topic="sleep")
    counts = prepare(tmp_path, [talk, {"query": "q", "response": "a", "topic": "x", "n": 1}])
    assert {form: lines["lines"] for form, lines in counts["row_forms"].items()} == {
        "turns": [1], "pair": [2],
    }  # fmt: skip
    assert counts["masked"] == counts["reasoning"] == {"count": 1, "lines": [1]}
    assert counts["ignored"] == {"topic": 2, "n": 1}


def test_a_file_of_something_else_says_what_it_saw(tmp_path):
    with pytest.raises(UserError, match=r"none of the 2 rows(.|\n)*fields of .*: label, page") as e:
        prepare(tmp_path, [{"page": "x", "label": 3}] * 2)
    assert "lower validation_share" not in str(e.value)


def test_the_program_writes_rows_and_a_receipt(tmp_path, monkeypatch, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "d.jsonl").write_text(json.dumps(row(ASK, ANSWER)))
    files = tree_files(tmp_path / "source")
    origin = {"source": "here", "revision": None, "files": files, "digest": tree_digest(files)}
    write_record(tmp_path / "source.json", origin)
    names = {"train": "train.jsonl", "validation": "validation.jsonl", "receipt": "receipt.json"}
    outputs = [part for key, name in names.items() for part in (f"--{key}", str(tmp_path / name))]
    arguments = ["--dataset", "d", "--source", str(tmp_path / "source.json"), *outputs]
    settings = ["--settings", json.dumps(SETTINGS)]
    monkeypatch.setattr(sys, "argv", ["prepare_dataset.py", *arguments, *settings])
    prepare_dataset.main()
    (kept,) = read_jsonl(tmp_path / "train.jsonl")
    assert kept["messages"][0] == {"role": "user", "content": "你好"}
    assert (tmp_path / "validation.jsonl").read_text() == ""
    paths = [tmp_path / "train.jsonl", tmp_path / "validation.jsonl"]
    assert read_record(tmp_path / "receipt.json")["files"] == file_entries(tmp_path, paths)
    assert "1 rows read, 1 to train" in capsys.readouterr().out
