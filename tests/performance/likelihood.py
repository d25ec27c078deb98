"""Speed of likelihoods at a model's shape, side by side: random weights, made-up texts.

    python tests/performance/likelihood.py [--shape 7b|tiny] [--texts 5000] [--output FILE]

Sides: `loop` (one text at a time through the whole model, as a plain transformers loop has it, on
100 texts), `padded` (our passes, rows padded), `packed` (our passes, rows behind each other; on a
GPU). Texts are about as long as real counselling dialogues (654 tokens); in each, two of three
tokens count. Prints a Markdown table with tokens/s, seconds for 5,000 texts, and the
difference to `loop` over all of its texts.
"""

import argparse
import json
import random
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import torch
import torch.nn.functional as F
from sftflow.dialogue.likelihood import Model, Tokens, faster
from training import LONGEST, SHAPES
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

LOOP = 100  # texts of the plain loop
MEAN, SPREAD = 654, 350  # tokens of a text


def made_up(count: int, words: int) -> list[Tokens]:
    chance, texts = random.Random(1), []
    for _ in range(count):
        length = min(max(int(chance.gauss(MEAN, SPREAD)), 16), LONGEST)
        ids = array("i", (chance.randrange(words) for _ in range(length)))
        texts.append(Tokens(ids, bytes(place > length // 3 for place in range(length))))
    return texts


def built(shape: str, device: str, attention: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    config = LlamaConfig(**SHAPES[shape], attn_implementation=attention)
    with torch.device(device):
        torch.set_default_dtype(kind)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    if device == "cuda":
        try:
            faster(model)
        except ImportError as error:
            print(f"without Liger: {error}")
    return model


def loop(model: LlamaForCausalLM, texts: list[Tokens]) -> list[float]:
    found = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor(text.ids, device=model.device, dtype=torch.long)[None]
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            losses = F.cross_entropy(logits, ids[0, 1:], reduction="none")
            counts = torch.tensor(list(text.counts[1:]), device=model.device)
            found.append(float((losses.double() * counts).sum()))
    return found


def timed(run: Callable, *given) -> tuple[float, Any]:
    """(seconds, what it gives); the GPU's work is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun = time.monotonic()
    made = run(*given)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - begun, made


def passes(model: Model, texts: list[Tokens]) -> list[float]:
    found = dict(pair for each in model.nlls(texts) for pair in each)
    return [found[place] for place in range(len(texts))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--shape", choices=SHAPES, default="7b" if device == "cuda" else "tiny")
    parser.add_argument("--texts", type=int, default=5000 if device == "cuda" else 200)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    texts = made_up(args.texts, SHAPES[args.shape]["vocab_size"])
    rows, truth = [], None
    for side in ("loop", "padded", "packed") if device == "cuda" else ("loop", "padded"):
        if side == "packed":
            from sftflow.kernels.attention import varlen_attention

            AttentionInterface.register("varlen", varlen_attention)
        attention = "varlen" if side == "packed" else "sdpa"
        took, model = timed(built, args.shape, device, attention)
        print(f"{side}: model made in {took:.0f} s", flush=True)
        mine = texts[:LOOP] if side == "loop" else texts
        run = loop
        if side != "loop":
            model, run = Model(model, packed=side == "packed"), passes
        run(model, mine[:50])
        seconds, nlls = timed(run, model, mine)
        truth = truth or nlls
        tokens = sum(len(text.ids) for text in mine)
        known = list(zip(nlls, truth, texts, strict=False))
        gap = abs(sum(a - b for a, b, _ in known)) / sum(text.counted for *_, text in known)
        rows.append(
            {
                "side": side, "texts": len(mine), "tokens": tokens, "seconds": round(seconds, 2),
                "tokens_per_second": round(tokens / seconds), "nats_per_token_off": gap,
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)
                if device == "cuda" else None,
            }
        )  # fmt: skip
        model = None
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"\n{name}, torch {torch.__version__}, shape {args.shape}\n")
    print("| side | texts | tokens/s | times loop | 5,000 texts | peak | off by |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        speed = row["tokens_per_second"]
        whole = 5000 * sum(len(text.ids) for text in texts) / len(texts) / speed
        print(
            f"| {row['side']} | {row['texts']} | {speed:,} "
            f"| {speed / rows[0]['tokens_per_second']:.2f} | {whole:.0f} s "
            f"| {row['peak_gib']} GiB | {row['nats_per_token_off']:.1e} nats/token |"
        )
    if args.output:
        args.output.write_text(json.dumps({"device": name, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
