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

# --- packed attention ----------------------------------------------------------------------------


def packed(row: dict[str, torch.Tensor]) -> dict:
    """Add to a packed row what the model needs to know about it, while it is still on the CPU.

    row: input_ids, labels, position_ids (1, tokens); every dialogue begins at position 0. Adds
    `cu_seq_lens_q` (dialogues + 1,), the bounds of the dialogues, and `max_length_q`, the longest.
    Labels shrink to those that count, behind one that does not, and
    `logits_to_keep` holds the places that predict them (ms-swift does so later, on the GPU, and
    waits for it).
    """
    begins = (row["position_ids"][0] == 0).nonzero()[:, 0]
    bounds = F.pad(begins, (0, 1), value=row["position_ids"].shape[1]).int()
    row |= {"cu_seq_lens_q": bounds, "max_length_q": int(bounds.diff().max())}
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
    x, a, d_wide, scale: float, p: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of `project` with this seed: of a, and of x if it has one.

    The last columns of d_wide (tokens, in + rank or rank) are the gradient of project's result;
    the others, if there are any, the part of x's gradient that comes from elsewhere.
    """
    if by_triton(x):
        from sftflow.triton_lora import adapt as on_cuda

        return on_cuda(x.contiguous(), a, d_wide, scale, p, seed)
    elsewhere, d_hidden = d_wide.split((d_wide.shape[1] - len(a), len(a)), 1)
    kept, d_hidden = stay(x, p, seed), d_hidden * (scale / (1 - p))
    dx = elsewhere + d_hidden @ a.to(x.dtype) * kept if elsewhere.numel() else None
    return d_hidden.T @ (x * kept), dx


def stay(x, p: float, seed: int) -> torch.Tensor:
    """Which elements dropout leaves without CUDA: the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(x.shape, dtype=torch.bool).bernoulli_(1 - p, generator=generator)


