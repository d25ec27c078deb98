"""Give a model with LoRA the passes of functions.py, and take them back.

Measured on an H200 (tests/performance/README.md), a training with stock parts waits for the CPU,
which starts some thirty small kernels for each of the 224 adapted matrices of a 7B model. `fuse`
computes layers that read the same together, and decoder layers like Llama's almost as a whole.

Layers are PEFT's and transformers', known by their types' names; limits.py's `supports` says before
there is a model why its LoRA layers would be left alone.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch

from . import functions
from .fp8 import Fp8Matrix
from .functions import LoraLinear, LoraMlp, LoraQkv, Matrix, ResidualRmsNorm, wide_rows
from .limits import FUSED_RANK, PACKED_TYPES

# in Llama's layout: which layers of a module read the same, and which are a gated layer
QKV = "q_proj", "k_proj", "v_proj"
GATED = "gate_proj", "up_proj", "down_proj"


class Handle:
    """What `fuse` changed in a model.

    layers: LoRA layers that are fused; decoders: decoder layers, which hold most of them.
    fp8: whether their W are to be rounded to 8 bits; rounded: the layers where they are.
    """

    def __init__(self, fp8: bool = False):
        self.layers = self.decoders = 0
        self.fp8 = fp8
        self.rounded: dict[torch.nn.Module, Fp8Matrix] = {}
        self.back = contextlib.ExitStack()

    def undo(self) -> None:
        """Make the model what it was: its own modules, each W in memory of its own.

        A rounded W stays what it was rounded to.
        """
        self.back.close()

    def replace_forward(self, module: torch.nn.Module, forward: Callable) -> None:
        own = vars(module).get("forward")
        back = (setattr, module, "forward", own) if own else (delattr, module, "forward")
        module.forward = forward
        self.back.callback(*back)


def fuse(model: torch.nn.Module, fp8: bool = False) -> Handle:
    """Give every plain LoRA layer of `model` the fused passes, until `undo` of what is returned.

    Meanwhile the model is for training, and for saving its adapter: W lies in wider matrices, or
    with `fp8` in 8 bits, so nobody may merge it away, move it, convert it or load it anew.
    """
    handle = Handle(fp8)
    try:
        decoders = [module for module in model.modules() if is_decoder(module)]
        for module in decoders:
            Decoder(module, handle)
        handle.decoders = len(decoders)
        if decoders and len(decoders) == decoders[0].mlp.config.num_hidden_layers:
            hook = model.register_forward_pre_hook(keep_early, with_kwargs=True)
            handle.back.callback(hook.remove)
            last = next(m for m in model.modules() if decoders[0] in getattr(m, "layers", ())).norm
            if not last.weight.requires_grad:
                handle.replace_forward(last, lambda x: rms_norm(last, x)[1])
        gated = {module.mlp for module in decoders}
        for module in model.modules():
            layers = {name: layer for name, layer in module.named_children() if fusable(layer)}
            handle.layers += len(layers)
            if module in gated:
                continue
            for names in (QKV, GATED[:2]):
                group = [layers[name] for name in names if name in layers]
                if fit_together(group):
                    Siblings(group, handle)
                    layers = {name: layer for name, layer in layers.items() if name not in names}
            for layer in layers.values():
                Siblings([layer], handle)
    except BaseException:
        handle.undo()
        raise
    return handle


# --- which layers --------------------------------------------------------------------------------


def fusable(layer: torch.nn.Module) -> bool:
    """A plain LoRA layer: one adapter, no variant (DoRA), a frozen unquantised matrix below."""
    return (
        f"{type(layer).__module__}.{type(layer).__qualname__}" == "peft.tuners.lora.layer.Linear"
        and type(layer.get_base_layer()) is torch.nn.Linear
        and not any(each.requires_grad for each in layer.get_base_layer().parameters())
        and layer.in_features % 16 == 0
        and max(layer.r.values()) <= FUSED_RANK
        and not layer.fan_in_fan_out
        and len(layer.active_adapters) == len(layer.lora_A) == 1
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
    )


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
    layers = [getattr(attention, name) for name in QKV]
    return (
        all(fusable(layer) for layer in layers)
        and fit_together(layers)
        and len({layer.get_base_layer().bias is None for layer in layers}) == 1
        and not hasattr(attention, "q_norm")
        and attention.config._attn_implementation != "eager"
    )


def setting(layer: torch.nn.Module) -> tuple[float, float, int]:
    """A layer's scale, dropout and rank: layers are computed together if these are the same."""
    (name,), dropouts = layer.lora_A, layer.lora_dropout
    p = dropouts[name].p if isinstance(dropouts[name], torch.nn.Dropout) else 0.0
    return layer.scaling[name], p, layer.r[name]


