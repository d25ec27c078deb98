"""Less work for the same numbers: packed attention, the loss, and LoRA's layers on CUDA.

Measured on an H200 (tests/performance/README.md), a training with stock parts waits for the CPU,
which starts some thirty small kernels for each of the 224 adapted matrices of a 7B model, and half
of what the GPU computes is padding. So:

`varlen` is an attention implementation for transformers in which the dialogues of a micro-batch
lie behind each other in one row, without padding, and each attends to itself alone. ms-swift
prepares such rows (`padding_free`) but allows them with the flash-attn packages only, which have no
wheels; torch ships the same kernel, and on Hopper cuDNN's is faster. Without CUDA the same
attention is computed dialogue by dialogue: slowly, for tests.

`fuse_lora` gives PEFT's LoRA layers the forward and backward passes of functions.py. Layers that
read the same are computed together; decoder layers like Llama's almost as a whole.

Imported inside ms-swift's process only: needs torch, transformers, PEFT, and Triton on CUDA.
"""

import functools
import importlib.util
import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear
from sftflow.kernels import functions
from sftflow.kernels.functions import LoraLinear, LoraMlp, LoraQkv, ResidualNorm, wide_rows
from sftflow.kernels.limits import FUSED_RANK, PACKED_TYPES
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# --- packed attention ----------------------------------------------------------------------------


def packed(row: dict[str, torch.Tensor]) -> dict:
    """Add to a packed row what the model needs to know about it, while it is still on the CPU.

    row: input_ids, labels, position_ids (1, tokens); every dialogue begins at position 0. Adds
    `cu_seq_lens_q` (dialogues + 1,), the bounds of the dialogues, and `max_length_q`, the longest.
    Labels shrink to those that count, behind one that does not, and `logits_to_keep` holds the
    places that predict them (ms-swift does so later, on the GPU, and waits for it).
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
        from sftflow.kernels.cudnn_varlen import attention

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


# --- loss ----------------------------------------------------------------------------------------

CHUNK = 2048  # tokens whose logits are in memory at a time


class LinearLoss(torch.autograd.Function):
    """The sum of -log softmax(x Wᵀ)[label] with W frozen; x (tokens, in), W (vocabulary, in).

    As Liger's (the gradient of x is worked out on the way, a few thousand tokens at a time), but
    without asking the GPU for a number: that would let it wait three times in every micro-batch.
    """

    @staticmethod
    def forward(ctx, x, weight, labels):
        from sftflow.kernels.triton.loss import cross_entropy

        dx, losses = torch.empty_like(x), []
        logits = x.new_empty(min(CHUNK, len(x)), len(weight))
        parts = zip(*(each.split(CHUNK) for each in (x, dx, labels)), strict=True)
        for part, d_part, wanted in parts:
            some = torch.mm(part, weight.T, out=logits[: len(part)])
            losses.append(cross_entropy(some, wanted))
            torch.mm(some, weight, out=d_part)
        ctx.save_for_backward(dx)
        return torch.cat(losses).sum()

    @staticmethod
    def backward(ctx, d_loss):
        from sftflow.kernels.triton.loss import scaled

        (dx,) = ctx.saved_tensors
        return scaled(dx, d_loss), None, None


def fuse_loss() -> None:
    """Let Liger's models take the loss above where it is all they ask for."""
    from liger_kernel.transformers import functional

    stock = functional.liger_fused_linear_cross_entropy

    @functools.wraps(stock)
    def loss(input, weight, target, *args, **asked):
        others = asked.keys() - {"reduction", "ignore_index"}
        plain = not args and all(asked[name] is None or asked[name] is False for name in others)
        reduction = asked.get("reduction", "mean")
        fits = reduction in ("mean", "sum") and input.dtype == weight.dtype
        if torch.is_autocast_enabled("cuda"):
            fits = fits and torch.get_autocast_dtype("cuda") == input.dtype
        learns = input.requires_grad and not weight.requires_grad
        if not (plain and fits and learns and functions.by_triton(input)):
            return stock(input, weight, target, *args, **asked)
        counts = target != asked.get("ignore_index", -100)
        total = LinearLoss.apply(input.contiguous(), weight, target.where(counts, -1))
        return total if reduction == "sum" else total / counts.sum().clamp(min=1)

    functional.liger_fused_linear_cross_entropy = loss


def compile_once() -> None:
    """Let Liger's rotation take every number of tokens as it comes.

    Triton would compile it anew, in the middle of a training, for one that is a multiple of 16.
    """
    from liger_kernel.ops.rope import _triton_rope

    for parameter in getattr(_triton_rope, "params", ()):
        parameter.do_not_specialize |= parameter.name == "sl"


# --- LoRA ----------------------------------------------------------------------------------------


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


def fit_together(layers: Sequence[Linear]) -> bool:
    """Fusable layers of one setting whose hidden parts, side by side, are not too wide."""
    settings = [setting(layer) for layer in layers]
    return len(set(settings)) == 1 and sum(rank for *_, rank in settings) <= FUSED_RANK


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


def widen(layers: Sequence[Linear]) -> torch.Tensor:
    """Move the layers' W, one below the other, into a matrix with room for all B beside them."""
    rank = sum(setting(layer)[-1] for layer in layers)
    weights = [layer.get_base_layer().weight for layer in layers]
    rows, columns = [len(weight) for weight in weights], weights[0].shape[1]
    wide = wide_rows(weights[0], sum(rows), columns + rank).zero_()
    for weight, part in zip(weights, wide[:, :columns].split(rows), strict=True):
        weight.data = part.copy_(weight)
    return wide


