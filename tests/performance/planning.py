"""What planning a large study costs over Snakemake's own start, and how that grows with its runs.

    uv run python tests/performance/planning.py [--runs 1000] [--checked 300]

Sides: `start` (an empty Snakefile), a quarter, a half and all of RUNS runs × 9 benchmarks planned
with nothing there, and CHECKED runs of which everything is there and up to date. Times are of the
CPU: what waits is the machine's. Fails where planning grows faster than the runs, or a goal is
missed: 20 s and 0.6 GiB for 1,000 runs, 8 s for the check of 300, all over `start`.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from sftflow.core.jsonio import sealed, write_record

RECORD = json.dumps(sealed({"files": []}))  # of nothing, in place of every output
TOLERANCE = 1.15  # times linear growth: what one measurement differs from the next


class Cost(NamedTuple):
    seconds: float
    gib: float


def snakemake(folder: Path, snakefile: Path, *arguments: str) -> tuple[Cost, str]:
    """CPU time and peak memory of one call, and what it printed."""
    with (folder / "printed.txt").open("w+") as printed:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
        process = subprocess.Popen(
            [*command, "--cores", "1", *arguments], cwd=folder, stdout=printed, stderr=printed
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read()
    if process.returncode:
        sys.exit(f"{' '.join(arguments)}: {text[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20), text


def study(folder: Path, runs: int) -> str:
    """The demo with many runs and nine benchmarks, as a config file."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    for again in ("mmlu", "gsm8k"):
        config["benchmarks"][f"{again}_again"] = {"preset": again, **config["benchmarks"][again]}
        config["suites"]["general"].append(f"{again}_again")
    config["runs"] = {
        f"run{seed:04}": {**config["runs"]["tiny-sft"], "label": None, "training": {"seed": seed}}
        for seed in range(runs)
    }
    path = folder / f"{runs}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def planned(folder: Path, runs: int) -> Cost:
    return snakemake(folder, ROOT / "Snakefile", "-n", "-q", "--configfile", study(folder, runs))[0]


def checked(folder: Path, runs: int) -> Cost:
    """Everything that the study makes is put there, and Snakemake is told that it was made so.

    Snakemake takes a tenth of a second to be told of one job: it is told of those of one run, and
    what it writes down of them is written down of the other runs, under their names.
    """
    config = ["--configfile", study(folder, runs)]
    _, table = snakemake(folder, ROOT / "Snakefile", "--summary", *config)
    outputs = [line.partition("\t")[0] for line in table.splitlines()]
    outputs = [path for path in outputs if path.startswith("results/")]
    for path in outputs:
        target = folder / path if Path(path).suffix else folder / path / "kept"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(RECORD, encoding="utf-8")
        if target.name == "merged.json":
            target.with_suffix("").mkdir()
    write_record(folder / "results/backend.json", {"name": "transformers", "reason": "made up"})
    of_first = [path for path in outputs if "/run0000/" in path and "/cards/" not in path]
    touch = ["--touch", "-q", "all", *config]
    snakemake(folder, ROOT / "Snakefile", *of_first, "--forceall", *touch)
    known = folder / ".snakemake/metadata"
    for path in list(known.iterdir()):
        name = base64.urlsafe_b64decode(path.name).decode()
        for seed in range(1, runs) if "/run0000/" in name else ():
            own = name.replace("run0000", f"run{seed:04}")
            content = path.read_text(encoding="utf-8").replace("run0000", f"run{seed:04}")
            content = content.replace("training.seed: 0", f"training.seed: {seed}")
            (known / base64.urlsafe_b64encode(own.encode()).decode()).write_text(content)
    snakemake(folder, ROOT / "Snakefile", *touch)  # the jobs of no run or of all
    cost, told = snakemake(folder, ROOT / "Snakefile", "-n", *config)
    if "Nothing to be done" not in told:
        sys.exit(f"not up to date: {told[-2000:]}")
    return cost


def row(side: str, runs: int, cost: Cost) -> str:
    each = 1e3 * cost.seconds / runs
    return f"| {side} | {runs:,} | {cost.seconds:.1f} | {cost.gib:.2f} | {each:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--checked", type=int, default=300)
    args = parser.parse_args()
    quarter, half = args.runs // 4, args.runs // 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        empty = folder / "empty.smk"
        empty.write_text("rule all:\n    shell: 'true'\n", encoding="utf-8")
        start, _ = snakemake(folder, empty, "-n", "-q")
        plans = {runs: planned(folder, runs) for runs in (quarter, half, args.runs)}
        over = {
            runs: Cost(*(a - b for a, b in zip(cost, start, strict=True)))
            for runs, cost in plans.items()
        }
        print("| side | runs | CPU s over start | GiB over start | ms/run |\n|---|---|---|---|---|")
        print(f"| start | 0 | ({start.seconds:.1f}) | ({start.gib:.2f}) | |")
        for runs, cost in over.items():
            print(row("plan", runs, cost), flush=True)
        check = checked(folder, args.checked)
    checking = Cost(check.seconds - start.seconds, check.gib - start.gib)
    print(row("check", args.checked, checking))
    last, before = over[args.runs], over[half]
    growth = (last.seconds - before.seconds) / (before.seconds - over[quarter].seconds) / 2
    print(f"growth: {growth:.2f} times linear")
    missed = [
        *(["grows faster than the runs"] if growth > TOLERANCE else []),
        *(["plan: more than 20 ms a run"] if last.seconds > 0.02 * args.runs else []),
        *(["plan: more than 0.6 GiB"] if last.gib > 0.6 * max(args.runs, 1000) / 1000 else []),
        *(
            ["check: more than 8 s for 300 runs"]
            if checking.seconds > 8 * args.checked / 300
            else []
        ),
    ]
    sys.exit("; ".join(missed) or 0)


if __name__ == "__main__":
    main()
