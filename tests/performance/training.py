"""Training speed at a model's shape, on one GPU, side by side: random weights, made-up dialogues.

    envs/swift/.venv/bin/python tests/performance/training.py --output FOLDER
        [--shape 7b] [--variants report:20,defaults:20,…] [--tokens 4096]
        [--weights MODEL --model-type T --template T --train FILE --validation FILE]

Every variant is one real ms-swift training on the same 640 dialogues, 32 to an optimizer step, in
the same order, for a few steps. `report` is the command of the experiment report, `defaults` what
the workflow chooses, the others change one thing in one of the two. Prints a Markdown table; FOLDER
gets training.json with all figures and one events file per variant. README.md says how to read it.
With --tokens every dialogue is that long, eight to a step, two at once: what others measure.

With --weights, a real model in native form learns from real dialogues (a run's train.jsonl and
validation.jsonl) instead, and the validation losses before and after are printed, too:
`--variants defaults:120,defaults-fp8:120` shows what the rounding costs.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
from sftflow.core.jsonio import read_json, write_json, write_jsonl
from sftflow.training import settings as training
from sftflow.training.cost import useful_flops
from sftflow.training.record import Events

SHAPES = {
    "7b": {  # InternLM2.5-7B
        "vocab_size": 92544, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 32768, "rope_theta": 1e6,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    },
}  # fmt: skip
SPECIAL = ["<unk>", "<pad>", "<s>", "<|im_start|>", "<|im_end|>"]
ROWS, MEAN, SPREAD, LONGEST = 640, 892, 477, 2044  # dialogues; tokens each, as in the real study

REPORT = {
    "tuner_type": "lora", "lora_rank": 8, "lora_alpha": 32, "lora_dropout": 0.05,
    "target_modules": "all-linear", "torch_dtype": "bfloat16", "num_train_epochs": 1,
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "learning_rate": 1e-4,
    "warmup_ratio": 0.1, "max_length": 2048, "logging_steps": 20, "dataloader_num_workers": 8,
    "router_aux_loss_coef": 1e-3, "seed": 42, "data_seed": 42,
}  # fmt: skip
PACKED = {"attn_impl": "varlen", "padding_free": True}
# name → (starts from, what differs, LoRA fused); {} stands for nothing
VARIANTS = {
    "report": ("report", {}, False),
    "report-liger": ("report", {"use_liger_kernel": True}, False),
    "report-packed": ("report", PACKED, False),
    "report-fused-lora": ("report", {}, True),
    "report-liger-no-checkpointing": (
        "report",
        {"use_liger_kernel": True, "gradient_checkpointing": False},
        False,
    ),
    "defaults": ("defaults", {}, True),
    "defaults-peft-lora": ("defaults", {"bf16": True}, False),
    "defaults-padded": ("defaults", {"attn_impl": "sdpa", "padding_free": False}, True),
    "defaults-checkpointing": ("defaults", {"gradient_checkpointing": True}, True),
    "defaults-no-liger": ("defaults", {"use_liger_kernel": False}, True),
    "defaults-autocast": ("defaults", {"bf16": True}, True),
    "defaults-fp8": ("defaults", {}, True),
    "defaults-16x2": (
        "defaults",
        {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2},
        True,
    ),
}


def words(shape: dict) -> list[str]:
    """w0, w1, …: all tokens of a shape's vocabulary that are not special."""
    return [f"w{i}" for i in range(shape["vocab_size"] - len(SPECIAL))]


