"""Dropout for LoRA in Triton: the mask is a function of a seed, so nobody has to keep it.

One call of Philox4x32 (Salmon et al. 2011; seven rounds pass all of BigCrush) gives eight numbers
of 16 bits. They decide about eight elements of a row, one in each of eight stripes: element
(t, j · width + c) by number j of counter t · width + c, where width = columns / 8. All kernels here
cut a matrix that way, and so agree about the mask. The probability is p rounded to 1/65536.
"""

import torch
import triton
import triton.language as tl

ROWS, COLUMNS = 16, 128  # of a program's tile, in each stripe
STRIPES = 8


@triton.jit
def _numbers(seed, rows, columns, width):
    counter = rows[:, None] * width + columns[None, :]
    return tl.randint4x(seed, counter, n_rounds=7)


@triton.jit
def _keep(value, number, threshold, scale, HIGH: tl.constexpr):
    number = number.to(tl.uint32, bitcast=True)
    bits = (number >> 16) if HIGH else (number & 0xFFFF)
    return tl.where(bits >= threshold, value * scale, 0.0)


@triton.jit
def _drop_stripe(x, out, at, inside, number, threshold, scale, HIGH: tl.constexpr):
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, _keep(value, number, threshold, scale, HIGH), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "seed"])
def _drop(x, out, n_rows, n_columns, threshold, scale, seed, R: tl.constexpr, C: tl.constexpr):
    width = n_columns // 8
    rows, columns = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    inside = (rows[:, None] < n_rows) & (columns[None, :] < width)
    a, b, c, d = _numbers(seed, rows, columns, width)
    at = rows[:, None].to(tl.int64) * n_columns + columns[None, :]
    _drop_stripe(x, out, at, inside, a, threshold, scale, False)
    _drop_stripe(x, out, at + width, inside, a, threshold, scale, True)
    _drop_stripe(x, out, at + 2 * width, inside, b, threshold, scale, False)
    _drop_stripe(x, out, at + 3 * width, inside, b, threshold, scale, True)
    _drop_stripe(x, out, at + 4 * width, inside, c, threshold, scale, False)
    _drop_stripe(x, out, at + 5 * width, inside, c, threshold, scale, True)
    _drop_stripe(x, out, at + 6 * width, inside, d, threshold, scale, False)
    _drop_stripe(x, out, at + 7 * width, inside, d, threshold, scale, True)


@triton.jit
def _add_stripe(
    left, b, out, ranks, columns, at, inside, number, n_columns, rank, threshold, scale, shift,
    HIGH: tl.constexpr,
):  # fmt: skip
    fits = (ranks[:, None] < rank) & (columns[None, :] < n_columns // 8)
    right = tl.load(b + ranks[:, None] * n_columns + columns[None, :] + shift, mask=fits, other=0.0)
    value = _keep(tl.dot(left, right), number, threshold, scale, HIGH)
    value += tl.load(out + at + shift, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at + shift, value, mask=inside)


@triton.jit(do_not_specialize=["n_rows", "seed"])
def _add(
    a, b, out, n_rows, n_columns, rank, threshold, scale, seed,
    R: tl.constexpr, C: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    width = n_columns // 8
    rows, columns = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1) * C + tl.arange(0, C)
    ranks = tl.arange(0, K)
    inside = (rows[:, None] < n_rows) & (columns[None, :] < width)
    fits = (rows[:, None] < n_rows) & (ranks[None, :] < rank)
    left = tl.load(a + rows[:, None] * rank + ranks[None, :], mask=fits, other=0.0)
    p, q, r, s = _numbers(seed, rows, columns, width)
    at = rows[:, None].to(tl.int64) * n_columns + columns[None, :]
    _add_stripe(left, b, out, ranks, columns, at, inside, p, n_columns, rank, threshold, scale,
                0, False)  # fmt: skip
    _add_stripe(left, b, out, ranks, columns, at, inside, p, n_columns, rank, threshold, scale,
                width, True)  # fmt: skip
    _add_stripe(left, b, out, ranks, columns, at, inside, q, n_columns, rank, threshold, scale,
                2 * width, False)  # fmt: skip
    _add_stripe(left, b, out, ranks, columns, at, inside, q, n_columns, rank, threshold, scale,
                3 * width, True)  # fmt: skip
    _add_stripe(left, b, out, ranks, columns, at, inside, r, n_columns, rank, threshold, scale,
                4 * width, False)  # fmt: skip
    _add_stripe(left, b, out, ranks, columns, at, inside, r, n_columns, rank, threshold, scale,
                5 * width, True)  # fmt: skip
    _add_stripe(left, b, out, ranks, columns, at, inside, s, n_columns, rank, threshold, scale,
                6 * width, False)  # fmt: skip
    _add_stripe(left, b, out, ranks, columns, at, inside, s, n_columns, rank, threshold, scale,
                7 * width, True)  # fmt: skip


def _grid(rows: int, columns: int) -> tuple[int, int]:
    return triton.cdiv(rows, ROWS), triton.cdiv(columns // STRIPES, COLUMNS)


def _odds(p: float) -> tuple[int, float]:
    threshold = round(p * 65536)
    return threshold, 65536 / (65536 - threshold)


def dropout(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """Dropout of x (rows, columns), contiguous, columns a multiple of 8."""
    out = torch.empty_like(x)
    threshold, scale = _odds(p)
    _drop[_grid(*x.shape)](x, out, *x.shape, threshold, scale, seed, R=ROWS, C=COLUMNS)
    return out


def add_dropped_product(
    out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, p: float, seed: int
) -> torch.Tensor:
    """out += dropout(a @ b), with the mask that `dropout` has for this seed; returns `out`.

    out (rows, columns), a (rows, rank), b (rank, columns), contiguous; the product is never stored.
    """
    threshold, scale = _odds(p)
    _add[_grid(*out.shape)](
        a, b, out, *out.shape, b.shape[0], threshold, scale, seed,
        R=ROWS, C=COLUMNS, K=max(16, triton.next_power_of_2(b.shape[0])),
    )  # fmt: skip
    return out
