"""Rounding to 8 bits in Triton: a row's largest element and its numbers in one pass."""

import torch
import triton
import triton.language as tl

from ..fp8 import KIND, LARGEST, SMALLEST


@triton.jit
def _rounded(x, numbers, scales, columns: tl.constexpr, X_STRIDE: tl.constexpr,
             LARGEST: tl.constexpr, SMALLEST: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    value = tl.load(x + row * X_STRIDE + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value)), SMALLEST) / LARGEST
    tl.store(scales + row, scale)
    tl.store(numbers + row * columns + column, (value / scale).to(tl.float8e4nv), mask=inside)


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See fp8.py; x (rows, columns) may be a part of a wider matrix."""
    x = x if x.stride(1) == 1 else x.contiguous()
    (rows, columns), size = x.shape, triton.next_power_of_2(x.shape[1])
    numbers = torch.empty(rows, columns, dtype=KIND, device=x.device)
    scales = torch.empty(rows, 1, device=x.device)
    _rounded[(rows,)](
        x, numbers, scales, columns=columns, X_STRIDE=x.stride(0), LARGEST=LARGEST,
        SMALLEST=SMALLEST, COLUMNS=size, num_warps=min(16, max(1, size // 1024)),
    )  # fmt: skip
    return numbers, scales
