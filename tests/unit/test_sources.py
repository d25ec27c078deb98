"""Fetching: local copies are linked, and a hub that cannot be reached says so at once."""

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
from hub_server import COMMIT
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record
from sftflow.inputs import hubs
from support import ROOT


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


# --- links ---------------------------------------------------------------------------------------


def folder_of(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_text("a")
    (tmp_path / "secret.jsonl").write_text("secret")
    return tmp_path / "data"


@pytest.mark.parametrize("target", ["../secret.jsonl", "{tmp}/secret.jsonl", "/etc/passwd"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, target):
    source = folder_of(tmp_path)
    (source / "b.jsonl").symlink_to(target.format(tmp=tmp_path))
    with pytest.raises(UserError, match=r"b\.jsonl is a link out of the folder"):
        fetch(tmp_path / "out", source, keep=["*.jsonl"])
    assert not (tmp_path / "out/b.jsonl").exists()
    assert "b.jsonl" not in hubs.local_files(str(source))  # nor is it read for a plan
    fetch(tmp_path / "out", source, keep=["a.*"])  # not in the way of others


def test_a_linked_folder_is_followed_nowhere(tmp_path):
    source = folder_of(tmp_path)
    (source / "deep").mkdir()
    (source / "deep/c.jsonl").write_text("c")
    (source / "again").symlink_to("deep")
    (source / "loop").symlink_to(".")
    fetch(tmp_path / "out", source)
    assert [f["path"] for f in hubs.files(tmp_path / "out")] == ["a.jsonl", "deep/c.jsonl"]
    (source / "outside").symlink_to(tmp_path)
    with pytest.raises(UserError, match="outside is a link out of the folder"):
        fetch(tmp_path / "out", source)


def test_links_to_nothing_pipes_and_rings_are_said_and_wait_for_nobody(tmp_path):
    source = folder_of(tmp_path)
    for name, make, message in (
        ("b.jsonl", lambda path: path.symlink_to("gone"), "a link to nothing"),
        ("c.jsonl", lambda path: path.symlink_to("c.jsonl"), "a link to nothing"),
        ("d.jsonl", os.mkfifo, "no regular file"),
    ):
        make(source / name)
        with pytest.raises(UserError, match=f"{name} is {message}"):
            fetch(tmp_path / "out", source)
        assert hubs.local_digest(str(source), tmp_path / "memory.json")
        (source / name).unlink()


def test_a_snapshot_in_the_hub_clients_cache_is_a_source(tmp_path):
    """Its files are links to blobs/ of the same repository; a link to another's leads out."""
    top = tmp_path / "hub/models--own--repo"
    (top / "blobs").mkdir(parents=True)
    (top / "blobs/0123").write_text("content")
    snapshot = top / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "a.jsonl").symlink_to("../../blobs/0123")
    fetch(tmp_path / "out", snapshot)
    assert (tmp_path / "out/a.jsonl").read_text() == "content"
    (tmp_path / "link").symlink_to(snapshot)  # the user's own link to a source
    fetch(tmp_path / "out", tmp_path / "link")
    other = tmp_path / "hub/models--own--other/blobs"
    other.mkdir(parents=True)
    (other / "0123").write_text("other")
    (snapshot / "b.jsonl").symlink_to("../../../models--own--other/blobs/0123")
    with pytest.raises(UserError, match=r"a link out of the folder, to .*models--own--other"):
        fetch(tmp_path / "out", snapshot)


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
