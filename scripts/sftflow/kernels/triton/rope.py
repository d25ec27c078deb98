"""Rotary embedding in Triton: queries and keys are rotated on their way from one matrix to three.

Shapes: joint (tokens, (heads + 2 · kv heads) · size), a token's queries, keys and values side by
side; q (tokens, heads, size), k and v (tokens, kv heads, size); cos and sin (tokens, size), of
which the right half repeats the left one. All contiguous.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def _turn(side, apart, cos, sin, COUNT: tl.constexpr, SIZE: tl.constexpr, BACK: tl.constexpr,
          ROTATE: tl.constexpr, COUNTS: tl.constexpr, HALF: tl.constexpr):  # fmt: skip
    """One token's heads of one kind, from joint (`side`) to their own tensor (`apart`), or back."""
    head, place = tl.arange(0, COUNTS), tl.arange(0, HALF)
    at = head[:, None] * SIZE + place[None, :]
    inside = (head < COUNT)[:, None] & (place < SIZE // 2)[None, :]
    if BACK:
        source, target = apart, side
    else:
        source, target = side, apart
    left = tl.load(source + at, mask=inside)
    right = tl.load(source + SIZE // 2 + at, mask=inside)
    if ROTATE:
        left, right = left * cos - right * sin, right * cos + left * sin
    tl.store(target + at, left, mask=inside)
    tl.store(target + SIZE // 2 + at, right, mask=inside)


@triton.jit
def _rope(joint, q, k, v, cos, sin, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
            SIZE: tl.constexpr, BACK: tl.constexpr, MOST: tl.constexpr, FEWER: tl.constexpr,
            HALF: tl.constexpr):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, HALF)
    at, inside = token * SIZE + place, place < SIZE // 2
    cos = tl.load(cos + at, mask=inside).to(tl.float32)[None, :]
    sin = tl.load(sin + at, mask=inside).to(tl.float32)[None, :]
    if BACK:
        sin = -sin
    joint += token * (HEADS + 2 * KV_HEADS) * SIZE
    _turn(joint, q + token * HEADS * SIZE, cos, sin, HEADS, SIZE, BACK, True, MOST, HALF)
    joint += HEADS * SIZE
    _turn(joint, k + token * KV_HEADS * SIZE, cos, sin, KV_HEADS, SIZE, BACK, True, FEWER, HALF)
    joint += KV_HEADS * SIZE
    _turn(joint, v + token * KV_HEADS * SIZE, cos, sin, KV_HEADS, SIZE, BACK, False, FEWER, HALF)


def _launch(joint, q, k, v, cos, sin, back: bool) -> None:
    tokens, heads, size = q.shape
    _rope[(tokens,)](
        joint, q, k, v, cos, sin, HEADS=heads, KV_HEADS=k.shape[1], SIZE=size, BACK=back,
        MOST=triton.next_power_of_2(heads), FEWER=triton.next_power_of_2(k.shape[1]),
        HALF=triton.next_power_of_2(size // 2),
    )  # fmt: skip


def rope_forward(
    joint: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int, kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """joint → (q and k rotated, v): (l, r) → (l cos - r sin, r cos + l sin) for a head's halves."""
    size = joint.shape[1] // (heads + 2 * kv_heads)
    assert cos.shape == sin.shape == (len(joint), size)
    q, k, v = (joint.new_empty(len(joint), count, size) for count in (heads, kv_heads, kv_heads))
    _launch(joint, q, k, v, cos, sin, False)
    return q, k, v


def rope_backward(
    d_q: torch.Tensor, d_k: torch.Tensor, d_v: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """dq, dk, dv → d joint: the rotation by the negative angle."""
    joint = d_q.new_empty(len(d_q), sum(each[0].numel() for each in (d_q, d_k, d_v)))
    _launch(joint, d_q, d_k, d_v, cos, sin, True)
    return joint
