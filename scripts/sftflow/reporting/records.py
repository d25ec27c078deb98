"""Tables of what is no score: training, inference, chats, data."""

from collections.abc import Iterator
from itertools import chain

import pandas as pd
from sftflow.core.layout import PATHS, Results
from sftflow.reporting.flags import Flag, kinds, training_flags
from sftflow.reporting.text import (
    MISSING,
    NONE,
    WIDE,
    Table,
    duration,
    flat,
    gibibytes,
    headings,
    known_to,
    label,
    link,
    number,
    percent,
    pick,
)

CONTAMINATION = (
    "Dataset", "Benchmark", "n", "Overlapping", "Share", "Stem, whole, options", "Uncheckable",
)  # fmt: skip


def training_table(study: dict, results: Results) -> Table:
    records = {name: results.read(f"runs/{name}/training.json") for name in study["runs"]}
    flags = {n: training_flags(n, record) if record else [] for n, record in records.items()}
    return Table(
        "training",
        "Training",
        "One row per run; curves are in its training.json.",
        [("", pd.DataFrame(training_row(study, *i, flags[i[0]]) for i in records.items()))],
        pd.DataFrame(
            {"run": name, **flat(record or {}), "flags": kinds(flags[name])}
            for name, record in records.items()
        ),
        [
            *(
                f"{label(study, 'runs', flag.where)}: {flag}"
                for flag in chain.from_iterable(flags.values())
            ),
            "First and final loss are means per token that carries loss, over the first and the "
            "last tenth of the steps (at least 10, at most 100: `window_steps`), in nats. "
            "Validation loss is before the first step and after the last; validation changes no "
            "weight.",
            "Flags: a change in loss counts beyond its noise (two standard errors, at least 1 %).",
            "Tokens are real ones; padding is not counted.",
            "FLOP utilisation: useful FLOPs per second by the GPUs' data-sheet rate, with the "
            "formula in training.json; without a GPU there is none.",
        ],
    )


def training_row(study: dict, name: str, record: dict | None, flags: list[Flag]) -> dict:
    run = study["runs"][name]
    row = {
        "Run": label(study, "runs", name),
        "Model": label(study, "models", run["model"]),
        "Dataset": run["dataset"],
        "Seed": run["training"]["seed"],
    }
    if record is None:
        return {**row, "Steps": MISSING}
    memory = record.get("gpu_memory_gib", record.get("host_memory_gib"))
    return {
        **row,
        "Steps": number(record.get("steps")),
        "Epochs": number(record.get("epochs"), 2),
        "First loss": known_to(record.get("first_loss"), record.get("first_loss_se")),
        "Final loss": known_to(record.get("final_loss"), record.get("final_loss_se")),
        "Validation loss before": number(record.get("validation_loss_before"), 4),
        "Validation loss": number(record.get("validation_loss"), 4),
        "Flags": kinds(flags) or NONE,
        "Token accuracy": percent(record.get("token_accuracy")),
        "Time": duration(record.get("train_seconds")),
        "Dialogues/s": number(record.get("samples_per_second"), 2),
        "Tokens/s": number(record.get("tokens_per_second")),
        "Padded": percent(record.get("padded_share")),
        "Peak memory": number(memory, 2, "GiB"),
        "GPU use": NONE
        if "gpu_utilisation_percent" not in record
        else f"{record['gpu_utilisation_percent']:.0f} %, {record['gpu_power_watt']:.0f} W",
        "FLOP utilisation": percent(record.get("flop_utilisation")),
        "Record": link(f"runs/{name}/training.json"),
    }


def inference_table(study: dict, results: Results) -> Table:
    subjects = study["evaluate"]["subjects"]
    records = {name: results.read(f"subjects/{name}/readiness.json") for name in subjects}
    return Table(
        "inference",
        "Inference",
        "How each subject came up and answered, measured on an undisturbed server.",
        [("", pd.DataFrame(inference_row(study, *item) for item in records.items()))],
        pd.DataFrame({"subject": name, **flat(record or {})} for name, record in records.items()),
        [
            "Ready: from the start of the server to its first proven answer. A merged run is also "
            "started as adapter on its base, only to time that, where serving.time_both_forms says "
            "so; the rest is of the form that is served.",
            "Tokens/s: generated tokens, of one answer and of as many at once as are asked in an "
            "evaluation.",
            f"Memory: {NONE} where there is no GPU, or the server is somebody else's.",
        ],
    )


