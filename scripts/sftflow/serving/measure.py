"""What a server shows when nobody else asks it: speed, memory, answers to fixed prompts."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from sftflow.core import process
from sftflow.serving import backends, client

CHAT_TOKENS = 256
SPEED_TOKENS = 64  # length of an answer when speed is measured
SPEED_PROMPT = "请写一段话介绍你自己。Write a paragraph about yourself. ({number})"


def known(running: client.Server) -> tuple[dict, dict]:
    """({import, load} seconds, the rest of what the server itself knows); empty for others'."""
    if running.process is None or running.log is None:
        return {}, {}
    try:
        told = running.json("/session", timeout=30)
    except client.ServerError:  # vLLM has no such address
        return backends.vllm_seconds(running.log), {}
    seconds = {"import": told.pop("import_seconds"), "load": told.pop("load_seconds")}
    return seconds, told


def measure(running: client.Server, spec: backends.Spec) -> dict:
    """{seconds, memory (bytes), speed, session} of a server that nobody else asks.

    Not with `evalscope perf`: it counts tokens with a tokenizer from a hub, and these few requests
    need no second environment.
    """
    concurrency = spec.serving.get("concurrency") or 1
    first, alone = stream(running)
    together = crowd(running, concurrency)
    seconds, told = known(running)
    return {
        "seconds": {**running.seconds, **seconds},
        "memory": {
            "process": process.memory(running.process.pid) if running.process else None,
            "gpu": told.pop("gpu_memory", None),
        },
        "speed": {
            "first_token_seconds": first,
            "tokens_per_second": alone,
            "concurrency": concurrency,
            "tokens_per_second_concurrent": together,
            "max_tokens": SPEED_TOKENS,
        },
        "session": told,
    }


def stream(running: client.Server) -> tuple[float | None, float | None]:
    """(seconds to the first text, tokens/s from question to end) of one streamed answer.

    None for what can't be known: an answer without text, a server that does not count tokens.
    """
    messages = [{"role": "user", "content": SPEED_PROMPT.format(number=0)}]
    body = running.question(messages, SPEED_TOKENS)
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    begun, first, tokens = time.monotonic(), None, 0
    with running.request("/chat/completions", body) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line.removeprefix(b"data: "))
            tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
            choices = chunk.get("choices") or []
            if first is None and any((c.get("delta") or {}).get("content") for c in choices):
                first = time.monotonic() - begun
    took = time.monotonic() - begun
    return first and round(first, 4), round(tokens / took, 2) if tokens else None


def crowd(running: client.Server, concurrency: int) -> float | None:
    """Tokens/s of `concurrency` answers at once; None where the server does not count tokens."""

    def one(number: int) -> int | None:
        messages = [{"role": "user", "content": SPEED_PROMPT.format(number=number)}]
        usage = running.chat(messages, SPEED_TOKENS).get("usage")
        return usage and usage["completion_tokens"]

    begun = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        tokens = list(pool.map(one, range(1, concurrency + 1)))
    took = time.monotonic() - begun
    counted = [count for count in tokens if count is not None]
    return round(sum(counted) / took, 2) if len(counted) == len(tokens) else None


def chat(running: client.Server, settings: dict) -> list[dict]:
    """Answers to the fixed prompts: [{prompt, answer, finish_reason, seconds}]."""
    system = (settings.get("model") or {}).get("system")
    before = [{"role": "system", "content": system}] if system else []
    answers = []
    for prompt in settings["prompts"]:
        begun = time.monotonic()
        messages = [*before, {"role": "user", "content": prompt}]
        limit = settings.get("max_tokens") or CHAT_TOKENS
        choice = running.chat(messages, limit)["choices"][0]
        answers.append(
            {
                "prompt": prompt,
                "answer": choice["message"]["content"],
                "finish_reason": choice["finish_reason"],
                "seconds": round(time.monotonic() - begun, 3),
            }
        )
    return answers
