"""What a report tells people to type: bash reads it, our programs take it, the files are ours."""

import argparse
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from sftflow.config import resolve
from sftflow.core.layout import PATHS, every
from sftflow.reporting import commands
from support import EVALSCOPE, ROOT, SWIFT

STEPS = (
    "environment", "train", "train by hand", "watch", "merge", "merge by hand", "sync", "chat",
    "deploy", "deploy adapter", "health", "side by side", "evaluate", "evaluate by hand",
)  # fmt: skip


@pytest.fixture(scope="module")
def steps() -> dict[str, str]:
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    record = {"tiny-sft": {"swanlab": {"id": "0123456789"}}}
    return commands.by_step(resolve.load(raw), record)


def lines(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


def test_every_step_has_its_commands_and_bash_reads_them(steps):
    assert tuple(steps) == STEPS
    for text in steps.values():
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert "/tmp" not in text and str(Path.home()) not in text


def test_targets_are_outputs_of_the_workflow(steps):
    patterns = {f"results/{every(getattr(PATHS, field))}" for field in PATHS.__dataclass_fields__}
    for text in steps.values():
        for words in lines(text):
            if "snakemake" in words:
                for target in words[words.index("--") + 1 :]:
                    assert any(Path(target).match(pattern) for pattern in patterns), target


class Taken(Exception):
    """A program has taken its arguments."""


def test_programs_take_their_arguments(steps, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def taken(parser, *more):
        raise Taken(parse(parser, *more))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", taken)
    for step in ("chat", "deploy", "deploy adapter"):
        (words,) = lines(steps[step])
        assert words[:3] == ["uv", "run", "python"]
        monkeypatch.setattr("sys.argv", words[3:])
        with pytest.raises(Taken):
            importlib.import_module(Path(words[3]).stem).main()


@pytest.mark.parametrize(
    ("step", "python", "parse"),
    [
        (
            "evaluate by hand",
            EVALSCOPE,
            "import argparse, sys; from evalscope.arguments import add_argument as add;"
            "p = argparse.ArgumentParser(); add(p); p.parse_args(sys.argv[2:])",
        ),
        (
            "sync",
            SWIFT,
            "import sys; from swanlab.cli import cli; c = cli.commands['sync'];"
            "c.make_context('sync', sys.argv[2:])",
        ),
    ],
)
@pytest.mark.slow
def test_tools_take_their_arguments(steps, step, python, parse, tmp_path):
    if not python.exists():
        pytest.skip(f"needs {python}")
    (words,) = lines(steps[step])
    words = [str(tmp_path) if word.endswith("run-*") else word for word in words]
    done = subprocess.run([python, "-c", parse, *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_paths_of_a_machine_are_taken_out_of_the_file_of_a_training():
    text = yaml.safe_dump(
        {
            "dataset": ["/home/me/it's a 演示/results/runs/a/train.jsonl"],
            "model": "/data/x/results/models/m/weights", "seed": 1, "other": "/opt/mine",
            "external_plugins": ["/home/me/sftflow/scripts/sftflow/training/plugin.py"],
        }
    )  # fmt: skip
    assert yaml.safe_load(commands.without_host(text)) == {
        "dataset": ["results/runs/a/train.jsonl"],
        "model": "results/models/m/weights",
        "seed": 1,
        "other": "/opt/mine",
        "external_plugins": ["scripts/sftflow/training/plugin.py"],
    }


def test_who_trains_nothing_is_told_nothing_of_training():
    study = resolve.load({"models": {"base": {"source": "org/base"}}, "benchmarks": {"gsm8k": {}},
                          "suites": {"general": ["gsm8k"]}})  # fmt: skip
    steps = commands.by_step(study, {})
    assert {"chat", "deploy", "evaluate"} <= set(steps) and "train" not in steps
    assert not re.search("adapter|merge", " ".join(steps))
