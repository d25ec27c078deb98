# Functions only: what rules ask of the study, which is the config in its resolved form.

import functools
import gc
import inspect
import itertools
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(str(workflow.current_basedir)).parent / "scripts"))

from snakemake.common import overwrite_function_params
from snakemake.io import contains_wildcard

from sftflow.config import asking, backend, halving, jobs, resolve
from sftflow.config.commandline import asked_for, submits, unknown_targets
from sftflow.config.reading import read_all
from sftflow.core import code, endings, gpu, handover, layout
from sftflow.core import process, provenance, slurm, snakemakes, terminal
from sftflow.core.cli import UserError
from sftflow.core.identity import BACKENDS
from sftflow.core.jsonio import digest, file_digest, read_json
from sftflow.core.layout import FIGURES, PATHS, Paths, pair_name, refuse_older, table_names
from sftflow.inputs.hubs import local_digest

# A plan is millions of objects that live as long as it does: searching them for garbage was a third of the time it took.
gc.set_threshold(100_000, 20, 50)

# Somebody else's Snakefile may import this one as a module: command line and config files are then not ours to judge.
ALONE = (
    workflow.is_main_process
    and Path(workflow.main_snakefile).resolve().parent
    == Path(workflow.snakefile).resolve().parents[1]
)


def resolved(raw: dict) -> tuple[dict, dict]:
    """The study, and what `serving.backend: auto` stands for in it, with what was decided in results/ before. Every error in the
    config is told at once, before any job starts."""
    main = workflow.is_main_process  # jobs, perhaps elsewhere, read the Snakefile again
    elsewhere = workflow.remote_exec or submits(workflow.resource_settings.nodes)
    cards = (lambda: None) if elsewhere else gpu.describe
    try:
        if main:
            refuse_older(RESULTS)
        _, twice = read_all(workflow.configfiles if ALONE else ())
        auto = backend.choose(RESULTS, raw, cards)
        going_on = functools.partial(halving.going_on, RESULTS)
        study = resolve.load(
            raw, twice, here=main, gpus=main and not elsewhere, auto=auto, going_on=going_on
        )
        return study, auto
    except UserError as error:
        raise WorkflowError(str(error)) from None


RESULTS = workflow.pathvars.get("results")

study, auto = resolved(config)

paths = Paths.under("<results>")  # every output, once

handover.announce(study, RESULTS, submitted=workflow.remote_exec)

if workflow.is_main_process:
    if message := snakemakes.enter():
        logger.warning(message)
    if message := provenance.settle(RESULTS):
        logger.warning(message)
    provenance.restore(RESULTS)
    terminal.one_line_each(logger.handlers)
    why_ended = terminal.why_ended(logger.handlers)
    for warning in resolve.warnings(study):
        logger.warning(warning)

# As many GPUs as there are, unless the command line says: who waits for one waits without holding cores, too.
if ALONE and not submits(workflow.resource_settings.nodes):
    if "gpu" not in workflow.global_resources and (cards := gpu.describe()):
        workflow.register_resource("gpu", len(cards))


ended_on_request: list[bool] = []


def be_short() -> None:
    """Jobs that are ended on request have no reason to be shown."""
    ended_on_request.append(True)
    terminal.say_no_errors(logger.handlers)


# What a job is told, and what makes it run again ------------------------------------------------------------------------


def stated(function: Callable) -> Callable:
    """A function for rules that states its parameters: Snakemake inspects others three times for each job."""
    overwrite_function_params(function, inspect.signature(function).parameters)
    return function


def told(rule: str, content: Callable | None = None, **only) -> dict[str, Callable | str]:
    """Params of a rule: its settings file, and one for each key whose value decides about its result.

    A key that the rule is not told, or that cannot change what it makes, is no param, so no rerun. `only` has the values
    of a wildcard for which there are such jobs, where those are fewer than what a target may name.
    """
    names = jobs.wildcards(rule)
    values = itertools.product(*[(wildcard_values | only)[name] for name in names])
    every = [made_with(rule, *each) for each in values]
    kinds = {repr(made): made for made in every}.values()  # of 1,000 runs, few

    def decides(key: str) -> Callable | str:
        """One text where it is the same for all jobs: of a function, Snakemake asks it for each."""
        shown = {jobs.shown(key, made) for made in kinds}
        if len(shown) == 1 and not contains_wildcard(*shown):
            return shown.pop()
        return stated(
            lambda wildcards: jobs.shown(
                key, made_with(rule, *[getattr(wildcards, name) for name in names])
            )
        )

    params = {"settings": settings_file(rule, *[f"{{{name}}}" for name in names])} | {
        key.replace(".", "_"): decides(key) for key in jobs.deciding_keys(rule)
    }
    return params | ({"content": content} if content else {})


