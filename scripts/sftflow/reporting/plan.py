"""The table of the plan: what a study costs, and what it can show, before any GPU hour."""

from collections import Counter

import pandas as pd
from sftflow.config import halving
from sftflow.config.asking import conversing
from sftflow.config.jobs import trainings
from sftflow.core.jsonio import read_json
from sftflow.core.layout import PATHS, Results, answers_folder
from sftflow.reporting import cells as tables_cells
from sftflow.reporting import pace, stale, text
from sftflow.reporting.comparison import ALL, candidates
from sftflow.reporting.text import NONE, duration, number, percent
from sftflow.scoring import stats
from sftflow.training.checkpoints import due
from sftflow.training.cost import CARDS, UTILISATION, effective_batch, total_steps
from sftflow.training.estimate import Estimate, estimate

LIMITS = (10, 50, 100, 200, 500)  # questions per subset, beside the config's own limit and none
DISCORDANCE = 0.25  # assumed share of questions on which baseline and candidate differ
TARGETS = (0.10, 0.05, 0.03)  # differences for which the needed number of questions is given
GPU = "H100"  # where none is asked for: the card that hours are estimated for
CORES = 8  # of the machine that a training is estimated for; without a GPU they do the work


def plan_table(study: dict, results: Results, gpu: str) -> text.Table:
    confidence = study["statistics"]["confidence"]
    points = most_points(study)
    precision = precision_rows(study, results)
    needed = ", ".join(
        f"{percent(target)} points: {stats.questions_needed(target, DISCORDANCE, 1 - confidence):,}"
        for target in TARGETS
    )
    return text.Table(
        "plan",
        "Plan",
        "What this study costs and what it can show.",
        [
            ("What can be seen", precision_frame(precision)),
            ("What has to be trained", pd.DataFrame(run_rows(study, results, gpu))),
            ("How long it takes", step_frame(step_rows(study, results, gpu))),
            ("What is already there", pd.DataFrame(cached_rows(study, results))),
        ],
        pd.DataFrame(precision),
        [
            "Half-width: half of Wilson's interval at 50 % right, in percentage points; it is "
            "widest there. Detectable: smallest true difference between two subjects that the "
            f"paired test (mid-p McNemar) finds with {percent(stats.POWER)} % power when they "
            f"differ on {percent(DISCORDANCE)} % of the questions (assumed; unconditional power, "
            f"Duffy 1984). The level is that of the verdict: {1 - confidence:.2g} for all "
            "questions of a suite, divided by the suite's number of benchmarks for one of them "
            "(the first step of Holm's procedure)"
            + (f", and by {points} points of a sweep" if points > 1 else "")
            + ". A question that several benchmarks hold counts once in the suite's test: what is "
            "given for the suite is a lower bound then.",
            f"Questions needed to detect a difference of {needed} (for a suite's own test; Connor "
            "1987).",
            f"Time is for the run's GPUs, each an {gpu} at {percent(UTILISATION)} % of "
            "its data-sheet bf16 rate in useful FLOPs (measured on an H200; half as long again "
            f"with gradient checkpointing), or with `device: cpu` for {CORES} cores, without "
            "start-up and validation. Memory is estimated from the model's shape, with what `auto` "
            "would choose there.",
            "How long it takes is predicted from what lies in results/ of the same card, a step's "
            "own record apart, so that what it took can stand beside it: trainings against their "
            "estimates, merges, starts of servers, answers by their tokens, losses of held-out and "
            "neutral texts by the weights that they are computed under. Constants are those of "
            f"one H100 and 7.7 B parameters: {pace.BESIDE_STEPS:.0f} s of a training beside its "
            f"steps, {pace.MERGE:.0f} s a merge, {pace.LOSSES:.0f} s for losses ("
            f"{pace.FURTHER:.0%} of it for each further checkpoint), "
            + ", ".join(
                f"{name} {pace.STARTS[name]:.0f} s until it answers and {rate:,.0f} tokens/s"
                for name, rate in pace.RATES.items()
            )
            + f", {pace.ANSWER} tokens an answer. Fetching, dialogues and judges are left out.",
            f"What is not known before data and models are fetched is {NONE}.",
            *halved_notes(study),
        ],
    )


def undecided(study: dict) -> dict[str, tuple[float, float, int]]:
    """Of sweeps of which nobody knows yet which points go on: halving.on_average, and how many
    points there are."""
    found = {}
    for sweep, stated in halving.halved(study).items():
        groups = {run["group"] for run in study["contenders"].values() if run["sweep"] == sweep}
        if not study["sweeps"][sweep]["runs"]:
            found[sweep] = (*halving.on_average(stated, len(groups)), len(groups))
    return found


