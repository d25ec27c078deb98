"""Chat completions of any server in one form. Standard library only.

Servers that speak OpenAI's API send what its documents do not know: a content that is null or a
list of parts, finish reasons of their own, a fraction of a second, an error with HTTP status 200. A
completion is brought into one form before it is kept, so that no answer that was kept can stop a
benchmark later:

    {"id", "object": "chat.completion", "created" (s), "model", "usage" {prompt_tokens,
     completion_tokens, total_tokens} or none, "choices": [{"index": 0, "finish_reason" (the
     server's own word, or null), "message": {"role": "assistant", "content" (text; "" for none)
     and, where the server has them, "reasoning_content", "refusal" (text)}}]}
    and "served_model", where the server names another model than the one that was asked.

Text holds no lone surrogates, which no file in UTF-8 can hold, and at most LONGEST characters of an
answer: what is longer is a loop, cut off here ("finish_reason": "length").
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

LONGEST = 1_000_000
LARGEST = 2**53  # beyond any count
SHORT = 200  # characters of a name or a word
FILTERED = "content_filter"  # OpenAI's finish reason of an answer that was held back

# What an error calls itself when it is about what was said, and not about the request.
_CODE = re.compile(
    r"content_?(?:filter|policy)|sensitive|data_?inspection|responsible_?ai", re.IGNORECASE
)
_SAID = re.compile(
    r"content[ _-](?:filter|policy|management policy|exists risk)"
    r"|(?:sensitive|inappropriate|unsafe) (?:content|information|words?|data)"
    r"|敏感(?:内容|信息|词)|不安全",
    re.IGNORECASE,
)

_BUSY = re.compile(
    r"rate.?limit|overloaded|too many requests|\bbusy\b|try again|temporarily|繁忙|稍后",
    re.IGNORECASE,
)


class NoAnswer(ValueError):
    """A response without an answer: an error, or not a completion at all."""


class Broken(NoAnswer):
    """A response that was cut off or garbled on its way, so that another attempt may succeed."""


def decoded(response: Any) -> str:
    """The text of an HTTP response (httpx): UTF-8, whatever its header says, else what that says.

    What is neither becomes U+FFFD: one wrong byte should not lose an answer.
    """
    try:
        return response.content.decode("utf-8-sig")
    except UnicodeDecodeError:
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            return response.content.decode(response.charset_encoding or "utf-8")
        return response.content.decode("utf-8", "replace")


def parsed(text: str) -> Any:
    """The JSON of a response; what was streamed unasked is put together. NoAnswer, Broken."""
    start = text.lstrip()[:1]
    if start == "<":
        title = re.search(r"<title[^>]*>(.{1,200}?)</title>", text, re.I | re.S)
        named = f" ({' '.join(title[1].split())})" if title else ""
        raise NoAnswer(
            f"a web page came where JSON should{named}. Something stands before the service, such "
            "as a login or a proxy, or url names its website instead of its API"
        )
    if text.lstrip().startswith(("data:", "event:", ":")):
        return joined(chunks(text.splitlines()))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "nothing" if not start else f"no JSON ({str(error)[:100]}): {text.strip()[:200]!r}"
        raise Broken(f"the server sent {what}") from None


def chunks(lines: Iterable[str]) -> Iterator[dict]:
    """The pieces of a streamed answer. Broken where one is not JSON."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data and data != "[DONE]":
            try:
                piece = json.loads(data)
            except (ValueError, RecursionError):
                raise Broken(f"the server streamed no JSON: {data[:200]!r}") from None
            if isinstance(piece, dict):
                yield piece


def joined(pieces: Iterable[dict]) -> dict:
    """One completion from the pieces of a streamed one; Broken where it never ended."""
    whole: dict = {}
    message: dict[str, Any] = {}
    reason = None
    for piece in pieces:
        if piece.get("error"):
            return piece
        whole |= {key: value for key, value in piece.items() if key != "choices" and value}
        choices = piece.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, dict):
            continue
        reason = choice.get("finish_reason") or reason
        delta = choice.get("delta") or choice.get("message") or {}
        for key, value in delta.items() if isinstance(delta, dict) else ():
            if isinstance(value, str) and key != "role":
                message[key] = message.get(key, "") + value
    if reason is None:
        raise Broken(f"the server's stream ended before its answer did: {str(message)[:200]}")
    return {**whole, "choices": [{"message": message, "finish_reason": reason}]}


