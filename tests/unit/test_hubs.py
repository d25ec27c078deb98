"""Hubs, each through its own client: what is downloaded, how far a fault reaches, what it says.

The hub is a stand-in on this machine (hub_server.py); the clients are those of envs/evalscope, and
the programs are started as the workflow starts them.
"""

import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from hub_server import COMMIT, VARIABLES, Hub, serving
from sftflow.core.cli import UserError
from sftflow.inputs import hubs
from support import EVALSCOPE, ROOT

BUFFER = 10 * 2**20  # bytes that Hugging Face's client keeps in memory before it writes
SHARD = bytes(range(256)) * 94_000  # 24 MB
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"model": {"vocab": {"a": 0}}}',
    "README.md": b"---\nlicense: mit\n---\n",
    ".gitattributes": b"*.safetensors filter=lfs",
    "model.safetensors.index.json": b"{}",
    "model-00001-of-00002.safetensors": SHARD,
    "model-00002-of-00002.safetensors": SHARD[::-1],
}
TAKEN = sorted(set(MODEL) - {".gitattributes"})
NOT_NEEDED = {
    "model.fp16-00001-of-00002.safetensors": b"16",
    "consolidated.safetensors": b"again",
    "pytorch_model.bin": b"pickle",
    "model-q4.gguf": b"GGUF",
    "onnx/model.onnx": b"onnx",
    "original/params.json": b"{}",
    "checkpoint-10/model.safetensors": b"older",
    "modeling_own.py": b"raise SystemExit",
}
TOKEN = "hub_0123456789abcdefghij"
BOTH = pytest.mark.parametrize("name", ["huggingface", "modelscope"])

needs_clients = pytest.mark.skipif(not EVALSCOPE.exists(), reason="envs/evalscope is not synced")


def fetch(folder: Path, name: str, hub: Hub, **more) -> subprocess.CompletedProcess[str]:
    """Fetch model own/repo into folder/source, or what `more` states."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    variables |= {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "MODELSCOPE_DOWNLOAD_TIMEOUT": "1"}
    variables |= {"HF_HUB_ETAG_TIMEOUT": "1", "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1"}
    variables |= {VARIABLES[name]: hub.front} | more.pop("variables", {})
    kind = more.pop("kind", "model")
    settings = {"source": "own/repo", "hub": name, "revision": None} | more
    command = [EVALSCOPE, ROOT / f"scripts/fetch_{kind}.py", f"--{kind}", "m"]
    command += ["--settings", json.dumps(settings), "--output", folder / "source.json"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)


def record(folder: Path) -> dict:
    return json.loads((folder / "source.json").read_text())


def failed(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One clear error that holds all the parts; nothing else of it is a traceback."""
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    said = done.stderr[done.stderr.rindex("error: ") :]
    assert [part for part in parts if part not in said] == [], said


@needs_clients
@pytest.mark.slow
@BOTH
def test_only_what_a_model_needs_is_downloaded(tmp_path, name):
    with serving(name, Hub(MODEL | NOT_NEEDED)) as hub:
        done = fetch(tmp_path, name, hub)
        assert done.returncode == 0, done.stderr
        assert sorted(hub.sent) == TAKEN
    files = record(tmp_path)["files"]
    assert [file["path"] for file in files] == TAKEN
    for file in files:
        assert file["sha256"] == hashlib.sha256(MODEL[file["path"]]).hexdigest()
    assert record(tmp_path)["revision"] == COMMIT


@needs_clients
@pytest.mark.slow
@BOTH
def test_rows_that_a_dataset_holds_in_two_formats_are_downloaded_once(tmp_path, name):
    rows = b'{"a": 1}\n'
    files = {"data/train.jsonl": rows, "data/train.json": b"[]", "data/train.parquet": b"PAR1"}
    with serving(name, Hub(files | {"data/more.json": b"[]"})) as hub:
        done = fetch(tmp_path, name, hub, kind="dataset")
        assert done.returncode == 0, done.stderr
        assert sorted(hub.sent) == ["data/more.json", "data/train.jsonl"]
    assert "the same in another format: data/train.json, data/train.parquet" in done.stdout


@needs_clients
@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("pinned", [False, True])
def test_a_branch_is_resolved_to_its_commit(tmp_path, name, pinned):
    branch = {"huggingface": "main", "modelscope": "master"}[name]
    rows = {"rows.jsonl": b'{"a": 1}\n', "loader.py": b"raise SystemExit\n"}
    with serving(name, Hub(rows)) as hub:
        done = fetch(tmp_path, name, hub, kind="dataset", revision=COMMIT if pinned else branch)
        assert done.returncode == 0, done.stderr
        assert sorted(hub.sent) == ["rows.jsonl"]  # no code came along
    assert record(tmp_path)["revision"] == COMMIT
    moving = f"dataset own/repo: {branch} on {name} is {COMMIT}; to pin it" in done.stdout
    assert moving is not pinned
    assert (tmp_path / "source/rows.jsonl").read_bytes() == rows["rows.jsonl"]