def norm(layer: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, what the norm `layer` makes of it)"""
    x_again, out = ResidualNorm.apply(x.flatten(0, -2), layer.weight, layer.variance_epsilon)
    return x_again.view_as(x), out.view_as(x)


def attend(layer, x: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, what attention makes of x's norm), in place of the first half of a decoder layer."""
    attention = layer.self_attn
    if not hasattr(attention, "joint_matrix") or kwargs.get("past_key_values") is not None:
        x, hidden = norm(layer.input_layernorm, x)
        return x, attention(hidden_states=hidden, **kwargs)[0]
    layers = [getattr(attention, name) for name in SAME_INPUT[0]]
    scale, p, (seed, _) = draw(layers[0])
    cos, sin = (
        each.expand(*x.shape[:-1], -1).flatten(0, -2).contiguous()
        for each in kwargs.pop("position_embeddings")
    )
    x_again, *qkv = LoraQkv.apply(
        x.flatten(0, -2), layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon,
        (scale, p, seed), attention.joint_matrix, attention.joint_bias, cos, sin,
        [each.out_features // attention.head_dim for each in layers[:2]],
        *itertools.chain.from_iterable(map(adapter, layers)),
    )  # fmt: skip
    # Mistral's attention looks in its configuration, where Llama's does not, whatever is there
    window = getattr(attention, "sliding_window", None)
    if attention.config.model_type == "mistral":
        window = attention.config.sliding_window
    out, _ = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation](
        attention, *(each.unflatten(0, x.shape[:-1]).transpose(1, 2) for each in qkv),
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling, sliding_window=window, **kwargs,
    )  # fmt: skip
    return x_again.view_as(x), attention.o_proj(out.flatten(2))


def decoder_forward(
    layer, stock, hidden_states: torch.Tensor, kept: torch.Tensor | None = None, **kwargs
) -> torch.Tensor:
    """In place of `stock`, the forward of a layer like Llama's.

    kept: the places whose result is asked for; the last layer gives no others.
    """
    mlp = layer.mlp
    if layer.self_attn.layer_idx + 1 < mlp.config.num_hidden_layers:
        kept = None
    layers = [getattr(mlp, name) for name in GATED]
    if any(each.disable_adapters or each.merged for each in layers):
        made = stock(hidden_states, **kwargs)
        return made if kept is None else made.index_select(1, kept)
    residual, attended = attend(layer, hidden_states, **kwargs)
    if kept is None:
        attended = attended.flatten(0, -2).contiguous()
    else:
        residual, attended = (residual + attended).index_select(1, kept), None
    made = LoraMlp.apply(
        residual.flatten(0, -2), attended,
        layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon,
        *draw(layers[0]), mlp.joint_matrix, mlp.down_matrix,
        *itertools.chain.from_iterable(map(adapter, layers)),
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
    """Give every plain LoRA layer of `model` the fused passes; returns how many there are.

    From here on the model is for training, and for saving its adapter: W lies in wider matrices, so
    nobody may merge it away, move it, convert it or load it anew.
    """
    count, gated = 0, set()
    decoders = [module for module in model.modules() if is_decoder(module)]
    for module in decoders:
        module.forward = functools.partial(decoder_forward, module, module.forward)
        gate, up, down = (getattr(module.mlp, name) for name in GATED)
        module.mlp.joint_matrix, module.mlp.down_matrix = widen([gate, up]), widen([down])
        gated.add(module.mlp)
        if is_joint(module.self_attn):
            layers = [getattr(module.self_attn, name) for name in SAME_INPUT[0]]
            biases = [layer.get_base_layer().bias for layer in layers]
            module.self_attn.joint_matrix = widen(layers)
            module.self_attn.joint_bias = None if biases[0] is None else torch.cat(biases)
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
            if fit_together(group):
                Siblings(group)
                layers = {name: layer for name, layer in layers.items() if name not in names}
        for layer in layers.values():
            Siblings([layer])
    return count


def is_decoder(module: torch.nn.Module) -> bool:
    """A layer like Llama's on CUDA whose gated layer has plain LoRA, the same on all three."""
    kind = type(module)
    family = kind.__name__.removesuffix("DecoderLayer").lower()
    if family not in PACKED_TYPES or not kind.__module__.startswith("transformers.models."):
        return False
    layers = [getattr(module.mlp, name) for name in GATED]
    norms = module.input_layernorm, module.post_attention_layernorm
    return (
        not any(each.weight.requires_grad for each in norms)
        and all(fusable(layer) for layer in layers)
        and all(layer.get_base_layer().bias is None for layer in layers)
        and functions.by_triton(layers[0].get_base_layer().weight)
        and module.mlp.config.hidden_act in ("silu", "swish")
        and len({setting(layer) for layer in layers}) == 1
        and fit_together(layers[:2])  # gate and up read the same
    )


def is_joint(attention: torch.nn.Module) -> bool:
    """Attention like Llama's, nothing between q, k, v and the rotation, with plain LoRA alike."""
    layers = [getattr(attention, name) for name in SAME_INPUT[0]]
    return (
        all(fusable(layer) for layer in layers)
        and fit_together(layers)
        and len({layer.get_base_layer().bias is None for layer in layers}) == 1
        and not hasattr(attention, "q_norm")
        and attention.config._attn_implementation != "eager"
    )
