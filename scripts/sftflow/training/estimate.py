"""What one training will cost on one machine, with the choices that it would make there."""

from typing import Any, NotRequired, TypedDict

from sftflow.training.cost import (
    CPU_FLOPS,
    UTILISATION,
    effective_batch,
    largest_micro_batch,
    memory_gib,
    peak_flops,
    steps_per_epoch,
    total_steps,
    trainable_parameters,
    useful_flops,
)
from sftflow.training.settings import choose


class Estimate(TypedDict):
    """What a training will cost: positions count padding, tokens do not; choices: {name: value}."""

    effective_batch: int
    steps_per_epoch: int
    steps: int
    tokens: int
    positions: int
    trainable_parameters: int
    memory_gib: float
    choices: dict[str, Any]
    seconds: NotRequired[float]  # where the rate of the hardware is known


def estimate(
    training: dict, receipt: dict, shape: dict, parameters: int, hardware: dict
) -> Estimate:
    """What a training will cost, before it starts.

    training: a run's resolved settings. receipt: its receipt.json (train_rows, tokens.train,
    tokens.mean, tokens.max, padded_share). shape: the base model's config.json. parameters: of its
    manifest. hardware: as for `choose`, plus "name" of the GPU.
    """
    choices = choose(training, shape, parameters, receipt, hardware)
    on = lambda name: choices[name]["value"]  # noqa: E731
    checkpointed = on("checkpointed_layers") if on("gradient_checkpointing") else 0
    rows = receipt["train_rows"]
    trainable = trainable_parameters(shape, parameters, training)
    tokens = round(receipt["tokens"]["train"] * training["num_train_epochs"])
    padding = 0.0 if on("padding_free") else receipt.get("padded_share", 0.0)
    out: Estimate = {
        "effective_batch": effective_batch(training),
        "steps_per_epoch": steps_per_epoch(training, rows),
        "steps": total_steps(training, rows),
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


def describe(cost: Estimate) -> str:
    """An estimate in one line."""
    text = (
        f"about to make {cost['steps']} steps of {cost['effective_batch']} dialogues, "
        f"{cost['tokens']:,} tokens, {cost['memory_gib']:.1f} GiB"
    )
    return text + (f", {cost['seconds'] / 60:.0f} min" if cost.get("seconds", 0) >= 60 else "")
