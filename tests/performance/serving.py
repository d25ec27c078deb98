"""Answers per second at a model's shape, on one GPU: the report's way against ours.

    envs/swift/.venv/bin/python tests/performance/serving.py --output FOLDER
        [--shape 7b] [--ways report,transformers:64,vllm:256] [--questions 200] [--report 8]

The same questions (about 300 tokens, 256 new tokens each, temperature 0) go to servers on the same
random weights, one server after the other. A way is `report` (`swift deploy --infer_backend pt`
with its defaults, 8 questions in flight as evalscope's default is), or BACKEND:CONCURRENCY. Random
weights never stop by themselves, so every answer is 256 tokens long. The report's way answers
--report questions only: its rate does not change, and all 200 would take 20 minutes. The questions
are sent by the workflow's own client, so evalscope's share (none on a GPU) is left out everywhere.
`profile` is a way, too: one batch in-process, where its time goes.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
from sftflow import process, server  # noqa: E402
from sftflow.jsonio import write_json  # noqa: E402
from training import SHAPES  # noqa: E402

TOKENS = 256


def questions(count: int, vocabulary: int) -> list[str]:
    rng = random.Random(1)
    return [
        " ".join(f"w{rng.randrange(vocabulary - 10)}" for _ in range(rng.randint(150, 450)))
        for _ in range(count)
    ]


def ask_all(running: server.Server, texts: list[str], concurrency: int) -> dict:
    """{answers, seconds, answers_per_second, tokens_per_second}"""

    def ask(text: str) -> int:
        messages = [{"role": "user", "content": text}]
        answer = running.chat(messages, timeout=3600, max_tokens=TOKENS, temperature=0)
        return answer["usage"]["completion_tokens"]

    ask(texts[0])
    begun = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        tokens = sum(pool.map(ask, texts))
    seconds = time.monotonic() - begun
    return {
        "answers": len(texts),
        "seconds": round(seconds, 2),
        "answers_per_second": round(len(texts) / seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def report(weights: Path, texts: list[str], log: Path) -> dict:
    """The report's command, as it stands there, with the flags that random weights need."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = server.Server(f"http://127.0.0.1:{port}/v1", "report", "EMPTY", log)
    command = [
        sys.executable, "-m", "swift.cli.deploy", "--model", weights, "--infer_backend", "pt",
        "--served_model_name", "report", "--max_new_tokens", "2048", "--port", str(port),
        "--model_type", "llama", "--template", "chatml",
    ]  # fmt: skip
    env = server.environment(server.Spec(serving={"backend": "transformers"}))
    running.process = process.start(command, env=env, log=log)
    try:
        server.wait_until_ready(running, 300)
        return {"ready": running.seconds["ready"], **ask_all(running, texts, 8)}
    finally:
        process.stop(running.process)


def ours(backend: str, concurrency: int, weights: Path, texts: list[str], log: Path) -> dict:
    serving = {"backend": backend, "max_batch_size": max(64, concurrency), "ready_timeout": 400}
    spec = server.Spec(
        serving=serving,
        model={"model_type": "llama", "template": "chatml"},
        weights=weights,
        python=os.environ.get(f"PYTHON_{backend.upper()}", sys.executable),
    )
    with server.serve(spec, log) as running:
        return {"ready": running.seconds["ready"], **ask_all(running, texts, concurrency)}


def profile(weights: Path, texts: list[str], size: int = 64) -> None:
    """Print where one batch of 32 tokens spends its time, on the CPU and on the GPU."""
    import cProfile
    import pstats

    import torch
    from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine

    engine = TransformersEngine(
        str(weights), model_type="llama", template_type="chatml", max_batch_size=size, use_hf=True
    )
    requests = [InferRequest(messages=[{"role": "user", "content": t}]) for t in texts[:size]]
    config = RequestConfig(max_tokens=32, temperature=0)
    engine.infer(requests[:2], config, use_tqdm=False)
    for tokens in (1, 32):
        begun = time.monotonic()
        engine.infer(requests, RequestConfig(max_tokens=tokens, temperature=0), use_tqdm=False)
        print(f"batch of {size}, {tokens} tokens: {time.monotonic() - begun:.2f} s")
    told = cProfile.Profile()
    told.runcall(engine.infer, requests, config, use_tqdm=False)
    pstats.Stats(told).sort_stats("tottime").print_stats(25)
    if torch.cuda.is_available():
        kinds = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as traced:
            engine.infer(requests, config, use_tqdm=False)
        print(traced.key_averages().table(sort_by="self_cuda_time_total", row_limit=20))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/sftflow-performance"))
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--ways", default="report,transformers:64,vllm:256")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--report", type=int, default=8, help="questions for the report's way")
    args = parser.parse_args()
    begun = time.monotonic()
    args.work.mkdir(parents=True, exist_ok=True)
    args.output.mkdir(parents=True, exist_ok=True)
    weights = args.work / "weights"
    if not (args.work / "model.json").exists():  # its own process: it leaves memory on the GPU
        code = f"import training; training.prepare({str(args.work)!r}, {args.shape!r})"
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    (weights / "generation_config.json").write_text('{"pad_token_id": 1, "eos_token_id": 4}')
    texts = questions(args.questions, SHAPES[args.shape]["vocab_size"])
    results: dict = {}
    for way in args.ways.split(","):
        log = args.output / f"{way.replace(':', '-')}.log"
        print(f"[{time.monotonic() - begun:5.0f} s] {way}", flush=True)
        backend, _, concurrency = way.partition(":")
        if way == "profile":
            profile(weights, texts)
            continue
        try:
            if way == "report":
                results[way] = report(weights, texts[: args.report], log)
            else:
                results[way] = ours(backend, int(concurrency), weights, texts, log)
        except server.ServerError as error:
            results[way] = {"error": str(error)[-2000:]}
        print(json.dumps(results[way]), flush=True)
        write_json(args.output / "serving.json", results)
    rate = results.get("report", {}).get("answers_per_second")
    for way, result in results.items():
        if rate and "answers_per_second" in result:
            print(f"{way}: {result['answers_per_second'] / rate:.1f} times the report's way")


if __name__ == "__main__":
    main()