def inference_row(study: dict, name: str, record: dict | None) -> dict:
    row = {"Subject": label(study, "subjects", name), "Form": study["subjects"][name]["form"]}
    if record is None:
        return {**row, "Backend": MISSING}
    form, seconds, speed = record["form"], record["seconds"], record["speed"]
    several = f"{number(speed['tokens_per_second_concurrent'], 1)} (×{speed['concurrency']})"
    return {
        **row,
        "Backend": record["backend"]["name"],
        "Ready": duration(seconds[form].get("ready")),
        "Weights loaded in": duration(seconds[form].get("load")),
        "First answer": duration(seconds[form].get("first_answer")),
        "Ready as adapter": duration(pick(seconds, "adapter.ready")),
        "Ready as merged": duration(pick(seconds, "merged.ready")),
        "First token": duration(speed["first_token_seconds"]),
        "Tokens/s, one stream": number(speed["tokens_per_second"], 1),
        "Tokens/s, together": several,
        "Process memory": gibibytes(record["memory"]["process"]),
        "GPU memory": gibibytes(record["memory"]["gpu"]),
        "Record": link(f"subjects/{name}/readiness.json"),
    }


def chat_table(study: dict, results: Results) -> Table:
    """Prompts are rows; few subjects are columns, many are rows below each prompt."""
    subjects = study["evaluate"]["subjects"]
    records = {name: results.read(f"subjects/{name}/chat.json") for name in subjects}
    rows = [
        {"prompt": prompt, "subject": name, **(chat_answer(records[name], prompt) or {})}
        for prompt in study["prompts"]
        for name in subjects
    ]
    columns = headings(study, "subjects", subjects)
    texts = {(row["prompt"], row["subject"]): row.get("answer", MISSING) for row in rows}
    if len(subjects) <= WIDE:
        frame = pd.DataFrame(
            {
                "Prompt": prompt,
                **{heading: texts[prompt, name] for name, heading in columns.items()},
            }
            for prompt in study["prompts"]
        )
    else:
        frame = pd.DataFrame(
            {
                "Prompt": row["prompt"],
                "Subject": label(study, "subjects", row["subject"]),
                "Answer": row.get("answer", MISSING),
            }
            for row in rows
        )
    return Table(
        "chat",
        "Fixed prompts",
        "Answers at temperature 0; an answer that ends in … ran into max_tokens.",
        [("", frame)],
        pd.DataFrame(rows),
    )


def chat_answer(record: dict | None, prompt: str) -> dict | None:
    """The answer to one prompt; None where this subject was not asked it."""
    found = [a for a in (record or {}).get("answers", []) if a["prompt"] == prompt]
    if not found:
        return None
    answer = {key: found[0].get(key) for key in ("answer", "finish_reason", "seconds")}
    if answer["finish_reason"] == "length":
        answer["answer"] += " …"
    return answer


