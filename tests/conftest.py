"""Tests meet the workflow as a user does: a copy of it in a folder, and the command line."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import copy_workflow, run_snakemake


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A fresh copy of the workflow that a test may change."""
    return copy_workflow(tmp_path)


@pytest.fixture(scope="session")
def snakemake() -> Callable:
    return run_snakemake


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> SimpleNamespace:
    """A fresh copy in which `snakemake --cores 2` has run once: {folder, results, run}.

    Its path has a space, an apostrophe and Chinese in it, as users' paths have.
    """
    folder = copy_workflow(tmp_path_factory.mktemp("demo") / "it's a 演示")
    return SimpleNamespace(folder=folder, results=folder / "results", run=run_snakemake(folder))
