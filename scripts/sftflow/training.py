"""What a training is: its settings, its cost, its checkpoints, its record. Pure functions.

Words: a *micro-batch* is what one forward pass sees; an *optimizer step* accumulates several, and
always holds the same dialogues, however they are cut into micro-batches. *Tokens* are real ones;
*positions* also count padding.
"""

import json
import math
from pathlib import Path

from sftflow.cli import UserError
from sftflow.jsonio import digest, read_json

GIB = 2**30
COMPLETE = "complete.json"  # written beside a checkpoint's files once all of them are there

RENAMED = {  # flags of older ms-swift versions → today's
    "train_type": "tuner_type",
    "sft_type": "tuner_type",
    "lora_target_modules": "target_modules",
    "lora_dropout_p": "lora_dropout",
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "dtype": "torch_dtype",
    "model_id_or_path": "model",
    "template_type": "template",
    "deepspeed_config_path": "deepspeed",
    "swanlab_token": "the environment variable SWANLAB_API_KEY",
}

# Settings that are ours; every other key of `training` is a flag of ms-swift under its own name.
OURS = {
    "too_long", "device", "gpus", "max_memory_gib", "fused_lora", "checkpointed_layers", "extra",
}  # fmt: skip
# What ms-swift is told by this workflow alone: a different value would break what is built on it.
RESERVED = {
    "model", "dataset", "val_dataset", "output_dir", "add_version", "resume_from_checkpoint",
    "report_to", "swanlab_token",
}  # fmt: skip
# Settings that cannot change a weight: they are no part of a training's identity.
NEUTRAL = {"dataloader_num_workers", "max_memory_gib"}

# Decoders whose layers hand `position_ids` to the attention, as packed rows need.
PACKED_TYPES = {"llama", "mistral", "qwen2", "qwen3"}
# Attention implementations that take packed rows; `varlen` is ours (sftflow.kernels).
PACKING = {
    "varlen", "flash_attn", "flash_attention_2", "flash_attention_3", "flash_attention_4",
}  # fmt: skip
FUSED_RANK = 64  # the largest rank of a fused LoRA layer: its kernels keep that much in registers
LIGER_TYPES = {"llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"}

# Dense bf16 matrix rate in FLOP/s without sparsity, NVIDIA's data sheets (SXM parts).
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(gpu_name: str) -> float | None:
    """Data-sheet bf16 rate (FLOP/s) of a GPU by its NVML name; None when it is not in the table."""
    found = [rate for part, rate in PEAK_FLOPS.items() if part in gpu_name.replace("-", " ")]
    return max(found, default=None) if found else None


def useful_flops(matmul_parameters: int, trainable_parameters: int, tokens: int) -> float:
    """FLOPs that training on `tokens` real tokens needs at least.

    2 per parameter and token forward, 2 for the gradient of the inputs, and 2 more for the
    gradient of each trainable parameter (Kaplan et al. 2020, arXiv:2001.08361, section 2.1, whose
    6 N D is the case where everything is trained). Attention scores, padding and recomputation are
    left out: they are cost, not use.
    """
    return (4.0 * matmul_parameters + 2.0 * trainable_parameters) * tokens


# --- sizes ---------------------------------------------------------------------------------------


def linear_sizes(shape: dict) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear maps in one decoder layer of Llama's layout (config.json)."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    heads = shape["num_attention_heads"]
    head = shape.get("head_dim") or hidden // heads
    kv = (shape.get("num_key_value_heads") or heads) * head
    queries = heads * head
    return [
        (hidden, queries), (hidden, kv), (hidden, kv), (queries, hidden),
        (hidden, inner), (hidden, inner), (inner, hidden),
    ]  # fmt: skip


def trainable_parameters(shape: dict, parameters: int, training: dict) -> int:
    """Parameters that get a gradient: all of them, or LoRA's two matrices for each linear map."""
    if training["tuner_type"] == "full":
        return parameters
    each = sum(n_in + n_out for n_in, n_out in linear_sizes(shape))
    return each * training["lora_rank"] * shape["num_hidden_layers"]


