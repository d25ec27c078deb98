"""What the job of each rule is told, and what of it decides whether the job's result still stands.

Every key of the schema states `affects` and `jobs`. A job is told the keys that name its rule, and
nothing else: a key that it is not told can't make it run again. Of those, the ones that affect
weights, answers or scores *decide*: their values are written into what the job makes, as
`made_with`, they are what Snakemake compares (`params`), and what a stale mark names.
"""

import inspect
import json
from collections.abc import Callable
from functools import cache
from typing import Any, NotRequired, TypedDict, cast

from sftflow.config.schema import follow, preset_schema, schema
from sftflow.core import identity
from sftflow.core.jsonio import digest
from sftflow.core.layout import pair_name

DECIDING = {"weights", "answers", "scores"}
# Jobs that are cheap and whose result is a record: for them, what is recorded decides, too.
RECORDING = {"track_scores", "keep_checkpoints"}
SHOWN = 60  # characters of a value that Snakemake shows as a reason


class Model(TypedDict):
    """What training, merging and serving must know about a base model besides its weights."""

    name: str
    model_type: str | None
    template: str | None
    agent_template: NotRequired[str]
    system: NotRequired[str | None]
    thinking: NotRequired[bool | None]


class Told(TypedDict):
    """Settings of a job: its own keys beside `made_with`, what of them decides: {key: value}."""

    made_with: dict[str, Any]


class OfRun(Told):
    """Of the jobs of a run."""

    run: str
    training: dict[str, Any]
    model: Model


class TrainRun(OfRun):
    swanlab: dict[str, Any]


class HalveSweep(Told):
    """The runs of each point, and which part of them goes on after a rung at 1/part of the steps;
    `made_with` has the digest of what decides about each training, too."""

    sweep: str
    part: int
    points: dict[str, list[str]]
    factor: NotRequired[int]


class OfSubject(Told):
    """Of the jobs that ask a subject: a model's or an endpoint's, exactly one of them."""

    subject: str
    form: str
    serving: dict[str, Any]
    backend: dict[str, Any]
    model: NotRequired[Model]
    endpoint: NotRequired[dict[str, Any]]


class ServeSubject(OfSubject):
    prompts: list[str]
    generation: dict[str, Any]
    chosen: str


class OfDialogue(OfSubject):
    """Of the jobs that look at dialogues: keys of the config's `dialogue`."""

    dialogue: dict[str, Any]
    generation: NotRequired[dict[str, Any]]


class OfJudge(OfSubject):
    """Of the jobs of a judge: keys of its entry, and the pair that it compares, if it does."""

    judge: dict[str, Any]
    generation: dict[str, Any]
    pair: NotRequired[dict[str, str]]


class OfBenchmarks(dict[str, Any]):
    """A key's value for each benchmark of a suite."""


class EvaluateSuite(OfSubject):
    suite: str
    benchmarks: dict[str, dict]


# --- from the annotations -------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[], dict]] = {
    "models": lambda: schema()["properties"]["models"]["additionalProperties"],
    "datasets": lambda: schema()["properties"]["datasets"]["additionalProperties"],
    "runs": lambda: schema()["properties"]["runs"]["additionalProperties"],
    "halving": lambda: schema()["properties"]["sweeps"]["additionalProperties"]["properties"][
        "halving"
    ],
    "endpoints": lambda: schema()["properties"]["endpoints"]["additionalProperties"],
    "benchmarks": lambda: schema()["properties"]["benchmarks"]["additionalProperties"],
    "presets": lambda: preset_schema()["additionalProperties"],
    "training": lambda: schema()["properties"]["training"],
    "serving": lambda: schema()["properties"]["serving"],
    "generation": lambda: schema()["properties"]["generation"],
    "judges": lambda: schema()["properties"]["judges"]["additionalProperties"],
    "dialogue": lambda: schema()["properties"]["dialogue"],
    "contamination": lambda: schema()["properties"]["contamination"],
    "statistics": lambda: schema()["properties"]["statistics"],
    "swanlab": lambda: schema()["properties"]["tracking"]["properties"]["swanlab"],
    "": schema,  # keys at the top
}


@cache
def annotations(section: str) -> dict[str, dict]:
    """{key: its schema node} of a section, for the keys that carry a value of their own."""
    nodes = {key: follow(node) for key, node in SECTIONS[section]()["properties"].items()}
    return {key: node for key, node in nodes.items() if "jobs" in node}


