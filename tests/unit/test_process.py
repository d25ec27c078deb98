"""No tool outlives its job, however the job ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
from sftflow.core import process

# A tool that ignores TERM if asked to, with a worker of its own that left the process group.
TOOL = """
import os, signal, subprocess, sys, time
if "deaf" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker = subprocess.Popen(["sleep", "300"], start_new_session=True)
print("started", os.getpid(), worker.pid, flush=True)
time.sleep(300)
"""


# A program to which a second signal comes at each line of what it does about the first one.
INTERRUPTED = """
import signal, sys
from sftflow.core import process
told = process._heard([signal.SIGTERM, signal.SIGINT])
def once_more(*_):
    signal.raise_signal(signal.SIGINT)
    return once_more
sys.settrace(once_more)
signal.raise_signal(signal.SIGTERM)
sys.settrace(None)
print(signal.SIGTERM in told, told.count(signal.SIGINT) > 0)
"""


def alive(pid):
    return process._stat(pid) is not None


def wait_for(condition, seconds=15.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("not within the time allowed")


def pids(log):
    def read():
        words = log.read_text().split() if log.exists() else []
        return [int(word) for word in words[1:3]] if len(words) >= 3 else None

    return wait_for(read)


@pytest.mark.parametrize("manner", ["polite", pytest.param("deaf", marks=pytest.mark.slow)])
def test_stop_ends_the_tool_and_its_workers(tmp_path, manner):
    log = tmp_path / "log"
    tool = process.start([sys.executable, "-c", TOOL, manner], log=log)
    started = pids(log)
    begun = time.monotonic()
    process.stop(tool, grace=1)
    assert time.monotonic() - begun < 5
    assert not any(alive(pid) for pid in [tool.pid, *started])


def test_a_signal_that_comes_during_another_ends_a_guard_all_the_same():
    """Ctrl-C tells a guard several times at once; of two within microseconds each waited for the
    other, and the guard stayed for ever."""
    scripts = {"PYTHONPATH": os.path.dirname(os.path.dirname(os.path.dirname(process.__file__)))}
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env=os.environ | scripts, capture_output=True,
        text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.stdout == "True True\n", done.stderr


def test_status_and_output_are_the_tools(tmp_path):
    log = tmp_path / "log"
    assert process.start(["sh", "-c", "echo out; echo err >&2; exit 7"], log=log).wait() == 7
    assert log.read_text() == "out\nerr\n"
    assert process.start(["sh", "-c", "kill -9 $$"], log=log).wait() == 128 + signal.SIGKILL
    assert process.start(["/does/not/exist"], log=log).wait() == 127
    assert "cannot start /does/not/exist" in log.read_text()


JOB = """
import sys, time
sys.path.insert(0, {scripts!r})
from sftflow.core import process
process.follow_snakemake()
process.start([sys.executable, "-c", {tool!r}, "deaf"], log={log!r})
time.sleep(300)
"""


def job(tmp_path, scripts):
    log = tmp_path / "log"
    return log, JOB.format(scripts=str(scripts), tool=TOOL, log=str(log))


@pytest.fixture
def scripts():
    return os.path.dirname(os.path.dirname(os.path.dirname(process.__file__)))


@pytest.mark.slow
def test_nothing_is_left_when_the_job_is_killed(tmp_path, scripts):
    log, code = job(tmp_path, scripts)
    killed = subprocess.Popen([sys.executable, "-c", code])
    started = pids(log)
    killed.kill()
    killed.wait()
    wait_for(lambda: not any(alive(pid) for pid in started))


def test_nothing_is_left_when_the_guard_is_killed(tmp_path):
    log = tmp_path / "log"
    guard = process.start([sys.executable, "-c", TOOL, "deaf"], log=log)
    tool, worker = pids(log)
    guard.kill()
    guard.wait()
    wait_for(lambda: not alive(tool))
    os.kill(worker, signal.SIGKILL)  # left the group and lost both: nobody can know it


@pytest.mark.slow
def test_nothing_is_left_when_snakemake_is_killed(tmp_path, scripts):
    log, code = job(tmp_path, scripts)
    (tmp_path / "job.py").write_text(code)
    snakemake = tmp_path / "snakemake"  # a shell by that name, with a shell between it and the job
    snakemake.write_text(f"bash -c '{sys.executable} {tmp_path}/job.py; true' 2>/dev/null\n")
    top = subprocess.Popen(["bash", snakemake])
    started = pids(log)
    below = process.descendants(top.pid)
    assert set(started) <= set(below)
    top.kill()
    top.wait()
    wait_for(lambda: not any(alive(pid) for pid in below if pid != below[0]))


def test_tail(tmp_path):
    log = tmp_path / "log"
    assert process.tail(log) == ""
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert process.tail(log, 2) == "line 98\nline 99"


POOL = """
import multiprocessing, os, sys, time
sys.path.insert(0, {scripts!r})
from sftflow.core import process
pool = multiprocessing.get_context("fork").Pool(2, process.die_with_parent)
print(*(worker.pid for worker in pool._pool), flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_done_beside_comes_in_order_and_fails_where_it_is_waited_for(workers):
    """A report whose figures fail must fail, and none shows another language's."""
    with process.beside(lambda number: 6 // number, [1, 2, 3], workers) as done:
        assert done() == [6, 3, 2]
    with process.beside(lambda number: 6 // number, [0], workers) as done:
        with pytest.raises(ZeroDivisionError):
            done()


def test_workers_of_a_pool_die_with_their_parent(scripts):
    parent = subprocess.Popen(
        [sys.executable, "-c", POOL.format(scripts=scripts)], stdout=subprocess.PIPE, text=True
    )
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(alive, workers))
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(alive, workers)))


