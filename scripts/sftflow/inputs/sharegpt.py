"""Dialogues: the forms people write them in, and the one form that is trained on.

A row is one dialogue. Its normal form is

    {"messages": [{"role": ..., "content": text, "loss"?: false}, ...], "id": sha256,
     "tools"?: JSON text}

with the roles ms-swift knows: an optional `system` first; then `user`; then `assistant`, or a round
of `tool_call` and `tool` that ends in `assistant`; and so on in turn. `loss: false` marks an answer
that is read but not learnt. What a row says is carried, or the row is a `BadRow` with one of the
reasons in `REASONS`; fields that say nothing to the trainer are counted by name.
"""

import ast
import contextlib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sftflow.core.jsonio import canonical, digest
from sftflow.inputs import lengths

# Names of a speaker, as lower case with underscores.
ROLES = {
    "system": "system",
    "developer": "system",
    **dict.fromkeys(
        ("human", "user", "prompter", "client", "patient", "seeker", "help_seeker", "speaker"),
        "user",
    ),
    **dict.fromkeys(("用户", "来访者", "求助者", "患者", "咨询者"), "user"),
    **dict.fromkeys(
        ("gpt", "assistant", "bot", "chatgpt", "model", "ai", "counselor", "counsellor"),
        "assistant",
    ),
    **dict.fromkeys(("therapist", "supporter", "listener", "doctor"), "assistant"),
    **dict.fromkeys(("助手", "助理", "咨询师", "心理咨询师", "支持者", "医生"), "assistant"),
    **dict.fromkeys(("tool_call", "function_call"), "tool_call"),
    **dict.fromkeys(
        ("tool", "tool_response", "function", "function_response", "observation", "observations"),
        "tool",
    ),
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
    "no conversations": "neither turns (messages, conversations, conversation, dialog) nor a "
    "question with its answer (instruction and output, query and response, and the like)",
    "ambiguous fields": "two fields that could be the dialogue, its question, or its answer",
    "preference data": "a refused answer or a judgement (rejected, chosen, kto_tag, label: "
    "true/false), which this training cannot learn from",
    "template settings": "chat_template_kwargs of a row's own",
    "unknown role": "a turn without a role, or with a role that no dialect uses",
    "not text": "a turn whose content is not text (an image, a number), or media beside the turns",
    "empty turn": "a turn without content",
    "reasoning": "reasoning beside an answer, and the dataset's key reasoning is refuse; or beside "
    "another reasoning",
    "loss not carried": "a turn's loss, loss_scale, weight or train that is neither 0 nor 1, or is "
    "1 where the model does not speak",
    "nothing trained": "every answer is left out of the loss",
    "invalid tool call": "a tool call that is not {name, arguments}",
    "invalid tools": "tools that are not a JSON list of functions with names",
    "tool result without call": "assistant → tool: a tool's answer that no tool call precedes",
    "system not first": "a system turn after the first turn, or two different system prompts",
    "starts with assistant": "the first turn that is not system is an answer",
    "roles do not alternate": "for example two user turns in a row (same_speaker: join makes one "
    "turn of them)",
    "no assistant turn": "nothing to learn from",
    "exact duplicate": "the same dialogue has been read before",
}

# Fields of a row, or of a turn, by what they mean.
TURNS = ("messages", "conversations", "conversation", "dialog", "dialogue")
SPEAKER = ("role", "from", "speaker")
SAID = ("content", "value", "text", "utterance")
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools", "functions")
QUESTION = ("instruction", "input", "query", "prompt", "question", "problem", "context")
ANSWER = (
    "output", "response", "answer", "completion", "solution", "target", "targets", "content",
)  # fmt: skip
LOSS = ("loss", "loss_scale", "weight", "train", "trainable", "output_with_loss")
DETAIL = ("train_detail", "training_detail")
REASONING = ("reasoning_content", "reasoning", "thinking")
MEDIA = ("images", "image", "image_url", "videos", "video", "audios", "audio", "objects", "bbox")
PREFERENCE = (
    "rejected", "rejected_response", "rejected_messages", "chosen", "kto_tag",
    "positive_messages", "negative_messages",
)  # fmt: skip
ROUND = ROLES | {"input": "user", "query": "user", "question": "user", "prompt": "user"}
ROUND |= {"output": "assistant", "response": "assistant", "answer": "assistant"}

