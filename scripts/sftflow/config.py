"""The config: checked as a whole, then resolved, so that every other part reads one complete form.

`check` names every error at once, `resolve` fills in defaults and expands seeds and sweeps, `load` does both.
Needs jsonschema and yaml, so it is for the workflow's own environment only.
"""

import copy
import difflib
import itertools
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from sftflow.cli import UserError

FOLDER = Path(__file__).resolve().parents[2] / "config"

# Tables that are no suite's, so no suite may take their names.
RESERVED_SUITES = ("training", "inference", "comparison", "chat", "data", "sweep", "plan")

# What users may know these keys as, from older releases or from the tools' own flags.
RENAMED = {
    "train_type": "tuner_type",
    "sft_type": "tuner_type",
    "lora_target_modules": "target_modules",
    "truncation_strategy": "too_long",
    "infer_backend": "backend",
    "max_new_tokens": "max_tokens",
    "few_shot_num": "shots",
    "subset_list": "subsets",
    "prompt_template": "prompt",
    "local_path": "source",
}

# Flags of `swift sft` that follow from other keys, or that a reproducible run can't leave open.
SET_BY_WORKFLOW = {
    "model": "runs.<run>.model",
    "model_revision": "models.<model>.revision",
    "model_type": "models.<model>.model_type",
    "template": "models.<model>.template",
    "system": "models.<model>.system",
    "dataset": "runs.<run>.dataset",
    "val_dataset": "datasets.<dataset>.validation_share",
    "split_dataset_ratio": "datasets.<dataset>.validation_share",
    "truncation_strategy": "training.too_long",
    "use_cpu": "training.device",
    "report_to": "tracking.swanlab.mode",
    "swanlab_mode": "tracking.swanlab.mode",
    "swanlab_project": "tracking.swanlab.project",
    "swanlab_workspace": "tracking.swanlab.workspace",
    "swanlab_exp_name": "the run's name",
    "output_dir": None,
    "add_version": None,
    "adapters": None,
    "resume_from_checkpoint": None,
    "create_checkpoint_symlink": None,
    "check_model": None,
    "use_hf": None,
}

SECRET_NAME = re.compile(r"(^|[_-])(api[_-]?key|token|secret|passw(or)?d|credentials?)$", re.I)
SECRET_VALUE = re.compile(r"^(sk-|hf_|ghp_|github_pat_)[\w-]{16,}$")
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
EXPONENT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")


# --- the files beside the config ---------------------------------------------------------------


def read_yaml(path: str | Path) -> Any:
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def schema() -> dict:
    return read_yaml(FOLDER / "schemas" / "config.schema.yaml")


@cache
def presets() -> dict:
    return read_yaml(FOLDER / "benchmarks.yaml")


@cache
def references() -> dict:
    return read_yaml(FOLDER / "references.yaml") or {}


@cache
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema())


def follow(node: dict) -> dict:
    """The schema node itself, or the one its `$ref` points to."""
    while "$ref" in node:
        target = schema()
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


# --- check --------------------------------------------------------------------------------------


def load(raw: dict) -> dict:
    """The resolved config, or a UserError with everything that is wrong with it."""
    errors = check(raw)
    if errors:
        many = "an error" if len(errors) == 1 else f"{len(errors)} errors"
        lines = "\n".join(f"  {error}" for error in errors)
        raise UserError(f"the config has {many}:\n{lines}\nEvery key is explained in config/README.md.")
    return resolve(raw)


def check(raw: dict) -> list[str]:
    """All errors at once, one line each: where, what is wrong, and what to do."""
    config = tidy(raw, schema())
    broken = list(validator().iter_errors(config))
    lines = [line for error in broken for line in _explain(error)]
    lines += _secrets(config)
    sound = _without_broken(config, broken)  # so that one error does not hide, or cause, others
    for test in (_check_names, _check_runs, _check_sweeps, _check_extra, _check_benchmarks, _check_suites, _check_choice):
        lines += test(sound)
    return list(dict.fromkeys(lines))