def word_tokenizer(shape: dict, **special):
    """A tokenizer with one token per word, the special ones first."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate([*SPECIAL, *words(shape)])}
    bare = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", pad_token="<pad>", bos_token="<s>",
        eos_token="<|im_end|>", **special,
    )  # fmt: skip


def text(chance: random.Random, vocabulary: list[str], tokens: int) -> str:
    return " ".join(chance.choices(vocabulary, k=max(1, tokens)))


def dialogue(
    chance: random.Random, vocabulary: list[str], mean: float, spread: float, longest: int = LONGEST
) -> dict:
    """Turns of a person (a third of the tokens) and an assistant, eight marks per exchange."""
    length = min(longest, max(60, round(chance.gauss(mean, spread))))
    exchanges = max(1, length // 250)
    room = length // exchanges - 8
    messages = []
    for _ in range(exchanges):
        for role, share in (("user", room // 3), ("assistant", room - room // 3)):
            messages.append({"role": role, "content": text(chance, vocabulary, share)})
    return {"messages": messages}


def prepare(work: str, shape_name: str, tokens: str) -> None:
    """A configuration, a tokenizer, and the dialogues; `tokens` of each, or nothing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, shape = Path(work), SHAPES[shape_name]
    config = LlamaConfig(
        **shape, bos_token_id=2, eos_token_id=4, pad_token_id=1, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder / "weights")
    word_tokenizer(shape).save_pretrained(folder / "weights")

    rng, vocabulary = random.Random(0), words(shape)
    lengths = (int(tokens), 0, int(tokens)) if tokens else (MEAN, SPREAD)
    rows = (dialogue(rng, vocabulary, *lengths) for _ in range(ROWS))
    write_jsonl(folder / "train.jsonl", rows)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    everything = sum(p.numel() for p in model.parameters())
    lookup = model.get_input_embeddings().weight.numel()
    write_json(folder / "model.json", {"parameters": everything, "matmul": everything - lookup})


def matrix_rates() -> dict[str, float]:
    """FLOP/s of an 8192³ product of random numbers, the median of 20: in bf16, and where the GPU
    has fp8 with one scale for each row, as ours are, with one for all, and with the rounding."""
    import torch
    from sftflow.kernels import fp8

    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    products = {"matrix_flops": lambda: a @ b}
    if torch.cuda.get_device_capability() >= (8, 9):
        left, right, one = fp8.rounded(a), fp8.rounded(b), torch.ones((), device="cuda")
        products |= {
            "fp8_matrix_flops": lambda: fp8.product(left, right, a.dtype),
            "fp8_one_scale_flops": lambda: torch._scaled_mm(
                left[0], right[0].T, one, one, out_dtype=a.dtype, use_fast_accum=True
            ),
            "fp8_with_rounding_flops": lambda: fp8.product(fp8.rounded(a), right, a.dtype),
        }
    rates = {}
    for name, multiply in products.items():
        times = []
        for _ in range(25):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            multiply()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        rates[name] = 2 * size**3 / sorted(times[5:])[10]
    return rates


def flags(
    name: str, work: Path, shape: dict, parameters: int, hardware: dict, tokens: int | None
) -> tuple[dict, dict]:
    """The ms-swift file of a variant, and what its plug-in is told; `tokens` of each dialogue."""
    start, differs, fused_lora = VARIANTS[name]
    out, told = dict(REPORT), {"fused_lora": fused_lora, "stock": start == "report"}
    lengths, padded = {"mean": MEAN, "max": LONGEST}, 0.43
    if tokens:
        out |= {"max_length": tokens, "per_device_train_batch_size": 2}
        lengths, padded = {"mean": tokens, "max": tokens}, 0.0
    if name.endswith("-fp8"):
        told["precision"] = "fp8"
    if start == "defaults":
        receipt = {"tokens": lengths, "padded_share": padded}
        shape = {**shape, "model_type": "llama"}
        choices = training.choose(out, shape, parameters, receipt, hardware)
        if "checkpointed_layers" in choices:
            told["checkpointed_layers"] = choices["checkpointed_layers"]["value"]
        out = training.command(
            out, choices, model={"model_type": "llama", "template": "chatml"}, gpus=1,
            weights="", train="", validation=None, output="", plugin="", hardware=hardware,
        )  # fmt: skip
    return out | differs | {
        "model": f"{work}/weights", "model_type": "llama", "template": "chatml",
        "dataset": f"{work}/train.jsonl", "output_dir": f"{work}/run", "add_version": False,
        "check_model": False, "report_to": "none", "save_strategy": "no",
        "external_plugins": str(SCRIPTS / "sftflow/training/plugin.py"), "callbacks": "sftflow",
    }, told  # fmt: skip


