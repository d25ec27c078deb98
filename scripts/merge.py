"""Merge a run's adapter into its base model with ms-swift, and prove the result the same model.

Reads the run's adapter.json and adapter/, the base model's manifest and weights. Writes, into
--output (results/runs/<run>):

    merged/      complete weights, loadable without the adapter
    merged.json  their manifest with digests, and the merge check

The merge check puts fixed texts through base + adapter and through the merged weights and compares
the next-token distributions at every position: the job fails when they are further apart than
rounding explains (`tolerance`, by dtype), or when the tuned model does not differ from its base.
A merge is always made afresh in a new folder that then takes the old one's place. After full
fine-tuning there is nothing to merge: the trained weights are taken as they are.

With --again, merged/ is made once more where files of it are missing, and merged.json stays as it
is: what was served and asked with these weights still stands. UserError where the weights would be
others than it lists.

SETTINGS is one JSON object:
    run          the run's name
    training     {"torch_dtype": of the merged weights (float32, float16 or bfloat16),
                 "device": auto (default), cpu or cuda}
    model        {"name", "model_type", "template"} of the base model
    prompts      texts for the check (default: the script's own)
"""

import argparse
import contextlib
import shutil
import sys
import time
from pathlib import Path

from sftflow.core import cli, gpu
from sftflow.core.cli import UserError, note
from sftflow.core.jsonio import read_record, short, tree_digest, tree_files, write_record
from sftflow.core.manifests import folder_of, lost, verified
from sftflow.core.worker import WORKER, alone
from sftflow.training import alarm

PROMPTS = [
    "你好",
    "What should I do if I cannot sleep at night?",
    "我最近总是感到焦虑，该怎么办？可以先试着慢慢呼吸，再把担心的事情写下来。",
    "Question: which memory holds about seven items?\nA. sensory\nB. short-term\nANSWER: B",
]

# Largest mean Kullback-Leibler divergence (nats per token) that rounding may cause. Merging rounds
# W + s·B·A once to the dtype, where base + adapter rounds the two products apart: the logits then
# differ by about their size times the dtype's epsilon (2^-23, 2^-10, 2^-7), the divergence by its
# square. The bounds leave room for deep networks.
TOLERANCE = {"float32": 1e-8, "float16": 1e-3, "bfloat16": 1e-2}
# A merge with a wrong scale or a lost matrix is about as far from base + adapter as the base is.
NEARER = 4  # times nearer than the base, at least


def divergence(p, q) -> list[float]:
    """KL(p ‖ q) in nats per position; p, q: float64 log-probabilities (positions, vocabulary)."""
    return (p.exp() * (p - q)).sum(-1).clamp(min=0).tolist()


def judge(merged: list[float], base: list[float], dtype: str) -> dict:
    """The merge check's verdict from the divergences of merged and base from base + adapter."""
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    check = {
        "measure": "KL(base + adapter ‖ x) in nats, over next-token distributions",
        "positions": len(merged),
        "dtype": dtype,
        "tolerance": TOLERANCE[dtype],
        "merged_mean": (rest := mean(merged)),
        "merged_max": max(merged),
        "base_mean": (whole := mean(base)),
        "base_max": max(base),
    }
    if not rest <= TOLERANCE[dtype]:
        check["problem"] = "the merged weights are not base + adapter"
    elif not whole > NEARER * rest:
        check["problem"] = "the merged weights are hardly nearer to base + adapter than the base is"
    return check


def distributions(model, tokenizer, prompts: list[str]):
    """Log-probabilities in float64 of the next token at every position of every prompt."""
    import torch

    rows = []
    with torch.inference_mode():
        for text in prompts:
            ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
            logits = model(input_ids=ids).logits[0].double().cpu()
            rows.append(torch.log_softmax(logits, -1))
    return torch.cat(rows)


