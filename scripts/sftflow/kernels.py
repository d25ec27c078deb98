"""Less work for the same numbers: packed attention and a LoRA layer for CUDA.

Measured on an H200 (tests/performance/README.md), a training with stock parts waits for the CPU,
which starts some thirty small kernels for each of the 224 adapted matrices of a 7B model, and half
of what the GPU computes is padding. Two parts change that:

`varlen` is an attention implementation for transformers in which the dialogues of a micro-batch
lie behind each other in one row, without padding, and each attends to itself alone. ms-swift
prepares such rows (`padding_free`) but allows them with the flash-attn packages only, which have no
wheels; torch ships the same kernel. Without CUDA the same attention is computed dialogue by
dialogue: slowly, for tests.

`fuse_lora` gives PEFT's LoRA layers a forward and backward pass of their own: the adapter reads the
input once, dropout included, whose mask is drawn again instead of stored, and the base matrix adds
its product in place; all in the activations' dtype, while A, B and their gradients stay in theirs
(float32 by default).

Imported inside ms-swift's process only: needs torch, transformers, PEFT, and Triton on CUDA.
"""

import functools
import itertools

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from sftflow.training import FUSED_RANK

# --- packed attention ----------------------------------------------------------------------------


def packed(row: dict[str, torch.Tensor]) -> dict:
    """Add to a packed row what the model needs to know about it, while it is still on the CPU.

    row: input_ids, labels, position_ids (1, tokens); every dialogue begins at position 0. Adds
    `cu_seq_lens_q` (dialogues + 1,), the bounds of the dialogues, and `max_length_q`, the longest.
    Labels shrink to those that count, behind one that does not, and `logits_to_keep` holds the
    places that predict them (ms-swift does the same later, on the GPU, and waits for it).
    """
    begins = (row["position_ids"][0] == 0).nonzero()[:, 0]
    bounds = F.pad(begins, (0, 1), value=row["position_ids"].shape[1]).int()
    row |= {"cu_seq_lens_q": bounds, "max_length_q": int(bounds.diff().max())}
    if "labels" in row:
        counts = row["labels"][0] != -100
        row["labels"] = F.pad(row["labels"][:, counts], (1, 0), value=-100)
        row["logits_to_keep"] = F.pad(counts[1:], (0, 1), value=True).nonzero()[:, 0]
    return row


def varlen_attention(
    module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None,
    **_,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention within each dialogue of a row: transformers' attention interface.

    query (1, heads, tokens, size), key and value (1, kv heads, tokens, size)
    → (1, tokens, heads, size). Without bounds the row is one dialogue, or a batch of equal ones.
    """
    if cu_seq_lens_q is None or not query.is_cuda:
        ends = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
        parts = [
            F.scaled_dot_product_attention(
                *(each[:, :, begin:end] for each in (query, key, value)),
                is_causal=end - begin > 1 and query.shape[2] == key.shape[2],
                scale=scaling, enable_gqa=True,
            )
            for begin, end in itertools.pairwise(ends)
        ]  # fmt: skip
        return torch.cat(parts, 2).transpose(1, 2), None
    # not each[0]: its gradient would be a copy into zeros, in another order of dimensions
    query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    out = varlen_attn(
        query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
        scale=scaling, window_size=(-1, 0),
    )  # fmt: skip
    return out.unsqueeze(0), None


def allow_packing() -> None:
    """Register `varlen`, and let ms-swift pack rows for it."""
    from swift.arguments import SftArguments
    from swift.template import Template

    AttentionInterface.register("varlen", varlen_attention)
    check, collate = SftArguments._check_padding_free, Template._data_collator

    def data_collator(self, batch, **kwargs):
        row = collate(self, batch, **kwargs)
        return packed(row) if self.padding_free else row

    def check_padding_free(self) -> None:
        if self.attn_impl == "varlen":
            Template._data_collator = data_collator
            self.use_logits_to_keep = False  # `packed` has seen to it
        else:
            check(self)

    SftArguments._check_padding_free = check_padding_free


# --- checkpointing -------------------------------------------------------------------------------


def checkpoint_layers(model: torch.nn.Module, count: int) -> int:
    """Recompute only the first `count` of the layers that would all be; returns how many are.

    The first, because they are recomputed last, when what the others kept is gone.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]
    for layer in layers[count:]:
        layer.gradient_checkpointing = False
    return len(layers[:count])