def settings_file(rule: str, *names: str) -> str:
    """Where scripts/run.py writes what a job is told. names: of its wildcards, or their values."""
    return paths.settings.format(rule=rule, name=os.sep.join(names)).replace("<results>", RESULTS)


@functools.cache
def made_with(rule: str, *names: str) -> dict:
    return jobs.JOBS[rule](study, *names)["made_with"]


def content(kind: str, name: str) -> Callable:
    """Digest of a local source. A file that was edited is fetched again; one that was only touched is not."""

    def of(wildcards) -> str:
        entry = study[kind][getattr(wildcards, name)]
        local = entry["hub"] == "local"
        return f"content of the source: {local_digest(entry['source'], handover.SCRATCH / 'sources.json') if local else '-'}"

    return of


@stated
def lock(wildcards) -> str:
    """What an environment is made from."""
    return f"uv.lock: {file_digest(handover.HOME / 'envs' / wildcards.env / 'uv.lock')}"


# Of a run, no more than the adapter is kept when nothing needs the rest.
sparing = study["keep"] == "adapter"


# Resources ------------------------------------------------------------------------------------------------------------


def ask(rule: str, resource: str, default: int) -> int:
    """A resource of a rule's jobs: as the config's `resources` states it, or the rule's own default."""
    return study["resources"].get(rule, {}).get(resource, default)


# Of a model with 7 billion parameters in 16 bits, a job's memory is its rule's default; of others it grows with this many
# times their weights, beside what the libraries need.
WEIGHTS_IN_MEMORY = {
    "train_run": 3,
    "merge_run": 3,  # base, base + adapter, merged
    "serve_subject": 1,
    "evaluate_suite": 1,
    "measure_likelihood": 1,
    "measure_curve": 1,
    "answer_dialogues": 1,
    "judge_pair": 1,
    "judge_crisis": 1,
}
LIBRARIES_MB = 16000


def memory(rule: str, default: int, model_of: Callable | None = None) -> Callable:
    """Memory of a rule's jobs, as the config states it or as the size of their model needs it; more after a failure."""

    def of(wildcards, attempt) -> int:
        stated = study["resources"].get(rule, {}).get("mem_mb")
        weights = weights_mb(model_of(wildcards)) if model_of and not stated else None
        # what was dropped is merged again in the job that needs it
        known = weights and LIBRARIES_MB + weights * (WEIGHTS_IN_MEMORY[rule] + sparing)
        return more(stated or known or default, attempt, "most_mem_mb")

    return of


def minutes(rule: str, default: int) -> Callable:
    """Longest time of a rule's jobs; more after a failure."""
    return lambda wildcards, attempt: more(ask(rule, "runtime", default), attempt, "most_runtime")


def more(value: int, attempt: int, limit: str) -> int:
    """Half as much again at each attempt, as far as the profile allows."""
    grown = round(value * (1 + attempt) / 2)
    most = default_resource(limit)
    return max(value, min(grown, int(most))) if most else grown


def default_resource(name: str) -> str | None:
    """What the profile, or --default-resources, states for every job."""
    stated = workflow.resource_settings.default_resources or {}
    return str(stated[name].raw).strip("\"'") if name in stated else None


@functools.cache
def weights_mb(model: str | None) -> int | None:
    """Size of a base model's weights, once it is here."""
    manifest = Path(RESULTS, PATHS.model.format(model=model))
    if model is None or not manifest.exists():
        return None
    return sum(file["size"] for file in read_json(manifest)["files"]) // 10**6


def gpus(rule: str, settings: dict) -> int:
    """GPUs of a job with these training or serving settings."""
    local = settings.get("backend") != "endpoint" and settings["device"] != "cpu"
    return ask(rule, "gpu", settings["gpus"]) if local else 0


# Where the profile sends jobs with GPUs, if elsewhere than all others.
QUEUES = {"slurm_partition": "gpu_partition", "qos": "gpu_qos"}