@cache
def told(rule: str, section: str) -> tuple[str, ...]:
    """Keys of a section that the jobs of a rule are told. KeyError for a rule that is none."""
    JOBS[rule]
    return tuple(key for key, node in annotations(section).items() if rule in node["jobs"])


@cache
def deciding(rule: str, section: str) -> tuple[str, ...]:
    """Those of the keys told that decide whether a job's result still stands."""
    affects = DECIDING | ({"record"} if rule in RECORDING else set())
    nodes = annotations(section)
    return tuple(key for key in told(rule, section) if nodes[key]["affects"] in affects)


def pick(rule: str, section: str, entry: dict) -> dict:
    """What of an entry the rule is told."""
    return {key: entry[key] for key in told(rule, section) if key in entry}


def decisions(rule: str, entries: dict[str, dict]) -> dict[str, Any]:
    """{"training.learning_rate": 0.0001, …} from {section: its entry}."""
    return {
        f"{section}.{key}" if section else key: entry[key]
        for section, entry in entries.items()
        for key in deciding(rule, section)
        if key in entry
    }


# --- what each job is told ------------------------------------------------------------------------


def fetch_dataset(study: dict, dataset: str) -> Told:
    return _flat("fetch_dataset", "datasets", study["datasets"][dataset])


def prepare_dataset(study: dict, dataset: str) -> Told:
    return _flat("prepare_dataset", "datasets", study["datasets"][dataset])


def fetch_model(study: dict, model: str) -> Told:
    return _flat("fetch_model", "models", study["models"][model])


def native_tokenizer(study: dict, model: str) -> Told:
    return _flat("native_tokenizer", "models", study["models"][model])


def native_model(study: dict, model: str) -> Told:
    return _flat("native_model", "models", study["models"][model])


def fetch_benchmark(study: dict, benchmark: str) -> Told:
    """Which questions are copied, not how they are asked; facts of the preset among them."""
    rule, entry = "fetch_benchmark", study["benchmarks"][benchmark]
    entries = {"presets": entry, "benchmarks": entry}
    return {
        **pick(rule, "presets", entry),
        **pick(rule, "benchmarks", entry),
        "made_with": decisions(rule, entries),
    }


def find_contamination(study: dict, dataset: str) -> Told:
    return _flat("find_contamination", "contamination", study["contamination"])


def tokenize_run(study: dict, run: str) -> OfRun:
    return _of_run("tokenize_run", study, run)


def train_run(study: dict, run: str) -> TrainRun:
    swanlab = pick("train_run", "swanlab", study["tracking"]["swanlab"])
    return {**_of_run("train_run", study, run), "swanlab": swanlab}


def halve_sweep(study: dict, sweep: str, part: str) -> HalveSweep:
    """What the contenders of a sweep are is part of `made_with`: a decision is theirs alone."""
    rule, halving = "halve_sweep", study["sweeps"][sweep]["halving"]
    points: dict[str, list[str]] = {}
    for name, run in study["contenders"].items():
        if run["sweep"] == sweep:
            points.setdefault(run["group"], []).append(name)
    names = [name for runs in points.values() for name in runs]
    trained = {name: digest(_training_decisions(study, name)) for name in names}
    return {
        "sweep": sweep,
        "part": int(part),
        "points": points,
        **pick(rule, "halving", halving),
        "made_with": decisions(rule, {"halving": halving}) | {"trainings": trained},
    }


def keep_checkpoints(study: dict, run: str) -> OfRun:
    return _of_run("keep_checkpoints", study, run)


def merge_run(study: dict, run: str) -> OfRun:
    return _of_run("merge_run", study, run)


def serve_subject(study: dict, subject: str) -> ServeSubject:
    """Beside the subject: why this backend, and the fixed prompts, answered at temperature 0."""
    rule = "serve_subject"
    own = _of_subject(rule, study, subject)
    entries = {"": study, "generation": study["generation"]}
    return {
        **own,
        "chosen": study["subjects"][subject]["serving"]["chosen"],
        "prompts": pick(rule, "", study)["prompts"],
        "generation": pick(rule, "generation", study["generation"]),
        "made_with": own["made_with"] | decisions(rule, entries),
    }


