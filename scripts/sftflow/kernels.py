"""Less work for the same numbers: packed attention and a LoRA layer for CUDA.

Measured on an H200 (tests/performance/README.md), a training with stock parts waits for the CPU,
which starts some thirty small kernels for each of the 224 adapted matrices of a 7B model, and half
of what the GPU computes is padding. Two parts change that:

`varlen` is an attention implementation for transformers in which the dialogues of a micro-batch
lie behind each other in one row, without padding, and each attends to itself alone. ms-swift
prepares such rows (`padding_free`) but allows them with the flash-attn packages only, which have no
wheels; torch ships the same kernel.

`fuse_lora` gives PEFT's LoRA layers a forward and backward pass of their own: the base matrix in
one product, the adapter added in place, dropout recomputed instead of stored, in the activations'
dtype, while A, B and their gradients stay in theirs (float32 by default).

Imported inside ms-swift's process only: needs torch, transformers, PEFT, and Triton on CUDA.
"""

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

# --- packed attention ----------------------------------------------------------------------------


class Bounds:
    """Where the dialogues of a packed row begin and end, found once per forward pass.

    Each begins at position 0. Finding them waits for the GPU, so the answer for the last
    `position_ids` is kept: every layer, and the recomputation in a backward pass, asks for it.
    """

    def __init__(self):
        self.seen: torch.Tensor | None = None

    def __call__(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
        """position_ids (1, tokens) → bounds (dialogues + 1,) in int32, and the longest dialogue."""
        if position_ids is not self.seen:
            begins = (position_ids[0] == 0).nonzero()[:, 0]
            self.bounds = F.pad(begins, (0, 1), value=position_ids.shape[1]).int()
            self.longest = int(self.bounds.diff().max())
            self.seen = position_ids
        return self.bounds, self.longest


bounds = Bounds()


def varlen_attention(
    module, query, key, value, attention_mask, scaling=None, position_ids=None, **_
) -> tuple[torch.Tensor, None]:
    """Causal attention within each dialogue of a row: transformers' attention interface.

    query (1, heads, tokens, size), key and value (1, kv heads, tokens, size)
    → (1, tokens, heads, size).
    """
    ends, longest = bounds(position_ids)
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    out = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0)
    )
    return out[None], None


def allow_packing() -> None:
    """Register `varlen`, and let ms-swift pack rows for it."""
    from swift.arguments import SftArguments

    AttentionInterface.register("varlen", varlen_attention)
    check = SftArguments._check_padding_free

    def check_padding_free(self) -> None:
        if self.attn_impl != "varlen":
            check(self)

    SftArguments._check_padding_free = check_padding_free


# --- LoRA ----------------------------------------------------------------------------------------


def dropped(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """Dropout of x (rows, columns), scaled by 1 / (1 - p): the same mask for the same seed."""
    if p == 0:
        return x
    if x.is_cuda:
        from sftflow.triton_lora import dropout

        return dropout(x.contiguous(), p, seed)
    generator = torch.Generator().manual_seed(seed)
    keep = torch.empty(x.shape).bernoulli_(1 - p, generator=generator).to(x.dtype)
    return x * keep / (1 - p)


def add_dropped(out, a, b, p: float, seed: int) -> torch.Tensor:
    """out += dropout(a @ b) with the mask of `dropped`, in place."""
    if p and out.is_cuda:
        from sftflow.triton_lora import add_dropped_product

        return add_dropped_product(out, a.contiguous(), b.contiguous(), p, seed)
    return out.add_(dropped(a @ b, p, seed))


class LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + bias + s · dropout(x) Aᵀ Bᵀ with W and bias frozen (Hu et al. 2021).

    x (tokens, in), W (out, in), A (rank, in), B (out, rank). Kept for the backward pass: x, which
    the layer before keeps anyway, and dropout(x) Aᵀ (tokens, rank).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale, p, seed):
        low_a, low_b = a.to(x.dtype), (b * scale).to(x.dtype)
        hidden = dropped(x, p, seed) @ low_a.T
        y = F.linear(x, weight, bias).addmm_(hidden, low_b.T)
        ctx.save_for_backward(x, weight, low_a, low_b, hidden)
        ctx.dtypes, ctx.scale, ctx.p, ctx.seed = (a.dtype, b.dtype), scale, p, seed
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, low_a, low_b, hidden = ctx.saved_tensors
        d_hidden = dy @ low_b
        da = (d_hidden.T @ dropped(x, ctx.p, ctx.seed)).to(ctx.dtypes[0])
        db = (dy.T @ hidden).to(ctx.dtypes[1]).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = add_dropped(dy @ weight, d_hidden, low_a, ctx.p, ctx.seed)
        return dx, None, None, da, db, None, None, None


def fusable(layer: torch.nn.Module) -> bool:
    """A plain LoRA layer: one adapter, no variant (DoRA), a frozen unquantised matrix below."""
    return (
        type(layer) is Linear
        and type(layer.get_base_layer()) is torch.nn.Linear
        and not layer.get_base_layer().weight.requires_grad
        and layer.in_features % 8 == 0
        and not layer.fan_in_fan_out
        and len(layer.active_adapters) == len(layer.lora_A) == 1
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
    )


def forward(layer: Linear, x: torch.Tensor) -> torch.Tensor:
    """What `fuse_lora` puts in place of PEFT's forward."""
    if layer.disable_adapters or layer.merged:
        return Linear.forward(layer, x)
    (name,) = layer.lora_A
    base = layer.get_base_layer()
    dropout = layer.lora_dropout[name]
    p = dropout.p if layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0
    # from torch's own generator, so that a resumed training draws the same
    seed = int(torch.randint(2**31, ())) if p else 0
    y = LoraLinear.apply(
        x.flatten(0, -2), base.weight, base.bias, layer.lora_A[name].weight,
        layer.lora_B[name].weight, layer.scaling[name], p, seed,
    )  # fmt: skip
    return y.unflatten(0, x.shape[:-1])


def fuse_lora(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of `model` the fused passes; returns how many there are."""
    layers = [layer for layer in model.modules() if fusable(layer)]
    for layer in layers:
        layer.forward = forward.__get__(layer)
    return len(layers)
