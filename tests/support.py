"""What tests share: the environments, a copy of the workflow in a folder, and its command line."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import environment
from sftflow.core.jsonio import file_digest, write_record

ROOT = Path(__file__).resolve().parent.parent
# Interpreters of the managed environments; a test that needs one that is not synced is skipped.
EVALSCOPE, SWIFT, VLLM = (
    ROOT / f"envs/{env}/.venv/bin/python" for env in ("evalscope", "swift", "vllm")
)


def with_openai() -> None:
    """Let this process import the openai library, which lies in evalscope's environment; of what
    both environments have, the workflow's goes first. Skips where it is not synced."""
    if importlib.util.find_spec("openai"):
        return
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = EVALSCOPE.parent.parent / "lib" / version / "site-packages"
    if not packages.exists():
        import pytest

        pytest.skip("needs envs/evalscope, of this Python", allow_module_level=True)
    if str(packages) not in sys.path:
        sys.path.append(str(packages))


def copy_workflow(target: Path) -> Path:
    """Copy what git would give a newcomer (tracked files as they are now), and nothing else."""
    for name in tracked():
        if (ROOT / name).is_file():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
            copy.chmod((ROOT / name).stat().st_mode)
    return target


def copy_finished(base: Path, folder: Path, without: str | None = None) -> Path:
    """Copy a folder in which the workflow has run; the tools' environments, 5 GB, but one, are
    those of `base`."""
    shutil.copytree(
        base, folder, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".venv")
    )
    for project in (base / "envs").iterdir():
        if (project / ".venv").exists() and project.name != without:
            (folder / "envs" / project.name / ".venv").symlink_to(project / ".venv")
    return folder


PARTS = ("config", "docs", "envs", "profiles", "rules", "scripts", "tests")


def tracked() -> list[str]:
    """Files of the workflow; in a copy that git knows nothing of, those that it runs on."""
    with contextlib.suppress(OSError):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
        if listed.returncode == 0:
            return [name for name in listed.stdout.decode().split("\0") if name]
    below = (path for part in PARTS for path in (ROOT / part).rglob("*"))
    files = (path.relative_to(ROOT) for path in [*ROOT.iterdir(), *below] if path.is_file())
    return [str(file) for file in files if not {".venv", "__pycache__"} & set(file.parts)]


@contextlib.contextmanager
def gone(path: Path, aside: Path) -> Iterator[None]:
    """A file or folder is not there for a while, but lies aside."""
    shutil.move(path, aside)
    try:
        yield
    finally:
        shutil.move(aside, path)


def given_interpreters(folder: Path) -> None:
    """In a copy of the workflow, tools on the interpreters that PYTHON_SWIFT, PYTHON_EVALSCOPE and
    PYTHON_VLLM name, as if they had been synced: for machines without uv."""
    for env in ("swift", "evalscope", "vllm"):
        if not (python := os.environ.get(f"PYTHON_{env.upper()}")):
            continue
        managed = folder / f"envs/{env}/.venv/bin/python"
        managed.parent.mkdir(parents=True, exist_ok=True)
        managed.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n', encoding="utf-8")
        managed.chmod(0o755)
        lock = file_digest(folder / f"envs/{env}/uv.lock")
        about = {"schema": 1, "env": env, "software": "managed", "made_with": {}, "lock": lock}
        about |= environment.inspect(managed)
        write_record(folder / f"results/environments/{env}.json", about)


def stand_in_cards(folder: Path) -> dict[str, str]:
    """Environment in which NVIDIA's management library is one that knows two cards."""
    place = str(ROOT / "tests/unit")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pynvml.py").write_text(
        f"import sys\nsys.path.append({place!r})\nimport stand_in_gpus\n"
        "sys.modules[__name__] = stand_in_gpus.StandIn()\n", encoding="utf-8",
    )  # fmt: skip
    return {"PYTHONPATH": str(folder)}


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


def run_check(folder: Path, *arguments: str) -> tuple[int, str]:
    """scripts/check.py in `folder`, without a new process: exit status, and all that it prints."""
    import check
    from sftflow.core import cli

    told = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(told),
        mock.patch.object(sys, "argv", ["check.py", *arguments]),
    ):
        status = cli.run(check.main)
    return status, told.getvalue()


def jobs(output: str) -> dict[str, int]:
    """The rules and counts of the job table that snakemake prints; scoring has a rule a suite."""
    table = output.partition("Job stats:")[2].partition("\n\n")[0]
    counts: dict[str, int] = {}
    for rule, count in re.findall(r"^(score_suite|\w+)\S* +(\d+)$", table, re.M):
        counts[rule] = counts.get(rule, 0) + int(count)
    return counts
