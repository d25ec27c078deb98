"""What a server shows when nobody else asks it: speed, memory, answers to fixed prompts."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sftflow.core import cli, process
from sftflow.serving import backends, client

CHAT_TOKENS = 256
SPEED_TOKENS = 64  # length of an answer when speed is measured
SPEED_PROMPT = "请写一段话介绍你自己。Write a paragraph about yourself. ({number})"


def known(running: client.Server) -> tuple[dict, dict]:
    """({import, load} seconds, the rest of what the server itself knows); empty for others'."""
    if running.process is None or running.log is None:
        return {}, {}
    try:
        told = running.get("/session")
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
    first, alone = tried(running, stream) or (None, None)
    together = tried(running, crowd, concurrency)
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


def tried(running: client.Server, step: Callable, *args: Any) -> Any:
    """What a measurement gives; None where somebody else's server does not let itself be measured.

    A server of ours that fails here fails its readiness.
    """
    try:
        return step(running, *args)
    except client.ServerError as error:
        if running.process is not None:
            raise
        cli.note(f"speed unknown: {error}")
        return None


def stream(running: client.Server) -> tuple[float | None, float | None]:
    """(seconds to the first text, tokens/s from question to end) of one streamed answer.

    None for what can't be known: an answer without text, or in one piece; a server that does not
    count tokens.
    """
    messages = [{"role": "user", "content": SPEED_PROMPT.format(number=0)}]
    first, tokens, took = None, 0, 0.0
    for took, chunk in running.stream(running.question(messages, SPEED_TOKENS)):
        usage = chunk.get("usage")
        counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
        tokens = counted if isinstance(counted, int) else tokens
        choices = chunk.get("choices")
        deltas = [choice.get("delta") for choice in choices or () if isinstance(choice, dict)]
        if first is None and any(isinstance(d, dict) and d.get("content") for d in deltas):
            first = took
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
    """Answers to the fixed prompts: [{prompt, answer, finish_reason, seconds}], with `thought`
    where a server tells that beside the answer."""
    system = (settings.get("model") or {}).get("system")
    before = [{"role": "system", "content": system}] if system else []
    answers = []
    for prompt in settings["prompts"]:
        messages = [*before, {"role": "user", "content": prompt}]
        question = running.question(messages, settings.get("max_tokens") or CHAT_TOKENS)
        answer, seconds = running.ask(question, running.model)
        choice = answer["choices"][0]
        thought = choice["message"].get("reasoning_content")
        answers.append(
            {
                "prompt": prompt,
                "answer": choice["message"]["content"],
                **({"thought": thought} if thought else {}),
                "finish_reason": choice["finish_reason"],
                "seconds": seconds,
            }
        )
    return answers
