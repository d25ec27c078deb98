"""Small whole models in the folders that people have, and what is wrong with the others.

`CASES` names each kind: how a whole model becomes such a folder, and what the error says of it
(a regular expression), or None where the folder is taken. docs/accepted/models.md has its rows.
"""

import codecs
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sftflow.models import completeness
from sftflow.models.formats import INDEX, WHOLE
from sftflow.models.safetensors_files import BYTES, Output, write_file

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "vocab_size": 20}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 2}
FAMILIES: dict[str, dict] = {
    "llama": {},
    "mistral": {"head_dim": 4},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 2},
}
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {"id": 19, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
    ],
    "model": {
        "type": "WordLevel",
        "vocab": {f"word{number}": number for number in range(19)} | {"<|end|>": 19},
        "unk_token": "word0",
    },
}
LAYER = "model.layers.1.mlp.up_proj.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12\n"


def config_of(family: str) -> dict:
    architecture = completeness.FAMILIES[family].architecture
    return {"model_type": family, "architectures": [architecture]} | SIZES | FAMILIES[family]


def write(
    folder: Path, family: str = "llama", files: int = 1, dtype: str = "F32", **config
) -> Path:
    """A whole model of a family, its tensors filled with numbers, in so many shards."""
    folder.mkdir(parents=True)
    stated = config_of(family) | config
    shapes = dict(completeness.needed(stated))
    (folder / "config.json").write_text(json.dumps(stated))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    save(folder, {name: (dtype, shape) for name, shape in shapes.items()}, files)
    return folder


