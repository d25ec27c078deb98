"""The record of a training: its event log, and the figures of training.json."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from sftflow.training.cost import peak_flops, useful_flops


class Events:
    """Reads an event log (see plugin.py) that somebody may still be writing."""

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


def history(events: list[dict]) -> list[dict]:
    """The events as one uninterrupted training saw them.

    A resumed training repeats the steps after its checkpoint; the later record of a step counts.
    """
    kept: dict[tuple[str, int], dict] = {}
    for entry in events:
        if entry["event"] in ("step", "validation"):
            kept[entry["event"], entry["step"]] = entry
    return sorted(kept.values(), key=lambda entry: (entry["step"], entry["event"] != "step"))


def window(steps: int) -> int:
    """How many of the first, and of the last, steps a loss is the mean of: a tenth, but at least
    10 (as far as there are so many) and at most 100."""
    return min(steps, max(10, min(100, steps // 10)))


def mean(values: Sequence[float], weights: Sequence[float]) -> tuple[float, float | None]:
    """The weighted mean and its standard error from the spread of the values; None of one value."""
    n, total = len(values), sum(weights)
    middle = sum(w * v for w, v in zip(weights, values, strict=True)) / total
    if n < 2:
        return middle, None
    squares = sum((w * (v - middle)) ** 2 for w, v in zip(weights, values, strict=True))
    return middle, math.sqrt(squares * n / (n - 1)) / total


def change(before: dict, after: dict) -> tuple[float, float | None]:
    """From one validation event to a later one: (change in loss, its standard error).

    The same batches are asked both times, so their differences have the spread that counts. None
    where the batches are not known, or are not the same.
    """
    paired = before.get("labelled") and before["labelled"] == after.get("labelled")
    if not paired:
        return after["loss"] - before["loss"], None
    differences = [b - a for a, b in zip(before["losses"], after["losses"], strict=True)]
    return mean(differences, before["labelled"])


def losses(steps: list[dict]) -> dict:
    """Training loss at the beginning and at the end, as means over windows of steps."""
    n, known = window(len(steps)), all("labelled" in e for e in steps)
    out: dict[str, object] = {
        "window_steps": n,
        "loss_weights": "labelled tokens" if known else "none: labelled tokens are not known",
    }
    for name, part in (("first_loss", steps[:n]), ("final_loss", steps[-n:])):
        weights = [e["labelled"] if known else 1 for e in part]
        out[name], out[f"{name}_se"] = mean([e["loss"] for e in part], weights)
    return out


def validation(checks: list[dict]) -> dict:
    """Validation loss before and after, what changed, and how far the last is above the lowest."""
    first, last, best = checks[0], checks[-1], min(checks, key=lambda check: check["loss"])
    out = {"validation_loss": last["loss"], "best_validation_loss": best["loss"]}
    if first["step"] == 0:
        out["validation_loss_before"] = first["loss"]
        out["validation_change"], out["validation_change_se"] = change(first, last)
    out["validation_rise"], out["validation_rise_se"] = change(best, last)
    out["validation_curve"] = {
        name: [e[name] for e in checks]
        for name in ("step", "loss", "token_accuracy")
        if all(name in e for e in checks)
    }
    if "token_accuracy" in last:
        out["token_accuracy"] = last["token_accuracy"]
    return out


def span(events: list[dict]) -> tuple[float, float]:
    """When the last attempt's first step began and when it ended, in seconds since the epoch."""
    last = {event["event"]: event["time"] for event in events}
    return last["start"], last["end"]


def seconds(events: list[dict]) -> float:
    """How long all attempts took together, each from its first event to its last."""
    attempts: list[list[float]] = []
    for event in events:
        if event["event"] == "start":
            attempts.append([])
        attempts[-1].append(event["time"])
    return sum(max(times) - min(times) for times in attempts)


def summary(events: list[dict], gpu_names: list[str]) -> dict:
    """The figures of a finished training from its events (see plugin.py): training.json's core.

    A figure that this machine cannot give (GPU memory without a GPU) is absent.
    """

    def last(name: str) -> dict:
        return next((e for e in reversed(events) if e["event"] == name), {})

    begin, end = last("start"), last("end")
    curve = history(events)
    steps = [e for e in curve if e["event"] == "step"]
    checks = [e for e in curve if e["event"] == "validation" and "loss" in e]
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
        **losses(steps),
        "uniform_loss": begin["uniform_loss"],
        "train_seconds": round(seconds, 3),
        "samples_per_second": round(samples / seconds, 4),
        "tokens_per_second": round(tokens / seconds, 2),
        "useful_flops": useful,
        "useful_flops_formula": "(4 × matmul parameters + 2 × trainable parameters) × tokens",
        "curve": {
            name: [e[name] for e in steps]
            for name in ("step", "loss", "labelled", "learning_rate")
            if all(name in e for e in steps)
        },
        "fp8_layers": begin.get("fp8_layers", 0),
        "patches": begin.get("patches", []),
    }  # fmt: skip
    if checks:
        out |= validation(checks)
    peaks = [peak for peak in map(peak_flops, gpu_names) if peak]
    if peaks and len(peaks) == len(gpu_names):
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
