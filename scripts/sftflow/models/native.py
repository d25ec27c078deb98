"""The native form of a base model: what every later step loads, with no code from a hub.

InternLM2 and InternLM2.5 become Llama in their layout, everything else stays as it is. All but the
weights is small and made first (`describe`): rows can be tokenized while weights are rewritten.
"""

import json
import os
import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from importlib.util import find_spec
from math import prod
from pathlib import Path

from sftflow.core import jsonio
from sftflow.core.cli import UserError
from sftflow.models import completeness, internlm2, safetensors_files
from sftflow.models.completeness import optional_object, read_object, shards
from sftflow.models.formats import holds_weights

CONFIGS = "*config.json"  # of the model, tokenizer, processor, generation: each may name code
LINKED = 1 << 24  # bytes from which on a file is linked, not copied


def has_code(source: Path) -> bool:
    """Whether loading this folder as it is would run code that came with it."""
    return (
        any(source.rglob("*.py"))
        or not any(source.glob("*.safetensors"))
        or any("auto_map" in optional_object(file) for file in source.glob(CONFIGS))
    )


def known_to_transformers(model_type: str) -> bool:
    """Whether the library itself has this architecture; without the library: no."""
    name = model_type.replace("-", "_")
    library = find_spec("transformers")  # to find a module inside would import it, for seconds
    places = (library and library.submodule_search_locations) or []
    return name.isidentifier() and any(
        Path(place, "models", name, "__init__.py").is_file() for place in places
    )


def chosen_form(source: Path, config: dict, settings: dict) -> str | None:
    """ "llama" to rewrite, None to keep. Raises UserError for what must not be loaded."""
    form, model_type = settings["native_form"], config["model_type"]
    convertible = model_type in internlm2.MODEL_TYPES
    if form == "llama" and not convertible:
        raise UserError(
            f"native_form: llama is known for InternLM2 only, and this is {model_type!r}"
        )
    rewrite = convertible and form in ("auto", "llama")
    if rewrite and not shards(source):
        raise UserError("no *.safetensors to rewrite; convert the pickle weights first")
    if not rewrite and not settings["allow_remote_code"]:
        if not shards(source):
            raise UserError(
                "no *.safetensors. Pickle weights run code when they are loaded: "
                "convert them, or set allow_remote_code: true for this model"
            )
        if "auto_map" in config and not known_to_transformers(model_type):
            raise UserError(
                "config.json's auto_map loads code from the model's folder, and "
                f"transformers has no {model_type!r} of its own. Set allow_remote_code: true for "
                "this model if you trust it"
            )
        if (
            "auto_map" in optional_object(source / "tokenizer_config.json")
            and not (source / "tokenizer.json").is_file()
        ):
            raise UserError(
                "its tokenizer is code (auto_map) and there is no tokenizer.json. Set "
                "allow_remote_code: true for this model if you trust it"
            )
    return "llama" if rewrite else None


def describe(
    source: Path, folder: Path, origin: dict, settings: dict
) -> tuple[str | None, dict[str, str]]:
    """Put all of the native form but its weights into `folder`; give the form ("llama", or None for
    what stays as it is) and {path: sha256} of what is known. Raises UserError.

    origin: the record of the source; settings: {"native_form", "allow_remote_code"}.
    """
    completeness.check_files(source)
    config = read_object(source / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise UserError("config.json states no model_type, so no library knows what this is")
    form, foreign = chosen_form(source, config, settings), settings["allow_remote_code"]
    hashes: dict[str, str] = {}
    if form == "llama":
        rewrite(source, folder, config)
    else:
        known = {file["path"]: file["sha256"] for file in origin["files"]}
        rest = {name: sha for name, sha in known.items() if not holds_weights(name)}
        hashes = keep(source, folder, rest, foreign)
    if not completeness.unknown(source, foreign):
        completeness.check_tokenizer(folder, read_object(folder / "config.json"))
    return form, hashes


def take(file: Path, target: Path) -> bool:
    """The same content under another name: large files as links, small ones as copies.

    A copy of a config or tokenizer costs nothing, and no tool can change the user's own through it.
    Of JSON a byte order mark is left out, which no library takes. Gives whether no byte differs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json" and (content := file.read_bytes()).startswith(BOM_UTF8):
        target.write_bytes(content.removeprefix(BOM_UTF8))
        return False
    if file.stat().st_size < LINKED:
        shutil.copyfile(file, target)
        return True
    try:
        os.link(file.resolve(), target)
    except OSError:  # another disk
        target.symlink_to(file.resolve())
    return True


def keep(
    source: Path, folder: Path, known: Mapping[str, str], allow_remote_code: bool
) -> dict[str, str]:
    """Take a native model's files; give {path: sha256}. auto_map is taken out of its configs."""
    hashes = {}
    for name, sha in known.items():
        file = source / name
        entries = read_object(file) if fnmatch(name, CONFIGS) else {}
        if "auto_map" in entries and not allow_remote_code:
            entries = {key: value for key, value in entries.items() if key != "auto_map"}
            text = json.dumps(entries, ensure_ascii=False, indent=2)  # Infinity stays what it is
            jsonio.write_text(folder / name, text + "\n")
        elif (file.suffix != ".py" or allow_remote_code) and take(file, folder / name):
            hashes[name] = sha
    return hashes


def rewrite(source: Path, folder: Path, config: dict) -> None:
    """InternLM2's configs and tokenizer, as Llama's."""
    shape = internlm2.Shape.of(config)
    tensors = completeness.weights(source, shards(source))
    internlm2.check(tensors, shape)
    tokens = optional_object(source / "tokenizer_config.json")
    special = internlm2.markers(tokens, shape.vocabulary)
    written = {
        "config.json": internlm2.llama_config(config, dtype_of(tensors)),
        "generation_config.json": internlm2.generation_config(
            optional_object(source / "generation_config.json"), config
        ),
        "tokenizer_config.json": internlm2.tokenizer_config(tokens, special, config),
    }
    for name, value in written.items():
        jsonio.write_json(folder / name, value)
    write_tokenizer(source, folder, special)
    for name in ("README.md", "LICENSE"):
        if (source / name).is_file():
            take(source / name, folder / name)


def write_tokenizer(source: Path, folder: Path, special: dict[int, str]) -> None:
    if (source / "tokenizer.model").is_file():
        internlm2.tokenizer(source / "tokenizer.model", special).save(
            str(folder / "tokenizer.json")
        )
    elif (source / "tokenizer.json").is_file():
        take(source / "tokenizer.json", folder / "tokenizer.json")
    else:
        raise UserError("neither tokenizer.model nor tokenizer.json")


def dtype_of(tensors: dict[str, safetensors_files.Tensor]) -> str:
    """The type that most parameters have, as torch names it."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + prod(tensor.shape)
    most = max(counts, key=counts.__getitem__)
    return safetensors_files.TORCH_NAMES.get(most, most)


def entries(folder: Path, hashes: dict[str, str]) -> list[dict]:
    """As jsonio.tree_files, but what has been hashed already is not read again."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    return [
        {
            "path": name,
            "size": (folder / name).stat().st_size,
            "sha256": hashes.get(name) or jsonio.file_digest(folder / name),
        }
        for name in names
    ]


@contextmanager
def filled(folder: Path, model: str, origin: dict) -> Iterator[None]:
    """A folder that is made anew; gone again, and the error names the model, where that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except UserError as error:
        shutil.rmtree(folder)
        raise UserError(f"model {model} ({origin['source']}): {error}") from None