def memory_gib(
    shape: dict, parameters: int, training: dict, positions: int, *,
    checkpointed: int, liger: bool, fused_lora: bool,
) -> float:  # fmt: skip
    """Estimated peak GPU memory (GiB) with `positions` tokens in one micro-batch.

    Weights, gradients and AdamW states, and what the backward pass of a Llama-like decoder keeps
    in 16 bits: per layer and token both norms' inputs and outputs, q, k, v, the attention's output,
    gate and up. PEFT's own LoRA also keeps their product, and every layer input once more after
    dropout, with its mask. Of the `checkpointed` layers only the input is kept, and one at a time
    is recomputed when the others are gone. At a time, one layer's gate, up and product have
    gradients. Without Liger the logits exist four times, in 32 bits.
    """
    trainable = trainable_parameters(shape, parameters, training)
    width = {"float32": 4}.get(training["torch_dtype"], 2)
    state = parameters * width + trainable * (4 + 4 + 8)
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = linear_sizes(shape)[1][1]
    layer = width * (6 * hidden + 2 * kv + 2 * inner)
    if not (fused_lora and shape.get("model_type") in PACKED_TYPES):
        layer += width * inner
    if training["tuner_type"] == "lora" and not fused_lora:
        layer += (width + 1) * sum(n_in for n_in, _ in linear_sizes(shape))
    layers = shape["num_hidden_layers"]
    kept = max((layers - checkpointed) * layer, layer) + checkpointed * width * hidden
    work = 3 * width * inner + (2 * width * hidden if liger else 16 * shape["vocab_size"])
    return (state + positions * (kept + work)) / GIB + 2.3  # context, workspaces, fragmentation


def steps_per_epoch(rows: int, effective_batch: int) -> int:
    return max(1, math.ceil(rows / effective_batch))


def split_batch(training: dict, gpus: int) -> tuple[int, int]:
    """(micro-batch per GPU, accumulation): a step holds the same dialogues on any machine."""
    micro, accumulation = (
        training["per_device_train_batch_size"],
        training["gradient_accumulation_steps"],
    )
    if accumulation % gpus:
        raise UserError(
            f"gradient_accumulation_steps {accumulation} cannot be shared by {gpus} GPUs: "
            "make it a multiple, so that an optimizer step keeps its dialogues"
        )
    return micro, accumulation // gpus


def largest_micro_batch(training: dict, receipt: dict, hardware: dict, padded: bool) -> int:
    """Positions to expect in the largest micro-batch of this run."""
    mean, longest = receipt["tokens"]["mean"], receipt["tokens"]["max"]
    gpus = training.get("gpus", 1) if hardware["kind"] == "cuda" else 1
    micro, accumulation = split_batch(training, gpus)
    if padded:
        return micro * longest
    # a sum of draws: its spread grows with the square root; a step's micro-batches share it evenly
    step = micro * accumulation
    largest = min(step * longest, step * mean + math.sqrt(step) * (longest - mean))
    return max(longest, round(largest / accumulation))


# --- decisions -----------------------------------------------------------------------------------


