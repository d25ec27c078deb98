"""Less work for the same numbers: packed attention, LoRA layers and gated layers for CUDA.

Measured on an H200 (tests/performance/README.md), a training with stock parts waits for the CPU,
which starts some thirty small kernels for each of the 224 adapted matrices of a 7B model, and half
of what the GPU computes is padding. So:

`varlen` is an attention implementation for transformers in which the dialogues of a micro-batch
lie behind each other in one row, without padding, and each attends to itself alone. ms-swift
prepares such rows (`padding_free`) but allows them with the flash-attn packages only, which have no
wheels; torch ships the same kernel, and on Hopper cuDNN's is faster. Without CUDA the same
attention is computed dialogue by dialogue: slowly, for tests.

`fuse_lora` gives PEFT's LoRA layers a forward and backward pass of their own: the adapter reads the
input once, dropout included, whose mask is drawn again instead of stored, and the base matrix adds
its product in place; all in the activations' dtype, while A, B and their gradients stay in theirs
(float32 by default). Layers that read the same are computed together; in decoders like Llama's the
whole gated layer is, and residual sums with the norms that follow.

Imported inside ms-swift's process only: needs torch, transformers, PEFT, and Triton on CUDA.
"""

import functools
import importlib.util
import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from sftflow.training import FUSED_RANK, PACKED_TYPES

LOSS_CHUNK = 8  # Liger's loss takes so many times as many tokens at once as it would by itself

# --- packed attention ----------------------------------------------------------------------------


def packed(row: dict[str, torch.Tensor]) -> dict:
    """Add to a packed row what the model needs to know about it, while it is still on the CPU.

    row: input_ids, labels, position_ids (1, tokens); every dialogue begins at position 0. Adds
    `cu_seq_lens_q` (dialogues + 1,), the bounds of the dialogues, `max_length_q`, the longest, and
    what Liger is told of its loss. Labels shrink to those that count, behind one that does not, and
    `logits_to_keep` holds the places that predict them (ms-swift does so later, on the GPU, and
    waits for it).
    """
    begins = (row["position_ids"][0] == 0).nonzero()[:, 0]
    bounds = F.pad(begins, (0, 1), value=row["position_ids"].shape[1]).int()
    row |= {"cu_seq_lens_q": bounds, "max_length_q": int(bounds.diff().max())}
    row["chunk_mem_const"] = LOSS_CHUNK
    if "labels" in row:
        counts = row["labels"][0] != -100
        for name, nothing in (("labels", -100), ("loss_scale", 0)):
            if name in row:
                row[name] = F.pad(row[name][:, counts], (1, 0), value=nothing)
        row["logits_to_keep"] = F.pad(counts[1:], (0, 1), value=True).nonzero()[:, 0]
    return row