def evaluate_suite(study: dict, subject: str, suite: str) -> EvaluateSuite:
    """`benchmarks` has each with its own generation settings; `made_with` speaks for all."""
    rule = "evaluate_suite"
    names = study["suites"][suite]
    shared = _of_subject(rule, study, subject)
    asked = {name: benchmark_decisions(study, name) for name in names}
    for key in {key: None for decided in asked.values() for key in decided}:
        shared["made_with"][key] = OfBenchmarks((name, asked[name].get(key)) for name in names)
    return {
        **shared,
        "suite": suite,
        "benchmarks": {name: asked_benchmark(study, name) for name in names},
    }


def score_suite(study: dict, subject: str) -> Told:
    return _flat("score_suite", "statistics", study["statistics"])


def measure_likelihood(study: dict, subject: str) -> OfDialogue:
    return _of_dialogue("measure_likelihood", study, subject)


def measure_curve(study: dict, run: str) -> OfDialogue:
    return _of_dialogue("measure_curve", study, run)


def answer_dialogues(study: dict, subject: str) -> OfDialogue:
    rule = "answer_dialogues"
    own = _of_dialogue(rule, study, subject)
    asked = pick(rule, "generation", study["generation"])
    decided = decisions(rule, {"generation": study["generation"]})
    return {**own, "generation": asked, "made_with": own["made_with"] | decided}


def judge_pair(study: dict, judge: str, pair: str) -> OfJudge:
    pairs = {pair_name(each): each for each in study["comparisons"]}
    return {**_of_judge("judge_pair", study, judge), "pair": pairs[pair]}


def judge_crisis(study: dict, judge: str, subject: str) -> OfJudge:
    return _of_judge("judge_crisis", study, judge)


def track_scores(study: dict, run: str) -> Told:
    return _flat("track_scores", "swanlab", study["tracking"]["swanlab"])


def sync_environment(study: dict, env: str) -> Told:
    return _flat("sync_environment", "", study)


JOBS: dict[str, Callable[..., Told]] = {
    made.__name__: made
    for made in (
        fetch_dataset, prepare_dataset, fetch_model, native_tokenizer, native_model,
        fetch_benchmark, find_contamination, tokenize_run, train_run, halve_sweep,
        keep_checkpoints, merge_run, serve_subject, evaluate_suite, score_suite,
        measure_likelihood, measure_curve, answer_dialogues, judge_pair, judge_crisis,
        track_scores, sync_environment,
    )
}  # fmt: skip


def asked_benchmark(study: dict, benchmark: str) -> dict:
    """How it is asked: {dataset, subsets, shots, prompt, multiple_correct, limit, repeats,
    generation}."""
    entry = study["benchmarks"][benchmark]
    rule = "evaluate_suite"
    return {
        **pick(rule, "presets", entry),
        **pick(rule, "benchmarks", entry),
        "generation": pick(rule, "generation", entry["generation"]),
    }


def backend(study: dict, subject: str) -> dict[str, Any]:
    """What of the config turns a subject's weights into text: {name, torch_dtype, template, …}.

    vLLM takes the chat template from the tokenizer, so from the weights; what somebody else's
    endpoint does is not ours to know. The system prompt is a part of the question.
    """
    entry, rule = study["subjects"][subject], "evaluate_suite"
    part = {key: entry["serving"][key] for key in deciding(rule, "serving")}
    part = {"name": part.pop("backend"), **part}
    if part["name"] == "endpoint":
        return {"name": "endpoint"}
    model = study["models"][entry["model"]]
    if part["name"] == "transformers":
        apart = ("system", "thinking")
        keys = (key for key in deciding(rule, "models") if key in model and key not in apart)
        part |= {key: model[key] for key in keys}
    if model["thinking"] is not None:  # of every backend; not stated, it is the template's own
        part["thinking"] = model["thinking"]
    return part


def benchmark_decisions(study: dict, benchmark: str) -> dict[str, Any]:
    """What decides about the answers to one benchmark, its subject apart."""
    entry = study["benchmarks"][benchmark]
    generation = identity.generation(entry["generation"])
    entries = {"presets": entry, "benchmarks": entry, "generation": generation}
    return decisions("evaluate_suite", entries)


@cache
def wildcards(rule: str) -> list[str]:
    """The wildcards of a rule, in the order of its function's arguments."""
    return list(inspect.signature(JOBS[rule]).parameters)[1:]