def on_gpus(count: Callable, output: str | None = None) -> dict[str, Callable | int]:
    """Resources of a job that may need GPUs: all of them in one node, in the queue for those that do.

    A job whose `output` names answers needs none where the session of serve_subject has asked for all of them. Snakemake
    works resources out when a job's inputs are there, so after that session. A second attempt has them in any case.
    """

    def needed(wildcards, attempt: int) -> int:
        file = output and Path(RESULTS, output.format(**dict(wildcards.items())))
        return 0 if file and attempt == 1 and handover.asked(file) else count(wildcards)

    def queue(name: str) -> Callable:
        return lambda wildcards, attempt: default_resource(
            QUEUES[name] if needed(wildcards, attempt) else name
        )

    named = [name for name, of_gpus in QUEUES.items() if default_resource(of_gpus)]
    return {"gpu": needed, "nodes": 1} | {name: queue(name) for name in named}


def model_of_run(wildcards) -> str:
    return trainings[wildcards.run]["model"]


def model_of_subject(wildcards) -> str | None:
    return study["subjects"][wildcards.subject]["model"]


def model_of_judge(wildcards) -> str | None:
    return study["subjects"][who_judges(wildcards)]["model"]


def run_gpus(rule: str) -> Callable:
    return lambda wildcards: gpus(rule, trainings[wildcards.run]["training"])


def training_first(wildcards) -> int:
    """Priority of a training: the first for a card to spare, since most waits for it.

    On a single card base models are asked before it, and what is wrong with asking is seen before the hours that training
    takes; of a sweep one subject is done before the next one's weights are made.
    """
    there = workflow.global_resources
    spare = "gpu" in there and there["gpu"].value > 1
    return 2 if spare and trainings[wildcards.run]["sweep"] is None else 0


def curve_gpus(rule: str) -> Callable:
    return lambda wildcards: gpus(rule, study["subjects"][wildcards.run]["serving"])


def subject_gpus(rule: str) -> Callable:
    return lambda wildcards: gpus(rule, study["subjects"][wildcards.subject]["serving"])


# Inputs ---------------------------------------------------------------------------------------------------------------
#
# Manifests and receipts are small: Snakemake compares their content. The folders that they describe are `ancient`: they
# must be there, and their dates mean nothing.


def base_model(model: str) -> dict[str, str]:
    """Manifest and weights of a base model."""
    return {
        "model": paths.model.format(model=model),
        "model_weights": ancient(paths.weights.format(model=model)),
    }


@stated
def of_run(wildcards) -> dict[str, str]:
    """A run's dataset and base model."""
    run = trainings[wildcards.run]
    return {"dataset": paths.dataset_receipt.format(dataset=run["dataset"])} | base_model(
        run["model"]
    )


@stated
def words_of_run(wildcards) -> dict[str, str]:
    """A run's dataset, and the tokenizer of its base model."""
    run = trainings[wildcards.run]
    return {
        "dataset": paths.dataset_receipt.format(dataset=run["dataset"]),
        "tokenizer": paths.model_tokenizer.format(model=run["model"]),
        "tokenizer_files": ancient(paths.tokenizer.format(model=run["model"])),
    }


def decision(sweep: str, part: int) -> str:
    return paths.halving.format(sweep=sweep, part=part)


def decision_before(wildcards) -> list[str]:
    """Who got as far as a rung: nothing before the first."""
    sweep = wildcards.get("sweep") or trainings[wildcards.run]["sweep"]
    part = halving.before(halved[sweep], int(wildcards.part))
    return [decision(sweep, part)] if part else []


def rungs_of(wildcards) -> list[str]:
    """The rung of every contender of a sweep; of those left out it says just that."""
    runs = [name for name, run in study["contenders"].items() if run["sweep"] == wildcards.sweep]
    return collect(paths.rung, run=runs, part=wildcards.part)


def decided_first(wildcards) -> list[str]:
    """A run is not trained to its end while it is at a rung; which decision let it go on changes nothing of its training."""
    sweep = trainings[wildcards.run]["sweep"]
    return [ancient(decision(sweep, halving.parts(halved[sweep])[-1]))] if sweep in halved else []


def after_flag(wildcards, input) -> str:
    return shlex.join(["--after", *input.after] if input.after else [])


def weights_of(subject: str, form: str) -> dict[str, str]:
    """What a subject's weights are in this form; nothing for an endpoint, whose weights are elsewhere.

    A folder of merged weights is no input: it may be dropped, and scripts/run.py makes it again for whoever needs it.
    Snakemake would make everything again that ever needed it.
    """
    found = layout.weights_of(study["subjects"][subject], form, paths)
    if form == "merged":
        del found["weights_folder"]
    return {
        name: ancient(path) if name.endswith("_folder") else path for name, path in found.items()
    }