LATE = """
import os, sys, time
sys.path.insert(0, {scripts!r})
time.sleep(float(sys.argv[1]))  # as importing torch takes
from sftflow.core import cli
print("began", os.getpid(), flush=True)
cli.run(lambda: time.sleep(300))
"""


@pytest.mark.slow
def test_a_job_whose_snakemake_went_while_it_started_ends(scripts):
    """It has no snakemake above it any more, and would run for ever."""
    code = LATE.format(scripts=scripts)
    top = subprocess.Popen(
        [
            sys.executable, "-c",
            f"import sys; sys.path.insert(0, {scripts!r})\n"
            "import subprocess; from sftflow.core import process; process.lead()\n"
            f"job = subprocess.Popen([sys.executable, '-c', {code!r}, '1'])\n"
            "print(job.pid, flush=True); job.wait()",
        ],
        stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    job = int(top.stdout.readline())
    top.kill()
    top.wait()
    assert alive(job)
    assert top.stdout.readline() == f"began {job}\n"
    wait_for(lambda: not alive(job))


TOP = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's `&` has switched off
sys.path.insert(0, {scripts!r})
from sftflow.core import process
process.lead()
process.end_jobs_when_told(lambda: print("short", flush=True))
job = subprocess.Popen([sys.executable, "-c", {job!r}])
try:
    job.wait()
except KeyboardInterrupt:
    while True:
        try:
            sys.exit(job.wait())
        except KeyboardInterrupt:
            print("again", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", process.END)
@pytest.mark.parametrize("deaf", [False, True])
def test_a_snakemake_that_is_told_to_end_ends_its_jobs(tmp_path, scripts, number, deaf):
    log, code = job(tmp_path, scripts)
    if deaf:  # the job itself does not listen: a second time means now
        code = code.replace("time.sleep(300)\n", "import signal\nsignal.signal(15, lambda *_: 0)\n")
        code += "while True: time.sleep(1)\n"
    top = subprocess.Popen(
        [sys.executable, "-c", TOP.format(scripts=scripts, job=code)],
        stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started = pids(log)
    top.send_signal(number)
    assert top.stdout.readline() == "short\n"
    if deaf:
        time.sleep(0.5)
        assert top.poll() is None
        top.send_signal(number)
    assert top.wait(15) != 0
    wait_for(lambda: not any(map(alive, started)))
    assert "again" not in top.stdout.read()
