"""Whether a folder holds a whole model: said before anything is loaded.

The libraries load what is not whole: a tensor that lacks is made up at random, one without a place
is left out, and a token beyond the embedding ends a training after hours. Checked here are

- the configs and the index: JSON objects in UTF-8;
- the shards: those of the index, each complete, together with exactly the tensors that it lists;
- the tensors: those that the architecture needs, in its shapes, as floats or with all that a known
  quantisation needs;
- the tokenizer: there, and no id beyond the embedding's rows.

What an architecture needs is a table for the common ones (`FAMILIES`), which needs no library. For
all others transformers is asked, which reads the weights without keeping them (about 10 s).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sftflow.core.cli import UserError
from sftflow.models.formats import INDEX, WHOLE
from sftflow.models.safetensors_files import FLOATS, Tensor, read_header, unique

NAMED = 8  # problems that an error names
POINTER = b"version https://git-lfs.github.com/spec"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
COMPUTED = ("rotary_emb.inv_freq",)  # old checkpoints also hold these tables

# What is read of a model besides weights and vocabularies; each holds an object.
OBJECTS = ["*config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"]
OBJECTS += ["chat_template.json"]


def refuse(what: str, problems: list[str]) -> None:
    """Raise UserError when there are problems; it names the first ones."""
    if problems:
        more = [f"… and {len(problems) - NAMED} more"] * (len(problems) > NAMED)
        raise UserError("\n  ".join([what, *problems[:NAMED], *more]))


# --- JSON files of a model -----------------------------------------------------------------------


def read_object(path: Path, once: bool = False) -> dict:
    """A JSON file that must hold an object; a byte order mark is passed over.

    With `once` a key stated twice is an error. Raises UserError, one line with the file's name.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        found = json.loads(text, parse_constant=no_nan, object_pairs_hook=unique if once else None)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except json.JSONDecodeError as error:
        state = "empty" if not text.strip() else f"not valid JSON, or cut short: {error}"
        raise UserError(f"{path.name}: {state}: fetch or copy it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path.name}: holds a JSON {type(found).__name__}, not an object")
    return found


def no_nan(name: str) -> float:
    """Infinity is what transformers itself writes in some configs; NaN is a mistake."""
    if name == "NaN":
        raise ValueError("holds NaN, which is no number")
    return float(name)


def optional_object(path: Path) -> dict:
    return read_object(path) if path.is_file() else {}


# --- files ---------------------------------------------------------------------------------------


def check_files(folder: Path) -> None:
    """Refuse what is no model's folder, or holds placeholders instead of files."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    pointers = [path.relative_to(folder).as_posix() for path in files if is_pointer(path)]
    if pointers:
        raise UserError(
            f"{', '.join(pointers[:NAMED])}: pointers of git-LFS, not the files themselves. Run "
            "`git lfs install && git lfs pull` in the repository, or fetch from the hub"
        )
    if empty := [
        path.name for path in files
        if not path.stat().st_size and path.suffix in (".safetensors", ".json", ".model")
    ]:  # fmt: skip
        raise UserError(f"{', '.join(empty)}: empty (0 bytes): fetch or copy again")
    if not (folder / "config.json").is_file():
        raise UserError(
            "an adapter (adapter_config.json), not a model: merge it into its base model first, "
            "and give the merged folder"
            if (folder / "adapter_config.json").is_file()
            else "no config.json, so no model"
        )
    for path in (path for pattern in OBJECTS for path in sorted(folder.glob(pattern))):
        read_object(path, once=path.name == "config.json")


def is_pointer(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(POINTER)) == POINTER


def shards(folder: Path) -> list[Path]:
    """The files with weights: those of the index if there is one, else all. Or UserError."""
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(weight_map(index).values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise UserError(f"{INDEX} names {', '.join(missing)}, which are not there")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    counts: dict[tuple[str, int], set[int]] = {}
    for path in found:
        if part := re.fullmatch(r"(.*)-(\d+)-of-(\d+)\.safetensors", path.name):
            counts.setdefault((part[1], int(part[3])), set()).add(int(part[2]))
    for (name, of), there in counts.items():
        if len(there) < of:
            lacking = next(number for number in range(1, of + 1) if number not in there)
            raise UserError(
                f"{name}: {len(there)} of {of} shards are there; shard {lacking} of {of} is not"
            )
    return found


def weight_map(index: Path) -> dict[str, str]:
    """{tensor: file} of an index. Raises UserError."""
    found = read_object(index, once=True).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"{index.name}: no weight_map of tensors to files")
    for name, file in found.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith("safetensors"):
            raise UserError(
                f"{index.name}: {name} lies in {file!r}, which is no *.safetensors here"
            )
    return found


def weights(folder: Path, files: list[Path]) -> dict[str, Tensor]:
    """Every tensor of a model's files. Raises UserError: the index and the headers must agree."""
    listed = weight_map(folder / INDEX) if (folder / INDEX).is_file() else None
    tensors: dict[str, Tensor] = {}
    problems = []
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                problems.append(f"{name} is in {tensors[name].path.name} and in {file.name}")
            tensors[name] = tensor
            if listed is not None and listed.get(name) != file.name:
                place = listed.get(name)
                where = f"which {INDEX} places in {place}" if place else f"{INDEX} lacks it"
                problems.append(f"{name} is in {file.name}, {where}")
    for name, place in (listed or {}).items():
        if name not in tensors:
            problems.append(f"{name} should be in {place} ({INDEX}), which does not hold it")
    refuse("the files with weights do not agree:", problems)
    return tensors