@stated
def served(wildcards) -> dict[str, str]:
    """A subject's weights, and the record of the environment that serves them."""
    return served_as(wildcards.subject)


def served_as(subject: str) -> dict[str, str]:
    entry = study["subjects"][subject]
    env = BACKENDS[entry["serving"]["backend"]].environment
    environment = {"environment": paths.environment.format(env=env)} if env else {}
    return weights_of(subject, entry["form"]) | environment


@stated
def both_forms(wildcards) -> dict[str, str]:
    """For readiness: a merged run's load time is wanted as adapter on its base, too. Nothing is merged to be timed."""
    entry = study["subjects"][wildcards.subject]
    timed = entry["form"] == "merged" and entry["serving"]["time_both_forms"]
    other = weights_of(wildcards.subject, "adapter") if timed else {}
    return served(wildcards) | {f"other_{name}": path for name, path in other.items()}


@stated
def judged_first(wildcards) -> list[str]:
    """What a judge of ours is asked about is there before it is served: it is started once."""
    return [ancient(file) for file in asking.judged_first(study, wildcards.subject, paths)]


@stated
def weights_flags(wildcards, input) -> str:
    """Flags that tell serve.py and evaluate.py what to serve, with what."""
    merged = "weights" in input.keys() and "weights_folder" not in input.keys()
    beside = f"--weights {shlex.quote(input.weights.removesuffix('.json'))} " if merged else ""
    return beside + flags(
        input,
        {
            "--weights": "weights_folder",
            "--manifest": "weights",
            "--adapter": "adapter_folder",
            "--adapter-manifest": "adapter",
            "--environment": "environment",
        },
    )


@stated
def manifest_flags(wildcards, input) -> str:
    """The manifests alone, where a program finds the weights beside them."""
    return flags(input, {"--manifest": "weights", "--adapter-manifest": "adapter"})


@stated
def other_form_flags(wildcards, input) -> str:
    return flags(
        input,
        {"--also-weights": "other_weights_folder", "--also-adapter": "other_adapter_folder"},
    )


def flags(input, names: dict[str, str]) -> str:
    """A flag for each named input that the job has."""
    given = [(flag, input[name]) for flag, name in names.items() if name in input.keys()]
    return shlex.join(part for pair in given for part in pair)


# Evaluation -----------------------------------------------------------------------------------------------------------


@stated
def benchmarks_of(wildcards) -> list[str]:
    return collect(paths.benchmark, benchmark=study["suites"][wildcards.suite])


@stated
def questions_of(wildcards) -> list[str]:
    return ancient(collect(paths.questions, benchmark=study["suites"][wildcards.suite]))


@stated
def contamination_of(wildcards) -> list[str]:
    """What a run was trained on may hold questions; a model that was not trained here, nobody can say."""
    run = study["subjects"][wildcards.subject]["run"]
    return [paths.contamination.format(dataset=study["runs"][run]["dataset"])] if run else []


@stated
def contamination_flag(wildcards, input) -> str:
    return shlex.join(["--contamination", *input.contamination] if input.contamination else [])


# Dialogue -------------------------------------------------------------------------------------------------------------


@stated
def own_weights(wildcards) -> dict[str, str]:
    return weights_of(wildcards.subject, study["subjects"][wildcards.subject]["form"])


@stated
def dialogues_of(wildcards) -> list[str]:
    return collect(paths.dataset_receipt, dataset=asking.heard(study, wildcards.subject))


@stated
def neutral_content(wildcards) -> str:
    """A neutral text that was edited is read again."""
    return f"content of the texts: {neutral_digest()}"


@functools.cache
def neutral_digest() -> str:
    memory, texts = handover.SCRATCH / "sources.json", study["dialogue"]["neutral"].values()
    return digest([local_digest(text, memory) for text in texts])[:12]


@stated
def crisis_content(wildcards) -> str:
    """Digest of the messages of a crisis."""
    source = study["dialogue"]["crisis"]
    known = source and local_digest(source, handover.SCRATCH / "sources.json")[:12]
    return f"content of the messages: {known or '-'}"


@stated
def rubrics(wildcards) -> str:
    """Digest of what judges are told."""
    texts = sorted((handover.HOME / "config/dialogue").glob("*.md"))
    return f"rubrics: {digest([file_digest(text) for text in texts])[:12]}"