def choose(training: dict, shape: dict, parameters: int, receipt: dict, hardware: dict) -> dict:
    """Decide every setting that says "auto": {name: {"value": …, "why": …}}.

    hardware: {"kind": "cuda" | "cpu", "cores": usable CPU cores, and of the smallest GPU
    "memory_gib", "capability": [major, minor]}. What the user asked for stands. The memory
    estimate decides about checkpointing: a checkpointed layer costs a second forward pass (half as
    much again), so there are only as many as it takes for the activations to fit.
    """
    asked = {**training, **(training.get("extra") or {})}
    cuda, family = hardware["kind"] == "cuda", shape.get("model_type")
    short = training["torch_dtype"] in ("bfloat16", "float16")
    lora = training["tuner_type"] == "lora"
    out: dict[str, dict] = {}

    def decide(name: str, value: object, why: str) -> object:
        if asked.get(name, "auto") != "auto":
            value, why = asked[name], "asked for"
        out[name] = {"value": value, "why": why}
        return value

    liger = decide(
        "use_liger_kernel",
        cuda and family in LIGER_TYPES,
        f"{'has' if family in LIGER_TYPES else 'no'} kernels for {family}" if cuda else "no CUDA",
    )
    if not cuda:
        attention = decide("attn_impl", "sdpa", "no CUDA")
    elif not short or hardware["capability"] < [8, 0] or family not in PACKED_TYPES:
        attention = decide("attn_impl", "sdpa", "packed attention needs 16 bits, Ampere, Llama's")
    else:
        attention = decide("attn_impl", "varlen", "packed rows need an attention that keeps apart")
    packed = decide(
        "padding_free",
        attention in PACKING,
        f"{attention} takes rows without padding"
        if attention in PACKING
        else f"{attention} needs padded rows",
    )
    decide("group_by_length", False, "every step holds the dialogues of the shuffled order")
    special = any(asked.get(name) for name in ("use_dora", "quant_method", "deepspeed", "fsdp"))
    plain = lora and not special and training["lora_rank"] <= FUSED_RANK
    able = cuda and short and hardware["capability"] >= [8, 0]
    fused = decide(
        "fused_lora",
        able and plain,
        "fewer kernels, less memory, the same numbers"
        if able and plain
        else f"needs plain LoRA up to rank {FUSED_RANK} on whole matrices, 16 bits, Ampere"
        if cuda
        else "no CUDA",
    )
    if training["torch_dtype"] == "bfloat16":
        decide(
            "bf16",
            not fused,
            "the fused layer casts by itself, autocast only costs time"
            if fused
            else "autocast: LoRA's matrices are float32",
        )
    positions = largest_micro_batch(training, receipt, hardware, not packed)
    layers = shape["num_hidden_layers"]
    need = lambda checkpointed: memory_gib(  # noqa: E731
        shape, parameters, training, positions,
        checkpointed=checkpointed, liger=liger, fused_lora=fused,
    )  # fmt: skip
    why, fewest = "no CUDA: time counts more than memory", 0
    if cuda:
        budget = training.get("max_memory_gib") or 0.9 * hardware["memory_gib"]
        fewest = next((n for n in range(layers) if need(n) <= budget), layers)
        why = f"about {need(0):.0f} GiB without it, {budget:.0f} GiB to use"
    if decide("gradient_checkpointing", fewest > 0, why):
        if asked.get("gradient_checkpointing", "auto") != "auto":
            fewest = layers
        why = f"about {need(fewest):.0f} GiB with {fewest} of {layers} layers recomputed"
        decide("checkpointed_layers", fewest, why)
    workers, cores = training["dataloader_num_workers"], hardware["cores"]
    out["dataloader_num_workers"] = {
        "value": min(workers, max(0, cores - 1)) if cuda else 0,
        "why": f"{workers} asked for, {cores} cores" if cuda else "no GPU to keep busy",
    }
    return out


def command(
    training: dict, choices: dict, *, model: dict, weights: str, train: str, validation: str | None,
    output: str, plugin: str, gpus: int, hardware: dict, micro_batch: int | None = None,
) -> dict:  # fmt: skip
    """The ms-swift configuration file of one training, as a dict (see `swift sft FILE.yaml`).

    `micro_batch` lowers the dialogues per forward pass; accumulation rises, the step stays.
    """
    extra = dict(training.get("extra") or {})
    if taken := sorted(set(extra) & RESERVED):
        raise UserError(f"training.extra: {', '.join(taken)} is set by the workflow itself")
    batch, accumulation = split_batch(training, gpus)
    if micro_batch and micro_batch != batch:
        accumulation = accumulation * batch // micro_batch
        batch = micro_batch
    flags = {k: v for k, v in training.items() if k not in OURS and v is not None}
    flags |= {name: choice["value"] for name, choice in choices.items() if name not in OURS}
    lora = training["tuner_type"] != "full"
    if not lora:
        flags = {k: v for k, v in flags.items() if not k.startswith("lora_")}
        for name in ("target_modules", "use_dora", "use_rslora"):
            flags.pop(name, None)
    flags |= {
        "model": weights,
        "model_type": model["model_type"],
        "template": model["template"],
        "system": model.get("system"),
        "dataset": [train],
        "val_dataset": [validation] if validation else None,
        "output_dir": output,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "data_seed": training["seed"],
        "truncation_strategy": "right" if training.get("too_long") == "truncate" else "delete",
        "strict": True,  # a row that fails to encode is an error, not silently another row
        "check_model": False,
        "add_version": False,
        "save_strategy": "steps",
        "eval_strategy": "steps" if validation else "no",
        "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
        "report_to": ["none"],
        "external_plugins": [plugin, *extra.pop("external_plugins", [])],
        "callbacks": ["sftflow", *extra.pop("callbacks", [])],
    }
    if hardware["kind"] == "cpu":
        flags["use_cpu"] = True
    if training["torch_dtype"] == "float32":
        flags |= {"fp16": False, "bf16": False}
    flags |= {name: value for name, value in extra.items() if name not in OURS}
    return {name: value for name, value in flags.items() if value is not None}


