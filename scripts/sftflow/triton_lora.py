"""LoRA's own part of a linear layer in Triton: one pass over its input in each direction.

Dropout happens on the way. Its mask is a function of a seed, so nobody has to store it: one call of
Philox4x32 (Salmon et al. 2011; seven rounds pass all of BigCrush) gives eight numbers of 16 bits,
for eight elements in a row; the probability is p rounded to 1/65536.

Shapes: x and dx (rows, columns) contiguous, columns a multiple of 8; a (rank, columns); hidden and
d_hidden (rows, rank). Sums are in float32.
"""

import torch
import triton
import triton.language as tl

PROJECT_TILE = 32, 128  # rows and columns that a program has in hand; the fastest of those tried
ADAPT_TILE = 32, 64
SHARE = 512  # rows that one program of the backward pass sums over


@triton.jit
def _halves(numbers):
    """(n, m) of 32 bits → (n, m, 2) of 16 bits."""
    numbers = numbers.to(tl.uint32, bitcast=True)
    return tl.join(numbers & 0xFFFF, numbers >> 16)


@triton.jit
def _stay(row, start, columns, threshold, seed, COLUMNS: tl.constexpr):
    """Which elements of the tile (rows, COLUMNS) that begins at column `start` are not dropped."""
    group = start // 8 + tl.arange(0, COLUMNS // 8)
    counter = row[:, None] * (columns // 8) + group[None, :]
    p, q, r, s = tl.randint4x(seed, counter, n_rounds=7)
    # (rows, groups, 2, 2, 2): the eight elements of a group are those of one thread
    numbers = tl.join(tl.join(_halves(p), _halves(r)), tl.join(_halves(q), _halves(s)))
    return numbers.reshape(row.shape[0], COLUMNS) >= threshold


@triton.jit(do_not_specialize=["seed", "rows"])
def _project(
    x, a, hidden, rows, threshold, factor, seed, columns: tl.constexpr, DROP: tl.constexpr,
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
            left = tl.where(_stay(row, start, columns, threshold, seed, COLUMNS), left, 0.0)
        total = tl.dot(left, right, total)
    tl.store(
        hidden + row[:, None] * RANK + rank[None, :],
        total * factor,
        mask=(row < rows)[:, None] & (rank < RANK)[None, :],
    )


@triton.jit(do_not_specialize=["seed", "rows"])
def _adapt(
    x, a, d_hidden, dx, da, rows, threshold, factor, seed, columns: tl.constexpr,
    SHARE: tl.constexpr, DROP: tl.constexpr, HAS_DX: tl.constexpr, RANK: tl.constexpr,
    PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * COLUMNS
    column = start + tl.arange(0, COLUMNS)
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
            stay = _stay(row, start, columns, threshold, seed, COLUMNS)
            value = tl.where(stay, value, 0.0)
        total = tl.dot(tl.trans(grad), value, total)
        if HAS_DX:
            product = tl.dot(grad, low_a) * factor
            if DROP:
                product = tl.where(stay, product, 0.0)
            tl.store(dx + at, product, mask=inside)
    part = tl.program_id(1) * RANK * columns
    tl.store(da + part + tile, total * factor, mask=of_a)


def _padded(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))  # tl.dot's least


def project(x: torch.Tensor, a: torch.Tensor, scale: float, p: float, seed: int) -> torch.Tensor:
    """scale · dropout(x) aᵀ, in x's dtype."""
    (rows, columns), rank, (block, width) = x.shape, len(a), PROJECT_TILE
    hidden = x.new_empty(rows, rank)
    _project[(triton.cdiv(rows, block),)](
        x, a, hidden, rows, round(p * 65536), scale / (1 - p), seed, columns=columns, DROP=p > 0,
        RANK=rank, PADDED=_padded(rank), ROWS=block, COLUMNS=width, num_warps=4,
    )  # fmt: skip
    return hidden


def adapt(
    x: torch.Tensor, a: torch.Tensor, d_hidden: torch.Tensor, scale: float, p: float, seed: int,
    has_dx: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """The gradients of `project` with this seed: of `a` (float32), and of `x` if it has one.

    d_hidden: the gradient of project's result divided by its scale.
    """
    (rows, columns), rank, (block, width) = x.shape, len(a), ADAPT_TILE
    tiles, parts = triton.cdiv(columns, width), triton.cdiv(rows, SHARE)
    da = torch.empty(parts, rank, columns, device=x.device)
    dx = torch.empty_like(x) if has_dx else None
    _adapt[(tiles, parts)](
        x, a, d_hidden, dx, da, rows, round(p * 65536), scale / (1 - p), seed, columns=columns,
        SHARE=SHARE, DROP=p > 0, HAS_DX=has_dx, RANK=rank, PADDED=_padded(rank), ROWS=block,
        COLUMNS=width, num_warps=4,
    )  # fmt: skip
    return da.sum(0), dx  # no atomic additions: those would come in another order every time
