"""The kill matrix: each stage of the demo, killed at random moments, and what is left of it.

    uv run python tests/faults/kills.py # all of it, for hours; README.md is its table
    uv run python tests/faults/kills.py --stages train_run --trials 2 --folder /tmp/demo

A trial makes one record anew, and kills on the way, by a seed that chooses moment and signal:

    program     the program that the rule starts
    tool        what that program starts: a training, a server, uv
    snakemake   the snakemake itself: KILL, TERM, HUP (a closed terminal), INT once or twice

It passes when after 15 s no process of the folder is left, every record that is there is whole,
the next plain `snakemake`, without --unlock, makes the rest, and the result is what it was.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "scripts"), str(HERE.parent)]
from sftflow.core import process
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json, read_record
from support import copy_workflow

PATIENCE = 15.0  # seconds after which nothing may be left
KILL, TERM, HUP, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT
# Signals that a victim gets, one after the other.
MANNERS = {
    "program": [[KILL], [TERM]],
    "tool": [[KILL]],
    "snakemake": [[KILL], [TERM], [HUP], [INT], [INT, INT]],
}


@dataclass(frozen=True)
class Stage:
    """One record of the demo, its program, and what must go so that it is made from the start."""

    record: str
    program: str
    gone: tuple[str, ...] = ()
    tool: bool = False


STAGES = {
    "sync_environment": Stage("environments/swift.json", "environment.py", tool=True),
    "fetch_dataset": Stage("datasets/psychology/source.json", "fetch_dataset.py"),
    "prepare_dataset": Stage("datasets/psychology/receipt.json", "prepare_dataset.py"),
    "tokenize_run": Stage("runs/tiny-sft/receipt.json", "tokenize_run.py"),
    "find_contamination": Stage("datasets/psychology/contamination.json", "contamination.py"),
    "fetch_benchmark": Stage("benchmarks/mmlu/manifest.json", "fetch_benchmark.py"),
    "fetch_model": Stage("models/tiny/source.json", "fetch_model.py"),
    "native_model": Stage("models/tiny/manifest.json", "native_model.py"),
    "train_run": Stage(
        "runs/tiny-sft/adapter.json", "train.py",
        ("runs/tiny-sft/trainings", "runs/tiny-sft/checkpoints"), tool=True,
    ),
    "merge_run": Stage("runs/tiny-sft/merged.json", "merge.py"),
    "serve_subject": Stage("subjects/tiny-sft/readiness.json", "serve.py", tool=True),
    "evaluate_suite": Stage(
        "evaluations/tiny-sft/general.json", "evaluate.py", ("evaluations/tiny-sft",), tool=True
    ),
    "score_benchmark": Stage("scores/tiny/mmlu.json", "score.py"),
    "measure_likelihood": Stage(
        "dialogue/tiny-sft/likelihood.json", "likelihood.py", ("dialogue/tiny-sft/likelihood",)
    ),
    "answer_dialogues": Stage(
        "dialogue/tiny/answers.json", "answer_dialogues.py", ("evaluations/tiny/answers",),
        tool=True,
    ),
    "measure_behaviour": Stage("dialogue/tiny/behaviour.json", "behaviour.py"),
    "track_scores": Stage("runs/tiny-sft/swanlab.json", "track.py"),
}  # fmt: skip


class Demo:
    """A folder in which the demo has run, and where it is made anew and killed."""

    def __init__(self, folder: Path):
        self.folder, self.results = folder, folder / "results"

    def start(self, stage: Stage) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", f"results/{stage.record}"]
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        return subprocess.Popen(
            command, cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def make(self, stage: Stage) -> float:
        """Make the record; the seconds. AssertionError with what Snakemake said."""
        begun = time.monotonic()
        status = self.start(stage).wait(900)
        assert status == 0, f"a plain snakemake ended with {status}:\n{self.said()[-3000:]}"
        return time.monotonic() - begun

    def forget(self, stage: Stage) -> None:
        (self.results / stage.record).unlink(missing_ok=True)
        for name in stage.gone:
            shutil.rmtree(self.results / name, ignore_errors=True)

    def outcome(self, stage: Stage) -> dict:
        """What of a record does not depend on when it was made."""
        record = read_json(self.results / stage.record)
        return {name: record.get(name) for name in ("digest", "identity", "lock", "score")}

    def processes(self) -> list[int]:
        """All that are at work in the folder."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                place = Path(os.readlink(entry / "cwd"))
                if place.is_relative_to(self.folder) and process.alive(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def broken(self) -> list[str]:
        """Records of the stages that are there, and not whole."""
        found = []
        for stage in STAGES.values():
            with suppress(FileNotFoundError):
                try:
                    if "sha256" in read_json(self.results / stage.record):
                        read_record(self.results / stage.record)
                except UserError as error:
                    found.append(str(error))
        return found


def words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def victim(kind: str, top: int, stage: Stage) -> int | None:
    """The process to be killed, once it is there."""
    below = process.descendants(top)
    for pid in below:
        text = words(pid)
        name = [os.path.basename(word) for word in text[:4]]
        if kind == "snakemake" and stage.program in name:
            return top
        if kind == "program" and stage.program in name:
            return pid
        if kind == "tool" and "process.py" in name:  # the guard; below it the tool
            return next(iter(process.descendants(pid)), None)
    return None


def trial(
    demo: Demo, stage: Stage, kind: str, seed: str, seconds: float, manner: list | None = None
) -> str:
    """One kill, within `seconds` of the victim's start: "passed", "too late", or what is wrong."""
    chance = random.Random(seed)
    manner = manner or chance.choice(MANNERS[kind])
    before = demo.outcome(stage)
    demo.forget(stage)
    top = demo.start(stage)
    while top.poll() is None and (pid := victim(kind, top.pid, stage)) is None:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, seconds))
    if top.poll() is not None or not process.alive(pid):
        top.wait()
        return "too late"
    for number in manner:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        time.sleep(1)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and (top.poll() is None or demo.processes()):
        time.sleep(0.1)
    wrong = []
    if left := demo.processes():
        wrong.append(f"left after {PATIENCE:g} s: {[' '.join(words(pid))[:200] for pid in left]}")
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, KILL)
    top.wait()
    lines = demo.said().count("\n")
    if kind == "snakemake" and lines > 60:
        wrong.append(f"{lines} lines were printed")
    wrong += demo.broken()
    try:
        demo.make(stage)
        if (after := demo.outcome(stage)) != before:
            wrong.append(f"another result: {after}, before {before}")
    except Exception as error:
        wrong.append(str(error))
    return "; ".join([f"{[number.name for number in manner]}", *wrong]) if wrong else "passed"


