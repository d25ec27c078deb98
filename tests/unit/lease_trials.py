"""Trials of leases: three processes at once want two, two and one of two stand-in cards.

    lease_trials.py FOLDER TRIALS

A trial hangs when it is not over after 10 s. Prints how many trials, and how many hung.
"""

import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "scripts")]
from sftflow.core import gpu
from stand_in_gpus import StandIn


def job(count: int, begin: float, hold: float) -> None:
    time.sleep(max(begin - time.monotonic(), 0))
    with gpu.claim(count, interval=0.001) as mine:
        assert len({card["uuid"] for card in mine}) == count
        time.sleep(hold)


def main() -> None:
    gpu.LEASES, trials = Path(sys.argv[1]), int(sys.argv[2])
    sys.modules["pynvml"] = StandIn()
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # who waits for whom
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_JOB_GPUS"):
        os.environ.pop(name, None)
    chance, hung = random.Random(1), 0
    fork = multiprocessing.get_context("fork")
    for _ in range(trials):
        begin = time.monotonic() + 0.01
        jobs = [
            fork.Process(target=job, args=(n, begin + chance.random() / 500, chance.random() / 200))
            for n in (2, 2, 1)
        ]
        for each in jobs:
            each.start()
        for each in jobs:
            each.join(10)
        if any(each.exitcode != 0 for each in jobs):
            hung += 1
            for each in jobs:
                each.kill()
    print(f"{trials} trials, {hung} hung", file=sys.__stdout__)


if __name__ == "__main__":
    main()