def data_table(study: dict, results: Results) -> Table:
    datasets = {name: results.read(f"datasets/{name}/receipt.json") for name in study["datasets"]}
    runs = {name: results.read(f"runs/{name}/receipt.json") for name in study["runs"]}
    overlap = {
        name: results.read(f"datasets/{name}/contamination.json") for name in study["datasets"]
    }
    measured = [record for record in overlap.values() if record and "measured" in record][:1]
    return Table(
        "data",
        "Training data",
        "What was read, what was kept, what each run trains on, and which benchmark questions the "
        "dialogues hold.",
        [
            ("Datasets", pd.DataFrame(dataset_row(*item) for item in datasets.items())),
            ("Dropped rows", dropped_frame(study, "Dataset", datasets)),
            ("Runs", pd.DataFrame(fit_row(study, *item) for item in runs.items())),
            (
                "Dropped by a run",
                dropped_frame(study, "Run", runs),
            ),
            ("Contamination", contamination_frame(study, overlap)),
            ("Contamination, examples", example_frame(study, overlap)),
        ],
        pd.DataFrame(
            [{"kind": "dataset", "name": name, **flat(r or {})} for name, r in datasets.items()]
            + [{"kind": "run", "name": name, **flat(r or {})} for name, r in runs.items()]
            + [
                {"kind": "contamination", "name": f"{name}/{benchmark}", **flat(found)}
                for name, record in overlap.items()
                for benchmark, found in (record or {}).get("benchmarks", {}).items()
            ]
        ),
        [
            "Carry loss: share of the tokens that the model is trained to say. Padded: share of "
            "the positions that would be padding at the run's batch settings.",
            "Contamination: a question overlaps when at least the threshold's share of its stem, "
            "or of stem and options (whole), stands in one dialogue, or all its options do; in any "
            "case, width, script, punctuation and order, with a word changed, over several turns. "
            "Uncheckable: too short to tell, counted as clean. The score is also given on the "
            "clean questions.",
            *(measured_note(record["measured"]) for record in measured),
        ],
    )


def dataset_row(name: str, receipt: dict | None) -> dict:
    if receipt is None:
        return {"Dataset": name, "Source": MISSING}
    return {
        "Dataset": name,
        "Source": receipt["source"],
        "Revision": receipt["revision"] or NONE,
        "Read": number(receipt["rows_read"]),
        "Kept": number(receipt["rows_kept"]),
        "Dropped": number(receipt["rows_read"] - receipt["rows_kept"]),
        "Train": number(receipt["train_rows"]),
        "Validation": number(receipt["validation_rows"]),
        "Turns (mean, max)": _mean_and_max(receipt["turns"]),
        "Characters (mean, max)": _mean_and_max(receipt["characters"]),
        "Digest": receipt["digest"][:12],
        "Receipt": link(f"datasets/{name}/receipt.json"),
    }


def _mean_and_max(record: dict) -> str:
    return f"{number(record['mean'], 1)}, {number(record['max'])}"


def dropped_frame(study: dict, kind: str, receipts: dict[str, dict | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            kind: label(study, f"{kind.lower()}s", name),
            "Reason": reason,
            "Rows": number(found["count"]),
            "First lines": ", ".join(map(str, found["lines"])),
        }
        for name, receipt in receipts.items()
        for reason, found in (receipt or {}).get("dropped", {}).items()
    )


def fit_row(study: dict, name: str, receipt: dict | None) -> dict:
    row = {"Run": label(study, "runs", name), "Dataset": study["runs"][name]["dataset"]}
    if receipt is None:
        return {**row, "Kept": MISSING}
    tokens = receipt["tokens"]
    return {
        **row,
        "Kept": number(receipt["rows_kept"]),
        "Tokens": number(tokens.get("train")),
        "Tokens, mean": number(tokens["mean"], 1),
        "Tokens, max": number(tokens["max"]),
        "Padded": percent(receipt.get("padded_share")),
        "Carry loss": percent(receipt.get("loss_share")),
        "Steps per epoch": number(receipt.get("steps_per_epoch")),
        "Receipt": link(f"runs/{name}/receipt.json"),
    }


def measured_note(measured: dict) -> str:
    """What planted leaks showed, in one sentence or two."""
    recall = ", ".join(f"{kind} {percent(share)} %" for kind, share in measured["recall"].items())
    return (
        f"Measured at the default settings on {number(measured['planted'])} made-up questions in "
        "Chinese and English, leaked among dialogues on the same topics. "
        f"Found: {recall}. Of {number(measured['clean'])} that nobody leaked, "
        f"{percent(measured['false_positives'])} % were flagged. The search was tuned on these: "
        "on real data expect less."
    )


