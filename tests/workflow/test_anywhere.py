"""It runs from anywhere: another folder, a read-only checkout, somebody else's Snakefile.

Each runs the plan for real (environments, fetching, preparing, tokenising), from paths with spaces,
quotes and Chinese. Training and asking in such a path is what test_demo.py does.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, copy_workflow, jobs, run_snakemake

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose environments are ready."""
    folder = copy_workflow(tmp_path / "工作 'flow'")
    for env in ("swift", "evalscope"):
        if (ROOT / f"envs/{env}/.venv").exists():
            (folder / f"envs/{env}/.venv").symlink_to(ROOT / f"envs/{env}/.venv")
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "my results, 结果"
    folder.mkdir()
    return folder


def planned(results: Path, done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stdout[-4000:]
    page = (results / "tables/plan.md").read_text(encoding="utf-8")
    assert "tiny-sft" in page and "GSM8K" in page
    assert (results / "runs/tiny-sft/receipt.json").exists()


def test_from_another_folder(clone, elsewhere):
    """The demo's own data are found beside the Snakefile, and nothing is written there."""
    done = run_snakemake(elsewhere, "--snakefile", str(clone / "Snakefile"), "plan")
    planned(elsewhere / "results", done)
    assert not (clone / ".snakemake").exists() and list((clone / "results").iterdir()) == [
        clone / "results/README.md"
    ]


def test_with_directory(clone, elsewhere):
    done = run_snakemake(clone, "--directory", str(elsewhere), "plan")
    planned(elsewhere / "results", done)


def test_results_and_logs_on_another_disk(clone, elsewhere):
    where = f"pathvars={{results: '{elsewhere}/out', logs: '{elsewhere}/log'}}"
    planned(elsewhere / "out", run_snakemake(clone, "plan", "--config", where))
    assert list((elsewhere / "log").rglob("*.log"))


def test_a_checkout_that_can_not_be_written(clone, elsewhere):
    """A shared installation: results, and environments that are not there, go elsewhere."""
    mount = ["mount", "--bind", str(clone), str(clone)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(clone)], check=True)
        done = run_snakemake(elsewhere, "--snakefile", str(clone / "Snakefile"), "plan")
    finally:
        subprocess.run(["umount", str(clone)], check=True)
    planned(elsewhere / "results", done)


def test_an_environment_that_is_not_there_is_made_outside_a_read_only_checkout(tmp_path):
    """Which folder is taken; that uv builds it there is uv's business."""
    code = (
        "import os, sys; from pathlib import Path; from sftflow.core import environments as e\n"
        "os.access = lambda *_: False\n"
        "print(e.folder(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "envs/swift"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT / "scripts")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / ".snakemake/sftflow/envs/swift"), done.stderr


def test_as_a_module_of_another_workflow(clone, elsewhere):
    """Twice, with two configs: each has its own study and its own results."""
    (elsewhere / "Snakefile").write_text(
        "".join(
            f'module {name}:\n    snakefile: "{clone}/Snakefile"\n    config: config["{name}"]\n'
            f'    pathvars:\n        results="{name}/results",\n        logs="{name}/logs",\n'
            f"use rule * from {name} as {name}_*\n"
            for name in ("one", "two")
        )
        + "rule mine:\n    default_target: True\n"
        + "    input: rules.one_plan.output, rules.two_plan.output\n",
        encoding="utf-8",
    )
    study = (clone / "config/config.yaml").read_text(encoding="utf-8")
    indented = "".join(f"  {line}\n" for line in study.splitlines())
    both = f"one:\n{indented}\ntwo:\n{indented}"
    both = both.replace("max_length: 512", "max_length: 256", 1)
    (elsewhere / "both.yaml").write_text(both, encoding="utf-8")
    done = run_snakemake(elsewhere, "--configfile", "both.yaml")
    for name, longest in (("one", 256), ("two", 512)):
        planned(elsewhere / name / "results", done)
        receipt = (elsewhere / name / "results/runs/tiny-sft/receipt.json").read_text("utf-8")
        assert f'"max_length": {longest}' in receipt
    again = run_snakemake(elsewhere, "--configfile", "both.yaml", "-n")
    assert "Nothing to be done" in again.stdout or set(jobs(again.stdout)) <= {"mine", "total"}
