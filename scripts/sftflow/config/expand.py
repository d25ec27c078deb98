"""What the names in a config stand for: seeds and sweeps expand to runs.

Works on a config as written (tidied, not resolved), also on one with errors in it.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

from sftflow.core.jsonio import digest
from sftflow.core.layout import checkpoint_name

MOST_RUNS = 10_000  # more in one study is a slip of the pen, not a plan
LONG = 48  # characters of a value in a run's name


def count_runs(config: dict) -> dict[str, int]:
    """Place in the config -> runs that it stands for; counted, not expanded."""
    runs = config.get("runs", {})
    counts = {f"runs.{name}": len(run.get("seeds", [0])) for name, run in runs.items()}
    for name, sweep in config.get("sweeps", {}).items():
        points = math.prod(map(len, sweep.get("grid", {}).values()))
        counts[f"sweeps.{name}"] = points * counts.get(f"runs.{sweep.get('run')}", 0)
    return counts


def expand_runs(config: dict) -> Iterator[tuple[str, str, dict]]:
    """Every run that `runs` and `sweeps` stand for, as (name, place in the config, run).

    The run holds what was stated, and `group` (its name without the seed), `sweep`, `point` (its
    place in the grid; seeds are replicates of one point). A sweep of a run that is not defined
    gives none.
    """
    runs = config.get("runs", {})
    for name, run in runs.items():
        yield from _seeds(name, f"runs.{name}", run | {"sweep": None, "point": {}})
    for sweep, stated in config.get("sweeps", {}).items():
        template = runs.get(stated.get("run"))
        if template is None:
            continue
        grid = dict(stated.get("grid", {}))
        replicates = {"seeds": grid.pop("seed")} if "seed" in grid else {}
        for point in _grid(grid):
            inputs = {key: point[key] for key in ("model", "dataset") if key in point}
            settings = {key: value for key, value in point.items() if key not in inputs}
            run = {
                **template,
                **inputs,
                **replicates,
                "label": None,  # the template's would stand on every row
                "training": template.get("training", {}) | settings,
                "sweep": sweep,
                "point": point,
            }
            name = "-".join([sweep, *(f"{key}{plain(value)}" for key, value in point.items())])
            yield from _seeds(name, f"sweeps.{sweep}", run)


def members(config: dict) -> dict[str, list[str]]:
    """name -> the subjects it stands for: itself, or all runs of one with seeds, or of a sweep."""
    stands_for = {name: [name] for kind in ("models", "endpoints") for name in config.get(kind, {})}
    for name, _, run in expand_runs(config):
        stands_for.setdefault(name, [name])
        stands_for |= {one: [one] for one in checkpoint_subjects(config, name, run)}
        for whole in {run["group"], run["sweep"]} - {name, None}:
            stands_for.setdefault(whole, []).append(name)
    return stands_for


def checkpoint_subjects(config: dict, name: str, run: dict) -> dict[str, int]:
    """{subject: step} of a run's checkpoints: adapters of stated steps, asked where named."""
    training = config.get("training", {}) | run.get("training", {})
    asked = training.get("checkpoints")
    if not isinstance(asked, list) or training.get("tuner_type") == "full":
        return {}
    return {checkpoint_name(name, step): step for step in asked}


def evaluated_names(config: dict) -> list[str]:
    """Names of what is evaluated, as `evaluate.subjects` has them: by default everything but who
    only judges."""
    judging = {judge.get("subject") for judge in config.get("judges", {}).values()}
    runs = (name for name, _, _ in expand_runs(config))
    everything = [*config.get("models", {}), *runs, *config.get("endpoints", {})]
    default = [name for name in everything if name not in judging]
    return config.get("evaluate", {}).get("subjects", default)


def plain(value: Any) -> str:
    """A grid value as part of a run's name: 1e-4 -> "0.0001", True -> "true", "a/b" -> "a_b",
    [a, b] -> "a_b"; a long one by its beginning and digest."""
    text = re.sub(r"[^A-Za-z0-9._-]", "_", said(value).replace(", ", "_"))
    return text if len(text) <= LONG else f"{text[: LONG - 9]}-{digest(value)[:8]}"


def said(value: Any) -> str:
    """A grid value as a person reads it: 0.0001, true, null, "q_proj, v_proj"."""
    if isinstance(value, list):
        return ", ".join(map(said, value))
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _grid(grid: dict[str, list]) -> Iterator[dict]:
    """Every combination of the grid's values, as {key: value}."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _seeds(name: str, place: str, run: dict) -> Iterator[tuple[str, str, dict]]:
    if "seeds" not in run:
        yield name, place, run | {"group": name}
        return
    for seed in run["seeds"]:
        label = f"{run['label']} (seed {seed})" if run.get("label") else None
        training = run.get("training", {}) | {"seed": seed}
        yield (
            f"{name}-seed{seed}",
            place,
            run | {"training": training, "label": label, "group": name},
        )
