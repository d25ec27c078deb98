"""The kernels agree with their definitions, and the patches fit: see run.py, started from here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, SWIFT

HERE = Path(__file__).parent
KERNELS = ROOT / "scripts" / "sftflow" / "kernels"


@pytest.mark.slow
@pytest.mark.parametrize("module", ["operations", "models", "patched"])
@pytest.mark.skipif(not SWIFT.exists(), reason="envs/swift is not synced")
def test_every_case(module):
    done = subprocess.run([SWIFT, HERE / "run.py", f"{module}."], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed, 0 left out" in done.stdout


@pytest.mark.parametrize("file", sorted(KERNELS.rglob("*.py")), ids=lambda file: file.stem)
def test_kernels_know_torch_and_triton_only(file):
    """Imported with the module; a function may ask transformers for its table of attentions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_import = {name.split(".")[0] for node in tree.body for name in imported(node)}
    anywhere = {name.split(".")[0] for node in ast.walk(tree) for name in imported(node)}
    allowed = {"torch", "triton", "cudnn", *sys.stdlib_module_names}
    if file.stem == "limits":
        allowed -= {"torch", "triton", "cudnn"}
    assert at_import <= allowed
    assert anywhere <= allowed | {"transformers"}


def imported(node: ast.stmt) -> list[str]:
    """The modules that a statement imports, without those of the same package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
