"""The kill matrix: each stage of a small demo, killed at random moments, and what is left of it.

    uv run python tests/faults/kills.py --workers 8 # all of it; README.md is its table
    uv run python tests/faults/kills.py --stages train_run --trials 2 --table /tmp/table.md

A trial makes one record anew, and kills on the way, by a seed that chooses moment and signal:

    program     the program that the rule starts
    tool        what that program starts: a training, a server, uv
    snakemake   the snakemake itself: KILL, TERM, HUP (a closed terminal), INT once or twice

It passes when after 15 s no process of the folder is left, every record that is there is whole,
the next plain `snakemake`, without --unlock, makes the rest, and the result is what it was.

Trials run side by side (--workers, two cores each), each in a copy of --base, a folder in which the
demo ran once. Each outcome is a line of --outcomes; what stands there is not tried again, so that a
call that was ended, by --minutes or by anybody, goes on where it stopped.

Without uv, PYTHON_SWIFT and PYTHON_EVALSCOPE name interpreters that have the tools;
sync_environment is not tried then.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "scripts"), str(HERE.parent)]
from sftflow.core import process
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json, read_jsonl, read_record, tree_files
from support import copy_finished, copy_workflow, given_interpreters

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
    """One output of the demo, its program, and what must go so that it is made from the start."""

    output: str
    program: str
    gone: tuple[str, ...] = ()
    tool: bool = False
    config: tuple[str, ...] = ()

    @property
    def victims(self) -> list[str]:
        return [kind for kind in MANNERS if self.tool or kind != "tool"]


ASKED = ("subjects/tiny-sft", "evaluations/tiny-sft")
STAGES = {
    "sync_environment": Stage("environments/evalscope.json", "environment.py", tool=True),
    "fetch_dataset": Stage("datasets/psychology/source.json", "fetch_dataset.py"),
    "prepare_dataset": Stage("datasets/psychology/receipt.json", "prepare_dataset.py"),
    "tokenize_run": Stage("runs/tiny-sft/receipt.json", "tokenize_run.py"),
    "find_contamination": Stage("datasets/psychology/contamination.json", "contamination.py"),
    "fetch_benchmark": Stage("benchmarks/mmlu/manifest.json", "fetch_benchmark.py"),
    "fetch_model": Stage("models/tiny/source.json", "fetch_model.py"),
    "native_tokenizer": Stage("models/tiny/tokenizer.json", "native_tokenizer.py"),
    "native_model": Stage("models/tiny/manifest.json", "native_model.py"),
    "train_run": Stage(
        "runs/tiny-sft/adapter.json", "train.py",
        ("runs/tiny-sft/trainings", "runs/tiny-sft/checkpoints"), tool=True,
    ),
    "keep_checkpoints": Stage("runs/tiny-sft/checkpoints.json", "keep_checkpoints.py"),
    "merge_run": Stage("runs/tiny-sft/merged.json", "merge.py", ("runs/tiny-sft/merged",)),
    "restore_merged": Stage("runs/tiny-sft/merged", "merge.py"),
    "drop_weights": Stage(
        "runs/tiny-sft/dropped.json", "drop_weights.py", config=("keep=adapter",)
    ),
    "serve_subject": Stage("subjects/tiny-sft/readiness.json", "serve.py", tool=True),
    # the same session, which then asks ahead; what it does not come to is asked by its own job
    "serve_subject, asking": Stage(
        "evaluations/tiny-sft/general.json", "serve.py", ASKED, tool=True
    ),
    "evaluate_suite": Stage(
        "evaluations/tiny-sft/general.json", "evaluate.py", ASKED[1:], tool=True
    ),
    "score_suite": Stage("scores/tiny/mmlu.json", "score.py"),
    "track_scores": Stage("runs/tiny-sft/swanlab.json", "track.py"),
    "measure_likelihood": Stage(
        "dialogue/tiny-sft/likelihood.json", "likelihood.py", ("dialogue/tiny-sft/likelihood",)
    ),
    "measure_curve": Stage(
        "dialogue/tiny-sft/curve.json", "likelihood.py", ("dialogue/tiny-sft/curve",)
    ),
    "answer_dialogues": Stage(
        "dialogue/tiny/answers.json", "answer_dialogues.py", ("evaluations/tiny/answers",),
        tool=True,
    ),
    "measure_behaviour": Stage("dialogue/tiny/behaviour.json", "behaviour.py"),
    "plan": Stage("tables/plan.csv", "plan.py"),
    "data": Stage("tables/data.csv", "tables.py"),
    "train": Stage("tables/training.csv", "tables.py"),
    "tables": Stage("tables/comparison.csv", "tables.py"),
    "report": Stage("report/summary.txt", "report.py"),
}  # fmt: skip
RECORDER = "track.py"  # beside a training, which goes on without it
# Rules without a stage, and why.
APART = {
    "cards": "reads and writes as report does",
    "all": "starts no program",
    "verify": "writes nothing",
    "usage": "writes nothing",
    "take_checkpoint": "the demo has no such subject: a copy of files, as fetch_model",
    "train_rung": "the demo has no sweep: trains as train_run does (test_training_faults.py)",
    "halve_sweep": "the demo has no sweep: reads and writes small records",
    "judge_pair": "the demo has no judge: asks as answer_dialogues",
    "judge_crisis": "the demo has no judge: asks as answer_dialogues",
}
# Of a record, what does not depend on when, and how fast, it was made.
SETTLED = {"digest", "identity", "lock", "score", "weights", "adapter", "training", "step", "n"}


class Demo:
    """A folder in which the demo has run, and where it is made anew and killed."""

    def __init__(self, folder: Path):
        self.folder, self.results = folder, folder / "results"

    def start(self, stage: Stage) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", f"results/{stage.output}"]
        command += ["--config", *stage.config] if stage.config else []
        (self.folder / "tmp").mkdir(exist_ok=True)
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        return subprocess.Popen(
            command, cwd=self.folder, stdout=self.log, stderr=subprocess.STDOUT,
            start_new_session=True, env=os.environ | {"TMPDIR": str(self.folder / "tmp")},
            preexec_fn=as_in_a_terminal,
        )  # fmt: skip

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def made(self, top: subprocess.Popen) -> None:
        """AssertionError, with what Snakemake said, where it failed."""
        status = top.wait(900)
        assert status == 0, f"a plain snakemake ended with {status}:\n{self.said()[-3000:]}"

    def forget(self, stage: Stage) -> None:
        for name in (stage.output, *stage.gone):
            if (path := self.results / name).is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def outcome(self, stage: Stage) -> object:
        """What of an output must be the same again."""
        path = self.results / stage.output
        if path.is_dir():
            files = {each["path"]: each["sha256"] for each in tree_files(path)}
            return {name: file for name, file in files.items() if name[0] != "."}  # Snakemake's
        if path.suffix == ".json":
            return settled(read_json(path))
        return path.read_text(encoding="utf-8")

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
        for path in (self.results / stage.output for stage in STAGES.values()):
            if path.suffix != ".json" or not path.exists():
                continue
            try:
                if "sha256" in read_json(path):
                    read_record(path)
            except (UserError, ValueError) as error:
                found.append(str(error))
        return found


def as_in_a_terminal() -> None:
    """Under nohup, or after a shell's `&`, a snakemake ignores what would be sent to it."""
    for number in (HUP, INT):
        signal.signal(number, signal.SIG_DFL)


