"""ShareGPT dialogues: the dialects people write, and the one form that is trained on.

A row is one dialogue. Its normal form is

    {"messages": [{"role": ..., "content": text}, ...], "id": sha256, "tools": JSON text if any}

with the roles ms-swift knows: an optional `system` first; then `user`; then `assistant`, or a round
of `tool_call` and `tool` that ends in `assistant`; and so on in turn. Everything else is a `BadRow`
with one of the reasons in `REASONS`.
"""

import ast
import contextlib
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftflow.core.cli import UserError
from sftflow.core.jsonio import canonical, digest

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool_call": "tool_call",
    "function_call": "tool_call",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "observations": "tool",
}

# What may follow what. Neighbours of one role would be merged silently by the trainer.
NEXT = {
    None: {"user"},
    "system": {"user"},
    "user": {"assistant", "tool_call"},
    "assistant": {"user", "tool_call"},
    "tool_call": {"tool_call", "tool"},
    "tool": {"tool", "tool_call", "assistant"},
}

REASONS = {
    "invalid UTF-8": "bytes that are not UTF-8 text, or half of a surrogate pair",
    "invalid JSON": "the line is not one JSON value",
    "not an object": "a JSON value, but not an object",
    "no conversations": "no list of turns under conversations, conversation or messages",
    "unknown role": "a turn without a role, or with a role that no dialect uses",
    "not text": "a turn whose content is not text (an image, a number)",
    "empty turn": "a turn without content",
    "invalid tool call": "a tool call that is not {name, arguments}",
    "system not first": "a system turn after the first turn, or two different system prompts",
    "starts with assistant": "the first turn that is not system is an answer",
    "roles do not alternate": "for example two user turns in a row",
    "no assistant turn": "nothing to learn from",
    "exact duplicate": "the same dialogue has been read before",
}


# Before an element of an array: nothing or a comma; or the array's end.
SEPARATOR = re.compile(r"\s*(]|,?)\s*")


class BadRow(Exception):
    """A row that is not trained on. `reason` is a key of REASONS."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(number, row) for each row of one file; a row that cannot be read comes as its BadRow.

    Numbers start at 1: lines in .jsonl (blank lines do not count), elements in .json and .parquet.
    """
    if path.name.endswith(".parquet"):
        import pyarrow.parquet

        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
            for row in batch.to_pylist():
                yield (number := number + 1), row
        return
    stem = path.name.removesuffix(".gz")
    with gzip.open(path, "rb") if stem != path.name else open(path, "rb") as file:
        if stem.endswith(".json") and starts_array(file):
            yield from enumerate(array_elements(path, file.read()), start=1)
        else:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, parse(line)


def starts_array(file) -> bool:
    head = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
    file.seek(0)
    return head.startswith(b"[")


def array_elements(path: Path, content: bytes) -> Iterator[Any]:
    """The elements of one JSON array, one at a time: the text is in memory, the rows are not."""
    decoder = json.JSONDecoder(parse_constant=no_constant)
    try:
        text = content.decode("utf-8-sig")
        place = text.index("[") + 1
        while end := SEPARATOR.match(text, place):
            if end[1] == "]":
                return
            value, place = decoder.raw_decode(text, end.end())
            yield value
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not one whole JSON array ({error}). Check it, or give one row a line (.jsonl)"
        ) from None


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"), parse_constant=no_constant)
    except UnicodeDecodeError:
        return BadRow("invalid UTF-8")
    except (ValueError, RecursionError):
        return BadRow("invalid JSON")