USED = {
    "assistant": {*REASONING, "tool_calls", "function_call"},
    "tool": {"tool_call_id"},
}  # of a turn, beside those of every turn
PLAIN = frozenset((*SPEAKER, *SAID))
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
RESULT = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)


class BadRow(Exception):
    """A row that is not trained on. `reason` is a key of REASONS."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass
class Dialogue:
    """One row in its normal form, and what was done to it.

    form: how it was written (a key of FORMS); ignored: fields that were not used; counts of answers
    with reasoning, of masked answers and of turns joined to the one before; shortened: turns after
    the last answer that is learnt were left out.
    """

    form: str = ""
    row: dict = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    reasoning: int = 0
    masked: int = 0
    joined: int = 0
    shortened: bool = False


FORMS = {
    "turns": "a list of turns, each with a speaker (role, from, speaker) and what is said "
    "(content, value, text)",
    "rounds": "a list of rounds, each a question with its answer (xtuner's system, input, output)",
    "pair": "a question and its answer in two fields, with history and system if there are any",
}


def normalise(raw: Any, reasoning: str = "keep", same_speaker: str = "drop") -> Dialogue:
    """A row in its normal form. Raises BadRow.

    reasoning: keep (as <think>…</think> before the answer), drop, or refuse. same_speaker: whether
    neighbours of one speaker join, or drop the row.
    """
    if isinstance(raw, BadRow):
        raise raw
    try:
        return normalised(raw, reasoning, same_speaker)
    except UnicodeEncodeError:
        raise BadRow("invalid UTF-8") from None
    except RecursionError:
        raise BadRow("not text") from None


def normalised(raw: Any, reasoning: str, same_speaker: str) -> Dialogue:
    if is_turns(raw):
        raw = {"messages": raw}
    if not isinstance(raw, dict):
        raise BadRow("not an object")
    row = {key: value for key, value in raw.items() if stated(value)}
    made = Dialogue()
    check_fields(row)
    messages = read_messages(raw, row, made, reasoning)
    messages = with_results(with_calls(messages))
    messages = with_system(row, messages)
    if same_speaker == "join":
        messages = join(messages, made)
    learnt = check_order(messages)
    made.shortened = learnt < len(messages)
    made.masked = sum("loss" in message for message in messages[:learnt])
    made.row = {"messages": messages[:learnt]}
    if tools := tools_of(row):
        made.row["tools"] = tools
    made.row["id"] = digest(made.row)
    return made


def stated(value: Any) -> bool:
    """Whether a field says anything: exports fill fields that a row lacks with null or nothing."""
    return value is not None and value != [] and value != {} and not blank(value)


def no_value(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in ("null", "none"))


def blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def is_turn(value: Any) -> bool:
    """Whether an object is one turn, rather than a row."""
    return (
        isinstance(value, dict)
        and any(isinstance(value.get(key), str) for key in SPEAKER)
        and any(key in value for key in (*SAID, "tool_calls", "function_call"))
        and not any(key in value for key in TURNS)
    )


def is_turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_row(value: Any) -> bool:
    """Whether an object has the fields of one dialogue, whatever they hold."""
    if not isinstance(value, dict):
        return is_turns(value)
    names = {key.lower() for key in value if isinstance(key, str)}
    return bool(names & {*TURNS}) or bool(names & {*QUESTION} and names & {*ANSWER})


def check_fields(row: dict) -> None:
    """Raise BadRow for a field that changes what a row means and can't be carried."""
    if any(row.get(key) for key in MEDIA):
        raise BadRow("not text")
    if any(key in row for key in PREFERENCE) or isinstance(row.get("label"), bool):
        raise BadRow("preference data")
    if "chat_template_kwargs" in row:
        raise BadRow("template settings")
    if asked_to_learn(row) is False:
        raise BadRow("nothing trained")


# --- from fields to messages ----------------------------------------------------------------------