def settled(value: object, name: str = "") -> object:
    if isinstance(value, dict):
        parts = {key: settled(part, key) for key, part in value.items() if key != "provenance"}
        return {key: part for key, part in parts.items() if part not in (None, {})}
    return value if name in SETTLED else None


def words(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def command(pid: int) -> str:
    """What a process is, for a table: no folder of this machine."""
    return " ".join(map(os.path.basename, words(pid)))[:200]


def threads(pid: int) -> list[str]:
    """name, state and kernel function of all threads of a process and of its children.

    A process whose first thread has ended is a zombie to whoever asks for its state, and is there
    until the last one has.
    """
    found = []
    children = f"/proc/{pid}/task/{pid}/children"
    with suppress(OSError):
        for one in [pid, *map(int, Path(children).read_text("utf-8").split())]:
            for thread in Path(f"/proc/{one}/task").iterdir():
                name, _, rest = (thread / "stat").read_text("utf-8", "replace").rpartition(")")
                at = (thread / "wchan").read_text("utf-8")
                found.append(f"{name.partition('(')[2]} {rest.split()[0]} {at}")
    return found


def victims(top: int, stage: Stage) -> dict[str, int]:
    """The processes that can be killed, as soon as they are there."""
    found: dict[str, int] = {}
    for pid in process.descendants(top):
        names = [os.path.basename(word) for word in words(pid)]
        if stage.program in names[:4] and not found:  # not a subshell of the shell that starts it
            found |= {"program": pid, "snakemake": top}
        elif "process.py" in names[:4] and "program" in found:  # the guard; below it the tool
            if RECORDER in names:
                continue
            for tool in process.descendants(pid)[:1]:
                found["tool"] = tool
    return found


def lives(demo: Demo, stage: Stage) -> dict[str, float]:
    """How many seconds each victim lives when nobody kills it."""
    demo.forget(stage)
    top, seen = demo.start(stage), {}
    while top.poll() is None:
        now = time.monotonic()
        for kind in victims(top.pid, stage):
            seen.setdefault(kind, [now, now])[1] = now
        time.sleep(0.1)
    demo.made(top)
    return {kind: last - first for kind, (first, last) in seen.items()}


def trial(
    demo: Demo, stage: Stage, kind: str, seed: str, seconds: float, manner: list | None = None
) -> str:
    """One kill, within `seconds` of the victim's start: "passed", "too late", or what is wrong."""
    chance = random.Random(seed)
    manner = manner or chance.choice(MANNERS[kind])
    before = demo.outcome(stage) if (demo.results / stage.output).exists() else None
    demo.forget(stage)
    top, pid = demo.start(stage), None
    while top.poll() is None and (pid := victims(top.pid, stage).get(kind)) is None:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, seconds))
    if pid is None or top.poll() is not None or not process.alive(pid):
        demo.made(top)
        return "too late"
    for number in manner:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        time.sleep(1)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and (top.poll() is None or demo.processes()):
        time.sleep(0.1)
    wrong = []
    doing = []
    if left := demo.processes():
        wrong.append(f"left after {PATIENCE:g} s: {[command(pid) for pid in left]}")
        for pid in left:
            doing += threads(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, KILL)
    top.wait()
    said = demo.said()
    shown = stage.program == "plan.py"  # its tables, however it ends
    lines = sum(not (shown and line.startswith("|")) for line in said.splitlines())
    if kind == "snakemake" and lines > 60:
        wrong.append(f"{lines} lines were printed")
    wrong += demo.broken()
    try:
        demo.made(demo.start(stage))
        if before is not None and (after := demo.outcome(stage)) != before:
            wrong.append(f"another result: {after}, before {before}")
    except Exception as error:
        wrong.append(str(error))
    told = f"{[number.name for number in manner]}"
    return "\n".join(["; ".join([told, *wrong]), *doing, said[-6000:]]) if wrong else "passed"


