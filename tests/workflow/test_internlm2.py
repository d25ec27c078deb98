"""A checkpoint in InternLM2's layout goes through the whole workflow, and none of its code runs.

All that it needs lies here, and every call to the network fails at once.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
CHECKPOINT = ROOT / "tests/unit/internlm2_checkpoint.py"


@pytest.mark.slow
def test_internlm2_converts_trains_merges_serves_and_is_evaluated(workflow, snakemake):
    for env in ("swift", "evalscope"):  # an environment that is in step need not be built again
        if (ROOT / f"envs/{env}/.venv").exists():
            (workflow / f"envs/{env}/.venv").symlink_to(ROOT / f"envs/{env}/.venv")
    swift = workflow / "envs/swift/.venv/bin/python"
    if not swift.exists() or not (workflow / "envs/evalscope/.venv").exists():
        pytest.skip("envs/swift or envs/evalscope is not synced")
    subprocess.run([swift, CHECKPOINT, workflow / "internlm2-random"], check=True)
    demo = (workflow / "config/demo/dialogues.jsonl").read_text("utf-8").splitlines()
    (workflow / "few.jsonl").write_text("\n".join(demo[:60]), encoding="utf-8")
    config = yaml.safe_load((workflow / "config/config.yaml").read_text("utf-8"))
    config["models"] = {
        "random": {
            "source": "internlm2-random",
            "model_type": "llama",
            "template": "internlm2",
            "system": "You help.",  # the template's own is long
        }
    }
    config["datasets"] = {"few": {"source": "few.jsonl", "validation_share": 0.2}}
    config["runs"] = {"random-sft": {"model": "random", "dataset": "few"}}
    config["training"] |= {"num_train_epochs": 1, "max_length": 512}
    config["suites"] = {"general": ["gsm8k"]}
    config["benchmarks"] = {"gsm8k": config["benchmarks"]["gsm8k"] | {"limit": 4}}
    config.pop("comparisons", None)
    config["generation"]["max_tokens"] = 8
    (workflow / "random.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    env = os.environ | NO_NETWORK | {name.upper(): url for name, url in NO_NETWORK.items()}
    done = snakemake(workflow, "--configfile", "random.yaml", env=env)
    assert done.returncode == 0, done.stdout[-8000:]
    results = workflow / "results"
    manifest = json.loads((results / "models/random/manifest.json").read_text())
    assert manifest["native_form"] == "llama" and manifest["remote_code"] is False
    for subject in ("random", "random-sft"):
        score = json.loads((results / f"scores/{subject}/gsm8k.json").read_text())
        assert score["n"] == 4
    receipt = json.loads((results / "runs/random-sft/receipt.json").read_text())
    training = json.loads((results / "runs/random-sft/training.json").read_text())
    assert training["steps"] == receipt["steps_per_epoch"]
    assert training["tokens"] == receipt["tokens"]["train"]  # one epoch, counted by the trainer