def fit_together(layers: Sequence[torch.nn.Module]) -> bool:
    """Fusable layers of one setting whose hidden parts, side by side, are not too wide."""
    settings = [setting(layer) for layer in layers]
    return len(set(settings)) == 1 and sum(rank for *_, rank in settings) <= FUSED_RANK


# --- how they are computed -----------------------------------------------------------------------


def draw(layer: torch.nn.Module) -> tuple[float, float, list[int]]:
    """Scale, dropout and two seeds for one forward pass."""
    scale, p, _ = setting(layer)
    if not (p and layer.training):
        return scale, 0.0, [0, 0]
    # from torch's own generator, so that a resumed training draws the same
    return scale, p, torch.randint(2**31, (2,)).tolist()


def adapter(layer: torch.nn.Module) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """(A, B)"""
    (name,) = layer.lora_A
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def rms_norm(layer: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(x, what the norm `layer` makes of it)"""
    x_again, out = ResidualRmsNorm.apply(x.flatten(0, -2), layer.weight, layer.variance_epsilon)
    return x_again.view_as(x), out.view_as(x)


def widen(layers: Sequence[torch.nn.Module], handle: Handle) -> Matrix:
    """Move the layers' W, one below the other, into a matrix with room for all B beside them."""
    rank = sum(setting(layer)[-1] for layer in layers)
    if can_round(layers, handle):
        return round_off(layers, handle, rank)
    handle.back.callback(narrow, layers)
    weights = [layer.get_base_layer().weight for layer in layers]
    rows, columns = [len(weight) for weight in weights], weights[0].shape[1]
    wide = wide_rows(weights[0], sum(rows), columns + rank).zero_()
    for weight, part in zip(weights, wide[:, :columns].split(rows), strict=True):
        weight.data = part.copy_(weight)
    return wide


def narrow(layers: Sequence[torch.nn.Module]) -> None:
    """Undo `widen`."""
    for layer in layers:
        weight = layer.get_base_layer().weight
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)


def can_round(layers: Sequence[torch.nn.Module], handle: Handle) -> bool:
    """Products in 8 bits want widths that are multiples of 16; those of inputs are anyway."""
    return handle.fp8 and all(layer.out_features % 16 == 0 for layer in layers)


def round_off(layers: Sequence[torch.nn.Module], handle: Handle, ranks: int = 0) -> Fp8Matrix:
    """The layers' W, one below the other, in 8 bits; the layers are left with its numbers."""
    weights = [layer.get_base_layer().weight for layer in layers]
    matrix = Fp8Matrix.of(torch.cat([weight.detach() for weight in weights]), ranks)
    parts = list(matrix.split([len(weight) for weight in weights]))
    handle.back.callback(restore, weights, matrix)
    for layer, weight, part in zip(layers, weights, parts, strict=True):
        weight.data, handle.rounded[layer] = part.numbers, part
    return matrix


def restore(weights: Sequence[torch.nn.Parameter], matrix: Fp8Matrix) -> None:
    """Undo `round_off`, but for the rounding."""
    rows = [len(weight) for weight in weights]
    for weight, part in zip(weights, matrix.restored().split(rows), strict=True):
        weight.data = part.clone()


