"""What a results folder holds, and what of it can go."""

import os
import sys
from pathlib import Path

import drop_weights
import pytest
import usage
from sftflow.core import cli, space
from sftflow.core.jsonio import read_record, tree_digest, tree_files, write_record
from sftflow.core.manifests import lost
from sftflow.training.cost import trainable_parameters

INTERNLM = {  # config.json of internlm/internlm2_5-7b-chat, in Llama's layout
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
PARAMETERS = 7_737_708_544


def write(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * size)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One model and two runs: one is merged, the other is still in training."""
    write(tmp_path / "models/base/source/model.safetensors", 1000)
    write(tmp_path / "models/base/weights/model.safetensors", 1000)
    done, going = tmp_path / "runs/it's done", tmp_path / "runs/going"
    for kind, size in (("adapter", 10), ("merged", 1000)):
        write(done / kind / "model.safetensors", size)
        files = tree_files(done / kind)
        write_record(done / f"{kind}.json", {"files": files, "digest": tree_digest(files)})
    write(done / "trainings/abc/adapter/model.safetensors", 10)
    write_record(done / "trainings/abc/adapter.json", {})
    write(done / "checkpoints/abc/checkpoint-2/optimizer.pt", 40)
    write(done / "checkpoints/abc/events.jsonl", 1)
    write(done / "checkpoints/of-another/checkpoint-1/optimizer.pt", 40)
    write(going / "checkpoints/def/checkpoint-1/optimizer.pt", 40)
    write(going / "merged.new/half", 7)
    return tmp_path


def call(monkeypatch, program, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    return cli.run(program.main)


def test_only_what_can_be_made_again_is_dropped(results, monkeypatch):
    """The adapter stays, and so does every checkpoint that a training may go on from."""
    run = results / "runs/it's done"
    assert call(monkeypatch, drop_weights, "--run", run, "--output", run / "dropped.json") == 0
    assert read_record(run / "dropped.json")["bytes"] == 1040
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"merged.json", "adapter/model.safetensors", "checkpoints/abc/events.jsonl"} <= left
    assert "checkpoints/of-another/checkpoint-1/optimizer.pt" in left
    assert not any(name.startswith(("merged/", "checkpoints/abc/checkpoint")) for name in left)
    assert lost(run / "merged.json") == [run / "merged/model.safetensors"]
    assert not lost(run / "adapter.json")


def test_of_a_run_that_is_not_finished_nothing_can_go(results):
    run = results / "runs/going"
    assert not space.merged(run) and not space.checkpoints(run)


def test_usage_says_what_each_part_holds_and_what_can_go(results, monkeypatch, capsys):
    assert call(monkeypatch, usage, "--results", results) == 0
    said = capsys.readouterr().out
    rows = {line.split("  ")[0]: line.split() for line in said.splitlines() if "MB" in line}
    assert rows["runs/going"][-2:] == ["0.0", "MB"] and "runs/it's done" in rows
    assert f"rm -r '{results}/runs/it'\"'\"'s done/merged'" in said
    assert f"rm -r {results}/models/base/source" in said and "going/" not in said


def test_a_file_with_two_names_counts_once_and_frees_nothing_alone(tmp_path):
    first = write(tmp_path / "a/x", 100)
    (tmp_path / "b").mkdir()
    os.link(first, tmp_path / "b/x")
    both = [tmp_path / "a", tmp_path / "b"]
    assert space.size(both) == space.freed(both) == 100
    assert space.freed(both[:1]) == 0


def test_sizes_are_shown_as_disks_are_sold():
    assert [space.shown(size) for size in (0, 12_340_000, 15_475_417_088)] == [
        "0.0 MB", "12.3 MB", "15.5 GB",
    ]  # fmt: skip


def test_a_sweep_of_41_runs_of_7_b_fits_60_gb():
    """From sizes: the model as published and in Llama's layout, one merged, 41 adapters (rank 8,
    32 bits) twice, and the three checkpoints, with AdamW's two states, of the one in training."""
    model = 2 * PARAMETERS
    adapter = 4 * trainable_parameters(INTERNLM, 0, {"tuner_type": "lora", "lora_rank": 8})
    assert adapter == pytest.approx(84e6, rel=0.01)
    assert 2 * model + model + 41 * 2 * adapter + 3 * 3 * adapter < 60e9
    # without `keep: adapter`
    assert 2 * model + 41 * (model + 2 * adapter + 3 * 3 * adapter) > 600e9
