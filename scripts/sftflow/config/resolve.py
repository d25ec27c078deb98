"""The config in its resolved form: complete, inherited, expanded. Every other part reads this form.

`check` (config_check.py) finds every error, `resolve` fills in and expands, `load` does both.
Needs jsonschema and yaml, so it is for the workflow's own environment only.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

from sftflow.config.backend import NOBODY, settled
from sftflow.config.check import check
from sftflow.config.expand import checkpoint_subjects, evaluated_names, expand_runs, members
from sftflow.config.names import unknown_names
from sftflow.config.schema import follow, presets, references, schema, section, tidy
from sftflow.config.sources import doubtful, located
from sftflow.core.cli import UserError
from sftflow.core.layout import CRISIS

__all__ = ["check", "load", "presets", "references", "resolve", "warnings"]

# Maps of named entries, and what their entries inherit; both are filled in entry by entry.
ENTRIES = (
    "models",
    "datasets",
    "runs",
    "sweeps",
    "endpoints",
    "benchmarks",
    "suites",
    "judges",
    "resources",
)
INHERITED = ("training", "serving", "generation")

# What a benchmark takes from its preset as it stands.
FACTS = (
    "dataset",
    "config",
    "subset_field",
    "eval_split",
    "few_shot_split",
    "fields",
    "answer",
    "options",
    "language",
    "form",
)


def load(
    raw: dict,
    errors: Iterable[str] = (),
    *,
    here: bool = False,
    gpus: bool = False,
    auto: dict = NOBODY,
    going_on: Callable[[dict], Iterable[str]] = lambda config: (),
) -> dict:
    """The resolved config, or a UserError with everything that is wrong with it.

    `errors` are those known from reading its files, `here` and `gpus` what `check` says, `auto`
    what config/backend.py has chosen, `going_on` what config/halving.py knows of the contenders.
    """
    errors = [*errors, *check(raw, here, gpus, auto["name"])]
    if errors:
        many = "an error" if len(errors) == 1 else f"{len(errors)} errors"
        lines = "\n".join(f"  {error}" for error in errors)
        raise UserError(f"the config has {many}:\n{lines}\nconfig/README.md explains every key.")
    return resolve(raw, auto, going_on)


def resolve(
    raw: dict,
    auto: dict = NOBODY,
    going_on: Callable[[dict], Iterable[str]] = lambda config: (),
) -> dict:
    """A config without errors, complete; the same top-level keys, `contenders` and `subjects`.

    runs        the expanded ones, each {model, dataset, training, serve, serving, label, group
                (the name without the seed), sweep, point (its place in the grid)}; of a sweep
                with halving those that go on to their end, none as long as nobody knows
    contenders  the same of all runs of such sweeps
    sweeps      as stated, and `runs`: the names it expands to; `halving` complete, or None
    benchmarks  defined, or named in a suite, with the preset filled in, and `suite`
    subjects    {name: {kind: model|run|endpoint, model, run,
                form: base|merged|adapter|endpoint, serving, label}}; a checkpoint of stated
                steps is one, too: run@step, an adapter on its base, with its `step`
    """
    stated = tidy(raw, schema())
    config = _fill(stated, schema(), leave=ENTRIES)
    config["models"] = {
        name: _entry("models", name, model)
        | located(model)
        | {"serving": _inherit(config["serving"], model.get("serving", {}))}
        for name, model in stated.get("models", {}).items()
    }
    config["datasets"] = {
        name: _entry("datasets", name, dataset) | located(dataset)
        for name, dataset in stated.get("datasets", {}).items()
    }
    config["endpoints"] = {
        name: _entry("endpoints", name, endpoint)
        | {"serving": _inherit(config["serving"], endpoint.get("serving", {}), backend="endpoint")}
        for name, endpoint in stated.get("endpoints", {}).items()
    }
    config["sweeps"] = {
        name: sweep | {"halving": _halving(sweep)}
        for name, sweep in stated.get("sweeps", {}).items()
    }
    runs = {name: _run(name, run, config) for name, _, run in expand_runs(stated)}
    halved = {name for name, sweep in config["sweeps"].items() if sweep["halving"]}
    config["contenders"] = {name: run for name, run in runs.items() if run["sweep"] in halved}
    left = set(config["contenders"])
    config["runs"] = {name: run for name, run in runs.items() if name not in left}
    left -= set(going_on(config))
    config["runs"] = {name: run for name, run in runs.items() if name not in left}
    for name, sweep in config["sweeps"].items():
        sweep["runs"] = [run for run, made in config["runs"].items() if made["sweep"] == name]
    config["suites"] = stated.get("suites", {})
    config["benchmarks"] = _benchmarks(stated, config["generation"])
    config["judges"] = {
        name: _entry("judges", name, judge) for name, judge in stated.get("judges", {}).items()
    }
    config["dialogue"]["crisis"] = _crisis(config)
    config["resources"] = stated.get("resources", {})
    config["subjects"] = _subjects(config, auto)
    config["evaluate"] = _evaluate(stated, config)
    config["comparisons"] = _comparisons(stated, config)
    return config


def warnings(config: dict) -> list[str]:
    """What is allowed but probably not meant, in a resolved config."""
    used = {run["dataset"] for run in config["runs"].values()}
    unused = [f"datasets.{name}: no run uses it" for name in config["datasets"] if name not in used]
    idle, vain = [], []
    for name, benchmark in config["benchmarks"].items():
        if benchmark["suite"] is None:
            idle.append(f"benchmarks.{name}: in no suite, so it is never asked")
        if benchmark["repeats"] > 1 and benchmark["generation"]["temperature"] == 0:
            vain.append(f"benchmarks.{name}.repeats: at temperature 0 every answer is the same")
    other = list(unknown_names(config)) if config["software"] == "active" else []
    return [*unused, *idle, *vain, *doubtful(config), *other]


def _fill(stated: dict, node: dict, leave: tuple[str, ...] = ()) -> dict:
    """What is stated, and the schema's defaults, in the schema's order; less the keys `leave`."""
    filled = {}
    for key, below in node["properties"].items():
        below = follow(below)
        if key in leave:
            continue
        if "properties" in below:
            filled[key] = _fill(stated.get(key, {}), below)
        elif key in stated:
            filled[key] = stated[key]
        elif "default" in below:
            filled[key] = copy.copy(below["default"])
    return filled


def _entry(kind: str, name: str, stated: dict) -> dict:
    """A named entry with its own defaults; what it inherits is left to the caller."""
    filled = _fill(stated, section(kind)["additionalProperties"], leave=INHERITED)
    return filled | {"label": stated.get("label") or name}


def _inherit(general: dict, special: dict, **fixed: Any) -> dict:
    """General settings, overridden by special ones; `extra` is merged flag by flag."""
    extra = general["extra"] | special.get("extra", {})
    return general | special | {"extra": extra} | fixed


def _run(name: str, run: dict, config: dict) -> dict:
    training = _inherit(config["training"], run.get("training", {}))
    whole = training["tuner_type"] == "full"  # then there is no adapter to merge, or to serve
    return {
        "model": run["model"],
        "dataset": run["dataset"],
        "training": training,
        "serve": "merged" if whole else run.get("serve", "merged"),
        "serving": _inherit(config["models"][run["model"]]["serving"], run.get("serving", {})),
        "label": run.get("label") or name,
        "group": run["group"],
        "sweep": run["sweep"],
        "point": run["point"],
    }


def _halving(sweep: dict) -> dict | None:
    known = section("sweeps")["additionalProperties"]["properties"]["halving"]
    return _fill(sweep["halving"], known) if "halving" in sweep else None


def _benchmarks(stated: dict, generation: dict) -> dict:
    home = {name: suite for suite, names in stated.get("suites", {}).items() for name in names}
    defined = {name: {} for name in home} | stated.get("benchmarks", {})
    return {name: _benchmark(name, defined[name], generation, home.get(name)) for name in defined}


def _benchmark(name: str, stated: dict, generation: dict, suite: str | None) -> dict:
    preset_name = stated.get("preset", name)
    preset = presets()[preset_name]
    stated = preset.get("defaults", {}) | stated
    subsets = stated.get("subsets", list(preset["subsets"] or ["default"]))
    published = preset["subsets"] and {subset: preset["subsets"][subset] for subset in subsets}
    return {
        **{key: preset[key] for key in FACTS if key in preset},
        **_entry("benchmarks", name, stated),
        **located(stated, preset["sources"]),
        "preset": preset_name,
        "subsets": subsets,
        "whole": preset["subsets"] is None or set(subsets) == set(preset["subsets"]),
        # questions of each subset, known before anything is fetched; of own data nothing is known
        "published": None if "source" in stated else published,
        "shots": stated.get("shots", preset["shots"]),
        "chance": preset["options"] and 1 / preset["options"],
        "generation": generation | stated.get("generation", {}),
        "label": stated.get("label") or (preset["label"] if name == preset_name else name),
        "suite": suite,
    }


def _subjects(config: dict, auto: dict) -> dict:
    def subject(kind: str, form: str, entry: dict, model: str | None, run: str | None) -> dict:
        serving = settled(entry["serving"], auto, config["models"].get(model))
        shared = {"serving": serving, "label": entry["label"]}
        return {"kind": kind, "model": model, "run": run, "form": form, **shared}

    subjects = {}
    for name, model in config["models"].items():
        subjects[name] = subject("model", "base", model, name, None)
    for name, run in config["runs"].items():
        subjects[name] = subject("run", run["serve"], run, run["model"], name)
        for checkpoint, step in checkpoint_subjects({}, name, run).items():
            label = {"label": f"{run['label']}, step {step}"}
            made = subject("run", "adapter", run | label, run["model"], name)
            subjects[checkpoint] = made | {"step": step}
    for name, endpoint in config["endpoints"].items():
        subjects[name] = subject("endpoint", "endpoint", endpoint, None, None)
    return subjects


def _crisis(config: dict) -> str | None:
    """Path of the messages of a crisis; None where none are put."""
    stated = config["dialogue"]["crisis"]
    if stated is None:
        stated = bool(config["judges"])
    return (CRISIS if stated else None) if isinstance(stated, bool) else stated


def _evaluate(stated: dict, config: dict) -> dict:
    chosen, stands_for = stated.get("evaluate", {}), members(stated)
    subjects = [subject for name in evaluated_names(stated) for subject in stands_for[name]]
    there = [subject for subject in subjects if subject in config["subjects"]]
    return {
        "subjects": list(dict.fromkeys(there)),
        "suites": chosen.get("suites", list(config["suites"])),
    }


def _comparisons(stated: dict, config: dict) -> list[dict]:
    """The pairs asked for, or every evaluated run against its own base model."""
    if "comparisons" in stated:
        stands_for = members(stated)
        pairs = [
            (baseline, candidate)
            for pair in stated["comparisons"]
            for baseline in stands_for[pair["baseline"]]
            for candidate in stands_for[pair["candidate"]]
            if {baseline, candidate} <= config["subjects"].keys()
        ]
    else:
        evaluated = set(config["evaluate"]["subjects"])
        runs = config["runs"].items()
        pairs = [(run["model"], name) for name, run in runs if {name, run["model"]} <= evaluated]
    return [{"baseline": first, "candidate": second} for first, second in dict.fromkeys(pairs)]
