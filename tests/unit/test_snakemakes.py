"""Snakemake's lock: removed when whoever held it is surely gone, explained when not."""

import os
import subprocess
import sys
import time

import pytest
from sftflow.core import process, snakemakes
from sftflow.core.jsonio import write_json


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(snakemakes.atexit, "register", lambda *_: None)
    return tmp_path


def known(host=None, pid=1, born=0):
    """Somebody who was at work here; by default a process of this host that is no more."""
    host = host or os.uname().nodename
    write_json(snakemakes.KNOWN / f"{host}-{pid}.json", {"host": host, "pid": pid, "born": born})


def locked():
    snakemakes.LOCKS.mkdir(parents=True)
    time.sleep(0.01)
    for kind in ("input", "output"):
        (snakemakes.LOCKS / f"0.{kind}.lock").write_text("results/x\n")


def locks():
    return list(snakemakes.LOCKS.glob("*.lock"))


def test_a_lock_that_a_killed_snakemake_left_is_removed(folder):
    known()
    locked()
    assert "nobody holds it" in snakemakes.enter()
    assert not locks()
    assert snakemakes.enter() is None, "and it is said once"
    assert len(list(snakemakes.KNOWN.glob("*.json"))) == 1, "only this process is known now"


def test_a_lock_of_a_living_snakemake_stays(folder):
    known()  # one was killed before
    other = subprocess.Popen(["sleep", "60"])
    known(pid=other.pid, born=process.born(other.pid))
    locked()
    assert f"another snakemake is at work in this folder: process {other.pid}" in snakemakes.enter()
    assert len(locks()) == 2
    other.kill()
    other.wait()
    assert "nobody holds it" in snakemakes.enter()


def test_a_lock_of_a_living_snakemake_that_nobody_wrote_down_stays(folder):
    """Another workflow in the same folder; told by its command line."""
    (folder / "snakemake").write_text("import time; time.sleep(60)\n")
    other = subprocess.Popen([sys.executable, folder / "snakemake"], cwd=folder)
    try:
        known()
        locked()
        end = time.monotonic() + 10
        while not process.snakemakes_in(folder):
            assert time.monotonic() < end
        assert f"process {other.pid}" in snakemakes.enter()
        assert len(locks()) == 2
    finally:
        other.kill()
        other.wait()


def test_what_another_host_may_hold_is_explained(folder):
    known()
    known(host="elsewhere", pid=7)
    locked()
    assert "on elsewhere (process 7)" in (said := snakemakes.enter()) and "--unlock once" in said
    assert len(locks()) == 2
    for lock in locks():  # as --unlock does
        lock.unlink()
    assert snakemakes.enter() is None
    assert not list(snakemakes.KNOWN.glob("elsewhere*")), "and forgotten then"


def test_a_lock_of_nobody_who_is_known_stays(folder):
    locked()
    known()  # later than the lock
    later = time.time() + 10
    os.utime(snakemakes.KNOWN / f"{os.uname().nodename}-1.json", (later, later))
    assert "not known here" in snakemakes.enter()
    assert len(locks()) == 2
