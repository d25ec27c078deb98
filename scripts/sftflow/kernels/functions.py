"""Autograd functions for LoRA's layers, with fewer, larger kernels: what fuse.py gives a model.

The adapter reads the input once, dropout included, whose mask is drawn again instead of stored; all
in the activations' dtype, while A, B and their gradients stay in theirs (float32 by default).
LoraLinear is for any layer. LoraQkv and LoraMlp are halves of a decoder layer like Llama's, from a
norm on, on CUDA. In them W and B lie side by side, and so does what they are multiplied with, so
that one product serves both: x Wᵀ + h Bᵀ = [x h] [W B]ᵀ. Or W is an Fp8Matrix (fp8.py), with B
beside it: then W's products alone are made in 8 bits, all else as before.

Notation: d… is the loss's gradient with respect to …; ∘ multiplies elements; s is LoRA's scale; m
is dropout's mask over its probability to keep, m = mask / (1 - p), the same in both directions.
A (rank, in) and B (out, rank) are trained, W (out, in), biases and norms frozen.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch

from .fp8 import Fp8Matrix, rounded

Matrix: TypeAlias = torch.Tensor | Fp8Matrix


def by_triton(x: torch.Tensor) -> bool:
    return x.is_cuda


def lora_a_forward(x, a, scale: float, p: float, seed: int) -> torch.Tensor:
    """h = s · (x ∘ m) Aᵀ: x (tokens, in), a (rank, in) → (tokens, rank) in x's dtype."""
    if by_triton(x):
        from .triton.lora import lora_a_forward as on_cuda

        return on_cuda(x.contiguous(), a, scale, p, seed)
    return (x * dropout_mask(x, p, seed)) @ a.T.to(x.dtype) * (scale / (1 - p))