def normalise(row: Any) -> tuple[dict, bool]:
    """The normal form of a row, and whether a last turn that nobody answers was left out.

    Raises BadRow.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise BadRow("not an object")
    messages = [message for turn in turns_of(row) for message in messages_of(turn)]
    system = row.get("system") or row.get("system_prompt")
    if system is not None and messages and messages[0] != {"role": "system", "content": system}:
        if messages[0]["role"] == "system":
            raise BadRow("system not first")
        messages.insert(0, {"role": "system", "content": text_of(system)})
    answered = check_order(messages)
    result: dict[str, Any] = {"messages": messages[:answered]}
    try:
        if tools := row.get("tools"):
            result["tools"] = tools if isinstance(tools, str) else canonical(tools).decode()
        result["id"] = digest(result)
    except UnicodeEncodeError:
        raise BadRow("invalid UTF-8") from None
    except (ValueError, TypeError, RecursionError):
        raise BadRow("not text") from None
    return result, answered < len(messages)


def turns_of(row: dict) -> list:
    for key in ("messages", "conversations", "conversation"):
        turns = row.get(key)
        if isinstance(turns, str):  # some exports hold the list as JSON text
            turns = parse(turns.encode("utf-8", "surrogatepass"))
        if isinstance(turns, list) and turns:
            return turns
    raise BadRow("no conversations")


def messages_of(turn: Any) -> list[dict]:
    """One turn as messages: several where an answer also calls tools, or holds a whole round."""
    if not isinstance(turn, dict):
        raise BadRow("unknown role")
    name = turn.get("role", turn.get("from"))
    if name is None:
        return round_of(turn)
    role = ROLES.get(name.strip().lower().replace("-", "_")) if isinstance(name, str) else None
    if role is None:
        raise BadRow("unknown role")
    content = turn.get("content", turn.get("value"))
    calls = turn.get("tool_calls") if role == "assistant" else None
    if calls:
        said = [{"role": "assistant", "content": text_of(content)}] if content else []
        return said + tool_calls(calls)
    if role == "tool_call":
        return tool_calls(content)
    if role == "tool" and isinstance(content, dict | list):
        return [{"role": role, "content": json.dumps(content, ensure_ascii=False)}]
    return [{"role": role, "content": text_of(content)}]


def round_of(turn: dict) -> list[dict]:
    """A turn of the form {"human": question, "assistant": answer}."""
    known = [(ROLES[key], text_of(value)) for key, value in turn.items() if key in ROLES]
    if sorted(role for role, _ in known) != ["assistant", "user"]:
        raise BadRow("unknown role")
    return [{"role": role, "content": text} for role, text in sorted(known, reverse=True)]


def tool_calls(content: Any) -> list[dict]:
    """Calls, alone or in a list, as JSON or already read, in the one form that templates parse."""
    calls = literal(content)
    messages = []
    for call in calls if isinstance(calls, list) else [calls]:
        call = literal(call)
        function = literal(call.get("function", call)) if isinstance(call, dict) else None
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        arguments = literal(function.get("arguments", function.get("parameters")))
        if not (name and isinstance(name, str) and isinstance(arguments, dict)):
            raise BadRow("invalid tool call")
        text = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        messages.append({"role": "tool_call", "content": text})
    if not messages:
        raise BadRow("invalid tool call")
    return messages


def literal(value: Any) -> Any:
    """What a text means as JSON (or as Python writes it); anything else as it is."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return read(value)
    return None


def text_of(content: Any) -> str:
    if isinstance(content, list):  # [{"type": "text", "text": ...}, ...]
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise BadRow("not text")
        content = "".join(texts)
    if content is None:
        raise BadRow("empty turn")
    if not isinstance(content, str):
        raise BadRow("not text")
    if not content.strip():
        raise BadRow("empty turn")
    return content


def check_order(messages: list[dict]) -> int:
    """How many messages from the start end in something to learn from. Raises BadRow."""
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise BadRow("system not first")
    turns = roles[1:] if roles[0] == "system" else roles
    if turns and turns[0] in ("assistant", "tool_call"):
        raise BadRow("starts with assistant")
    if "assistant" not in turns and "tool_call" not in turns:
        raise BadRow("no assistant turn")
    previous = None
    for role in turns:
        if role not in NEXT[previous]:
            raise BadRow("roles do not alternate")
        previous = role
    last = max(i for i, role in enumerate(roles) if role in ("assistant", "tool_call"))
    return last + 1


def in_validation(identity: str, seed: int, share: float) -> bool:
    """Which side a dialogue falls on: by its own hash, so other rows never move it."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode()).digest()[:8])
    return number < share * 2**64
