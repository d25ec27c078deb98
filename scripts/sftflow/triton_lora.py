"""LoRA's own part of a linear layer in Triton: one pass over its input in each direction.

Dropout happens on the way. Its mask is a function of a seed, so nobody has to store it: an element
is dropped by a hash of its place and the seed (murmur3's mixing of 32 bits), with p rounded to
2^-24. The gated passes do the same for the down matrix of a gated layer, and its activation first.

Shapes: x and dx (rows, columns) contiguous, columns a multiple of 16; a (rank, columns); hidden and
d_hidden (rows, rank). Sums are in float32.
"""

import torch
import triton
import triton.language as tl

# the fastest of those tried on an H200: rows and columns that a program has in hand, its warps, the
# tiles it loads ahead; SHARE: over how many rows or columns one program sums
PROJECT = {"ROWS": 32, "COLUMNS": 128, "num_warps": 4, "num_stages": 3}
ADAPT = {"ROWS": 64, "COLUMNS": 32, "SHARE": 512, "num_warps": 4, "num_stages": 3}
GATED_PROJECT = {"ROWS": 64, "COLUMNS": 64, "SHARE": 2048, "num_warps": 4, "num_stages": 2}
GATED_ADAPT = {"ROWS": 16, "COLUMNS": 64, "SHARE": 512, "num_warps": 4, "num_stages": 2}


@triton.jit
def _stay(at, threshold, seed):
    """Which of the elements at these places are not dropped."""
    seed = seed.to(tl.uint32)
    number = at.to(tl.uint32) * 0x9E3779B1 + seed
    number = (number ^ (number >> 16)) * 0x85EBCA6B + seed
    number = (number ^ (number >> 13)) * 0xC2B2AE35
    return number >> 8 >= threshold  # of 24 bits: see _dropout


@triton.jit
def _low_rows(low, row, rows, begin, STRIDE: tl.constexpr, RANK: tl.constexpr,
              PADDED: tl.constexpr):  # fmt: skip
    """A tile (ROWS, PADDED) of low (rows, STRIDE): RANK columns from `begin`, then nothing."""
    rank = tl.arange(0, PADDED)
    return tl.load(
        low + row[:, None] * STRIDE + begin + rank[None, :],
        mask=(row < rows)[:, None] & (rank < RANK)[None, :],
        other=0.0,
    )


@triton.jit
def _low_columns(a, column, columns, RANK: tl.constexpr, PADDED: tl.constexpr):
    """A tile (COLUMNS, PADDED) of aᵀ, a (RANK, columns)."""
    rank = tl.arange(0, PADDED)
    return tl.load(
        a + rank[None, :] * columns + column[:, None],
        mask=(rank < RANK)[None, :] & (column < columns)[:, None],
        other=0.0,
    )


@triton.jit
def _store_low_rows(low, row, rows, value, RANK: tl.constexpr, PADDED: tl.constexpr):
    rank = tl.arange(0, PADDED)
    tl.store(
        low + row[:, None] * RANK + rank[None, :],
        value,
        mask=(row < rows)[:, None] & (rank < RANK)[None, :],
    )