def who_judges(wildcards) -> str:
    """The subject that a judge is."""
    return study["judges"][wildcards.judge]["subject"]


@stated
def judge_served(wildcards) -> dict[str, str]:
    return served_as(who_judges(wildcards))


@stated
def judge_ready(wildcards) -> str:
    return paths.readiness.format(subject=who_judges(wildcards))


def judge_gpus(rule: str) -> Callable:
    return lambda wildcards: gpus(rule, study["subjects"][who_judges(wildcards)]["serving"])


@stated
def judged_answers(wildcards) -> list[str]:
    """Of baseline and candidate, in this order."""
    pair = pairs[wildcards.pair]
    return asking.answers(paths, pair["baseline"], pair["candidate"])


# Halving --------------------------------------------------------------------------------------------------------------

# Sweeps with halving, and every run that is trained, if only to a rung.
halved = halving.halved(study)

trainings = jobs.trainings(study)

# As long as nobody knows which points of a sweep go on, that is what is made, and nothing behind it.
undecided = [sweep for sweep in halved if not study["sweeps"][sweep]["runs"]]

decisions = [decision(sweep, halving.parts(stated)[-1]) for sweep, stated in halved.items()]

# Reporting ------------------------------------------------------------------------------------------------------------

asked = [name for suite in study["evaluate"]["suites"] for name in study["suites"][suite]]

evaluated = study["evaluate"]["subjects"]

conversing = asking.conversing(study)

# Nobody else's endpoint tells likelihoods.
measurable = [name for name in conversing if study["subjects"][name]["kind"] != "endpoint"]

pairs = {pair_name(pair): pair for pair in study["comparisons"]}

judges = list(study["judges"])

# What a judge is asked about: pairs that talk, and who was sent messages of a crisis.
judged = list(asking.judged(study))

in_crisis = asking.in_crisis(study)

# beside those that are targets of their own
remaining_tables = [
    name for name in table_names(study["evaluate"]["suites"]) if name not in ("data", "training")
]

trained = list(study["runs"])

# Those whose checkpoints are looked at, too.
stepwise = [run for run in trained if study["runs"][run]["training"]["checkpoints"]]

tracked = [run for run in trained if run in evaluated]

merged = [run for run in trained if run in evaluated and study["runs"][run]["serve"] == "merged"]

base_models = list(study["models"])

used_datasets = sorted({run["dataset"] for run in study["runs"].values()})

# Which values the wildcards of outputs can have.
wildcard_values = {
    "env": [lock.parent.name for lock in (handover.HOME / "envs").glob("*/uv.lock")],
    "dataset": list(study["datasets"]),
    "benchmark": list(study["benchmarks"]),
    "model": base_models,
    "run": list(trainings),
    "sweep": list(halved),
    "part": [str(part) for stated in halved.values() for part in halving.parts(stated)],
    "subject": list(study["subjects"]),
    "suite": list(study["suites"]),
    "judge": judges,
    "pair": list(pairs),
}


def lost_weights() -> list[str]:
    """Folders of merged weights that a run once had, and that are gone."""
    folders = collect(paths.merged_weights, run=merged)
    real = [Path(folder.replace("<results>", RESULTS)) for folder in folders]
    return [
        folder
        for folder, path in zip(folders, real, strict=True)
        if path.with_suffix(".json").exists() and not path.exists()
    ]


@stated
def needed_weights(wildcards) -> list[str]:
    """The records of this study for which a run's merged weights and checkpoints are needed."""
    run = wildcards.run
    of_run = [paths.adapter] + [paths.checkpoints] * (run in stepwise)
    of_subject = [paths.merged, paths.readiness, paths.likelihood] if run in merged else []
    asked_of_it = [job.output for job in asking.asking(study, run, paths)] if run in merged else []
    return [path.format(run=run, subject=run) for path in of_run + of_subject] + asked_of_it


def reported(pattern: str, **names) -> list[str]:
    """Files that a table is made from; with stage=report, those of them that are there."""
    return known(collect(pattern, **names))


def known(files: list[str]) -> list[str]:
    if study["stage"] == "all":
        return files
    return [file for file in files if Path(file.replace("<results>", RESULTS)).exists()]


def ratings() -> list[str]:
    """What people said, as far as it was read (scripts/rate.py): no rule makes it."""
    return [str(file) for file in sorted(Path(RESULTS).glob("ratings/*.json"))]


