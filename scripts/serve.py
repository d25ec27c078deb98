"""Prove that a subject can be served, and measure it undisturbed: the server-readiness marker.

Settings (JSON):
    subject, form (base | merged | adapter | endpoint)
    model       {model_type, template, torch_dtype, system} of the base model; none for an endpoint
    serving     {backend, max_batch_size, concurrency, ready_timeout, device, gpus, torch_dtype,
                max_model_len, extra}
    endpoint    {url, model, version, key_env}, for an endpoint
    prompts     fixed prompts, answered at temperature 0
    max_tokens  of those answers (default 256)

Before anything starts, every file of the weights is compared with its manifest. One server start
gives both outputs. With --also-weights the run's other form (merged weights, or the adapter on its
base) is started once more, only to time it.
"""

import argparse
import json
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sftflow import cli, gpu, identity, process, server
from sftflow.cli import UserError
from sftflow.jsonio import file_digest, read_json, write_json

CHAT_TOKENS = 256
SPEED_TOKENS = 64  # length of an answer when speed is measured
SPEED_PROMPT = "请写一段话介绍你自己。Write a paragraph about yourself. ({number})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    server.add_arguments(parser)
    parser.add_argument("--also-weights", type=Path, help="weights of the run's other form")
    parser.add_argument("--also-adapter", type=Path, help="adapter of the run's other form")
    parser.add_argument("--readiness", type=Path, required=True, help="output: readiness.json")
    parser.add_argument("--chat", type=Path, required=True, help="output: chat.json")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    process.follow_snakemake()
    settings = args.settings
    manifest = checked(args.weights, args.manifest)
    adapter = checked(args.adapter, args.adapter_manifest)
    packages = read_json(args.environment)["packages"] if args.environment else {}
    spec = server.Spec.of(settings, args)
    label = f"serve {settings['subject']}"
    cli.note(f"{label}  starting ({spec.backend})")
    with server.serve(spec, args.server_log) as running, gpu.Sampler() as sampler:
        cli.note(f"{label}  ready after {running.seconds['ready']:.1f} s")
        session = measure(running, spec)
        answers = chat(running, settings)
    used = sampler.summary()
    if session["memory"]["gpu"] is None and "gpu_memory_gib" in used:  # the server does not tell
        session["memory"]["gpu"] = round(used["gpu_memory_gib"] * gpu.GIB)
    forms = {settings["form"]: session.pop("seconds")}
    if args.also_weights:
        other = "adapter" if args.also_adapter else "merged"
        forms[other] = time_other(spec, args, other)
        cli.note(f"{label}  {other} form ready after {forms[other]['ready']:.1f} s")
    write_json(
        args.chat,
        {
            "schema": 1,
            "subject": settings["subject"],
            "form": settings["form"],
            "answers": answers,
        },
    )
    write_json(
        args.readiness,
        {
            "schema": 1,
            "subject": settings["subject"],
            "form": settings["form"],
            "weights": identity.weights(manifest, adapter, settings.get("endpoint")),
            "backend": identity.backend(settings["serving"], settings.get("model"), packages),
            "models": [settings["subject"] if m == running.model else m for m in running.models],
            "probe": {"prompt": server.PROBE[0]["content"], "answer": running.probe},
            "seconds": forms,
            **session,
            "gpu": used,
            "hardware": {
                "machine": platform.machine(),
                "gpus": [found["name"] for found in gpu.describe()],
            },
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def checked(folder: Path | None, manifest: Path | None) -> dict | None:
    """The manifest of weights that are, file by file, what it says; UserError when they are not."""
    if manifest is None:
        return None
    content = read_json(manifest)
    for file in content["files"]:
        path = folder / file["path"]
        if not path.exists():
            raise UserError(f"{path} is missing, but {manifest} lists it: make it again")
        if path.stat().st_size != file["size"] or file_digest(path) != file["sha256"]:
            raise UserError(f"{path} is not the file that {manifest} lists: make it again")
    return content


def time_other(spec: server.Spec, args: argparse.Namespace, form: str) -> dict:
    """Seconds to ready of a run's other form."""
    other = replace(spec, weights=args.also_weights, adapter=args.also_adapter)
    log = args.server_log.with_name(f"{args.server_log.stem}.{form}{args.server_log.suffix}")
    with server.serve(other, log) as running:
        return {**running.seconds, **known(running)[0]}


def known(running: server.Server) -> tuple[dict, dict]:
    """({import, load} seconds, the rest of what the server itself knows); empty for others'."""
    if running.process is None:
        return {}, {}
    try:
        told = running.json("/session", timeout=30)
    except server.ServerError:  # vLLM has no such address
        return server.vllm_seconds(running.log), {}
    seconds = {"import": told.pop("import_seconds"), "load": told.pop("load_seconds")}
    return seconds, told


def measure(running: server.Server, spec: server.Spec) -> dict:
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


def stream(running: server.Server) -> tuple[float | None, float | None]:
    """(seconds to the first text, tokens/s from question to end) of one streamed answer.

    None for what can't be known: an answer without text, a server that does not count tokens.
    """
    body = {
        "model": running.model,
        "messages": [{"role": "user", "content": SPEED_PROMPT.format(number=0)}],
        "max_tokens": SPEED_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun, first, tokens = time.monotonic(), None, 0
    with running.request("/chat/completions", body) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line.removeprefix(b"data: "))
            tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
            if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                first = time.monotonic() - begun
    took = time.monotonic() - begun
    return first and round(first, 4), round(tokens / took, 2) if tokens else None


def crowd(running: server.Server, concurrency: int) -> float:
    """Tokens/s of `concurrency` answers at once."""

    def one(number: int) -> int:
        messages = [{"role": "user", "content": SPEED_PROMPT.format(number=number)}]
        answer = running.chat(messages, max_tokens=SPEED_TOKENS, temperature=0)
        return answer["usage"]["completion_tokens"]

    begun = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        tokens = sum(pool.map(one, range(1, concurrency + 1)))
    return round(tokens / (time.monotonic() - begun), 2)


def chat(running: server.Server, settings: dict) -> list[dict]:
    """Answers to the fixed prompts: [{prompt, answer, finish_reason, seconds}]."""
    system = (settings.get("model") or {}).get("system")
    before = [{"role": "system", "content": system}] if system else []
    answers = []
    for prompt in settings["prompts"]:
        begun = time.monotonic()
        messages = [*before, {"role": "user", "content": prompt}]
        limit = settings.get("max_tokens") or CHAT_TOKENS
        choice = running.chat(messages, max_tokens=limit, temperature=0)["choices"][0]
        answers.append(
            {
                "prompt": prompt,
                "answer": choice["message"]["content"],
                "finish_reason": choice["finish_reason"],
                "seconds": round(time.monotonic() - begun, 3),
            }
        )
    return answers


if __name__ == "__main__":
    sys.exit(cli.run(main))
