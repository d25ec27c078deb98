"""InternLM2 and InternLM2.5 in Llama's layout: the same function, without their own code.

InternLM2 differs from Llama in names and in one fused matrix: `wqkv` holds, for each group of query
heads that share a key and a value head, the group's queries, then its key, then its value:

    wqkv.view(kv_heads, groups + 2, head_dim, hidden): q = [:, :groups], k = [:, -2], v = [:, -1]

(InternLM2 technical report, arXiv:2403.17297, section 2.2, "weights interleaved by head").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from sftflow.core.cli import UserError
from sftflow.models.completeness import number, refuse
from sftflow.models.safetensors_files import Output, Tensor

MODEL_TYPES = ("internlm2",)
EMBEDDING, HEAD = "model.tok_embeddings.weight", "output.weight"
RENAMED = {
    EMBEDDING: "model.embed_tokens.weight",
    "model.norm.weight": "model.norm.weight",
    HEAD: "lm_head.weight",
}
RENAMED_IN_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
}
QKV = "attention.wqkv.weight"

# The chat markers are pieces of the vocabulary that have no name of their own in its file.
MARKERS = {
    92543: "<|im_start|>",
    92542: "<|im_end|>",
    92541: "<|action_start|>",
    92540: "<|action_end|>",
    92539: "<|interpreter|>",
    92538: "<|plugin|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """The sizes that fix every tensor's shape."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    @property
    def head(self) -> int:
        return self.hidden // self.heads

    @property
    def groups(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    @classmethod
    def of(cls, config: dict) -> "Shape":
        """Read and check a config. Raises UserError."""
        heads = number(config, "num_attention_heads")
        shape = cls(
            layers=number(config, "num_hidden_layers"),
            hidden=number(config, "hidden_size"),
            inner=number(config, "intermediate_size"),
            heads=heads,
            kv_heads=number(config, "num_key_value_heads", heads),
            vocabulary=number(config, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
        if config.get("bias"):
            raise UserError("config.json: bias is true; Llama's layout has no place for wo's bias")
        if config.get("hidden_act", "silu") != "silu":
            raise UserError(f"config.json: hidden_act {config['hidden_act']} is not silu")
        if shape.hidden % shape.heads or shape.heads % shape.kv_heads:
            raise UserError(
                f"config.json: hidden_size {shape.hidden}, {shape.heads} heads and "
                f"{shape.kv_heads} key/value heads do not divide"
            )
        if shape.head % 2:
            raise UserError(f"config.json: head size {shape.head} is odd; rotation needs pairs")
        return shape

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the source and its shape."""
        shapes = {EMBEDDING: (self.vocabulary, self.hidden), "model.norm.weight": (self.hidden,)}
        if not self.tied:
            shapes[HEAD] = (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            shapes |= {
                prefix + QKV: ((self.heads + 2 * self.kv_heads) * self.head, self.hidden),
                prefix + "attention.wo.weight": (self.hidden, self.hidden),
                prefix + "attention_norm.weight": (self.hidden,),
                prefix + "ffn_norm.weight": (self.hidden,),
                prefix + "feed_forward.w1.weight": (self.inner, self.hidden),
                prefix + "feed_forward.w2.weight": (self.hidden, self.inner),
                prefix + "feed_forward.w3.weight": (self.inner, self.hidden),
            }
        return shapes


def check(tensors: dict[str, Tensor], shape: Shape) -> None:
    """Raise UserError, with the names, unless the tensors are exactly those of the shape."""
    if shape.layers > len(tensors):
        raise UserError(f"config.json has {shape.layers} layers, the files {len(tensors)} tensors")
    expected = shape.expected()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        if name not in expected:
            if not ignored(name, shape):
                problems.append(f"{name} has no place in Llama's layout")
        elif tensor.shape != expected[name]:
            problems.append(f"{name} is {list(tensor.shape)}, not {list(expected[name])}")
    refuse("these weights are not InternLM2's as config.json describes it:", problems)


def ignored(name: str, shape: Shape) -> bool:
    """Tables that are computed, and the second copy of a tied embedding."""
    return name.endswith("rotary_emb.inv_freq") or (shape.tied and name == HEAD)


def outputs(tensors: dict[str, Tensor], shape: Shape) -> Iterator[Output]:
    """The tensors of one source file in Llama's layout. `tensors` has passed `check`."""
    for name, tensor in tensors.items():
        if ignored(name, shape):
            continue
        if name in RENAMED:
            yield Output(RENAMED[name], tensor.dtype, tensor.shape, tensor.read)
            continue
        prefix, _, part = name.partition("attention.wqkv.weight")
        if prefix != name:
            for letter, rows in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads)):
                yield Output(
                    f"{prefix}self_attn.{letter}_proj.weight",
                    tensor.dtype,
                    (rows * shape.head, shape.hidden),
                    partial(read_split, tensor, shape, letter),
                )
            continue
        *_, layer, part = name.split(".", 3)
        yield Output(
            f"model.layers.{layer}.{RENAMED_IN_LAYER[part]}",
            tensor.dtype,
            tensor.shape,
            tensor.read,
        )


def read_split(tensor: Tensor, shape: Shape, letter: str) -> np.ndarray:
    """`split_qkv` of a tensor that is read only now."""
    return split_qkv(tensor.read(), shape, letter)


def split_qkv(wqkv: np.ndarray, shape: Shape, letter: str) -> np.ndarray:
    """One of q, k, v: (heads · head, hidden), out of ((heads + 2 · kv_heads) · head, hidden)."""
    grouped = wqkv.reshape(shape.kv_heads, shape.groups + 2, shape.head, shape.hidden)
    part = {"q": grouped[:, :-2], "k": grouped[:, -2:-1], "v": grouped[:, -1:]}[letter]
    return part.reshape(-1, shape.hidden)


def llama_config(config: dict, dtype: str) -> dict:
    """config.json for Llama's layout, in the keys that transformers 4 and 5 and vLLM read."""
    shape = Shape.of(config)
    result = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": config.get("max_position_embeddings", 32768),
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "rope_theta": config.get("rope_theta", 10000.0),
        "rope_scaling": rope_scaling(config.get("rope_scaling")),
        "initializer_range": config.get("initializer_range", 0.02),
        "tie_word_embeddings": shape.tied,
        "bos_token_id": config.get("bos_token_id", 1),
        "eos_token_id": config.get("eos_token_id", 2),
        "pad_token_id": config.get("pad_token_id", 2),
        "torch_dtype": dtype,
        "use_cache": True,
    }
    return result