def halved_notes(study: dict) -> list[str]:
    return [
        f"{sweep} is halved: each of its {points} points stands under what has to be trained as a "
        "whole, and under how long it takes with what a point takes on average, "
        f"{percent(share)} % of the steps in {number(starts, 2)} jobs. Merging, serving and asking "
        "those that go on is not counted before it is known which they are."
        for sweep, (share, starts, points) in undecided(study).items()
    ]


def planned(study: dict) -> dict[str, dict]:
    """Runs that are trained to the end, or may be."""
    open_sweeps = undecided(study)
    return {
        name: run
        for name, run in trainings(study).items()
        if name in study["runs"] or run["sweep"] in open_sweeps
    }


def most_points(study: dict) -> int:
    """Candidates that share one adjustment, the points of a sweep against one baseline; else 1."""
    families = Counter((c.baseline, c.family) for c in candidates(study) if not c.recipe)
    return max(families.values(), default=1)


def precision_rows(study: dict, results: Results) -> list[dict]:
    """Raw rows: each suite as a whole at the config's limits, then its benchmarks at every limit.

    `asked` marks the config's own limit; `level` is the one that a verdict is made at.
    """
    rows = []
    confidence = study["statistics"]["confidence"]
    level = (1 - confidence) / most_points(study)
    for suite in study["evaluate"]["suites"]:
        names = study["suites"][suite]
        mine = [
            row
            for name in names
            for row in benchmark_rows(study, results, name, confidence, level / len(names))
        ]
        if len(names) > 1:
            asked = [row for row in mine if row["asked"]]
            known = all(row["half_width"] is not None for row in asked)
            n = sum(row["n"] for row in asked) if known else None
            whole = precision(n, confidence, level)
            subsets = sum(row["subsets"] for row in asked)
            about = {"benchmark": ALL, "limit": None, "asked": True, "subsets": subsets}
            mine.insert(0, about | whole)
        rows += [{"suite": suite} | row for row in mine]
    return rows


def benchmark_rows(
    study: dict, results: Results, name: str, confidence: float, level: float
) -> list[dict]:
    benchmark = study["benchmarks"][name]
    sizes = subset_sizes(results, name, benchmark)
    return [
        {
            "benchmark": benchmark["label"],
            "limit": limit,
            "asked": limit == benchmark["limit"],
            "subsets": len(benchmark["subsets"]),
            **precision(count(sizes, limit), confidence, level, benchmark["answer"] != "text"),
        }
        for limit in limits(benchmark["limit"], sizes)
    ]


def precision(n: int | None, confidence: float, level: float, binary: bool = True) -> dict:
    found = {"n": n, "half_width": None, "detectable": None, "level": level}
    if n and binary:
        found["half_width"] = stats.half_width(n, confidence)
        found["detectable"] = stats.detectable(n, DISCORDANCE, level)
    return found


def subset_sizes(results: Results, name: str, benchmark: dict) -> dict[str, int] | None:
    """Questions of each asked subset: as fetched, else as published, else not known."""
    manifest = results.read(f"benchmarks/{name}/manifest.json")
    sizes = manifest["subsets"] if manifest else benchmark["published"]
    return sizes and {subset: sizes[subset] for subset in benchmark["subsets"]}


def limits(asked: int | None, sizes: dict[str, int] | None) -> list[int | None]:
    """The config's limit among others to compare it with; None is no limit."""
    if sizes is None:
        return [asked]
    others = {limit for limit in LIMITS if limit < max(sizes.values())}
    return [*sorted(others | ({asked} if asked else set())), None]


def count(sizes: dict[str, int] | None, limit: int | None) -> int | None:
    """Questions that are asked when `limit` counts per subset."""
    if sizes is None:
        return None
    return sum(size if limit is None else min(size, limit) for size in sizes.values())


def precision_frame(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Suite": row["suite"],
            "Benchmark": row["benchmark"],
            "Limit": "each its own ◀ config"
            if row["benchmark"] == ALL
            else ("all" if row["limit"] is None else str(row["limit"]))
            + (" ◀ config" if row["asked"] else ""),
            "Subsets": row["subsets"],
            "n": number(row["n"]),
            "Half-width": NONE if row["half_width"] is None else f"± {percent(row['half_width'])}",
            "Detectable": reach(row),
        }
        for row in rows
    )


def reach(row: dict) -> str:
    if row["half_width"] is None:
        return NONE
    return "nothing" if row["detectable"] is None else percent(row["detectable"])


def run_rows(study: dict, results: Results, gpu: str) -> list[dict]:
    return [run_row(study, results, name, gpu) for name in planned(study)]


