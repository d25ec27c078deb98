"""The report: what it tells, and how it looks."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import numpy as np
import pandas as pd
from sftflow.config import halving, schema
from sftflow.core.jsonio import digest, read_record
from sftflow.core.layout import PATHS, Results
from sftflow.core.spans import merged
from sftflow.reporting import browser, commands, costs, earlier, figures, notes, plan
from sftflow.reporting import comparison as tables_comparison
from sftflow.reporting import curve as tables_curve
from sftflow.reporting import dialogue as tables_dialogue
from sftflow.reporting import records as tables_records
from sftflow.reporting import suites as tables_scores
from sftflow.reporting import sweeps as tables_sweeps
from sftflow.reporting import text as tables_text
from sftflow.reporting.chinese import FOREIGN_CODE, said, translate
from sftflow.reporting.evidence import Evidence
from sftflow.reporting.meanings import MEANINGS
from sftflow.reporting.summary import flag_groups, headline, in_terminal, some
from sftflow.reporting.text import MISSING, NONE, TEMPLATES
from sftflow.scoring import stats


def collect(study: dict, results: Results) -> dict:
    """Everything that a report shows."""
    evidence = Evidence(study, results, schema.references())
    return pictured(evidence) | written(evidence)


def pictured(evidence: Evidence) -> dict:
    """What the figures show."""
    study, results = evidence.study, evidence.results
    return {
        "cells": evidence.cells,
        "differences": named_differences(study, evidence.rows),
        "curve_rows": evidence.curves.rows,
        "sweeps": evidence.sweeps,
        "training_records": evidence.training,
        "fits": {
            name: receipt["tokens"]
            for name in study["runs"]
            if (receipt := results.read(f"runs/{name}/receipt.json"))
        },
        "turns": {
            name: receipt["turns"]
            for name in study["datasets"]
            if (receipt := results.read(f"datasets/{name}/receipt.json"))
        },
    }


def written(evidence: Evidence) -> dict:
    """All else that the templates show; tables in English, translated when they are shown."""
    study, results = evidence.study, evidence.results
    cells, draws, talk, curves = evidence.cells, evidence.draws, evidence.talk, evidence.curves
    comparison = tables_comparison.comparison_table(study, cells, draws, evidence.rows)
    suites = {
        suite: tables_scores.suite_table(study, suite, cells, draws, evidence.references)
        for suite in study["evaluate"]["suites"]
    }
    dialogue = tables_dialogue.dialogue_table(talk, evidence.claims)
    sweeps, decided = evidence.sweeps, tables_sweeps.decisions(study, results)
    answers = browser.answers(study, results, cells)
    return {
        "study": study,
        "answers": answers,
        "sweep": dict(tables_sweeps.sweep_table(study, sweeps, cells, draws, decided).sections),
        "halving": {sweep: halving.passed(made) for sweep, made in decided.items()},
        "chosen": tables_sweeps.chosen(sweeps),
        "models": pd.DataFrame(model_row(study, results, name) for name in study["models"]),
        "environments": environment_frame(results),
        "examples": examples(study, results),
        "batches": batches(study),
        "shell": commands.by_step(study, evidence.training),
        "planned": costs.planned_frame(study, evidence.training),
        "memory": costs.memory_frame(study, results, evidence.training),
        "subjects": costs.subjects_frame(study, results, draws),
        "notes": notes.read(study["report"]["notes"]),
        "earlier": tables_text.inert(Path(study["report"]["compare_with"] or "").name),
        "news": news(study, cells),
        "history": history_frame(study, cells),
        "data": dict(tables_records.data_table(study, results).sections),
        "settings": settings_frame(study),
        "varied": varied_frame(study),
        "commands": swift_files(study, results),
        "training": tables_records.training_table(study, results).sections[0][1],
        "inference": tables_records.inference_table(study, results).sections[0][1],
        "chat": tables_records.chat_table(study, results).sections[0][1],
        "asked": asked_frame(study),
        "suites": {suite: report_sections(table) for suite, table in suites.items()},
        "comparison": dict(comparison.sections),
        "dialogue": dict(dialogue.sections),
        "curve": dict(tables_curve.curve_table(curves, cells).sections),
        "choices": curves.choices,
        "headline": {each: headline(evidence, each) for each in study["languages"]},
        "flags": evidence.flags,
        "record": record(evidence, dialogue.data, answers),
        "summary": in_terminal(evidence),
        "reach": reach(study, comparison.data),
        "provenance": provenance(cells),
    }


def record(evidence: Evidence, dialogue: pd.DataFrame, answers: browser.Answers) -> dict:
    """What the report states, unrounded, for programs: report/report.json."""
    means = [
        {
            "suite": suite, "subject": subject, "mean": kind, "score": mean.score,
            "interval": mean.interval,
        }
        for (suite, subject), found in evidence.draws.items()
        for kind, mean in found.items()
    ]  # fmt: skip
    content = {
        "scores": earlier.scores(evidence.cells.values()),
        "claims": evidence.rows,
        "means": means,
        "dialogue": dialogue.to_dict("records"),
        "curve": evidence.curves.rows,
        "choices": evidence.curves.choices,
        "plan": plan.precision_rows(evidence.study, evidence.results),
        "answers": {"shown": answers.shown.count, "page": answers.size},
        "seconds_of_answering": provenance(evidence.cells)["seconds"],
        "flags": [{"where": flag.where, **flag.entry()} for flag in evidence.flags],
    }
    return {"schema": 1} | bare(content)


def bare(value: Any) -> Any:
    """As JSON has it: no number that is none, and numbers of no library's own."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {str(key): bare(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bare(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