def warnings(config: dict) -> list[str]:
    """What is allowed but probably not meant, in a resolved config."""
    lines = [
        f"benchmarks.{name}: in no suite, so it is never asked"
        for name, benchmark in config["benchmarks"].items()
        if benchmark["suite"] is None
    ]
    lines += [
        f"benchmarks.{name}: {benchmark['repeats']} repeats at temperature 0 give the same answer again"
        for name, benchmark in config["benchmarks"].items()
        if benchmark["repeats"] > 1 and benchmark["generation"]["temperature"] == 0
    ]
    used = {run["dataset"] for run in config["runs"].values()}
    lines += [f"datasets.{name}: no run uses it" for name in config["datasets"] if name not in used]
    return lines


def tidy(value: Any, node: dict) -> Any:
    """Forgive what YAML makes of honest input.

    `runs:` with nothing below is read as null and means "nothing stated"; `1e-4` is read as text, because YAML 1.1
    wants 1.0e-4, and means a number; a name such as 7 is text.
    """
    node = follow(node)
    if isinstance(value, dict):
        tidied = {}
        for key, item in value.items():
            below = node.get("properties", {}).get(key, node.get("additionalProperties"))
            below = follow(below) if isinstance(below, dict) else {}
            if item is None and below and "null" not in _types(below):
                if "object" not in _types(below):
                    continue
                item = {}
            tidied[str(key)] = tidy(item, below)
        return tidied
    if isinstance(value, list):
        return [tidy(item, node.get("items", {})) for item in value]
    if isinstance(value, str) and "number" in _types(node) and EXPONENT.match(value):
        return float(value)
    return value


def _types(node: dict) -> list[str]:
    kind = node.get("type", [])
    return [kind] if isinstance(kind, str) else kind


