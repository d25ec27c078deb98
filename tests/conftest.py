"""Tests meet the workflow as a user does: a copy of it in a folder, and the command line."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import canaries
import pytest
from support import copy_workflow, run_snakemake

os.environ |= canaries.SHELL  # of whatever is started here, unless a test has a key of its own


@pytest.fixture(scope="session", autouse=True)
def watch(tmp_path_factory) -> canaries.Watch:
    return canaries.Watch(tmp_path_factory.getbasetemp())


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The fast tests (-m "not slow") have all cores, unless -n is given; the slow ones start tools
    that take them all themselves."""
    worker = hasattr(config, "workerinput")  # xdist's own, which would start workers in turn
    if config.option.markexpr == "not slow" and not worker:
        if getattr(config.option, "numprocesses", 0) is None:
            config.option.numprocesses = "auto"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """No test passes with a secret of its shell in a file or in a tool."""
    yield
    used = item.funcargs
    leaked = used["watch"].leaked(*filter(None, [used.get("tmp_path")]))
    assert not leaked, "\n".join(["a secret of the shell has leaked:", *leaked])


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A fresh copy of the workflow that a test may change."""
    return copy_workflow(tmp_path)


@pytest.fixture(scope="session")
def snakemake() -> Callable:
    return run_snakemake


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Path:
    """A copy of the workflow for tests that only plan in it: no test changes a file of it."""
    return copy_workflow(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> SimpleNamespace:
    """A fresh copy in which `snakemake --cores 2` has run once: {folder, results, run}.

    Its path has a space, an apostrophe and Chinese in it, as users' paths have.
    """
    folder = copy_workflow(tmp_path_factory.mktemp("demo") / "it's a 演示")
    return SimpleNamespace(folder=folder, results=folder / "results", run=run_snakemake(folder))
