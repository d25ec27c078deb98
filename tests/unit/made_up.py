"""A made-up study in a folder: sessions, receipts and scores in the forms that the steps write."""

import random
from pathlib import Path

import score
from sftflow import config, identity
from sftflow.jsonio import digest, file_digest, read_json, write_json, write_jsonl

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
VERSIONS = {"ms-swift": "4.6.0", "torch": "2.11.0", "transformers": "5.12.1"}


def sample(
    index: int, right: bool, subset: str = "main", choices: int | None = 4, **changes
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
        "extracted": answer,
        "score": float(right),
        "parsed": True,
        "finish_reason": "stop",
        "choices": choices,
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
        settings = study["benchmarks"][benchmark]
        parts = {
            "weights": digest(subject),
            "data": digest(benchmark),
            "settings": identity.settings(settings, None, "1.14.1"),
            "generation": identity.generation(study["generation"], settings),
            "backend": {"name": "transformers", "versions": VERSIONS},
        }
        key = digest(parts)
        path = f"evaluations/{subject}/{key[:16]}/samples.jsonl"
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
            },
            "status": "ok",
        }
    path = results / f"evaluations/{subject}/{suite}.json"
    record = {"schema": 1, "subject": subject, "suite": suite, "benchmarks": entries}
    write_json(path, record)
    return path


def write_scores(results: Path, session: Path, overlaps: dict | None = None) -> None:
    evaluation = read_json(session)
    for benchmark in evaluation["benchmarks"]:
        made = score.score_file(
            results, evaluation, benchmark, (overlaps or {}).get(benchmark), 0.95
        )
        write_json(results / f"scores/{evaluation['subject']}/{benchmark}.json", made)


def write_study(results: Path, raw: dict = RAW, shares: dict | None = None) -> dict:
    """Sessions and scores of every subject; gives the resolved config."""
    study = config.load(raw)
    for number, subject in enumerate(study["evaluate"]["subjects"]):
        share = (shares or {}).get(subject, 0.4)
        for suite in study["evaluate"]["suites"]:
            answers = {
                benchmark: samples(share, 100 * number + place, study["benchmarks"][benchmark])
                for place, benchmark in enumerate(study["suites"][suite])
            }
            write_scores(results, write_session(results, study, subject, suite, answers))
    return study
