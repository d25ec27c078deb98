"""What Slurm does to jobs, and its executor does not say: why it holds them back, or ended them."""

import re
import subprocess
import threading
from collections.abc import Callable

FORMAT = "%i|%r|%k"  # id, reason, comment: Snakemake's executor names rule and wildcards there
# A job that waits for one of these starts by itself.
USUAL = set("None Priority Resources Dependency BeginTime Cleaning JobArrayTaskLimit".split())


# How a job ends that did nothing wrong itself, and whose log can't know.
ENDS = {
    "TIMEOUT": "its time was over; more: `resources`, runtime (minutes)",
    "OUT_OF_MEMORY": "it took more memory than it had asked for; more: `resources`, mem_mb",
    "CANCELLED": "somebody cancelled it",
    "PREEMPTED": "another job took its place",
    "NODE_FAIL": "its node failed",
}


def why_ended(told: str) -> str:
    """Why Slurm ended a job, by what Snakemake's executor tells of it; "" where it did not."""
    found = re.search(r"SLURM status is: '(\w+)", told)
    why = ENDS.get(found[1]) if found else None
    return f"Slurm ended this job ({found[1]}): {why}" if found and why else ""


def held(listed: str) -> dict[str, list[str]]:
    """{reason: jobs} of what `squeue` lists as pending, in FORMAT, and that may wait for ever."""
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        job, _, rest = line.partition("|")
        reason, _, comment = rest.rpartition("|")
        if comment.startswith(("rule_", "group_")) and reason not in USUAL:
            name = comment.replace("_wildcards_", " ").removeprefix("rule_")
            found.setdefault(reason, []).append(f"{job} ({name})")
    return found


def pending() -> str:
    """Our pending jobs; nothing where Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--states=PENDING", f"--format={FORMAT}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def tell(say: Callable[[str], None], told: set[str], listed: str) -> None:
    """Say each reason once; it may come again when it had gone."""
    found = held(listed)
    told.intersection_update(found)
    for reason, jobs in found.items():
        if reason not in told:
            more = f" and {len(jobs) - 1} more" * (len(jobs) > 1)
            say(f"Slurm does not start job {jobs[0]}{more}: {reason}. `sinfo -R` names nodes")
            told.add(reason)


def watch(say: Callable[[str], None], interval: float = 60.0) -> threading.Event:
    """Look at the queue in the background until the event that this returns is set."""
    end, told = threading.Event(), set[str]()

    def look() -> None:
        while not end.wait(interval):
            tell(say, told, pending())

    threading.Thread(target=look, daemon=True).start()
    return end
