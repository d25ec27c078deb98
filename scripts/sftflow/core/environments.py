"""Where the tools' environments lie, and the interpreter of each."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
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
    """Python of a tool's environment; with `software: active` the one that is active, or that
    PYTHON_<ENV> names, since not every tool's pins go with every other's.

    An environment that is not there (its record was copied without it) is synced first. UserError
    where it can't be, or where PYTHON_<ENV> names nothing that can be run.
    """
    if software == "active":
        if not (named := os.environ.get(variable := f"PYTHON_{env.upper()}")):
            return shutil.which("python") or sys.executable
        if not (found := shutil.which(named)):
            raise UserError(f"{variable} is {named!r}, and no such program is there")
        return found
    python = folder(project(env)) / "bin/python"
    if not python.exists():
        command = [sys.executable, str(HOME / "scripts/environment.py"), "--env", env]
        if process.start(command).wait():
            raise UserError(f"the environment {env} is not there and could not be made")
    return str(python)


def can_be_had(env: str, software: str, package: str) -> bool:
    """Whether a tool's environment is there, or the index that it is locked to answers.

    Nothing is installed. With `software: active` it is there when `package` can be imported.
    """
    if software == "active":
        known = f"import sys, importlib.util as u; sys.exit(u.find_spec({package!r}) is None)"
        done = subprocess.run([interpreter(env, software), "-c", known], capture_output=True)
        return done.returncode == 0
    if (folder(project(env)) / "bin/python").exists():
        return True
    lock = (project(env) / "uv.lock").read_text("utf-8")
    wheel = re.search(rf'name = "{package}"\n.*?url = "([^"]+)"', lock, re.DOTALL)
    return wheel is not None and answers(wheel[1])


def answers(url: str, seconds: float = 5) -> bool:
    """Whether something is at an address, by way of the proxy that the environment names."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False
