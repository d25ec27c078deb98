"""One worker for one thing, on one host and on many; a dead one keeps nothing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from sftflow.core import worker
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json, write_json

HOLDER = """
import subprocess, sys, time
sys.path.insert(0, {scripts!r})
from pathlib import Path
from sftflow.core import process, worker
with worker.alone("the training", Path({lock!r})):
    if {tool!r}:  # one that writes on for a while, as a tool that is being ended may
        process.start([sys.executable, "-c", {tool!r}])
        time.sleep(1)
    print("holds", flush=True)
    time.sleep(300)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"


@pytest.fixture
def held(tmp_path):
    """Start another process that holds a lock: (its Popen, the lock)."""
    lock, started = tmp_path / "run" / worker.WORKER, []
    scripts = os.path.dirname(os.path.dirname(os.path.dirname(worker.__file__)))

    def start(tool="", env=()):
        code = HOLDER.format(scripts=scripts, lock=str(lock), tool=tool)
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                env=os.environ | dict(env),
            )
        )  # fmt: skip
        assert started[-1].stdout.readline() == "holds\n"
        return started[-1], lock

    yield start
    for each in started:
        each.kill()
        each.wait()


def kill(other):
    other.send_signal(signal.SIGKILL)
    other.wait()


def test_a_second_worker_names_the_first(held, capsys):
    other, lock = held(env={"SLURM_JOB_ID": "42"})
    with pytest.raises(UserError) as error, worker.alone("the training", lock, patience=0.3):
        pass
    assert f"process {other.pid} on {os.uname().nodename}" in str(error.value)
    assert "Slurm job 42" in str(error.value)
    assert "is at work on the training" in str(error.value)
    assert "waiting for the training: process" in capsys.readouterr().out


def test_a_second_worker_waits_for_a_first_that_ends(tmp_path):
    lock, done = tmp_path / "lock", []

    def second():
        with worker.alone("it", lock):
            done.append(time.monotonic())

    with worker.alone("it", lock):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        assert not done
    waiting.join(5)
    assert done and list(tmp_path.iterdir()) == [], "nothing lies about"


def test_a_killed_holder_on_this_host_is_taken_over_at_once(held, capsys):
    other, lock = held()
    kill(other)
    begun = time.monotonic()
    with worker.alone("the training", lock, patience=1):
        assert time.monotonic() - begun < 1
        assert read_json(lock.with_name(f"{lock.name}.holder"))["pid"] == os.getpid()
    assert f"process {other.pid} on" in (said := capsys.readouterr().out)
    assert "is gone, this job takes over" in said


@pytest.mark.slow
def test_what_a_killed_holder_started_has_ended_before_the_next_begins(held):
    other, lock = held(tool=DEAF)
    kill(other)
    with worker.alone("the training", lock):
        assert worker.process.left_by(other.pid) == []


def test_another_process_by_the_same_number_is_not_the_holder(held):
    """A number is used again: what counts is when the process started."""
    other, lock = held()
    marker = lock.read_text()
    kill(other)
    lock.write_text(marker.replace(str(other.pid), str(os.getpid()), 1))
    with worker.alone("the training", lock, patience=1):
        pass


@pytest.mark.slow
def test_a_holder_on_another_host_counts_until_it_is_silent(held, monkeypatch, capsys):
    monkeypatch.setattr(worker, "LEASE", 2.0)
    other, lock = held()
    marker = lock.read_text()
    kill(other)
    lock.write_text(marker.replace(os.uname().nodename, "elsewhere").replace("120.0", "2.0"))
    write_json(
        lock.with_name(f"{lock.name}.holder"),
        {"user": "u", "host": "elsewhere", "pid": 7, "job": None, "since": "then"},
    )

    def touched():
        for _ in range(10):
            time.sleep(0.2)
            os.utime(lock)

    alive = threading.Thread(target=touched)
    alive.start()
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        with worker.alone("the training", lock, patience=-0.5):
            pass
    alive.join()
    with worker.alone("the training", lock):
        pass


def test_who_has_lost_its_lock_ends(tmp_path, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(worker, "LEASE", 0.5)
    monkeypatch.setattr(worker.os, "kill", lambda pid, number: ended.set())
    with worker.alone("it", tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        assert ended.wait(5)


@pytest.mark.slow
def test_a_file_system_that_numbers_a_file_anew_takes_no_lock_away(tmp_path, monkeypatch):
    """Seen in a sandbox: after minutes another inode, the same file; a job was ended by mistake."""
    monkeypatch.setattr(worker, "LEASE", 0.6)
    lock, told = tmp_path / "lock", []
    monkeypatch.setattr(os, "kill", lambda *told_: told.append(told_))
    with worker.alone("it", lock):
        other = lock.with_name("copy")
        other.write_bytes(lock.read_bytes())
        other.replace(lock)
        for _ in range(10):
            time.sleep(0.2)
            assert time.time() - lock.stat().st_mtime < 0.6, "it is touched no more"
        assert not told
        lock.unlink()
        time.sleep(0.5)
        assert told, "a lock that is gone is lost"