# --- LoRA ----------------------------------------------------------------------------------------


def project(x, a, scale: float, p: float, seed: int) -> torch.Tensor:
    """scale · dropout(x) aᵀ: x (tokens, in), a (rank, in) → (tokens, rank) in x's dtype."""
    if x.is_cuda:
        from sftflow.triton_lora import project as on_cuda

        return on_cuda(x.contiguous(), a, scale, p, seed)
    return (x * stay(x, p, seed)) @ a.T.to(x.dtype) * (scale / (1 - p))


def adapt(
    x, a, d_hidden, scale: float, p: float, seed: int, has_dx: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of `project` with this seed: of a, and of x if it has one.

    d_hidden (tokens, rank): the gradient of project's result divided by its scale.
    """
    if x.is_cuda:
        from sftflow.triton_lora import adapt as on_cuda

        return on_cuda(x.contiguous(), a, d_hidden, scale, p, seed, has_dx)
    kept, d_hidden = stay(x, p, seed), d_hidden * (scale / (1 - p))
    return d_hidden.T @ (x * kept), d_hidden @ a.to(x.dtype) * kept if has_dx else None


def stay(x, p: float, seed: int) -> torch.Tensor:
    """Which elements dropout leaves without CUDA: the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(x.shape, dtype=torch.bool).bernoulli_(1 - p, generator=generator)


class LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + bias + s · dropout(x) Aᵀ Bᵀ with W and bias frozen (Hu et al. 2021).

    x (tokens, in), W (out, in), A (rank, in), B (out, rank); products are in x's dtype. LoRA's part
    comes first, so that the large product adds to it on its way to memory. Kept for the backward
    pass: x, which the layer before keeps anyway, and s · dropout(x) Aᵀ (tokens, rank).
    """

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale, p, seed):
        low_b = b.to(x.dtype)
        hidden = project(x, a, scale, p, seed)
        y = (hidden @ low_b.T).addmm_(x, weight.T)
        ctx.save_for_backward(x, weight, a, low_b, hidden)
        ctx.dtype, ctx.dropout = b.dtype, (scale, p, seed)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx, dy):
        x, weight, a, low_b, hidden = ctx.saved_tensors
        has_dx = ctx.needs_input_grad[0]
        da, dx = adapt(x, a, dy @ low_b, *ctx.dropout, has_dx)
        if has_dx:
            dx.addmm_(dy, weight)
        db = (dy.T @ hidden).to(ctx.dtype)
        return dx, None, None, da.to(a.dtype), db, None, None, None


def fusable(layer: torch.nn.Module) -> bool:
    """A plain LoRA layer: one adapter, no variant (DoRA), a frozen unquantised matrix below."""
    return (
        type(layer) is Linear
        and type(layer.get_base_layer()) is torch.nn.Linear
        and not layer.get_base_layer().weight.requires_grad
        and layer.in_features % 8 == 0
        and max(layer.r.values()) <= FUSED_RANK
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
    base, scale, dropout = layer.get_base_layer(), layer.scaling[name], layer.lora_dropout[name]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    p = dropout.p if layer.training and isinstance(dropout, torch.nn.Dropout) else 0.0
    # from torch's own generator, so that a resumed training draws the same
    seed = int(torch.randint(2**31, ())) if p else 0
    y = LoraLinear.apply(x.flatten(0, -2), base.weight, base.bias, a, b, scale, p, seed)
    return y.unflatten(0, x.shape[:-1])


def fuse_lora(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of `model` the fused passes; returns how many there are."""
    layers = [layer for layer in model.modules() if fusable(layer)]
    for layer in layers:
        layer.forward = functools.partial(forward, layer)
    return len(layers)