def contamination_frame(study: dict, overlap: dict[str, dict | None]) -> pd.DataFrame:
    rows = []
    for name, record in overlap.items():
        if record is None:
            rows.append(dict.fromkeys(CONTAMINATION, "") | {"Dataset": name, "Benchmark": MISSING})
            continue
        for benchmark, found in record["benchmarks"].items():
            rows.append(
                {
                    "Dataset": name,
                    "Benchmark": label(study, "benchmarks", benchmark),
                    "n": number(found["n"]),
                    "Overlapping": number(found["overlapping"]),
                    "Share": percent(found["share"]),
                    "Stem, whole, options": ", ".join(
                        number(found.get("kinds", {}).get(kind, 0))
                        for kind in ("stem", "whole", "options")
                    ),
                    "Uncheckable": number(found.get("uncheckable")),
                }
            )
    return pd.DataFrame(rows)


MUCH = 0.01  # of a benchmark's questions, or of a file's rows: less is named in the tables only


def contamination_flags(study: dict, results: Results) -> Iterator[Flag]:
    """Benchmarks whose questions the dialogues hold, by dataset."""
    for name in study["datasets"]:
        record = results.read(PATHS.contamination, dataset=name) or {"benchmarks": {}}
        for benchmark, found in record["benchmarks"].items():
            if found["overlapping"] and found["share"] > MUCH:
                values = {
                    "benchmark": label(study, "benchmarks", benchmark),
                    "overlapping": number(found["overlapping"]),
                    "n": number(found["n"]),
                    "share": percent(found["share"]),
                }
                yield Flag("contaminated", name, values)


SERVED = ("name", "torch_dtype", "max_model_len", "extra", "versions")  # of an identity's backend


def served_flags(study: dict, results: Results) -> Iterator[Flag]:
    """Pairs whose sides differ in backend, number type or limits, endpoints apart."""
    for pair in study["comparisons"]:
        one, other = (results.read(PATHS.readiness, subject=name) for name in pair.values())
        if one is None or other is None or "endpoint" in (one["form"], other["form"]):
            continue
        sides = [
            {key: record["backend"].get(key) for key in SERVED}
            | {"max_batch_size": study["subjects"][name]["serving"]["max_batch_size"]}
            for name, record in zip(pair.values(), (one, other), strict=True)
        ]
        unlike = [key for key in sides[0] if sides[0][key] != sides[1][key]]
        if unlike:
            before, after = (
                ", ".join(f"{'backend' if key == 'name' else key} {side[key]}" for key in unlike)
                for side in sides
            )
            of = label(study, "subjects", pair["baseline"])
            values = {"baseline": of, "before": before, "after": after}
            yield Flag("served unlike", pair["candidate"], values)


def dropped_flags(study: dict, results: Results) -> Iterator[Flag]:
    """Rows that are not trained on, by dataset, and by run of what its dataset kept."""
    for template, kind in ((PATHS.dataset_receipt, "dataset"), (PATHS.run_receipt, "run")):
        for name in study[f"{kind}s"]:
            receipt = results.read(template, **{kind: name}) or {"dropped": {}}
            dropped = {why: found["count"] for why, found in receipt["dropped"].items()}
            if dropped and sum(dropped.values()) > MUCH * receipt["rows_read"]:
                values = {
                    "dropped": number(sum(dropped.values())),
                    "rows": number(receipt["rows_read"]),
                    "share": percent(sum(dropped.values()) / receipt["rows_read"]),
                    "reasons": ", ".join(f"{why}: {count}" for why, count in dropped.items()),
                }
                yield Flag("dropped rows", name, values)


def example_frame(study: dict, overlap: dict[str, dict | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Dataset": name,
            "Benchmark": label(study, "benchmarks", benchmark),
            "Subset": example["subset"],
            "Kind": example.get("kind", NONE),
            "Covered": percent(example["coverage"]),
            "Question": example["question"],
            "Passage": example["passage"],
            "Dialogue": example["dialogue"][:12],
        }
        for name, record in overlap.items()
        for benchmark, found in (record or {"benchmarks": {}})["benchmarks"].items()
        for example in found["examples"]
    )