def normalised(response: Any, model: str, asked: str | None = None) -> dict:
    """A server's completion in the form above. NoAnswer where it holds no answer.

    `asked` is the name of the model that was asked. An error that says that a content filter held
    the answer back is an answer without text.
    """
    if not isinstance(response, dict):
        raise NoAnswer(f"the server sent no completion: {str(response)[:300]!r}")
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        error = response.get("error") or response
        if filtered(error):
            return withheld(model)
        text = json.dumps(error, ensure_ascii=False, default=str)
        kind = Broken if _BUSY.search(text) else NoAnswer
        raise kind(f"the server sent no answer: {text[:500]}")
    reason = choice.get("finish_reason")
    message = _message(choice.get("message"))
    if any(len(text) == LONGEST for text in message.values()):
        reason = "length"
    usage = _usage(response.get("usage"))
    said = response.get("model") if asked else response.get("served_model")
    other = isinstance(said, str) and said not in ("", asked)
    return {
        "id": storable(str(response.get("id") or ""))[:SHORT],
        "object": "chat.completion",
        "created": _whole(response.get("created")) or 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": storable(reason)[:SHORT] if isinstance(reason, str) else None,
                "message": message,
            }
        ],
        **({"usage": usage} if usage else {}),
        **({"served_model": storable(str(said))[:SHORT]} if other else {}),
    }


def withheld(model: str) -> dict:
    """The answer that a content filter left: none, with its reason."""
    return normalised({"choices": [{"finish_reason": FILTERED}]}, model)


def filtered(error: Any) -> bool:
    """Whether an error says that a content filter, and nothing else, is its reason."""
    if not isinstance(error, dict):
        return isinstance(error, str) and bool(_SAID.search(error))
    inner = error.get("innererror")
    codes = [error.get("code"), error.get("type"), isinstance(inner, dict) and inner.get("code")]
    said = error.get("message")
    return any(isinstance(code, str) and _CODE.search(code) for code in codes) or (
        isinstance(said, str) and bool(_SAID.search(said))
    )


def _message(message: Any) -> dict:
    message = message if isinstance(message, dict) else {}
    parts = message.get("content")
    parts = parts if isinstance(parts, list) else [parts]
    refusals = [part["refusal"] for part in parts if isinstance(part, dict) and "refusal" in part]
    kept = {
        "role": "assistant",
        "content": "".join(map(_text, parts)),
        "reasoning_content": message.get("reasoning_content") or message.get("reasoning"),
        "refusal": message.get("refusal") or next(iter(refusals), None),
    }
    return {key: storable(value)[:LONGEST] for key, value in kept.items() if isinstance(value, str)}


def storable(text: str) -> str:
    """A text that UTF-8 can hold: U+FFFD in place of halves of a character."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _text(part: Any) -> str:
    """The text of a part; a part of reasoning, or a refusal, is none of the answer's text."""
    if isinstance(part, dict):
        spoken = part.get("type", "text") in ("text", "output_text")
        return _text(part.get("text")) if spoken else ""
    return "" if part is None else str(part)


def _usage(usage: Any) -> dict | None:
    """{prompt_tokens, completion_tokens, total_tokens}; None where a server does not count."""
    counts = usage if isinstance(usage, dict) else {}
    read, written = (_whole(counts.get(f"{name}_tokens")) for name in ("prompt", "completion"))
    if read is None or written is None:
        return None
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _whole(value: Any) -> int | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 0 <= value < LARGEST else None  # false for NaN, too


# What a service adds to the name of a model: a date or a short version, or a word of its own.
_ADDED = re.compile(r"[-@:._](?:\d{4}-\d\d-\d\d|\d{6,8}|\d{3,4}|latest|preview|stable|free)", re.I)


def same_model(one: str, other: str) -> bool:
    """Whether two names are those of one model: gpt-4o, openai/gpt-4o and gpt-4o-2024-08-06."""
    short, long = sorted(
        (name.rstrip("/").rpartition("/")[2].casefold() for name in (one, other)), key=len
    )
    return long.startswith(short) and not _ADDED.sub("", long[len(short) :])
