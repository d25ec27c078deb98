"""The watch over every test's secrets sees a leak: one that sees nothing would hold nothing."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import canaries
import pytest
from sftflow.core import environ, process

LEAK = {"MY_SECRET": "a-secret-of-this-test-3f9a"}  # the shell's own would fail the test itself
SLEEP = "import time; time.sleep(60)"


def test_a_file_with_a_secret_is_named_and_the_secret_is_not(tmp_path):
    log = tmp_path / "logs/train_run/x.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"\xff key=" + LEAK["MY_SECRET"].encode() + b"\n")
    (tmp_path / "harmless.json").write_text("{}", encoding="utf-8")
    assert list(canaries.in_files([tmp_path], 0, LEAK)) == [f"{log} holds MY_SECRET"]
    assert not list(canaries.in_files([tmp_path], time.time() + 60, LEAK)), "written before"


@contextmanager
def running(env, *command):
    child = process.start(command, env)
    try:
        deadline = time.monotonic() + 20
        while not process.descendants(child.pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.2)  # from the guard's copy to the tool itself
        yield
    finally:
        process.stop(child, 1)


def test_a_tool_with_a_secret_is_named(tmp_path):
    tool = tmp_path / "plugin.py"
    tool.write_text(SLEEP, encoding="utf-8")
    with running(environ.for_tools() | LEAK, sys.executable, tool):
        assert list(canaries.in_tools(LEAK)) == ["plugin.py is given MY_SECRET"]
    with running(environ.for_tools(os.environ | LEAK), sys.executable, tool):
        assert not list(canaries.in_tools(LEAK))


def test_what_swanlab_needs_it_alone_is_given(tmp_path):
    track, key = tmp_path / "track.py", {"SWANLAB_API_KEY": LEAK["MY_SECRET"]}
    track.write_text(SLEEP, encoding="utf-8")
    with running(environ.for_tools() | key, sys.executable, track):
        assert not list(canaries.in_tools(key))
        assert list(canaries.in_tools(LEAK)) == ["track.py is given MY_SECRET"]


@pytest.mark.parametrize("told", ["argument", "folder"])
def test_the_folders_of_whatever_a_test_starts_are_looked_through(tmp_path_factory, watch, told):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    leak = "import sys, os; open(os.path.join(sys.argv[1], 'log'), 'w').write(os.environ['S'])"
    where = {"argument": (str(elsewhere), None), "folder": (".", elsewhere)}[told]
    subprocess.run(
        [sys.executable, "-c", leak, where[0]], cwd=where[1], check=True,
        env=os.environ | {"S": canaries.SHELL["MY_SECRET"]},
    )  # fmt: skip
    assert watch.leaked() == [f"{elsewhere}/log holds MY_SECRET"]
    (elsewhere / "log").unlink()