COMMIT = re.compile(r"^([0-9a-f]{12})[0-9a-f]{28}$")


def model_row(study: dict, results: Results, name: str) -> dict:
    model, manifest = study["models"][name], results.read(f"models/{name}/manifest.json") or {}
    return {
        "Model": model["label"] or name,
        "Source": model["source"],
        "Revision": COMMIT.sub(r"\1", manifest.get("revision") or model.get("revision") or NONE),
        "Parameters": tables_text.number(manifest.get("parameters")),
        "Number type": manifest.get("torch_dtype") or NONE,
        "License": manifest.get("license") or NONE,
        "Digest": (manifest.get("digest") or MISSING)[:12],
        "Note": FOREIGN_CODE if manifest.get("remote_code") else "",
    }


HEADLINES = 3  # comparisons told on the first screen, where there are many
ROWS = 60  # of a table in the report; the files in tables/ have all
MORE = {
    "en": "… {} more rows in results/tables/.",
    "zh": "… 其余 {} 行见 results/tables/。",
}
PACKAGES = (
    "ms-swift", "torch", "transformers", "peft", "liger-kernel", "vllm", "evalscope", "swanlab",
)  # fmt: skip


def environment_frame(results: Results) -> pd.DataFrame:
    """Installed versions of the packages that matter, by environment."""
    rows = []
    for path in sorted((results.folder / "environments").glob("*.json")):
        record = read_record(path)
        packages = record["packages"]
        rows.append(
            {
                "Environment": record["env"],
                "Python": record["python"],
                **{name: packages.get(name, NONE) for name in PACKAGES},
                "uv.lock": (record["lock"] or NONE)[:12],
            }
        )
    frame = pd.DataFrame(rows)
    return frame.drop(columns=[name for name in frame if (frame[name] == NONE).all()])


def settings_frame(study: dict) -> pd.DataFrame:
    """Training settings and what they mean: a column for each run, or one for many."""
    runs = study["runs"]
    if len(runs) <= tables_text.WIDE:
        columns = {
            title: [name] for name, title in tables_text.headings(study, "runs", runs).items()
        }
    else:
        columns = {"All runs": list(runs)}
    return pd.DataFrame(
        {
            "Setting": setting,
            **{
                title: ", ".join(dict.fromkeys(str(runs[n]["training"][setting]) for n in names))
                for title, names in columns.items()
            },
            "Meaning": told,
        }
        for setting, (told, _) in MEANINGS.items()
        if runs
    )


def varied_frame(study: dict) -> pd.DataFrame:
    """Of many runs, the settings in which they differ."""
    runs = study["runs"]
    varied = [s for s in MEANINGS if len({str(r["training"][s]) for r in runs.values()}) > 1]
    if not varied or len(runs) <= tables_text.WIDE:
        return pd.DataFrame()
    return pd.DataFrame(
        {"Run": title, **{s: str(runs[name]["training"][s]) for s in varied}}
        for name, title in tables_text.headings(study, "runs", runs).items()
    )


