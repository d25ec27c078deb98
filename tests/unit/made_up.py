"""A made-up study in a folder: sessions, receipts and scores in the forms that the steps write."""

import random
from functools import partial
from pathlib import Path

from sftflow.config import halving, jobs, resolve
from sftflow.core import identity
from sftflow.core.jsonio import (
    digest,
    file_digest,
    read_record,
    write_jsonl,
    write_record,
)
from sftflow.core.layout import PATHS, evaluation_folder, pair_name
from sftflow.dialogue import behaviour, judging
from sftflow.scoring import scores

RAW = {
    "models": {"base": {"source": "org/base", "label": "Base 1B"}},
    "datasets": {"talks": {"source": "talks.jsonl"}},
    "runs": {"tuned": {"model": "base", "dataset": "talks"}},
    "benchmarks": {
        "gsm8k": {"limit": 20},
        "mmlu": {
            "subsets": ["professional_psychology", "high_school_psychology"],
            "limit": 20,
            "shots": 0,
            "note": "basic and professional psychology",
        },
    },
    "suites": {"general": ["gsm8k"], "psychology": ["mmlu"]},
}
VERSIONS = {"ms-swift": "4.6.0", "torch": "2.11.0", "transformers": "5.12.1", "vllm": "0.26.0"}


def sample(
    index: int, right: bool, /, subset: str = "main", choices: int | None = 4, **changes
) -> dict:
    """One record of samples.jsonl; a right answer names the target, a wrong one the next option."""
    target = "ABCDEFGHIJ"[index % choices] if choices else str(index)
    other = "ABCDEFGHIJ"[(index + 1) % choices] if choices else str(index + 1)
    answer = target if right else other
    return {
        "id": digest([subset, index]),
        "subset": subset,
        "index": index,
        "repeat": 0,
        "prompt": [{"role": "user", "content": f"Question {index} of {subset}?"}],
        "target": target,
        "answer": f"ANSWER: {answer}",
        "stated": answer,
        "extracted": answer,
        "score": float(right),
        "right": right,
        "ending": "complete",
        "finish_reason": "stop",
        "choices": choices,
        "same": digest([subset, index]),
        "tokens_in": 20,
        "tokens_out": 4,
        "seconds": 0.1,
    } | changes


def samples(share: float, seed: int, benchmark: dict, n: int = 20) -> list[dict]:
    """`n` answers per subset of a benchmark (resolved config), about `share` of them right."""
    chance = random.Random(seed)
    return [
        sample(index, chance.random() < share, subset, benchmark["options"])
        for subset in sorted(benchmark["subsets"])
        for index in range(n)
    ]


def evalscope_figure(records: list[dict]) -> dict:
    """What evalscope would report: rounded subset means, and their weighted mean."""
    subsets: dict[str, list[float]] = {}
    for record in records:
        subsets.setdefault(record["subset"], []).append(record["score"])
    means = {name: round(sum(scores) / len(scores), 4) for name, scores in subsets.items()}
    whole = sum(means[name] * len(scores) for name, scores in subsets.items()) / len(records)
    return {"score": round(whole, 4), "subsets": means}


def write_session(results: Path, study: dict, subject: str, suite: str, answers: dict) -> Path:
    """A session and its samples; `answers` has the records by benchmark."""
    entries = {}
    for benchmark, records in answers.items():
        asked = jobs.asked_benchmark(study, benchmark)
        parts = {
            "weights": digest(subject),
            "data": digest(benchmark),
            "settings": identity.settings(asked, None, "1.14.1"),
            "generation": identity.generation(asked["generation"]),
            "backend": identity.backend(jobs.backend(study, subject), VERSIONS),
        }
        key = digest(parts)
        path = f"{evaluation_folder(subject, benchmark, key)}/samples.jsonl"
        write_jsonl(results / path, records)
        entries[benchmark] = {
            "identity": key,
            "parts": parts,
            "samples": path,
            "samples_sha256": file_digest(results / path),
            "n": len(records),
            "metric": "accuracy",
            "evalscope": evalscope_figure(records),
            "provenance": {
                "software": VERSIONS,
                "git": "0" * 40,
                "hardware": {"cpu": "made up", "gpus": []},
                "started": "2026-01-01T00:00:00+00:00",
                "seconds": 1.0,
                "spans": [[1767225600.0, 1767225601.0]],
            },
            "status": "ok",
        }
    path = results / f"evaluations/{subject}/{suite}.json"
    record = {"schema": 1, "subject": subject, "suite": suite, "benchmarks": entries}
    write_record(path, record)
    return path


