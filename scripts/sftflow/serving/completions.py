"""Chat completions of any server in one form. Standard library only.

Servers that speak OpenAI's API send what its documents do not know: a content that is null or a
list of parts, finish reasons of their own, a fraction of a second, an error with HTTP status 200. A
completion is brought into one form before it is kept, so that no answer that was kept can stop a
benchmark later:

    {"id", "object": "chat.completion", "created" (s), "model", "usage" {prompt_tokens,
     completion_tokens, total_tokens} or none, "choices": [{"index": 0, "finish_reason" (the
     server's own word, or null), "message": {"role": "assistant", "content" (text; "" for none)
     and, where the server has them, "reasoning_content", "refusal" (text)}}]}
"""

import json
import math
import re
from typing import Any

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


class NoAnswer(ValueError):
    """A response without an answer: an error, or not a completion at all."""


def normalised(response: Any, model: str) -> dict:
    """A server's completion in the form above. NoAnswer where it holds no answer.

    An error that says that a content filter held the answer back is an answer without text.
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
        raise NoAnswer(f"the server sent no answer: {text[:500]}")
    reason = choice.get("finish_reason")
    usage = _usage(response.get("usage"))
    return {
        "id": str(response.get("id") or ""),
        "object": "chat.completion",
        "created": _whole(response.get("created")) or 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": reason if isinstance(reason, str) else None,
                "message": _message(choice.get("message")),
            }
        ],
    } | ({"usage": usage} if usage else {})


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
    return {key: value for key, value in kept.items() if isinstance(value, str)}


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
    return int(value) if number and math.isfinite(value) else None
