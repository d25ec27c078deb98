"""Tests meet the workflow as a user does: a copy of it in a folder, and the command line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support import copy_workflow, run_snakemake


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A fresh copy of the workflow that a test may change."""
    return copy_workflow(tmp_path)


@pytest.fixture(scope="session")
def snakemake() -> Callable:
    return run_snakemake