def save(folder: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], files: int = 1) -> None:
    """Tensors of {name: (dtype, shape)} in so many shards, with an index if more than one."""
    names, places = list(tensors), {}
    for number in range(files):
        file = WHOLE if files == 1 else f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = names[number * len(names) // files : (number + 1) * len(names) // files]
        write_file(folder / file, [output(name, *tensors[name]) for name in part])
        places |= dict.fromkeys(part, file)
    if files > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def output(name: str, dtype: str, shape: tuple[int, ...]) -> Output:
    kind = np.dtype(f"u{BYTES[dtype]}")
    return Output(name, dtype, shape, lambda: np.full(shape, len(name), kind))


def tensors_of(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    found = completeness.weights(folder, completeness.shards(folder))
    return {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()}


# --- how a whole model becomes another -----------------------------------------------------------


def edit(name: str, **values) -> Callable[[Path], None]:
    """Other values in a JSON file; ... takes a key out."""

    def change(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        content = {key: value for key, value in (content | values).items() if value is not ...}
        path.write_text(json.dumps(content))

    return change


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    content = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def tensors(files: int = 1, **changes) -> Callable[[Path], None]:
    """Weights written again with other (dtype, shape) for a tensor; None takes it out."""

    def change(folder: Path) -> None:
        made = tensors_of(folder) | {name.replace("__", "."): new for name, new in changes.items()}
        for path in [*folder.glob("*.safetensors"), *folder.glob(INDEX)]:
            path.unlink()
        save(folder, {name: new for name, new in made.items() if new is not None}, files)

    return change


def index(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    """Two shards, and an index of which something else is stated."""

    def changed(folder: Path) -> None:
        tensors(2)(folder)
        path = folder / INDEX
        places = json.loads(path.read_text())["weight_map"]
        path.write_text(json.dumps({"weight_map": change(places)}))

    return changed


def header(change: Callable[[dict], dict | str]) -> Callable[[Path], None]:
    """The header of the only shard, with something else in it."""

    def changed(folder: Path) -> None:
        content = (folder / WHOLE).read_bytes()
        length = int.from_bytes(content[:8], "little")
        new = change(json.loads(content[8 : 8 + length]))
        encoded = (new if isinstance(new, str) else json.dumps(new)).encode()
        (folder / WHOLE).write_bytes(
            len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]
        )

    return changed


def moved(entry: dict, by: int) -> dict:
    begin, end = entry["data_offsets"]
    return entry | {"data_offsets": [begin + by, end + by]}


def both(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def rename(name: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).rename(folder / new)


def link(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def to_shards(folder: Path) -> None:
    tensors(3)(folder)


def again(folder: Path) -> None:
    """One tensor in both shards."""
    to_shards(folder)
    first, second = (folder / f"model-0000{number}-of-00003.safetensors" for number in (1, 2))
    found = tensors_of(folder)
    held = [
        n for n in found if json.loads((folder / INDEX).read_text())["weight_map"][n] in second.name
    ]
    write_file(second, [output(n, *found[n]) for n in [*held, "model.embed_tokens.weight"]])
    assert first.exists()


def quantised(parts: dict[str, str], method: str) -> Callable[[Path], None]:
    """Every linear of the layers in the parts {suffix: dtype} instead of floats."""

    def change(folder: Path) -> None:
        made: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, (dtype, shape) in tensors_of(folder).items():
            if "_proj.weight" in name:
                stem = name.removesuffix("weight")
                made |= {stem + part: (kind, shape) for part, kind in parts.items()}
            else:
                made[name] = (dtype, shape)
        (folder / WHOLE).unlink()
        save(folder, made)
        edit("config.json", quantization_config={"quant_method": method})(folder)

    return change


GPTQ = {"qweight": "I32", "qzeros": "I32", "scales": "F16", "g_idx": "I32"}


def with_bom(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())


def snapshot(folder: Path) -> None:
    """The layout of Hugging Face's cache: the folder becomes links to blobs."""
    top = folder.parent / f"models--{folder.name}"
    (top / "blobs").mkdir(parents=True)
    made = top / "snapshots/0123"
    made.mkdir(parents=True)
    for path in list(folder.iterdir()):
        path.rename(top / "blobs" / path.name)
        (made / path.name).symlink_to(f"../../blobs/{path.name}")
    folder.rmdir()
    folder.symlink_to(made)


def tiktoken(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "own.tiktoken").write_text("IQ== 0\n")


Case = tuple[Callable[[Path], object], str | None]
CASES: dict[str, Case] = {
    # taken
    "as it is published": (lambda folder: None, None),
    "shards and their index": (to_shards, None),
    "a byte order mark": (with_bom, None),
    "bfloat16": (tensors(lm_head__weight=("BF16", (20, 8))), None),
    "rotary tables of old checkpoints": (
        tensors(model__layers__0__self_attn__rotary_emb__inv_freq=("F32", (1,))), None
    ),
    "a tied head, stored or not": (edit("config.json", tie_word_embeddings=True), None),
    "the same weights once more in another format": (
        both(text("pytorch_model.bin", "pickle"), text("model.fp16.safetensors", "16 bits"),
             text("model-q4.gguf", "GGUF")), None
    ),
    "links to files of the same folder": (
        both(rename("tokenizer.json", "own.json"), link("tokenizer.json", "own.json")), None
    ),
    "a snapshot in Hugging Face's cache": (snapshot, None),
    "GPTQ, AWQ, FP8, bitsandbytes, compressed-tensors with all parts": (
        quantised(GPTQ, "gptq"), None
    ),
    "Infinity in a config": (text("generation_config.json", '{"max_time": Infinity}'), None),
    "a tokenizer that only a library reads": (tiktoken, None),
    # files
    "no config.json": (without("config.json"), "no config.json"),
    "an adapter": (rename("config.json", "adapter_config.json"), "an adapter .*merge it"),
    "a pointer of git-LFS": (
        both(text(WHOLE, POINTER), text("tokenizer.json", POINTER)),
        r"model\.safetensors, tokenizer\.json: pointers of git-LFS.*git lfs pull",
    ),
    "an empty file": (text(WHOLE, ""), r"model\.safetensors: empty"),
    "GGUF only": (
        both(without(WHOLE), text("model-q4.gguf", "GGUF")), r"only weights that are GGUF"
    ),
    "pickle only": (
        both(without(WHOLE), text("pytorch_model.bin", "pickle")), "Pickle weights run code"
    ),
    "a link out of the folder": (
        link("secret.json", "/etc/passwd"), r"secret\.json is a link out of the folder"
    ),
    "a linked folder that lies elsewhere": (
        link("more", "/etc"), "more is a link out of the folder"
    ),
    "a link to nothing, or to itself": (
        link("merges.txt", "merges.txt"), r"merges\.txt is a link to nothing"
    ),
    "a pipe or a device": (
        lambda folder: os.mkfifo(folder / "vocab.json"), r"vocab\.json is no regular file"
    ),
    # JSON
    "config.json cut short": (cut("config.json", 0.6), r"config\.json: not valid JSON, or cut"),
    "config.json in GBK": (
        text("config.json", '{"说明": 1}'.encode("gbk")), r"config\.json: not UTF-8 \(byte \d\)"
    ),
    "config.json that is no object": (
        text("config.json", "[1]"), r"config\.json: holds a JSON list, not an object"
    ),
    "config.json without model_type": (edit("config.json", model_type=...), "no model_type"),
    "a key twice in config.json": (
        text("config.json", '{"vocab_size": 1, "vocab_size": 2}'), "'vocab_size' is stated twice"
    ),
    "NaN in a config": (
        text("generation_config.json", '{"temperature": NaN}'), r"generation_config\.json: .*NaN"
    ),
    "generation_config.json cut short": (
        text("generation_config.json", '{"top_p": 0.'), r"generation_config\.json: not valid JSON"
    ),
    "a size that is no whole number": (
        edit("config.json", hidden_size="8"), "hidden_size is '8', not a whole number"
    ),
    "a size that lacks": (edit("config.json", intermediate_size=...), "lacks 'intermediate_size'"),
    "an end token that the model lacks": (
        edit("generation_config.json", eos_token_id=[2, 99]),
        r"generation_config\.json: eos_token_id 99 is no id",
    ),
    "architectures that are no list": (edit("config.json", architectures=5), "architectures is 5"),
    "no causal language model": (
        edit("config.json", architectures=["LlamaForSequenceClassification"]),
        "LlamaForSequenceClassification.*answers questions",
    ),
    # shards
    "a shard that lacks": (
        both(to_shards, without("model-00002-of-00003.safetensors")),
        r"names model-00002-of-00003\.safetensors, which are not there",
    ),
    "a shard that lacks, and no index": (
        both(to_shards, without("model-00002-of-00003.safetensors"), without(INDEX)),
        "2 of 3 shards are there; shard 2 of 3 is not",
    ),
    "shards without their index": (both(to_shards, without(INDEX)), rf"without {INDEX}"),
    "a file of another name": (rename(WHOLE, "weights.safetensors"), f"name a single file {WHOLE}"),
    "two sets of weights": (
        both(lambda folder: (folder / "kept").write_bytes((folder / WHOLE).read_bytes()),
             to_shards, rename("kept", WHOLE)), "two sets of weights",
    ),
    "a shard that the index does not name": (
        both(to_shards, text("model-00004-of-00004.safetensors", "older")),
        r"two sets of weights: model-00004-of-00004\.safetensors, and those",
    ),
    "an index that omits a tensor": (
        index(lambda places: {name: file for name, file in places.items() if name != LAYER}),
        rf"{LAYER} is in .*, {INDEX} lacks it",
    ),
    "an index with a tensor that no shard holds": (
        index(lambda places: places | {"model.more.weight": next(iter(places.values()))}),
        r"model\.more\.weight should be in .*, which does not hold it",
    ),
    "an index that leads out of the folder": (
        index(lambda places: places | {LAYER: "../other/model.safetensors"}),
        r"lies in '\.\./other/model\.safetensors', which is no",
    ),
    "an index without weight_map": (text(INDEX, "{}"), "no weight_map"),
    "a tensor in two shards": (again, r"embed_tokens\.weight is in .*00001.* and in .*00002"),
    "a shard cut short": (cut(WHOLE, 0.8), r"model\.safetensors: cut short"),
    "a header cut short": (cut(WHOLE, 0.01), r"model\.safetensors: not a safetensors file"),
    "a header that is no JSON": (header(lambda h: "garbage"), r"model\.safetensors: not a safet"),
    "a header of an absurd length": (
        text(WHOLE, (1 << 60).to_bytes(8, "little") + b"{}"), "not a safetensors file, or cut"
    ),
    "tensors that overlap": (
        header(lambda h: h | {LAYER: moved(h[LAYER], -4)}), f"damaged: tensor {LAYER} overlaps"
    ),
    "a hole between tensors": (
        header(lambda h: {name: e for name, e in h.items() if name != LAYER}), "after a hole"
    ),
    "bytes that the shape does not need": (
        header(lambda h: h | {LAYER: h[LAYER] | {"shape": [12, 9]}}), "needs 432 bytes, not 384"
    ),
    "negative offsets": (header(lambda h: h | {LAYER: moved(h[LAYER], -10**6)}), "negative"),
    "an unknown dtype": (
        header(lambda h: h | {LAYER: h[LAYER] | {"dtype": "F3"}}), "dtype F3 is not known"
    ),
    # tensors
    "a tensor that lacks": (
        tensors(model__layers__1__mlp__up_proj__weight=None), f"missing {LAYER}"
    ),
    "a layer more than config.json has": (
        edit("config.json", num_hidden_layers=1), r"layers\.1\..* has no place"
    ),
    "layers without end": (edit("config.json", num_hidden_layers=10**9), "1,000,000,000 layers"),
    "another shape": (
        edit("config.json", vocab_size=24), r"embed_tokens\.weight is \[20, 8\], not \[24, 8\]"
    ),
    "whole numbers for weights": (
        tensors(model__layers__1__mlp__up_proj__weight=("I8", (12, 8))),
        f"{LAYER} is I8, and config.json states no quantisation",
    ),
    "quantised weights without their scales": (
        quantised({part: kind for part, kind in GPTQ.items() if part != "scales"}, "gptq"),
        r"missing model\.layers\.0\.self_attn\.q_proj\.scales",
    ),
    "a quantisation that is not known": (
        edit("config.json", quantization_config={"quant_method": "own"}), "quantised by 'own'"
    ),
    # tokenizer
    "no tokenizer": (without("tokenizer.json"), "no tokenizer: none of"),
    "half of a tokenizer": (
        both(without("tokenizer.json"), text("vocab.json", '{"a": 0}')), r"without merges\.txt"
    ),
    "a tokenizer without vocabulary": (text("tokenizer.json", "{}"), "holds no vocabulary"),
    "a tokenizer.model that is none": (
        both(without("tokenizer.json"), text("tokenizer.model", "\x07garbage")),
        r"tokenizer\.model is no sentencepiece model",
    ),
    "tokens beyond the embedding": (
        edit("tokenizer.json", added_tokens=[{"id": 20, "content": "<pad>"}]),
        r"embedding lacks \(vocab_size 20\)(.|\n)*'<pad>' has the id 20",
    ),
}  # fmt: skip