def _path(parts: Iterable) -> str:
    """("comparisons", 0, "baseline") -> "comparisons[0].baseline"."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _nearest(word: str, valid: Iterable[str]) -> str:
    """A hint to append: the nearest valid name, or all of them when none is near."""
    valid = list(valid)
    near = difflib.get_close_matches(str(word), valid, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    if not valid:
        return "; none is defined"
    more = f" and {len(valid) - 12} more" if len(valid) > 12 else ""
    return f"; valid: {', '.join(valid[:12])}{more}"


def _show(value: Any) -> str:
    """A value for a message: short, and never a secret."""
    if isinstance(value, str) and SECRET_VALUE.match(value):
        return "(a secret)"
    text = {True: "true", False: "false", None: "null"}.get(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


KINDS = {
    "object": "a map (key: value)",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def _explain(error: jsonschema.ValidationError) -> list[str]:
    """One line per mistake, in words that need no knowledge of JSON Schema."""
    where, node, value, rule = _path(error.absolute_path), error.schema, error.instance, error.validator_value
    at = f"{where}: " if where else ""
    match error.validator:
        case "additionalProperties":
            return [
                f"{_path([*error.absolute_path, key])}: {_unknown_key(key, node['properties'])}"
                for key in value
                if key not in node["properties"] and not SECRET_NAME.search(key)
            ]
        case "required":
            return [
                f"{_path([*error.absolute_path, key])}: is missing. {follow(node['properties'][key])['description']}"
                for key in rule
                if key not in value
            ]
        case "type":
            kinds = " or ".join(KINDS[kind] for kind in _types(node))
            return [f"{at}must be {kinds}, not {_show(value)}"]
        case "enum" if "propertyNames" in error.absolute_schema_path:
            return [f"{_path([*error.absolute_path, value])}: unknown name{_nearest(value, rule)}"]
        case "enum":
            choices = ", ".join(_show(choice).strip("'") for choice in rule)
            near = difflib.get_close_matches(str(value), [str(choice) for choice in rule], n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            return [f"{at}{_show(value)} is not one of {choices}{hint}"]
        case "pattern" if "propertyNames" in error.absolute_schema_path:
            return [f"{_path([*error.absolute_path, value])}: can't be a name; use {node['hint']}"]
        case "pattern":  # the value is not shown: it may be a secret
            return [f"{at}must be {node['hint']}"]
        case "minimum":
            return [f"{at}must be at least {rule}, not {value}"]
        case "maximum":
            return [f"{at}must be at most {rule}, not {value}"]
        case "exclusiveMinimum":
            return [f"{at}must be greater than {rule}, not {value}"]
        case "exclusiveMaximum":
            return [f"{at}must be less than {rule}, not {value}"]
        case "minItems" | "minLength" | "minProperties":
            return [f"{at}must not be empty; fill it in or leave the key out"]
        case "uniqueItems":
            twice = [item for index, item in enumerate(value) if item in value[:index]]
            return [f"{at}lists {_show(twice[0])} twice; list it once"]
    return [f"{at}{error.message}"]


def _unknown_key(key: str, known: dict) -> str:
    new = RENAMED.get(key)
    if new in known:
        return f"is called '{new}' here"
    near = difflib.get_close_matches(key, known, n=1)
    if not near:
        for section in ("training", "serving", "generation"):
            if key in schema()["properties"][section]["properties"]:
                return f"unknown key; it belongs under '{section}:'"
    return f"unknown key{_nearest(key, known)}"


def _secrets(value: Any, parts: tuple = ()) -> list[str]:
    """A key or value that looks like a secret, anywhere."""
    if isinstance(value, dict):
        items: Iterable = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        looks = isinstance(value, str) and SECRET_VALUE.match(value)
        return [_refuse_secret(parts)] if looks else []
    lines = []
    for key, item in items:
        if isinstance(key, str) and SECRET_NAME.search(key):
            lines.append(_refuse_secret((*parts, key)))
        else:
            lines += _secrets(item, (*parts, key))
    return lines


def _refuse_secret(parts: tuple) -> str:
    if parts[0] == "endpoints":
        instead = "export it as an environment variable and name that variable in key_env"
    elif "swanlab" in _path(parts):
        instead = "export SWANLAB_API_KEY instead"
    else:
        instead = "export it as an environment variable instead"
    return f"{_path(parts)}: secrets don't belong in a config; take it out and {instead}"


def _without_broken(config: dict, errors: list[jsonschema.ValidationError]) -> dict:
    """The config less the values that break the schema (a list goes as a whole)."""
    sound = copy.deepcopy(config) if errors else config
    for error in errors:
        if error.validator == "additionalProperties" or "propertyNames" in error.absolute_schema_path:
            continue
        parts = list(itertools.takewhile(lambda part: isinstance(part, str), error.absolute_path))
        if error.validator == "required" and len(parts) == len(error.absolute_path):
            continue
        if not parts:
            return {}
        holder = sound
        for part in parts[:-1]:
            holder = holder.get(part, {})
        holder.pop(parts[-1], None)
    return sound


def _check_names(config: dict) -> Iterator[str]:
    """Models, runs and endpoints share one space of names: each is a subject."""
    places: dict[str, str] = {}
    subjects = itertools.chain(
        ((name, f"models.{name}") for name in config.get("models", {})),
        ((name, place) for name, place, _ in expand_runs(config)),
        ((name, f"endpoints.{name}") for name in config.get("endpoints", {})),
    )
    for name, place in subjects:
        if name in places:
            yield f"{place}: the subject '{name}' is already defined by {places[name]}; rename one of them"
        places.setdefault(name, place)
    for name in config.get("sweeps", {}):
        if name in places or name in config.get("runs", {}):
            yield f"sweeps.{name}: '{name}' is also the name of a subject; rename one of them"


def _check_runs(config: dict) -> Iterator[str]:
    tuner = config.get("training", {}).get("tuner_type", "lora")
    for name, run in config.get("runs", {}).items():
        for key, section in (("model", "models"), ("dataset", "datasets")):
            if key in run and run[key] not in config.get(section, {}):
                hint = _nearest(run[key], config.get(section, {}))
                yield f"runs.{name}.{key}: {key} '{run[key]}' is not defined under '{section}:'{hint}"
        training = run.get("training", {})
        if "seeds" in run and "seed" in training:
            yield f"runs.{name}.training.seed: 'seeds' already says which seeds are used; leave one of them out"
        if run.get("serve") == "adapter" and training.get("tuner_type", tuner) == "full":
            yield f"runs.{name}.serve: full fine-tuning has no adapter; use 'merged' or leave it out"
    for name, model in config.get("models", {}).items():
        reference = model.get("reference")
        if reference is not None and reference not in references():
            hint = _nearest(reference, references())
            yield f"models.{name}.reference: '{reference}' is not in config/references.yaml{hint}"


def _check_sweeps(config: dict) -> Iterator[str]:
    training = schema()["properties"]["training"]["properties"]
    named = {"model": "models", "dataset": "datasets"}
    for name, sweep in config.get("sweeps", {}).items():
        run = sweep.get("run")
        if run is not None and run not in config.get("runs", {}):
            hint = _nearest(run, config.get("runs", {}))
            yield f"sweeps.{name}.run: run '{run}' is not defined under 'runs:'{hint}"
        for key, values in sweep.get("grid", {}).items():
            where = f"sweeps.{name}.grid.{key}"
            if key in named:
                section = config.get(named[key], {})
                for value in values:
                    if value not in section:
                        yield f"{where}: {key} '{value}' is not defined under '{named[key]}:'{_nearest(value, section)}"
            elif key in training and key != "extra":
                node = training[key]
                for index, value in enumerate(values):
                    for error in validator().evolve(schema=node).iter_errors(tidy(value, node)):
                        yield from (f"{where}[{index}]: {line}" for line in _explain(error))
            else:
                yield f"{where}: {_unknown_key(key, {**named, **training})}"
            if key == "seed" and "seeds" in config.get("runs", {}).get(run, {}):
                yield f"{where}: run '{run}' has 'seeds' already; leave one of them out"


def _check_extra(config: dict) -> Iterator[str]:
    """Pass-through flags must not say again, or undo, what another key says."""
    known = schema()["properties"]["training"]["properties"]
    places = [("training", config.get("training", {}))]
    places += [(f"runs.{name}.training", run.get("training", {})) for name, run in config.get("runs", {}).items()]
    for place, training in places:
        for flag in training.get("extra", {}):
            where = f"{place}.extra.{flag}"
            if flag in known:
                yield f"{where}: has a key of its own; write {place}.{flag}"
            elif flag in SET_BY_WORKFLOW:
                instead = SET_BY_WORKFLOW[flag]
                yield f"{where}: follows from {instead}; set that" if instead else f"{where}: is set by the workflow; leave it out"
            elif RENAMED.get(flag) in known:
                yield f"{where}: ms-swift calls this '{RENAMED[flag]}' now; write {place}.{RENAMED[flag]}"


def _check_benchmarks(config: dict) -> Iterator[str]:
    for name, stated in config.get("benchmarks", {}).items():
        where, preset_name = f"benchmarks.{name}", stated.get("preset", name)
        preset = presets().get(preset_name)
        if preset is None:
            yield f"{where}.preset: no preset '{preset_name}' in config/benchmarks.yaml{_nearest(preset_name, presets())}"
            continue
        hub = stated.get("hub", "modelscope")
        if "source" not in stated and preset["sources"].get(hub) is None:
            yield f"{where}.source: is missing; preset '{preset_name}' has no source for hub '{hub}', so give a folder or hub id"
        shots, allowed = stated.get("shots"), preset["allowed_shots"]
        if shots is not None and allowed is not None and shots not in allowed:
            yield f"{where}.shots: preset '{preset_name}' can show {_either(allowed)} examples, not {shots}"
        for subset in stated.get("subsets", []):
            if preset["subsets"] is not None and subset not in preset["subsets"]:
                yield f"{where}.subsets: '{subset}' is no subset of '{preset_name}'{_nearest(subset, preset['subsets'])}"


def _either(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers)) if len(numbers) < 3 else f"{numbers[0]} to {numbers[-1]}"


def _check_suites(config: dict) -> Iterator[str]:
    known = {**config.get("benchmarks", {}), **presets()}
    home: dict[str, str] = {}
    for suite, names in config.get("suites", {}).items():
        if suite in RESERVED_SUITES:
            yield f"suites.{suite}: results/tables/{suite}.md is another table; choose another name"
        for name in names:
            if name not in known:
                yield f"suites.{suite}: '{name}' is neither a benchmark nor a preset{_nearest(name, known)}"
            if name in home:
                yield f"suites.{suite}: benchmark '{name}' is already in suite '{home[name]}'; it can be in one only"
            home.setdefault(name, suite)


def _check_choice(config: dict) -> Iterator[str]:
    """What is evaluated and compared must exist."""
    runs, members = _subject_names(config)
    chosen = config.get("evaluate", {})
    for name in chosen.get("subjects", []):
        if name not in members:
            yield f"evaluate.subjects: '{name}' is no model, run or endpoint{_nearest(name, members)}"
    for name in chosen.get("suites", []):
        if name not in config.get("suites", {}):
            yield f"evaluate.suites: '{name}' is not defined under 'suites:'{_nearest(name, config.get('suites', {}))}"
    evaluated = {
        subject for name in chosen.get("subjects", members) for subject in members.get(name, [])
    }
    for index, pair in enumerate(config.get("comparisons", [])):
        for role, name in pair.items():
            where = f"comparisons[{index}].{role}"
            if name not in members:
                yield f"{where}: '{name}' is no model, run or endpoint{_nearest(name, members)}"
            elif not evaluated.issuperset(members[name]):
                yield f"{where}: '{name}' is not evaluated; add it to evaluate.subjects"
        if pair["baseline"] == pair["candidate"]:
            yield f"comparisons[{index}]: '{pair['baseline']}' is compared with itself"


# --- resolve ------------------------------------------------------------------------------------


def resolve(raw: dict) -> dict:
    """A config without errors, complete: every default filled in, everything inherited and expanded.

    Same top-level keys, and `subjects`: {name: {kind, model, run, form, serving, label}}. Runs are the expanded ones,
    each with `training` in full, `group` (its name without the seed), `sweep` and `point` (its place in the grid).
    """
    stated = tidy(raw, schema())
    config = _fill(stated, schema(), leave=ENTRIES)
    entries = schema()["properties"]

    def entry(section: str, name: str, **changes: Any) -> dict:
        """One named entry with its defaults; what is inherited is passed as `changes`."""
        given = stated[section][name]
        filled = _fill(given, entries[section]["additionalProperties"], leave=INHERITED)
        return {**filled, "label": filled.get("label") or name, **changes}

    config["models"] = {
        name: entry(
            "models", name, **_located(model), serving=_inherit(config["serving"], model.get("serving", {}))
        )
        for name, model in stated.get("models", {}).items()
    }
    config["datasets"] = {
        name: _fill(dataset, entries["datasets"]["additionalProperties"]) | _located(dataset)
        for name, dataset in stated.get("datasets", {}).items()
    }
    config["endpoints"] = {
        name: entry(
            "endpoints",
            name,
            serving=_inherit(config["serving"], {**endpoint.get("serving", {}), "backend": "endpoint"}),
        )
        for name, endpoint in stated.get("endpoints", {}).items()
    }
    config["runs"] = {name: _run(name, run, config) for name, _, run in expand_runs(stated)}
    config["sweeps"] = {
        name: {**sweep, "runs": [run for run in config["runs"] if config["runs"][run]["sweep"] == name]}
        for name, sweep in stated.get("sweeps", {}).items()
    }
    config["suites"] = stated.get("suites", {})
    config["benchmarks"] = _benchmarks(stated, config["generation"])
    config["resources"] = stated.get("resources", {})
    config["subjects"] = _subjects(config)

    _, members = _subject_names(stated)
    chosen = stated.get("evaluate", {})
    subjects = [subject for name in chosen.get("subjects", config["subjects"]) for subject in members[name]]
    config["evaluate"] = {
        "subjects": list(dict.fromkeys(subjects)),
        "suites": chosen.get("suites", list(config["suites"])),
    }
    config["comparisons"] = _comparisons(stated, config, members)
    return config


ENTRIES = ("models", "datasets", "runs", "sweeps", "endpoints", "benchmarks", "suites", "resources")
INHERITED = ("training", "serving", "generation")


def _fill(stated: dict, node: dict, leave: tuple = ()) -> dict:
    """`stated` and the defaults of the schema node, in the schema's order; keys in `leave` are left out."""
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