def read_messages(raw: dict, row: dict, made: Dialogue, mode: str) -> list[dict]:
    """Messages with their roles, not yet in order. A call and its result keep their `id` here."""
    found = {key: turns for key in TURNS if (turns := turns_in(row.get(key)))}
    if not found:
        return pair(raw, row, made, mode)
    turns, *others = found.values()
    if any(other != turns for other in others):
        raise BadRow("ambiguous fields")
    made.ignored |= row.keys() - {*found, *SYSTEM, *TOOLS, *LOSS}
    messages = read_turns(turns, made, mode)
    thought = reasoning_in(row)
    if thought:
        made.ignored -= {*REASONING}
        answers = [message for message in messages if message["role"] == "assistant"]
        if len(answers) != 1:
            raise BadRow("reasoning")
        answers[0]["content"] = thinking(answers[0]["content"], thought, made, mode)
    return messages


def turns_in(value: Any) -> list:
    """The turns that a field holds, as a list or as its text; [] if it holds none."""
    value = literal(value) if isinstance(value, str) else value
    return value if isinstance(value, list) else []


def read_turns(turns: list, made: Dialogue, mode: str) -> list[dict]:
    messages: list[dict] = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise BadRow("unknown role")
        name = first(turn, SPEAKER)
        made.form = made.form or ("rounds" if name is None else "turns")
        if name is None:
            messages += read_round(turn, messages[:1], made, mode)
        else:
            messages += read_turn(turn, role_of(name), made, mode)
    return messages


def first(holder: dict, keys: Iterable[str]) -> Any:
    return next((holder[key] for key in keys if holder.get(key) is not None), None)


def role_of(name: Any) -> str:
    role = ROLES.get(re.sub(r"[\s-]", "_", name.strip().lower())) if isinstance(name, str) else None
    if role is None:
        raise BadRow("unknown role")
    return role


def read_turn(turn: dict, role: str, made: Dialogue, mode: str) -> list[dict]:
    """One turn as messages: several where an answer also calls tools."""
    content = first(turn, SAID)
    more = {key for key in turn.keys() - PLAIN if stated(turn[key])}
    if len(turn) > 2 and any(turn.get(key, content) not in (content, None) for key in SAID):
        raise BadRow("ambiguous fields")
    if any(turn[key] for key in more & {*MEDIA}):
        raise BadRow("not text")
    mask = mask_of(turn, role) if more else {}
    used = {*LOSS} | USED.get(role, set())
    made.ignored |= {f"turn.{key}" for key in more - used}
    if role == "tool":
        return [{"role": role, "content": result_text(content), **named(turn, "tool_call_id")}]
    if role == "tool_call":
        return [message | mask for message in tool_calls(content)]
    if role != "assistant":
        text = text_of(content) if role == "user" or stated(content) else ""
        return [{"role": role, "content": text}] if text else []
    thought, content = apart(content)
    thought = (reasoning_in(turn) if more else "") or thought
    calls = first(turn, ("tool_calls", "function_call")) if more else None
    said = "" if calls and not stated(content) else text_of(content)
    said = thinking(said, thought, made, mode) if thought else said
    messages = [{"role": role, "content": said}] if said else []
    return [message | mask for message in messages + (tool_calls(calls) if calls else [])]


def read_round(turn: dict, before: list[dict], made: Dialogue, mode: str) -> list[dict]:
    """A turn of the form {"system"?: prompt, "human": question, "assistant": answer}.

    A system prompt that only repeats the first message is left out.
    """
    known = {key: ROUND[key] for key in turn if key in ROUND and turn[key] is not None}
    if sorted(role for role in known.values() if role != "system") != ["assistant", "user"]:
        raise BadRow("unknown role")
    more = {key: turn[key] for key in turn if key not in {*known, *PLAIN}}
    messages: list[dict] = []
    for role in ("system", "user", "assistant"):
        for key in (key for key, its in known.items() if its == role):
            own = more if role == "assistant" else {}
            messages += read_turn({"value": turn[key], **own}, role, made, mode)
    repeated = messages[0]["role"] == "system" and messages[:1] == before
    return messages[1:] if repeated else messages


