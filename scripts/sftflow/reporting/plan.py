"""The table of the plan: what a study costs, and what it can show, before any GPU hour."""

import pandas as pd
from sftflow.core.jsonio import read_json
from sftflow.core.layout import Results, answers_folder
from sftflow.reporting import cells as tables_cells
from sftflow.reporting import stale, text
from sftflow.reporting.text import NONE, duration, number, percent
from sftflow.scoring import stats
from sftflow.training.cost import CARDS, UTILISATION, steps_per_epoch
from sftflow.training.estimate import Estimate, estimate

LIMITS = (10, 50, 100, 200, 500)  # questions per subset, beside the config's own limit and none
DISCORDANCE = 0.25  # assumed share of questions on which baseline and candidate differ
TARGETS = (0.10, 0.05, 0.03)  # differences for which the needed number of questions is given
GPU = "H100"  # where none is asked for: the card that hours are estimated for
CORES = 8  # of the machine that a training is estimated for; without a GPU they do the work


def plan_table(study: dict, results: Results, gpu: str) -> text.Table:
    confidence = study["statistics"]["confidence"]
    precision = precision_rows(study, results)
    needed = ", ".join(
        f"{percent(target)} points: {questions_for(target, 1 - confidence):,}" for target in TARGETS
    )
    return text.Table(
        "plan",
        "Plan",
        "What this study costs and what it can show.",
        [
            ("What can be seen", precision_frame(precision)),
            ("What has to be trained", pd.DataFrame(run_rows(study, results, gpu))),
            ("What is already there", pd.DataFrame(cached_rows(study, results))),
        ],
        pd.DataFrame(precision),
        [
            "Half-width: half of Wilson's interval at 50 % right, in percentage points; it is "
            "widest there. Detectable: smallest true difference between two subjects that the "
            f"paired test (exact McNemar, level {1 - confidence:.2g}) finds with "
            f"{percent(stats.POWER)} % power when they differ on {percent(DISCORDANCE)} % of the "
            "questions (assumed; unconditional power, Duffy 1984).",
            f"Questions needed to detect a difference of {needed}.",
            f"Time is for the run's GPUs, each an {gpu} at {percent(UTILISATION)} % of "
            "its data-sheet bf16 rate in useful FLOPs (measured on an H200; half as long again "
            f"with gradient checkpointing), or with `device: cpu` for {CORES} cores, without "
            "start-up and validation. Memory is estimated from the model's shape, with what `auto` "
            "would choose there.",
            f"What is not known before data and models are fetched is {NONE}.",
        ],
    )


def precision_rows(study: dict, results: Results) -> list[dict]:
    """One raw row per benchmark and limit; `asked` marks the config's own limit."""
    rows = []
    alpha = 1 - study["statistics"]["confidence"]
    for suite in study["evaluate"]["suites"]:
        for name in study["suites"][suite]:
            benchmark = study["benchmarks"][name]
            sizes = subset_sizes(results, name, benchmark)
            for limit in limits(benchmark["limit"], sizes):
                n = count(sizes, limit)
                binary = benchmark["answer"] != "text"
                rows.append(
                    {
                        "suite": suite,
                        "benchmark": benchmark["label"],
                        "limit": limit,
                        "asked": limit == benchmark["limit"],
                        "subsets": len(benchmark["subsets"]),
                        "n": n,
                        "half_width": stats.half_width(n, 1 - alpha) if n and binary else None,
                        "detectable": stats.detectable(n, DISCORDANCE, alpha)
                        if n and binary
                        else None,
                    }
                )
    return rows


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
            "Limit": ("all" if row["limit"] is None else str(row["limit"]))
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


def questions_for(difference: float, alpha: float) -> int:
    """Fewest pairs with which a true difference of this size is detectable (to about 1 %)."""
    low, high = 1, 100_000
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        found = stats.detectable(middle, DISCORDANCE, alpha)
        low, high = (low, middle) if found is not None and found <= difference else (middle, high)
    return high


def run_rows(study: dict, results: Results, gpu: str) -> list[dict]:
    return [run_row(study, results, name, gpu) for name in study["runs"]]


def run_row(study: dict, results: Results, name: str, gpu: str) -> dict:
    run = study["runs"][name]
    settings = run["training"]
    step = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    fit = results.read(f"runs/{name}/receipt.json")
    dataset = results.read(f"datasets/{run['dataset']}/receipt.json")
    receipt = fit or dataset
    rows = receipt["train_rows"] if receipt else None
    epochs = settings["num_train_epochs"]
    manifest = results.read(f"models/{run['model']}/manifest.json")
    config = results.folder / f"models/{run['model']}/weights/config.json"
    shape = read_json(config) if config.is_file() else None
    cost: Estimate | None = None
    if fit and manifest and shape:
        cost = estimate(settings, fit, shape, manifest["parameters"], hardware(settings, gpu))
    record = results.read(f"runs/{name}/training.json")
    done = NONE
    if record:
        changed = stale.training_changes(study, results.read, name)
        took = duration(record["train_seconds"])
        done = f"stale: {'; '.join(changed)}" if changed else f"yes, took {took}"
    return {
        "Run": name,
        "Model": run["model"],
        "Dialogues": number(rows),
        "Dialogues a step": step,
        "Steps": NONE if not rows else number(steps_per_epoch(rows, step) * epochs),
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
                    "Subject": subject,
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
