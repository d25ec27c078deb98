"""What a training costs, before it starts: FLOPs, memory, steps, time. Pure functions."""

import math
from dataclasses import dataclass

from sftflow.core.cli import UserError
from sftflow.kernels.limits import PACKED_TYPES

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A GPU: memory (GiB), compute capability, dense bf16 matrix rate (FLOP/s, no sparsity)."""

    memory_gib: int
    capability: tuple[int, int]
    flops: float


CARDS = {  # by the part of NVML's name that tells it; NVIDIA's data sheets, SXM parts
    "H200": Card(141, (9, 0), 989e12),
    "H100": Card(80, (9, 0), 989e12),
    "H800": Card(80, (9, 0), 989e12),
    "H20": Card(96, (9, 0), 148e12),
    "A100": Card(80, (8, 0), 312e12),
    "A800": Card(80, (8, 0), 312e12),
    "L40S": Card(48, (8, 9), 362e12),
    "A10": Card(24, (8, 6), 125e12),
    "RTX 4090": Card(24, (8, 9), 165e12),
    "RTX 3090": Card(24, (8, 6), 71e12),
}


def peak_flops(gpu_name: str) -> float | None:
    """Data-sheet bf16 rate (FLOP/s) of a GPU by its NVML name; None when it is not in the table."""
    name = gpu_name.replace("-", " ")
    return max((card.flops for part, card in CARDS.items() if part in name), default=None)


def useful_flops(matmul_parameters: int, trainable_parameters: int, tokens: int) -> float:
    """FLOPs that training on `tokens` real tokens needs at least.

    2 per parameter and token forward, 2 for the gradient of the inputs, and 2 more for the
    gradient of each trainable parameter (Kaplan et al. 2020, arXiv:2001.08361, section 2.1, whose
    6 N D is the case where everything is trained). Attention scores, padding and recomputation are
    left out: they are cost, not use.
    """
    return (4.0 * matmul_parameters + 2.0 * trainable_parameters) * tokens


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
    rounded = 2 * inner if training.get("precision") == "fp8" else 0  # what W is multiplied with
    work = 3 * width * inner + rounded + (2 * width * hidden if liger else 16 * shape["vocab_size"])
    return (state + positions * (kept + work)) / GIB + 2.3  # context, workspaces, fragmentation


def effective_batch(training: dict) -> int:
    """Dialogues of a step, on all GPUs together."""
    return training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]


def steps_per_epoch(training: dict, rows: int) -> int:
    return max(1, math.ceil(rows / effective_batch(training)))


def total_steps(training: dict, rows: int) -> int:
    """Of the whole training; an epoch may be begun and not ended."""
    return math.ceil(steps_per_epoch(training, rows) * training["num_train_epochs"])


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


UTILISATION = 0.5  # of the data-sheet rate; an H200 reaches 0.56, see tests/performance/README.md
CPU_FLOPS = 1e10  # per core: what small float32 models reach on today's CPUs
