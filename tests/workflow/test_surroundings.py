"""Wherever it runs: other locales, no home, no terminal, a tight umask, paths that need quotes."""

import os
import shutil
import subprocess
from difflib import unified_diff
from pathlib import Path

import pytest
from support import EVALSCOPE, copy_workflow, run_snakemake

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EVALSCOPE.exists(), reason="envs/evalscope is not synced"),
]

ODD = 'it\'s "a" 演示'


def locale(folder: Path, name: str) -> dict[str, str]:
    """A locale as it is where it is installed: made here, since this machine may not have it."""
    if name == "C":
        return {"LC_ALL": "C"}
    language, charset = name.split(".")
    if not shutil.which("localedef") or not Path("/usr/share/i18n/locales", language).exists():
        pytest.skip("needs Debian's package locales")
    made = ["localedef", "-c", "-i", language, "-f", charset, folder / name]
    subprocess.run(made, capture_output=True)
    return {"LC_ALL": name, "LOCPATH": str(folder)}


@pytest.mark.parametrize("name", ["zh_CN.GBK", "C"])
def test_cheap_jobs_run_anywhere(name, tmp_path):
    """Fetched, prepared, shown: in an odd folder, with nothing that a shell usually has."""
    folder = copy_workflow(tmp_path / ODD)
    scratch = tmp_path / f"tmp {ODD}"
    scratch.mkdir()
    env = {
        "PATH": f"{EVALSCOPE.parent}:{os.environ['PATH']}",  # software: active, nothing to sync
        "TMPDIR": str(scratch),
        **locale(tmp_path, name),
    }
    receipt = "results/datasets/psychology/receipt.json"
    alone = {
        "env": env, "umask": 0o077, "start_new_session": True, "stdin": subprocess.DEVNULL,
        "encoding": "utf-8", "errors": "replace",
    }  # fmt: skip
    for targets in (
        (receipt, "--config", "software=active"),
        ("data", "tables", "report", "--config", "software=active", "stage=report"),
    ):
        done = run_snakemake(folder, *targets, **alone)
        assert done.returncode == 0, done.stdout[-3000:]
    page = (folder / "results/report/report.zh.md").read_text(encoding="utf-8")
    assert "数据" in page
    assert (folder / receipt).stat().st_mode & 0o077 == 0


def test_the_report_is_the_same_in_every_locale(demo, tmp_path):
    """Every table and page of the demo, to the byte; also without a home, in Chinese GBK."""
    folder = copy_workflow(tmp_path / ODD)
    shutil.copytree(demo.results, folder / "results", symlinks=True, dirs_exist_ok=True)
    told = ("--config", "stage=report", "--forcerun")
    planned = run_snakemake(folder, "plan", *told, "plan")  # the demo's is from before its training
    assert planned.returncode == 0, planned.stdout[-3000:]
    before = pages(folder)
    targets = ("plan", "data", "train", "tables", "report")
    done = run_snakemake(
        folder, *targets, *told, *targets,
        env={"PATH": os.environ["PATH"], **locale(tmp_path, "zh_CN.GBK")},
        umask=0o077, stdin=subprocess.DEVNULL, encoding="utf-8", errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    after = pages(folder)
    assert (
        before
        and {
            name: unlike(before[name], after[name])
            for name in before
            if before[name] != after[name]
        }
        == {}
    )


def unlike(before: bytes, after: bytes) -> list[str]:
    """The lines of a page that differ."""
    lines = (text.decode(errors="replace").splitlines() for text in (before, after))
    return [*unified_diff(*lines, n=0, lineterm="")]


def pages(folder: Path) -> dict[str, bytes]:
    found = [*folder.glob("results/tables/*"), *folder.glob("results/report/*.md")]
    return {path.name: path.read_bytes() for path in found}