def step_rows(study: dict, results: Results, gpu: str) -> list[dict]:
    """Each long step, predicted and measured, and all together, on one card and on two."""
    steps = [
        *run_steps(study, results, gpu), *subject_steps(study, results, gpu),
        *losses_steps(study, results, gpu),
    ]  # fmt: skip
    took = [step.measured for step in steps]
    whole = sum(seconds or 0 for seconds in took) if steps and None not in took else None
    rows = [(step.name, step.seconds, step.measured, step.source) for step in steps]
    rows.append(("all, one after another", pace.wall(steps, 1), whole, ""))
    if study["training"]["device"] != "cpu":
        rows.append(("all, on two GPUs", pace.wall(steps, 2), None, ""))
    return [
        {"step": name, "predicted": seconds, "measured": measured, "from": why}
        for name, seconds, measured, why in rows
    ]


def step_frame(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Step": row["step"],
            "Predicted": duration(row["predicted"]),
            "Measured": duration(row["measured"]),
            "From": row["from"],
        }
        for row in rows
    )


def record(study: dict, results: Results, gpu: str) -> dict:
    """What the plan predicts, unrounded: seconds of each step, and the constants behind some."""
    steps = step_rows(study, results, gpu)
    constants = {"tokens_per_second": pace.RATES, "start_seconds": pace.STARTS}
    return {"schema": 1, "gpu": gpu, "steps": steps, "constants": constants}


def parameters_of(results: Results, model: str) -> int | None:
    manifest = results.read(PATHS.model, model=model)
    return manifest["parameters"] if manifest else None


def on_card(settings: dict, gpu: str) -> str | None:
    """The card that a job is planned for; None for the CPU."""
    return None if settings["device"] == "cpu" else gpu


def run_steps(study: dict, results: Results, gpu: str) -> list[pace.Step]:
    merged = {name: results.read(PATHS.merged, run=name) for name in study["runs"]}
    steps, shares = [], undecided(study)
    for name, run in planned(study).items():
        settings, model = run["training"], run["model"]
        parameters = parameters_of(results, model)
        records = pace.trained(results, on_card(settings, gpu), settings["precision"])
        cost = run_estimate(study, results, name, gpu, records)
        seconds = cost.get("seconds") if cost else None
        changed = name in records and stale.training_changes(study, results.read, name)
        own = None if changed else records.get(name)
        gpus = settings.get("gpus", 1)
        share, starts, _ = shares.get(run["sweep"], (1.0, 1.0, 1))
        if seconds is not None:
            seconds *= share
        steps.append(
            pace.training_step(name, model, seconds, parameters, records, own, gpus, starts)
        )
        if name in study["runs"]:
            steps.append(pace.merging_step(name, parameters, merged))
    return steps


def subject_steps(study: dict, results: Results, gpu: str) -> list[pace.Step]:
    """Of every subject that is served here; an endpoint has its own pace."""
    found = {name: pace.served(study, results, name) for name in study["evaluate"]["subjects"]}
    steps = []
    for name in study["evaluate"]["subjects"]:
        entry = study["subjects"][name]
        if entry["form"] == "endpoint":
            continue
        wanted, asked = on_card(entry["serving"], gpu), entry["serving"]["backend"]
        backend = asked if asked != "auto" else "transformers" if wanted is None else "vllm"
        sessions = {
            other: made[2]
            for other, made in found.items()
            if made and made[0] == backend and pace.is_on([made[1]] if made[1] else [], wanted)
        }
        questions: dict[str, tuple[int | None, int]] = {}
        for suite in study["evaluate"]["suites"]:
            for key in study["suites"][suite]:
                benchmark = study["benchmarks"][key]
                n = count(subset_sizes(results, key, benchmark), benchmark["limit"])
                most = benchmark["generation"]["max_tokens"]
                before, _ = questions.get(benchmark["dataset"], (0, 0))
                more = None if n is None or before is None else before + n * benchmark["repeats"]
                questions[benchmark["dataset"]] = more, most
        parameters = parameters_of(results, entry["model"])
        steps.append(
            pace.serving_step(
                name, entry, backend, questions, sessions, parameters, wanted is not None
            )
        )
    return steps


def losses_steps(study: dict, results: Results, gpu: str) -> list[pace.Step]:
    """Losses of texts under every subject that is served here, and under checkpoints of runs."""
    steps = []
    records = {card: pace.losses(results, card) for card in (gpu, None)}

    def add(name: str, file: str, weights: int | None, entry: dict, after: str | None) -> None:
        wanted = on_card(entry["serving"], gpu)
        steps.append(
            pace.losses_step(
                name, file, weights, parameters_of(results, entry["model"]), records[wanted],
                (after,) if after else (), entry["serving"].get("gpus") or 1, wanted is not None,
            )
        )  # fmt: skip

    for name in conversing(study):
        entry = study["subjects"][name]
        if entry["form"] != "endpoint":
            after = entry["run"] and f"merge {entry['run']}"
            add(f"losses of {name}", PATHS.likelihood.format(subject=name), 1, entry, after)
    for name, run in study["runs"].items():
        if asked := run["training"]["checkpoints"]:
            last = steps_of(results, name, run)
            weights = kept_weights(asked, run["training"]["save_steps"], last)
            file, entry = PATHS.curve.format(run=name), study["subjects"][name]
            add(f"losses of checkpoints of {name}", file, weights, entry, f"train {name}")
    return steps


