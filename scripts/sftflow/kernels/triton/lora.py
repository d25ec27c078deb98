"""LoRA's A in Triton: one pass over a layer's input in each direction, dropout included.

The mask of the dropout is a function of a seed, so nobody has to store it: an element is dropped if
the product of two numbers of 32 bits, taken as a signed one, is below a threshold: one is drawn for
its row and one for its column (murmur3's mixing of a place and the seed). The `swiglu_` passes do
the same for the down matrix of a gated layer, and its activation first.

Shapes: x and dx (rows, columns), columns a multiple of 16; a (rank, columns); hidden and d_hidden
(rows, rank). A matrix of as many rows as x may be a part of a wider one. Sums are in float32.
"""

import torch
import triton
import triton.language as tl

# the fastest of those tried on an H200: rows and columns that a program has in hand, its warps, the
# tiles it loads ahead; SHARE: over how many rows or columns one program sums
FORWARD = {"ROWS": 32, "COLUMNS": 128, "num_warps": 4, "num_stages": 3}
BACKWARD = {"ROWS": 64, "COLUMNS": 64, "SHARE": 1024, "num_warps": 4, "num_stages": 1}
SWIGLU_FORWARD = {"ROWS": 32, "COLUMNS": 128, "SHARE": 1024, "num_warps": 4, "num_stages": 3}
SWIGLU_BACKWARD = {"ROWS": 32, "COLUMNS": 64, "SHARE": 1024, "num_warps": 4, "num_stages": 3}

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _mix(number, seed):
    number = number.to(tl.uint32) * 0x9E3779B1 + seed
    number = (number ^ (number >> 16)) * 0x85EBCA6B + seed
    number = (number ^ (number >> 13)) * 0xC2B2AE35
    return number ^ (number >> 16) | 1  # odd, so that a product takes all values alike


@triton.jit
def _dropout_mask(row, column, threshold, seed):
    """Which elements of these rows and columns dropout keeps.

    Among any three of them, whatever becomes of two says nothing of the third; only the products
    at the corners of a rectangle are bound to each other.
    """
    seed = seed.to(tl.uint32)
    of_row, of_column = _mix(row, seed), _mix(column.to(tl.uint32) + 0x80000000, seed)
    return (of_row[:, None] * of_column[None, :]).to(tl.int32, bitcast=True) >= threshold