def check_loadable(folder: Path, files: list[Path]) -> None:
    """Whether the libraries find these files by themselves, and all take the same ones."""
    names = {file.name for file in files}
    if (folder / INDEX).is_file():
        if more := sorted({path.name for path in folder.glob("*.safetensors")} - names):
            raise UserError(
                f"two sets of weights: {', '.join(more[:NAMED])}, and those that {INDEX} names; "
                "move one away"
            )
    elif names != {WHOLE}:
        raise UserError(
            f"{', '.join(sorted(names)[:NAMED])} without {INDEX}: no library finds them. Copy the "
            f"index, too, or name a single file {WHOLE}"
        )


# --- tensors -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """What sets an architecture apart from Llama's."""

    architecture: str
    qkv_bias: bool | None = False  # None: as attention_bias in the config says, the output's too
    qk_norm: bool = False
    mlp_bias: bool = False  # whether mlp_bias in the config counts


FAMILIES = {
    "llama": Family("LlamaForCausalLM", qkv_bias=None, mlp_bias=True),
    "mistral": Family("MistralForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Family("Qwen3ForCausalLM", qkv_bias=None, qk_norm=True),
}


def number(config: dict, name: str, default: int | None = None) -> int:
    """A size in a config: a whole number above 0. Raises UserError."""
    found = config.get(name)
    found = default if found is None else found
    if found is None:
        raise UserError(f"config.json lacks {name!r}")
    if type(found) is not int or found < 1:
        raise UserError(f"config.json: {name} is {found!r}, not a whole number above 0")
    return found


def needed(config: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(tensor, shape) of every tensor that a config of `FAMILIES` asks for. Raises UserError."""
    family = FAMILIES[config["model_type"]]
    hidden, inner = number(config, "hidden_size"), number(config, "intermediate_size")
    heads, vocabulary = number(config, "num_attention_heads"), number(config, "vocab_size")
    kv = number(config, "num_key_value_heads", heads)
    head = number(config, "head_dim", 128 if family.qk_norm else hidden // heads or None)
    if heads % kv:
        raise UserError(f"config.json: {heads} heads and {kv} key/value heads do not divide")
    stated = bool(config.get("attention_bias", False))
    bias = stated if family.qkv_bias is None else family.qkv_bias
    linears = {
        "self_attn.q_proj": (heads * head, hidden, bias),
        "self_attn.k_proj": (kv * head, hidden, bias),
        "self_attn.v_proj": (kv * head, hidden, bias),
        "self_attn.o_proj": (hidden, heads * head, bias and family.qkv_bias is None),
    }
    mlp_bias = family.mlp_bias and bool(config.get("mlp_bias", False))
    for name, rows, columns in (
        ("gate_proj", inner, hidden),
        ("up_proj", inner, hidden),
        ("down_proj", hidden, inner),
    ):
        linears[f"mlp.{name}"] = (rows, columns, mlp_bias)
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if family.qk_norm:
        norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    yield EMBEDDING, (vocabulary, hidden)
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings", False):
        yield HEAD, (vocabulary, hidden)
    for layer in range(number(config, "num_hidden_layers")):
        prefix = f"model.layers.{layer}."
        for name, (rows, columns, biased) in linears.items():
            yield f"{prefix}{name}.weight", (rows, columns)
            if biased:
                yield f"{prefix}{name}.bias", (rows,)
        for name, size in norms.items():
            yield f"{prefix}{name}.weight", (size,)


# Of each quantisation: what stands for `X.weight`. All parts of one line must be there.
PARTS: dict[str, list[tuple[str, ...]]] = {
    "gptq": [("qweight", "qzeros", "scales")],
    "awq": [("qweight", "qzeros", "scales")],
    "fp8": [("weight", "weight_scale_inv"), ("weight", "weight_scale")],
    "bitsandbytes": [("weight", "weight.absmax", "weight.quant_map"), ("weight", "SCB")],
    "compressed-tensors": [
        ("weight_packed", "weight_scale", "weight_shape"),
        ("weight", "weight_scale"),
    ],
}


def quantisation(config: dict) -> str | None:
    """The quant_method that a config states; None for plain weights. Raises UserError."""
    stated = config.get("quantization_config")
    if not stated:
        return None
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if method not in PARTS:
        raise UserError(
            f"config.json: quantised by {method!r}; known are {', '.join(PARTS)}. Take the "
            "repository without quantisation"
        )
    return method


def unscaled(name: str, tensors: dict[str, Tensor], method: str | None) -> str | None:
    """What lacks of `X.weight`; None when it is there as floats, or quantised with all parts."""
    if name in tensors and tensors[name].dtype in FLOATS:
        return None
    stem = name.removesuffix("weight")
    lacking = [
        [part for part in parts if stem + part not in tensors]
        for parts in PARTS.get(method or "", [])
    ]
    if any(not parts for parts in lacking):
        return None
    if name in tensors and method is None:
        return f"{name} is {tensors[name].dtype}, and config.json states no quantisation"
    least = min(lacking, key=len, default=[])
    return f"missing {', '.join(stem + part for part in least) or name}"


def check_table(tensors: dict[str, Tensor], config: dict) -> list[str]:
    """Problems of a model of `FAMILIES`, one line each."""
    method = quantisation(config)
    problems: list[str] = []
    places = set()
    for name, shape in needed(config):
        places.add(name)
        tensor = tensors.get(name)
        if name.endswith(".weight") and (lacking := unscaled(name, tensors, method)):
            problems.append(lacking)
        elif tensor is None and name.endswith(".bias"):
            problems.append(f"missing {name}")
        elif tensor and tensor.dtype in FLOATS and tensor.shape != shape:
            problems.append(f"{name} is {list(tensor.shape)}, not {list(shape)}")
    if config.get("tie_word_embeddings"):
        places.add(HEAD)
    if method:  # parts of many names
        return problems
    return problems + [
        f"{name} has no place in it"
        for name in tensors
        if name not in places and not name.endswith(COMPUTED)
    ]


def architectures(config: dict) -> list[str]:
    """The classes that a config names. Raises UserError."""
    found = config.get("architectures") or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UserError(f"config.json: architectures is {found!r}, not a list of names")
    return found


def check_by_library(folder: Path, config: dict) -> list[str]:
    """The same for every architecture of transformers: its own loader, without keeping a tensor."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name = next(iter(architectures(config)), "")
    kind = getattr(transformers, name, transformers.AutoModelForCausalLM)
    try:
        _, found = kind.from_pretrained(
            folder,
            dtype=torch.bfloat16,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            use_safetensors=True,
        )
    except Exception as error:  # whatever a config makes the library stumble over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "conversion" in reason:  # as experts are, which transformers joins to one tensor
            reason = "of tensors that belong together one lacks, or has another shape"
        raise UserError(
            f"transformers cannot build this {config['model_type']}: {reason}"
        ) from None
    return [f"missing {name}" for name in sorted(found["missing_keys"])] + [
        f"{name} is {list(there)}, not {list(wanted)}"
        for name, there, wanted in sorted(found["mismatched_keys"])
    ]


def check_tensors(folder: Path, config: dict, tensors: dict[str, Tensor]) -> None:
    """Refuse a model that lacks a tensor, or has one of another shape. Raises UserError."""
    layers = config.get("num_hidden_layers")
    if type(layers) is int and layers > len(tensors):
        raise UserError(f"config.json has {layers:,} layers, the files {len(tensors):,} tensors")
    model_type = config.get("model_type")
    family = FAMILIES.get(str(model_type))
    stated = architectures(config)
    if family and stated and family.architecture not in stated:
        raise UserError(
            f"config.json: architectures is {stated}; only {family.architecture} answers questions"
        )
    if family:
        problems = check_table(tensors, config)
    elif quantisation(config):
        raise UserError(
            f"config.json: a quantised {model_type!r}; quantised models are taken of "
            f"{', '.join(FAMILIES)}. Take the repository without quantisation"
        )
    elif find_spec("transformers"):
        problems = check_by_library(folder, config)
    else:
        raise UserError(
            f"which tensors a {model_type!r} needs only transformers knows, which is not here: "
            "start this program with the Python of envs/swift"
        )
    problems += [
        f"{name} is {tensor.dtype}, not floats"
        for name, tensor in tensors.items()
        if not family and tensor.dtype not in FLOATS and name.endswith(".weight")
    ]
    refuse("the weights are not those of the model that config.json describes:", problems)


# --- tokenizer -----------------------------------------------------------------------------------

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
# Forms that only a library reads; taken as they are.
OPAQUE = ("*.tiktoken", "tekken.json", "spiece.model", "*.spm", "sentencepiece.bpe.model")
# Gemma 3's text models come with the tokenizer of those that see.
BEYOND = {"<image_soft_token>"}


def vocabulary(folder: Path) -> Iterator[tuple[str, Any]]:
    """(token, id) of everything that a folder's tokenizer can give. Raises UserError."""
    config = optional_object(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        fast = read_object(folder / "tokenizer.json")
        model = fast.get("model")
        words = model.get("vocab") if isinstance(model, dict) else None
        if not words:
            raise UserError("tokenizer.json holds no vocabulary (model.vocab): copy it again")
        named = (
            words.items() if isinstance(words, dict) else ((str(w), i) for i, w in enumerate(words))
        )
        yield from named
        yield from ((t.get("content"), t.get("id")) for t in fast.get("added_tokens") or [])
    elif (folder / "tokenizer.model").is_file():
        pieces = sentencepieces((folder / "tokenizer.model").read_bytes())
        if not pieces:
            raise UserError("tokenizer.model is no sentencepiece model: copy it again")
        yield f"piece {pieces - 1}", pieces - 1
    elif (folder / "vocab.json").is_file():
        if not (folder / "merges.txt").is_file():
            raise UserError("vocab.json without merges.txt: half of a tokenizer; copy it, too")
        yield from read_object(folder / "vocab.json").items()
    elif (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_bytes().splitlines()
        yield f"line {len(lines)}", len(lines) - 1
    elif not any(any(folder.glob(pattern)) for pattern in OPAQUE):
        raise UserError(f"no tokenizer: none of {', '.join(TOKENIZERS)} is there; copy it, too")
    if not (folder / "tokenizer.json").is_file():  # which otherwise holds them
        yield from optional_object(folder / "added_tokens.json").items()
        for i, token in (config.get("added_tokens_decoder") or {}).items():
            yield token.get("content"), int(i)


def sentencepieces(model: bytes) -> int:
    """Pieces in a sentencepiece model: its fields of number 1. 0 when it is none.

    Protocol buffers, whose wire format is a list of (key, value); a value of type 2 states its
    length. Without the library, which is in one environment only.
    """
    place, count = 0, 0

    def whole() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = model[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    try:
        while place < len(model):
            field, kind = divmod(whole(), 8)
            if kind == 2:
                length = whole()
                place += length
                count += field == 1
            elif kind == 0:
                whole()
            elif kind in (1, 5):
                place += 8 if kind == 1 else 4
            else:
                return 0
    except IndexError:
        return 0
    return count if place == len(model) else 0


def check_tokenizer(folder: Path, config: dict) -> None:
    """Refuse a tokenizer that is not there, cannot be read, or has ids that the model lacks."""
    text = config.get("text_config")
    rows = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    problems = []
    try:
        for token, place in vocabulary(folder):
            if type(place) is not int or place < 0:
                raise UserError(f"the tokenizer's token {token!r} has the id {place!r}")
            if type(rows) is int and place >= rows and token not in BEYOND:
                problems.append(f"{token!r} has the id {place:,}")
    except (AttributeError, TypeError, ValueError):
        raise UserError("the tokenizer's files hold no list of tokens: copy them again") from None
    refuse(
        f"the tokenizer has ids that the model's embedding lacks (vocab_size {rows}); take the "
        "tokenizer that belongs to these weights, or resize the embedding:",
        problems,
    )
    if (folder / "tokenizer.json").is_file() and find_spec("tokenizers"):
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library knows no type of its own
            raise UserError(f"tokenizer.json cannot be loaded: {error}") from None
    check_ends(folder, config, rows)


def check_ends(folder: Path, config: dict, rows: object) -> None:
    """An end-of-text token that the model has not can never end an answer."""
    for name, stated in (
        ("config.json", config),
        ("generation_config.json", optional_object(folder / "generation_config.json")),
    ):
        ends = stated.get("eos_token_id")
        for end in ends if isinstance(ends, list) else [ends]:
            if end is not None and (
                type(end) is not int or end < 0 or (type(rows) is int and end >= rows)
            ):
                raise UserError(f"{name}: eos_token_id {end!r} is no id of this model")


def check(folder: Path, allow_remote_code: bool) -> dict[str, Tensor]:
    """Every tensor of a whole model. Raises UserError for what lacks or does not fit; its tokenizer
    has `check_tokenizer`.

    With code of its own, or pickle weights, only what can be known without running it is checked.
    """
    config = read_object(folder / "config.json")
    files = shards(folder)
    tensors = weights(folder, files)
    if files:
        check_loadable(folder, files)
    if not unknown(folder, allow_remote_code):
        check_tensors(folder, config, tensors)
    return tensors


def unknown(folder: Path, allow_remote_code: bool) -> bool:
    """Only running code of the model's own would tell more: it has some, or pickle weights."""
    own = "auto_map" in read_object(folder / "config.json")
    return allow_remote_code and (own or not shards(folder))
