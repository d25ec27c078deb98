"""A residual sum and its RMS norm in Triton: one pass over both in each direction.

Shapes: all (rows, columns) contiguous but for the norm itself, which may be a part of a wider
matrix; weight (columns,). Sums are in float32.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _rms_norm_forward(x, more, weight, total, out, root, eps, columns: tl.constexpr,
               OUT_STRIDE: tl.constexpr, ADD: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    at, inside = row * columns + column, column < columns
    value = tl.load(x + at, mask=inside, other=0.0)
    if ADD:
        value += tl.load(more + at, mask=inside, other=0.0)
        tl.store(total + at, value, mask=inside)
    exact = value.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(exact * exact) / columns + eps)
    tl.store(root + row, inverse)
    normal = (exact * inverse).to(value.dtype)
    normal *= tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row * OUT_STRIDE + column, normal, mask=inside)


@triton.jit
def _rms_norm_backward(d_total, d_out, total, weight, root, dx, columns: tl.constexpr,
                   COLUMNS: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    at, inside = row * columns + column, column < columns
    inverse = tl.load(root + row)
    grad = tl.load(d_out + at, mask=inside, other=0.0).to(tl.float32)
    grad *= tl.load(weight + column, mask=inside, other=0.0)
    normal = tl.load(total + at, mask=inside, other=0.0) * inverse
    grad = inverse * (grad - normal * (tl.sum(grad * normal) / columns))
    tl.store(dx + at, grad + tl.load(d_total + at, mask=inside, other=0.0), mask=inside)


def rms_norm_forward(
    x: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(total = x + more, ρ); `out` is filled with total ∘ ρ ∘ weight.

    ρ (rows,) = 1 / √(mean of total² + eps), in float32. Without more, x is total.
    """
    rows, columns = x.shape
    total = x if more is None else torch.empty_like(x)
    root = torch.empty(rows, device=x.device)
    _rms_norm_forward[(rows,)](
        x, more, weight, total, out, root, eps, columns=columns, OUT_STRIDE=out.stride(0),
        ADD=more is not None, COLUMNS=triton.next_power_of_2(columns), num_warps=8,
    )  # fmt: skip
    return total, root


def rms_norm_backward(
    d_total: torch.Tensor, d_out: torch.Tensor, total: torch.Tensor, weight: torch.Tensor,
    root: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The gradient of x, and of more: through total and through its norm together.

    With t = total ∘ ρ and g = d_out ∘ weight: dx = d_total + ρ ∘ (g - t ∘ mean(g ∘ t)); `root`: ρ.
    """
    rows, columns = total.shape
    dx = torch.empty_like(total)
    _rms_norm_backward[(rows,)](
        d_total, d_out, total, weight, root, dx, columns=columns,
        COLUMNS=triton.next_power_of_2(columns), num_warps=8,
    )  # fmt: skip
    return dx
