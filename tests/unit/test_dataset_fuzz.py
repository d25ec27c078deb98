"""Whatever comes: every row is kept or has its reason, every file is read whole or refused."""

import copy
import json
import random
from collections import Counter
from pathlib import Path

import prepare_dataset
import pytest
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_jsonl
from sftflow.inputs import sharegpt

SETTINGS = {
    "on_bad_rows": "drop", "max_bad_share": 1.0, "validation_share": 0.0, "split_seed": 42,
}  # fmt: skip
GOOD = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
TOOL = {"name": "look", "description": "x", "parameters": {}}
CALL = {"name": "look", "arguments": {}}
SCALARS = [
    None, True, False, 0, -1, 2.5, float("nan"), "", " ", "x", "\ud83d", "a" * 50, "system", "gpt",
    "human", "<image>", "<think>", "not json", "[]", "{}", "null", json.dumps([TOOL]),
    f"<tool_call>{json.dumps(CALL)}</tool_call>", "<tool_response>r</tool_response>",
]  # fmt: skip
KEYS = [
    *sharegpt.TURNS, *sharegpt.SPEAKER, *sharegpt.SAID, *sharegpt.SYSTEM, *sharegpt.TOOLS,
    *sharegpt.QUESTION, *sharegpt.ANSWER, *sharegpt.LOSS, *sharegpt.REASONING, *sharegpt.MEDIA,
    *sharegpt.PREFERENCE, "history", "tool_calls", "function_call", "tool_call_id", "id", "label",
    "function", "name", "arguments", "type", "human", "gpt", "emotion", "chat_template_kwargs",
]  # fmt: skip


def anything(chance: random.Random, depth: int = 0):
    """A random JSON value, of the kinds that turn up where a dialogue was meant."""
    kind = chance.randrange(4 if depth < 3 else 2)
    if kind < 2:
        return chance.choice(SCALARS)
    if kind == 2:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS): anything(chance, depth + 1) for _ in range(chance.randrange(4))}


def dialogue(chance: random.Random) -> dict:
    """A row that is right, in one of the forms that are taken."""
    mark = str(chance.random())
    turns = [{"from": "human", "value": mark}, {"from": "gpt", "value": "a"}]
    form = chance.randrange(6)
    if form == 0:
        return {"instruction": mark, "input": "", "output": "a", "history": [["q", "a"]]}
    if form == 1:
        return {"conversation": [{"system": "s", "input": mark, "output": "a"}] * 2}
    if form == 2:
        calls = [{"id": "1", "function": {"name": "look", "arguments": "{}"}}]
        turns = [
            {"role": "user", "content": mark},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "1", "content": ""},
            {"role": "assistant", "content": "a"},
        ]
        return {"messages": turns, "tools": [TOOL]}
    if form == 3:
        calls = {"from": "gpt", "value": f"<tool_call>{json.dumps(CALL)}</tool_call>"}
        return {"conversations": [turns[0], calls, {"from": "tool", "value": "r"}, turns[1]]}
    if form == 4:
        masked = [*turns[:1], {**turns[1], "loss": False, "reasoning_content": "r"}]
        return {"conversations": masked + turns, "system": "s"}
    return {"conversations": turns}


def damaged(chance: random.Random) -> bytes:
    """One line: a good row of which something is changed, or the text of which is."""
    row = copy.deepcopy(dialogue(chance))
    for _ in range(chance.randrange(4)):
        holders = [row, *(t for v in row.values() if isinstance(v, list) for t in v)]
        holder = chance.choice([each for each in holders if isinstance(each, dict)])
        key = chance.choice([*holder, *KEYS])
        if chance.random() < 0.2:
            holder.pop(key, None)
        else:
            holder[key] = anything(chance)
    line = json.dumps(row).encode()
    damage = chance.randrange(12)
    if damage == 0:
        line = line[: chance.randrange(len(line))]
    elif damage == 1:
        place = chance.randrange(len(line))
        line = line[:place] + bytes([chance.randrange(256)]) + line[place + 1 :]
    elif damage == 2:
        line = json.dumps(anything(chance)).encode()
    return line.replace(b"\n", b"") or b"0"


