"""What the checks of the kernels share: the device, made-up tensors, cases, comparison."""

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
from sftflow.kernels import functions, loss
from sftflow.kernels.triton import lora as triton_lora
from sftflow.kernels.triton import loss as triton_loss

DEVICE = "cuda" if ON_GPU else "cpu"
# Triton's interpreter multiplies no bfloat16
DTYPES = ("bfloat16", "float16", "float32") if ON_GPU else ("float16", "float32")
# relative errors; on a GPU Triton multiplies float32 in tf32
LIMITS = {"bfloat16": 1e-2, "float16": 4e-3, "float32": 2e-3 if ON_GPU else 1e-5}
MODES = ("forward", "backward", "recomputed")
# who computes: without CUDA there are passes in plain torch, too
ENGINES = ("triton",) if ON_GPU else ("triton", "torch")

if not ON_GPU:  # several tiles and shares in few rows and columns
    triton_lora.FORWARD.update(ROWS=16, COLUMNS=32)
    triton_lora.BACKWARD.update(ROWS=16, COLUMNS=32, SHARE=32)
    triton_lora.SWIGLU_FORWARD.update(ROWS=16, COLUMNS=32, SHARE=64)
    triton_lora.SWIGLU_BACKWARD.update(ROWS=16, COLUMNS=32, SHARE=32)
    triton_loss.COLUMNS = 128
loss.CHUNK = 16

CASES: dict[str, Callable[[], None]] = {}


def each(**values: Sequence) -> Callable:
    """Register the function below once for every combination of the values."""

    def register(check: Callable) -> Callable:
        for chosen in itertools.product(*values.values()):
            where = f"{check.__module__}.{check.__name__}"
            name = f"{where}[{', '.join(map(str, chosen))}]" if chosen else where
            CASES[name] = functools.partial(check, **dict(zip(values, chosen, strict=True)))
        return check

    return register


@contextlib.contextmanager
def engine(name: str) -> Iterator[None]:
    """Let the passes be computed by `triton`, on a CPU by its interpreter, or by `torch`."""
    stock = functions.by_triton
    functions.by_triton = lambda x: name == "triton"
    try:
        yield
    finally:
        functions.by_triton = stock


def draw(*size: int, dtype: str = "float32", learns: bool = False) -> torch.Tensor:
    """Normal numbers."""
    return torch.randn(size, device=DEVICE).to(getattr(torch, dtype)).requires_grad_(learns)


def weigh(*size: int, dtype: str = "float32", learns: bool = False) -> torch.Tensor:
    """A matrix (out, in) that leaves normal numbers about as large as they were."""
    made = torch.randn(size, device=DEVICE) / size[1] ** 0.5
    return made.to(getattr(torch, dtype)).requires_grad_(learns)


def kept(rows: int, columns: int, p: float, seed: int) -> torch.Tensor:
    """Triton's dropout mask of a seed over 1 - p, in float64.

    With dh = 1 and A = 1 it is in the gradient of x.
    """
    x = torch.ones(rows, columns, device=DEVICE, dtype=torch.float16)
    ones, nothing = torch.ones(1, columns, device=DEVICE), torch.zeros_like(x)
    _, dx = triton_lora.lora_a_backward(x, ones, nothing, torch.ones_like(x[:, :1]), 1.0, p, seed)
    return (dx != 0).double() / (1 - p)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference over the norm of what is wanted."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


def compare(mode: str, run: Callable, reference: Callable, given: Sequence, limit: float) -> None:
    """Outputs or gradients of run(*given) are those of `reference`, given the same in float64.

    mode: forward, backward, or recomputed, where the outputs are made a second time for the
    gradients. run and reference return a sequence of tensors.
    """
    exact = [
        one.detach().double().requires_grad_(one.requires_grad) if torch.is_tensor(one) else one
        for one in given
    ]
    wanted = reference(*exact)
    if mode == "forward":
        with torch.no_grad():
            found = run(*given)
    else:
        if mode == "recomputed":
            found = torch.utils.checkpoint.checkpoint(run, *given, use_reentrant=False)
        else:
            found = run(*given)
        upstream = [torch.randn_like(one) for one in found]
        torch.autograd.backward(found, upstream)
        torch.autograd.backward(wanted, [one.double() for one in upstream])
        learn = [torch.is_tensor(one) and one.requires_grad for one in given]
        found, wanted = (
            [one.grad for one in itertools.compress(all_of, learn)] for all_of in (given, exact)
        )
    errors = [error(*pair) for pair in zip(found, wanted, strict=True)]
    assert errors and max(errors) < limit, f"errors {errors}, at most {limit}"