# --- the matrix -----------------------------------------------------------------------------------


def small_demo(folder: Path, cores: int) -> None:
    """A folder in which the demo has run, with less of everything."""
    copy_workflow(folder)
    path = folder / "config/config.yaml"
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    study["training"] |= {"num_train_epochs": 0.2, "save_steps": 15, "eval_steps": 30}
    study["dialogue"] |= {"limit": 20}
    for benchmark in study["benchmarks"].values():
        benchmark["limit"] = 5
    path.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    given_interpreters(folder)
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores)]
    subprocess.run(command, cwd=folder, check=True)


def copy_of(base: Path, without: str | None = None) -> Demo:
    """A folder for trials; the tools' environments, but one, are those of `base`."""
    folder = Path(tempfile.mkdtemp(prefix="trial-", dir=base.parent))
    return Demo(copy_finished(base, folder, without))


def copy_for(base: Path, name: str) -> Demo:
    """For one trial of a stage; an environment is made anew, too."""
    return copy_of(base, "evalscope" if name == "sync_environment" else None)


def measured(base: Path, name: str) -> dict[str, float]:
    demo = copy_for(base, name)
    try:
        return lives(demo, STAGES[name])
    finally:
        shutil.rmtree(demo.folder)


def tried(base: Path, name: str, kind: str, seed: str, seconds: float) -> str:
    """One trial, a few times where the kill came too late. What failed stays, to be looked at."""
    demo = copy_for(base, name)
    try:
        for again in range(5):
            outcome = trial(demo, STAGES[name], kind, f"{seed}-{again}", seconds * 0.5**again)
            if outcome != "too late":
                break
    except Exception:
        outcome = traceback.format_exc()
    if outcome in ("passed", "too late"):
        shutil.rmtree(demo.folder)
        return outcome
    return f"{outcome}\n(in {demo.folder})"