def identity(
    training: dict, model: dict, manifest: dict, receipt: dict, kind: str, versions: dict
) -> str:
    """What a checkpoint may be resumed for: everything that can change a weight, nothing else."""
    return digest(
        {
            "training": {k: v for k, v in training.items() if k not in NEUTRAL},
            "model": {k: model.get(k) for k in ("model_type", "template", "system")},
            "weights": manifest["digest"],
            "data": receipt["digest"],
            "device": kind,
            "versions": {k: versions[k] for k in ("ms-swift", "transformers", "peft", "torch")},
        }
    )


# --- checkpoints ---------------------------------------------------------------------------------


def file_sizes(folder: Path) -> dict[str, int]:
    """{path: bytes} of the files in a checkpoint, its marker apart."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE and not path.name.startswith(".")
    }


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every complete checkpoint below `folder`, oldest first.

    Complete: its marker exists and every file that it lists still has the size it had.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            marker = read_json(path / COMPLETE)
        except (OSError, ValueError):
            continue
        if marker["files"].items() <= file_sizes(path).items():
            found.append((marker["step"], path))
    return sorted(found)


# --- cost before training ------------------------------------------------------------------------

UTILISATION = 0.5  # of the data-sheet rate; an H200 reaches 0.56, see tests/performance/README.md
CPU_FLOPS = 1e10  # per core: what small float32 models reach on today's CPUs


def estimate(
    training: dict, receipt: dict, shape: dict, parameters: int, hardware: dict
) -> dict[str, float | int | str]:
    """What a training will cost, before it starts.

    training: a run's resolved settings. receipt: its receipt.json (train_rows, tokens.train,
    tokens.mean, tokens.max, padded_share). shape: the base model's config.json. parameters: of its
    manifest. hardware: as for `choose`, plus "name" of the GPU. Returns steps, steps_per_epoch,
    effective_batch, tokens, positions (with padding), trainable_parameters, memory_gib and the
    choices; seconds only where the rate of the hardware is known.
    """
    choices = choose(training, shape, parameters, receipt, hardware)
    on = lambda name: choices[name]["value"]  # noqa: E731
    checkpointed = on("checkpointed_layers") if on("gradient_checkpointing") else 0
    effective = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    per_epoch = steps_per_epoch(receipt["train_rows"], effective)
    epochs = training["num_train_epochs"]
    trainable = trainable_parameters(shape, parameters, training)
    tokens = round(receipt["tokens"]["train"] * epochs)
    padding = 0.0 if on("padding_free") else receipt.get("padded_share", 0.0)
    out = {
        "effective_batch": effective,
        "steps_per_epoch": per_epoch,
        "steps": math.ceil(per_epoch * epochs),
        "tokens": tokens,
        "positions": round(tokens / (1 - padding)),
        "trainable_parameters": trainable,
        "memory_gib": round(
            memory_gib(
                shape, parameters, training,
                largest_micro_batch(training, receipt, hardware, not on("padding_free")),
                checkpointed=checkpointed, liger=on("use_liger_kernel"),
                fused_lora=on("fused_lora"),
            ),
            2,
        ),
        "choices": {name: choice["value"] for name, choice in choices.items()},
    }  # fmt: skip
    lookup = 0 if shape.get("tie_word_embeddings") else shape["vocab_size"] * shape["hidden_size"]
    work = useful_flops(parameters - lookup, trainable, out["positions"])
    work *= 1 + 0.5 * checkpointed / shape["num_hidden_layers"]  # their forward pass comes twice
    if hardware["kind"] == "cpu":
        out["seconds"] = round(work / (CPU_FLOPS * hardware["cores"]), 1)
    elif rate := peak_flops(hardware.get("name", "")):
        out["seconds"] = round(work / (UTILISATION * rate * training.get("gpus", 1)), 1)
    return out


def describe(cost: dict) -> str:
    """An estimate in one line."""
    text = (
        f"about to make {cost['steps']} steps of {cost['effective_batch']} dialogues, "
        f"{cost['tokens']:,} tokens, {cost['memory_gib']:.1f} GiB"
    )
    return text + (f", {cost['seconds'] / 60:.0f} min" if cost.get("seconds", 0) >= 60 else "")


# --- the event log -------------------------------------------------------------------------------


class Events:
    """Reads an event log (see swift_plugin) that somebody may still be writing."""

    def __init__(self, path: Path):
        self.path, self.offset = path, 0

    def new(self) -> list[dict]:
        """Events written since the last call; a line that is not whole yet is left for the next.

        A kill can cut a line short for ever: the next event then stands behind it in one line,
        which is no JSON, and both are left out. Their steps are repeated after a resume.
        """
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        found = []
        for line in whole.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


# --- the record ----------------------------------------------------------------------------------


def history(events: list[dict]) -> list[dict]:
    """The events as one uninterrupted training saw them.

    A resumed training repeats the steps after its checkpoint; the later record of a step counts.
    """
    kept: dict[tuple[str, int], dict] = {}
    for entry in events:
        if entry["event"] in ("step", "validation"):
            kept[entry["event"], entry["step"]] = entry
    return sorted(kept.values(), key=lambda entry: (entry["step"], entry["event"] != "step"))


def span(events: list[dict]) -> tuple[float, float]:
    """When the last attempt's first step began and when it ended, in seconds since the epoch."""
    last = {event["event"]: event["time"] for event in events}
    return last["start"], last["end"]


