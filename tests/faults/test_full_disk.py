"""A disk that is full, in stages that write much: one sentence, and it goes on when there is room.

A real one: a small file system in memory, which needs root.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sftflow.config import jobs, resolve
from sftflow.core.jsonio import read_json, write_jsonl
from support import EVALSCOPE, ROOT, SWIFT

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SWIFT.exists() and EVALSCOPE.exists()), reason="needs both tools"),
]


class Disk:
    """A small disk, of which others may take all but some bytes."""

    def __init__(self, folder: Path):
        self.folder = folder

    @contextlib.contextmanager
    def full(self, but: int = 0) -> Iterator[None]:
        free = shutil.disk_usage(self.folder).free
        filler = self.folder / "others"
        filler.write_bytes(b"\0" * max(0, free - but))
        try:
            yield
        finally:
            filler.unlink()


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Disk]:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder])
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Disk]:
    with mounted(tmp_path_factory.mktemp("disk"), "24m") as found:
        yield found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run([SWIFT, HERE / "training_tiny.py", folder], check=True, capture_output=True)
    return folder


def program(python: Path, name: str, *arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, ROOT / "scripts" / name, *arguments],
        capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def says_so(status: int, said: str) -> None:
    """One sentence, as the last line; what ms-swift itself said is above it."""
    last = said.strip().splitlines()[-1]
    assert status == 1, said[-2000:]
    assert last.startswith("error: ") and "make room (`snakemake usage` says" in last, last


def fails(command: tuple) -> None:
    done = program(*command)
    says_so(done.returncode, done.stderr)


def test_data(disk, tmp_path):
    """Fetching and preparing: nothing half is left, and the next try is whole."""
    source, out = tmp_path / "rows.jsonl", disk.folder / "datasets/d"
    rows = [
        [{"from": "human", "value": f"{n}" + "夜" * 400}, {"from": "gpt", "value": "睡" * 400}]
        for n in range(400)
    ]
    write_jsonl(source, ({"conversations": turns} for turns in rows))
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    raw["datasets"]["psychology"]["source"] = str(source)
    study = resolve.load(raw)

    def told(rule: str) -> str:
        return json.dumps(jobs.settings(study, rule, "psychology"))

    fetch = (
        EVALSCOPE, "fetch_dataset.py", "--dataset", "d", "--settings", told("fetch_dataset"),
        "--output", out / "source.json",
    )  # fmt: skip
    with disk.full():
        fails(fetch)
    done = program(*fetch)
    assert done.returncode == 0, done.stderr
    prepare = (
        EVALSCOPE, "prepare_dataset.py", "--dataset", "d", "--settings", told("prepare_dataset"),
        "--source", out / "source.json", "--train", out / "train.jsonl",
        "--validation", out / "validation.jsonl", "--receipt", out / "receipt.json",
    )  # fmt: skip
    with disk.full(but=100_000):
        fails(prepare)
    assert not (out / "train.jsonl").exists() and not (out / "receipt.json").exists()
    done = program(*prepare)
    assert done.returncode == 0, done.stderr
    assert read_json(out / "receipt.json")["train_rows"] > 0


def test_training_and_merging(disk, tiny):
    from test_training_faults import settings

    out = disk.folder / "runs/tiny"
    out.mkdir(parents=True)
    train = (
        SWIFT, "train.py", "--receipt", tiny / "receipt.json", "--manifest", tiny / "manifest.json",
        "--settings", json.dumps(settings()), "--output", out,
    )  # fmt: skip
    with disk.full(but=350_000):  # some checkpoints find room
        fails(train)
    done = program(*train)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "goes on from step" in done.stdout
    chosen = {"run": "tiny", "training": {"torch_dtype": "float32", "device": "cpu"},
              "model": {"model_type": "llama", "template": "chatml"}}  # fmt: skip
    merge = (
        SWIFT, "merge.py", "--adapter", out / "adapter.json", "--manifest", tiny / "manifest.json",
        "--settings", json.dumps(chosen), "--output", out,
    )  # fmt: skip
    with disk.full(but=50_000):
        fails(merge)
    assert not (out / "merged").exists() and not (out / "merged.json").exists()
    done = program(*merge)
    assert done.returncode == 0, done.stderr[-2000:]


def test_serving_and_asking(disk, tmp_path):
    """No readiness that is half; no answer that was given is lost, or asked again."""
    from test_one_session import ALL, OneSession

    (disk.folder / "case").mkdir()
    case = OneSession(disk.folder / "case")
    case.log = tmp_path / "questions"
    case.stub["log"] = str(case.log)
    serve = case.to_serve()
    with disk.full():
        says_so(*case.finish(serve))
    assert not case.marker.exists()
    with disk.full(but=40_000):  # readiness finds room, and some answers
        status, said = case.finish(serve)
    assert status == 0 and case.marker.exists(), said
    assert "no more is asked here: " in said and "make room (`snakemake usage` says" in said
    kept, asked = case.answered(), len(case.asked())
    assert 0 < len(kept) < ALL
    for command in case.jobs()[:3]:
        with disk.full(but=8_000):
            says_so(*case.finish(command))
    assert kept <= case.answered()
    for command in case.jobs():
        status, said = case.finish(command)
        assert status == 0, said
    assert len(case.answered()) == ALL and not kept & set(case.asked()[asked:])