README = HERE / "README.md"
HEAD = """\
# Kills

Made by `uv run python tests/faults/kills.py`, which says what a trial is and when it passes: each
cell is passed / tried, – where a stage has no tool. A bounded part runs with the tests
(test_kills.py).

| stage | program | tool | snakemake |
|---|---|---|---|
"""


def table(outcomes: list[dict]) -> str:
    count = lambda rows: Counter((row["stage"], row["victim"]) for row in rows)  # noqa: E731
    every, passed = count(outcomes), count(row for row in outcomes if row["outcome"] == "passed")
    cell = lambda *key: f"{passed[key]} / {every[key]}" if every[key] else "–"  # noqa: E731
    stages = {name: any(every[name, kind] for kind in MANNERS) for name in STAGES}
    rows = [
        f"| {name} | {' | '.join(cell(name, kind) for kind in MANNERS)} |"
        for name, there in stages.items()
        if there
    ]
    end = f"{passed.total()} of {every.total()} passed."
    if untried := [name for name, there in stages.items() if not there]:
        end += f" Not tried: {', '.join(untried)}."
    failed = [
        f"- {row['stage']}, {row['victim']} (seed {row['seed']}): {row['outcome'].splitlines()[0]}"
        for row in outcomes
        if row["outcome"] != "passed"
    ]
    apart = [f"- `{rule}`: {why}" for rule, why in APART.items()]
    return "\n".join([f"{HEAD}{chr(10).join(rows)}\n\n{end}\n", *failed, *[""] * bool(failed),
                      "Rules without a stage:\n", *apart]) + "\n"  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--trials", type=int, default=10, help="of each victim (default: 10)")
    parser.add_argument("--workers", type=int, default=1, help="trials at once (default: 1)")
    parser.add_argument("--minutes", type=float, default=1e6, help="after which none is begun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="the demo, made if it is not there")
    parser.add_argument("--outcomes", type=Path, help="JSON lines, appended (default: none kept)")
    parser.add_argument("--table", type=Path, default=README)
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    base, file = (args.base or work / "base").resolve(), args.outcomes or work / "outcomes.jsonl"
    if not (base / "results/report/summary.txt").exists():
        small_demo(base, 2 * args.workers)
    known = list(read_jsonl(file)) if file.exists() else []
    names = [name for name in args.stages if name != "sync_environment" or shutil.which("uv")]
    seeds = [
        (name, kind, f"{args.seed}-{name}-{kind}-{number}")
        for number in range(args.trials)  # a call that is ended leaves each cell with as many
        for name in names
        for kind in STAGES[name].victims
    ]
    before = {row["seed"] for row in known}
    waiting = [each for each in seeds if each[2] not in before]
    with ThreadPoolExecutor(args.workers) as pool:
        unmeasured = iter(dict.fromkeys(name for name, *_ in waiting))
        lifetimes: dict[str, Future] = {}

        def measure(stages: int) -> None:
            for name in islice(unmeasured, stages):
                lifetimes[name] = pool.submit(in_time, measured, base, name)

        def in_time(work: Callable, *given) -> object:
            return work(*given) if time.monotonic() < end else None

        def one(name: str, kind: str, seed: str) -> dict:
            try:
                seconds = lifetimes[name].result().get(kind, 1.0)
                outcome = tried(base, name, kind, seed, seconds)
            except AssertionError as error:
                outcome = f"nobody killed it, and {error}"
            return {"stage": name, "victim": kind, "seed": seed, "outcome": outcome}

        # As many stages ahead as there are workers: nobody waits, little is measured in vain.
        measure(args.workers)
        trials = []
        for _, stage in groupby(waiting, lambda each: each[0]):
            trials += [pool.submit(in_time, one, *each) for each in stage]
            measure(1)
        for done in as_completed(trials):
            if row := done.result():
                known.append(row)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
                print(row["stage"], row["victim"], row["seed"], row["outcome"], flush=True)
                args.table.write_text(table(known), encoding="utf-8")
    passed = {row["seed"] for row in known if row["outcome"] == "passed"}
    left = [seed for *_, seed in seeds if seed not in passed]
    print(f"{len(left)} of {len(seeds)} trials are left, or did not pass")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
