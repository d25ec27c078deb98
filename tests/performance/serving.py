"""Answers per second at a model's shape, on one GPU: the report's way against ours.

    .venv/bin/python tests/performance/serving.py --output FOLDER
        [--shape 7b] [--ways report,transformers,vllm:256] [--questions 200] [--report 16]
        [--extra JSON]

The same made-up questions (about 300 tokens, 256 new tokens each, temperature 0) are put to the
same random weights, in one way after the other:

    report          `swift deploy --infer_backend pt`, asked by `evalscope eval`, both with their
                    defaults. It answers the first --report questions only, and as many of them as
                    --report-seconds allow: it answers one after the other, and after the first ones
                    at a constant rate.
    BACKEND[:SIZE]  the workflow's evaluate step with the config's defaults; SIZE questions at once
                    (serving.max_batch_size and serving.concurrency), --extra its serving.extra

All are timed alike, from the first request to the last answer, by when each answer came and how
long it took. What comes before (imports, server start) is stated apart. The weights never choose a
token that ends an answer; the table says how long answers were. It is printed and written after
every way, and a way that fails does not stop the others.

A tool runs in its environment below envs/, or on the interpreter that PYTHON_SWIFT,
PYTHON_EVALSCOPE or PYTHON_VLLM names (`software: active`).
"""

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]
import environment
from sftflow.config.backend import FLAGS
from sftflow.core import gpu, identity, process
from sftflow.core.jsonio import (
    read_jsonl,
    read_record,
    tree_digest,
    tree_files,
    write_json,
    write_jsonl,
    write_record,
    write_text,
)
from sftflow.serving import (
    backends,
    client,
    server,
)
from training import SHAPES, SPECIAL, word_tokenizer, words

TOKENS = 256
GENERATION = {"temperature": 0, "max_tokens": TOKENS}
MODEL = {"model_type": "llama", "template": "chatml", "torch_dtype": "auto", "system": None}
SERVING = {  # the config's defaults
    "backend": "transformers", "max_batch_size": 64, "concurrency": 64, "ready_timeout": 600,
    "gpus": 1, "device": "auto", "torch_dtype": "auto", "max_model_len": None, "extra": {},
}  # fmt: skip
ENVIRONMENTS = {"transformers": "swift", "vllm": "vllm"}
CHAT = (  # as ms-swift's template `chatml`
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def python(env: str) -> str:
    managed = ROOT / "envs" / env / ".venv/bin/python"
    named = os.environ.get(f"PYTHON_{env.upper()}")
    return named or (str(managed) if managed.exists() else sys.executable)


def save_tokenizer(folder: str, shape: dict) -> None:
    tokenizer = word_tokenizer(shape, additional_special_tokens=["<|im_start|>"])
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)


def save_model(folder: str, shape_name: str) -> None:
    """Random weights in a model's shape, and their tokenizer.

    The output rows of all special tokens are zero. Theirs is then the score 0, which the highest of
    many random ones exceeds: the model chooses none of them, and so never ends an answer.
    """
    import torch
    from training import random_weights
    from transformers import LlamaConfig

    shape = SHAPES[shape_name]
    head = max(64, shape["hidden_size"] // shape["num_attention_heads"])  # least that vLLM takes
    save_tokenizer(folder, shape)
    config = LlamaConfig(
        **shape, head_dim=head, tie_word_embeddings=False, dtype=torch.bfloat16,
        bos_token_id=2, eos_token_id=4, pad_token_id=1, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    model = random_weights(None, config)
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL)] = 0
    model.generation_config.update(eos_token_id=4, pad_token_id=1)
    model.save_pretrained(folder, max_shard_size="4GB")


def prepare(work: Path, shape: str, count: int) -> None:
    """Weights and questions where the evaluate step expects them, below work/results."""
    results, weights = work / "results", work / "results/models/random/weights"
    manifest = weights.parent / "manifest.json"
    if not manifest.exists():
        code = f"import serving; serving.save_model({str(weights)!r}, {shape!r})"
        here = Path(__file__).parent
        subprocess.run([python("swift"), "-c", code], cwd=here, check=True)
        files = tree_files(weights)
        write_record(manifest, {"model": "random", "files": files, "digest": tree_digest(files)})
    readiness = results / "subjects/random/readiness.json"
    write_record(readiness, {"weights": identity.weights(read_record(manifest))})
    data = results / "benchmarks/questions/data"
    data.mkdir(parents=True, exist_ok=True)
    size, rng = len(words(SHAPES[shape])), random.Random(1)
    text = lambda n: " ".join(f"w{rng.randrange(size)}" for _ in range(n))  # noqa: E731
    rows = (
        {"id": i, "question": text(rng.randint(150, 450)), **dict(zip("ABCD", "wxyz", strict=True))}
        for i in range(count)
    )
    write_jsonl(data / "made_up_val.jsonl", ({**row, "answer": "A"} for row in rows))
    about = {"benchmark": "questions", "subsets": {"made_up": count}, "files": tree_files(data)}
    about |= {"digest": tree_digest(about["files"])}
    write_record(data.parent / "manifest.json", about)


