"""Dropout as one Triton kernel whose mask is a function of a seed, so that nobody keeps it."""

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _part(x, out, offset, number, n, p, ADD: tl.constexpr):
    inside = offset < n
    value = tl.load(x + offset, mask=inside).to(tl.float32)
    value = tl.where(number >= p, value / (1 - p), 0.0)
    if ADD:
        value += tl.load(out + offset, mask=inside).to(tl.float32)
    tl.store(out + offset, value, mask=inside)


@triton.jit
def _dropout(x, out, n, p, seed, ADD: tl.constexpr, BLOCK: tl.constexpr):
    # one call of the generator (Philox) gives four numbers, here for four blocks of elements
    lane = tl.arange(0, BLOCK)
    a, b, c, d = tl.rand4x(seed, tl.program_id(0) * BLOCK + lane)
    first = tl.program_id(0).to(tl.int64) * 4 * BLOCK + lane
    _part(x, out, first, a, n, p, ADD)
    _part(x, out, first + BLOCK, b, n, p, ADD)
    _part(x, out, first + 2 * BLOCK, c, n, p, ADD)
    _part(x, out, first + 3 * BLOCK, d, n, p, ADD)


def dropout(x: torch.Tensor, p: float, seed: int, out: torch.Tensor | None = None) -> torch.Tensor:
    """Dropout of a contiguous CUDA tensor; added to `out`, in place, when that is given."""
    target = torch.empty_like(x) if out is None else out
    grid = (triton.cdiv(x.numel(), 4 * BLOCK),)
    _dropout[grid](x, target, x.numel(), p, seed, ADD=out is not None, BLOCK=BLOCK)
    return target
