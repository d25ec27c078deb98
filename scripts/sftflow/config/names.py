"""Names that ms-swift and transformers know: templates, model types, schedulers, optimizers ...

The workflow's own environment holds neither, so the names stand in a file that
scripts/dev/swift_names.py writes from envs/swift.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from functools import cache

from sftflow.config.schema import FOLDER

OWN = {"attn_impl": ("auto", "varlen")}  # the workflow's own names, beside the libraries'


@cache
def swift_names() -> dict:
    """{"versions": {package: version}, "<key>": [names that it may take]}."""
    path = FOLDER / "schemas" / "swift_names.json"
    return json.loads(path.read_text(encoding="utf-8"))


def unknown_names(config: dict) -> Iterator[str]:
    """Values that the locked ms-swift and transformers do not know, as stated or resolved."""
    for name, model in config.get("models", {}).items():
        for key in ("model_type", "template", "agent_template"):
            yield from _unknown(f"models.{name}.{key}", key, model.get(key))
    general = config.get("training", {})
    yield from _training("training", general, {})
    for name, run in config.get("runs", {}).items():
        if not run.get("sweep"):
            yield from _training(f"runs.{name}.training", run.get("training", {}), general)
    for name, sweep in config.get("sweeps", {}).items():
        for key in ("lr_scheduler_type", "attn_impl"):
            for index, value in enumerate(sweep.get("grid", {}).get(key, [])):
                yield from _unknown(f"sweeps.{name}.grid.{key}[{index}]", key, value)


def nearest(word: object, valid: Iterable[str], count: int = 1) -> str:
    """A hint to append: the nearest valid names, or all of them when none is near."""
    valid = list(valid)
    near = difflib.get_close_matches(str(word), valid, n=count)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    if not valid:
        return "; none is defined"
    more = f" and {len(valid) - 12} more" if len(valid) > 12 else ""
    return f"; valid: {', '.join(valid[:12])}{more}"


def _training(place: str, stated: dict, general: dict) -> Iterator[str]:
    """Of training settings; what they inherit from the general ones is told there."""
    for key in ("lr_scheduler_type", "attn_impl"):
        if stated.get(key) != general.get(key):
            yield from _unknown(f"{place}.{key}", key, stated.get(key))
    extra, inherited = stated.get("extra", {}), general.get("extra", {})
    for key in ("optim", "optimizer"):
        if extra.get(key) != inherited.get(key):
            yield from _unknown(f"{place}.extra.{key}", key, extra.get(key))


def _unknown(place: str, key: str, value: object) -> Iterator[str]:
    names = swift_names()
    known = [*OWN.get(key, ()), *names[key]]
    kernel = key == "attn_impl" and "/" in str(value)  # attention from a hub: owner/name
    if value is not None and value not in known and not kernel:
        versions = " or ".join(f"{name} {version}" for name, version in names["versions"].items())
        yield f"{place}: '{value}' is not known to {versions}{nearest(value, known, 3)}"
