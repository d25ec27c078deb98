"""What a study took: time and memory as planned and as measured, and all subjects side by side."""

import pandas as pd
from sftflow.core.layout import PATHS, Results
from sftflow.reporting.cells import Draws
from sftflow.reporting.text import (
    MISSING,
    NONE,
    duration,
    gibibytes,
    headings,
    label,
    number,
    percent,
    pick,
    with_interval,
)


def planned_frame(study: dict, training: dict[str, dict]) -> pd.DataFrame:
    """Each training: what was expected on its machine before it began, and what it took."""
    rows = []
    for name in study["runs"]:
        record = training.get(name)
        row = {"Run": label(study, "runs", name)}
        if record is None:
            rows.append(row | {"Steps": MISSING})
            continue
        expected = record.get("estimate") or {}
        rows.append(
            row
            | {
                "Steps": number(record.get("steps")),
                "Dialogues a step": number(expected.get("effective_batch")),
                "Time planned": duration(expected.get("seconds")),
                "Time taken": duration(record.get("train_seconds")),
                "Memory planned": number(expected.get("memory_gib"), 2, "GiB"),
                "Memory taken": number(memory_of(record), 2, "GiB"),
            }
        )
    return pd.DataFrame(rows).fillna(NONE)


def memory_of(record: dict) -> float | None:
    """Most memory of a training in GiB: of its GPUs, else of the machine."""
    return record.get("gpu_memory_gib", record.get("host_memory_gib"))


def memory_frame(study: dict, results: Results, training: dict[str, dict]) -> pd.DataFrame:
    """What each run needs to be trained, kept and served."""
    rows = []
    for name in study["runs"]:
        record = training.get(name, {})
        ready = results.read(PATHS.readiness, subject=name) or {}
        trained, whole = record.get("trainable_parameters"), record.get("parameters")
        rows.append(
            {
                "Run": label(study, "runs", name),
                "Trained parameters": number(trained),
                "Share": percent(trained / whole) if trained and whole else NONE,
                "Training memory": number(memory_of(record), 2, "GiB"),
                "Adapter on disk": gibibytes(size(results.read(PATHS.adapter, run=name))),
                "Merged on disk": gibibytes(size(results.read(PATHS.merged, run=name))),
                "Serving, process": gibibytes(pick(ready, "memory.process")),
                "Serving, GPU": gibibytes(pick(ready, "memory.gpu")),
            }
        )
    return pd.DataFrame(rows)


def size(manifest: dict | None) -> int | None:
    return sum(file["size"] for file in manifest["files"]) if manifest else None


def subjects_frame(study: dict, results: Results, draws: Draws) -> pd.DataFrame:
    """Every model, run and endpoint of the study in a row: how large, how good, how fast."""
    suites = study["evaluate"]["suites"]
    names = headings(study, "subjects", study["evaluate"]["subjects"])
    rows = []
    for name, title in names.items():
        subject = study["subjects"][name]
        manifest = results.read(PATHS.model, model=subject["model"] or "") or {}
        ready = results.read(PATHS.readiness, subject=name) or {}
        row = {"Subject": title, "Parameters": number(manifest.get("parameters"))}
        for suite in suites:
            found = draws.get((suite, name))
            row[f"Suite {suite}"] = NONE
            if found:
                mean = found["micro"]
                row[f"Suite {suite}"] = with_interval(mean.score, mean.interval)
        row |= {
            "Tokens/s, together": number(pick(ready, "speed.tokens_per_second_concurrent"), 1),
            "Ready": duration(pick(ready, f"seconds.{ready.get('form')}.ready")),
            "Process memory": gibibytes(pick(ready, "memory.process")),
            "GPU memory": gibibytes(pick(ready, "memory.gpu")),
        }
        rows.append(row)
    return pd.DataFrame(rows)