def pair(raw: dict, row: dict, made: Dialogue, mode: str) -> list[dict]:
    """A question and its answer, each in a field of its own; the rounds before them in `history`.

    As ms-swift has it: alpaca's input follows its instruction on a line of its own.
    """
    made.form = "pair"
    names = {key.lower(): key for key in row if isinstance(key, str)}
    questions = [key for key in QUESTION if key in names]
    answers = [key for key in ANSWER if key in names]
    asked = {key.lower() for key in raw if isinstance(key, str)}
    if not questions or not answers:
        whole = asked & {*QUESTION} and asked & {*ANSWER}
        raise BadRow("empty turn" if whole else "no conversations")
    fields = [key for key in row if isinstance(key, str) and key.lower() in (*QUESTION, *ANSWER)]
    one_each = len(answers) == 1 and (len(questions) == 1 or questions == ["instruction", "input"])
    if not one_each or len(fields) > len(questions) + 1:
        raise BadRow("ambiguous fields")
    used = {names[key] for key in (*questions, *answers)}
    made.ignored |= row.keys() - {*used, *SYSTEM, *TOOLS, *LOSS, *REASONING, "history"}
    if any(isinstance(row[key], list) and is_texts(row[key]) for key in used):
        raise BadRow("ambiguous fields")
    messages = history(row.get("history"), made, mode)
    question = row[names[questions[0]]]
    if is_turns(question):
        messages += read_turns(question, made, mode)
    else:
        text = "\n".join(text_of(row[names[key]]) for key in questions)
        messages.append({"role": "user", "content": text})
    answer = row[names[answers[0]]]
    if is_turns(answer):
        return messages + read_turns(answer, made, mode)
    own = {key: row[key] for key in REASONING if key in row}
    return messages + read_turn({"value": answer, **own}, "assistant", made, mode)


def is_texts(values: list) -> bool:
    """Whether a list holds several texts, of which one would be the right one."""
    return len(values) > 1 and all(isinstance(value, str) for value in values)


def history(value: Any, made: Dialogue, mode: str) -> list[dict]:
    """What was said before: [[question, answer], ...], rounds or turns; also as their text."""
    rounds = literal(value)
    if not stated(rounds) and (rounds is not None or no_value(value)):
        return []
    if isinstance(rounds, list) and all(isinstance(each, dict) for each in rounds):
        return read_turns(rounds, made, mode)
    if not isinstance(rounds, list):
        raise BadRow("not text")
    messages = []
    for each in rounds:
        if not isinstance(each, list | tuple) or len(each) != 2:
            raise BadRow("not text")
        messages += [
            {"role": role, "content": text_of(text)}
            for role, text in zip(("user", "assistant"), each, strict=True)
        ]
    return messages


def mask_of(turn: dict, role: str) -> dict:
    """{"loss": False} for an answer that is not learnt, else {}."""
    asked = asked_to_learn(turn)
    if asked and role not in ("assistant", "tool_call"):
        raise BadRow("loss not carried")
    return {"loss": False} if asked is False and role in ("assistant", "tool_call") else {}


def asked_to_learn(holder: dict) -> bool | None:
    """What a turn, or a row, says of its loss; None if nothing.

    ms-swift drops a loss_scale between 0 and 1 without a word unless every row is scaled.
    """
    said = {holder[key] for key in LOSS if isinstance(holder.get(key), bool | int | float)}
    other = any(stated(holder.get(key)) and not isinstance(holder[key], bool | int | float)
                for key in LOSS)  # fmt: skip
    if other or not said <= {0, 1} or len(said) > 1 or any(holder.get(key) for key in DETAIL):
        raise BadRow("loss not carried")
    return bool(said.pop()) if said else None


def reasoning_in(holder: dict) -> str:
    """What is thought beside an answer; "" if nothing."""
    found = {text_of(holder[key]) for key in REASONING if stated(holder.get(key))}
    if len(found) > 1:
        raise BadRow("reasoning")
    return found.pop() if found else ""


def apart(content: Any) -> tuple[str, Any]:
    """(the thinking parts of a content that has parts, the others)."""
    if not isinstance(content, list):
        return "", content
    kinds = ("thinking", "reasoning")
    thoughts = [p for p in content if isinstance(p, dict) and p.get("type") in kinds]
    others = [part for part in content if part not in thoughts]
    texts = [first(part, ("thinking", "reasoning", "text")) for part in thoughts]
    return (text_of(texts) if texts else ""), others