def matrix(demo: Demo, names: list[str], trials: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(stage, victim, outcome) of each trial; one that came too late is none, and tried anew."""
    for name in names:
        stage = STAGES[name]
        demo.forget(stage)
        whole = demo.make(stage)
        for kind in MANNERS:
            if kind == "tool" and not stage.tool:
                continue
            done, seconds = 0, max(0.2, whole - 4)  # what Snakemake itself takes
            for number in range(4 * trials):
                outcome = trial(demo, stage, kind, f"{seed}-{name}-{kind}-{number}", seconds)
                if outcome == "too late":
                    seconds *= 0.7
                    continue
                yield name, kind, outcome
                done += 1
                if done == trials:
                    break


README = HERE / "README.md"
HEAD = """\
# Kills

Made by `uv run python tests/faults/kills.py`, which says what a trial is and when it passes: each
cell is passed / tried, – where a stage has no tool. A bounded part runs with the tests
(test_kills.py).

| stage | program | tool | snakemake |
|---|---|---|---|
"""


def table(outcomes: list[tuple[str, str, str]]) -> str:
    tried = Counter((name, kind) for name, kind, _ in outcomes)
    passed = Counter((name, kind) for name, kind, outcome in outcomes if outcome == "passed")
    cell = lambda *key: f"{passed[key]} / {tried[key]}" if tried[key] else "–"  # noqa: E731
    rows = [
        f"| `{name}` | {' | '.join(cell(name, kind) for kind in MANNERS)} |"
        for name in STAGES
        if any(tried[name, kind] for kind in MANNERS)
    ]
    end = f"{sum(passed.values())} of {len(outcomes)} passed."
    if untried := [name for name in STAGES if not any(tried[name, kind] for kind in MANNERS)]:
        end += f" Not tried: {', '.join(untried)}."
    return HEAD + "\n".join(rows) + f"\n\n{end}\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--trials", type=int, default=10, help="of each victim (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the demo has run (default: a new one)")
    args = parser.parse_args()
    folder = args.folder or copy_workflow(Path(tempfile.mkdtemp(prefix="kills-")))
    demo = Demo(folder.resolve())
    if args.folder is None:
        subprocess.run([sys.executable, "-m", "snakemake", "--cores", "2"], cwd=folder, check=True)
    outcomes = []
    for each in matrix(demo, args.stages, args.trials, args.seed):
        outcomes.append(each)
        print(*each, flush=True)
        README.write_text(table(outcomes), encoding="utf-8")
    return 0 if all(outcome == "passed" for *_, outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