def rope_scaling(scaling: dict | None) -> dict | None:
    """Longer contexts than trained on: both libraries know `dynamic` and `linear` alike."""
    if not scaling:
        return None
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else scaling
    if kind == "default":
        return None
    if kind not in ("dynamic", "linear"):
        raise UserError(f"config.json: rope_scaling {kind!r} is not known for InternLM2")
    factor = scaling.get("factor")
    if not isinstance(factor, (int, float)) or not factor >= 1:
        raise UserError(f"config.json: rope_scaling's factor is {factor!r}, not a number from 1 on")
    return {"rope_type": kind, "factor": float(factor)}


def generation_config(given: dict | None, config: dict) -> dict:
    """The source's own, or what the chat models ship: an answer ends at </s> or <|im_end|>."""
    if given:
        return {key: value for key, value in given.items() if key != "transformers_version"}
    end = config.get("eos_token_id", 2)
    ends = list(end) if isinstance(end, list) else [end]
    if config["vocab_size"] > 92542 and 92542 not in ends:
        ends.append(92542)
    return {
        "bos_token_id": config.get("bos_token_id", 1),
        "eos_token_id": ends,
        "pad_token_id": config.get("pad_token_id", 2),
    }


def markers(tokenizer_config: dict, size: int) -> dict[int, str]:
    """Special tokens by id: those that the source names, else those of the published models."""
    named = tokenizer_config.get("added_tokens_decoder") or {}
    try:
        own = {int(i): text(token) for i, token in named.items() if int(i) > 2}
    except (AttributeError, ValueError):
        raise UserError("tokenizer_config.json: added_tokens_decoder names no ids") from None
    return own or {i: token for i, token in MARKERS.items() if i < size}