def varlen_attention(
    module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, max_length_q=None,
    sliding_window=None, **_,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Causal attention within each dialogue of a row: transformers' attention interface.

    query (1, heads, tokens, size), key and value (1, kv heads, tokens, size)
    → (1, tokens, heads, size). Without bounds the row is one dialogue, or a batch of equal ones.
    With a sliding window a token sees as many, itself among them.
    """
    longest = query.shape[2] if max_length_q is None else max_length_q
    window = sliding_window if sliding_window and sliding_window < longest else None
    if cu_seq_lens_q is None or not query.is_cuda:
        ends = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
        parts = []
        for begin, end in itertools.pairwise(ends):
            causal, seen = end - begin > 1 and query.shape[2] == key.shape[2], None
            if causal and window:
                seen = torch.ones(end - begin, end - begin, dtype=torch.bool, device=query.device)
                seen = seen.tril().triu(1 - window)
            parts.append(
                F.scaled_dot_product_attention(
                    *(each[:, :, begin:end] for each in (query, key, value)),
                    attn_mask=seen, is_causal=causal and seen is None, scale=scaling,
                    enable_gqa=True,
                )
            )  # fmt: skip
        return torch.cat(parts, 2).transpose(1, 2), None
    # not each[0]: its gradient would be a copy into zeros, in another order of dimensions
    query, key, value = (each.squeeze(0).transpose(0, 1) for each in (query, key, value))
    if not window and query.shape[-1] <= 128 and has_cudnn(query.device):
        from sftflow.cudnn_varlen import attention

        out = attention(query, key, value, cu_seq_lens_q, max_length_q, scaling)
    else:
        out = varlen_attn(
            query, key, value, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q,
            scale=scaling, window_size=(window - 1 if window else -1, 0),
        )  # fmt: skip
    return out.unsqueeze(0), None


@functools.cache
def has_cudnn(device: torch.device) -> bool:
    """On Hopper, where it pays, if nvidia-cudnn-frontend is installed."""
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    return hopper and importlib.util.find_spec("cudnn") is not None


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
            if self.acc_strategy == "seq" or self.enable_channel_loss:
                raise ValueError("acc_strategy seq and enable_channel_loss need attn_impl sdpa")
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


def by_triton(x: torch.Tensor) -> bool:
    return x.is_cuda


def project(x, a, scale: float, p: float, seed: int) -> torch.Tensor:
    """scale · dropout(x) aᵀ: x (tokens, in), a (rank, in) → (tokens, rank) in x's dtype."""
    if by_triton(x):
        from sftflow.triton_lora import project as on_cuda

        return on_cuda(x.contiguous(), a, scale, p, seed)
    return (x * stay(x, p, seed)) @ a.T.to(x.dtype) * (scale / (1 - p))


def adapt(
    x, a, d_hidden, scale: float, p: float, seed: int, has_dx: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of `project` with this seed: of a, and of x if it has one.

    d_hidden (tokens, rank): the gradient of project's result.
    """
    if by_triton(x):
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

    For several layers that read the same x, each with its own (W, bias, A, B): as in Microsoft's
    own loralib, one dropout serves them all, and x is read once. x (tokens, in), W (out, in),
    A (rank, in), B (out, rank); products are in x's dtype. LoRA's part comes first, so that the
    large product adds to it on its way to memory. Kept for the backward pass: x, which the layer
    before keeps anyway, and s · dropout(x) Aᵀ (tokens, rank).
    """

    @staticmethod
    def forward(ctx, x, scale, p, seed, *layers):
        weights, biases, all_a, all_b = (layers[i::4] for i in range(4))
        a, low = torch.cat(all_a), [b.to(x.dtype) for b in all_b]
        hidden = project(x, a, scale, p, seed)
        outs = []
        for weight, bias, b, part in zip(weights, biases, low, _split(hidden, low), strict=True):
            y = (part @ b.T).addmm_(x, weight.T)
            outs.append(y if bias is None else y.add_(bias))
        ctx.save_for_backward(x, a, hidden, *weights, *low)
        ctx.dtypes = [(a.dtype, b.dtype) for a, b in zip(all_a, all_b, strict=True)]
        ctx.dropout = scale, p, seed
        return tuple(outs)

    @staticmethod
    def backward(ctx, *dys):
        x, a, hidden, *rest = ctx.saved_tensors
        weights, low = rest[: len(dys)], rest[len(dys) :]
        has_dx = ctx.needs_input_grad[0]
        da, dx = adapt(x, a, _side_by_side(dys, low), *ctx.dropout, has_dx)
        grads = []
        parts = zip(_split(da.T, low), _split(hidden, low), strict=True)
        for dy, weight, (da, part), dtypes in zip(dys, weights, parts, ctx.dtypes, strict=True):
            if has_dx:
                dx.addmm_(dy, weight)
            grads += [None, None, da.T.to(dtypes[0]), (dy.T @ part).to(dtypes[1])]
        return dx, None, None, None, *grads


def _side_by_side(dys: Sequence[torch.Tensor], all_b: list[torch.Tensor]) -> torch.Tensor:
    """The products of each layer's gradient with its B, as the layers' hidden parts lie."""
    products = dys[0].new_empty(len(dys[0]), sum(b.shape[1] for b in all_b))
    for dy, b, part in zip(dys, all_b, _split(products, all_b), strict=True):
        torch.mm(dy, b, out=part)
    return products


def _split(hidden: torch.Tensor, all_b: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Each layer's columns of what lies side by side."""
    return hidden.split([b.shape[1] for b in all_b], dim=1)


class LoraMlp(torch.autograd.Function):
    """Llama's gated layer, down(silu(gate(x)) · up(x)), with LoRA on its three matrices; on CUDA.

    As LoraLinear, for x (tokens, in); gate's W and up's are one matrix (2 · out, in), and the A and
    B of gate, up and down are of one rank. What LoRA adds to gate and up, three to four times as
    wide as x, is worked out where it is needed and never stored.
    """

    @staticmethod
    def forward(ctx, x, scale, p, seeds, both_weight, down_weight, *all_ab):
        from sftflow.triton_lora import gated_project

        all_a, all_b = all_ab[::2], all_ab[1::2]
        a, low = torch.cat(all_a[:2]), [b.to(x.dtype) for b in all_b]
        of_both, both = project(x, a, scale, p, seeds[0]), x @ both_weight.T
        act, hidden = gated_project(both, of_both, *low[:2], all_a[2], scale, p, seeds[1])
        ctx.save_for_backward(x, a, of_both, both, all_a[2], hidden, both_weight, down_weight, *low)
        ctx.dtypes, ctx.dropout = [each.dtype for each in all_ab], (scale, p, seeds)
        return (hidden @ low[2].T).addmm_(act, down_weight.T)

    @staticmethod
    def backward(ctx, dy):
        from sftflow.triton_lora import gated_adapt

        x, a, of_both, both, down_a, hidden, both_weight, down_weight, *low = ctx.saved_tensors
        scale, p, seeds = ctx.dropout
        d_both, d_down_a, *d_b = gated_adapt(
            both, of_both, *low[:2], down_a, dy @ low[2], dy @ down_weight, scale, p, seeds[1]
        )
        d_of_both = _side_by_side(d_both.chunk(2, 1), low[:2])
        da, dx = adapt(x, a, d_of_both, scale, p, seeds[0], ctx.needs_input_grad[0])
        if dx is not None:
            dx.addmm_(d_both, both_weight)
        grads = zip((*da.chunk(2), d_down_a), (*d_b, dy.T @ hidden), strict=True)
        grads = zip(itertools.chain.from_iterable(grads), ctx.dtypes, strict=True)
        return dx, None, None, None, None, None, *(grad.to(dtype) for grad, dtype in grads)


class ResidualNorm(torch.autograd.Function):
    """(x + more, its RMS norm times a frozen weight); x alone without more (tokens, size)."""

    @staticmethod
    def forward(ctx, x, more, weight, eps):
        from sftflow.triton_norm import normalise

        total, out, scale = normalise(x.contiguous(), more, weight, eps)
        ctx.save_for_backward(total, weight, scale)
        ctx.adds = more is not None
        return total.view_as(total) if more is None else total, out

    @staticmethod
    def backward(ctx, d_total, d_out):
        from sftflow.triton_norm import differentiate

        dx = differentiate(d_total.contiguous(), d_out.contiguous(), *ctx.saved_tensors)
        return dx, dx if ctx.adds else None, None, None


def fusable(layer: torch.nn.Module) -> bool:
    """A plain LoRA layer: one adapter, no variant (DoRA), a frozen unquantised matrix below."""
    return (
        type(layer) is Linear
        and type(layer.get_base_layer()) is torch.nn.Linear
        and not any(each.requires_grad for each in layer.get_base_layer().parameters())
        and layer.in_features % 16 == 0
        and max(layer.r.values()) <= FUSED_RANK
        and not layer.fan_in_fan_out
        and len(layer.active_adapters) == len(layer.lora_A) == 1
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
    )


def setting(layer: Linear) -> tuple[float, float, int]:
    """A layer's scale, dropout and rank: layers are computed together if these are the same."""
    (name,), dropouts = layer.lora_A, layer.lora_dropout
    p = dropouts[name].p if isinstance(dropouts[name], torch.nn.Dropout) else 0.0
    return layer.scaling[name], p, layer.r[name]


def draw(layer: Linear) -> tuple[float, float, list[int]]:
    """Scale, dropout and two seeds for one forward pass."""
    scale, p, _ = setting(layer)
    if not (p and layer.training):
        return scale, 0.0, [0, 0]
    # from torch's own generator, so that a resumed training draws the same
    return scale, p, torch.randint(2**31, (2,)).tolist()


def matrices(layer: Linear) -> tuple:
    """(W, bias or None, A, B)"""
    (name,), base = layer.lora_A, layer.get_base_layer()
    return base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight


class Siblings:
    """LoRA layers that read the same tensor: whichever is called first computes for all."""

    def __init__(self, layers: list[Linear]):
        self.layers = layers
        self.x, self.ready = None, {}
        for layer in layers:
            layer.forward = functools.partial(self.forward, layer)

    def forward(self, layer: Linear, x: torch.Tensor) -> torch.Tensor:
        """In place of PEFT's."""
        if layer.disable_adapters or layer.merged:
            return Linear.forward(layer, x)
        if x is not self.x or layer not in self.ready:
            self.x, self.ready = x, dict(zip(self.layers, self.compute(x), strict=True))
        y = self.ready.pop(layer)
        if not self.ready:
            self.x = None
        return y

    def compute(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        scale, p, (seed, _) = draw(self.layers[0])
        given = itertools.chain.from_iterable(map(matrices, self.layers))
        made = LoraLinear.apply(x.flatten(0, -2), scale, p, seed, *given)
        return (y.unflatten(0, x.shape[:-1]) for y in made)


def norm(layer: torch.nn.Module, x, more=None) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + more, what the norm `layer` makes of it)"""
    more = more if more is None else more.flatten(0, -2).contiguous()
    total, out = ResidualNorm.apply(x.flatten(0, -2), more, layer.weight, layer.variance_epsilon)
    return total.view_as(x), out.view_as(x)


def decoder_forward(
    layer, stock, hidden_states: torch.Tensor, kept: torch.Tensor | None = None, **kwargs
) -> torch.Tensor:
    """In place of `stock`, the forward of a layer like Llama's: sums and norms together.

    kept: the places whose result is asked for; the last layer gives no others.
    """
    mlp = layer.mlp
    if layer.self_attn.layer_idx + 1 < mlp.config.num_hidden_layers:
        kept = None
    adapted = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    if any(each.disable_adapters or each.merged for each in adapted):
        made = stock(hidden_states, **kwargs)
        return made if kept is None else made.index_select(1, kept)
    residual, hidden = norm(layer.input_layernorm, hidden_states)
    attended, _ = layer.self_attn(hidden_states=hidden, **kwargs)
    if kept is not None:
        residual, attended = (residual + attended).index_select(1, kept), None
    residual, hidden = norm(layer.post_attention_layernorm, residual, attended)
    ab = itertools.chain.from_iterable(matrices(each)[2:] for each in adapted)
    weights = mlp.both_weight, mlp.down_proj.get_base_layer().weight
    made = LoraMlp.apply(hidden.flatten(0, -2), *draw(adapted[0]), *weights, *ab)
    return residual + made.view_as(hidden)


def keep_early(model: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Before the model's forward: what the loss does not ask for is left out in the last layer."""
    if torch.is_tensor(kwargs.get("logits_to_keep")):
        kept = kwargs.pop("logits_to_keep")
        kwargs["kept"] = kept.nonzero()[:, 0] if kept.dtype == torch.bool else kept
    return args, kwargs


# in Llama's layout: which layers of a module read the same, and which are a gated layer
SAME_INPUT = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
GATED = "gate_proj", "up_proj", "down_proj"


def fuse_lora(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of `model` the fused passes; returns how many there are."""
    count, gated = 0, set()
    decoders = [module for module in model.modules() if is_decoder(module)]
    for module in decoders:
        module.forward = functools.partial(decoder_forward, module, module.forward)
        join(module.mlp)
        gated.add(module.mlp)
    if decoders and len(decoders) == decoders[0].mlp.config.num_hidden_layers:
        model.register_forward_pre_hook(keep_early, with_kwargs=True)
    for module in model.modules():
        layers = {name: layer for name, layer in module.named_children() if fusable(layer)}
        count += len(layers)
        if module in gated:
            continue
        for names in SAME_INPUT:
            group = [layers[name] for name in names if name in layers]
            alike = len({setting(layer) for layer in group}) == 1
            if alike and sum(setting(layer)[-1] for layer in group) <= FUSED_RANK:
                Siblings(group)
                layers = {name: layer for name, layer in layers.items() if name not in names}
        for layer in layers.values():
            Siblings([layer])
    return count


def join(mlp: torch.nn.Module) -> None:
    """Lay gate's matrix and up's behind each other, so that one product serves both."""
    pair = [layer.get_base_layer().weight for layer in (mlp.gate_proj, mlp.up_proj)]
    mlp.both_weight = torch.cat(pair).detach()
    for weight, half in zip(pair, mlp.both_weight.chunk(2), strict=True):
        weight.data = half


def is_decoder(module: torch.nn.Module) -> bool:
    """A layer like Llama's on CUDA whose gated layer has plain LoRA, the same on all three."""
    if type(module).__name__.removesuffix("DecoderLayer").lower() not in PACKED_TYPES:
        return False
    layers = [getattr(module.mlp, name) for name in GATED]
    norms = module.input_layernorm, module.post_attention_layernorm
    return (
        not any(each.weight.requires_grad for each in norms)
        and all(fusable(layer) for layer in layers)
        and all(layer.get_base_layer().bias is None for layer in layers)
        and by_triton(layers[0].get_base_layer().weight)
        and module.mlp.config.hidden_act in ("silu", "swish")
        and len({setting(layer) for layer in layers}) == 1
        and 2 * setting(layers[0])[-1] <= FUSED_RANK  # gate and up lie side by side
    )