@triton.jit
def _sigmoid(x):
    if INTERPRETED:
        return tl.sigmoid(x)
    # half the instructions: no care for denormal numbers, which 1 + exp(-x) never is
    return tl.inline_asm_elementwise(
        """{
        .reg .f32 sum;
        mul.f32 sum, $1, 0fBFB8AA3B; // -log2(e)
        ex2.approx.ftz.f32 sum, sum;
        add.f32 sum, sum, 0f3F800000;
        rcp.approx.ftz.f32 $0, sum;
        }""",
        "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _low_rows(low, row, rows, STRIDE: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr):
    """A tile (ROWS, PADDED) of low (rows, RANK), whose rows are STRIDE apart."""
    rank = tl.arange(0, PADDED)
    return tl.load(
        low + row.to(tl.int64)[:, None] * STRIDE + rank[None, :],
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
def _store_low_columns(a, column, columns, value, RANK: tl.constexpr, PADDED: tl.constexpr):
    rank = tl.arange(0, PADDED)
    tl.store(
        a + rank[None, :] * columns + column[:, None],
        value,
        mask=(rank < RANK)[None, :] & (column < columns)[:, None],
    )


@triton.jit
def _store_low_rows(low, row, rows, value, STRIDE: tl.constexpr, RANK: tl.constexpr,
                    PADDED: tl.constexpr):  # fmt: skip
    rank = tl.arange(0, PADDED)
    tl.store(
        low + row.to(tl.int64)[:, None] * STRIDE + rank[None, :],
        value,
        mask=(row < rows)[:, None] & (rank < RANK)[None, :],
    )


@triton.jit(do_not_specialize=["seed", "rows"])
def _lora_a_forward(
    x, a, hidden, rows, threshold, factor, seed, columns: tl.constexpr, X_STRIDE: tl.constexpr,
    HIDDEN_STRIDE: tl.constexpr, DROP: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        at = row.to(tl.int64)[:, None] * X_STRIDE + column[None, :]
        left = tl.load(x + at, mask=inside, other=0.0)
        right = _low_columns(a, column, columns, RANK, PADDED).to(left.dtype)
        if DROP:
            left = tl.where(_dropout_mask(row, column, threshold, seed), left, 0.0)
        total = tl.dot(left, right, total)
    _store_low_rows(hidden, row, rows, total * factor, HIDDEN_STRIDE, RANK, PADDED)


@triton.jit(do_not_specialize=["seed", "rows"])
def _lora_a_backward(
    x, a, d_hidden, elsewhere, dx, da, rows, threshold, factor, seed, columns: tl.constexpr,
    X_STRIDE: tl.constexpr, HIDDEN_STRIDE: tl.constexpr, ELSEWHERE_STRIDE: tl.constexpr,
    SHARE: tl.constexpr, DROP: tl.constexpr, HAS_DX: tl.constexpr, RANK: tl.constexpr,
    PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    low_a = (_low_columns(a, column, columns, RANK, PADDED) * factor).to(x.dtype.element_ty)
    total = tl.zeros((COLUMNS, PADDED), tl.float32)
    for first in range(0, SHARE, ROWS):
        row = tl.program_id(1) * SHARE + first + tl.arange(0, ROWS)
        long = row.to(tl.int64)[:, None]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        value = tl.load(x + long * X_STRIDE + column[None, :], mask=inside, other=0.0)
        grad = _low_rows(d_hidden, row, rows, HIDDEN_STRIDE, RANK, PADDED)
        if DROP:
            kept = _dropout_mask(row, column, threshold, seed)
            value = tl.where(kept, value, 0.0)
        total = tl.dot(tl.trans(value), grad, total)
        if HAS_DX:
            product = tl.dot(grad, tl.trans(low_a))
            if DROP:
                product = tl.where(kept, product, 0.0)
            at = long * ELSEWHERE_STRIDE + column[None, :]
            product += tl.load(elsewhere + at, mask=inside, other=0.0)
            tl.store(dx + long * columns + column[None, :], product, mask=inside)
    part = tl.program_id(1) * RANK * columns
    _store_low_columns(da + part, column, columns, total * factor, RANK, PADDED)


@triton.jit
def _beside(b, column, columns, STRIDE: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr):
    """Tiles (COLUMNS, PADDED) of gate's B and of up's, which lie in b (2 · columns, 2 · RANK)."""
    of_up = b + columns * STRIDE + RANK
    return (
        _low_rows(b, column, columns, STRIDE, RANK, PADDED),
        _low_rows(of_up, column, columns, STRIDE, RANK, PADDED),
    )


@triton.jit(do_not_specialize=["seed", "rows"])
def _swiglu_lora_a_forward(
    both, of_both, b, a, act, hidden, rows, threshold, factor, seed, columns: tl.constexpr,
    LOW_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr, ADD: tl.constexpr, ACT_STRIDE: tl.constexpr,
    SHARE: tl.constexpr, DROP: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    long = row.to(tl.int64)[:, None]
    total = tl.zeros((ROWS, PADDED), tl.float32)
    if ADD:
        of_gate = _low_rows(of_both, row, rows, LOW_STRIDE, RANK, PADDED)
        of_up = _low_rows(of_both + RANK, row, rows, LOW_STRIDE, RANK, PADDED)
    for first in range(0, SHARE, COLUMNS):
        column = tl.program_id(1) * SHARE + first + tl.arange(0, COLUMNS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        at = long * (2 * columns) + column[None, :]
        gates = tl.load(both + at, mask=inside, other=0.0).to(tl.float32)
        ups = tl.load(both + columns + at, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            gate_b, up_b = _beside(b, column, columns, B_STRIDE, RANK, PADDED)
            gates += tl.dot(of_gate, tl.trans(gate_b))
            ups += tl.dot(of_up, tl.trans(up_b))
        value = (gates * _sigmoid(gates) * ups).to(act.dtype.element_ty)
        tl.store(act + long * ACT_STRIDE + column[None, :], value, mask=inside)
        right = _low_columns(a, column, columns, RANK, PADDED).to(value.dtype)
        if DROP:
            value = tl.where(_dropout_mask(row, column, threshold, seed), value, 0.0)
        total = tl.dot(value, right, total)
    part = tl.program_id(1) * rows * RANK
    _store_low_rows(hidden + part, row, rows, total * factor, RANK, RANK, PADDED)


@triton.jit(do_not_specialize=["seed", "rows"])
def _swiglu_lora_a_backward(
    both, of_both, b, a, d_hidden, elsewhere, d_both, sums, rows, threshold, factor, seed,
    columns: tl.constexpr, LOW_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr, ADD: tl.constexpr,
    HIDDEN_STRIDE: tl.constexpr,
    ELSEWHERE_STRIDE: tl.constexpr, SHARE: tl.constexpr, DROP: tl.constexpr, RANK: tl.constexpr,
    PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    low_a = (_low_columns(a, column, columns, RANK, PADDED) * factor).to(both.dtype.element_ty)
    sum_a = tl.zeros((COLUMNS, PADDED), tl.float32)
    sum_gate = tl.zeros((COLUMNS, PADDED), tl.float32)
    sum_up = tl.zeros((COLUMNS, PADDED), tl.float32)
    if ADD:
        gate_b, up_b = _beside(b, column, columns, B_STRIDE, RANK, PADDED)
    for first in range(0, SHARE, ROWS):
        row = tl.program_id(1) * SHARE + first + tl.arange(0, ROWS)
        long = row.to(tl.int64)[:, None]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        at = long * (2 * columns) + column[None, :]
        grad = _low_rows(d_hidden, row, rows, HIDDEN_STRIDE, RANK, PADDED)
        product = tl.dot(grad, tl.trans(low_a))
        gates = tl.load(both + at, mask=inside, other=0.0).to(tl.float32)
        ups = tl.load(both + columns + at, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            of_gate = _low_rows(of_both, row, rows, LOW_STRIDE, RANK, PADDED)
            of_up = _low_rows(of_both + RANK, row, rows, LOW_STRIDE, RANK, PADDED)
            gates += tl.dot(of_gate, tl.trans(gate_b))
            ups += tl.dot(of_up, tl.trans(up_b))
        # the sum is there to tie what follows to the product's layout in registers: without it
        # Triton works out all of it twice, in the layout of `both` too
        gates += 0.0 * product
        share = _sigmoid(gates)
        silu = gates * share
        value = (silu * ups).to(both.dtype.element_ty)
        if DROP:
            kept = _dropout_mask(row, column, threshold, seed)
            value = tl.where(kept, value, 0.0)
            product = tl.where(kept, product, 0.0)
        sum_a = tl.dot(tl.trans(value), grad, sum_a)
        d_value = product + tl.load(
            elsewhere + long * ELSEWHERE_STRIDE + column[None, :], mask=inside, other=0.0
        )
        d_ups = (d_value * silu).to(value.dtype)
        d_gates = (d_value * ups * (share + silu * (1 - share))).to(value.dtype)
        tl.store(d_both + at, d_gates, mask=inside)
        tl.store(d_both + columns + at, d_ups, mask=inside)
        if not ADD:
            of_gate = _low_rows(of_both, row, rows, LOW_STRIDE, RANK, PADDED)
            of_up = _low_rows(of_both + RANK, row, rows, LOW_STRIDE, RANK, PADDED)
        sum_gate = tl.dot(tl.trans(d_gates), of_gate, sum_gate)
        sum_up = tl.dot(tl.trans(d_ups), of_up, sum_up)
    part = tl.program_id(1) * 3 * RANK * columns
    _store_low_columns(sums + part, column, columns, sum_a * factor, RANK, PADDED)
    part += RANK * columns
    _store_low_columns(sums + part, column, columns, sum_gate, RANK, PADDED)
    part += RANK * columns
    _store_low_columns(sums + part, column, columns, sum_up, RANK, PADDED)


def _padded(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))  # tl.dot's least


def _fitting(tiles: dict[str, int], padded: int) -> dict[str, int]:
    """Tiles that fit a multiprocessor's shared memory: A's tile (COLUMNS, padded) is in 32 bits.

    Layers that read the same have their ranks side by side: q, k and v of rank 64 make 192.
    """
    if padded <= 128:
        return tiles
    return tiles | {"COLUMNS": tiles["COLUMNS"] // 2, "num_stages": min(tiles["num_stages"], 2)}


def _dropout(scale: float, p: float, seed: int) -> tuple[int, float, int]:
    """The kernels' threshold, factor and seed."""
    return round(p * 2**32) - 2**31, scale / (1 - p), seed


def _added(of_both: torch.Tensor, b: torch.Tensor | None) -> dict[str, int | bool]:
    stride = 0 if b is None else b.stride(0)
    return {"LOW_STRIDE": of_both.stride(0), "B_STRIDE": stride, "ADD": b is not None}


def lora_a_forward(
    x: torch.Tensor, a: torch.Tensor, scale: float, p: float, seed: int,
    hidden: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """h = scale · (x ∘ m) aᵀ in x's dtype, in `hidden` if given; m: dropout's mask / (1 - p)."""
    (rows, columns), rank = x.shape, len(a)
    hidden = x.new_empty(rows, rank) if hidden is None else hidden
    _lora_a_forward[(triton.cdiv(rows, FORWARD["ROWS"]),)](
        x, a, hidden, rows, *_dropout(scale, p, seed), columns=columns, X_STRIDE=x.stride(0),
        HIDDEN_STRIDE=hidden.stride(0), DROP=p > 0, RANK=rank, PADDED=_padded(rank),
        **_fitting(FORWARD, _padded(rank)),
    )  # fmt: skip
    return hidden


def lora_a_backward(
    x: torch.Tensor, a: torch.Tensor, elsewhere: torch.Tensor | None, d_hidden: torch.Tensor,
    scale: float, p: float, seed: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """(da in float32, dx or None), given dx from elsewhere, or None, and dh.

    da = scale · dhᵀ (x ∘ m), dx = dx from elsewhere + scale · (dh a) ∘ m, with the mask of `seed`.
    """
    (rows, columns), rank = x.shape, len(a)
    tiles, parts = triton.cdiv(columns, BACKWARD["COLUMNS"]), triton.cdiv(rows, BACKWARD["SHARE"])
    da = torch.empty(parts, rank, columns, device=x.device)
    dx = None if elsewhere is None else x.new_empty(x.shape)
    _lora_a_backward[(tiles, parts)](
        x, a, d_hidden, elsewhere, dx, da, rows, *_dropout(scale, p, seed), columns=columns,
        X_STRIDE=x.stride(0), HIDDEN_STRIDE=d_hidden.stride(0),
        ELSEWHERE_STRIDE=0 if elsewhere is None else elsewhere.stride(0), DROP=p > 0,
        HAS_DX=elsewhere is not None, RANK=rank, PADDED=_padded(rank), **BACKWARD,
    )  # fmt: skip
    return da.sum(0), dx  # no atomic additions: those would come in another order every time


def swiglu_lora_a_forward(
    both: torch.Tensor, of_both: torch.Tensor, b: torch.Tensor | None, a: torch.Tensor,
    act: torch.Tensor, scale: float, p: float, seed: int,
) -> torch.Tensor:  # fmt: skip
    """`lora_a_forward(act, a, scale, p, seed)`, with act = silu(gate) ∘ up filled in on the way.

    act (rows, columns); both (rows, 2 · columns): gate and up side by side. With b (2 · columns,
    2 · rank), gate's B and up's in two of its quarters, of_both bᵀ is added to both first.
    """
    rows, (rank, columns) = len(both), a.shape
    tiles = triton.cdiv(rows, SWIGLU_FORWARD["ROWS"])
    parts = triton.cdiv(columns, SWIGLU_FORWARD["SHARE"])
    hidden = torch.empty(parts, rows, rank, device=both.device)
    _swiglu_lora_a_forward[(tiles, parts)](
        both, of_both, b, a, act, hidden, rows, *_dropout(scale, p, seed), columns=columns,
        **_added(of_both, b), ACT_STRIDE=act.stride(0), DROP=p > 0, RANK=rank,
        PADDED=_padded(rank), **SWIGLU_FORWARD,
    )  # fmt: skip
    return hidden.sum(0).to(both.dtype)


def swiglu_lora_a_backward(
    both: torch.Tensor, of_both: torch.Tensor, b: torch.Tensor | None, a: torch.Tensor,
    elsewhere: torch.Tensor, d_hidden: torch.Tensor, scale: float, p: float, seed: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """(d both, and in float32 da and the gradients of gate's B and of up's).

    d act = d act from elsewhere + scale · (dh a) ∘ m. With σ = sigmoid(gate):
    d gate = d act ∘ up ∘ σ ∘ (1 + gate ∘ (1 - σ)), d up = d act ∘ gate ∘ σ, da as in
    `lora_a_backward`. of_both (rows, 2 · rank): what gate's B and up's were multiplied with, so
    that their gradients are d gateᵀ and d upᵀ times it; b as in `swiglu_lora_a_forward`.
    """
    rows, (rank, columns) = len(both), a.shape
    tiles = triton.cdiv(columns, SWIGLU_BACKWARD["COLUMNS"])
    parts = triton.cdiv(rows, SWIGLU_BACKWARD["SHARE"])
    sums = torch.empty(parts, 3, rank, columns, device=both.device)
    d_both = torch.empty_like(both)
    _swiglu_lora_a_backward[(tiles, parts)](
        both, of_both, b, a, d_hidden, elsewhere, d_both, sums, rows, *_dropout(scale, p, seed),
        columns=columns, **_added(of_both, b), HIDDEN_STRIDE=d_hidden.stride(0),
        ELSEWHERE_STRIDE=elsewhere.stride(0), DROP=p > 0, RANK=rank, PADDED=_padded(rank),
        **SWIGLU_BACKWARD,
    )  # fmt: skip
    da, d_gate_b, d_up_b = sums.sum(0)
    return d_both, da, d_gate_b.T, d_up_b.T