def thinking(said: str, thought: str, made: Dialogue, mode: str) -> str:
    """An answer with its reasoning before it, as templates that think write it."""
    if mode == "refuse" or ("<think>" in said and thought.strip() not in said):
        raise BadRow("reasoning")
    made.reasoning += 1
    if "<think>" in said:  # it says so itself
        return said
    return said if mode == "drop" else f"<think>\n{thought.strip()}\n</think>\n\n{said}"


def text_of(content: Any) -> str:
    if isinstance(content, list):  # [{"type": "text", "text": ...}, ...]
        parts = [text_part(part) if isinstance(part, dict) else part for part in content]
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


def text_part(part: dict) -> Any:
    """The text of a part of a content; None for a picture, whatever stands beside it."""
    kind = part.get("type")
    return part.get("text") if kind is None or kind in TEXT_PARTS else None


TEXT_PARTS = ("text", "input_text", "output_text")


# --- tools ----------------------------------------------------------------------------------------


def tool_calls(content: Any) -> list[dict]:
    """Calls, alone or in a list, as JSON or already read, in the one form that templates parse."""
    calls = literal(content)
    messages = []
    for call in calls if isinstance(calls, list) else [calls]:
        call = literal(call)
        function = literal(call.get("function", call)) if isinstance(call, dict) else None
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        arguments = first(function, ("arguments", "parameters"))
        arguments = {} if arguments is None or blank(arguments) else literal(arguments)
        if not (name and isinstance(name, str) and isinstance(arguments, dict)):
            raise BadRow("invalid tool call")
        text = as_json({"name": name, "arguments": arguments}, "invalid tool call")
        messages.append({"role": "tool_call", "content": text, **named(call, "id")})
    if not messages:
        raise BadRow("invalid tool call")
    return messages


def named(holder: dict, key: str) -> dict:
    """{"id": the name of a call, or of the call that a result answers}; {} if it has none."""
    return {"id": holder[key]} if isinstance(holder.get(key), str) else {}


def result_text(content: Any) -> str:
    """What a tool answered; it may be nothing."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and content and all(isinstance(p, dict) for p in content):
        kinds = [part.get("type") for part in content]
        if any(kind in MEDIA for kind in kinds):
            raise BadRow("not text")
        if all(kind in TEXT_PARTS for kind in kinds):
            return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return as_json(content, "not text")


def as_json(value: Any, reason: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise BadRow(reason) from None


def literal(value: Any) -> Any:
    """What a text means as JSON (or as Python writes it); anything else as it is."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return read(value)
    return None


def with_calls(messages: list[dict]) -> list[dict]:
    """Answers that write their calls as text (Hermes) as calls, where a tool's answer follows.

    Without one, the text stays text: it trains the same.
    """
    made: list[dict] = []
    for message, following in zip(messages, [*messages[1:], {}], strict=False):
        calls = message["role"] == "assistant" and following.get("role") == "tool"
        if not calls or "<tool_call>" not in message["content"]:
            made.append(message)
            continue
        said, *rest = parts(CALL, message["content"])
        if not rest or any(part.strip() for part in rest[1::2]):
            raise BadRow("invalid tool call")
        mask = {key: message[key] for key in ("loss",) if key in message}
        made += [{**message, "content": said}] if said.strip() else []
        made += [each | mask | {"hermes": True} for call in rest[::2] for each in tool_calls(call)]
    return made


def with_results(messages: list[dict]) -> list[dict]:
    """Results behind the calls that they answer, in the order of the calls; marks taken off."""
    made: list[dict] = []
    place = 0
    while place < len(messages):
        role = messages[place]["role"]
        end = place + 1
        while role in ("tool_call", "tool") and end < len(messages):
            if messages[end]["role"] != role:
                break
            end += 1
        group = messages[place:end]
        if role == "tool" and made:
            order = {call.get("id"): number for number, call in enumerate(calls_before(made))}
            ids = [message.get("id") for message in group]
            if None not in order and len(order) == len(ids) and set(ids) == order.keys():
                group = sorted(group, key=lambda message: order[message["id"]])
            if made[-1].get("hermes"):
                group = [part for message in group for part in results(message)]
        made += group
        place = end
    return [
        {key: value for key, value in message.items() if key not in ("id", "hermes")}
        for message in made
    ]


