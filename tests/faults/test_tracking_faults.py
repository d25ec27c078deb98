"""SwanLab's cloud mode with the real package, against a server of ours that may misbehave."""

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from sftflow.core.jsonio import read_json, write_record
from support import ROOT, SWIFT
from swanlab_server import SwanLab

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced"),
]

KEY, CANARY = "key-canary-77d1", "canary-of-another-secret-51b0"
ID = "0123456789abcdef0123"
# track.py with limits that a test can wait for
IMPATIENT = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from sftflow.training import tracking
tracking.START = tracking.END = 4
from sftflow.core import cli
import track
sys.exit(cli.run(track.main))
"""


@pytest.fixture
def server():
    with SwanLab(KEY) as running:
        yield running
        assert running.unknown == []


def write_events(folder: Path, first: int, last: int, end: bool) -> None:
    with open(folder / "events.jsonl", "a", encoding="utf-8") as file:
        for step in range(first, last + 1):
            event = {
                "event": "step", "step": step, "loss": 2 / step, "learning_rate": 1e-3 * step,
                "tokens": 100, "seconds": 0.5,
            }  # fmt: skip
            file.write(json.dumps(event) + "\n")
        if end:
            check = {"event": "validation", "step": last, "loss": 0.5, "token_accuracy": 0.25}
            file.write(json.dumps(check) + "\n" + json.dumps({"event": "end", "step": last}) + "\n")


LOSSES = [(step, 2 / step) for step in range(1, 21)]


def settings(host: str | None, mode: str = "cloud", **others) -> dict:
    return {
        "mode": mode, "host": host, "project": "talks", "workspace": None, "run": "tuned",
        "id": ID, "config": {"settings": {"learning_rate": 1e-3}}, **others,
    }  # fmt: skip


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SWANLAB")}
    return kept | {"SWANLAB_API_KEY": KEY} | changes


def start(folder: Path, chosen: dict, *arguments, env: dict | None = None) -> subprocess.Popen:
    """track.py in `folder`; its settings, record and log lie there, too."""
    (folder / "settings.json").write_text(json.dumps(chosen))
    return subprocess.Popen(
        [
            SWIFT, "-c", IMPATIENT, *(arguments or ["--events", "events.jsonl"]),
            "--settings", "settings.json", "--output", "swanlab", "--record", "record.json",
        ],
        cwd=folder, env=env or environment(), stdin=subprocess.DEVNULL,
        stdout=open(folder / "log", "a", encoding="utf-8"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def track(folder: Path, chosen: dict, *arguments, env: dict | None = None) -> dict:
    """The record of a track.py that came to its end, as it must whatever happens."""
    (folder / "record.json").unlink(missing_ok=True)
    process = start(folder, chosen, *arguments, env=env)
    assert process.wait(60) == 0, (folder / "log").read_text()[-3000:]
    return read_json(folder / "record.json")


def add_scores(folder: Path, chosen: dict, **scored: float) -> dict:
    """What the job track_scores does, once the training has ended."""
    store = folder / "trainings" / ID[:16]
    store.mkdir(parents=True, exist_ok=True)
    (store / "events.jsonl").write_bytes((folder / "events.jsonl").read_bytes())
    made = {"run": "tuned", "identity": ID, "model": "m", "settings": {}, "choices": {}}
    write_record(folder / "training.json", made)
    for name, value in scored.items():
        write_record(
            folder / f"{name}.json", {"suite": "general", "benchmark": name, "score": value}
        )
    files = [f"{name}.json" for name in scored]
    return track(folder, chosen, "--training", "training.json", "--scores", *files)


def swanlab(folder: Path, command: str) -> str:
    """Run a `swanlab …` command line as a person would who copies it."""
    done = subprocess.run(
        ["bash", "-c", f"{shlex.quote(str(SWIFT.with_name('swanlab')))}{command[7:]}"],
        cwd=folder, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def wait_for_system_metrics(folder: Path) -> None:
    files = lambda: folder.glob("swanlab/run-*/*.swanlab")  # noqa: E731
    wait_for(lambda: any(b"__swanlab__.cpu" in file.read_bytes() for file in files()))
    time.sleep(2)  # their names come first, then their values


def series(server: SwanLab, key: str = "train/loss") -> list[tuple[int, float]]:
    return server.curve(ID, key) if ID in server.experiments else []


def system(server: SwanLab) -> set[str]:
    return {key for key in server.keys(ID) if key.startswith("__swanlab__")}


def test_everything_of_a_training_arrives_while_it_goes_on(server, tmp_path):
    write_events(tmp_path, 1, 10, end=False)
    env = environment(
        SWANLAB_PROBE_MONITOR_INTERVAL="5", http_proxy="http://127.0.0.1:9", no_proxy="example.org"
    )
    process = start(tmp_path, settings(server.host + "/"), env=env)
    wait_for(lambda: series(server) == LOSSES[:10])
    assert server.experiments[ID]["state"] == "RUNNING" and server.experiments[ID]["beats"] == 1
    wait_for(lambda: system(server))
    write_events(tmp_path, 11, 20, end=True)
    assert process.wait(60) == 0
    assert read_json(tmp_path / "record.json")["status"] == "recorded"
    found = server.experiments[ID]
    assert found["project"] == "lab/talks" and found["name"] == "tuned"
    assert found["state"] == "FINISHED"
    assert series(server) == LOSSES
    assert series(server, "train/learning_rate") == [(s, 1e-3 * s) for s in range(1, 21)]
    assert series(server, "train/tokens_per_second") == [(s, 200) for s in range(1, 21)]
    assert series(server, "validation/token_accuracy") == [(20, 0.25)]
    config = found["profile"]["config"]
    assert config["settings"]["value"] == {"learning_rate": 1e-3}
    assert found["profile"]["metadata"]["hardware"]["cpu"]["logical_count"] >= 1
    assert any("cpu" in key for key in system(server))


def test_scores_join_the_experiment_each_value_once(server, tmp_path):
    write_events(tmp_path, 1, 20, end=True)
    track(tmp_path, settings(server.host))
    assert add_scores(tmp_path, settings(server.host), mmlu=0.5)["status"] == "recorded"
    assert series(server, "scores/general/mmlu") == [(21, 0.5)]
    add_scores(tmp_path, settings(server.host), mmlu=0.5, gsm8k=0.25)
    add_scores(tmp_path, settings(server.host), mmlu=0.75, gsm8k=0.25)
    assert series(server, "scores/general/mmlu") == [(21, 0.5), (23, 0.75)]
    assert series(server, "scores/general/gsm8k") == [(22, 0.25)]
    assert series(server) == LOSSES and list(server.experiments) == [ID]
    assert server.experiments[ID]["state"] == "FINISHED"


def test_an_offline_record_is_uploaded_by_swanlab_sync(server, tmp_path):
    """With the system metrics of the machine that trained, though scores were added elsewhere."""
    offline = settings(None, mode="offline")
    write_events(tmp_path, 1, 10, end=False)
    process = start(tmp_path, offline, env=environment(SWANLAB_PROBE_MONITOR_INTERVAL="5"))
    wait_for_system_metrics(tmp_path)
    write_events(tmp_path, 11, 20, end=True)
    assert process.wait(60) == 0
    assert add_scores(tmp_path, offline, mmlu=0.5)["status"] == "recorded"
    assert server.calls == []
    command = f"swanlab sync --id {ID} --host {server.host} swanlab/run-*"
    swanlab(tmp_path, command)
    swanlab(tmp_path, command)
    assert list(server.experiments) == [ID] and server.experiments[ID]["state"] == "FINISHED"
    assert server.experiments[ID]["project"] == "lab/talks"
    assert series(server) == LOSSES, "each once, though it was uploaded twice"
    assert series(server, "scores/general/mmlu") == [(21, 0.5)]
    assert any("cpu" in key for key in system(server))
    assert server.experiments[ID]["profile"]["metadata"]["hardware"]


@pytest.mark.parametrize("mode", ["cloud", "offline"])
def test_a_resumed_training_goes_on_in_the_same_experiment(server, tmp_path, mode):
    """Killed at step 12, resumed from the checkpoint of step 10."""
    write_events(tmp_path, 1, 12, end=False)
    chosen = settings(server.host, mode=mode)
    process = start(tmp_path, chosen)
    if mode == "cloud":
        wait_for(lambda: series(server) == LOSSES[:12])
    else:
        wait_for(lambda: list(tmp_path.glob("swanlab/run-*/files/config.yaml")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    write_events(tmp_path, 11, 20, end=True)
    assert track(tmp_path, chosen)["status"] == "recorded"
    if mode == "offline":
        swanlab(tmp_path, f"swanlab sync --id {ID} --host {server.host} swanlab/run-*")
    assert list(server.experiments) == [ID] and server.experiments[ID]["state"] == "FINISHED"
    assert series(server) == LOSSES
    assert server.experiments[ID]["profile"]["metadata"]["hardware"], "not lost by the second"


def test_a_training_killed_twice_keeps_what_the_first_session_measured(server, tmp_path):
    write_events(tmp_path, 1, 5, end=False)
    offline = settings(None, mode="offline")
    process = start(tmp_path, offline, env=environment(SWANLAB_PROBE_MONITOR_INTERVAL="5"))
    wait_for_system_metrics(tmp_path)
    process.kill()
    process.wait()
    process = start(tmp_path, offline)
    wait_for(lambda: list(tmp_path.glob("swanlab/earlier")))
    wait_for(lambda: list(tmp_path.glob("swanlab/run-*/files/config.yaml")))
    process.kill()
    process.wait()
    write_events(tmp_path, 6, 20, end=True)
    assert track(tmp_path, offline)["status"] == "recorded"
    assert [p.name for p in (tmp_path / "swanlab").glob("*")] == [
        p.name for p in (tmp_path / "swanlab").glob("run-*")
    ]
    swanlab(tmp_path, f"swanlab sync --id {ID} --host {server.host} swanlab/run-*")
    assert series(server) == LOSSES and any("cpu" in key for key in system(server))


def test_a_training_that_fails_is_a_crashed_experiment(server, tmp_path):
    write_events(tmp_path, 1, 5, end=False)
    process = start(tmp_path, settings(server.host))
    wait_for(lambda: series(server) == LOSSES[:5])
    process.terminate()
    process.wait(20)
    assert server.experiments[ID]["state"] == "CRASHED"


def fails(method: str, path: str) -> int:
    return 503


def hangs(method: str, path: str) -> None:
    time.sleep(600)


def is_slow(method: str, path: str) -> None:
    time.sleep(0.3)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda m, p: 401 if "login" in p else None, "refuses the key in SWANLAB_API_KEY"),
        (lambda m, p: 403 if "login" in p else None, "refuses the key in SWANLAB_API_KEY"),
        (lambda m, p: 500 if p.endswith("/experiment") else None, "with status 500"),
        (lambda m, p: 429 if p.endswith("/house/metrics") else None, "with status 429"),
        (lambda m, p: 503 if p.endswith("/house/metrics") else None, "with status 503"),
        (lambda m, p: 500 if p.endswith("/state") else None, "with status 500"),
        (lambda m, p: hangs(m, p) if p.endswith("/experiment") else None, "no answer within 4 s"),
        (
            lambda m, p: hangs(m, p) if p.endswith("/house/metrics") else None,
            "no answer within 4 s",
        ),
        (fails, "with status 503"),
        (hangs, "no answer within 4 s"),
    ],
)
def test_a_bad_server_costs_a_bounded_time_and_nothing_is_lost(server, tmp_path, fault, said):
    """The command that the message gives then uploads every step, once the server is sound."""
    server.fault = fault
    write_events(tmp_path, 1, 20, end=True)
    began = time.monotonic()
    record = track(tmp_path, settings(server.host))
    assert time.monotonic() - began < 20
    assert record["status"] == "kept"
    sentence, command = record["why"].split("; nothing is lost, upload it with: ")
    assert said in sentence and server.host in sentence
    assert KEY not in (tmp_path / "log").read_text()
    server.fault = lambda method, path: None
    swanlab(tmp_path, command)
    assert sorted(set(series(server))) == LOSSES
    assert server.experiments[ID]["state"] == "FINISHED"


def test_nobody_listens(tmp_path):
    with SwanLab(KEY) as gone:
        pass
    write_events(tmp_path, 1, 20, end=True)
    record = track(tmp_path, settings(gone.host))
    assert record["status"] == "kept" and "refused" in record["why"]
    assert list(tmp_path.glob("swanlab/run-*/*.swanlab"))


def test_a_slow_server_gets_everything(server, tmp_path):
    server.fault = is_slow
    write_events(tmp_path, 1, 20, end=True)
    assert track(tmp_path, settings(server.host))["status"] == "recorded"
    assert series(server) == LOSSES


def test_a_server_that_comes_back_gets_everything(server, tmp_path):
    """Lost at the start and there at the end; and lost for a while in the middle."""
    server.fault = fails
    write_events(tmp_path, 1, 10, end=False)
    process = start(tmp_path, settings(server.host))
    wait_for(lambda: "recorded here for now" in (tmp_path / "log").read_text())
    server.fault = lambda method, path: None
    write_events(tmp_path, 11, 20, end=True)
    assert process.wait(60) == 0
    assert read_json(tmp_path / "record.json")["status"] == "recorded"
    assert series(server) == LOSSES
    again = tmp_path / "again"
    again.mkdir()
    server.experiments.clear()
    write_events(again, 1, 10, end=False)
    process = start(again, settings(server.host))
    wait_for(lambda: series(server) == LOSSES[:10])
    server.fault = fails
    write_events(again, 11, 15, end=False)
    time.sleep(4)
    server.fault = lambda method, path: None
    write_events(again, 16, 20, end=True)
    assert process.wait(60) == 0
    assert read_json(again / "record.json")["status"] == "recorded"
    assert series(server) == LOSSES


def test_scores_bring_what_the_training_could_not_upload(server, tmp_path):
    server.fault = fails
    write_events(tmp_path, 1, 20, end=True)
    assert track(tmp_path, settings(server.host))["status"] == "kept"
    server.fault = lambda method, path: None
    assert add_scores(tmp_path, settings(server.host), mmlu=0.5)["status"] == "recorded"
    assert series(server) == LOSSES and series(server, "scores/general/mmlu") == [(21, 0.5)]


def test_a_workspace_that_is_not_there_is_named(server, tmp_path):
    write_events(tmp_path, 1, 20, end=True)
    record = track(tmp_path, settings(server.host, workspace="elsewhere"))
    assert record["status"] == "kept"
    assert "no workspace elsewhere" in record["why"]
    assert "tracking.swanlab.workspace" in record["why"]


@pytest.mark.parametrize("key", ["", f"{KEY} {KEY}"])
def test_without_a_key_nothing_is_asked_and_nobody_waits(server, tmp_path, key):
    """Nor is a key taken from where SwanLab's own login has left one."""
    home = tmp_path / "home" / ".swanlab"
    home.mkdir(parents=True)
    (home / ".netrc").write_text(f"machine {server.host} login {server.host} password {KEY}\n")
    (tmp_path / ".env").write_text(f"SWANLAB_API_KEY={KEY}\n")
    write_events(tmp_path, 1, 20, end=True)
    env = environment(SWANLAB_API_KEY=key, HOME=str(home.parent))
    record = track(tmp_path, settings(server.host), env=env)
    assert record["status"] == "kept" and "SWANLAB_API_KEY" in record["why"]
    assert server.calls == []
    assert KEY not in (tmp_path / "log").read_text()


def test_no_secret_leaves_the_machine(server, tmp_path):
    """Neither one in the environment, nor in the command line's folder, nor in git's remote."""
    folder = tmp_path / f"of-{CANARY}"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", folder], check=True)
    remote = f"https://user:{CANARY}@example.org/x.git"
    subprocess.run(["git", "-C", folder, "remote", "add", "origin", remote], check=True)
    write_events(folder, 1, 20, end=True)
    env = environment(HF_TOKEN=CANARY, MY_PASSWORD=CANARY, SWANLAB_DEBUG="true")
    track(folder, settings(server.host), env=env)
    assert series(server) == LOSSES
    told = "".join(server.bodies)
    assert CANARY not in told and KEY not in told
    assert os.uname().nodename not in told or len(os.uname().nodename) < 4
    holders = [p for p in folder.glob("swanlab/**/*") if p.is_file()]
    assert holders and not [p for p in holders if KEY.encode() in p.read_bytes()]
    assert KEY not in (folder / "log").read_text() + (folder / "record.json").read_text()
