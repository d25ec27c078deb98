"""Files are what their manifest lists, and records what was written: anything else is one error."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sftflow.core import jsonio, manifests
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_json, read_record, tree_digest, tree_files, write_record


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """manifest.json of a model of three files."""
    weights = tmp_path / "m/weights"
    weights.mkdir(parents=True)
    for name in ("model-1.safetensors", "model-2.safetensors", "config.json"):
        (weights / name).write_text(f"content of {name}")
    files = tree_files(weights)
    about = {"schema": 1, "model": "m", "files": files, "digest": tree_digest(files)}
    write_record(tmp_path / "m/manifest.json", about)
    return tmp_path / "m/manifest.json"


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that are read; files count as settled at once."""
    names: list[str] = []
    original = jsonio.file_digest
    monkeypatch.setattr(manifests, "SETTLED", -1.0)
    monkeypatch.setattr(
        jsonio, "file_digest", lambda path: names.append(Path(path).name) or original(path)
    )
    return names


def test_what_is_whole_is_given_back(model):
    assert manifests.verified(model) == read_record(model)
    assert manifests.verified(model, model.parent / "weights")["model"] == "m"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model-1.safetensors", lambda path: path.write_text("other of model-1.safetensors"), ""),
        ("model-1.safetensors", lambda path: path.write_text("CONTENT of model-1.safetensors"), ""),
        ("config.json", lambda path: path.unlink(), "is missing"),
        ("model-3.safetensors", lambda path: path.write_text("x"), "is not listed"),
        ("sub/generation_config.json", lambda path: path.write_text("{}"), "is not listed"),
    ],
)
def test_one_error_names_the_file_and_what_to_delete(model, name, change, said):
    manifests.verified(model)
    path = model.parent / "weights" / name
    path.parent.mkdir(exist_ok=True)
    change(path)
    with pytest.raises(UserError) as error:
        manifests.verified(model)
    assert f"{path} {said}" in str(error.value)
    assert f"Delete {model}, and it is made again" in str(error.value)
    if not said:  # expected and found
        listed = {file["path"]: file for file in read_record(model)["files"]}[name]
        assert f"{listed['size']} bytes, sha256 {listed['sha256'][:12]}… listed" in str(error.value)
        assert f"{path.stat().st_size} bytes" in str(error.value).split("listed, ")[1]


def test_hidden_files_and_compiled_python_are_not_the_models(model):
    weights = model.parent / "weights"
    (weights / ".DS_Store").write_text("x")
    (weights / "__pycache__").mkdir()
    (weights / "__pycache__/a.pyc").write_text("x")
    manifests.verified(model)


def test_a_digest_that_does_not_follow_from_the_files_is_an_error(model):
    write_record(model, read_record(model) | {"digest": "0" * 64})
    with pytest.raises(UserError, match=r"the digest in .* is not that of the files"):
        manifests.verified(model)


def test_many_problems_are_one_short_error(model):
    for number in range(40):
        (model.parent / "weights" / f"{number}.bin").write_text("x")
    with pytest.raises(UserError, match="and 35 more"):
        manifests.verified(model)


def test_the_second_look_reads_nothing(model, hashed):
    manifests.verified(model)
    assert len(hashed) == 3
    manifests.verified(model)
    assert len(hashed) == 3


def test_other_content_in_the_same_clothes_is_read_again(model, hashed):
    """Same size and time of change, as a copy with `cp -p` has them."""
    manifests.verified(model)
    path = model.parent / "weights/model-1.safetensors"
    before = path.stat()
    path.write_text("CONTENT of model-1.safetensors")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="another file"):
        manifests.verified(model)