def lora_a_backward(
    x, a, elsewhere, d_hidden, scale: float, p: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(dA, dx) from dh: dA = s · dhᵀ (x ∘ m), dx = dx from elsewhere + s · (dh A) ∘ m.

    elsewhere (tokens, in) may be None, and then dx is None; d_hidden: dh (tokens, rank).
    """
    if by_triton(x):
        from .triton.lora import lora_a_backward as on_cuda

        return on_cuda(x.contiguous(), a, elsewhere, d_hidden, scale, p, seed)
    kept, d_hidden = dropout_mask(x, p, seed), d_hidden * (scale / (1 - p))
    dx = None if elsewhere is None else elsewhere + d_hidden @ a.to(x.dtype) * kept
    return d_hidden.T @ (x * kept), dx


def dropout_mask(x, p: float, seed: int) -> torch.Tensor:
    """Which elements dropout keeps without CUDA: the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(x.shape, dtype=torch.bool).bernoulli_(1 - p, generator=generator)


def wide_rows(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """An empty matrix whose rows begin at multiples of 128 bytes, as matrix products like them."""
    return like.new_empty(rows, -(-columns // 64) * 64)[:, :columns]


class LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + bias + h Bᵀ with h = s · (x ∘ m) Aᵀ (Hu et al. 2021, arXiv:2106.09685).

    For several layers that read the same x, each with its own (W, bias, A, B): as in Microsoft's
    own loralib, one dropout serves them all, and x is read once. x (tokens, in), y (tokens, out);
    products are in x's dtype. LoRA's part comes first, so that the large product adds to it on its
    way to memory. Kept for the backward pass: x, which the layer before keeps anyway, and
    h (tokens, rank).

    Backward, summed over the layers for dx: dh = dy B, dB = dyᵀ h, dA = s · dhᵀ (x ∘ m),
    dx = dy W + s · (dh A) ∘ m.
    """

    @staticmethod
    def forward(ctx, x, scale, p, seed, *layers):
        weights, biases, all_a, all_b = (layers[i::4] for i in range(4))
        a, low = torch.cat(all_a), [b.to(x.dtype) for b in all_b]
        hidden = lora_a_forward(x, a, scale, p, seed)
        outs, x8 = [], rounded(x) if isinstance(weights[0], Fp8Matrix) else None
        for weight, bias, b, part in zip(weights, biases, low, _split(hidden, low), strict=True):
            if x8 is None:
                y = (part @ b.T).addmm_(x, weight.T)
            else:
                y = weight.forward(x8).addmm_(part, b.T)
            outs.append(y if bias is None else y.add_(bias))
        ctx.save_for_backward(x, a, hidden, *low)
        ctx.weights = weights
        ctx.dtypes = [(a.dtype, b.dtype) for a, b in zip(all_a, all_b, strict=True)]
        ctx.dropout = scale, p, seed
        return tuple(outs)

    @staticmethod
    def backward(ctx, *dys):
        x, a, hidden, *low = ctx.saved_tensors
        d_x, d_hidden, grads = None, x.new_empty(hidden.shape), []
        parts = zip(dys, ctx.weights, low, _split(d_hidden, low), strict=True)
        for dy, weight, b, d_part in parts:
            torch.mm(dy, b, out=d_part)
            if not ctx.needs_input_grad[0]:
                continue
            if isinstance(weight, Fp8Matrix):
                more = weight.backward(rounded(dy))
                d_x = more if d_x is None else d_x.add_(more)
            else:
                d_x = dy @ weight if d_x is None else d_x.addmm_(dy, weight)
        da, dx = lora_a_backward(x, a, d_x, d_hidden, *ctx.dropout)
        parts = zip(dys, _split(da.T, low), _split(hidden, low), ctx.dtypes, strict=True)
        for dy, da, part, dtypes in parts:
            grads += [None, None, da.T.to(dtypes[0]), (dy.T @ part).to(dtypes[1])]
        return dx, None, None, None, *grads


def _split(hidden: torch.Tensor, all_b: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Each layer's columns of what lies side by side."""
    return hidden.split([b.shape[1] for b in all_b], dim=1)


def blocks(shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of each B (out, rank) among several, below and right of those before."""
    row, column = 0, 0
    for out, rank in shapes:
        yield slice(row, row + out), slice(column, column + rank)
        row, column = row + out, column + rank


def lay(all_b: Sequence[torch.Tensor], matrix: Matrix) -> None:
    """Write each B beside the rows of its W."""
    beside = (
        matrix.beside
        if isinstance(matrix, Fp8Matrix)
        else matrix[:, -sum(b.shape[1] for b in all_b) :]
    )
    for b, block in zip(all_b, blocks([b.shape for b in all_b]), strict=True):
        beside[block] = b


def wide_forward(wide: torch.Tensor, matrix: Matrix, bias=None, add=True) -> torch.Tensor:
    """[x h] [W B]ᵀ + bias: wide (tokens, in + ranks) → (tokens, out)

    add: False leaves h Bᵀ to who reads it, where B lies beside an Fp8Matrix.
    """
    if isinstance(matrix, Fp8Matrix):
        x, h = wide.split((matrix.numbers.shape[1], matrix.beside.shape[1]), 1)
        y = matrix.forward(rounded(x))
        y = y.addmm_(h, matrix.beside.T) if add else y
        return y if bias is None else y.add_(bias)
    return wide @ matrix.T if bias is None else torch.addmm(bias, wide, matrix.T)


def wide_backward(
    dy: torch.Tensor, matrix: Matrix, ranks: int, has_dx: bool = True, apart: bool = False
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """dy [W B] → (dx (tokens, in), dh (tokens, ranks)); without has_dx, dx is None.

    apart: as two products, which is faster where W is wide.
    """
    if isinstance(matrix, Fp8Matrix):
        return matrix.backward(rounded(dy)) if has_dx else None, dy @ matrix.beside
    width = matrix.shape[1] - ranks
    if not has_dx:
        return None, dy @ matrix[:, width:]
    d_wide = wide_rows(dy, len(dy), matrix.shape[1])
    for part in (slice(width), slice(width, None)) if apart else (slice(None),):
        torch.mm(dy, matrix[:, part], out=d_wide[:, part])
    d_x, d_hidden = d_wide.split((width, ranks), 1)
    return d_x, d_hidden


def rms_norm_lora_forward(
    x, more, norm, eps, all_a, all_b, matrix, bias, dropout, add=True
) -> tuple:
    """(t = x + more, y = [n h] [W B]ᵀ + bias, what the backward pass needs).

    n = t ∘ ρ ∘ norm is t's RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467), with
    ρ = 1 / √(mean of t² + eps) for each token; h = s · (n ∘ m) Aᵀ with all A below each other.
    x, more, t (tokens, in); more and bias may be None. matrix [W B] (out, in + ranks) has the W
    below each other, each with its own B beside it and zeros for the others'.
    """
    from .triton.lora import lora_a_forward
    from .triton.norm import rms_norm_forward

    lay(all_b, matrix)
    a = torch.cat(all_a)
    wide = wide_rows(x, len(x), x.shape[1] + len(a))
    n, h = wide.split((x.shape[1], len(a)), 1)
    total, root = rms_norm_forward(x.contiguous(), more, norm, eps, n)
    scale, p, seed = dropout
    lora_a_forward(n, a, scale, p, seed, h)
    return total, wide_forward(wide, matrix, bias, add), (total, norm, root, n, h, a)


def rms_norm_lora_backward(d_total, d_product, saved, matrix, dropout, has_dx: bool) -> tuple:
    """(dx, which is also the gradient of more; that of all A) from dt and dy.

    [dn' dh] = dy [W B], dA = s · dhᵀ (n ∘ m), dn = dn' + s · (dh A) ∘ m, and through the norm
    dx = dt + ρ ∘ (g - t ρ ∘ mean(g ∘ t ρ)) with g = dn ∘ norm. Without has_dx, dx is None.
    """
    from .triton.lora import lora_a_backward
    from .triton.norm import rms_norm_backward

    total, norm, root, n, _, a = saved
    given = wide_backward(d_product, matrix, len(a), has_dx)  # h has a gradient always
    da, dn = lora_a_backward(n, a, *given, *dropout)
    dx = rms_norm_backward(d_total.contiguous(), dn, total, norm, root) if has_dx else None
    return dx, da


def in_dtypes(grads: Iterable[tuple], dtypes: Sequence[torch.dtype]) -> list[torch.Tensor]:
    """The gradients of each layer's A and B in turn, in the dtypes of A and B."""
    pairs = zip(itertools.chain.from_iterable(grads), dtypes, strict=True)
    return [grad.to(dtype) for grad, dtype in pairs]


class LoraQkv(torch.autograd.Function):
    """(x, q, k, v): [q k v] = [n h] [W B]ᵀ + bias of n = RMS norm of x; then q and k are rotated.

    x (tokens, in) is handed through, so that its gradient from both is summed in one pass. matrix
    and bias: see `rms_norm_lora_forward`; cos and sin (tokens, size), whose right half repeats the
    left one; q (tokens, heads[0], size), k and v (tokens, heads[1], size); all_ab: A and B of q, k
    and v in turn. Rotation (Su et al. 2021, arXiv:2104.09864) of a head's halves (l, r):
    (l cos - r sin, r cos + l sin).

    Backward: dq and dk are rotated by the negative angle, which gives dy = d[q k v] (tokens, out);
    dB = dyᵀ h, of which each layer's block is taken; the rest: `rms_norm_lora_backward`.
    """

    @staticmethod
    def forward(ctx, x, norm, eps, dropout, matrix, bias, cos, sin, heads, *all_ab):
        from .triton.rope import rope_forward

        all_a, all_b = all_ab[::2], all_ab[1::2]
        entrance = x, None, norm, eps, all_a, all_b, matrix, bias, dropout
        x, joint, saved = rms_norm_lora_forward(*entrance)
        ctx.save_for_backward(*saved, cos, sin)
        ctx.matrix, ctx.dropout = matrix, dropout  # its B is the same until the backward pass
        ctx.shapes, ctx.dtypes = [b.shape for b in all_b], [each.dtype for each in all_ab]
        return x.view_as(x), *rope_forward(joint, cos, sin, *heads)

    @staticmethod
    def backward(ctx, dx, *d_qkv):
        from .triton.rope import rope_backward

        *saved, cos, sin = ctx.saved_tensors
        d_q, d_k, d_v = (each.contiguous() for each in d_qkv)
        d_joint = rope_backward(d_q, d_k, d_v, cos, sin)
        has_dx = ctx.needs_input_grad[0]
        dx, da = rms_norm_lora_backward(dx, d_joint, saved, ctx.matrix, ctx.dropout, has_dx)
        *_, h, _ = saved
        db = d_joint.T @ h
        grads = ((da[columns], db[rows, columns]) for rows, columns in blocks(ctx.shapes))
        return dx, *[None] * 8, *in_dtypes(grads, ctx.dtypes)  # 8: norm to heads


class LoraMlp(torch.autograd.Function):
    """t + down(silu(gate(n)) ∘ up(n)), n = RMS norm of t = x + more: SwiGLU (arXiv:2002.05202).

    Llama's gated layer with the norm before it and the residual sums. x and more (tokens, in), more
    may be None; seeds: of the dropout before gate and up, and before down; matrix of gate and up:
    see `rms_norm_lora_forward`; down's [W B] (in, inner + rank); all_ab: A and B of gate, up and
    down in turn, all of one rank. With act = silu(gate) ∘ up (tokens, inner) and
    h = s · (act ∘ m) Aᵀ of down, the result is t + [act h] [W B]ᵀ of down.

    Backward: [d act' dh] = dy [W B] of down, d act = d act' + s · (dh A) ∘ m; with
    σ = sigmoid(gate): d gate = d act ∘ up ∘ σ ∘ (1 + gate ∘ (1 - σ)), d up = d act ∘ gate ∘ σ;
    of down dB = dyᵀ h, dA = s · dhᵀ (act ∘ m); the rest: `rms_norm_lora_backward` with dt = dy.
    """

    @staticmethod
    def forward(ctx, x, more, norm, eps, scale, p, seeds, matrix, down, *all_ab):
        from .triton.lora import swiglu_lora_a_forward

        dropouts = [(scale, p, seed) for seed in seeds]
        all_a, all_b = all_ab[::2], all_ab[1::2]
        entrance = x, more, norm, eps, all_a[:2], all_b[:2], matrix, None, dropouts[0]
        total, both, saved = rms_norm_lora_forward(*entrance, add=False)
        lay(all_b[2:], down)
        ranks, width = all_a[2].shape
        act = wide_rows(x, len(x), width + ranks)
        inner, of_down = act.split((width, ranks), 1)
        *_, of_both, _ = saved
        beside = matrix.beside if isinstance(matrix, Fp8Matrix) else None
        h = swiglu_lora_a_forward(both, of_both, beside, all_a[2], inner, *dropouts[1])
        of_down.copy_(h)
        ctx.save_for_backward(*saved, both, all_a[2], h)
        ctx.matrices = matrix, down  # their B is the same until the backward pass
        ctx.dropouts, ctx.dtypes = dropouts, [each.dtype for each in all_ab]
        return wide_forward(act, down).add_(total)

    @staticmethod
    def backward(ctx, dy):
        from .triton.lora import swiglu_lora_a_backward

        *saved, both, down_a, of_down = ctx.saved_tensors
        matrix, down = ctx.matrices
        *_, of_both, _ = saved
        beside = matrix.beside if isinstance(matrix, Fp8Matrix) else None
        given = both, of_both, beside, down_a, *wide_backward(dy, down, len(down_a), apart=True)
        d_both, d_down_a, *db = swiglu_lora_a_backward(*given, *ctx.dropouts[1])
        has_dx = any(ctx.needs_input_grad[:2])
        dx, da = rms_norm_lora_backward(dy, d_both, saved, matrix, ctx.dropouts[0], has_dx)
        grads = zip((*da.chunk(2), d_down_a), (*db, dy.T @ of_down), strict=True)
        more = dx if ctx.needs_input_grad[1] else None
        return dx, more, *[None] * 7, *in_dtypes(grads, ctx.dtypes)  # 7: norm to down


class ResidualRmsNorm(torch.autograd.Function):
    """(x, n = x ∘ ρ ∘ weight), ρ = 1 / √(mean of x² + eps) for each token; x (tokens, size).

    x is handed through so that its gradient from both is summed in one pass:
    dx = d(first) + ρ ∘ (g - x ρ ∘ mean(g ∘ x ρ)) with g = dn ∘ weight.
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        from .triton.norm import rms_norm_forward

        x, out = x.contiguous(), torch.empty_like(x)
        _, root = rms_norm_forward(x, None, weight, eps, out)
        ctx.save_for_backward(x, weight, root)
        return x.view_as(x), out

    @staticmethod
    def backward(ctx, dx, d_out):
        from .triton.norm import rms_norm_backward

        dx = rms_norm_backward(dx.contiguous(), d_out.contiguous(), *ctx.saved_tensors)
        return dx, None, None