def compare(
    base: Path, adapter: Path | None, merged: Path, dtype: str, device: str, prompts: list[str]
) -> dict:
    """Load base, base + adapter and merged one after the other; the verdict of the merge check."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def load(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        return model.to(device).eval()

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load(base)
    at_base = distributions(model, tokenizer, prompts)
    if adapter is None:  # full fine-tuning: the trained weights are the merged weights
        at_tuned = distributions(load(merged), tokenizer, prompts)
        return judge([0.0] * len(at_tuned), divergence(at_tuned, at_base), dtype)
    model = PeftModel.from_pretrained(model, adapter).eval()
    at_adapter = distributions(model, tokenizer, prompts)
    del model
    at_merged = distributions(load(merged), tokenizer, prompts)
    return judge(divergence(at_adapter, at_merged), divergence(at_adapter, at_base), dtype)


def export(base: Path, adapter: Path, target: Path, dtype: str, model: dict, device: str) -> None:
    """`swift export --merge_lora true` into `target`, which must not exist."""
    from swift.pipelines import export_main

    alarm.silence()
    export_main(
        [
            "--model", str(base), "--adapters", str(adapter), "--load_args", "false",
            "--model_type", model["model_type"], "--template", model["template"],
            "--torch_dtype", dtype, "--merge_lora", "true", "--output_dir", str(target),
            "--device_map", device, "--use_hf", "true",
        ]
    )  # fmt: skip


def restore(fresh: Path, target: Path, record: dict, run: str) -> None:
    """Put weights that were merged again in their place, if they are those of the record."""
    if (found := tree_digest(tree_files(fresh))) != record["digest"]:
        shutil.rmtree(fresh)
        raise UserError(
            f"merged again, the weights of {run} are not those that it was served with (digest "
            f"{short(record['digest'])} listed, {short(found)} found): other hardware or software "
            f"rounds otherwise. Copy {target} back, or delete {target}.json: then {run} is merged, "
            "served and asked anew"
        )
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    note(f"merge {run}  made again, as {target}.json lists it")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="the run's adapter.json")
    parser.add_argument("--manifest", type=Path, required=True, help="of the base model")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="results/runs/<run>")
    parser.add_argument("--again", action="store_true", help="as merged.json lists them")
    args = parser.parse_args()
    with alone(args.output, args.output / WORKER):
        if not (args.again and not lost(args.output / "merged.json")):
            merge(args)


def merge(args: argparse.Namespace) -> None:
    begun, record = time.time(), args.output / "merged.json"
    settings, trained = args.settings, args.adapter.parent / "adapter"
    adapter, manifest = verified(args.adapter, trained), verified(args.manifest)
    run, dtype = settings["run"], settings["training"]["torch_dtype"]
    weights = folder_of(args.manifest, manifest)
    if adapter["base"]["digest"] != manifest["digest"]:
        raise UserError(f"the adapter of {run} was trained on other weights of {manifest['model']}")

    fresh, target = args.output / "merged.new", args.output / "merged"
    shutil.rmtree(fresh, ignore_errors=True)
    full = adapter["form"] == "full"
    asked = settings["training"].get("device", "auto")
    with gpu.claim(0 if asked == "cpu" else 1) as gpus:
        gpu.refuse_absent(gpus, asked, "training")
        device = "cuda:0" if gpus else "cpu"
        with contextlib.redirect_stdout(sys.stderr):
            if full:
                shutil.copytree(trained, fresh, copy_function=shutil.copyfile)
            else:
                export(weights.resolve(), trained.resolve(), fresh.resolve(), dtype,
                       settings["model"], device)  # fmt: skip
            if args.again:
                restore(fresh, target, read_record(record), run)
                return
            check = compare(
                weights, None if full else trained, fresh, dtype, device,
                settings.get("prompts") or PROMPTS,
            )  # fmt: skip
    if "problem" in check:
        raise UserError(
            f"merge of {run}: {check['problem']} (mean divergence from base + adapter: merged "
            f"{check['merged_mean']:.2g}, base {check['base_mean']:.2g}, tolerance "
            f"{check['tolerance']:.2g} nats); the weights are left in {fresh}"
        )
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    files = tree_files(target)
    write_record(
        record,
        {
            "schema": 1,
            "run": run,
            "form": "full" if full else "merged",
            "made_with": settings.get("made_with", {}),
            "files": files,
            "digest": tree_digest(files),
            "base": adapter["base"],
            "adapter": adapter["digest"],
            "torch_dtype": dtype,
            "check": check,
            "seconds": round(time.time() - begun, 3),
        },
    )
    note(
        f"merge {run}  checked: {check['merged_mean']:.1e} nats from base + adapter, "
        f"the base {check['base_mean']:.1e}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