def random_weights(_folder, config, **_):
    """In place of `from_pretrained`: the same random weights every time, without reading a file."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(config.dtype)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


def train(command: str, plugin: str, allocator: str, trace: str, real: str) -> None:
    """One training; `trace`: a file for the profile of a step, or nothing; `real`: of a model whose
    weights are read, or nothing."""
    os.environ["SFTFLOW_PLUGIN"] = plugin
    import torch
    import transformers
    from swift.pipelines import sft_main

    if torch.cuda.is_available() and allocator:
        torch.cuda.memory._set_allocator_settings(allocator)
    if not real:
        transformers.AutoModelForCausalLM.from_pretrained = random_weights
    if trace:
        profile(Path(trace))
    sft_main(
        [part for name, value in json.loads(command).items() for part in (f"--{name}", str(value))]
    )


TRACED = 9  # by then every kernel has been loaded


def profile(file: Path) -> None:
    """Write what the GPU does in the step TRACED, what the CPU does between it and the step before,
    and where the CPU waits for the GPU in that one."""
    import cProfile
    import io
    import pstats
    import traceback
    import warnings

    import torch
    from swift.trainers import Seq2SeqTrainer

    inner, launched = Seq2SeqTrainer.training_step, []
    on_gpu = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    on_cpu = cProfile.Profile()
    begun, waits = 0.0, []

    def note_wait(*_, **__):
        frames = traceback.extract_stack()[:-1]
        waits.append(" < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-9:-1]))

    def training_step(self, *args, **kwargs):
        nonlocal begun
        accumulated = self.args.gradient_accumulation_steps
        step, micro_batch = divmod(len(launched), accumulated)
        if (step, micro_batch) == (TRACED - 1, 0):
            warnings.simplefilter("always")
            warnings.showwarning = note_wait
            torch.cuda.set_sync_debug_mode("warn")
        if (step, micro_batch) == (TRACED, 0):
            torch.cuda.set_sync_debug_mode("default")
            on_cpu.disable()
            torch.cuda.synchronize()
            on_gpu.start()
            begun = time.perf_counter()
        if (step, micro_batch) == (TRACED + 1, 0):
            torch.cuda.synchronize()
            seconds = time.perf_counter() - begun
            on_gpu.stop()
            kernels = on_gpu.key_averages()
            busy = sum(kernel.self_device_time_total for kernel in kernels) / 1e6
            cpu = ", ".join(f"{each:.3f}" for each in launched[-accumulated:])
            between = io.StringIO()
            pstats.Stats(on_cpu, stream=between).sort_stats("cumulative").print_stats(25)
            file.write_text(
                f"step {seconds:.3f} s, GPU busy {busy:.3f} s, micro-batches launched in {cpu} s\n"
                + kernels.table("self_cuda_time_total", row_limit=50, max_name_column_width=70)
                + between.getvalue()
                + idle(on_gpu.profiler.kineto_results.events())
                + "\n".join(["the CPU waits for the GPU in", *waits, ""]),
                encoding="utf-8",
            )
        start = time.perf_counter()
        loss = inner(self, *args, **kwargs)
        launched.append(time.perf_counter() - start)
        if len(launched) == TRACED * accumulated:
            on_cpu.enable()
        return loss

    Seq2SeqTrainer.training_step = training_step


def idle(events) -> str:
    """Where the GPU had nothing to do: all short waits together, the longest one by one."""
    import torch

    cuda = torch.autograd.DeviceType.CUDA
    work = sorted(
        (e.start_ns(), e.duration_ns(), e.name()) for e in events if e.device_type() == cuda
    )
    ended, before, waits = work[0][0], "", []
    for start, duration, name in work:
        waits.append((max(0, start - ended) / 1e6, (start - work[0][0]) / 1e6, before, name))
        ended, before = max(ended, start + duration), name
    short = [wait for wait, *_ in waits if wait < 0.02]
    lines = [
        f"GPU without work: {sum(wait for wait, *_ in waits):.1f} ms in {len(waits)} waits, "
        f"{sum(short):.1f} ms of it in {len(short)} under 0.02 ms; the longest:"
    ]
    for wait, at, before, after in sorted(waits, reverse=True)[:25]:
        lines.append(f"{wait:8.2f} ms at {at:7.1f}: {before[:50]} → {after[:50]}")
    return "\n".join([*lines, ""])


class Workers:
    """Processes that have everything imported; each does one job: (function's name, arguments).

    All start at once, and no job before they are ready: nobody's imports take time from a
    measurement, and every job begins with a fresh CUDA.
    """

    def __init__(self, jobs: int):
        self.folder = tempfile.TemporaryDirectory()
        self.waiting = [
            (
                subprocess.Popen(
                    [sys.executable, __file__, "--worker", f"{self.folder.name}/{number}"],
                    stdin=subprocess.PIPE,
                    stdout=sys.stderr,
                ),
                Path(self.folder.name, str(number)),
            )
            for number in range(jobs)
        ]

    def run(self, function: str, *arguments) -> bool:
        while not all(mark.exists() or process.poll() for process, mark in self.waiting):
            time.sleep(0.1)
        process, _ = self.waiting.pop(0)
        process.communicate(json.dumps([function, [*map(str, arguments)]]).encode())
        return process.returncode == 0


def work(ready: str) -> None:
    """The worker's side; `ready` is the file that says so."""
    import liger_kernel.transformers  # noqa: F401
    import swift.pipelines  # noqa: F401
    import swift.trainers  # noqa: F401

    Path(ready).touch()
    if line := sys.stdin.readline():
        function, arguments = json.loads(line)
        globals()[function](*arguments)


WARM_UP = 2  # steps that compile kernels and allocate memory


def figures(events: list[dict], matmul: int, rate: float | None) -> dict:
    """Figures without the warm-up: the median step, and rates over all steps together."""
    steps = [e for e in events if e["event"] == "step"]
    late = steps[WARM_UP:] or steps
    seconds, tokens, positions = (
        sum(e[name] for e in late) for name in ("seconds", "tokens", "positions")
    )
    out = {
        "seconds_per_step": sorted(e["seconds"] for e in late)[len(late) // 2],
        "tokens_per_second": tokens / seconds,
        "padded_share": 1 - tokens / positions,
        "losses": [e["loss"] for e in steps],
        "step_seconds": [e["seconds"] for e in steps],
    }
    out["validation_losses"] = [e["loss"] for e in events if e["event"] == "validation"]
    for end in (e for e in events if e["event"] == "end"):
        out |= {k: v for k, v in end.items() if k.endswith("_gib")}
    if rate:
        out["share_of_floor"] = useful_flops(matmul, 0, tokens) / rate / seconds
    return out


def times(slow: dict, fast: dict) -> float:
    """How many times `fast` is as fast as `slow`, over the steps (the same dialogues) both made."""
    pairs = list(zip(slow["step_seconds"], fast["step_seconds"], strict=False))
    before, after = zip(*(pairs[WARM_UP:] or pairs), strict=True)
    return sum(before) / sum(after)


def compare_losses(reference: list[float], losses: list[float]) -> str:
    differences = [abs(a - b) / a for a, b in zip(reference, losses, strict=False)]
    return (
        f"losses of report and defaults over {len(differences)} steps: relative difference at "
        f"most {max(differences):.2e}, mean {sum(differences) / len(differences):.2e}"
    )


def table(results: dict) -> str:
    lines = [
        "| variant | s/step | tokens/s | padding | GPU memory | share of floor | times report |",
        "|---|---|---|---|---|---|---|",
    ]
    report = results.get("report", {})
    for name, r in results.items():
        if "seconds_per_step" not in r:
            lines.append(f"| {name} | failed | | | | | |")
            continue
        cells = [
            name,
            f"{r['seconds_per_step']:.2f}",
            f"{r['tokens_per_second']:,.0f}",
            f"{r['padded_share']:.0%}",
            f"{r['gpu_reserved_gib']:.1f} GiB" if "gpu_reserved_gib" in r else "",
            f"{r['share_of_floor']:.0%}" if "share_of_floor" in r else "",
            f"{times(report, r):.2f}" if "step_seconds" in report else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="name[:steps],…")
    parser.add_argument("--trace", default="", help="variants to profile meanwhile")
    parser.add_argument("--tokens", type=int, help="of every dialogue")
    parser.add_argument("--work", type=Path, default=Path("/tmp/sftflow-performance"))
    parser.add_argument("--weights", type=Path, help="of a real model, and then these:")
    for name in ("--model-type", "--template", "--train", "--validation"):
        parser.add_argument(name)
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    begun = time.monotonic()
    clock = lambda what: print(f"[{time.monotonic() - begun:5.0f} s] {what}", flush=True)  # noqa: E731
    variants = [part.partition(":")[::2] for part in args.variants.split(",")]
    known = (args.work / "model.json").exists()
    run = Workers(len(variants) + (1 if known else 2)).run
    shape = SHAPES[args.shape]
    args.output.mkdir(parents=True, exist_ok=True)
    prepared = known or run("prepare", args.work, args.shape, args.tokens or "")
    machine = args.output / "machine.json"
    if not (prepared and run("describe", machine)):
        sys.exit("cannot prepare the data")
    model, hardware = read_json(args.work / "model.json"), read_json(machine)
    rate = hardware.get("matrix_flops")
    if args.weights:
        shape, rate = read_json(args.weights / "config.json"), None
        size = sum(file.stat().st_size for file in args.weights.glob("*.safetensors"))
        model["parameters"] = size // 2
    clock(f"dialogues written; {hardware}")
    results = {}
    for name, steps in variants:
        folder, events = args.work / "run", args.output / f"{name}.jsonl"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        events.unlink(missing_ok=True)
        command, told = flags(name, args.work, shape, model["parameters"], hardware, args.tokens)
        if hardware["kind"] == "cpu":
            command |= {"use_cpu": True, "attn_impl": "sdpa", "padding_free": False}
        if args.weights:
            command |= {
                "model": f"{args.weights}", "model_type": args.model_type,
                "template": args.template, "dataset": args.train, "val_dataset": args.validation,
                "eval_strategy": "steps", "eval_on_start": True, "eval_steps": int(steps or 20),
            }  # fmt: skip
        command["max_steps"] = int(steps or (20 if name in ("report", "defaults") else 5))
        plugin = {"events": str(events), **told}
        trace = args.output / f"trace-{name}.txt" if name in args.trace.split(",") else ""
        if trace:
            command["max_steps"] = max(command["max_steps"], TRACED + 2)
        allocator = "" if told["stock"] else "expandable_segments:True"
        real = args.weights or ""
        run("train", json.dumps(command), json.dumps(plugin), allocator, trace, real)
        results[name] = {"flags": command, **plugin}
        log = Events(events).new()
        if any(e["event"] == "step" for e in log):
            results[name] |= figures(log, model["matmul"], rate)
            clock(f"{name}: {results[name]['seconds_per_step']:.3f} s/step")
        else:
            clock(f"{name}: failed")
        write_json(args.output / "training.json", {"hardware": hardware, "results": results})
    both = [results.get(name, {}).get("losses") for name in ("report", "defaults")]
    if all(both):
        print(compare_losses(*both))
    print(table(results))
    for name, made in results.items():
        if losses := made.get("validation_losses"):
            print(f"{name}: validation loss {losses[0]:.5f} → {losses[-1]:.5f}")


def describe(path: str) -> None:
    """Hardware and versions, as train.py sees them, and the measured matrix rate."""
    import importlib.metadata

    import torch

    out = {"kind": "cpu", "cores": len(os.sched_getaffinity(0))}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        out |= {
            "kind": "cuda",
            "name": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "capability": [properties.major, properties.minor],
            **matrix_rates(),
        }
    packages = ("torch", "transformers", "peft", "ms-swift", "liger-kernel", "triton")
    out["versions"] = {name: importlib.metadata.version(name) for name in packages}
    write_json(path, out)


if __name__ == "__main__":
    work(sys.argv[2]) if sys.argv[1:2] == ["--worker"] else main()
