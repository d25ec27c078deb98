"""What the workflow itself costs on the demo: snakemake, and then the same commands by hand.

    uv run python tests/performance/demo.py [--cores 2]

Both sides start from what a clone holds, with the tools' environments synced before. By hand means
that the commands which snakemake ran are given to a shell, one after the other, in the order in
which they were begun. Prints wall time and CPU time of both, and their ratios; snakemake lets jobs
run side by side where there are cores, so the ratio of CPU time is the workflow's own share.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "scripts"), str(HERE.parent)]
from sftflow.core import handover
from sftflow.core.jsonio import read_json
from support import ROOT, copy_workflow, given_interpreters


def clone(folder: Path) -> Path:
    """The workflow in a new folder, with the environments of this one."""
    copy_workflow(folder)
    given_interpreters(folder)
    for env in ("swift", "evalscope"):
        synced, there = ROOT / f"envs/{env}/.venv", folder / f"envs/{env}/.venv"
        if synced.exists() and not there.exists():
            there.symlink_to(synced)
    snakemake(folder, 1, "results/environments/swift.json", "results/environments/evalscope.json")
    return folder


def snakemake(folder: Path, cores: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def commands(folder: Path) -> list[dict]:
    """Snakemake's records of the jobs that it ran after the environments, as they began."""
    found = {}
    for path in (folder / ".snakemake/metadata").rglob("*"):
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["rule"] != "sync_environment" and record["shellcmd"]:
                found[record["shellcmd"]] = record
    return sorted(found.values(), key=lambda record: record["starttime"])


def by_hand(folder: Path, done: list[dict], made: list[str]) -> None:
    """Give the commands to a shell. `made`: all files that they make, which a server is told."""
    os.chdir(folder)
    (study,) = handover.SCRATCH.glob("study-*.json")
    handover.announce(read_json(study), "results")
    handover.tell_plan(made)
    for file in [*made, *(log for record in done for log in record["log"])]:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    for record in done:
        subprocess.run(["bash", "-euo", "pipefail", "-c", record["shellcmd"]], check=True)


def outputs(folder: Path) -> list[str]:
    """What `snakemake` says that it would make here."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "rules"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    found = subprocess.run(
        [*command[:-2], "--summary"], cwd=folder, check=True, capture_output=True, text=True
    )
    return [line.split("\t")[0] for line in found.stdout.splitlines()[1:]]


def cost(action, *arguments) -> tuple[float, float]:
    """(wall, CPU) seconds of an action and all processes that it waited for."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    action(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, cpu


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="demo-"))
    first, second = clone(work / "snakemake"), clone(work / "by-hand")
    made = outputs(second)
    ours = cost(snakemake, first, args.cores)
    theirs = cost(by_hand, second, commands(first), made)
    print("| side | wall s | CPU s |\n|---|---|---|")
    print(f"| snakemake --cores {args.cores} | {ours[0]:.0f} | {ours[1]:.0f} |")
    print(f"| the same {len(commands(first))} commands | {theirs[0]:.0f} | {theirs[1]:.0f} |")
    print(f"| ratio | {ours[0] / theirs[0]:.2f} | {ours[1] / theirs[1]:.2f} |")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
