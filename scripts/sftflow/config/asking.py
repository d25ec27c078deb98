"""Which jobs of a study ask a subject, from which files, and what comes of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from sftflow.config import jobs
from sftflow.core import handover
from sftflow.core.layout import Paths, pair_name


@dataclass(frozen=True)
class Asking:
    """One job: its rule, the values of its wildcards, and its files beside the subject's own."""

    rule: str
    names: tuple[str, ...]
    output: str
    inputs: list[str]


def conversing(study: dict) -> list[str]:
    """Held-out dialogues are those of runs: without one, there is nothing to talk about."""
    return study["evaluate"]["subjects"] if study["runs"] else []


def heard(study: dict, subject: str) -> list[str]:
    """Datasets whose held-out dialogues a subject meets: those that runs on its model train on,
    else all."""
    model, runs = study["subjects"][subject]["model"], study["runs"].values()
    runs = [run for run in runs if run["model"] == model] or runs
    return sorted({run["dataset"] for run in runs})


def judged(study: dict) -> dict[str, dict]:
    """The comparisons that judges are asked about, both sides of which talk: {name: pair}."""
    talk = set(conversing(study))
    pairs = {pair_name(pair): pair for pair in study["comparisons"]}
    return {name: pair for name, pair in pairs.items() if set(pair.values()) <= talk}


def in_crisis(study: dict) -> list[str]:
    """Who is sent messages of a crisis."""
    return conversing(study) if study["dialogue"]["crisis"] else []


def asking(study: dict, subject: str, paths: Paths) -> Iterator[Asking]:
    """Every job that asks a subject, after readiness; in the order in which a session asks."""
    if subject in study["evaluate"]["subjects"]:
        for suite in study["evaluate"]["suites"]:
            yield Asking(
                "evaluate_suite",
                (subject, suite),
                paths.evaluation.format(subject=subject, suite=suite),
                [paths.benchmark.format(benchmark=name) for name in study["suites"][suite]],
            )
    if subject in conversing(study):
        yield Asking(
            "answer_dialogues",
            (subject,),
            paths.dialogue_answers.format(subject=subject),
            [paths.dataset_receipt.format(dataset=name) for name in heard(study, subject)],
        )
    for judge, entry in study["judges"].items():
        if entry["subject"] != subject:
            continue
        for name, pair in judged(study).items():
            yield Asking(
                "judge_pair",
                (judge, name),
                paths.judgement.format(judge=judge, pair=name),
                answers(paths, pair["baseline"], pair["candidate"]),
            )
        for other in in_crisis(study):
            yield Asking(
                "judge_crisis",
                (judge, other),
                paths.crisis.format(judge=judge, subject=other),
                answers(paths, other),
            )


def judged_first(study: dict, subject: str, paths: Paths) -> list[str]:
    """The answers that a subject judges and that are there before it is served: a judge that is
    served here is started once. Those of such judges are not among them: they may judge one
    another."""
    subjects = study["subjects"]
    judges = {entry["subject"] for entry in study["judges"].values()}
    waiting = {name for name in judges if subjects[name]["kind"] != "endpoint"}
    if subject not in waiting:
        return []
    own = [job for job in asking(study, subject, paths) if job.rule.startswith("judge")]
    others = set(answers(paths, *(subjects.keys() - waiting)))
    return sorted(others & {file for job in own for file in job.inputs})


def answers(paths: Paths, *subjects: str) -> list[str]:
    return [paths.dialogue_answers.format(subject=subject) for subject in subjects]


def ahead(study: dict, subject: str, results: str) -> list[dict]:
    """What the session that proves a subject asks ahead: the jobs of this run of Snakemake that ask
    it later. {rule, settings, output, inputs {file: Unix time when it is new enough}}.

    An endpoint is not started, so nothing is gained. Of a run that told no plan, every job.
    """
    if study["subjects"][subject]["kind"] == "endpoint":
        return []
    plan = handover.planned()
    return [
        {
            "rule": job.rule,
            "settings": jobs.settings(study, job.rule, *job.names),
            "output": job.output,
            "inputs": {file: plan.begun if file in plan else 0 for file in job.inputs},
        }
        for job in asking(study, subject, Paths.under(results))
        if plan.unknown or job.output in plan
    ]