def swift_files(study: dict, results: Results) -> dict[str, str]:
    """ms-swift's own file of the first runs, without paths of the machine."""
    paths = {name: results.path(PATHS.command, run=name) for name in list(study["runs"])[:2]}
    return {
        name: commands.without_host(path.read_text("utf-8")).rstrip()
        for name, path in paths.items()
        if path.exists()
    }


LONGEST = 400  # characters of a turn in an example


def examples(study: dict, results: Results) -> dict[str, str]:
    """{dataset: its first dialogue as training sees it}, shortened."""
    found = {}
    for name in dict.fromkeys(run["dataset"] for run in study["runs"].values()):
        path = results.path(PATHS.dataset_rows, dataset=name, side="train")
        if not path.exists():
            continue
        with open(path, encoding="utf-8") as file:
            row = json.loads(file.readline())
        turns = [{key: shortened(value) for key, value in turn.items()} for turn in row["messages"]]
        found[name] = json.dumps({"messages": turns}, ensure_ascii=False, indent=2)
    return found


def shortened(value: object) -> str:
    text = tables_text.OBEYED.sub("", value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def batches(study: dict) -> dict[tuple[int, int, int], list[str]]:
    """{dialogues at once on a GPU, batches of a step, and so dialogues of a step: runs}"""
    found: dict[tuple[int, int, int], list[str]] = {}
    for name, run in study["runs"].items():
        batch = run["training"]["per_device_train_batch_size"]
        accumulation = run["training"]["gradient_accumulation_steps"]
        label = tables_text.inert(tables_text.label(study, "runs", name))
        found.setdefault((batch, accumulation, batch * accumulation), []).append(label)
    return found


def news(study: dict, cells: dict) -> pd.DataFrame | None:
    """What changed since the earlier report that the study names; None where it names none."""
    before = earlier.read(study["report"]["compare_with"])
    return None if before is None else earlier.news(study, before, cells.values())


def history_frame(study: dict, cells: dict) -> pd.DataFrame:
    """What was evaluated on which day."""
    days: dict[str, list] = {}
    for cell in cells.values():
        if cell.score:
            started = datetime.fromisoformat(cell.score["provenance"]["started"])
            days.setdefault(f"{started.astimezone(UTC):%Y-%m-%d}", []).append(cell)
    return pd.DataFrame(
        {
            "Date": day,
            "Subject": first_of(list(dict.fromkeys(cell.labels[0] for cell in found))),
            "Scores": len(found),
            "Commit": ", ".join(
                sorted({(cell.score["provenance"]["git"] or NONE)[:12] for cell in found})
            ),
        }
        for day, found in sorted(days.items())
    )


def first_of(names: list[str]) -> str:
    """Some of many names, and how many there are."""
    if len(names) <= tables_text.WIDE:
        return ", ".join(names)
    return f"{', '.join(names[: tables_text.WIDE])}, … ({len(names):,})"


def asked_frame(study: dict) -> pd.DataFrame:
    """How every benchmark is asked."""
    rows = []
    for suite in study["evaluate"]["suites"]:
        for name in study["suites"][suite]:
            benchmark = study["benchmarks"][name]
            subsets = benchmark["subsets"]
            rows.append(
                {
                    "Suite": suite,
                    "Benchmark": benchmark["label"] or name,
                    "Subset": ", ".join(subsets) if len(subsets) <= 4 else f"{len(subsets)}",
                    "Few-shot": benchmark["shots"],
                    "Limit": benchmark["limit"] or NONE,
                    "temperature": benchmark["generation"]["temperature"],
                    "max_tokens": benchmark["generation"]["max_tokens"],
                    "Note": benchmark.get("note") or "",
                }
            )
    return pd.DataFrame(rows)


COLUMNS = (
    "Benchmark", "Subset", "Subject", "n", "Accuracy", "Strict", "Macro-F1", "Unstated", "Few-shot",
    "Note",
)  # fmt: skip


def report_sections(table: tables_text.Table) -> dict[str, pd.DataFrame]:
    sections = dict(table.sections)
    return sections | {"Details": leading(sections["Details"])[list(COLUMNS)]}


def leading(details: pd.DataFrame) -> pd.DataFrame:
    """Each accuracy is a link to its score, and names the subset: a page that holds the answers
    leads to those."""

    def linked(score: str, accuracy: str, subset: str) -> str:
        if score == NONE or accuracy.startswith("~~"):
            return accuracy
        part = "" if subset == "all" else "#" + urlencode({"subset": subset})
        return score.replace("[json]", f"[{accuracy}]").replace(")", f"{part})")

    columns = (details[name] for name in ("Score", "Accuracy", "Subset"))
    return details.assign(Accuracy=[linked(*row) for row in zip(*columns, strict=True)])


def reach(study: dict, rows: pd.DataFrame) -> list[dict]:
    """Undecided claims about subjects, with the difference that their n could have shown."""
    if "detectable" not in rows:
        return []
    open_ = rows[(rows["verdict"] == stats.UNDECIDED) & (rows["trainings"] == 1)]
    columns = ["candidate", "suite", "benchmark", "n", "detectable", "needed"]
    found = open_[columns].astype(object).where(open_[columns].notna(), None).to_dict("records")
    return [
        row
        | {
            "who": tables_text.label(study, "subjects", row["candidate"]),
            "what": tables_text.label(study, "benchmarks", row["benchmark"] or row["suite"]),
        }
        for row in found
    ]


def provenance(cells: dict) -> dict:
    """Commits, machines and times that the scores come from.

    Benchmarks of a subject are asked together: a second in which several were is one second.
    """
    scored = [cell for cell in cells.values() if cell.score]
    records = [cell.score["provenance"] for cell in scored]
    busy: dict[str, list] = {}
    for cell, record in zip(scored, records, strict=True):
        busy.setdefault(cell.subject, []).extend(answering(record))
    started = sorted(record["started"] for record in records)
    machines = Counter(machine(record["hardware"]) for record in records)
    return {
        "first": minute(started[0]) if started else None,
        "last": minute(started[-1]) if started else None,
        "commits": sorted({record["git"] for record in records if record["git"]}),
        "machines": [name for name, _ in machines.most_common()],
        "seconds": sum(end - begin for spans in busy.values() for begin, end in merged(spans)),
        "scores": len(records),
    }


def answering(record: dict) -> list[list[float]]:
    """When the answers of a score were under way: [[begin, end]], Unix times."""
    begin = datetime.fromisoformat(record["started"]).timestamp()
    return record.get("spans") or [[begin, begin + record["seconds"]]]  # of an older version


def minute(time: str) -> str:
    """2026-01-01T09:30:59+00:00 -> 2026-01-01 09:30 UTC"""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def machine(hardware: dict) -> str:
    gpus = Counter(hardware["gpus"])
    return ", ".join([f"{n} × {name}" for name, n in gpus.items()] or [hardware["cpu"]])


def draw(study: dict, found: dict, language: str) -> dict[str, figures.Picture]:
    """Every figure, in one language."""
    say = partial(in_language, language)
    points: dict[str, dict] = {}
    chance = {}
    for cell in found["cells"].values():
        if cell.usable and cell.score["ci95"]:
            benchmark = tables_text.label(study, "benchmarks", cell.benchmark)
            subject = tables_text.label(study, "subjects", cell.subject)
            values = (cell.score["score"], *cell.score["ci95"])
            points.setdefault(subject, {})[benchmark] = values
            chance[benchmark] = cell.score["chance"]
    labels = tables_text.headings(study, "runs", study["runs"])
    training = {labels[run]: record for run, record in found["training_records"].items()}
    on_gpus = {name: record for name, record in training.items() if record.get("gpu_curve")}
    turns = {
        tables_text.label(study, "datasets", name): turns for name, turns in found["turns"].items()
    }
    curves = [row | {"run": labels[row["run"]]} for row in found["curve_rows"]]
    margin = study["statistics"]["margin"]
    return {
        "loss": figures.loss(training, say),
        "learning_rate": figures.learning_rate(training, say),
        "gpu": figures.gpu(on_gpus, say),
        "learning_curve": figures.learning_curve(curves, say),
        "differences": figures.differences(found["differences"], margin, say),
        "scores": figures.scores(points, chance, say),
        "token_lengths": figures.token_lengths(lengths_once(study, found["fits"]), turns, say),
        "sweep": figures.sweep(tables_sweeps.drawn(found["sweeps"]), say),
    }


def in_language(language: str, text: str, **values: object) -> str:
    return said(text, language, **values)


def lengths_once(study: dict, fits: dict[str, dict]) -> dict[str, dict]:
    """Runs whose dialogues have the same lengths as one, called by their dataset; by its first run
    too where models or settings give one dataset several lengths."""
    alike: dict[tuple[str, str], list[str]] = {}
    for run, tokens in fits.items():
        key = (study["runs"][run]["dataset"], digest(tokens["histogram"]))
        alike.setdefault(key, []).append(run)
    count = Counter(dataset for dataset, _ in alike)
    names = tables_text.headings(study, "datasets", count)
    labels = tables_text.headings(study, "runs", study["runs"])
    return {
        names[dataset] if count[dataset] == 1 else f"{names[dataset]} ({labels[runs[0]]})": fits[
            runs[0]
        ]
        for (dataset, _), runs in alike.items()
    }


def named_differences(study: dict, rows: list[dict]) -> list[dict]:
    """The claims that have an interval, as figures.differences draws them."""
    label = partial(tables_text.label, study)
    return [
        {
            "pair": f"{label('subjects', row['candidate'])} − {label('subjects', row['baseline'])}",
            "name": label("benchmarks", row["benchmark"]) if row["benchmark"] else row["suite"],
            "suite": not row["benchmark"],
            **{key: row[key] for key in ("difference", "ci_low", "ci_high", "verdict")},
        }
        for row in rows
        if row.get("ci_low") is not None
    ]


def page(language: str, found: dict) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["table"] = lambda frame: shown(frame, translated, language)
    environment.filters["upright"] = lambda frame: shown(frame, upright, language)
    environment.filters["grouped"] = lambda flags, each: flag_groups(
        found["study"], flags, language, each
    )
    environment.filters["some"] = lambda names: some(names, language)
    environment.filters["label"] = lambda name, kind="runs": tables_text.inert(
        tables_text.label(found["study"], kind, name)
    )
    environment.filters["inert"] = tables_text.inert
    environment.filters["said"] = lambda text: said(text, language)
    environment.filters["roughly"] = tables_comparison.roughly
    environment.filters["percent"] = tables_text.percent
    environment.filters["rise"] = tables_curve.rise_text
    environment.filters["number"] = tables_text.number
    environment.filters["duration"] = tables_text.duration
    count = len(found["headline"][language])
    text = environment.get_template(f"report.{language}.md.j2").render(
        **found | {"headline": found["headline"][language]},
        nothing=NONE,
        told=HEADLINES if count > tables_text.WIDE else count,
        own=lambda section: own_notes(found["notes"], str(section), language),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def own_notes(found: dict[str, str], section: str, language: str) -> str:
    """What the author says in a section, under a heading of its own."""
    if section not in found:
        return ""
    return f"### {said('Notes', language)}\n\n{found[section]}\n"


def shown(frame: pd.DataFrame, form: Callable, language: str) -> str:
    """A table for a reader: of many rows the foremost, and where the others are."""
    words = tables_text.Words(
        lambda text, **values: said(text, language, **values), partial(form, language=language)
    )
    text = tables_text.told(tables_text.foremost(frame, ROWS), 4, words)
    if len(frame) <= ROWS:
        return text
    return f"{text}\n\n{MORE[language].format(len(frame) - ROWS)}"


def translated(frame: pd.DataFrame, language: str) -> pd.DataFrame:
    def say(text: str, **values: object) -> str:
        return said(text, language, **values)

    return tables_text.with_units(frame, translate(frame, language), say)


def upright(frame: pd.DataFrame, language: str) -> pd.DataFrame:
    """A table of few wide rows turned on its side: one column per row."""
    wide = translated(frame, language)
    if frame.empty or len(frame) > tables_text.WIDE:
        return wide
    turned = wide.set_index(wide.columns[0]).T.fillna(NONE)
    return turned.rename_axis(columns=None).reset_index(names=wide.columns[0])