def _inherit(general: dict, special: dict) -> dict:
    """Settings with an `extra` map: the special ones go first, and `extra` is merged flag by flag."""
    return {**general, **special, "extra": {**general["extra"], **special.get("extra", {})}}


def _located(stated: dict, sources: dict | None = None, revision: str | None = None) -> dict:
    """Source, hub and revision. Without a stated source, those of a preset (`sources`: hub -> id)."""
    source, hub = stated.get("source"), stated.get("hub")
    if source is None:
        hub = hub or "modelscope"
        return {"source": sources[hub], "hub": hub, "revision": stated.get("revision", revision)}
    here = Path(source).expanduser().exists() or not HUB_ID.match(source)
    return {
        "source": source,
        "hub": hub or ("local" if here else "modelscope"),
        "revision": stated.get("revision"),
    }


def expand_runs(config: dict) -> Iterator[tuple[str, str, dict]]:
    """Every run that `runs` and `sweeps` stand for, as (name, place in the config, run).

    The run carries what was stated, and `group`, `sweep`, `point`. A sweep of an undefined run gives none.
    """
    runs = config.get("runs", {})
    for name, run in runs.items():
        yield from _expand_seeds(name, f"runs.{name}", {**run, "sweep": None, "point": {}})
    for sweep, stated in config.get("sweeps", {}).items():
        template, grid = runs.get(stated.get("run")), stated.get("grid", {})
        if template is None:
            continue
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, map(_scalar, grid, values), strict=True))
            inputs = {key: point[key] for key in ("model", "dataset") if key in point}
            training = {key: value for key, value in point.items() if key not in inputs}
            run = {
                **template,
                **inputs,
                "label": None,
                "training": {**template.get("training", {}), **training},
                "sweep": sweep,
                "point": point,
            }
            name = "-".join([sweep, *(f"{key}{_plain(value)}" for key, value in point.items())])
            yield from _expand_seeds(name, f"sweeps.{sweep}", run)


