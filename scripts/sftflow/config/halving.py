"""Successive halving of a sweep (Jamieson & Talwalkar 2016, arXiv:1502.07943).

All points are trained up to a first rung, the better ones up to the next, and those left after the
last rung to the end. A rung is at 1/part of a training's steps. Which points go on is known from
results only: a decision that belongs to this config is read when the config is resolved, and as
long as there is none, the runs of the sweep are its contenders and nothing else.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean

from sftflow.config import jobs
from sftflow.core.cli import UserError
from sftflow.core.layout import PATHS, Results


def parts(halving: dict) -> list[int]:
    """The rungs, by the part of the steps that they are at: [4, 2] is at a quarter and at half."""
    return [halving["factor"] ** left for left in range(halving["rungs"], 0, -1)]


def before(halving: dict, part: int) -> int | None:
    """The rung before this one; None before the first."""
    earlier = part * halving["factor"]
    return earlier if earlier in parts(halving) else None


def halved(study: dict) -> dict[str, dict]:
    """{sweep: its halving} of those that have one."""
    sweeps = study["sweeps"].items()
    return {name: sweep["halving"] for name, sweep in sweeps if sweep["halving"]}


def on_average(halving: dict, points: int) -> tuple[float, float]:
    """(steps, as a share of a whole training's; starts) of a point, if none fails."""
    share, starts, left, done = 0.0, 0.0, points, 0.0
    for at in [*(1 / part for part in parts(halving)), 1.0]:
        share += left / points * (at - done)
        starts += left / points
        left, done = math.ceil(left / halving["factor"]), at
    return share, starts


def passed(found: dict) -> list[dict]:
    """{part, of, on} of each rung up to a decision: of so many points so many went on."""
    left = [point["part"] for point in found["stopped"]]
    here = len(left) + len(found["points"])
    told = []
    for part in sorted({*left, found["part"]}, reverse=True):
        on = here - left.count(part)
        told.append({"part": part, "of": here, "on": on})
        here = on
    return told


def decide(
    points: Mapping[str, list[str]], rungs: Mapping[str, dict], factor: int, earlier: list[dict]
) -> dict:
    """Who goes on after a rung: {points: names, going_on: their runs, stopped: points}.

    points: the runs of each that got here; rungs: the record of each run; earlier: points stopped
    before. A stopped point is {point, part: of the rung, rungs: the record of each run}. UserError
    where all have failed.
    """
    losses = {point: _mean([rungs[run] for run in runs]) for point, runs in points.items()}
    order = sorted(losses, key=losses.__getitem__)
    kept = order[: math.ceil(len(order) / factor)]
    best = [point for point in kept if losses[point] < math.inf]
    if not best:
        why = next(rung["why"] for rung in rungs.values() if "why" in rung)
        raise UserError(f"no point can go on: every one has failed, the first so: {why}")
    stopped = [
        {
            "point": point,
            "part": rungs[points[point][0]]["part"],
            "rungs": {run: rungs[run] for run in points[point]},
        }
        for point in order
        if point not in best
    ]
    return {
        "points": best,
        "going_on": [run for point in best for run in points[point]],
        "stopped": stopped + earlier,
    }


def _mean(rungs: list[dict]) -> float:
    """The mean loss of a point's runs; one that failed is worse than any."""
    losses = [rung["validation_loss"] for rung in rungs]
    return math.inf if None in losses else fmean(losses)


# --- what is known --------------------------------------------------------------------------------


def decision(study: dict, results: Results, sweep: str) -> dict | None:
    """The record of a sweep's last decision, if it was made for the study as it is."""
    last = parts(study["sweeps"][sweep]["halving"])[-1]
    found = results.read(PATHS.halving, sweep=sweep, part=str(last))
    if found is None:
        return None
    made_with = jobs.halve_sweep(study, sweep, str(last))["made_with"]
    return found if found["made_with"] == made_with else None


def going_on(results: str | Path, study: dict) -> list[str]:
    """The contenders that are trained to their end, as far as that is decided."""
    made = (decision(study, Results(results), sweep) for sweep in halved(study))
    return [run for found in made if found for run in found["going_on"]]


def news(results: str | Path, study: dict) -> Iterator[str]:
    """What was decided since the study was resolved, in a sentence for each sweep."""
    for sweep in halved(study):
        found = decision(study, Results(results), sweep)
        if found and sorted(found["going_on"]) != sorted(study["sweeps"][sweep]["runs"]):
            on, of = found["points"], len(found["points"]) + len(found["stopped"])
            yield (
                f"Sweep {sweep}: {len(on)} of {of} points go on ({', '.join(on)}). The same "
                "command again trains them to the end and makes the report."
            )
