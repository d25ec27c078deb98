"""What `serving.backend: auto` stands for: decided once for a results folder, and kept there.

Answers of one backend are no answers of another, so a choice that followed the machine would make
every score stale where the tables are rebuilt: on a laptop, on a login node.
"""

from collections.abc import Callable
from pathlib import Path

from sftflow.core import environments, gpu
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import PATHS, Results

SLOW, FAST = "transformers", "vllm"
PACKAGE = "vllm"  # what makes its environment one that serves
CAPABILITY = [7, 5]  # the oldest cards that vLLM's wheels are built for: Turing
# Answers at once where the config says nothing: how many a card of 80 GB answers fastest, a 7B
# model, 256 tokens each (tests/performance/README.md). vLLM queues what does not fit.
AT_ONCE = {SLOW: 64, FAST: 384, "endpoint": 64}
# Flags of its server where `serving.extra` does not state them. vLLM would compile each shape of a
# model for half a minute and answers as fast without (tests/performance/README.md).
FLAGS = {FAST: {"compilation-config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}}}
NOBODY = {"name": SLOW, "reason": "no machine was looked at"}


def had(software: str) -> bool:
    return environments.can_be_had(FAST, software, PACKAGE)


def decide(raw: dict, cards: list[dict] | None, had: Callable[[str], bool] = had) -> dict:
    """{name, reason}. `cards`: those of this machine; None where jobs run on others, whose cards
    nobody sees from here. `had`: whether vLLM's environment can be had, by `software`."""

    def slow(reason: str) -> dict:
        return {"name": SLOW, "reason": reason}

    if (raw.get("serving") or {}).get("device") == "cpu":
        return slow("serving.device is cpu")
    if cards == []:
        return slow("no GPU is to be seen here")
    old = [card for card in cards or () if card["capability"] < CAPABILITY]
    if old:
        return slow(
            f"{old[0]['name']} is older than vLLM supports "
            f"(compute capability {'.'.join(map(str, CAPABILITY))})"
        )
    if not had(raw.get("software") or "managed"):
        return slow("vLLM's environment is not there, and its packages can't be reached")
    where = cards[0]["name"] if cards else "jobs run elsewhere, on a GPU"
    return {"name": FAST, "reason": where}


def choose(
    results: str | Path,
    raw: dict,
    cards: Callable[[], list[dict] | None] = gpu.describe,
    had: Callable[[str], bool] = had,
) -> dict:
    """What was chosen for a results folder, or would be now."""
    try:
        return read_record(Path(results) / PATHS.backend)
    except FileNotFoundError:
        return served_before(Results(results)) or decide(raw, cards(), had)


def served_before(results: Results) -> dict | None:
    """Of a folder from before there was a choice: the backend of the subjects that are in it."""
    for path in results.every(PATHS.readiness):
        name = read_record(path)["backend"]["name"]
        if name != "endpoint":
            return {"name": name, "reason": f"{path.parent.name} was served so before"}
    return None


def keep(results: str | Path, chosen: dict) -> None:
    """From now on it is this one."""
    path = Path(results) / PATHS.backend
    if not path.exists():
        write_record(path, chosen)


def settled(serving: dict, chosen: dict, model: dict | None = None) -> dict:
    """A subject's serving settings with the backend, its limits and flags, and `chosen`: why."""
    name, why = serving["backend"], "stated in the config"
    if name == "auto":
        name, why = chosen["name"], f"auto: {chosen['reason']}"
        if name != SLOW and serving["device"] == "cpu":
            name, why = SLOW, "auto: serving.device is cpu"
        elif name != SLOW and model and model["allow_remote_code"]:
            name, why = SLOW, "auto: the model brings code of its own"
    at_once = serving["max_batch_size"] or AT_ONCE[name]
    limits = {"max_batch_size": at_once, "concurrency": serving["concurrency"] or at_once}
    forms = serving["time_both_forms"]
    timed = name == SLOW if forms == "auto" else forms
    stated = {flag.replace("_", "-") for flag in serving["extra"]}
    flags = {flag: v for flag, v in FLAGS.get(name, {}).items() if flag not in stated}
    own = {"backend": name, "chosen": why, "time_both_forms": timed}
    return serving | limits | own | {"extra": flags | serving["extra"]}