class Failed(Exception):
    """A way that did not do what it should."""


def follow(command: list, log: Path, env: dict, seconds: float, look: Callable = bool) -> None:
    """Run a tool to its end or for so many seconds, calling `look` meanwhile."""
    begun = time.monotonic()
    job = process.start(command, env=env, log=log)
    try:
        while job.poll() is None and time.monotonic() - begun < seconds:
            look()
            time.sleep(0.2)
    finally:
        stopped = job.poll() is None
        status = process.stop(job)
    look()
    if status and not stopped:
        raise Failed(f"status {status}:\n{process.tail(log)}")


def figures(answers: list[tuple[float, float, int]], begun: float) -> dict:
    """From (Unix time when it came, seconds that it took, tokens) of every answer."""
    if not answers:
        raise Failed("nothing was answered in time")
    first = min(at - took for at, took, _ in answers)
    last = max(at for at, _, _ in answers)
    lengths = [tokens for *_, tokens in answers]
    return {
        "before_seconds": round(first - begun, 1),
        "answers": len(answers),
        "seconds": round(last - first, 2),
        "answers_per_second": len(answers) / (last - first),
        "tokens_per_second": sum(lengths) / (last - first),
        "tokens": [min(lengths), max(lengths)],
        "came_after": sorted(round(at - first, 2) for at, *_ in answers),
    }