@triton.jit(do_not_specialize=["seed", "rows"])
def _project(
    x, a, hidden, rows, threshold, factor, seed, columns: tl.constexpr, DROP: tl.constexpr,
    RANK: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        left = tl.load(x + at, mask=inside, other=0.0)
        right = _low_columns(a, column, columns, RANK, PADDED).to(left.dtype)
        if DROP:
            left = tl.where(_stay(at, threshold, seed), left, 0.0)
        total = tl.dot(left, right, total)
    _store_low_rows(hidden, row, rows, total * factor, RANK, PADDED)


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
    low_a = (tl.load(a + tile, mask=of_a, other=0.0) * factor).to(x.dtype.element_ty)
    total = tl.zeros((PADDED, COLUMNS), tl.float32)
    for first in range(0, SHARE, ROWS):
        row = tl.program_id(1) * SHARE + first + tl.arange(0, ROWS)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        value = tl.load(x + at, mask=inside, other=0.0)
        grad = _low_rows(d_hidden, row, rows, 0, RANK, RANK, PADDED)
        if DROP:
            stay = _stay(at, threshold, seed)
            value = tl.where(stay, value, 0.0)
        total = tl.dot(tl.trans(grad), value, total)
        if HAS_DX:
            product = tl.dot(grad, low_a)
            if DROP:
                product = tl.where(stay, product, 0.0)
            tl.store(dx + at, product, mask=inside)
    part = tl.program_id(1) * RANK * columns
    tl.store(da + part + tile, total * factor, mask=of_a)


@triton.jit
def _adapted(both, at, inside, of_both, b, row, rows, column, columns, begin, RANK: tl.constexpr,
             PADDED: tl.constexpr):  # fmt: skip
    """(a half's rows of of_both (ROWS, PADDED), its tile of both plus their product with bᵀ)"""
    low = _low_rows(of_both, row, rows, begin, 2 * RANK, RANK, PADDED)
    rank = tl.arange(0, PADDED)
    right = tl.load(
        b + column[None, :] * RANK + rank[:, None],
        mask=(column < columns)[None, :] & (rank < RANK)[:, None],
        other=0.0,
    )
    more = tl.dot(low, right)
    return low, tl.load(both + at, mask=inside, other=0.0).to(tl.float32) + more


@triton.jit(do_not_specialize=["seed", "rows"])
def _gated_project(
    both, of_both, gate_b, up_b, a, act, hidden, rows, threshold, factor, seed,
    columns: tl.constexpr, SHARE: tl.constexpr, DROP: tl.constexpr, RANK: tl.constexpr,
    PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, PADDED), tl.float32)
    for first in range(0, SHARE, COLUMNS):
        start = tl.program_id(1) * SHARE + first
        column = start + tl.arange(0, COLUMNS)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        in_both = at + row.to(tl.int64)[:, None] * columns
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        _, gates = _adapted(
            both, in_both, inside, of_both, gate_b, row, rows, column, columns, 0, RANK, PADDED
        )
        _, ups = _adapted(
            both + columns, in_both, inside, of_both, up_b, row, rows, column, columns, RANK, RANK,
            PADDED,
        )  # fmt: skip
        value = (gates * tl.sigmoid(gates) * ups).to(act.dtype.element_ty)
        tl.store(act + at, value, mask=inside)
        right = _low_columns(a, column, columns, RANK, PADDED).to(value.dtype)
        if DROP:
            value = tl.where(_stay(at, threshold, seed), value, 0.0)
        total = tl.dot(value, right, total)
    part = tl.program_id(1) * rows * RANK
    _store_low_rows(hidden + part, row, rows, total * factor, RANK, PADDED)


@triton.jit(do_not_specialize=["seed", "rows"])
def _gated_adapt(
    both, of_both, gate_b, up_b, a, d_hidden, d_act, d_both, sums, rows, threshold,
    factor, seed, columns: tl.constexpr, SHARE: tl.constexpr, DROP: tl.constexpr,
    RANK: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * COLUMNS
    column = start + tl.arange(0, COLUMNS)
    rank = tl.arange(0, PADDED)
    tile = rank[:, None] * columns + column[None, :]
    within = (rank < RANK)[:, None] & (column < columns)[None, :]
    low_a = (tl.load(a + tile, mask=within, other=0.0) * factor).to(both.dtype.element_ty)
    sum_a = tl.zeros((PADDED, COLUMNS), tl.float32)
    sum_gate = tl.zeros((PADDED, COLUMNS), tl.float32)
    sum_up = tl.zeros((PADDED, COLUMNS), tl.float32)
    for first in range(0, SHARE, ROWS):
        row = tl.program_id(1) * SHARE + first + tl.arange(0, ROWS)
        at = row.to(tl.int64)[:, None] * columns + column[None, :]
        in_both = at + row.to(tl.int64)[:, None] * columns
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        of_gate, gates = _adapted(
            both, in_both, inside, of_both, gate_b, row, rows, column, columns, 0, RANK, PADDED
        )
        of_up, ups = _adapted(
            both + columns, in_both, inside, of_both, up_b, row, rows, column, columns, RANK, RANK,
            PADDED,
        )  # fmt: skip
        share = tl.sigmoid(gates)
        silu = gates * share
        value = (silu * ups).to(both.dtype.element_ty)
        grad = _low_rows(d_hidden, row, rows, 0, RANK, RANK, PADDED)
        product = tl.dot(grad, low_a)
        if DROP:
            stay = _stay(at, threshold, seed)
            value = tl.where(stay, value, 0.0)
            product = tl.where(stay, product, 0.0)
        sum_a = tl.dot(tl.trans(grad), value, sum_a)
        d_value = tl.load(d_act + at, mask=inside, other=0.0) + product
        d_ups = (d_value * silu).to(value.dtype)
        d_gates = (d_value * ups * (share + silu * (1 - share))).to(value.dtype)
        tl.store(d_both + in_both + columns, d_ups, mask=inside)
        tl.store(d_both + in_both, d_gates, mask=inside)
        sum_gate = tl.dot(tl.trans(of_gate), d_gates, sum_gate)
        sum_up = tl.dot(tl.trans(of_up), d_ups, sum_up)
    part = tl.program_id(1) * 3 * RANK * columns
    tl.store(sums + part + tile, sum_a * factor, mask=within)
    tl.store(sums + part + RANK * columns + tile, sum_gate, mask=within)
    tl.store(sums + part + 2 * RANK * columns + tile, sum_up, mask=within)


def _padded(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))  # tl.dot's least


