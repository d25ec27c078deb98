"""Parts of our own in a training must compute what the parts that they replace would."""

import subprocess
from pathlib import Path

import pytest
from support import SWIFT

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("program", ["check_kernels.py", "check_plugin.py"])
@pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced")
def test_they_agree_with_their_definitions(program):
    done = subprocess.run([SWIFT, HERE / program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
