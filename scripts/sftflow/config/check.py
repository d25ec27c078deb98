"""What is wrong with a config: every error at once, one line each, in the user's words.

A line says where, what, and what to do: "runs.a.datset: unknown key; did you mean 'dataset'?"
"""

import copy
import difflib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from string import Formatter
from typing import Any

import jsonschema
from sftflow.config import backend
from sftflow.config.expand import (
    MOST_RUNS,
    checkpoint_subjects,
    count_runs,
    evaluated_names,
    expand_runs,
    members,
)
from sftflow.config.flags import HOMES, other_names, refusal, spelt
from sftflow.config.names import nearest, unknown_names
from sftflow.config.schema import (
    LARGEST,
    follow,
    preset_hub,
    presets,
    references,
    schema,
    section,
    tidy,
    types,
    validator,
)
from sftflow.config.sources import missing
from sftflow.core import gpu
from sftflow.core.layout import CRISIS_SET, TABLES

SECRET_NAME = re.compile(r"(^|[_-])(api[_-]?key|token|secret|passw(or)?d|credentials?)$", re.I)
SECRET_HEADER = re.compile(r"authorization|cookie|key$", re.I)
SECRET_VALUE = re.compile(r"^(sk-|hf_|ghp_|github_pat_)[\w-]{16,}$")

