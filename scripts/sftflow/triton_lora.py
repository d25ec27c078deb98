"""LoRA's own part of a linear layer in Triton: one pass over its input in each direction.

Dropout happens on the way, its mask is kept as one bit for each element. The bits come from
Philox4x32 (Salmon et al. 2011; seven rounds pass all of BigCrush): one call gives eight numbers of
16 bits, for eight elements in a row; the probability is p rounded to 1/65536.

Shapes: x and dx (rows, columns) contiguous, columns a multiple of 8; a (rank, columns); hidden and
d_hidden (rows, rank); bits (rows, columns / 8) bytes. Sums are in float32.
"""

import torch
import triton
import triton.language as tl

PROJECT_TILE = 32, 128  # rows and columns that a program has in hand; the fastest of those tried
ADAPT_TILE = 64, 128
SHARE = 512  # rows that one program of the backward pass sums over


@triton.jit
def _draw(seed, counter, threshold):
    """Which elements stay: counter (rows, groups) → (rows, groups, 8)."""
    p, q, r, s = tl.randint4x(seed, counter, n_rounds=7)
    pairs = tl.join(tl.join(p, q), tl.join(r, s)).to(tl.uint32, bitcast=True)
    numbers = tl.join(pairs & 0xFFFF, pairs >> 16)
    return numbers.reshape(counter.shape[0], counter.shape[1], 8) >= threshold


@triton.jit
def _keep(values, packed):
    """Zero where the bit is 0: values (rows, 8 groups), packed (rows, groups)."""
    bits = tl.join(packed, packed >> 4)
    bits = tl.join(bits, bits >> 2)
    bits = tl.join(bits, bits >> 1)  # (rows, groups, 2, 2, 2): bit 4 i + 2 j + k
    return tl.where((bits & 1).reshape(values.shape) != 0, values, 0.0)


@triton.jit(do_not_specialize=["seed", "rows"])
def _project(
    x, a, hidden, bits, rows, threshold, factor, seed, columns: tl.constexpr, DROP: tl.constexpr,
    RANK: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rank = tl.arange(0, PADDED)
    total = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        left = tl.load(x + at, mask=inside, other=0.0)
        right = tl.load(
            a + rank[None, :] * columns + column[:, None],
            mask=(rank < RANK)[None, :] & (column < columns)[:, None],
            other=0.0,
        ).to(left.dtype)
        if DROP:
            group = start // 8 + tl.arange(0, COLUMNS // 8)
            counter = row[:, None] * (columns // 8) + group[None, :]
            stay = _draw(seed, counter, threshold)
            packed = tl.sum(stay.to(tl.int32) << tl.arange(0, 8)[None, None, :], 2)
            tl.store(
                bits + counter,
                packed.to(tl.uint8),
                mask=(row < rows)[:, None] & (group < columns // 8)[None, :],
            )
            left = tl.where(stay.reshape(left.shape), left, 0.0)
        total = tl.dot(left, right, total)
    tl.store(
        hidden + row[:, None] * RANK + rank[None, :],
        total * factor,
        mask=(row < rows)[:, None] & (rank < RANK)[None, :],
    )


@triton.jit(do_not_specialize=["rows"])
def _adapt(
    x, a, d_hidden, bits, dx, da, rows, factor, columns: tl.constexpr, SHARE: tl.constexpr,
    DROP: tl.constexpr, HAS_DX: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * COLUMNS
    column = start + tl.arange(0, COLUMNS)
    group = start // 8 + tl.arange(0, COLUMNS // 8)
    rank = tl.arange(0, PADDED)
    tile = rank[:, None] * columns + column[None, :]
    of_a = (rank < RANK)[:, None] & (column < columns)[None, :]
    low_a = tl.load(a + tile, mask=of_a, other=0.0).to(x.dtype.element_ty)
    total = tl.zeros((PADDED, COLUMNS), tl.float32)
    for first in range(0, SHARE, ROWS):
        row = tl.program_id(1) * SHARE + first + tl.arange(0, ROWS)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        value = tl.load(x + at, mask=inside, other=0.0)
        grad = tl.load(
            d_hidden + row[:, None] * RANK + rank[None, :],
            mask=(row < rows)[:, None] & (rank < RANK)[None, :],
            other=0.0,
        )
        if DROP:
            packed = tl.load(
                bits + row[:, None] * (columns // 8) + group[None, :],
                mask=(row < rows)[:, None] & (group < columns // 8)[None, :],
                other=0,
            ).to(tl.int32)
            value = _keep(value, packed)
        total = tl.dot(tl.trans(grad), value, total)
        if HAS_DX:
            product = tl.dot(grad, low_a) * factor
            if DROP:
                product = _keep(product, packed)
            tl.store(dx + at, product, mask=inside)
    part = tl.program_id(1) * RANK * columns
    tl.store(da + part + tile, total * factor, mask=of_a)


def _padded(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))  # tl.dot's least


def project(
    x: torch.Tensor, a: torch.Tensor, scale: float, p: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(scale · dropout(x) aᵀ in x's dtype, the bits of the elements that stayed)."""
    (rows, columns), rank, (block, width) = x.shape, len(a), PROJECT_TILE
    hidden = x.new_empty(rows, rank)
    bits = x.new_empty(rows, columns // 8, dtype=torch.uint8) if p else None
    _project[(triton.cdiv(rows, block),)](
        x, a, hidden, bits, rows, round(p * 65536), scale / (1 - p), seed, columns=columns,
        DROP=p > 0, RANK=rank, PADDED=_padded(rank), ROWS=block, COLUMNS=width, num_warps=4,
    )  # fmt: skip
    return hidden, bits


def adapt(
    x: torch.Tensor, a: torch.Tensor, d_hidden: torch.Tensor, bits: torch.Tensor | None,
    scale: float, p: float, has_dx: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """The gradients of `project`: of `a` (float32), and of `x` if it has one.

    d_hidden: the gradient of project's result divided by its scale.
    """
    (rows, columns), rank, (block, width) = x.shape, len(a), ADAPT_TILE
    tiles = triton.cdiv(columns, width)
    parts = triton.cdiv(rows, SHARE)
    da = torch.empty(parts, rank, columns, device=x.device)
    dx = torch.empty_like(x) if has_dx else None
    _adapt[(tiles, parts)](
        x, a, d_hidden, bits, dx, da, rows, scale / (1 - p), columns=columns, SHARE=SHARE,
        DROP=p > 0, HAS_DX=has_dx, RANK=rank, PADDED=_padded(rank), ROWS=block, COLUMNS=width,
        num_warps=4,
    )  # fmt: skip
    return da.sum(0), dx  # no atomic additions: those would come in another order every time