def _expand_seeds(name: str, place: str, run: dict) -> Iterator[tuple[str, str, dict]]:
    run = {**run, "group": name}
    if "seeds" not in run:
        yield name, place, run
        return
    for seed in run["seeds"]:
        label = f"{run['label']} (seed {seed})" if run.get("label") else None
        training = {**run.get("training", {}), "seed": seed}
        yield f"{name}-seed{seed}", place, {**run, "training": training, "label": label}


def _scalar(key: str, value: Any) -> Any:
    """A grid value as the schema of its key wants it (1e-4 may have been read as text)."""
    return tidy(value, schema()["properties"]["training"]["properties"].get(key, {}))


def _plain(value: Any) -> str:
    """A grid value as part of a run's name: 0.0001 -> "0.0001", true -> "true"."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list):
        text = "-".join(map(str, value))
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def _run(name: str, run: dict, config: dict) -> dict:
    training = _inherit(config["training"], run.get("training", {}))
    return {
        "model": run["model"],
        "dataset": run["dataset"],
        "training": training,
        "serve": "merged" if training["tuner_type"] == "full" else run.get("serve", "merged"),
        "serving": _inherit(config["models"][run["model"]]["serving"], run.get("serving", {})),
        "label": run.get("label") or name,
        "group": run["group"],
        "sweep": run["sweep"],
        "point": run["point"],
    }


def _benchmarks(stated: dict, generation: dict) -> dict:
    """Benchmarks defined, or named in a suite only, each with its preset filled in."""
    home = {name: suite for suite, names in stated.get("suites", {}).items() for name in names}
    defined = {**stated.get("benchmarks", {}), **{name: {} for name in home if name not in stated.get("benchmarks", {})}}
    node = schema()["properties"]["benchmarks"]["additionalProperties"]
    benchmarks = {}
    for name, given in defined.items():
        preset_name = given.get("preset", name)
        preset = presets()[preset_name]
        subsets = given.get("subsets", list(preset["subsets"] or ["default"]))
        facts = ("dataset", "config", "subset_field", "eval_split", "few_shot_split", "fields", "answer", "options", "language")
        benchmarks[name] = {
            "preset": preset_name,
            **{key: preset[key] for key in facts},
            **_fill(given, node, leave=INHERITED),
            **_located(given, preset["sources"], preset["revision"]),
            "chance": 1 / preset["options"] if preset["options"] else None,
            "subsets": subsets,
            # how many questions there are, known before anything is fetched; of somebody else's data, nothing is known
            "published": None if "source" in given else {subset: preset["subsets"][subset] for subset in subsets},
            "shots": given.get("shots", preset["shots"]),
            "generation": {**generation, **given.get("generation", {})},
            "label": given.get("label") or (preset["label"] if preset_name == name else name),
            "suite": home.get(name),
        }
    return benchmarks


def _subjects(config: dict) -> dict:
    def subject(kind: str, form: str, entry: dict, model: str | None = None, run: str | None = None) -> dict:
        same = {key: entry[key] for key in ("serving", "label")}
        return {"kind": kind, "model": model, "run": run, "form": form, **same}

    return {
        **{name: subject("model", "base", model, name) for name, model in config["models"].items()},
        **{name: subject("run", run["serve"], run, run["model"], name) for name, run in config["runs"].items()},
        **{name: subject("endpoint", "endpoint", endpoint) for name, endpoint in config["endpoints"].items()},
    }


def _subject_names(config: dict) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(run -> its base model, name -> the subjects it stands for); runs with seeds and sweeps stand for several."""
    bases: dict[str, str] = {}
    members = {name: [name] for section in ("models", "endpoints") for name in config.get(section, {})}
    for name, _, run in expand_runs(config):
        bases[name] = run.get("model")
        members.setdefault(name, [name])
        for whole in {run["group"], run["sweep"]} - {name, None}:
            members.setdefault(whole, []).append(name)
    return bases, members


def _comparisons(stated: dict, config: dict, members: dict[str, list[str]]) -> list[dict]:
    """The pairs asked for, or every evaluated run against its own base model."""
    if "comparisons" in stated:
        pairs = [
            (baseline, candidate)
            for pair in stated["comparisons"]
            for baseline in members[pair["baseline"]]
            for candidate in members[pair["candidate"]]
        ]
    else:
        evaluated = set(config["evaluate"]["subjects"])
        pairs = [
            (run["model"], name)
            for name, run in config["runs"].items()
            if {name, run["model"]} <= evaluated
        ]
    return [{"baseline": baseline, "candidate": candidate} for baseline, candidate in dict.fromkeys(pairs)]
