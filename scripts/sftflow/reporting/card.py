"""The model card of a run: what a hub reads (YAML, with a model-index) and what a person does."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import yaml
from sftflow.core.layout import PATHS
from sftflow.reporting.comparison import verdict_text
from sftflow.reporting.costs import memory_of
from sftflow.reporting.evidence import Evidence
from sftflow.reporting.summary import flag_lines
from sftflow.reporting.text import (
    NONE,
    OBEYED,
    duration,
    inert,
    interval_of,
    known_to,
    label,
    markdown,
    number,
    points,
    with_interval,
)

LIBRARY = {"adapter": "peft", "merged": "transformers"}
RELATION = {"adapter": "adapter", "merged": "finetune"}
SETTINGS = (
    "tuner_type", "lora_rank", "lora_alpha", "target_modules", "learning_rate", "num_train_epochs",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "torch_dtype",
    "seed",
)  # fmt: skip


def card(found: Evidence, run: str, form: str) -> str:
    front = yaml.safe_dump(front_matter(found, run, form), allow_unicode=True, sort_keys=False)
    return f"---\n{front}---\n\n" + "\n\n".join(body(found, run, form)) + "\n"


def from_hub(entry: dict) -> str | None:
    """The id on the hub of a model or dataset that is not a local one."""
    return None if entry["hub"] == "local" else entry["source"]


def front_matter(found: Evidence, run: str, form: str) -> dict[str, Any]:
    study, told = found.study, found.study["runs"][run]
    manifest = found.results.read(PATHS.model, model=told["model"]) or {}
    model, dataset = study["models"][told["model"]], study["datasets"][told["dataset"]]
    stated = {
        "license": manifest.get("license"),
        "base_model": from_hub(model),
        "base_model_relation": from_hub(model) and RELATION[form],
        "datasets": [source] if (source := from_hub(dataset)) else None,
        "library_name": LIBRARY[form],
        "pipeline_tag": "text-generation",
        "tags": ["sft", told["training"]["tuner_type"]],
        "model-index": [
            {"name": plain(label(study, "runs", run)), "results": list(index(found, run))}
        ],
    }
    return {name: value for name, value in stated.items() if value}


def plain(text: str) -> str:
    return OBEYED.sub("", " ".join(text.split()))


def index(found: Evidence, run: str) -> Iterator[dict]:
    """A result for each benchmark, as huggingface_hub's EvalResult has it."""
    for cell in found.cells.values():
        if cell.subject == run and cell.usable:
            benchmark, score = found.study["benchmarks"][cell.benchmark], cell.score
            yield {
                "task": {"type": "text-generation"},
                "dataset": {
                    "name": plain(cell.title),
                    "type": benchmark["dataset"],
                    "config": ", ".join(subset["name"] for subset in score["subsets"]),
                },
                "metrics": [
                    {
                        "type": score["metric"],
                        "value": score["score"],
                        "name": f"{score['metric']}, n = {score['n']}",
                        "args": {"n": score["n"], "ci95": score["ci95"]},
                    }
                ],
            }


def body(found: Evidence, run: str, form: str) -> Iterator[str]:
    study, told = found.study, found.study["runs"][run]
    record = found.training.get(run, {})
    manifest = found.results.read(PATHS.adapter if form == "adapter" else PATHS.merged, run=run)
    receipt = found.results.read(PATHS.dataset_receipt, dataset=told["dataset"]) or {}
    base = inert(label(study, "models", told["model"]))
    what = f"An adapter for {base}" if form == "adapter" else f"{base}, fine-tuned"
    yield f"# {inert(label(study, 'runs', run))}"
    yield (
        f"{what}, by supervised fine-tuning on `{told['dataset']}` "
        f"({number(receipt.get('train_rows'))} dialogues). Weights: sha256 "
        f"`{(manifest or {}).get('digest', NONE)}` over all files (`{form}.json`)."
    )
    yield "## What the fine-tuning changed"
    yield (
        "Accuracy in percent, differences in percentage points, paired by question against the "
        f"base model; measured as `{study['subjects'][run]['form']}`."
    )
    yield markdown(changes(found, run))
    yield "Undecided is not unchanged: the number of questions beside it would decide."
    if flags := [flag for flag in found.flags if flag.where in (run, told["dataset"])]:
        yield "## Before you use it"
        yield "\n".join(f"- {inert(line)}" for line in flag_lines(study, flags))
    yield "## Training"
    yield markdown(
        pd.DataFrame(
            [
                *({"Setting": name, "Value": str(told["training"][name])} for name in SETTINGS),
                {"Setting": "steps", "Value": number(record.get("steps"))},
                {
                    "Setting": "final loss",
                    "Value": known_to(record.get("final_loss"), record.get("final_loss_se")),
                },
                {"Setting": "validation loss", "Value": number(record.get("validation_loss"), 4)},
                {"Setting": "time", "Value": duration(record.get("train_seconds"))},
                {"Setting": "peak memory", "Value": number(memory_of(record), 2, "GiB")},
            ]
        )
    )
    yield (
        "Scores come from answers that were kept one by one; the report beside this card says how "
        "each number came about."
    )


def changes(found: Evidence, run: str) -> pd.DataFrame:
    """Each suite and benchmark: before, after, and what may be said of it."""
    study = found.study
    confidence = {cell.benchmark: cell for cell in found.cells.values() if cell.subject == run}
    rows = []
    for row in found.rows:
        if row["candidate"] != run or row["trainings"] > 1:
            continue
        cell = confidence.get(row["benchmark"])
        score, ci95 = row.get("candidate_score"), None
        if cell and cell.usable:
            score, ci95 = cell.score["score"], cell.score["ci95"]
        name = row["benchmark"] and label(study, "benchmarks", row["benchmark"])
        rows.append(
            {
                "Benchmark": name or f"suite {row['suite']}",
                f"{label(study, 'subjects', row['baseline'])} (%)": with_interval(
                    row.get("baseline_score"), None
                ),
                "This (%)": with_interval(score, ci95),
                "Difference (points)": points(row.get("difference"), interval_of(row)),
                "Verdict": verdict_text(row),
                "n": row.get("n", NONE),
            }
        )
    return pd.DataFrame(rows).fillna(NONE)