def prepared(folder: Path, content: bytes, name: str = "rows.jsonl", **settings) -> dict:
    (folder / name).write_bytes(content)
    rows = prepare_dataset.located_rows(folder, [name], {})
    outputs = folder / "train.jsonl", folder / "validation.jsonl"
    return prepare_dataset.prepare(rows, *outputs, SETTINGS | settings)


@pytest.mark.parametrize(
    "wanted",
    [{}, pytest.param({"reasoning": "drop", "same_speaker": "join"}, marks=pytest.mark.slow)],
)
def test_eight_thousand_rows_are_all_accounted_for(tmp_path, wanted):
    chance = random.Random(0)
    lines = [json.dumps(GOOD).encode(), *(damaged(chance) for _ in range(8000))]
    counts = prepared(tmp_path, b"\n".join(lines), **wanted)
    dropped = sum(entry["count"] for entry in counts["dropped"].values())
    assert counts["rows_read"] == sum(bool(line.strip()) for line in lines)
    assert counts["rows_read"] == counts["rows_kept"] + dropped
    assert set(counts["dropped"]) <= set(sharegpt.REASONS)
    assert len(counts["dropped"]) >= 18  # the rows are as different as they should be
    assert 500 < counts["rows_kept"] < 7000
    kept = list(read_jsonl(tmp_path / "train.jsonl"))
    assert len(kept) == len({row["id"] for row in kept}) == counts["train_rows"]
    for row in kept:  # what is kept is what ms-swift keeps
        assert row.keys() <= {"messages", "id", "tools"}
        roles = [message["role"] for message in row["messages"]]
        assert "system" not in roles[1:] and roles[-1] in ("assistant", "tool_call")
        assert roles[roles[0] == "system"] == "user"
        for message in row["messages"]:
            assert message.keys() <= {"role", "content", "loss"}
            assert message["role"] == "tool" or message["content"].strip()
            assert message.get("loss", False) is False
        assert "loss" not in row["messages"][-1]
        assert json.loads(row["tools"]) if "tools" in row else True


def test_every_word_of_a_kept_row_was_in_the_row_and_every_question_is_kept(tmp_path):
    chance = random.Random(1)
    for _ in range(500):
        row = dialogue(chance)
        made = sharegpt.normalise(json.loads(json.dumps(row))).row
        said = Counter(message["role"] for message in made["messages"])
        assert said["assistant"] >= 1 and said["user"] >= 1
        mark = next(part for part in json.dumps(row).split('"') if part.startswith("0."))
        assert mark in json.dumps(made)


def test_three_hundred_damaged_files_are_read_whole_or_refused(tmp_path):
    """Of each the number of dialogues that were written is known: none may go unseen."""
    chance = random.Random(2)
    outcomes: Counter[str] = Counter()
    for _ in range(300):
        rows = [dialogue(chance) for _ in range(chance.randrange(1, 6))]
        texts = [json.dumps(row, indent=chance.choice([None, None, 1])) for row in rows]
        opening, glue, closing = chance.choice(
            [("", "\n", ""), ("[", ",", "]"), ("[", ",\n", "]\n"), ("[", "\n", "]"),
             ("", ",\n", ""), ("", "", ""), ("[", ",", ""), ("[", "]\n[", "]"), ("[", ",", "] x"),
             ('{"data": [', ",", "]}"), ('{"data": [', ",", "]"), ("[", ",", ",]"),
             ("\ufeff[", ", ", "]")],
        )  # fmt: skip
        content = (opening + glue.join(texts) + closing).encode()
        try:
            counts = prepared(tmp_path, content, chance.choice(["a.json", "a.jsonl"]))
        except UserError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        unreadable = counts["dropped"].get("invalid JSON", {"count": 0})["count"]
        assert counts["rows_kept"] == len(rows) or unreadable, content
    assert outcomes["refused"] > 50 and outcomes["read"] > 50
