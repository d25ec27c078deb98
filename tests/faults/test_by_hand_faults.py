"""chat.py and deploy.py as a person starts them, on the demo's model behind ms-swift's server."""

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import environment
import pytest
import yaml
from sftflow.config import resolve
from sftflow.core import process
from sftflow.core.jsonio import tree_digest, tree_files, write_json, write_record
from support import EVALSCOPE, ROOT, SWIFT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (EVALSCOPE.exists() and SWIFT.exists()), reason="needs both envs"),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A folder whose results/ hold what the demo makes before anything is served."""
    folder = tmp_path_factory.mktemp("by hand")
    results = folder / "results"
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    with contextlib.chdir(folder):  # sources of the demo are found in the checkout, too
        write_json(results / "study.json", resolve.load(config))
    for manifest, weights in (
        ("models/tiny/manifest.json", "models/tiny/weights"),
        ("runs/tiny-sft/merged.json", "runs/tiny-sft/merged"),
    ):
        shutil.copytree(ROOT / "config/demo/model", results / weights)
        files = tree_files(results / weights)
        write_record(results / manifest, {"files": files, "digest": tree_digest(files)})
    record = {"env": "swift", "software": "managed", "lock": None, **environment.inspect(SWIFT)}
    write_record(results / "environments/swift.json", record)
    return folder


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / program), *arguments]


def run(study: Path, program: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(program, *arguments), cwd=study, capture_output=True, text=True, timeout=180,
        **options,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


def gone(pids: list[int]) -> None:
    end = time.monotonic() + 15
    while any(process._stat(pid) for pid in pids):
        assert time.monotonic() < end, "a process is left"
        time.sleep(0.1)


def test_deployed_for_others_until_told_to_end(study):
    """What is printed works as printed, a wrong key opens nothing, and TERM leaves no process."""
    port = free_port()
    before = tree_files(study / "results")
    with open(study / "told", "w+", encoding="utf-8") as told:
        job = subprocess.Popen(
            command("deploy.py", "tiny-sft", "--port", str(port)),
            cwd=study,
            stdout=told,
            stderr=told,
        )
        try:
            end = time.monotonic() + 120
            while "It stays up" not in (text := (study / "told").read_text()):
                assert job.poll() is None and time.monotonic() < end, text
                time.sleep(0.2)
            pids = process.descendants(job.pid)
            assert "verified" in text and "as results/runs/tiny-sft/merged.json lists" in text
            assert "chatml" in text and "transformers 5" in text and "not recorded" in text
            [key] = re.findall(r"export DEPLOY_KEY=(\S+)", text)
            assert text.count(key) == 1

            shell = text[text.index("export DEPLOY_KEY") : text.index("It stays up")]
            done = subprocess.run(
                ["bash", "-ec", shell], capture_output=True, text=True, timeout=60
            )
            assert "200 OK" in done.stdout and '"id":"tiny-sft"' in done.stdout, done
            assert '"object":"chat.completion"' in done.stdout and '"content":' in done.stdout

            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/chat/completions", data=b"{}",
                headers={"Authorization": f"Bearer {key[:-1]}?"},
            )  # fmt: skip
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
            assert refused.value.code == 401

            second = run(study, "deploy.py", "tiny", "--port", str(port))
            assert second.returncode == 1 and "Traceback" not in second.stderr
            named = re.search(rf"port {port} .* is taken: (\d+) is free", second.stderr)
            assert named and int(named[1]) > port

            log = (study / "logs/deploy/tiny-sft.log").read_text()
            assert key not in log and "你好" not in log
        finally:
            job.send_signal(signal.SIGTERM)
            status = job.wait(30)
    assert status == 128 + signal.SIGTERM
    gone(pids)
    after = [f for f in tree_files(study / "results") if ".verified." not in f["path"]]
    assert after == [f for f in before if ".verified." not in f["path"]]


def test_a_deployed_server_that_dies_ends_the_program_with_its_log(study):
    with open(study / "told", "w+", encoding="utf-8") as told:
        job = subprocess.Popen(
            command("deploy.py", "tiny", "--port", str(free_port()), "--key-env", "MINE"),
            cwd=study, stdout=told, stderr=told, env=os.environ | {"MINE": "correct-horse-battery"},
        )  # fmt: skip
        end = time.monotonic() + 120
        while "It stays up" not in (text := (study / "told").read_text()):
            assert job.poll() is None and time.monotonic() < end, text
            time.sleep(0.2)
        assert "correct-horse-battery" not in text and "$MINE" in text
        for pid in process.descendants(job.pid):
            if b"swift_deploy.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        assert job.wait(30) == 1
    assert "the server ended" in (study / "told").read_text()


def test_lines_from_a_pipe_are_answered_with_a_history_each(study):
    done = run(
        study, "chat.py", "tiny", "tiny-sft", "--max-tokens", "12",
        input="你好\n再说一次\n/reset\n你好\n/nonsense\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [_, *turns] = done.stdout.split("\n> ")
    assert [turn.splitlines()[0] for turn in turns] == [
        "你好", "再说一次", "/reset", "你好", "/nonsense",
    ]  # fmt: skip
    assert turns[0].partition("\n")[2] == turns[3].partition("\n")[2]  # begun anew
    assert re.search(r"tiny:\n\S.*\ntiny-sft:\n\S", turns[0])
    assert "/nonsense is no command" in turns[4]


def test_at_a_terminal_two_answers_stand_side_by_side(study):
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "100", "LINES": "30", "TERM": "xterm"}
    job = subprocess.Popen(
        command("chat.py", "tiny", "tiny-sft", "--max-tokens", "24"),
        cwd=study, stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)

    def until(*words: str) -> str:
        seen, end = b"", time.monotonic() + 120
        while not all(word.encode() in seen for word in words):
            assert time.monotonic() < end and job.poll() is None, seen.decode(errors="replace")
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 65536)
        return seen.decode(errors="replace")

    until("/exit ends", "> ")
    os.write(ours, "你好\n".encode())
    seen = until("─┼─", "> ")
    assert re.search(r"tiny +│ tiny-sft", seen)
    pids = process.descendants(job.pid)
    assert len(pids) >= 4
    os.write(ours, b"/exit\n")
    with contextlib.suppress(OSError):  # the terminal closes with the program
        while os.read(ours, 65536):
            pass
    assert job.wait(30) == 0
    gone(pids)


def test_what_is_not_there_is_one_error_that_names_the_command(study):
    (study / "results/runs/tiny-sft/merged.json").rename(study / "kept.json")
    try:
        done = run(study, "chat.py", "tiny-sft")
    finally:
        (study / "kept.json").rename(study / "results/runs/tiny-sft/merged.json")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "snakemake results/runs/tiny-sft/merged.json" in done.stderr
    done = run(study, "chat.py", "tiny-stf")
    assert "did you mean 'tiny-sft'?" in done.stderr and done.stderr.count("\n") == 1
    done = run(study, "deploy.py", "tiny", "--results", "elsewhere")
    assert "there is no elsewhere/study.json" in done.stderr


def test_weights_that_are_not_what_their_manifest_says_are_not_served(study):
    config = study / "results/models/tiny/weights/config.json"
    kept = config.read_bytes()
    config.write_bytes(kept + b"\n")
    try:
        done = run(study, "deploy.py", "tiny", "--port", str(free_port()))
    finally:
        config.write_bytes(kept)
    assert done.returncode == 1 and "is not what" in done.stderr and "ready" not in done.stdout