def tokenizer(model_file: Path, special: dict[int, str]):
    """A `tokenizers.Tokenizer` with the ids of the sentencepiece model. Needs envs/swift.

    A sentencepiece BPE model has scores, not merges: every pair of pieces whose concatenation is a
    piece may merge, best score first. Its user-defined pieces are cut out before any merging.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

    model = sentencepiece.ModelProto()
    try:
        model.ParseFromString(model_file.read_bytes())
    except Exception:  # protobuf's own type is another one in each of its implementations
        raise UserError("tokenizer.model is no sentencepiece model: copy it again") from None
    check_sentencepiece(model)
    kinds = model.SentencePiece
    names = [piece.piece for piece in model.pieces]
    user_defined = []
    for i, piece in enumerate(model.pieces):
        if i in special:
            names[i] = special[i]
        elif piece.type == kinds.UNUSED or piece.piece == "\0":  # sentencepiece skips both alike
            names[i] = f"<unused {i}>"  # never encoded, but its id stays taken
        elif piece.type == kinds.USER_DEFINED:
            user_defined.append(piece.piece)
    ids = {name: i for i, name in enumerate(names)}
    fast = Tokenizer(
        BPE(
            ids,
            merges(names, [piece.score for piece in model.pieces]),
            unk_token=names[model.trainer_spec.unk_id],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = [
        names[i] for i, p in enumerate(model.pieces) if p.type in (kinds.CONTROL, kinds.UNKNOWN)
    ]
    tokens = [AddedToken(name, normalized=False) for name in user_defined]
    fast.add_tokens(tokens)
    named = [*control, *(special[i] for i in sorted(special))]
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in named])
    begin = names[model.trainer_spec.bos_id]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, ids[begin])]
    )
    return fast


def check_sentencepiece(model) -> None:
    spec, normalizer = model.trainer_spec, model.normalizer_spec
    if spec.model_type != spec.BPE or not spec.byte_fallback:
        raise UserError("tokenizer.model is not a sentencepiece BPE model with byte fallback")
    if normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces:
        raise UserError("tokenizer.model adds or removes spaces, which InternLM2's does not")
    if normalizer.precompiled_charsmap:
        raise UserError("tokenizer.model rewrites characters, which InternLM2's does not")


def merges(names: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Every pair of pieces that may merge, best score first, earlier pieces first among equals."""
    ids = {name: i for i, name in enumerate(names)}
    pairs = []
    for name, score in zip(names, scores, strict=True):
        for cut in range(1, len(name)):
            left, right = ids.get(name[:cut]), ids.get(name[cut:])
            if left is not None and right is not None:
                pairs.append((-score, ids[name], left, right))
    return [(names[left], names[right]) for _, _, left, right in sorted(pairs)]


def tokenizer_config(given: dict, special: dict[int, str], config: dict) -> dict:
    """tokenizer_config.json that loads without InternLM2's own class."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(given.get("bos_token", "<s>")),
        "eos_token": text(given.get("eos_token", "</s>")),
        "pad_token": text(given.get("pad_token") or given.get("eos_token") or "</s>"),
        "unk_token": text(given.get("unk_token", "<unk>")),
        "additional_special_tokens": [special[i] for i in sorted(special, reverse=True)],
        "chat_template": given.get("chat_template") or CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.get("max_position_embeddings", 32768),
    }


def text(token: str | dict) -> str:
    found = token.get("content") if isinstance(token, dict) else token
    if not isinstance(found, str):
        raise UserError(f"tokenizer_config.json: {token!r} is no token")
    return found
