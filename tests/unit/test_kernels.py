"""A LoRA layer of our own must train what PEFT's would train."""

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SWIFT = HERE.parents[1] / "envs" / "swift" / ".venv" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced")
def test_fused_passes_and_packed_attention_agree_with_their_definitions():
    done = subprocess.run([SWIFT, HERE / "lora_kernels.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
