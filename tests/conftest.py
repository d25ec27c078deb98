"""Tests meet the workflow as a user does: a copy of it in a folder, and the command line."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def copy_workflow(target: Path) -> Path:
    """Copy what git would give a newcomer (tracked files as they are now), and nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
            copy.chmod((ROOT / name).stat().st_mode)
    return target


def run_snakemake(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run snakemake in `folder`; stdout and stderr come back as one text, as on a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1800,
        **options,
    )


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A fresh copy of the workflow that a test may change."""
    return copy_workflow(tmp_path)


@pytest.fixture(scope="session")
def snakemake() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_snakemake