def write_scores(results: Path, session: Path, overlaps: dict | None = None) -> None:
    evaluation = read_record(session)
    settings = {"confidence": 0.95, "made_with": {"statistics.confidence": 0.95}}
    for benchmark in evaluation["benchmarks"]:
        made = scores.score_file(
            results, evaluation, benchmark, {"benchmarks": overlaps or {}}, settings
        )
        write_record(results / f"scores/{evaluation['subject']}/{benchmark}.json", made)


def write_study(results: Path, raw: dict = RAW, shares: dict | None = None) -> dict:
    """Sessions and scores of every subject; gives the resolved config."""
    study = resolve.load(raw, going_on=partial(halving.going_on, results))
    for number, subject in enumerate(study["evaluate"]["subjects"]):
        share = (shares or {}).get(subject, 0.4)
        for suite in study["evaluate"]["suites"]:
            answers = {
                benchmark: samples(share, 100 * number + place, study["benchmarks"][benchmark])
                for place, benchmark in enumerate(study["suites"][suite])
            }
            write_scores(results, write_session(results, study, subject, suite, answers))
    return study


def write_halving(results: Path, raw: dict, sweep: str, losses: dict[int, dict]) -> dict:
    """Rungs and decisions of a sweep from {part: {run: its loss, or None}}; gives the last one."""
    study, decision = resolve.load(raw), {"stopped": []}
    for part, found in losses.items():
        told = jobs.halve_sweep(study, sweep, str(part))
        for run, loss in found.items():
            rung = {"run": run, "part": part, "step": 40 // part, "steps": 40, "training": "t"}
            rung |= {"validation_loss": loss} | ({"why": "the loss is nan"} if loss is None else {})
            write_record(results / PATHS.rung.format(run=run, part=part), rung)
        rungs = {run: read_record(results / PATHS.rung.format(run=run, part=part)) for run in found}
        points = {name: runs for name, runs in told["points"].items() if runs[0] in found}
        made = halving.decide(points, rungs, told["factor"], decision["stopped"])
        decision = {"sweep": sweep, "part": part, "made_with": told["made_with"]} | made
        write_record(results / PATHS.halving.format(sweep=sweep, part=part), decision)
    return decision


def write_dialogue(results: Path, study: dict, subject: str, losses: dict, answers: dict) -> None:
    """likelihood.json and behaviour.json of a subject. `losses`: {text: [(tokens, nats)]},
    `answers`: {(group, turn): [(answer, finish_reason, asked)]}, both in one order for all."""
    home = f"dialogue/{subject}"
    lines = [
        {"text": text, "id": digest([text, i]), "tokens": tokens, "nll": nll}
        for text, found in losses.items()
        for i, (tokens, nll) in enumerate(found)
    ]
    measured = [
        {"group": group, "turn": turn, "id": digest([group, turn, i]), **behaviour.measures(*one)}
        for (group, turn), found in answers.items()
        for i, one in enumerate(found)
    ]
    records = {"likelihood": lines, "behaviour": measured}
    for name, rule in (("likelihood", "measure_likelihood"), ("behaviour", "answer_dialogues")):
        file = f"{home}/{name}.jsonl"
        write_jsonl(results / file, records[name])
        manifest = read_record(
            results
            / (
                f"runs/{subject}/merged.json"
                if subject in study["runs"]
                else f"models/{subject}/manifest.json"
            )
        )
        record = {
            "schema": 1, "subject": subject, "identity": digest([subject, name]),
            "parts": {"weights": identity.weights(manifest)},
            "made_with": jobs.JOBS[rule](study, subject)["made_with"],
            "records": file, "records_sha256": file_digest(results / file),
        }  # fmt: skip
        if name == "likelihood":
            record["uniform_loss"] = 6.9
            record["texts"] = [{"name": text, "left_out": 0} for text in losses]
        else:
            record["groups"] = behaviour.summary(measured)
        write_record(results / f"{home}/{name}.json", record)


def write_curve(results: Path, study: dict, run: str, losses: dict, missing: tuple = ()) -> None:
    """curve.json of a run. `losses`: {step: {text: [(tokens, nats)]}}, one order for all."""
    steps = []
    for step, texts in losses.items():
        file = f"dialogue/{run}/curve/{step}.jsonl"
        lines = [
            {"text": text, "id": digest([text, i]), "tokens": tokens, "nll": nll}
            for text, found in texts.items()
            for i, (tokens, nll) in enumerate(found)
        ]
        write_jsonl(results / file, lines)
        steps.append({"step": step, "records": file, "records_sha256": file_digest(results / file)})
    record = {
        "schema": 1, "run": run, "training": digest(["training", run]), "last": max(losses),
        "missing": list(missing), "steps": steps,
        "made_with": jobs.measure_curve(study, run)["made_with"],
    }  # fmt: skip
    write_record(results / f"dialogue/{run}/curve.json", record)


def write_judgement(results: Path, study: dict, judge: str, pair: dict, turns: list[dict]) -> None:
    """A judge's record of a pair. `turns`: {dialogue, baseline, candidate, said: the verdicts with
    the baseline, and with the candidate first}."""
    name = pair_name(pair)
    lines = [
        {
            "dataset": "talks", "id": turn["dialogue"], "turn": f"{number}",
            "messages": [{"role": "user", "content": "I feel low."}],
            "baseline": turn["baseline"], "candidate": turn["candidate"],
            "equal": turn["baseline"] == turn["candidate"],
            "games": [
                {"first": first, "said": f"[[{said}]]", "finish_reason": "stop", "verdict": said}
                for first, said in zip(judging.ORDERS, turn["said"], strict=False)
            ],
        }
        for number, turn in enumerate(turns)
    ]  # fmt: skip
    record = judge_record(study, "judge_pair", judge, [pair["baseline"], pair["candidate"]])
    record["made_with"] = jobs.judge_pair(study, judge, name)["made_with"]
    write_with_records(results, f"judgements/{judge}/{name}", record, lines)


def write_crisis(results: Path, study: dict, judge: str, subject: str, rows: list[dict]) -> None:
    """A judge's record of one subject's answers to a crisis. `rows`: {kind, points}."""
    lines = [
        {
            "id": f"{number}",
            "messages": [],
            "answer": "",
            "said": "",
            "finish_reason": "stop",
            **row,
        }
        for number, row in enumerate(rows)
    ]
    record = judge_record(study, "judge_crisis", judge, [subject])
    record["made_with"] = jobs.judge_crisis(study, judge, subject)["made_with"]
    write_with_records(results, f"crisis/{judge}/{subject}", record, lines)


def judge_record(study: dict, rule: str, judge: str, of: list[str]) -> dict:
    subject = study["judges"][judge]["subject"]
    kind = "rubric" if rule == "judge_pair" else "points"
    weights = identity.weights(None, endpoint=study["endpoints"][subject])
    return {
        "schema": 1, "judge": judge, "subject": subject, "of": of,
        "answers": [digest([one, "behaviour"]) for one in of], "itself": None,
        "rubrics": {name: judging.rubric_digest(kind, name) for name in ("en", "zh")},
        "identity": digest([judge, of]), "parts": {"weights": weights},
    }  # fmt: skip


def write_with_records(results: Path, home: str, record: dict, lines: list[dict]) -> None:
    file = f"{home}/lines.jsonl"
    write_jsonl(results / file, lines)
    record |= {"records": file, "records_sha256": file_digest(results / file)}
    write_record(results / f"{home}.json", record)


def say_with_what(results: Path, study: dict) -> None:
    """Records say with what they were made, as the programs write it down."""
    for rule, path, kind in (
        ("native_tokenizer", PATHS.model_tokenizer, "models"),
        ("native_model", PATHS.model, "models"),
        ("prepare_dataset", PATHS.dataset_receipt, "datasets"),
        ("tokenize_run", PATHS.run_receipt, "runs"),
        ("train_run", PATHS.training, "runs"),
        ("merge_run", PATHS.merged, "runs"),
    ):
        (wildcard,) = jobs.wildcards(rule)
        for name in study[kind]:
            file = results / path.format(**{wildcard: name})
            made_with = jobs.JOBS[rule](study, name)["made_with"]
            write_record(file, read_record(file) | {"made_with": made_with})


def write_records(results: Path, study: dict) -> None:
    """What lies beside the scores: receipts, training, readiness, chats, manifests."""
    for name in study["models"]:
        words = {"schema": 1, "model": name, "native_form": None, "files": [], "digest": digest([])}
        write_record(results / PATHS.model_tokenizer.format(model=name), words)
        write_record(
            results / f"models/{name}/manifest.json",
            {
                "schema": 1, "model": name, "source": "org/base", "revision": "1" * 40,
                "license": "apache-2.0", "parameters": 1_000_000, "torch_dtype": "bfloat16",
                "remote_code": False, "files": [], "digest": digest(name),
            },
        )  # fmt: skip
    for name in study["datasets"]:
        write_record(results / f"datasets/{name}/receipt.json", dataset_receipt(name))
        write_record(
            results / f"datasets/{name}/contamination.json",
            {
                "schema": 1, "dataset": name, "settings": study["contamination"], "dialogues": 95,
                "measured": {
                    "planted": 800, "recall": {"verbatim": 0.99, "translated": 0.0},
                    "clean": 400, "false_positives": 0.0025,
                },
                "benchmarks": {
                    "mmlu": {
                        "n": 40, "overlapping": 1, "share": 0.025,
                        "kinds": {"whole": 1}, "uncheckable": 2,
                        "ids": [sample(0, True, "high_school_psychology")["id"]],
                        "examples": [
                            {
                                "id": "0" * 64, "subset": "high_school_psychology", "coverage": 1.0,
                                "kind": "whole",
                                "question": "Which memory | holds\nabout seven items?",
                                "dialogue": "1" * 64, "passage": "which memory holds about seven",
                            }
                        ],
                    }
                },
            },
        )  # fmt: skip
    for name, run in study["runs"].items():
        write_record(results / f"runs/{name}/receipt.json", run_receipt(name, run))
        write_record(results / f"runs/{name}/training.json", training_record(name, run))
        adapter = {"schema": 1, "run": name, "files": [], "digest": digest([name, "adapter"])}
        write_record(results / f"runs/{name}/adapter.json", adapter)
        merged = {"schema": 1, "run": name, "files": [], "digest": digest(name)}
        write_record(results / f"runs/{name}/merged.json", merged | {"adapter": adapter["digest"]})
        (results / f"runs/{name}/command.yaml").write_text("lora_rank: 8\ntuner_type: lora\n")
    for name, subject in study["subjects"].items():
        write_record(results / f"subjects/{name}/readiness.json", readiness(name, subject))
        answers = [
            {
                "prompt": prompt, "answer": f"An answer | of {name}\n<b>in two lines</b>",
                "finish_reason": "stop", "seconds": 0.5,
            }
            for prompt in study["prompts"]
        ]  # fmt: skip
        record = {"schema": 1, "subject": name, "form": subject["form"], "answers": answers}
        write_record(results / f"subjects/{name}/chat.json", record)
    for env, packages in (("swift", VERSIONS), ("evalscope", {"evalscope": "1.14.1"})):
        record = {"schema": 1, "env": env, "software": "managed", "python": "3.11.7"}
        record |= {"packages": packages, "lock": digest(env)}
        write_record(results / f"environments/{env}.json", record)
    say_with_what(results, study)


def dataset_receipt(name: str) -> dict:
    return {
        "schema": 1, "dataset": name, "source": "talks.jsonl", "revision": None,
        "rows_read": 103, "rows_kept": 100, "train_rows": 95, "validation_rows": 5,
        "dropped": {"empty turn": {"count": 3, "lines": [7, 12, 99]}},
        "turns": {"mean": 4.2, "max": 9, "histogram": [[2, 60], [3, 0], [4, 40]]},
        "characters": {"mean": 310.0, "max": 900},
        "digest": digest(name),
    }  # fmt: skip


def run_receipt(name: str, run: dict) -> dict:
    histogram = [[48, 10], [64, 30], [96, 40], [128, 12], [192, 3]]
    return {
        "schema": 1, "run": name, "dataset": run["dataset"], "rows_read": 100, "rows_kept": 100,
        "dropped": {}, "train_rows": 95, "validation_rows": 5, "padded_share": 0.31,
        "loss_share": 0.62, "steps_per_epoch": 3, "digest": digest(["fit", name]),
        "tokens": {"train": 9_500, "mean": 100.0, "max": 230, "histogram": histogram},
    }  # fmt: skip


def training_record(name: str, run: dict) -> dict:
    steps = list(range(1, 61))
    return {
        "schema": 1, "run": name, "model": run["model"], "identity": digest(["training", name]),
        "settings": run["training"], "steps": 60, "epochs": 1.0, "uniform_loss": 6.9,
        "window_steps": 10, "loss_weights": "labelled tokens",
        "first_loss": 1.5858, "first_loss_se": 0.17, "final_loss": 1.0312, "final_loss_se": 0.01,
        "validation_loss": 1.21, "validation_loss_before": 1.62, "best_validation_loss": 1.21,
        "validation_change": -0.41, "validation_change_se": 0.02,
        "validation_rise": 0.0, "validation_rise_se": 0.0, "token_accuracy": 0.71, "flags": [],
        "train_seconds": 75.5, "samples_per_second": 25.2, "tokens_per_second": 2516.1,
        "padded_share": 0.3, "host_memory_gib": 1.7, "out_of_memory": [],
        "curve": {
            "step": steps, "loss": [1 + 2 / step for step in steps],
            "learning_rate": [1e-4 * min(step / 6, (60 - step) / 54) for step in steps],
        },
        "validation_curve": {"step": [0, 20, 40, 60], "loss": [1.62, 1.5, 1.3, 1.21]},
    }  # fmt: skip


def readiness(name: str, subject: dict) -> dict:
    seconds = {"ready": 6.1, "import": 3.9, "load": 1.2, "first_answer": 0.35}
    forms = {subject["form"]: seconds}
    if subject["form"] == "merged":
        forms["adapter"] = {"ready": 7.4}
    return {
        "schema": 1, "subject": name, "form": subject["form"], "weights": digest(name),
        "backend": {"name": "transformers"}, "seconds": forms,
        "memory": {"process": 2**30, "gpu": None},
        "speed": {
            "first_token_seconds": 0.041, "tokens_per_second": 55.1, "concurrency": 32,
            "tokens_per_second_concurrent": 410.7, "max_tokens": 64,
        },
    }  # fmt: skip
