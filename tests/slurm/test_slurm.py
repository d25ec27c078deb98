"""The cluster profile on a real Slurm: what a user of a cluster meets first."""

import subprocess
import sys

import pytest
from support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm")]


def test_jobs_go_through_slurm_and_their_logs_stay(workflow, snakemake):
    """Preparing data runs on a node; fetching stays on the submitting host; logs are kept."""
    receipt = "results/datasets/psychology/receipt.json"
    done = snakemake(
        workflow,
        *(receipt, "--profile", "profiles/slurm", "--slurm-no-account"),
        *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"),
    )
    assert done.returncode == 0, done.stdout
    assert (workflow / receipt).exists()
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