def kept_weights(asked: str | list[int], every: int, last: int | None) -> int | None:
    """Weights that a training with this last step leaves to look at: its base's, those of the
    checkpoints asked for, and its last ones."""
    return None if last is None else len({*due(asked, every, last), last}) + 1


def run_estimate(
    study: dict, results: Results, name: str, gpu: str, records: dict[str, dict] | None = None
) -> Estimate | None:
    """What a run's steps cost, once its rows and its model are known. records: of trainings on the
    same hardware, whose cores count where there is no GPU."""
    run = trainings(study)[name]
    fit = results.read(PATHS.run_receipt, run=name)
    manifest = results.read(PATHS.model, model=run["model"])
    config = results.path(PATHS.weights, model=run["model"]) / "config.json"
    if not (fit and manifest and config.is_file()):
        return None
    machine = hardware(run["training"], gpu)
    if machine["kind"] == "cpu" and records:
        machine["cores"] = next(iter(records.values()))["hardware"]["cores"]
    return estimate(run["training"], fit, read_json(config), manifest["parameters"], machine)


def rows_of(results: Results, name: str, run: dict) -> int | None:
    """Dialogues that a run trains on: as tokenized, else as prepared, else not known."""
    fit = results.read(PATHS.run_receipt, run=name)
    receipt = fit or results.read(PATHS.dataset_receipt, dataset=run["dataset"])
    return receipt["train_rows"] if receipt else None


def steps_of(results: Results, name: str, run: dict) -> int | None:
    rows = rows_of(results, name, run)
    return total_steps(run["training"], rows) if rows else None


def run_row(study: dict, results: Results, name: str, gpu: str) -> dict:
    run = trainings(study)[name]
    settings = run["training"]
    fit, epochs = results.read(f"runs/{name}/receipt.json"), settings["num_train_epochs"]
    rows = rows_of(results, name, run)
    cost = run_estimate(study, results, name, gpu)
    record = results.read(f"runs/{name}/training.json")
    done = NONE
    if record:
        changed = stale.training_changes(study, results.read, name)
        took = duration(record["train_seconds"])
        if "gpu_memory_gib" in record:
            took += f" and {number(record['gpu_memory_gib'], 0, 'GiB')}"
        done = f"stale: {'; '.join(changed)}" if changed else f"yes, took {took}"
    return {
        "Run": run["label"],
        "Model": text.label(study, "models", run["model"]),
        "Dialogues": number(rows),
        "Dialogues a step": effective_batch(settings),
        "Steps": number(steps_of(results, name, run)),
        "Tokens": number(round(fit["tokens"]["train"] * epochs) if fit else None),
        "Time": duration(cost.get("seconds") if cost else None),
        "Memory": number(cost["memory_gib"] if cost else None, 0, "GiB"),
        "Trained": done,
    }


def hardware(settings: dict, gpu: str) -> dict:
    """The machine that a training is estimated for, as estimate.estimate takes it."""
    if settings["device"] == "cpu":
        return {"kind": "cpu", "cores": CORES}
    card = CARDS[gpu]
    return {
        "kind": "cuda",
        "cores": CORES,
        "name": gpu,
        "memory_gib": card.memory_gib,
        "capability": list(card.capability),
    }


def cached_rows(study: dict, results: Results) -> list[dict]:
    """Per subject and suite: what is scored, and how many answers are kept."""
    cells = tables_cells.load_cells(study, results)
    rows = []
    for subject in study["evaluate"]["subjects"]:
        ready = results.read(f"subjects/{subject}/readiness.json") is not None
        for suite in study["evaluate"]["suites"]:
            mine = [cells[subject, benchmark] for benchmark in study["suites"][suite]]
            states = [cell.state for cell in mine]
            rows.append(
                {
                    "Subject": text.label(study, "subjects", subject),
                    "Suite": suite,
                    "Served before": "yes" if ready else "no",
                    "Scored": f"{states.count('ok')} of {len(states)}",
                    "Stale": states.count(text.STALE),
                    "Answers kept": number(kept_answers(study, results, subject, suite)),
                }
            )
    return rows


def kept_answers(study: dict, results: Results, subject: str, suite: str) -> int:
    """Answers that lie in the suite's file: none of them is asked for again."""
    way = stale.current_way(study, results.read, subject)
    path = way and results.folder / answers_folder(subject, way) / f"{suite}.jsonl"
    if not path or not path.exists():
        return 0
    with open(path, "rb") as file:
        return sum(1 for _ in file)