@needs_clients
@pytest.mark.slow
@BOTH
def test_a_broken_line_is_taken_up_where_it_ended(tmp_path, name):
    shard = "model-00001-of-00002.safetensors"
    with serving(name, Hub(MODEL, cut={shard: [len(SHARD) // 2]})) as hub:
        done = fetch(tmp_path, name, hub)
        assert done.returncode == 0, done.stderr
        assert hub.sent[shard] < len(SHARD) + BUFFER  # not again what had come
    assert [file["path"] for file in record(tmp_path)["files"]] == TAKEN


@needs_clients
@pytest.mark.slow
@BOTH
def test_the_next_try_downloads_only_what_was_not_finished(tmp_path, name):
    first, second = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    with serving(name, Hub(MODEL, cut={first: [1000] + [0] * 20})) as hub:
        failed(fetch(tmp_path, name, hub), f"could not fetch the model own/repo from {name}")
        assert not (tmp_path / "source.json").exists()
        hub.cut = {}
        done = fetch(tmp_path, name, hub)
        assert done.returncode == 0, done.stderr
        assert hub.sent[second] == len(SHARD)
    assert [file["path"] for file in record(tmp_path)["files"]] == TAKEN
    assert list(tmp_path.rglob("*.incomplete")) == []


@needs_clients
@pytest.mark.slow
@BOTH
def test_a_file_that_is_not_the_hubs_is_refused_and_removed(tmp_path, name):
    shard = "model-00002-of-00002.safetensors"
    with serving(name, Hub(MODEL, altered={shard: SHARD})) as hub:
        done = fetch(tmp_path, name, hub)
        failed(done, shard)
        assert not (tmp_path / "source.json").exists()
        assert not (tmp_path / f"source/{shard}").exists()
        hub.altered = {}
        assert fetch(tmp_path, name, hub).returncode == 0


@needs_clients
@pytest.mark.slow
def test_a_small_file_is_compared_too(tmp_path):
    """Git states a checksum of each, which Hugging Face's client does not look at."""
    with serving(
        "huggingface", Hub(MODEL, altered={"config.json": b'{"model_type": "LLAMA"}'})
    ) as hub:
        done = fetch(tmp_path, "huggingface", hub)
    failed(done, "config.json has the checksum", "removed")
    assert not (tmp_path / "source/config.json").exists()


@needs_clients
@pytest.mark.slow
@BOTH
def test_a_gated_repository_names_the_token_and_keeps_it_secret(tmp_path, name):
    variable = hubs.TOKENS[name]
    with serving(name, Hub(MODEL, token=TOKEN)) as hub:
        failed(fetch(tmp_path, name, hub), variable, "not set")
        wrong = fetch(tmp_path, name, hub, variables={variable: "hub_another_one_0000"})
        failed(wrong, variable, "set now")
        assert "hub_another_one_0000" not in wrong.stdout + wrong.stderr
        hub.granted = False
        failed(fetch(tmp_path, name, hub, variables={variable: TOKEN}), variable, "Ask for access")
        hub.granted = True
        done = fetch(tmp_path, name, hub, variables={variable: TOKEN})
        assert done.returncode == 0, done.stderr
        assert hub.seen == []  # the server that files are redirected to
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in done.stdout + done.stderr


@needs_clients
@pytest.mark.slow
@BOTH
def test_what_is_not_on_the_hub_is_said(tmp_path, name):
    with serving(name, Hub(MODEL)) as hub:
        failed(fetch(tmp_path, name, hub, source="own/other"), "own/other", "its name there")
        failed(fetch(tmp_path, name, hub, revision="v9"), "revision v9")
        hub.files = {"model.gguf": b"GGUF"}
        failed(fetch(tmp_path, name, hub), "GGUF", "model.gguf")
        hub.files = {"notes.pdf": b"%PDF"}
        failed(fetch(tmp_path, name, hub), "none of the files looked for")


@needs_clients
@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again_when_it_says(tmp_path, name, status):
    with serving(name, Hub(MODEL)) as hub:
        hub.faults = [(r"own/repo(/revision|/repo/files|$|\?)", status, {"Retry-After": "1"})]
        hub.faults += [("resolve.*safetensors|FilePath=model-", status, {"Retry-After": "1"})]
        begun = time.monotonic()
        done = fetch(tmp_path, name, hub)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - begun >= 1
        assert hub.faults == []


@needs_clients
@pytest.mark.slow
@BOTH
def test_a_hub_that_goes_silent_is_given_up(tmp_path, name):
    with serving(name, Hub(MODEL, silent="cdn/")) as hub:
        done = fetch(tmp_path, name, hub)
    failed(done, f"could not fetch the model own/repo from {name}")


@needs_clients
@pytest.mark.slow
@BOTH
def test_a_mirror_behind_a_proxy_is_used(tmp_path, name):
    """The stand-in is the proxy, asked for addresses of a mirror that no name server knows."""
    with serving(
        name, Hub({name: MODEL[name] for name in ("config.json", "tokenizer.json")})
    ) as hub:
        variables = {"http_proxy": hub.front, VARIABLES[name]: "http://mirror.invalid"}
        done = fetch(tmp_path, name, hub, variables=variables)
        assert done.returncode == 0, done.stderr
        assert all(path.startswith("http://mirror.invalid") for path in hub.asked)


# --- without a client ----------------------------------------------------------------------------


def test_a_listing_that_leads_out_of_its_folder_is_refused():
    for name in ("../../secret.json", "/etc/secret.json", "a/../../b.json"):
        with pytest.raises(UserError, match="leads out of its folder"):
            hubs.of_listing({name: hubs.Listed(1)}, list)


def test_a_disk_without_room_is_said_before_the_download(tmp_path):
    with pytest.raises(UserError, match=r"GB are to be downloaded, .* GB are free"):
        hubs.check_space(tmp_path, {"model.safetensors": hubs.Listed(10**18)})


def test_errors_hold_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    text = f"GET https://me:word@mirror.example/x with {TOKEN} failed"
    assert hubs.without_secrets(text) == "GET https://***@mirror.example/x with *** failed"


def test_the_docs_name_each_of_these_tests():
    text = (ROOT / "docs/accepted/models.md").read_text("utf-8").partition("# Hubs")[2]
    here = {name for name in globals() if name.startswith("test_")}
    assert set(re.findall(r"`(test_\w+)`", text)) == here - {
        "test_the_docs_name_each_of_these_tests"
    }
