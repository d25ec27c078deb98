"""The cluster profile on a real Slurm: what a user of a cluster meets first."""

import os
import re
import subprocess
import sys

import pytest
import yaml
from support import EVALSCOPE, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm")]

ACTIVE = os.environ | {"PATH": f"{EVALSCOPE.parent}:{os.environ['PATH']}"}  # nothing to sync
ON_SLURM = (
    "--config", "software=active",
    "--profile", "profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5",
)  # fmt: skip
RECEIPT = "results/datasets/psychology/receipt.json"


def asked_for(job: str) -> dict[str, str]:
    """What a job asked of Slurm, as `scontrol show job` has it."""
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
    return dict(re.findall(r"(\w+)=(\S*)", shown.stdout))


def submitted(said: str) -> list[str]:
    return re.findall(r"submitted with SLURM jobid (\d+)", said)


def test_jobs_go_through_slurm_and_their_logs_stay(workflow, snakemake):
    """Preparing data runs on a node; fetching stays on the submitting host; logs are kept."""
    done = snakemake(workflow, RECEIPT, *ON_SLURM, env=ACTIVE)
    assert done.returncode == 0, done.stdout
    assert (workflow / RECEIPT).exists()
    assert "rule_prepare_dataset" in done.stdout
    assert "rule_fetch_dataset" not in done.stdout


def test_gpu_resource_gives_a_job_its_own_cards():
    """A job that asks for one GPU sees one, so that two trainings never share a card."""
    seen = subprocess.run(
        ["srun", "--gpus=1", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert seen.returncode == 0, seen.stderr
    assert len(seen.stdout.strip().split(",")) == 1 and seen.stdout.strip()


def test_granted_cards_that_nobody_sees_end_the_job():
    """These stand-ins are terminals: no driver knows them, as in a container without --nv."""
    claim = "from sftflow.core import cli, gpu; raise SystemExit(cli.run(gpu.claim(1).__enter__))"
    done = subprocess.run(
        ["srun", "--gpus=1", sys.executable, "-c", claim],
        cwd=ROOT / "scripts", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: Slurm granted this job GPU" in done.stderr and "Traceback" not in done.stderr


def test_a_retry_asks_for_more_and_keeps_the_log(workflow, snakemake):
    """Data that can't be used: each attempt fails; the profile's limit holds for what it asks."""
    path = workflow / "config/config.yaml"
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    study["datasets"]["psychology"]["validation_share"] = 0
    source = workflow / "broken.jsonl"
    source.write_text('{"conversations": "?"}\n', encoding="utf-8")
    study["datasets"]["psychology"]["source"] = str(source)
    study["resources"]["prepare_dataset"] = {"mem_mb": 100, "runtime": 10}
    path.write_text(yaml.safe_dump(study, allow_unicode=True), encoding="utf-8")
    done = snakemake(
        workflow, RECEIPT, *ON_SLURM, "--retries", "1",
        "--default-resources", "runtime=120", "mem_mb=100", "slurm_partition='main'",
        "most_runtime=12",
        env=ACTIVE,
    )  # fmt: skip
    assert done.returncode == 1
    first, second = map(asked_for, submitted(done.stdout))
    assert (first["TimeLimit"], second["TimeLimit"]) == ("00:10:00", "00:12:00")
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("100M", "150M")
    assert first["Partition"] == "main"
    logs = sorted((workflow / "logs/prepare_dataset").glob("psychology.log*"))
    assert [log.name for log in logs] == ["psychology.log", "psychology.log.1"]
    assert all("error: " in log.read_text(encoding="utf-8") for log in logs)


def test_a_drained_node_is_told(workflow):
    """The job waits, and the reason is said; with the node back it runs."""
    node = subprocess.run(
        ["sinfo", "-h", "-o", "%n"], capture_output=True, text=True
    ).stdout.strip()

    def state(value: str) -> None:
        change = [
            "scontrol",
            "update",
            f"NodeName={node}",
            f"State={value}",
            "Reason=test",
        ]
        subprocess.run(change, check=True)

    state("drain")
    try:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", RECEIPT, *ON_SLURM]
        command += ["--default-resources", "watch_seconds=1", "runtime=10", "mem_mb=100"]
        child = subprocess.Popen(
            command, cwd=workflow, env=ACTIVE, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = ""
        for line in child.stdout:
            said += line
            if "Slurm does not start job" in line:
                break
        assert "(prepare_dataset psychology): " in said.splitlines()[-1], said[-2000:]
        state("resume")
        said += child.stdout.read()
        assert child.wait(60) == 0, said[-3000:]
    finally:
        child.kill()
        if subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True).stdout[:4] == b"drai":
            state("resume")
