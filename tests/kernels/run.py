"""Check the kernels: on the GPU if there is one, else by Triton's interpreter.

    python3 tests/kernels/run.py [part of a case's name …]

Needs torch, triton, transformers and PEFT: no pytest, and nothing of this workflow installed. Cases
about ms-swift and Liger are left out, and said to be, where these are not installed. On a machine
with the workflow it is `envs/swift/.venv/bin/python tests/kernels/run.py`, which test_kernels.py
does.
"""

import importlib
import sys
import time
import traceback

import torch
from cases import CASES, DEVICE

OPTIONAL = {"swift", "liger_kernel"}


def main(parts: list[str]) -> int:
    for module in ("operations", "models", "patched"):
        importlib.import_module(module)
    chosen = {name: case for name, case in CASES.items() if any(part in name for part in parts)}
    failed = left_out = 0
    begun = time.perf_counter()
    for name, case in chosen.items():
        torch.manual_seed(0)
        try:
            case()
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] not in OPTIONAL:
                raise
            left_out += 1
            print(f"left out {name}: no {missing.name}")
        except Exception as error:
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
    seconds = time.perf_counter() - begun
    print(f"{len(chosen)} cases on {DEVICE}: {failed} failed, {left_out} left out, {seconds:.0f} s")
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [""]))