@contextmanager
def report_server(weights: Path, log: Path):
    """The report's `swift deploy`, with the two flags that weights without a name need."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = client.Server(f"http://127.0.0.1:{port}/v1", "random", "EMPTY", log)
    command = [
        python("swift"), "-m", "swift.cli.deploy", "--model", weights, "--infer_backend", "pt",
        "--max_new_tokens", "2048", "--served_model_name", "random", "--port", str(port),
        "--model_type", MODEL["model_type"], "--template", MODEL["template"],
    ]  # fmt: skip
    env = backends.environment(backends.Spec(serving=SERVING))
    running.process = process.start(command, env=env, log=log)
    try:
        server.wait_until_ready(running, SERVING["ready_timeout"])
        yield running
    finally:
        process.stop(running.process)


def report(work: Path, log: Path, limit: int, seconds: float) -> dict:
    results, folder, begun = work / "results", work / "report", time.time()
    shutil.rmtree(folder, ignore_errors=True)
    answers: dict[int, tuple] = {}

    def look() -> None:
        """evalscope writes an answer down when it has it, and how long it took, but not when."""
        for path in folder.glob("predictions/*/*.jsonl"):
            for line in path.read_bytes().split(b"\n")[:-1]:
                row = json.loads(line)
                output = row["model_output"]
                came = (time.time(), output["time"], output["usage"]["output_tokens"])
                answers.setdefault(row["index"], came)

    with report_server(results / "models/random/weights", log) as running:
        data = results / "benchmarks/questions/data"
        command = [
            python("evalscope"), "-m", "evalscope.cli.cli", "eval", "--model", "random",
            "--api-url", f"{running.url}/chat/completions", "--api-key", "EMPTY",
            "--eval-type", "openai_api", "--datasets", "general_mcq", "--dataset-args",
            json.dumps({"general_mcq": {"local_path": str(data), "subset_list": ["made_up"]}}),
            "--generation-config", json.dumps(GENERATION), "--limit", str(limit),
            "--work-dir", folder, "--no-timestamp",
        ]  # fmt: skip
        env = dict(os.environ) | backends.without_proxy(dict(os.environ))
        client = log.with_stem(f"{log.stem}-evalscope")
        client.write_bytes(b"")
        follow(command, client, env, seconds, look)
    return figures(list(answers.values()), begun)


def ours(
    work: Path, log: Path, backend: str, size: int | None, seconds: float, extra: dict | None = None
) -> dict:
    results, begun = work / "results", time.time()
    output = results / "evaluations/random/suite.json"
    shutil.rmtree(output.parent, ignore_errors=True)
    serving = SERVING | {"backend": backend, "device": "auto" if gpu.describe() else "cpu"}
    if size:
        serving |= {"max_batch_size": size, "concurrency": size}
    serving |= {"extra": FLAGS.get(backend, {}) | (extra or {})}
    env = ENVIRONMENTS[backend]
    about = {"env": env, "lock": None, **environment.inspect(python(env))}
    write_record(results / f"environments/{env}.json", about)
    benchmark = {
        "dataset": "general_mcq", "subsets": ["made_up"], "shots": 0, "repeats": 1,
        "generation": GENERATION,
    }  # fmt: skip
    settings = {
        "subject": "random", "suite": "suite", "form": "base", "model": MODEL, "serving": serving,
        "backend": {"name": backend},
        "generation": GENERATION, "benchmarks": {"questions": benchmark},
    }  # fmt: skip
    weights = results / "models/random/weights"
    command = [
        python("evalscope"), ROOT / "scripts/evaluate.py", "--settings", json.dumps(settings),
        "--weights", weights, "--manifest", weights.parent / "manifest.json",
        "--environment", results / f"environments/{env}.json", "--python", python(env),
        "--readiness", results / "subjects/random/readiness.json",
        "--benchmarks", results / "benchmarks/questions/manifest.json",
        "--server-log", log, "--output", output,
    ]  # fmt: skip
    client = log.with_stem(f"{log.stem}-evaluate")
    client.write_bytes(b"")
    follow(command, client, dict(os.environ), seconds)
    stored = [row for path in output.parent.glob("answers/*/*.jsonl") for row in read_jsonl(path)]
    return figures(
        [(a["at"], a["seconds"], a["response"]["usage"]["completion_tokens"]) for a in stored],
        begun,
    )


def table(results: dict[str, dict]) -> str:
    rate = results.get("report", {}).get("answers_per_second")
    lines = [
        "| way | before the first request | answers | seconds | answers/s | tokens/s "
        "| tokens of an answer | times the report's way |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, r in results.items():
        if "error" in r:
            lines.append(f"| {way} | failed | | | | | | |")
            continue
        times = f"{r['answers_per_second'] / rate:.1f}" if rate else ""
        low, high = r["tokens"]
        lines.append(
            f"| {way} | {r['before_seconds']} s | {r['answers']} | {r['seconds']} "
            f"| {r['answers_per_second']:.3f} | {r['tokens_per_second']:,.0f} "
            f"| {low if low == high else f'{low} to {high}'} | {times} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/sftflow-serving"))
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--ways", default="report,transformers,vllm:256")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--report", type=int, default=16, help="questions for the report's way")
    parser.add_argument("--report-seconds", type=float, default=150, help="time for asking them")
    parser.add_argument("--seconds", type=float, default=900, help="time for any other way, whole")
    parser.add_argument("--extra", type=json.loads, help="serving.extra of other ways, JSON")
    args = parser.parse_args()
    begun = time.monotonic()
    clock = lambda what: print(f"[{time.monotonic() - begun:5.0f} s] {what}", flush=True)  # noqa: E731
    from support import with_openai  # it needs pytest, which the tools' environments do not have

    with_openai()
    args.output.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    prepare(args.work, args.shape, args.questions)
    machine = ", ".join(found["name"] for found in gpu.describe()) or "no GPU"
    clock(f"{args.shape}, {args.questions} questions, {machine}")
    results: dict[str, dict] = {}
    for way in filter(None, args.ways.split(",")):
        log = args.output / f"{way.replace(':', '-')}.log"
        clock(way)
        try:
            if way == "report":
                results[way] = report(args.work, log, args.report, args.report_seconds)
            else:
                backend, _, size = way.partition(":")
                given = (int(size or 0), args.seconds, args.extra)
                results[way] = ours(args.work, log, backend, *given)
        except Exception as error:  # the next way may do better
            results[way] = {"error": f"{type(error).__name__}: {error}"}
            print(f"{results[way]['error']}\nThe end of {log}:\n{process.tail(log)}")
        write_json(args.output / "serving.json", {"machine": machine, "ways": results})
        write_text(args.output / "serving.md", table(results) + "\n")
        clock(f"{way}: done\n{table(results)}")


if __name__ == "__main__":
    main()
