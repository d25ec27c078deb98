"""How much memory the rewriting of a 7B model's largest file takes.

    python tests/performance/native.py

One file in InternLM2.5-7B's shape (three layers and both embeddings, 2.8 GB), random bits. The goal
for the whole model: less than 8 GiB; files are rewritten one after the other, tensor by tensor, so
one file tells. Exits with status 1 beyond it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/unit")]

import internlm2_checkpoint as checkpoint
from model_folders import TOKENIZER
from sftflow.core.jsonio import tree_digest, tree_files, write_record
from sftflow.models import (
    internlm2,
    safetensors_files,
)

SHAPE = {
    "num_hidden_layers": 3,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 92544,
}
GIBIBYTES = 8


def main() -> int:
    config, chance = checkpoint.CONFIG | SHAPE, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        (folder / "source/config.json").write_text(json.dumps(config))
        (folder / "source/tokenizer.json").write_text(json.dumps(TOKENIZER))

        def bits(shape: tuple[int, ...]) -> np.ndarray:
            return chance.integers(0, 1 << 15, shape, "u2")

        outputs = [
            safetensors_files.Output(tensor, "BF16", shape, lambda shape=shape: bits(shape))
            for tensor, shape in internlm2.Shape.of(config).expected().items()
        ]
        file = folder / "source/model.safetensors"
        safetensors_files.write_file(file, outputs)
        size = file.stat().st_size / 1e9
        files = tree_files(folder / "source")
        origin = {"source": "made up", "hub": "local", "revision": None}
        origin |= {"files": files, "digest": tree_digest(files)}
        write_record(folder / "source.json", origin)
        common = ["--model", "made-up", "--source", folder / "source.json", "--settings", "{}"]
        words = folder / "tokenizer.json"
        program = [sys.executable, ROOT / "scripts/native_tokenizer.py"]
        subprocess.run([*program, *common, "--output", words], check=True)
        command = [sys.executable, ROOT / "scripts/native_model.py", *common, "--tokenizer", words]
        command += ["--weights", folder / "weights", "--manifest", folder / "manifest.json"]
        begun = time.monotonic()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
    peak = usage.ru_maxrss / 2**20
    print(f"{size:.1f} GB rewritten: {seconds:.1f} s, {peak:.2f} GiB")
    return int(status != 0 or peak > GIBIBYTES)


if __name__ == "__main__":
    sys.exit(main())
