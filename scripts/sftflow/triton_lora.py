"""Dropout for LoRA in Triton: the mask is a function of a seed, so nobody has to keep it.

One call of Philox4x32 (Salmon et al. 2011; seven rounds pass all of BigCrush) gives eight numbers
of 16 bits. They decide about eight elements of a row, one in each of eight stripes: element
(row, j · width + column) by number j of counter row · width + column, where width is an eighth of
the columns. Both kernels cut a matrix that way, and so agree about the mask. The probability is p
rounded to 1/65536.
"""

import torch
import triton
import triton.language as tl

BLOCK = 256  # columns of each stripe in one program
LARGEST_RANK = 16  # of `_add`, whose loop over it is unrolled


@triton.jit
def _load(x, at, inside):
    return tl.load(x + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _keep(value, number, threshold, scale, HIGH: tl.constexpr):
    number = number.to(tl.uint32, bitcast=True)
    bits = (number >> 16) if HIGH else (number & 0xFFFF)
    return tl.where(bits >= threshold, value * scale, 0.0)


@triton.jit(do_not_specialize=["seed"])
def _drop(x, out, width, threshold, scale, seed, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = row.to(tl.int64) * 8 * width + column
    # all loads before any store: the compiler can't know that they do not overlap
    v0, v1 = _load(x, at, inside), _load(x, at + width, inside)
    v2, v3 = _load(x, at + 2 * width, inside), _load(x, at + 3 * width, inside)
    v4, v5 = _load(x, at + 4 * width, inside), _load(x, at + 5 * width, inside)
    v6, v7 = _load(x, at + 6 * width, inside), _load(x, at + 7 * width, inside)
    a, b, c, d = tl.randint4x(seed, row * width + column, n_rounds=7)
    tl.store(out + at, _keep(v0, a, threshold, scale, False), mask=inside)
    tl.store(out + at + width, _keep(v1, a, threshold, scale, True), mask=inside)
    tl.store(out + at + 2 * width, _keep(v2, b, threshold, scale, False), mask=inside)
    tl.store(out + at + 3 * width, _keep(v3, b, threshold, scale, True), mask=inside)
    tl.store(out + at + 4 * width, _keep(v4, c, threshold, scale, False), mask=inside)
    tl.store(out + at + 5 * width, _keep(v5, c, threshold, scale, True), mask=inside)
    tl.store(out + at + 6 * width, _keep(v6, d, threshold, scale, False), mask=inside)
    tl.store(out + at + 7 * width, _keep(v7, d, threshold, scale, True), mask=inside)


@triton.jit
def _product(left, right, columns, inside, RANK: tl.constexpr):
    """One row of `a` (at `left`) times the columns of `b` (at `right`, `columns` in each row)."""
    value = tl.load(left).to(tl.float32) * _load(right, 0, inside)
    for k in tl.static_range(1, RANK):
        value += tl.load(left + k).to(tl.float32) * _load(right, k * columns, inside)
    return value


@triton.jit(do_not_specialize=["seed"])
def _add(a, b, out, width, threshold, scale, seed, BLOCK: tl.constexpr, RANK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    at = row.to(tl.int64) * 8 * width + column
    left, right, n = a + row.to(tl.int64) * RANK, b + column, 8 * width
    v0, v1 = _load(out, at, inside), _load(out, at + width, inside)
    v2, v3 = _load(out, at + 2 * width, inside), _load(out, at + 3 * width, inside)
    v4, v5 = _load(out, at + 4 * width, inside), _load(out, at + 5 * width, inside)
    v6, v7 = _load(out, at + 6 * width, inside), _load(out, at + 7 * width, inside)
    p, q, r, s = tl.randint4x(seed, row * width + column, n_rounds=7)
    v0 += _keep(_product(left, right, n, inside, RANK), p, threshold, scale, False)
    v1 += _keep(_product(left, right + width, n, inside, RANK), p, threshold, scale, True)
    v2 += _keep(_product(left, right + 2 * width, n, inside, RANK), q, threshold, scale, False)
    v3 += _keep(_product(left, right + 3 * width, n, inside, RANK), q, threshold, scale, True)
    v4 += _keep(_product(left, right + 4 * width, n, inside, RANK), r, threshold, scale, False)
    v5 += _keep(_product(left, right + 5 * width, n, inside, RANK), r, threshold, scale, True)
    v6 += _keep(_product(left, right + 6 * width, n, inside, RANK), s, threshold, scale, False)
    v7 += _keep(_product(left, right + 7 * width, n, inside, RANK), s, threshold, scale, True)
    tl.store(out + at, v0, mask=inside)
    tl.store(out + at + width, v1, mask=inside)
    tl.store(out + at + 2 * width, v2, mask=inside)
    tl.store(out + at + 3 * width, v3, mask=inside)
    tl.store(out + at + 4 * width, v4, mask=inside)
    tl.store(out + at + 5 * width, v5, mask=inside)
    tl.store(out + at + 6 * width, v6, mask=inside)
    tl.store(out + at + 7 * width, v7, mask=inside)


def _odds(p: float) -> tuple[int, float]:
    threshold = round(p * 65536)
    return threshold, 65536 / (65536 - threshold)


def dropout(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """Dropout of x (rows, columns), contiguous, columns a multiple of 8."""
    out, width = torch.empty_like(x), x.shape[1] // 8
    grid = (x.shape[0], triton.cdiv(width, BLOCK))
    _drop[grid](x, out, width, *_odds(p), seed, BLOCK=BLOCK, num_warps=2)
    return out


def add_dropped_product(
    out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, p: float, seed: int
) -> torch.Tensor:
    """out += dropout(a @ b), with the mask that `dropout` has for this seed; returns `out`.

    out (rows, columns), a (rows, rank), b (rank, columns), contiguous. Up to LARGEST_RANK the
    product is never stored.
    """
    width, rank = out.shape[1] // 8, b.shape[0]
    if rank > LARGEST_RANK:
        return out.add_(dropout(a @ b, p, seed))
    grid = (out.shape[0], triton.cdiv(width, BLOCK))
    _add[grid](a, b, out, width, *_odds(p), seed, BLOCK=BLOCK, RANK=rank, num_warps=2)
    return out
