"""What is made again, and when: content decides, never a date, a copy, or an idle key."""

import json
import os
import re
import shlex
import shutil
import time
from pathlib import Path

import pytest
import yaml
from support import copy_finished, copy_workflow, gone, jobs, run_snakemake

pytestmark = pytest.mark.slow

NOTHING = "Nothing to be done"


def touch(folder: Path, hours: float = -1) -> None:
    """Every file gets another date, in an order that has nothing to do with how it was made."""
    begun = time.time() + 3600 * hours
    for place, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (begun + place / 100,) * 2)


@pytest.fixture
def copied(demo, tmp_path) -> Path:
    """A fresh clone into which the demo's results were copied, without .snakemake, dates lost."""
    folder = copy_workflow(tmp_path / "clone")
    shutil.copytree(demo.results, folder / "results", symlinks=True, dirs_exist_ok=True)
    touch(folder / "results")
    return folder


def test_touched_results_are_not_made_again(demo):
    """`find results -exec touch` must not cost a training."""
    touch(demo.results)
    assert NOTHING in run_snakemake(demo.folder).stdout


def test_a_clock_that_was_set_back_stops_nothing(copied):
    """Snakemake fails each job whose output is older than its input, by dates that are to come."""
    touch(copied / "results", hours=1)
    (copied / "results/tables/plan.csv").unlink()
    done = run_snakemake(copied)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "was the clock set back?" in done.stdout
    assert set(jobs(done.stdout)) == {"plan", "report", "all", "total"}


def test_touched_locks_and_programs_are_not_news(demo):
    for path in (*demo.folder.glob("envs/*/uv.lock"), *demo.folder.glob("scripts/**/*.py")):
        path.touch()
    assert NOTHING in run_snakemake(demo.folder).stdout


def test_results_copied_into_a_fresh_clone_are_not_made_again(copied):
    assert NOTHING in run_snakemake(copied).stdout


def test_a_moved_clone_has_nothing_to_do(demo, tmp_path):
    moved = copy_finished(demo.folder, tmp_path / "moved")
    assert NOTHING in run_snakemake(moved).stdout


def test_a_copy_follows_the_config_of_today(copied):
    """A label, and a setting that makes scores stale: read from the config, not from the copy."""
    path = copied / "config/config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["models"]["tiny"]["label"] = "Renamed base"
    config["generation"]["max_tokens"] = 97
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    done = run_snakemake(copied, "tables", "--config", "stage=report")
    assert done.returncode == 0, done.stdout[-3000:]
    page = (copied / "results/tables/psychology.md").read_text(encoding="utf-8")
    assert "Renamed base" in page and "generation.max_tokens: 96 → 97" in page


def test_a_finished_training_is_never_done_again(demo, tmp_path):
    """Also without checkpoints, and when Snakemake has deleted what it had put in its place."""
    folder = copy_finished(demo.folder, tmp_path / "again")
    run = folder / "results/runs/tiny-sft"
    before = (run / "training.json").read_bytes()
    shutil.rmtree(run / "checkpoints")
    done = run_snakemake(folder, "results/runs/tiny-sft/training.json", "--forcerun", "train_run")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "trained before" in done.stdout and "loss" not in done.stdout
    assert (run / "training.json").read_bytes() == before
    adapter = json.loads((run / "adapter.json").read_text())
    assert {file["path"] for file in adapter["files"]} <= {
        p.name for p in (run / "adapter").iterdir()
    }


RECORDS = {
    "environments/swift.json": "sync_environment",
    "datasets/psychology/source.json": "fetch_dataset",
    "datasets/psychology/receipt.json": "prepare_dataset",
    "datasets/psychology/contamination.json": "find_contamination",
    "models/tiny/source.json": "fetch_model",
    "models/tiny/tokenizer.json": "native_tokenizer",
    "models/tiny/manifest.json": "native_model",
    "benchmarks/mmlu/manifest.json": "fetch_benchmark",
    "runs/tiny-sft/receipt.json": "tokenize_run",
    "runs/tiny-sft/training.json": "train_run",
    "runs/tiny-sft/adapter.json": "train_run",
    "runs/tiny-sft/checkpoints.json": "keep_checkpoints",
    "dialogue/tiny-sft/curve.json": "measure_curve",
    "runs/tiny-sft/merged.json": "merge_run",
    "runs/tiny-sft/swanlab.json": "track_scores",
    "subjects/tiny/readiness.json": "serve_subject",
    "subjects/tiny-sft/chat.json": "serve_subject",
    "evaluations/tiny/general.json": "evaluate_suite",
    "scores/tiny-sft/mmlu.json": "score_suite",
    "tables/comparison.md": "tables",
    "tables/plan.csv": "plan",
    "figures/loss.zh.svg": "report",
    "report/report.html": "report",
    "runs/tiny-sft/cards/merged/README.md": "cards",
}