def summary(events: list[dict], gpu_names: list[str]) -> dict:
    """The figures of a finished training from its events (see swift_plugin): training.json's core.

    A figure that this machine cannot give (GPU memory without a GPU) is absent.
    """
    last = lambda name: next((e for e in reversed(events) if e["event"] == name), {})  # noqa: E731
    begin, end = last("start"), last("end")
    curve = history(events)
    steps = [e for e in curve if e["event"] == "step"]
    checks = [e for e in curve if e["event"] == "validation"]
    seconds = sum(e["seconds"] for e in steps)
    tokens, positions = sum(e["tokens"] for e in steps), sum(e["positions"] for e in steps)
    samples = begin["train_rows"] * steps[-1]["epoch"]
    useful = useful_flops(begin["matmul_parameters"], begin["trainable_parameters"], tokens)
    out = {
        "steps": steps[-1]["step"],
        "epochs": round(steps[-1]["epoch"], 4),
        "train_rows": begin["train_rows"],
        "validation_rows": begin.get("validation_rows", 0),
        "parameters": begin["parameters"],
        "trainable_parameters": begin["trainable_parameters"],
        "tokens": tokens,
        "positions": positions,
        "padded_share": round(1 - tokens / positions, 4),
        "final_loss": steps[-1]["loss"],
        "best_loss": min(e["loss"] for e in steps),
        "train_seconds": round(seconds, 3),
        "samples_per_second": round(samples / seconds, 4),
        "tokens_per_second": round(tokens / seconds, 2),
        "useful_flops": useful,
        "useful_flops_formula": "(4 × matmul parameters + 2 × trainable parameters) × tokens",
        "curve": {
            name: [e[name] for e in steps] for name in ("step", "loss", "learning_rate")
        },
    }  # fmt: skip
    if checks:
        out["validation_loss"] = checks[-1]["loss"]
        out["best_validation_loss"] = min(e["loss"] for e in checks)
        out["validation_curve"] = {
            name: [e[name] for e in checks] for name in ("step", "loss", "token_accuracy")
            if all(name in e for e in checks)
        }  # fmt: skip
        if "token_accuracy" in checks[-1]:
            out["token_accuracy"] = checks[-1]["token_accuracy"]
    peaks = [peak_flops(name) for name in gpu_names]
    if peaks and all(peaks):
        out["flop_utilisation"] = round(useful / seconds / sum(peaks), 4)
        out["flop_utilisation_formula"] = (
            "useful FLOPs / (train seconds × data-sheet bf16 rate of the GPUs: "
            f"{sum(peaks) / 1e12:.0f} TFLOP/s)"
        )
    if "host_memory_gib" in end:
        out["host_memory_gib"] = round(end["host_memory_gib"], 3)
    if "gpu_reserved_gib" in end:
        out["gpu_memory_gib"] = round(end["gpu_reserved_gib"], 2)
    return out