def test_what_changed_a_moment_ago_is_not_remembered(model, monkeypatch):
    manifests.verified(model)
    assert not (model.parent / ".manifest.verified.json").exists()
    monkeypatch.setattr(manifests, "SETTLED", -1.0)
    manifests.verified(model)
    assert (model.parent / ".manifest.verified.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"1 2 3 4 5": 7}'])
def test_a_corrupt_memory_is_ignored(model, hashed, content):
    (model.parent / ".manifest.verified.json").write_text(content)
    manifests.verified(model)
    assert len(hashed) == 3
    manifests.verified(model)
    assert len(hashed) == 3


def test_a_memory_that_lies_convicts_nobody(model, hashed):
    manifests.verified(model)
    memory = model.parent / ".manifest.verified.json"
    memory.write_text(json.dumps(dict.fromkeys(read_json(memory), "0" * 64)))
    manifests.verified(model)
    assert len(hashed) == 6


def test_a_folder_that_nobody_may_write_to(model, hashed, monkeypatch):
    def refused(*_):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(manifests, "write_json", refused)
    manifests.verified(model)
    manifests.verified(model)
    assert len(hashed) == 6


def test_many_may_look_at_once(model, hashed):
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(manifests.verified, [model] * 40))) == 40
    assert len(hashed) == 3  # the first read for all
    hashed.clear()
    manifests.verified(model)
    assert hashed == []


def test_a_memory_does_not_grow(model, hashed):
    for number in range(5):
        for path in (model.parent / "weights").iterdir():
            content = path.read_text()
            path.unlink()
            path.with_name(f"{number}").write_text("x")  # so that the inode is another
            path.write_text(content)
            path.with_name(f"{number}").unlink()
        manifests.verified(model)
    assert len(read_json(model.parent / ".manifest.verified.json")) == 3


def test_a_receipt_lists_files_beside_it(tmp_path):
    for name in ("train.jsonl", "validation.jsonl", "something else"):
        (tmp_path / name).write_text(name)
    paths = [tmp_path / "train.jsonl", tmp_path / "validation.jsonl"]
    about = {"digest": "of the rows", "files": jsonio.file_entries(tmp_path, paths)}
    write_record(tmp_path / "receipt.json", about)
    assert manifests.verified(tmp_path / "receipt.json") == about
    (tmp_path / "train.jsonl").write_text("Train.jsonl")
    with pytest.raises(UserError, match=r"train.jsonl is another file"):
        manifests.verified(tmp_path / "receipt.json")


def test_manifests_and_folders_know_each_other():
    for manifest, about, folder in [
        ("models/m/manifest.json", {"model": "m"}, "models/m/weights"),
        ("models/m/source.json", {"model": "m"}, "models/m/source"),
        ("benchmarks/b/manifest.json", {"benchmark": "b"}, "benchmarks/b/data"),
        ("runs/r/adapter.json", {"run": "r"}, "runs/r/adapter"),
        ("runs/r/merged.json", {"run": "r"}, "runs/r/merged"),
    ]:
        assert manifests.folder_of(Path(manifest), about) == Path(folder)
        assert manifests.manifest_of(Path(folder)) == Path(manifest)


# --- records -------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_written(tmp_path):
    content = {"score": 0.1 + 0.2, "ci95": (0.1, 0.5), "text": "焦虑 \u2028", "none": None}
    write_record(tmp_path / "r.json", content)
    assert read_record(tmp_path / "r.json") == content | {"ci95": [0.1, 0.5]}
    first = (tmp_path / "r.json").read_bytes()
    write_record(tmp_path / "r.json", read_record(tmp_path / "r.json"))
    assert (tmp_path / "r.json").read_bytes() == first
    assert list(read_json(tmp_path / "r.json"))[-1] == "sha256"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("0.55", "0.56"), "was changed after it had been written"),
        (lambda text: text[:-4], "is not valid JSON"),
        (lambda text: '{"score": 0.55}', "states no sha256"),
        (lambda text: "[]", "states no sha256"),
    ],
)
def test_an_edited_record_is_an_error_that_says_what_to_do(tmp_path, change, said):
    path = tmp_path / "scores.json"
    write_record(path, {"score": 0.55})
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=said) as error:
        read_record(path)
    assert str(path) in str(error.value) and "is made again" in str(error.value)


def test_layout_and_spacing_of_a_record_are_free(tmp_path):
    path = tmp_path / "r.json"
    write_record(path, {"b": [1, 2], "a": "x"})
    path.write_text(json.dumps(read_json(path), sort_keys=True))
    assert read_record(path) == {"a": "x", "b": [1, 2]}
