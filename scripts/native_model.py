"""Give one base model the form that every later step loads, and write its manifest.

That form is safetensors in a layout that the libraries know, with no code from a hub.

in:   --source    <results>/models/<model>/source.json (the files lie in source/ beside it)
      settings    {"native_form": "auto"|"none"|"llama", "allow_remote_code": false}
out:  --weights   <results>/models/<model>/weights/: files taken as they are where that is native;
                  InternLM2 and InternLM2.5 are rewritten into Llama's layout (auto, llama)
      --manifest  {schema, model, source, hub, revision, native_form (llama | null), license,
                   parameters, torch_dtype, remote_code, files [{path, size, sha256}], digest}
env:  envs/swift for InternLM2 (tokenizers); a model that is native already needs numpy alone.

Refused, unless allow_remote_code is true: no safetensors (pickle weights run code when loaded), and
classes of the model's own (auto_map) where no native form is known. Memory: one tensor at a time.
"""

import json
import os
import re
import shutil
import sys
from codecs import BOM_UTF8
from fnmatch import fnmatch
from importlib.util import find_spec
from math import prod
from pathlib import Path

from sftflow.core import cli, jsonio, manifests
from sftflow.core.cli import UserError
from sftflow.models import completeness, internlm2, safetensors_files
from sftflow.models.completeness import optional_object, read_object, shards
from sftflow.models.formats import INDEX

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
    return name.isidentifier() and bool(
        find_spec("transformers") and find_spec(f"transformers.models.{name}")
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
    source: Path, folder: Path, known: dict[str, str], allow_remote_code: bool
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


def rewrite(source: Path, folder: Path, config: dict) -> dict[str, str]:
    """InternLM2 in Llama's layout, one shard after the other; give {path: sha256}."""
    shape = internlm2.Shape.of(config)
    files = shards(source)
    tensors = completeness.weights(source, files)
    internlm2.check(tensors, shape)
    by_file = {
        file: {name: tensor for name, tensor in tensors.items() if tensor.path == file}
        for file in files
    }
    hashes: dict[str, str] = {}
    places: dict[str, str] = {}
    size = 0
    for number, (file, found) in enumerate(by_file.items(), start=1):
        outputs = list(internlm2.outputs(found, shape))
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        name = name if len(files) > 1 else "model.safetensors"
        hashes[name] = safetensors_files.write_file(folder / name, outputs)
        places |= {output.name: name for output in outputs}
        size += sum(prod(o.shape) * safetensors_files.BYTES[o.dtype] for o in outputs)
        cli.note(f"{file.name} -> {name}  {number}/{len(files)} files")
    tokens = optional_object(source / "tokenizer_config.json")
    special = internlm2.markers(tokens, shape.vocabulary)
    written = {
        "config.json": internlm2.llama_config(config, dtype_of(tensors)),
        "generation_config.json": internlm2.generation_config(
            optional_object(source / "generation_config.json"), config
        ),
        "tokenizer_config.json": internlm2.tokenizer_config(tokens, special, config),
    }
    if len(files) > 1:
        written[INDEX] = {
            "metadata": {"total_size": size},
            "weight_map": dict(sorted(places.items())),
        }
    for name, value in written.items():
        jsonio.write_json(folder / name, value)
    write_tokenizer(source, folder, special)
    for name in ("README.md", "LICENSE"):
        if (source / name).is_file():
            take(source / name, folder / name)
    return hashes


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


def license_of(source: Path) -> str | None:
    """What the model's card states, else the first line of its licence file."""
    card = source / "README.md"
    if card.is_file():
        front = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", "replace"), re.DOTALL)
        stated = front and re.search(r"^license:\s*(\S.*)$", front[1], re.MULTILINE)
        if stated:
            return stated[1].strip().strip("'\"")
    for file in sorted(source.glob("LICENSE*")):
        lines = (line.strip() for line in file.read_text("utf-8", "replace").splitlines())
        return next((line for line in lines if line), None)
    return None


def manifest_files(folder: Path, hashes: dict[str, str]) -> list[dict]:
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


def made(
    source: Path, folder: Path, origin: dict, settings: dict
) -> tuple[str | None, dict[str, str], dict[str, safetensors_files.Tensor]]:
    """Fill `folder`; give the form, {path: sha256} of what is known, and every tensor.

    What is checked is what later steps load. Raises UserError.
    """
    completeness.check_files(source)
    config = read_object(source / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise UserError("config.json states no model_type, so no library knows what this is")
    form = chosen_form(source, config, settings)
    if form == "llama":
        hashes = rewrite(source, folder, config)
    else:
        known = {file["path"]: file["sha256"] for file in origin["files"]}
        hashes = keep(source, folder, known, settings["allow_remote_code"])
    return form, hashes, completeness.check(folder, settings["allow_remote_code"])


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", required=True, help="its name in the config")
    parser.add_argument("--source", type=Path, required=True, help="source.json")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--weights", type=Path, required=True, help="folder")
    parser.add_argument("--manifest", type=Path, required=True)
    args = parser.parse_args()
    origin = manifests.verified(args.source)
    source = args.source.parent / "source"
    settings = {"native_form": "auto", "allow_remote_code": False} | args.settings
    shutil.rmtree(args.weights, ignore_errors=True)
    args.weights.mkdir(parents=True)
    try:
        form, hashes, tensors = made(source, args.weights, origin, settings)
    except UserError as error:
        shutil.rmtree(args.weights)
        raise UserError(f"model {args.model} ({origin['source']}): {error}") from None
    config = read_object(args.weights / "config.json")
    files = manifest_files(args.weights, hashes)
    manifest = {
        "schema": 1,
        "model": args.model,
        "source": origin["source"],
        "hub": origin["hub"],
        "revision": origin["revision"],
        "native_form": form,
        "made_with": settings.get("made_with", {}),
        "license": license_of(source),
        "parameters": sum(prod(tensor.shape) for tensor in tensors.values()) or None,
        "torch_dtype": dtype_of(tensors) if tensors else config.get("torch_dtype"),
        "remote_code": form is None and settings["allow_remote_code"] and has_code(source),
        "files": files,
        "digest": jsonio.tree_digest(files),
    }
    jsonio.write_record(args.manifest, manifest)
    parameters = f"{(manifest['parameters'] or 0) / 1e9:.3f} B parameters"
    cli.note(
        f"model {args.model}: {parameters}, {manifest['torch_dtype']}"
        + (", rewritten into Llama's layout" if form else "")
        + (", RUNS CODE FROM ITS FOLDER" if manifest["remote_code"] else "")
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
