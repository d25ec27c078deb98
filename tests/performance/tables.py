"""How long all tables, and the report, take for a large study, and how much memory.

    uv run python tests/performance/tables.py [--subjects 1000] [--folder DIR]

Writes made-up scores and records of SUBJECTS subjects (one base model, the rest its runs) on 9
benchmarks, and how they talk in 100 dialogues, then runs scripts/tables.py and scripts/report.py as
the workflow does. Goal: 10 s and 1 GiB each.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/unit")]

import made_up
from sftflow.config import resolve
from sftflow.core.jsonio import digest, read_record, write_json, write_record
from sftflow.scoring import scores

SUITES = {
    "general": ["gsm8k", "ceval", "cmmlu", "social"],
    "psychology": ["mmlu", "mmlu_pro", "mmlu_redux", "super_gpqa", "clinic"],
}
QUESTIONS = 100  # per subset


def study(subjects: int) -> dict:
    own = {"preset": "general_mcq", "source": "questions", "subsets": ["all"]}
    psychology = ["professional_psychology", "high_school_psychology"]
    return resolve.load(
        {
            "models": {"base": {"source": "org/base"}},
            "datasets": {"talks": {"source": "talks.jsonl"}},
            "runs": {
                f"run{i:04}": {"model": "base", "dataset": "talks"} for i in range(subjects - 1)
            },
            "benchmarks": {
                "ceval": {"subsets": ["education_science"]},
                "cmmlu": {"subsets": ["professional_psychology"]},
                "mmlu": {"subsets": psychology, "shots": 0},
                "mmlu_redux": {"subsets": psychology},
                "mmlu_pro": {"subsets": ["psychology"]},
                "super_gpqa": {"subsets": ["Psychology"]},
                "social": own,
                "clinic": own,
            },
            "suites": SUITES,
        }
    )


def write_scores(results: Path, settings: dict) -> None:
    """One real score per benchmark, then one per subject with its own right and wrong answers."""
    chance = random.Random(0)
    for benchmark in [name for names in SUITES.values() for name in names]:
        about = settings["benchmarks"][benchmark]
        records = made_up.samples(0.5, 1, about | {"options": about["options"] or 4}, QUESTIONS)
        for place, subject in enumerate(settings["evaluate"]["subjects"]):
            if place == 0:
                suite = about["suite"]
                session = made_up.write_session(
                    results, settings, subject, suite, {benchmark: records}
                )
                made = scores.score_file(
                    results,
                    read_record(session),
                    benchmark,
                    {"benchmarks": {}},
                    {"confidence": 0.95},
                )
            n = made["n"]
            right = "".join(chance.choices("01", weights=(45, 55), k=n))
            share = right.count("1") / n
            own = {
                "subject": subject,
                "score": share,
                "subsets": [subset | {"score": share} for subset in made["subsets"]],
                "ci95": [max(share - 0.1, 0), min(share + 0.1, 1)],
                "identity": digest([subject, benchmark]),
                "provenance": made["provenance"] | {"weights": digest(subject)},
                "items": made["items"] | {"scores": right},
            }
            write_record(results / f"scores/{subject}/{benchmark}.json", made | own)


def write_dialogues(results: Path, settings: dict) -> None:
    """100 answers and 100 losses of each subject, about as different as those of real ones."""
    chance = random.Random(0)
    answers = [
        (f"An answer of a few words, number {place}", "stop" if place % 7 else "length", "what?")
        for place in range(100)
    ]
    for subject in settings["subjects"]:
        losses = {"talks": [(100, 200 + 20 * chance.random()) for _ in range(100)]}
        said = {("talks", "opening"): chance.sample(answers, 100)}
        made_up.write_dialogue(results, settings, subject, losses, said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = args.folder or Path(temporary)
        settings = study(args.subjects)
        write_scores(results, settings)
        made_up.write_records(results, settings)
        write_dialogues(results, settings)
        write_json(results / "study.json", settings)
        print(f"{args.subjects} subjects × 9 benchmarks, {os.cpu_count()} cores")
        for program in ("tables.py", "report.py"):
            begun = time.monotonic()
            process = subprocess.Popen(
                [
                    sys.executable, ROOT / "scripts" / program,
                    "--results", results, "--settings", str(results / "study.json"),
                    "--threads", "2",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - begun
            print(
                f"{program}: {seconds:.1f} s (CPU {usage.ru_utime + usage.ru_stime:.1f} s), "
                f"{usage.ru_maxrss / 2**20:.2f} GiB, exit {os.waitstatus_to_exitcode(status)}"
            )


if __name__ == "__main__":
    main()
