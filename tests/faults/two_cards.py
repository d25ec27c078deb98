"""Two cards, two runs of `gpus: 1` and one of `gpus: 2`, one snakemake; kills on the way.

    uv run python tests/faults/two_cards.py [--folder FOLDER] [--faked]

For a host with two NVIDIA GPUs. The demo's model is trained three times, merged, served and asked,
on cards. All that may start is started at once (--resources gpu=8), so that the leases decide who
has which card. The first training that has a checkpoint is killed (its program, by KILL), of the
next one the snakemake; then nothing may be left after 15 s, neither a process nor memory on a card.
A plain snakemake makes the rest, and trainings go on where they were.

Prints which job had which cards when, how long it waited for them, and what is wrong. Fails when a
card was in two hands at once, something was left, a snakemake failed, or a training began anew.

Without uv, PYTHON_SWIFT and PYTHON_EVALSCOPE name interpreters that have the tools. --faked: two
cards that only NVIDIA's management library knows (a stand-in). Leases, waiting and kills are then
real; trainings must end by saying that torch can't use the card, and nothing comes after them.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "scripts"), str(HERE.parent), str(HERE.parent / "unit")]
from kills import PATIENCE, Demo, words
from sftflow.core import gpu, process
from support import copy_workflow, given_interpreters, stand_in_cards

RUNS = {"one-a": 1, "one-b": 1, "both": 2}
JOB = re.compile(r"settings/(\w+)/(.+)\.json$")


@dataclass
class Held:
    """What a job had of the cards: when it started, and from when to when it held which."""

    began: float
    cards: set[str] = field(default_factory=set)
    first: float = 0
    last: float = 0


def settings() -> dict:
    """The demo on cards, with less of everything."""
    study = yaml.safe_load((HERE.parents[1] / "config/config.yaml").read_text(encoding="utf-8"))
    study["training"] |= {
        "device": "auto", "torch_dtype": "bfloat16", "save_steps": 40, "checkpoints": None,
    }  # fmt: skip
    study["serving"] |= {"device": "auto", "torch_dtype": "bfloat16"}
    study["runs"] = {
        name: {
            "model": "tiny",
            "dataset": "psychology",
            "training": {"gpus": count, "gradient_accumulation_steps": count, "seed": place},
        }
        for place, (name, count) in enumerate(RUNS.items())
    }
    study["dialogue"] |= {"limit": 20}
    for benchmark in study["benchmarks"].values():
        benchmark["limit"] = 5
    return study


def jobs_of(top: int) -> dict[int, str]:
    """{process: rule and name} of the programs that a snakemake has started."""
    found = {}
    for pid in process.descendants(top):
        said = words(pid)
        if "--settings" in said[:-1] and "sh" not in os.path.basename(said[0]):
            if match := JOB.search(said[said.index("--settings") + 1]):
                found[pid] = " ".join(match.groups())
    return found


def told(pid: int) -> set[str]:
    """Cards that the tools of a program were told to use."""
    cards: set[str] = set()
    for tool in process.descendants(pid):
        with contextlib.suppress(OSError):
            env = Path(f"/proc/{tool}/environ").read_bytes().decode(errors="replace").split("\0")
            stated = [line for line in env if line.startswith("CUDA_VISIBLE_DEVICES=GPU-")]
            cards |= {card for line in stated for card in line.partition("=")[2].split(",")}
    return cards


def holders() -> dict[str, int]:
    """{card: process} by the leases."""
    found = {}
    for file in (gpu.LEASES / "sftflow-gpus").glob("*.holder"):
        with contextlib.suppress(OSError, ValueError):
            found[file.stem] = int(file.read_text("utf-8").rpartition(" ")[2])
    return found


def computing() -> dict[str, list[int]]:
    """{card: processes} that compute there, by NVIDIA's library; their numbers are the host's."""
    return {card["uuid"]: gpu._foreign(card["uuid"]) for card in gpu.describe()}


class Watch:
    """Samples of who has which card, of one snakemake after the other."""

    def __init__(self) -> None:
        self.begun, self.held, self.wrong = time.monotonic(), {}, []
        self.crowded: set[str] = set()

    def look(self, top: int) -> dict[int, str]:
        now, jobs = time.monotonic() - self.begun, jobs_of(top)
        users: dict[str, set[int]] = {}
        for pid, name in jobs.items():
            entry = self.held.setdefault((name, pid), Held(now))
            leased = {card for card, who in holders().items() if who == pid}
            for card in told(pid):
                users.setdefault(card, set()).add(pid)
            if cards := leased | told(pid):
                entry.first = entry.first or now
                entry.cards |= cards
                entry.last = now
        for card, pids in users.items():
            if len(pids) > 1:
                self.wrong.append(f"{card} in use by {sorted(jobs[pid] for pid in pids)}")
        # ranks of one training may look at each other's card
        shared = {card for pid in jobs if len(told(pid)) > 1 for card in told(pid)}
        crowded = {card for card, pids in computing().items() if len(pids) > 1} - shared
        for card in crowded & self.crowded:  # twice: one that ends may be listed for a moment
            self.wrong.append(f"{card}: two processes compute there at {now:.0f} s")
        self.crowded = crowded
        return jobs

    def table(self) -> str:
        names = {card["uuid"]: str(place) for place, card in enumerate(gpu.describe())}
        rows = [
            f"| {name} | {', '.join(sorted(names.get(card, card) for card in entry.cards))} "
            f"| {entry.first - entry.began:.1f} | {entry.first:.0f} | {entry.last:.0f} |"
            for (name, _), entry in sorted(self.held.items(), key=lambda item: item[1].first)
            if entry.cards
        ]
        head = "| job | cards | s until it had them | from s | to s |\n|---|---|---|---|---|\n"
        return head + "\n".join(rows)


class Trial:
    def __init__(self, folder: Path, faked: bool):
        self.demo, self.watch, self.faked = Demo(folder), Watch(), faked
        self.killed: list[str] = []

    @contextlib.contextmanager
    def snakemake(self, *arguments: str) -> Iterator[subprocess.Popen]:
        # on cards that are not there, nothing can come after a training
        targets = [f"results/runs/{run}/adapter.json" for run in RUNS if self.faked]
        command = [sys.executable, "-m", "snakemake", *targets, "--cores", "16", *arguments]
        self.log = self.demo.folder / f"said-{time.monotonic():.0f}.txt"
        env = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
        with self.log.open("w", encoding="utf-8") as said:
            child = subprocess.Popen(
                command, cwd=self.demo.folder, stdout=said, stderr=said, env=env,
                start_new_session=True,
            )  # fmt: skip
            yield child
            child.wait()

    def follow(self, child: subprocess.Popen, act: Callable[[dict[int, str]], None]) -> int:
        while child.poll() is None:
            act(self.watch.look(child.pid))
            time.sleep(0.2)
        return child.returncode

    def kill(self, child: subprocess.Popen, jobs: dict[int, str]) -> None:
        """The first training with a checkpoint; then the snakemake of the next one."""
        for pid, name in jobs.items():
            rule, _, run = name.partition(" ")
            if rule != "train_run" or run in self.killed or len(self.killed) == 2:
                continue
            if not self.under_way(run, pid):
                continue
            below = process.descendants(pid)
            victim = child.pid if self.killed else pid
            self.killed.append(run)
            os.kill(victim, signal.SIGKILL)
            print(f"{run}: {'its snakemake' if victim != pid else 'its program'} is killed")
            self.gone([pid, *below] if victim == pid else [])
            return

    def under_way(self, run: str, pid: int) -> bool:
        """Whether a training has a checkpoint; on cards that are not there, whether it began."""
        if self.faked:
            return bool(told(pid))
        return any(
            self.demo.results.glob(f"runs/{run}/checkpoints/*/checkpoint-*/trainer_state.json")
        )

    def gone(self, processes: list[int]) -> None:
        """These, or all of the folder, have to be gone soon."""
        begun = time.monotonic()
        left = lambda: list(filter(process.alive, processes or self.demo.processes()))  # noqa: E731
        while left() and time.monotonic() < begun + PATIENCE:
            time.sleep(0.1)
        if who := left():
            self.watch.wrong.append(f"left after {PATIENCE:g} s: {[words(pid)[:4] for pid in who]}")
        print(f"  nothing of it is left after {time.monotonic() - begun:.1f} s" if not who else "")


def unfinished(trial: Trial, status: int, said: str) -> list[str]:
    wrong = [f"exit {status}: {said[-3000:]}"] if status else []
    went_on = [run for run in trial.killed if f"train {run}  goes on from step" in said]
    return wrong + [f"the training of {run} began anew" for run in {*trial.killed} - {*went_on}]


def unusable(said: str) -> list[str]:
    """On cards that are not there: every training says so."""
    told = said.count("computes on the CPU: its torch can't use that GPU")
    return [] if told >= len(RUNS) else [f"{told} of {len(RUNS)} said why: {said[-3000:]}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to run (default: a new one)")
    parser.add_argument("--faked", action="store_true", help="two cards that are not there")
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="cards-"))).resolve()
    copy_workflow(folder)
    given_interpreters(folder)
    config = folder / "config/config.yaml"
    config.write_text(yaml.safe_dump(settings(), allow_unicode=True), encoding="utf-8")
    if args.faked:
        from stand_in_gpus import StandIn

        os.environ |= stand_in_cards(folder / "faked")
        sys.modules["pynvml"] = StandIn()
    cards = gpu.describe()
    print(f"{len(cards)} cards{' that are not there' * args.faked}: {[c['name'] for c in cards]}")
    if len(cards) < 2:
        sys.exit("two are needed; --faked does without")
    before, trial = computing(), Trial(folder, args.faked)
    with trial.snakemake("--resources", "gpu=8") as child:
        trial.follow(child, lambda jobs: trial.kill(child, jobs))
    trial.gone([])
    said = [trial.log.read_text(encoding="utf-8")]
    if len(trial.killed) < 2:
        trial.watch.wrong.append(f"killed: {trial.killed}; meant were two\n{said[0][-2000:]}")
    with trial.snakemake() as child:
        status = trial.follow(child, lambda jobs: None)
    said.append(trial.log.read_text(encoding="utf-8"))
    trial.watch.wrong += unusable(said[1]) if args.faked else unfinished(trial, status, said[1])
    trial.gone([])
    if (after := computing()) != before:
        trial.watch.wrong.append(f"computing on the cards: {after}, before {before}")
    waits = sorted({line for text in said for line in text.splitlines() if "waiting for" in line})
    print(trial.watch.table(), *waits, sep="\n")
    print(f"exit {status}; {time.monotonic() - trial.watch.begun:.0f} s")
    print(*dict.fromkeys(f"WRONG: {what}" for what in trial.watch.wrong or ["nothing"]), sep="\n")
    return bool(trial.watch.wrong)


if __name__ == "__main__":
    sys.exit(main())
