"""Fetching: local copies are linked, and a hub that cannot be reached says so at once."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record
from sftflow.inputs import hubs
from support import EVALSCOPE, ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fetch(folder: Path, source: Path | str, hub: str | None = None, **more) -> dict:
    return hubs.fetch(folder, str(source), hub, kind="dataset", **more)


def test_a_local_folder_is_linked_with_what_is_wanted(tmp_path):
    source = tmp_path / "data"
    (source / "deep").mkdir(parents=True)
    for name in ("a.jsonl", "deep/b.jsonl", "code.py", ".hidden.jsonl"):
        (source / name).write_text(name)
    origin = fetch(tmp_path / "out", source, keep=["*.jsonl"])
    assert origin == {"source": str(source), "hub": "local", "revision": None}
    assert [f["path"] for f in hubs.files(tmp_path / "out")] == ["a.jsonl", "deep/b.jsonl"]
    assert (tmp_path / "out/a.jsonl").is_symlink()


def test_fetching_again_forgets_what_is_gone(tmp_path):
    source = tmp_path / "data"
    source.mkdir()
    (source / "a.jsonl").write_text("a")
    fetch(tmp_path / "out", source)
    (source / "a.jsonl").rename(source / "b.jsonl")
    fetch(tmp_path / "out", source)
    assert [f["path"] for f in hubs.files(tmp_path / "out")] == ["b.jsonl"]
    assert (source / "b.jsonl").read_text() == "a"


def test_one_file_is_a_source_too(tmp_path):
    (tmp_path / "rows.jsonl").write_text("x")
    fetch(tmp_path / "out", tmp_path / "rows.jsonl")
    assert (tmp_path / "out/rows.jsonl").read_text() == "x"


def test_the_files_of_a_source_can_be_named_as_inputs(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert hubs.local_files("data") == {"a.jsonl": Path("data/a.jsonl")}
    assert hubs.local_files("data/a.jsonl") == {"a.jsonl": Path("data/a.jsonl")}
    assert hubs.local_files("owner/name") == {}


@pytest.mark.parametrize(
    ("hub", "message"),
    [("local", "no such file or folder"), ("github", "choose one of local, modelscope, huggingf")],
)
def test_what_cannot_be_found_is_said(tmp_path, hub, message):
    with pytest.raises(UserError, match=message):
        fetch(tmp_path / "out", "not/there", hub)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"none of the files looked for \(\*\.jsonl\)"):
        fetch(tmp_path / "out", tmp_path / "empty", keep=["*.jsonl"])


@pytest.mark.parametrize(
    ("hub", "variable"),
    [("huggingface", "HF_ENDPOINT"), ("modelscope", "MODELSCOPE_ENDPOINT")],
)
def test_without_network_one_clear_error_comes_quickly(tmp_path, monkeypatch, hub, variable):
    monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        fetch(tmp_path / "out", "CodyWhy/mh-sharegpt", hub)
    assert time.monotonic() - begun < 5
    other = "modelscope" if hub == "huggingface" else "huggingface"
    for part in ("CodyWhy/mh-sharegpt", hub, "127.0.0.1:9", "https_proxy", variable):
        assert part in str(caught.value)
    assert "hub: local" in str(caught.value) and f"`hub: {other}`" in str(caught.value)
    assert f"There is none at {Path.cwd()}/CodyWhy/mh-sharegpt" in str(caught.value)


def test_a_hub_that_accepts_and_says_nothing_is_given_up(tmp_path, monkeypatch):
    class Silent(BaseHTTPRequestHandler):
        def handle(self):
            time.sleep(3)

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(hubs, "CONNECT_SECONDS", 0.3)
        begun = time.monotonic()
        with pytest.raises(UserError, match="timed out"):
            fetch(tmp_path / "out", "a/b", "huggingface")
        assert time.monotonic() - begun < 2
        server.shutdown()


def test_the_newest_commit_stands_for_a_modelscope_branch():
    files = [
        {"Revision": "old", "CommittedDate": 1},
        {"Revision": "new", "CommittedDate": 3},
        {"Type": "tree"},
    ]
    assert hubs.newest_commit(files) == "new"
    assert hubs.newest_commit([]) is None


@pytest.mark.parametrize("revision", [None, "main", "1" * 40])
def test_what_is_not_pinned_is_said_with_the_commit_it_is(tmp_path, monkeypatch, capsys, revision):
    monkeypatch.setattr(hubs, "check_reachable", lambda *_: None)
    monkeypatch.setattr(hubs, "from_huggingface", lambda *_: "1" * 40)
    origin = fetch(tmp_path / "out", "own/data", "huggingface", revision=revision)
    assert origin == {"source": "own/data", "hub": "huggingface", "revision": "1" * 40}
    found = f"dataset own/data: {revision or 'newest'} on huggingface is {'1' * 40}; to pin it, "
    said = capsys.readouterr().out
    assert said == "" if revision == "1" * 40 else said.startswith(found)


def test_a_download_is_gone_on_with_and_never_mixed_with_another(tmp_path):
    mine, folder = tmp_path / "mine.jsonl", tmp_path / "out"
    mine.write_text("mine")
    fetch(folder, mine)
    hubs.begin(folder, "huggingface", "own/data", "1" * 40)  # not into the file behind the link
    assert hubs.files(folder) == [] and mine.read_text() == "mine"
    (folder / "half.parquet").write_text("a")
    hubs.begin(folder, "huggingface", "own/data", "1" * 40)
    assert [file["path"] for file in hubs.files(folder)] == ["half.parquet"]
    hubs.begin(folder, "modelscope", "own/data", "1" * 40)
    assert hubs.files(folder) == []


FILES = {"rows.jsonl": b'{"a": 1}\n', "loader.py": b"raise SystemExit\n"}
ASKED = []


class HuggingFace(BaseHTTPRequestHandler):
    """As much of a hub as a dataset of two files needs."""

    def do_GET(self):
        ASKED.append(self.path)
        body = self.answer()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def answer(self) -> bytes:
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if name in FILES:
            return FILES[name]
        if "/tree/" in self.path:
            files = [{"type": "file", "path": n, "size": len(b)} for n, b in FILES.items()]
            return json.dumps([file | {"oid": "0" * 40} for file in files]).encode()
        siblings = [{"rfilename": name} for name in FILES]
        return json.dumps({"id": "own/data", "sha": COMMIT, "siblings": siblings}).encode()

    def log_message(self, *_):
        pass


class ModelScope(HuggingFace):
    def answer(self) -> bytes:
        name = self.path.partition("FilePath=")[2]
        if name in FILES:
            assert f"Revision={COMMIT}" in self.path
            return FILES[name]
        files = [
            {"Path": name, "Size": len(content), "Type": "blob", "Revision": COMMIT}
            | {"CommittedDate": 1, "Sha256": hashlib.sha256(content).hexdigest()}
            for name, content in FILES.items()
        ]
        return json.dumps({"Code": 200, "Success": True, "Data": {"Files": files}}).encode()


@pytest.mark.skipif(not EVALSCOPE.exists(), reason="envs/evalscope is not synced")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("hub", "handler", "variable"),
    [
        ("huggingface", HuggingFace, "HF_ENDPOINT"),
        ("modelscope", ModelScope, "MODELSCOPE_ENDPOINT"),
    ],
)
@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_branch_is_resolved_to_its_commit(tmp_path, hub, handler, variable, revision):
    ASKED.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {"source": "own/data", "hub": hub, "revision": revision}
        command = [EVALSCOPE, ROOT / "scripts/fetch_dataset.py", "--dataset", "d"]
        command += ["--settings", json.dumps(settings)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        environment[variable] = f"http://127.0.0.1:{server.server_port}"
        done = subprocess.run(
            [*command, "--output", tmp_path / "source.json"],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        server.shutdown()
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "source.json").read_text())
    assert record["revision"] == COMMIT
    moving = f"dataset own/data: main on {hub} is {COMMIT}; to pin it" in done.stdout
    assert moving == (revision == "main")
    assert [f["path"] for f in record["files"]] == ["rows.jsonl"]  # no code came along
    assert (tmp_path / "source/rows.jsonl").read_bytes() == FILES["rows.jsonl"]
    assert not any("loader.py" in path for path in ASKED)


# --- environments --------------------------------------------------------------------------------


def environment(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts/environment.py", "--env", "tool", *arguments]
    return subprocess.run(
        [*command, "--output", tmp_path / "tool.json"],
        env=os.environ | variables, capture_output=True, text=True,
    )  # fmt: skip


def test_an_active_environment_is_recorded_as_it_is(tmp_path):
    done = environment(tmp_path, "--project", str(tmp_path), "--settings", '{"software": "active"}')
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "tool.json").read_text())
    assert record["lock"] is None and "." in record["python"] and record["packages"]


def test_a_missing_uv_is_said_with_the_way_out(tmp_path):
    (tmp_path / "uv.lock").write_text("")
    done = environment(tmp_path, "--project", str(tmp_path), PATH="/nowhere")
    assert done.returncode == 1
    assert "pip install uv" in done.stderr and "software: active" in done.stderr


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
def test_a_lock_that_no_longer_fits_is_refused(tmp_path):
    for name in ("pyproject.toml", "uv.lock"):
        text = (ROOT / "envs/evalscope" / name).read_text()
        (tmp_path / name).write_text(text.replace('"filelock",', '"filelock", "pytest",', 1))
    done = environment(tmp_path, "--project", str(tmp_path))
    assert done.returncode == 1 and "uv.lock is out of date" in done.stderr
    (tmp_path / "uv.lock").unlink()
    done = environment(tmp_path, "--project", str(tmp_path))
    assert done.returncode == 1 and "uv.lock is missing" in done.stderr


def test_the_environments_record_names_what_is_imported(tmp_path):
    """Two copies of a package on the path: the first is imported, whichever is the newer one."""
    for version in ("5.12.1", "5.17.0"):
        about = tmp_path / version / f"two_copies-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Name: Two_Copies\nVersion: {version}\n")
        (tmp_path / version / "two_copies.py").write_text(f"__version__ = {version!r}\n")
    for order in (["5.12.1", "5.17.0"], ["5.17.0", "5.12.1"]):
        path = os.pathsep.join(str(tmp_path / version) for version in order)
        places = ["--project", str(tmp_path), "--settings", '{"software": "active"}']
        done = environment(tmp_path, *places, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        recorded = read_record(tmp_path / "tool.json")["packages"]["two-copies"]
        code = "import two_copies; print(two_copies.__version__)"
        imported = subprocess.run(
            ["python", "-c", code], env=os.environ | {"PYTHONPATH": path},
            capture_output=True, text=True,
        )  # fmt: skip
        assert recorded == imported.stdout.strip() == order[0]