def records() -> list[str]:
    """Every record that the study stands on; none with stage=report, where nothing upstream can be made."""
    if study["stage"] != "all":
        return []
    backends = {study["subjects"][subject]["serving"]["backend"] for subject in evaluated}
    tools = (
        {BACKENDS[backend].environment for backend in backends}
        | {"evalscope"}
        | ({"swift"} if trained else set())
    )
    suites = study["evaluate"]["suites"]
    return [
        *collect(paths.environment, env=sorted(filter(None, tools))),
        *collect(paths.dataset_source, dataset=used_datasets),
        *collect(paths.dataset_receipt, dataset=used_datasets),
        *collect(paths.contamination, dataset=used_datasets),
        *collect(paths.model_source, model=base_models),
        *collect(paths.model_tokenizer, model=base_models),
        *collect(paths.model, model=base_models),
        *collect(paths.benchmark, benchmark=asked),
        *collect(paths.run_receipt, run=trained),
        *collect(paths.training, run=trained),
        *collect(paths.adapter, run=trained),
        *collect(paths.checkpoints, run=stepwise),
        *collect(paths.merged, run=merged),
        *(collect(paths.dropped, run=trained) if sparing else lost_weights()),
        *collect(paths.readiness, subject=evaluated),
        *collect(paths.chat, subject=evaluated),
        *collect(paths.evaluation, subject=evaluated, suite=suites),
        *collect(paths.score, subject=evaluated, benchmark=asked),
        *collect(paths.likelihood, subject=measurable),
        *collect(paths.curve, run=stepwise),
        *collect(paths.dialogue_answers, subject=conversing),
        *collect(paths.behaviour, subject=conversing),
        *collect(paths.judgement, judge=judges, pair=judged),
        *collect(paths.crisis, judge=judges, subject=in_crisis),
        *collect(paths.tracked, run=tracked),
        *decisions,
    ]


def whole_study(*files: list[str]) -> list:
    """What is made once it is known which points of sweeps go on; until then, what tells that."""
    return decisions if undecided and study["stage"] == "all" else list(files)


def kept(path: str, caption: str, category: str, **labels: str) -> str:
    """An output that goes into the report that Snakemake itself makes, too."""
    return report(path, caption=f"captions/{caption}.rst", category=category, labels=labels)


def cards() -> list[str]:
    """A model card for each form in which a run's weights are kept."""
    return [
        kept(paths.card.format(run=run, form=form), "card", "Model cards", run=run, form=form)
        for run in tracked
        for form in layout.forms_of(study, run)
    ]


def page(name: str) -> str:
    """A table for people."""
    return kept(paths.table.format(table=name, form="md"), "table", "Tables", table=name)


def pictures() -> list[str]:
    """The figures in every language: as SVG, and as PNG for slides."""
    files = [
        kept(
            paths.figure.format(figure=name, language=language, form="svg"),
            "figure",
            "Figures",
            figure=name.replace("_", " "),
            language=language,
        )
        for name in FIGURES
        for language in study["languages"]
    ]
    return files + collect(paths.figure, figure=FIGURES, language=study["languages"], form="png")


def table_files(*names: str) -> list[str]:
    """A table's files: for people, for programs, and for papers."""
    return [page(name) for name in names] + collect(paths.table, table=names, form=("csv", "tex"))


def shown(*programs: str) -> dict[str, str]:
    """Params of a rule that writes tables or reports, which are the study, its own code, and the data that come with it.

    These jobs are cheap, and a table must not be older than what computes it.
    """
    shipped = (
        "config/benchmarks.yaml",
        "config/references.yaml",
        "scripts/sftflow/reporting/templates",
    )
    programs = [f"scripts/{program}" for program in programs]
    return {
        "settings": paths.study.replace("<results>", RESULTS),
        "study": f"config: {digest({key: value for key, value in study.items() if key not in UNSHOWN})[:12]}",
        "code": f"code: {code.digest(*programs, files=shipped)[:12]}",
    }


def told_besides() -> dict[str, str]:
    """Params of the report: what it tells besides what was measured, by content."""
    notes, before = study["report"]["notes"], study["report"]["compare_with"]
    known = layout.earlier_files(before) if before else []
    return {
        "notes": f"notes: {file_digest(notes)[:12] if notes else '-'}",
        "earlier": f"earlier report: {digest([file_digest(file) for file in known])[:12] if known else '-'}",
    }


UNSHOWN = ("stage", "software", "resources", "pathvars", "keep")