def calls_before(messages: list[dict]) -> list[dict]:
    """The calls that a list of messages ends in."""
    count = len(messages)
    while count and messages[count - 1]["role"] == "tool_call":
        count -= 1
    return messages[count:]


def results(message: dict) -> list[dict]:
    """A tool turn without Hermes' marks, which the template writes itself."""
    content = message["content"]
    found = parts(RESULT, content)
    if any(part.strip() for part in found[::2]) or not content.strip():
        return [message]
    return [{**message, "content": text.strip()} for text in found[1::2]]


def parts(pattern: re.Pattern, text: str) -> list[str]:
    """`pattern.split`, in a time that grows with the text: what follows the last end of a mark is
    not looked through, from every beginning in it, for another."""
    end = pattern.pattern.rpartition(")")[2]
    last = text.rfind(end) + len(end) if end in text else 0
    *before, rest = pattern.split(text[:last])
    return [*before, rest + text[last:]]


def tools_of(row: dict) -> str | None:
    """The functions that a dialogue may call, as JSON text; None if there are none."""
    given = [row[key] for key in TOOLS if key in row]
    read = [literal(tools) for tools in given]
    if all(not stated(tools) for tools in read) and all(
        tools is not None or no_value(text) for tools, text in zip(read, given, strict=True)
    ):
        return None
    if len(read) > 1 and read[0] != read[1]:
        raise BadRow("ambiguous fields")
    tools = read[0] if isinstance(read[0], list) else [read[0]]
    if not all(is_function(tool) for tool in tools):
        raise BadRow("invalid tools")
    try:
        text = canonical(read[0]).decode()
    except UnicodeEncodeError:
        raise
    except (ValueError, TypeError, RecursionError):
        raise BadRow("invalid tools") from None
    return given[0] if isinstance(given[0], str) else text


def is_function(tool: Any) -> bool:
    tool = literal(tool)
    tool = tool.get("function", tool) if isinstance(tool, dict) else None
    name = first(tool, ("name", "name_for_model")) if isinstance(tool, dict) else None
    return isinstance(name, str) and bool(name.strip())


# --- the order of messages ------------------------------------------------------------------------


def with_system(row: dict, messages: list[dict]) -> list[dict]:
    """The system prompt first, however often it is given; two that differ are not chosen from."""
    spoken = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    given = [message["content"] for message in messages[:spoken]]
    given += [text_of(row[key]) for key in SYSTEM if key in row]
    if len({text.strip() for text in given}) > 1:
        raise BadRow("system not first")
    return [{"role": "system", "content": text} for text in given[:1]] + messages[spoken:]


def join(messages: list[dict], made: Dialogue) -> list[dict]:
    """Neighbours of one speaker as one turn, a line each; not if only one of them is learnt."""
    out: list[dict] = []
    for message in messages:
        last = out[-1] if out else {}
        same = last.get("role") == message["role"] in ("user", "assistant")
        if same and last.get("loss") == message.get("loss"):
            text = f"{last['content'].rstrip()}\n{message['content']}"
            out[-1] = {**last, "content": text}
            made.joined += 1
        else:
            out.append(message)
    return out


def check_order(messages: list[dict]) -> int:
    """How many messages from the start end in something to learn. Raises BadRow."""
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise BadRow("system not first")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns and turns[0] in ("assistant", "tool_call"):
        raise BadRow("starts with assistant")
    if "assistant" not in turns and "tool_call" not in turns:
        raise BadRow("no assistant turn")
    previous = None
    for role in turns:
        if previous == "assistant" and role == "tool":
            raise BadRow("tool result without call")
        if role not in NEXT[previous]:
            raise BadRow("roles do not alternate")
        previous = role
    if not (end := lengths.learnt(messages)):
        raise BadRow("nothing trained")
    return end


def in_validation(identity: str, seed: int, share: float) -> bool:
    """Which side a dialogue falls on: by its own hash, so other rows never move it."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode()).digest()[:8])
    return number < share * 2**64
