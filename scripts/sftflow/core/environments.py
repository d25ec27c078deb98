"""Where the tools' environments lie, and the interpreter of each."""

import os
import shutil
import sys
from pathlib import Path

from sftflow.core import process
from sftflow.core.cli import UserError
from sftflow.core.handover import HOME, SCRATCH


def project(env: str) -> Path:
    """The folder with pyproject.toml and uv.lock of a tool's environment."""
    return HOME / "envs" / env


def folder(project: Path) -> Path:
    """Its virtual environment: beside the lock; below .snakemake if the checkout is read-only."""
    beside = project / ".venv"
    if beside.exists() or os.access(project, os.W_OK):
        return beside
    return SCRATCH.resolve() / "envs" / project.name


def interpreter(env: str, software: str) -> str:
    """Python of a tool's environment; with `software: active` the one that is active.

    An environment that is not there (its record was copied without it) is synced first.
    """
    if software == "active":
        return shutil.which("python") or sys.executable
    python = folder(project(env)) / "bin/python"
    if not python.exists():
        command = [sys.executable, str(HOME / "scripts/environment.py"), "--env", env]
        if process.start(command).wait():
            raise UserError(f"the environment {env} is not there and could not be made")
    return str(python)
