"""Dialogues: no row disappears without a reason, and no row changes what it says."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

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
from support import EVALSCOPE

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
    normal, _ = sharegpt.normalise(raw)
    return [(message["role"], message["content"]) for message in normal["messages"]]


def reason(raw) -> str:
    with pytest.raises(sharegpt.BadRow) as caught:
        sharegpt.normalise(raw)
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
    assert sharegpt.normalise(raw)[0]["id"] == sharegpt.normalise(row(ASK, ANSWER))[0]["id"]


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
    assert json.loads(sharegpt.normalise(raw)[0]["tools"]) == [{"name": "weather"}]


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
    normal, shortened = sharegpt.normalise(row(ASK, ANSWER, ASK))
    assert shortened and len(normal["messages"]) == 2


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


# --- what is dropped, and why --------------------------------------------------------------------

BAD = {
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


@pytest.mark.parametrize("expected", BAD)
def test_each_reason_has_its_row(expected):
    assert reason(BAD[expected]) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"conversations": [', "invalid JSON"),
        (b'{"conversations": NaN}', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b"1" * 10_000, "invalid JSON"),
        (b'{"conversations": "\xff"}', "invalid UTF-8"),
    ],
)
def test_lines_that_cannot_be_read(line, expected):
    assert reason(sharegpt.parse(line)) == expected


def test_two_different_system_prompts_are_not_chosen_between():
    both = row({"from": "system", "value": "A"}, ASK, ANSWER, system="B")
    assert reason(both) == "system not first"


def test_every_reason_is_explained():
    told = {*BAD, "invalid JSON", "exact duplicate"}
    assert told == set(sharegpt.REASONS)


# --- files ---------------------------------------------------------------------------------------


def test_files_of_every_form_hold_the_same_rows(tmp_path):
    rows = [row(ASK, {"from": "gpt", "value": f"{i} — 心理学"}) for i in range(50)]
    lines = "\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    array = json.dumps(rows, ensure_ascii=False, indent=1)
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines, encoding="utf-8")
    (tmp_path / "b.json").write_text(array, encoding="utf-8")
    (tmp_path / "c.json").write_text(lines, encoding="utf-8")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for path in sorted(tmp_path.iterdir()):
        assert [r for _, r in sharegpt.read_rows(path)] == rows, path.name


@pytest.mark.skipif(not EVALSCOPE.exists(), reason="envs/evalscope is not synced")
@pytest.mark.slow
def test_parquet_holds_the_same_rows(tmp_path):
    code = """
import json, sys; from pathlib import Path
sys.path.insert(0, sys.argv[1])
import pyarrow, pyarrow.parquet
from sftflow.inputs import sharegpt
rows, path = json.loads(sys.argv[3]), Path(sys.argv[2])
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
print(json.dumps([sharegpt.normalise(row)[0]["id"] for _, row in sharegpt.read_rows(path)]))
"""
    rows = [row(ASK, {"from": "gpt", "value": f"{i}"}) for i in range(3)]
    scripts = Path(prepare_dataset.__file__).parent
    command = [EVALSCOPE, "-c", code, scripts, tmp_path / "rows.parquet", json.dumps(rows)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(found) == [sharegpt.normalise(r)[0]["id"] for r in rows]


def test_a_broken_file_is_an_error_that_names_it(tmp_path):
    name = "rows.jsonl.gz"
    (tmp_path / name).write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-20])
    with pytest.raises(UserError, match=name):
        list(prepare_dataset.located_rows(tmp_path, [name]))


@pytest.mark.parametrize("end", ["", ",", ', {"a": '])
def test_an_array_that_is_cut_short_is_an_error(tmp_path, end):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row(ASK, ANSWER)])[:-1] + end, encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.json"):
        list(sharegpt.read_rows(path))


# --- the program ---------------------------------------------------------------------------------


def prepare(folder: Path, lines: list[bytes] | list[dict], **settings) -> dict:
    """Run prepare over lines as the program does; the outputs lie in `folder`."""
    source = folder / "source.jsonl"
    data = [
        r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in lines
    ]
    source.write_bytes(b"\n".join(data))
    rows = prepare_dataset.located_rows(folder, [source.name])
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
    (tmp_path / "a.jsonl").write_text("{\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(row(ASK, ANSWER)) + "\n{\n")
    found = prepare_dataset.located_rows(tmp_path, ["a.jsonl", "b.jsonl"])
    assert [where for where, _ in found] == ["a.jsonl:1", "b.jsonl:1", "b.jsonl:2"]


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


# --- whatever comes ------------------------------------------------------------------------------


def anything(chance: random.Random, depth: int = 0):
    """A random JSON value, of the kinds that turn up where a dialogue was meant."""
    scalar = [None, True, -1, 2.5, "", " ", "x", "\ud83d", "a" * 50, "system", "gpt", "human"]
    kind = chance.randrange(4 if depth < 3 else 2)
    if kind < 2:
        return chance.choice(scalar)
    if kind == 2:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    keys = ["from", "value", "role", "content", "tool_calls", "function", "human", "gpt", "tools"]
    return {chance.choice(keys): anything(chance, depth + 1) for _ in range(chance.randrange(4))}


def malformed(chance: random.Random) -> bytes:
    """One line that is damaged in one of many ways."""
    turns = [
        {
            "from": chance.choice(["human", "gpt", "system", "tool", "function_call", None]),
            "value": "t",
        },
        *({**ASK}, {**ANSWER}),
    ]
    chance.shuffle(turns)
    turn = chance.choice(turns)
    turn[chance.choice(["from", "value", "role", "content", "tool_calls"])] = anything(chance)
    raw = row(*turns, system=anything(chance), tools=anything(chance))
    if chance.random() < 0.3:
        raw[chance.choice(["conversations", "messages", "system"])] = anything(chance)
    line = json.dumps(raw).encode()
    damage = chance.randrange(6)
    if damage == 0:
        line = line[: chance.randrange(len(line))]
    elif damage == 1:
        place = chance.randrange(len(line))
        line = line[:place] + bytes([chance.randrange(256)]) + line[place + 1 :]
    elif damage == 2:
        line = json.dumps(anything(chance)).encode()
    return line.replace(b"\n", b"") or b"0"


def test_two_thousand_malformed_rows_are_all_accounted_for(tmp_path):
    chance = random.Random(0)
    lines = [malformed(chance) for _ in range(2000)] + [json.dumps(row(ASK, ANSWER)).encode()]
    counts = prepare(tmp_path, lines)
    blank = sum(not line.strip() for line in lines)
    dropped = sum(entry["count"] for entry in counts["dropped"].values())
    assert counts["rows_read"] == len(lines) - blank
    assert counts["rows_read"] == counts["rows_kept"] + dropped
    assert set(counts["dropped"]) <= set(sharegpt.REASONS)
    assert len(counts["dropped"]) >= 10  # the rows are as different as they should be
    kept = list(read_jsonl(tmp_path / "train.jsonl"))
    assert len(kept) == counts["train_rows"]
    for each in kept:  # what is kept is what ms-swift keeps
        roles = [message["role"] for message in each["messages"]]
        assert all(message["content"].strip() for message in each["messages"])
        assert "system" not in roles[1:] and roles[-1] in ("assistant", "tool_call")