KINDS = {
    "object": "a map (key: value)",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def check(raw: dict, here: bool = False, gpus: bool = False, auto: str = backend.SLOW) -> list[str]:
    """All errors of a config as written; an empty list when there are none.

    `here`: local sources must lie on this machine, seen from the working directory. `gpus`: jobs
    run on this machine, so that `device: cuda` needs a GPU in it. `auto`: what backend that is.
    """
    config = tidy(raw, schema())
    broken = list(validator().iter_errors(config))
    sound = _without(config, broken)  # so that one error neither hides nor causes another
    endless = list(_sizes(sound))
    if endless:  # what can't be counted out can't be looked at run by run
        sound = {**sound, "runs": {}, "sweeps": {}, "comparisons": [], "evaluate": {}}
    everything = sound.get("stage", "all") == "all"
    lines = itertools.chain(
        itertools.chain.from_iterable(map(_explain, broken)),
        _secrets(config),
        _not_finite(sound),
        endless,
        _names(sound),
        _runs(sound),
        _sweeps(sound),
        _halving(sound),
        _undecided(sound),
        _extra(sound),
        _benchmarks(sound),
        _repeats(sound, auto),
        _suites(sound),
        _endpoints(sound),
        _choices(sound),
        _judges(sound),
        unknown_names(sound) if sound.get("software") != "active" else (),
        missing(sound) if here and everything else (),
        _no_gpu(sound) if gpus and everything else (),
        _no_key(sound) if here and everything else (),
    )
    return list(dict.fromkeys(lines))


# --- errors of form: what the schema says ---------------------------------------------------------


def _explain(error: jsonschema.ValidationError) -> list[str]:
    """One line per mistake, in words that need no knowledge of JSON Schema."""
    path, node, value, rule = (
        error.absolute_path,
        error.schema,
        error.instance,
        error.validator_value,
    )
    is_name = "propertyNames" in error.absolute_schema_path
    at = f"{_place(path)}: " if path else ""
    match error.validator:
        case "additionalProperties":
            return [
                f"{_place([*path, key])}: {_unknown_key(key, node['properties'])}"
                for key in value
                if key not in node["properties"] and not SECRET_NAME.search(key)
            ]
        case "required":
            missing = [key for key in rule if key not in value]
            meaning = {key: follow(node["properties"][key])["description"] for key in missing}
            return [f"{_place([*path, key])}: is missing. {meaning[key]}" for key in missing]
        case "type":
            if limit := _limit(value, types(node)):
                return [f"{at}{limit}"]
            kinds = " or ".join(KINDS[kind] for kind in types(node))
            quotes = "string" in types(node) and isinstance(value, int | float)
            return [f"{at}must be {kinds}, not {_show(value)}{'; put it in quotes' * quotes}"]
        case "enum" if is_name:
            return [f"{_place([*path, value])}: unknown name{nearest(value, rule)}"]
        case "enum":
            return [f"{at}unknown value {_show(value)}{nearest(value, map(_plain, rule))}"]
        case "pattern" if is_name:
            return [f"{_place([*path, value])}: can't be a name; use {node['hint']}"]
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
            return [f"{at}lists {_show(_twice(value))} twice; list it once"]
    return [f"{at}{error.message}"]


def _limit(value: Any, kinds: list[str]) -> str | None:
    """Why a number, where one is wanted, is out of all bounds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not {"number", "integer"} & set(kinds):
        return None
    if not validator().is_type(value, "number"):
        return f"must be a finite number, not {_show(value)}"
    if "number" not in kinds and value > LARGEST:
        return f"must be at most {LARGEST:,}, not {_show(value)}"
    return None


def _twice(items: list) -> Any:
    """The first item of a list that stands in it before."""
    seen = set()
    for item in items:
        same = repr(item) if isinstance(item, dict | list) else (isinstance(item, bool), item)
        if same in seen:
            return item
        seen.add(same)


def _unknown_key(key: str, known: dict[str, dict]) -> str:
    if new := other_names(known).get(spelt(key)):
        return f"is called '{new}' here"
    if not difflib.get_close_matches(key, known, n=1):
        for home in ("training", "serving", "generation"):
            if key in section(home)["properties"]:
                return f"unknown key; it belongs under '{home}:'"
    return f"unknown key{nearest(key, known)}"


def _place(parts: Iterable[str | int]) -> str:
    """("comparisons", 0, "baseline") -> "comparisons[0].baseline"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _plain(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _show(value: Any) -> str:
    """A value in a message: short, and never a secret."""
    if isinstance(value, str):
        text = "(a secret)" if SECRET_VALUE.match(value) else f"'{value}'"
    else:
        text = _plain(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without(config: dict, errors: list[jsonschema.ValidationError]) -> dict:
    """The config less the values that break the schema; of a list, the whole list."""
    sound = copy.deepcopy(config) if errors else config
    for error in errors:
        is_name = "propertyNames" in error.absolute_schema_path
        path = list(error.absolute_path)
        keys = list(itertools.takewhile(lambda part: isinstance(part, str), path))
        # an unknown or missing key, or a bad name, leaves the rest of its map usable
        if is_name or (error.validator in ("additionalProperties", "required") and keys == path):
            continue
        holder = sound
        for key in keys[:-1]:
            holder = holder.get(key, {})
        holder.pop(keys[-1], None)
    return sound


def _not_finite(value: Any, path: tuple = ()) -> Iterator[str]:
    """NaN and infinity where the schema says nothing, as below `extra`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{_place(path)}: must be a finite number, not {_show(value)}"
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(item, (*path, key))


def _secrets(value: Any, path: tuple = ()) -> Iterator[str]:
    """A name or a value that looks like a secret, anywhere."""
    if isinstance(value, str) and SECRET_VALUE.match(value):
        yield _refuse(path)
    if not isinstance(value, dict | list):
        return
    headers = path[:1] == ("endpoints",) and path[2:] == ("headers",)
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if headers and "$" in str(item):  # the name of an environment variable
            continue
        secret = SECRET_NAME.search(str(key)) or (headers and SECRET_HEADER.search(str(key)))
        if isinstance(key, str) and secret:
            yield _refuse((*path, key))
        else:
            yield from _secrets(item, (*path, key))


def _refuse(path: tuple) -> str:
    if path[0] == "endpoints" and "headers" in path:
        instead = "export it as an environment variable NAME and write $NAME"
    elif path[0] == "endpoints":
        instead = "export it as an environment variable and name that variable in key_env"
    elif "serving" in path:
        instead = "let the workflow make a new key for each server"
    elif "swanlab" in _place(path):
        instead = "export SWANLAB_API_KEY instead"
    else:
        instead = "export it as an environment variable instead"
    return f"{_place(path)}: a secret does not belong in a config; take it out and {instead}"


# --- errors of meaning: what refers to what -------------------------------------------------------


def _undefined(name: str, kind: str, config: dict) -> str:
    """Why `name` is no entry of the map `kind`."""
    return f"'{name}' is not defined under '{kind}:'{nearest(name, config.get(kind, {}))}"


def _names(config: dict) -> Iterator[str]:
    """Models, runs and endpoints share one space of names: each is a subject."""
    subjects = [(name, f"models.{name}") for name in config.get("models", {})]
    subjects += [(name, place) for name, place, _ in expand_runs(config)]
    subjects += [(name, f"endpoints.{name}") for name in config.get("endpoints", {})]
    places: dict[str, str] = {}
    for name, place in subjects:
        if name in places:
            yield f"{place}: '{name}' is taken by {places[name]}; rename one of them"
        places.setdefault(name, place)
    # a run with seeds, and a sweep, are no subjects, but their names stand for some
    for kind in ("runs", "sweeps"):
        for name in config.get(kind, {}):
            if places.setdefault(name, f"{kind}.{name}") != f"{kind}.{name}":
                yield f"{kind}.{name}: '{name}' is taken by {places[name]}; rename one of them"


def _sizes(config: dict) -> Iterator[str]:
    """A study of more runs than anybody can mean."""
    counts = count_runs(config)
    large = {place: count for place, count in counts.items() if count > MOST_RUNS}
    for place, count in large.items():
        key = "seeds" if place.startswith("runs.") else "grid"
        yield f"{place}.{key}: stands for {count:,} runs; a study has at most {MOST_RUNS:,}"
    if not large and sum(counts.values()) > MOST_RUNS:
        total = f"{sum(counts.values()):,} runs together; a study has at most {MOST_RUNS:,}"
        yield f"runs, sweeps: {total}"


def _runs(config: dict) -> Iterator[str]:
    general = config.get("training", {})
    for name, run in config.get("runs", {}).items():
        for key, kind in (("model", "models"), ("dataset", "datasets")):
            if key in run and run[key] not in config.get(kind, {}):
                yield f"runs.{name}.{key}: {_undefined(run[key], kind, config)}"
        training = run.get("training", {})
        if "seeds" in run and "seed" in training:
            yield f"runs.{name}.training.seed: 'seeds' says it already; leave one of them out"
        if run.get("serve") == "adapter" and (general | training).get("tuner_type") == "full":
            yield f"runs.{name}.serve: full fine-tuning has no adapter; write 'merged'"
    for _, place, run in expand_runs(config):
        training = general | run.get("training", {})
        gpus, steps = (_stated(key, training) for key in ("gpus", "gradient_accumulation_steps"))
        whole = isinstance(gpus, int) and isinstance(steps, int) and gpus > 0
        if whole and steps % gpus:
            yield f"{place}: gradient_accumulation_steps {steps} is no multiple of gpus {gpus}"
        yield from (f"{place}: precision fp8 {line}" for line in _not_in_fp8(training))
        asked, every = (_stated(key, training) for key in ("checkpoints", "save_steps"))
        if isinstance(asked, list) and isinstance(every, int):
            for step in (step for step in asked if step % every):
                yield (
                    f"{place}: checkpoints {step} is no multiple of save_steps {every}, and only "
                    "these are saved; the last step is measured in any case"
                )
    for name, model in config.get("models", {}).items():
        known = model.get("reference")
        if known is not None and known not in references():
            hint = nearest(known, references())
            yield f"models.{name}.reference: '{known}' is not in config/references.yaml{hint}"


def _not_in_fp8(training: dict) -> Iterator[str]:
    """Why `precision: fp8` can't be had of a training; whether a GPU has it, its job says."""
    if training.get("precision") != "fp8":
        return
    if (tuner := _stated("tuner_type", training)) != "lora":
        yield f"rounds a frozen base: tuner_type is {tuner}, not lora"
    if (dtype := _stated("torch_dtype", training)) != "bfloat16":
        yield f"needs torch_dtype bfloat16, not {dtype}"
    if _stated("device", training) == "cpu":
        yield "needs a GPU: device is cpu"
    if training.get("fused_lora") is False:
        yield "is a part of fused_lora, which is false"
    if (training.get("extra") or {}).get("quant_method"):
        yield "needs a base that is not quantised: leave out extra.quant_method"


def _stated(key: str, training: dict) -> Any:
    """A training setting as stated, or its default."""
    return training.get(key, section("training")["properties"][key]["default"])


def _sweeps(config: dict) -> Iterator[str]:
    for name, sweep in config.get("sweeps", {}).items():
        run, grid = sweep.get("run"), sweep.get("grid", {})
        if run is not None and run not in config.get("runs", {}):
            yield f"sweeps.{name}.run: {_undefined(run, 'runs', config)}"
        if "seed" in grid and "seeds" in config.get("runs", {}).get(run, {}):
            yield f"sweeps.{name}.grid.seed: run '{run}' has 'seeds'; leave one of them out"
        for key, values in grid.items():
            yield from (f"sweeps.{name}.grid.{key}{line}" for line in _axis(key, values, config))


# Validation losses of other dialogues, or in other tokens, do not compare.
OTHER_LOSSES = ("model", "dataset", "max_length", "too_long")


def _halving(config: dict) -> Iterator[str]:
    """A sweep whose points can't be told apart by validation loss, or are too few for its rungs."""
    known = section("sweeps")["additionalProperties"]["properties"]["halving"]["properties"]
    for name, sweep in config.get("sweeps", {}).items():
        if "halving" not in sweep:
            continue
        at, grid = f"sweeps.{name}.halving", sweep.get("grid", {})
        for key in OTHER_LOSSES:
            if key in grid:
                yield (
                    f"{at}: chooses by validation loss, which does not compare between values of "
                    f"{key}; leave {key} out of the grid, or halving out of the sweep"
                )
        factor, rungs = (sweep["halving"].get(k, known[k]["default"]) for k in ("factor", "rungs"))
        points = left = math.prod(len(values) for key, values in grid.items() if key != "seed")
        for _ in range(rungs - 1):
            left = math.ceil(left / factor)
        if left < 2:
            yield (
                f"{at}: the last of {rungs} rungs would find one point of {points}, and nothing to "
                "choose; write fewer rungs, or more values in the grid"
            )
        dataset = config.get("runs", {}).get(sweep.get("run"), {}).get("dataset")
        if config.get("datasets", {}).get(dataset, {}).get("validation_share") == 0:
            yield (
                f"{at}: chooses by validation loss, and datasets.{dataset}.validation_share is 0; "
                "set it"
            )


def _undecided(config: dict) -> Iterator[str]:
    """Names of what may not be trained to its end."""
    sweeps: dict[str, str] = {}
    for name, _, run in expand_runs(config):
        if "halving" in config.get("sweeps", {}).get(run["sweep"], {}):
            names = {name, run["group"], *checkpoint_subjects(config, name, run)}
            sweeps |= dict.fromkeys(names, run["sweep"])
    named = [("evaluate.subjects", name) for name in config.get("evaluate", {}).get("subjects", [])]
    for index, pair in enumerate(config.get("comparisons", [])):
        named += [(f"comparisons[{index}].{role}", name) for role, name in pair.items()]
    for judge, entry in config.get("judges", {}).items():
        named.append((f"judges.{judge}.subject", entry.get("subject")))
    for place, name in named:
        if name in sweeps:
            yield (
                f"{place}: whether '{name}' is trained to its end, sweeps.{sweeps[name]}.halving "
                f"decides; name the sweep '{sweeps[name]}', or leave its halving out"
            )


def _axis(key: str, values: list, config: dict) -> Iterator[str]:
    """What is wrong with one key of a grid, to be appended to its place."""
    inputs = {"model": "models", "dataset": "datasets"}
    runs = section("runs")["additionalProperties"]["properties"]
    known = {key: node for key, node in section("training")["properties"].items() if key != "extra"}
    if key in inputs:
        for index, value in enumerate(values):
            if not isinstance(value, str) or value not in config.get(inputs[key], {}):
                yield f"[{index}]: {_undefined(value, inputs[key], config)}"
    elif key in known:
        for index, value in enumerate(values):
            one = validator().evolve(schema=known[key])
            for error in one.iter_errors(value):
                yield from (f"[{index}]: {line}" for line in _explain(error))
    else:
        yield f": {_unknown_key(key, {**{name: runs[name] for name in inputs}, **known})}"


def _extra(config: dict) -> Iterator[str]:
    """A pass-through flag must not say again, or undo, what a key says."""
    places = {home: config.get(home, {}) for home in HOMES}
    for kind in ("models", "runs"):
        for name, entry in config.get(kind, {}).items():
            places |= {f"{kind}.{name}.{home}": entry.get(home, {}) for home in HOMES}
    for place, settings in places.items():
        for flag in settings.get("extra", {}):
            why = refusal(place.rpartition(".")[2], flag)
            if why and not SECRET_NAME.search(flag):
                yield f"{place}.extra.{flag}: {why.format(home=place)}"


def _no_gpu(config: dict) -> Iterator[str]:
    """`device: cuda`, stated for a training or a server, on a machine without a GPU."""
    entries = {place: config.get(place, {}) for place in ("training", "serving")}
    for kind in ("models", "runs"):
        for name, entry in config.get(kind, {}).items():
            entries |= {
                f"{kind}.{name}.{part}": entry.get(part, {}) for part in ("training", "serving")
            }
    asked = [place for place, entry in entries.items() if entry.get("device") == "cuda"]
    asked += [
        f"sweeps.{name}.grid"
        for name, sweep in config.get("sweeps", {}).items()
        if "cuda" in sweep.get("grid", {}).get("device", [])
    ]
    if asked and gpu.absent():
        for place in asked:
            yield f"{place}.device: cuda, but this machine has no GPU; write auto or cpu"


def _no_key(config: dict) -> Iterator[str]:
    """SwanLab's cloud, wanted for trainings, where no key is exported."""
    mode = config.get("tracking", {}).get("swanlab", {}).get("mode")
    trains = config.get("runs") or config.get("sweeps")
    if mode == "cloud" and trains and not os.environ.get("SWANLAB_API_KEY", "").strip():
        yield (
            "tracking.swanlab.mode: cloud, but SWANLAB_API_KEY is not exported; export it, or "
            "write offline and upload later"
        )


def _benchmarks(config: dict) -> Iterator[str]:
    for name, stated in config.get("benchmarks", {}).items():
        at, preset_name = f"benchmarks.{name}", stated.get("preset", name)
        preset = presets().get(preset_name)
        if preset is None:
            hint = nearest(preset_name, presets())
            yield f"{at}.preset: '{preset_name}' is not in config/benchmarks.yaml{hint}"
            continue
        hub, shots = preset_hub(stated, preset["sources"]), stated.get("shots")
        if "source" not in stated and preset["sources"].get(hub) is None:
            yield (
                f"{at}.source: is missing; preset '{preset_name}' has none on hub '{hub}'. "
                "Give a folder or a hub id"
            )
        allowed = preset["allowed_shots"]
        if shots is not None and allowed is not None and shots not in allowed:
            numbers = ", ".join(map(str, allowed))
            yield f"{at}.shots: '{preset_name}' can't show {shots} examples; valid: {numbers}"
        for subset in stated.get("subsets", []):
            if preset["subsets"] is not None and subset not in preset["subsets"]:
                hint = nearest(subset, preset["subsets"])
                yield f"{at}.subsets: '{subset}' is no subset of '{preset_name}'{hint}"
        if stated.get("multiple_correct") and preset["dataset"] != "general_mcq":
            yield f"{at}.multiple_correct: '{preset_name}' has one right option; leave it out"
        if stated.get("prompt") is not None:
            yield from (f"{at}.prompt: {line}" for line in _prompt(stated["prompt"], preset))


# Place-holders of a prompt, by the kind of answer: those that it must have, and that it may.
PLACEHOLDERS = {
    "multiple_choice": (["question", "choices"], ["letters"]),
    "numeric": (["question"], []),
}
ANSWER_MARK = re.compile(r"answer\s*:", re.I)  # after which evalscope reads a letter


def _prompt(template: str, preset: dict) -> Iterator[str]:
    """What is wrong with a prompt of the user's own: evalscope formats it with str.format."""
    if preset["prompt"] is not True:
        yield f"{preset['label']} can have no other prompt: {preset['prompt']}. Leave it out"
        return
    needed, allowed = PLACEHOLDERS[preset["answer"]]
    try:
        found = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        yield f"{error}; write {{{{ and }}}} for braces that are no place-holder"
        return
    for name in sorted({*found} - {*needed, *allowed}):
        known = ", ".join(f"{{{place}}}" for place in [*needed, *allowed])
        yield f"{{{name}}} is no place-holder (those are {known}); write {{{{ and }}}} for braces"
    for name in needed:
        if name not in found:
            yield f"{{{name}}} is missing, where evalscope puts the {name}"
    if preset["answer"] == "multiple_choice" and not ANSWER_MARK.search(template):
        yield 'must ask for the answer in the form "ANSWER: X", which evalscope reads'


def _repeats(config: dict, auto: str) -> Iterator[str]:
    """Repeats of one question differ by their seeds, which ms-swift's server never reads."""
    stands_for = members(config)
    evaluated = {s for name in evaluated_names(config) for s in stands_for.get(name, [])}
    slow = {name for name, kind in _backends(config, auto) if kind == backend.SLOW}
    unseeded = sorted(evaluated & slow)
    general = config.get("generation", {})
    for name, stated in config.get("benchmarks", {}).items():
        warm = (general | stated.get("generation", {})).get("temperature", 0) > 0
        if stated.get("repeats", 1) > 1 and warm and unseeded:
            yield (
                f"benchmarks.{name}.repeats: are told apart by their seeds, and the backend "
                f"{backend.SLOW}, which serves {', '.join(unseeded)}, never reads a seed; "
                "write 1, or serving.backend: vllm"
            )


def _backends(config: dict, auto: str) -> Iterator[tuple[str, str]]:
    """(subject, backend) of every model and run."""

    def stated(entry: dict, otherwise: str) -> str:
        name = entry.get("serving", {}).get("backend", otherwise)
        return auto if name == "auto" else name

    general = stated(config, "auto")
    models = {name: stated(model, general) for name, model in config.get("models", {}).items()}
    yield from models.items()
    for name, _, run in expand_runs(config):
        own = stated(run, models.get(run.get("model"), general))
        yield from ((one, own) for one in (name, *checkpoint_subjects(config, name, run)))


def _suites(config: dict) -> Iterator[str]:
    defined = config.get("benchmarks", {})
    complete = {name for name, preset in presets().items() if any(preset["sources"].values())}
    home: dict[str, str] = {}
    for suite, names in config.get("suites", {}).items():
        if suite in TABLES:
            yield f"suites.{suite}: results/tables/{suite}.md is another table; rename the suite"
        for name in names:
            if name not in defined and name not in complete:
                hint = nearest(name, [*defined, *sorted(complete - set(defined))])
                yield f"suites.{suite}: '{name}' is neither a benchmark nor a preset{hint}"
            if name in home:
                yield f"suites.{suite}: '{name}' is already in suite '{home[name]}'; keep it in one"
            home.setdefault(name, suite)


def _endpoints(config: dict) -> Iterator[str]:
    """What is set in one place is not set in another."""
    for name, endpoint in config.get("endpoints", {}).items():
        known = set(section("generation")["properties"]) - set(endpoint.get("omit", []))
        for key in known & set(endpoint.get("extra_body", {})):
            yield (
                f"endpoints.{name}.extra_body.{key}: set generation.{key}, or name {key} in this "
                "endpoint's omit, too"
            )


def _choices(config: dict) -> Iterator[str]:
    """What is evaluated and compared must exist."""
    stands_for, chosen = members(config), config.get("evaluate", {})
    evaluated: set[str] = set()
    for name in evaluated_names(config):
        if name not in stands_for:
            hint = nearest(name, stands_for)
            yield f"evaluate.subjects: '{name}' is no model, run or endpoint{hint}"
        evaluated.update(stands_for.get(name, []))
    for name in chosen.get("suites", []):
        if name not in config.get("suites", {}):
            yield f"evaluate.suites: {_undefined(name, 'suites', config)}"
    for index, pair in enumerate(config.get("comparisons", [])):
        for role, name in pair.items():
            at = f"comparisons[{index}].{role}"
            if name not in stands_for:
                yield f"{at}: '{name}' is no model, run or endpoint{nearest(name, stands_for)}"
            elif not evaluated.issuperset(stands_for[name]):
                yield f"{at}: '{name}' is not evaluated; add it to evaluate.subjects"
        if pair["baseline"] == pair["candidate"]:
            yield f"comparisons[{index}]: '{pair['baseline']}' is compared with itself"


def _judges(config: dict) -> Iterator[str]:
    """A judge must be somebody, and somebody else than who is judged."""
    stands_for, evaluated = members(config), evaluated_names(config)
    served = {name: _served(name, config) for name in stands_for}
    for name, _, run in expand_runs(config):
        of_run = (name, *checkpoint_subjects(config, name, run))
        served |= dict.fromkeys(of_run, _served(run.get("model"), config))
    runs = [(str(run.get("model")), name) for name, _, run in expand_runs(config)]
    known = {subject for name in evaluated for subject in stands_for.get(name, [])}
    pairs = [
        (first, second)
        for pair in config.get("comparisons", [])
        for first in stands_for.get(pair.get("baseline"), [])
        for second in stands_for.get(pair.get("candidate"), [])
    ]
    if "comparisons" not in config:
        pairs = [pair for pair in runs if known.issuperset(pair)]
    for name, judge in config.get("judges", {}).items():
        at, subject = f"judges.{name}.subject", judge.get("subject")
        if subject not in stands_for:
            hint = nearest(subject, stands_for)
            yield f"{at}: '{subject}' is no model, run or endpoint{hint}"
        elif stands_for[subject] != [subject]:
            yield f"{at}: '{subject}' stands for several runs; name one of {stands_for[subject]}"
        else:
            for side in dict.fromkeys(side for pair in pairs for side in pair):
                if served[side] == served[subject]:
                    kin = "itself" if side == subject else "of the same base model"
                    yield (
                        f"{at}: '{subject}' would judge its own kind: '{side}' is {kin}. Name "
                        "another judge, or leave the pair out of comparisons"
                    )
    if config.get("judges"):
        names: dict[str, tuple] = {}
        for pair in pairs:
            if names.setdefault("--".join(pair), pair) != pair:
                yield f"comparisons: two pairs would be called '{'--'.join(pair)}'; rename one"
    asked = config.get("judges") or config.get("dialogue", {}).get("crisis")
    if asked and CRISIS_SET in config.get("datasets", {}):
        yield f"datasets.{CRISIS_SET}: is what the messages of a crisis are called; rename it"


def _served(name: str | None, config: dict) -> tuple:
    """What tells whether two subjects are of one model: a model's source, an endpoint's model."""
    if name in config.get("endpoints", {}):
        entry = config["endpoints"][name]
        return entry.get("url"), entry.get("model")
    source = config.get("models", {}).get(name, {}).get("source", name)
    return (str(source),)