def wide_rows(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """An empty matrix whose rows begin at multiples of 128 bytes, as matrix products like them."""
    return like.new_empty(rows, -(-columns // 64) * 64)[:, :columns]


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
        d_wide = wide_rows(x, len(x), x.shape[1] + len(a))
        d_x, d_hidden = d_wide.split((x.shape[1], len(a)), 1)
        has_dx, grads = ctx.needs_input_grad[0], []
        for i, (dy, weight) in enumerate(zip(dys, weights, strict=True)):
            torch.mm(dy, low[i], out=_split(d_hidden, low)[i])
            if has_dx:
                d_x.addmm_(dy, weight, beta=min(i, 1))
        da, dx = adapt(x, a, d_wide if has_dx else d_hidden, *ctx.dropout)
        parts = zip(dys, _split(da.T, low), _split(hidden, low), ctx.dtypes, strict=True)
        for dy, da, part, dtypes in parts:
            grads += [None, None, da.T.to(dtypes[0]), (dy.T @ part).to(dtypes[1])]
        return dx, None, None, None, *grads


def _split(hidden: torch.Tensor, all_b: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Each layer's columns of what lies side by side."""
    return hidden.split([b.shape[1] for b in all_b], dim=1)


def widen(layers: Sequence[Linear], rank: int) -> torch.Tensor:
    """Move the layers' W, one below the other, into a wider matrix, with zeros on their right."""
    weights = [layer.get_base_layer().weight for layer in layers]
    rows, columns = [len(weight) for weight in weights], weights[0].shape[1]
    wide = wide_rows(weights[0], sum(rows), columns + rank).zero_()
    for weight, part in zip(weights, wide[:, :columns].split(rows), strict=True):
        weight.data = part.copy_(weight)
    return wide


class LoraMlp(torch.autograd.Function):
    """total + down(silu(gate(n)) · up(n)), n = RMS norm of total = x + more; on CUDA.

    Llama's gated layer with LoRA on its matrices, the norm before it and the residual sums, for x
    and more (tokens, in); more may be None. As LoraLinear, but W and B lie side by side, and their
    input and LoRA's hidden part do, so that one product serves both: x Wᵀ + h Bᵀ = [x h] [W B]ᵀ.
    gate's [W B] and up's are one matrix (2 · out, in + 2 · rank), each with zeros for the other's
    B; the A and B of gate, up and down are of one rank.
    """

    @staticmethod
    def forward(ctx, x, more, norm, eps, scale, p, seeds, both_wide, down_wide, *all_ab):
        from sftflow.triton_lora import gated_project, project
        from sftflow.triton_norm import normalise

        (gate_a, up_a, down_a), (gate_b, up_b, down_b) = all_ab[::2], all_ab[1::2]
        a, (rank, inner) = torch.cat((gate_a, up_a)), down_a.shape
        gate_wide, up_wide = both_wide.chunk(2)
        gate_wide[:, -2 * rank : -rank] = gate_b
        up_wide[:, -rank:] = up_b
        down_wide[:, -rank:] = down_b
        wide = wide_rows(x, len(x), x.shape[1] + 2 * rank)
        n, of_both = wide.split((x.shape[1], 2 * rank), 1)
        total, root = normalise(x.contiguous(), more, norm, eps, n)
        project(n, a, scale, p, seeds[0], of_both)
        both = wide @ both_wide.T
        act_wide = wide_rows(x, len(x), inner + rank)
        act, of_down = act_wide.split((inner, rank), 1)
        hidden = gated_project(both, down_a, act, scale, p, seeds[1])
        of_down.copy_(hidden)
        ctx.save_for_backward(total, norm, root, wide, a, both, down_a, hidden)
        ctx.wides = both_wide, down_wide  # not saved: the next forward pass writes B anew
        ctx.dtypes, ctx.dropout = [each.dtype for each in all_ab], (scale, p, seeds)
        return (act_wide @ down_wide.T).add_(total)

    @staticmethod
    def backward(ctx, dy):
        from sftflow.triton_lora import adapt, gated_adapt
        from sftflow.triton_norm import differentiate

        total, norm, root, wide, a, both, down_a, hidden = ctx.saved_tensors
        (scale, p, seeds), (both_wide, down_wide) = ctx.dropout, ctx.wides
        n, of_both = wide.split((total.shape[1], len(a)), 1)
        d_wide = wide_rows(dy, len(dy), down_wide.shape[1])
        for part in (slice(down_a.shape[1]), slice(down_a.shape[1], None)):  # faster one by one
            torch.mm(dy, down_wide[:, part], out=d_wide[:, part])
        d_both, d_down_a, *d_b = gated_adapt(both, of_both, down_a, d_wide, scale, p, seeds[1])
        has_dx = any(ctx.needs_input_grad[:2])
        both_wide = both_wide if has_dx else both_wide[:, -len(a) :]
        d_wide = torch.mm(d_both, both_wide, out=wide_rows(dy, len(dy), both_wide.shape[1]))
        da, dn = adapt(n, a, d_wide, scale, p, seeds[0])
        dx = differentiate(dy.contiguous(), dn, total, norm, root) if has_dx else None
        grads = zip((*da.chunk(2), d_down_a), (*d_b, dy.T @ hidden), strict=True)
        grads = zip(itertools.chain.from_iterable(grads), ctx.dtypes, strict=True)
        more = dx if ctx.needs_input_grad[1] else None
        return dx, more, *[None] * 7, *(grad.to(dtype) for grad, dtype in grads)


class ResidualNorm(torch.autograd.Function):
    """(x, its RMS norm times a frozen weight), x (tokens, size).

    x is handed through so that its gradient from both is summed in one pass.
    """

    @staticmethod
    def forward(ctx, x, weight, eps):
        from sftflow.triton_norm import normalise

        x, out = x.contiguous(), torch.empty_like(x)
        _, root = normalise(x, None, weight, eps, out)
        ctx.save_for_backward(x, weight, root)
        return x.view_as(x), out

    @staticmethod
    def backward(ctx, dx, d_out):
        from sftflow.triton_norm import differentiate

        return differentiate(dx.contiguous(), d_out.contiguous(), *ctx.saved_tensors), None, None


# --- loss ----------------------------------------------------------------------------------------

CHUNK = 2048  # tokens whose logits are in memory at a time


class LinearLoss(torch.autograd.Function):
    """The sum of -log softmax(x Wᵀ)[label] with W frozen; x (tokens, in), W (vocabulary, in).

    As Liger's (the gradient of x is worked out on the way, a few thousand tokens at a time), but
    without asking the GPU for a number: that would let it wait three times in every micro-batch.
    """

    @staticmethod
    def forward(ctx, x, weight, labels):
        from sftflow.triton_loss import cross_entropy

        dx, losses = torch.empty_like(x), []
        for part, d_part, wanted in zip(
            x.split(CHUNK), dx.split(CHUNK), labels.split(CHUNK), strict=True
        ):
            logits = part @ weight.T
            losses.append(cross_entropy(logits, wanted))
            torch.mm(logits, weight, out=d_part)
        ctx.save_for_backward(dx)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx, d_loss):
        from sftflow.triton_loss import scaled

        (dx,) = ctx.saved_tensors
        return scaled(dx, d_loss), None, None


def fuse_loss() -> None:
    """Let Liger's models take the loss above where it is all they ask for."""
    from liger_kernel.transformers import functional

    stock = functional.liger_fused_linear_cross_entropy

    @functools.wraps(stock)
    def loss(input, weight, target, *args, reduction="mean", ignore_index=-100, **asked):
        plain = not args and not any(asked.values()) and reduction in ("mean", "sum")
        if plain and by_triton(input) and input.requires_grad and not weight.requires_grad:
            counts = target != ignore_index
            total = LinearLoss.apply(input.contiguous(), weight, target.where(counts, -1))
            return total if reduction == "sum" else total / counts.sum().clamp(min=1)
        return stock(
            input, weight, target, *args, reduction=reduction, ignore_index=ignore_index, **asked
        )

    functional.liger_fused_linear_cross_entropy = loss


def compile_once() -> None:
    """Let Liger's rotation take every number of tokens as it comes.

    Triton would compile it anew, in the middle of a training, for one that is a multiple of 16.
    """
    from liger_kernel.ops.rope import _triton_rope

    for parameter in _triton_rope.params:
        parameter.do_not_specialize |= parameter.name == "sl"


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


def adapter(layer: Linear) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """(A, B)"""
    (name,) = layer.lora_A
    return layer.lora_A[name].weight, layer.lora_B[name].weight


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
        bases = [layer.get_base_layer() for layer in self.layers]
        given = zip(bases, map(adapter, self.layers), strict=True)
        given = itertools.chain(*((base.weight, base.bias, *ab) for base, ab in given))
        made = LoraLinear.apply(x.flatten(0, -2), scale, p, seed, *given)
        return (y.unflatten(0, x.shape[:-1]) for y in made)


def norm(layer: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, what the norm `layer` makes of it)"""
    x_again, out = ResidualNorm.apply(x.flatten(0, -2), layer.weight, layer.variance_epsilon)
    return x_again.view_as(x), out.view_as(x)


def decoder_forward(
    layer, stock, hidden_states: torch.Tensor, kept: torch.Tensor | None = None, **kwargs
) -> torch.Tensor:
    """In place of `stock`, the forward of a layer like Llama's.

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
    else:
        attended = attended.flatten(0, -2).contiguous()
    made = LoraMlp.apply(
        residual.flatten(0, -2), attended,
        layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon,
        *draw(adapted[0]), mlp.both_wide, mlp.down_wide,
        *itertools.chain.from_iterable(map(adapter, adapted)),
    )  # fmt: skip
    return made.view_as(residual)


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
        gate, up, down = (getattr(module.mlp, name) for name in GATED)
        module.mlp.both_wide = widen([gate, up], 2 * setting(gate)[-1])
        module.mlp.down_wide = widen([down], setting(down)[-1])
        gated.add(module.mlp)
    if decoders and len(decoders) == decoders[0].mlp.config.num_hidden_layers:
        model.register_forward_pre_hook(keep_early, with_kwargs=True)
        last = next(m for m in model.modules() if decoders[0] in getattr(m, "layers", ())).norm
        if not last.weight.requires_grad:
            last.forward = lambda x: norm(last, x)[1]
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