def _dropout(scale: float, p: float, seed: int) -> tuple[int, float, int]:
    """The kernels' threshold, factor and seed."""
    return round(p * 2**24), scale / (1 - p), seed


def project(x: torch.Tensor, a: torch.Tensor, scale: float, p: float, seed: int) -> torch.Tensor:
    """scale · dropout(x) aᵀ, in x's dtype."""
    (rows, columns), rank = x.shape, len(a)
    hidden = x.new_empty(rows, rank)
    _project[(triton.cdiv(rows, PROJECT["ROWS"]),)](
        x, a, hidden, rows, *_dropout(scale, p, seed), columns=columns, DROP=p > 0,
        RANK=rank, PADDED=_padded(rank), **PROJECT,
    )  # fmt: skip
    return hidden


def adapt(
    x: torch.Tensor, a: torch.Tensor, d_hidden: torch.Tensor, scale: float, p: float, seed: int,
    has_dx: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """The gradients of `project` with this seed: of `a` (float32), and of `x` if it has one.

    d_hidden: the gradient of project's result.
    """
    (rows, columns), rank = x.shape, len(a)
    tiles, parts = triton.cdiv(columns, ADAPT["COLUMNS"]), triton.cdiv(rows, ADAPT["SHARE"])
    da = torch.empty(parts, rank, columns, device=x.device)
    dx = torch.empty_like(x) if has_dx else None
    _adapt[(tiles, parts)](
        x, a, d_hidden, dx, da, rows, *_dropout(scale, p, seed), columns=columns,
        DROP=p > 0, HAS_DX=has_dx, RANK=rank, PADDED=_padded(rank), **ADAPT,
    )  # fmt: skip
    return da.sum(0), dx  # no atomic additions: those would come in another order every time


def gated_project(
    both: torch.Tensor, of_both: torch.Tensor, gate_b: torch.Tensor, up_b: torch.Tensor,
    a: torch.Tensor, scale: float, p: float, seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(act, `project(act, a, scale, p, seed)`) with act = silu(gate + LoRA's part) · (up + its).

    both (rows, 2 · columns): gate and up side by side without LoRA's parts, which are the left and
    the right half of of_both (rows, 2 · rank) times gate_bᵀ and up_bᵀ (columns, rank).
    """
    rows, (rank, columns) = len(both), a.shape
    tiles = triton.cdiv(rows, GATED_PROJECT["ROWS"])
    parts = triton.cdiv(columns, GATED_PROJECT["SHARE"])
    act = both.new_empty(rows, columns)
    hidden = torch.empty(parts, rows, rank, device=both.device)
    _gated_project[(tiles, parts)](
        both, of_both, gate_b, up_b, a, act, hidden, rows, *_dropout(scale, p, seed),
        columns=columns, DROP=p > 0, RANK=rank, PADDED=_padded(rank), **GATED_PROJECT,
    )  # fmt: skip
    return act, hidden.sum(0).to(both.dtype)


def gated_adapt(
    both: torch.Tensor, of_both: torch.Tensor, gate_b: torch.Tensor, up_b: torch.Tensor,
    a: torch.Tensor, d_hidden: torch.Tensor, d_act: torch.Tensor, scale: float, p: float, seed: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The gradients of `gated_project`: of both, and in float32 of a, gate_b and up_b.

    d_hidden: as for `adapt`; d_act: the gradient of act, but for what comes through d_hidden.
    """
    rows, (rank, columns) = len(both), a.shape
    tiles = triton.cdiv(columns, GATED_ADAPT["COLUMNS"])
    parts = triton.cdiv(rows, GATED_ADAPT["SHARE"])
    sums = torch.empty(parts, 3, rank, columns, device=both.device)
    d_both = torch.empty_like(both)
    _gated_adapt[(tiles, parts)](
        both, of_both, gate_b, up_b, a, d_hidden, d_act, d_both, sums, rows,
        *_dropout(scale, p, seed), columns=columns, DROP=p > 0, RANK=rank, PADDED=_padded(rank),
        **GATED_ADAPT,
    )  # fmt: skip
    da, d_gate_b, d_up_b = sums.sum(0)
    return d_both, da, d_gate_b.T, d_up_b.T