@pytest.mark.parametrize("path", RECORDS)
def test_a_deleted_record_is_noticed(demo, path):
    """results/README says that these are made again at the next plain run."""
    with gone(demo.results / path, demo.folder / "aside"):
        planned = run_snakemake(demo.folder, "-n")
    assert RECORDS[path] in jobs(planned.stdout)


@pytest.mark.parametrize(
    ("folder", "rule"),
    [
        ("models/tiny/tokenizer", "native_tokenizer"),
        ("models/tiny/weights", "native_model"),
        ("runs/tiny-sft/adapter", "train_run"),
        ("benchmarks/mmlu/data", "fetch_benchmark"),
    ],
)
def test_a_deleted_folder_is_made_again_when_something_needs_it(demo, folder, rule):
    """Nothing happens until they are needed. Merged weights: test_disk.py."""
    with gone(demo.results / folder, demo.folder / "aside"):
        assert NOTHING in run_snakemake(demo.folder, "-n").stdout
        (needs,) = [n for n, used in USERS.items() if folder in used]
        planned = run_snakemake(demo.folder, "-n", "--forcerun", needs)
    assert rule in jobs(planned.stdout)


USERS = {
    "tokenize_run": ["models/tiny/tokenizer"],
    "train_run": ["models/tiny/weights"],
    "merge_run": ["runs/tiny-sft/adapter"],
    "evaluate_suite": ["benchmarks/mmlu/data"],
}


def test_a_changed_value_is_told_by_its_name(demo):
    planned = run_snakemake(demo.folder, "-n", "--config", "training={learning_rate: 0.007}")
    (reason,) = {
        line
        for line in planned.stdout.splitlines()
        if line.startswith("Reason: Params") and "learning" in line
    }
    assert "training.learning_rate: 0.003" in reason and "training.learning_rate: 0.007" in reason
    assert len(reason) < 400


def test_no_command_line_is_long_or_holds_json(demo, tmp_path):
    """45 prompts of 1,000 Chinese characters ended in `Argument list too long`."""
    more = tmp_path / "more.yaml"
    prompts = [f"{number}" + "睡" * 1000 for number in range(45)]
    study = yaml.safe_load((demo.folder / "config/config.yaml").read_text(encoding="utf-8"))
    more.write_text(json.dumps(study | {"prompts": prompts}), encoding="utf-8")
    planned = run_snakemake(demo.folder, "-n", "-p", "-F", "--configfile", str(more))
    assert planned.returncode == 0, planned.stdout[-3000:]
    commands = re.findall(r"^Shell command: ((?:.|\n)+?)\n\n", planned.stdout, re.M)
    assert len(commands) > 40
    for command in commands:
        assert len(command.encode()) < 2000 and "{" not in command, command
        assert shlex.split(command)


def test_no_rule_has_a_large_file_as_input(demo):
    """Snakemake compares files above 1 MB by date."""
    told = run_snakemake(demo.folder, "--detailed-summary").stdout
    head, *rows = [line.split("\t") for line in told.splitlines() if line.count("\t") > 5]
    column = head.index("input-file(s)")
    names = {name for row in rows for name in row[column].split(",") if name not in ("", "-")}
    assert len(names) > 30
    for path in (demo.folder / name for name in names):
        assert path.is_dir() or path.stat().st_size < 2**20, path


def test_everything_verifies_and_an_edit_is_found(demo):
    told = run_snakemake(demo.folder, "verify")
    assert told.returncode == 0, told.stdout[-3000:]
    assert "runs/tiny-sft/merged.json" in told.stdout
    score = demo.results / "scores/tiny/mmlu.json"
    before = score.read_bytes()
    score.write_bytes(before.replace(b'"n": 40', b'"n": 41', 1))
    try:
        told = run_snakemake(demo.folder, "verify")
        tables = run_snakemake(
            demo.folder, "tables", "--config", "stage=report", "--forcerun", "tables"
        )
    finally:
        score.write_bytes(before)
    assert told.returncode == 1 and "scores/tiny/mmlu.json" in told.stdout
    assert tables.returncode == 1 and "delete it, and it is made again" in tables.stdout