class Siblings:
    """LoRA layers that read the same tensor: whichever is called first computes for all."""

    def __init__(self, layers: list[torch.nn.Module], handle: Handle):
        self.layers = layers
        self.x: torch.Tensor | None = None
        self.ready: dict[torch.nn.Module, torch.Tensor] = {}
        if can_round(layers, handle) and not handle.rounded.keys() >= set(layers):
            round_off(layers, handle)
        self.weights: list[Matrix] = [
            handle.rounded.get(layer, layer.get_base_layer().weight) for layer in layers
        ]
        for layer in layers:
            forward = functools.partial(self.forward, layer, layer.forward)
            handle.replace_forward(layer, forward)

    def forward(self, layer: torch.nn.Module, stock: Callable, x: torch.Tensor) -> torch.Tensor:
        """In place of `stock`, PEFT's."""
        if layer.disable_adapters or layer.merged:
            return stock(x)
        if x is not self.x or layer not in self.ready:
            self.x, self.ready = x, dict(zip(self.layers, self.compute(x), strict=True))
        y = self.ready.pop(layer)
        if not self.ready:
            self.x = None
        return y

    def compute(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        scale, p, (seed, _) = draw(self.layers[0])
        biases = (layer.get_base_layer().bias for layer in self.layers)
        parts = zip(self.weights, biases, map(adapter, self.layers), strict=True)
        given = itertools.chain(*((weight, bias, *ab) for weight, bias, ab in parts))
        made = LoraLinear.apply(x.flatten(0, -2), scale, p, seed, *given)
        return (y.unflatten(0, x.shape[:-1]) for y in made)


class Decoder:
    """A decoder layer like Llama's in two halves, its W in wider matrices."""

    def __init__(self, layer: torch.nn.Module, handle: Handle):
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self.layer, self.stock, self.attentions = layer, layer.forward, ALL_ATTENTION_FUNCTIONS
        self.is_last = layer.self_attn.layer_idx + 1 >= layer.mlp.config.num_hidden_layers
        self.gated = [getattr(layer.mlp, name) for name in GATED]
        self.gate_up = widen(self.gated[:2], handle)
        self.down = widen(self.gated[2:], handle)
        self.qkv = []
        if is_joint(layer.self_attn):
            self.qkv = [getattr(layer.self_attn, name) for name in QKV]
            biases = [each.get_base_layer().bias for each in self.qkv]
            self.qkv_matrix = widen(self.qkv, handle)
            self.qkv_bias = None if biases[0] is None else torch.cat(biases)
        handle.replace_forward(layer, self.forward)

    def forward(
        self, hidden_states: torch.Tensor, kept: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        """In place of the layer's. kept: the places whose result is asked for of the last layer."""
        if not self.is_last:
            kept = None
        if any(each.disable_adapters or each.merged for each in self.gated):
            made = self.stock(hidden_states, **kwargs)
            return made if kept is None else made.index_select(1, kept)
        residual, attended = self.attend(hidden_states, **kwargs)
        if kept is None:
            attended = attended.flatten(0, -2).contiguous()
        else:
            residual, attended = (residual + attended).index_select(1, kept), None
        norm = self.layer.post_attention_layernorm
        made = LoraMlp.apply(
            residual.flatten(0, -2), attended, norm.weight, norm.variance_epsilon,
            *draw(self.gated[0]), self.gate_up, self.down,
            *itertools.chain.from_iterable(map(adapter, self.gated)),
        )  # fmt: skip
        return made.view_as(residual)

    def attend(self, x: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, what attention makes of x's norm)"""
        attention, norm = self.layer.self_attn, self.layer.input_layernorm
        if not self.qkv or kwargs.get("past_key_values") is not None:
            x, hidden = rms_norm(norm, x)
            return x, attention(hidden_states=hidden, **kwargs)[0]
        scale, p, (seed, _) = draw(self.qkv[0])
        cos, sin = (
            each.expand(*x.shape[:-1], -1).flatten(0, -2).contiguous()
            for each in kwargs.pop("position_embeddings")
        )
        x_again, *qkv = LoraQkv.apply(
            x.flatten(0, -2), norm.weight, norm.variance_epsilon, (scale, p, seed),
            self.qkv_matrix, self.qkv_bias, cos, sin,
            [each.out_features // attention.head_dim for each in self.qkv[:2]],
            *itertools.chain.from_iterable(map(adapter, self.qkv)),
        )  # fmt: skip
        # Mistral's attention looks in its configuration, where Llama's does not, whatever is there
        window = getattr(attention, "sliding_window", None)
        if attention.config.model_type == "mistral":
            window = attention.config.sliding_window
        out, _ = self.attentions[attention.config._attn_implementation](
            attention, *(each.unflatten(0, x.shape[:-1]).transpose(1, 2) for each in qkv),
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.scaling, sliding_window=window, **kwargs,
        )  # fmt: skip
        return x_again.view_as(x), attention.o_proj(out.flatten(2))


def keep_early(model: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Before the model's forward: what the loss does not ask for is left out in the last layer."""
    if torch.is_tensor(kwargs.get("logits_to_keep")):
        kept = kwargs.pop("logits_to_keep")
        kwargs["kept"] = kept.nonzero()[:, 0] if kept.dtype == torch.bool else kept
    return args, kwargs
