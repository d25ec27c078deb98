"""What the page docs/accepted/tracking.md says of SwanLab, held against the code."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import track
import yaml
from sftflow.config import resolve
from sftflow.config.schema import schema
from sftflow.training import tracking
from support import ROOT

PAGE = (ROOT / "docs/accepted/tracking.md").read_text(encoding="utf-8")
RAW = {
    "models": {"base": {"source": "a/b"}},
    "datasets": {"talk": {"source": "a/c"}},
    "runs": {"tuned": {"model": "base", "dataset": "talk"}},
}


def table(title: str) -> list[list[str]]:
    """The rows of the table below a heading, cells without back-ticks."""
    part = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| (.+) \|$", part, re.MULTILINE)[2:]
    assert lines
    return [[cell.replace("`", "").strip() for cell in line.split(" | ")] for line in lines]


def test_every_mode_has_a_row():
    swanlab = schema()["properties"]["tracking"]["properties"]["swanlab"]["properties"]
    assert [mode for mode, *_ in table("Modes")] == swanlab["mode"]["enum"]


def test_what_is_sent_is_named():
    step = {"event": "step", "loss": 2.0, "learning_rate": 1e-4, "tokens": 100, "seconds": 0.5}
    check = {"event": "validation", "loss": 1.0, "token_accuracy": 0.5}
    named = ", ".join(cell for cell, _ in table("What is sent")[:2]).split(", ")
    assert named == [*track.metrics(step), *track.metrics(check)]


@pytest.mark.parametrize(("config", "error"), table("What is refused before anything starts"))
def test_what_is_refused_is_refused(config, error, monkeypatch):
    text, _, without = config.partition(" without ")
    monkeypatch.setenv("SWANLAB_API_KEY", "a-key")
    if without:
        monkeypatch.delenv(without)
    raw = RAW | {"tracking": {"swanlab": yaml.safe_load(text)}}
    lines = [line for line in resolve.check(raw, here=True) if line.startswith("tracking.")]
    assert len(lines) == 1 and error in lines[0]
    assert "secret@" not in lines[0]


def test_a_key_is_not_needed_where_nothing_is_uploaded(monkeypatch):
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    cloud = {"tracking": {"swanlab": {"mode": "cloud"}}}
    offline = RAW | {"tracking": {"swanlab": {"mode": "offline"}}}
    for raw in (cloud, offline, RAW | cloud | {"stage": "report"}):
        assert not [line for line in resolve.check(raw, here=True) if "SWANLAB" in line]


@pytest.mark.parametrize(("server", "said"), table("What is said when a server gives trouble"))
def test_trouble_is_said_as_the_page_says(server, said):
    found = re.fullmatch(r"(\d{3}) (\w+) (/.+)", server)
    status, method, path = found.groups() if found else (None, "POST", "/login/api_key")
    error = OSError(f"HTTPSConnectionPool(host='x'): ({server!r})")
    asked = (method, f"/api{path}")
    assert tracking.reason(asked, int(status) if status else None, error) == said


def test_limits_are_those_of_the_page():
    assert f"has {tracking.START} s to open" in PAGE and f"and {tracking.END} s for" in PAGE


@pytest.mark.parametrize(
    ("host", "exported", "server"),
    [
        (None, None, "https://api.swanlab.cn"),
        (None, "http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("http://lab.example.org/", "http://10.0.0.5:8000", "http://lab.example.org"),
    ],
)
def test_the_server_is_the_configs_then_the_environments_then_swanlabs(
    monkeypatch, host, exported, server
):
    """A company's data must not go to the public cloud because a key of the config is left out."""
    monkeypatch.delenv("SWANLAB_API_HOST", raising=False)
    if exported:
        monkeypatch.setenv("SWANLAB_API_HOST", exported)
    assert tracking.address(host) == server


@pytest.mark.parametrize(
    ("server", "direct"),
    [
        ("http://localhost:1", True), ("http://127.0.0.1:1", True), ("http://10.0.0.5:1", True),
        ("http://192.168.1.2", True), ("https://api.swanlab.cn", False), ("https://8.8.8.8", False),
    ],
)  # fmt: skip
def test_a_server_nearby_is_asked_without_the_proxy(monkeypatch, server, direct):
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "example.org")
    tracking.without_proxy(server)
    names = os.environ["no_proxy"].split(",")
    assert names[0] == "example.org" and (len(names) == 2) == direct


@pytest.mark.parametrize("key", [None, "", "two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cant_be_sent_is_refused_unseen(key):
    """HTTP libraries quote it in their error."""
    why = tracking.bad_key(key)
    assert "SWANLAB_API_KEY" in why and (not key or key not in why)
    assert tracking.bad_key("abcDEF0123") is None


def test_a_limit_ends_what_catches_every_exception():
    began = time.monotonic()
    with pytest.raises(tracking.TimeLimit), tracking.within(0.1):
        while True:
            try:
                time.sleep(5)
            except Exception:
                continue
    assert time.monotonic() - began < 2
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_command_names_experiment_server_and_folder():
    told = tracking.command({"id": "abc", "host": "http://h:1"}, Path("results/runs/r/swanlab"))
    assert told == "swanlab sync --id abc --host http://h:1 results/runs/r/swanlab/run-*"
    plain = tracking.command({"id": "abc", "host": None}, Path("my results"), every_step=True)
    assert plain == "swanlab sync --id abc --start-step 0 'my results'/run-*"


def test_a_thread_of_swanlab_does_not_hold_the_training(tmp_path: Path):
    """One that never ends kept the program, and a training with its GPU, for 80 s."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, threading, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
    )
    (tmp_path / "events.jsonl").write_text("")
    command = [sys.executable, ROOT / "scripts/track.py", "--settings", '{"mode": "disabled"}']
    command += ["--events", tmp_path / "events.jsonl", "--output", tmp_path / "swanlab"]
    command += ["--record", tmp_path / "tracked.json"]
    subprocess.run(command, check=True, timeout=30, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (tmp_path / "tracked.json").exists()