def settings(study: dict, rule: str, *values: str) -> dict:
    """The settings file of one job, whose wildcards have these values."""
    return dict(JOBS[rule](study, *values))


def deciding_keys(rule: str) -> list[str]:
    """Every key that can decide about a job of this rule: one param each."""
    keys = {f"{section}.{key}" for section in SECTIONS for key in deciding(rule, section)}
    return sorted(key.removeprefix(".") for key in keys)


def shown(key: str, made_with: dict[str, Any]) -> str:
    """`key: value` as Snakemake shows it when it has changed; long values by their beginning.

    Where the benchmarks of a suite differ, with their names; where a key has no meaning, "-".
    """
    value = made_with.get(key)
    if not isinstance(value, OfBenchmarks):
        return f"{key}: {_brief(value) if key in made_with else '-'}"
    several = {name: _brief(each) for name, each in value.items()}
    if len(set(several.values())) == 1:
        return f"{key}: {next(iter(several.values()))}"
    return f"{key}: " + ", ".join(f"{text} ({name})" for name, text in several.items())


# --- parts ----------------------------------------------------------------------------------------


def _flat(rule: str, section: str, entry: dict) -> Any:
    return {**pick(rule, section, entry), "made_with": decisions(rule, {section: entry})}


def trainings(study: dict) -> dict[str, dict]:
    """Every run that is trained, at least to a rung."""
    return study["contenders"] | study["runs"]


def _training_decisions(study: dict, name: str) -> list[dict[str, Any]]:
    """What decides about a run's weights: its own keys, and those of its model and dialogues."""
    run = trainings(study)[name]
    made = [
        *(job(study, run["model"]) for job in (fetch_model, native_model)),
        *(job(study, run["dataset"]) for job in (fetch_dataset, prepare_dataset)),
        *(job(study, name) for job in (tokenize_run, train_run)),
    ]
    return [told["made_with"] for told in made]


def _of_run(rule: str, study: dict, name: str) -> OfRun:
    run = trainings(study)[name]
    model = study["models"][run["model"]]
    entries = {"runs": run, "training": run["training"], "models": model}
    return {
        "run": name,
        "training": pick(rule, "training", run["training"]),
        "model": _model(rule, study, run["model"]),
        "made_with": decisions(rule, entries),
    }


def _model(rule: str, study: dict, name: str) -> Model:
    told = pick(rule, "models", study["models"][name])
    return cast(Model, {"name": name, **told})  # which keys these are, the schema says


def _of_subject(rule: str, study: dict, subject: str) -> OfSubject:
    entry = study["subjects"][subject]
    shared: OfSubject = {
        "subject": subject,
        "form": entry["form"],
        "serving": pick(rule, "serving", entry["serving"]),
        "backend": backend(study, subject),
        "made_with": _subject_decisions(rule, study, subject),
    }
    if entry["kind"] == "endpoint":
        return {**shared, "endpoint": pick(rule, "endpoints", study["endpoints"][subject])}
    return {**shared, "model": _model(rule, study, entry["model"])}


def _of_dialogue(rule: str, study: dict, subject: str) -> OfDialogue:
    own, dialogue = _of_subject(rule, study, subject), study["dialogue"]
    return {
        **own,
        "dialogue": pick(rule, "dialogue", dialogue),
        "made_with": own["made_with"] | decisions(rule, {"dialogue": dialogue}),
    }


def _of_judge(rule: str, study: dict, judge: str) -> OfJudge:
    """A judge is asked at temperature 0, whatever its subject is asked at in the study."""
    entry = study["judges"][judge]
    own = _of_subject(rule, study, entry["subject"])
    entries = {"judges": entry, "generation": study["generation"]}
    return {
        **own,
        "judge": {"name": judge, **pick(rule, "judges", entry)},
        "generation": pick(rule, "generation", study["generation"]),
        "made_with": own["made_with"] | decisions(rule, entries),
    }


def _subject_decisions(rule: str, study: dict, subject: str) -> dict[str, Any]:
    entry = study["subjects"][subject]
    if entry["kind"] == "endpoint":
        return decisions(rule, {"endpoints": study["endpoints"][subject]})
    entries = {"serving": entry["serving"], "models": study["models"][entry["model"]]}
    if entry["kind"] == "run":
        entries["runs"] = {"serve": entry["form"]}
    return decisions(rule, entries)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}… ({digest(value)[:8]})"
