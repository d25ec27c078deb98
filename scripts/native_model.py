"""Give one base model's weights the form that every later step loads, and write its manifest.

That form is safetensors in a layout that the libraries know, with no code from a hub.

in:   --source     <results>/models/<model>/source.json (the files lie in source/ beside it)
      --tokenizer  <results>/models/<model>/tokenizer.json, tokenizer/ beside it: the form, and all
                   of it but the weights
      settings     {"allow_remote_code": false}
out:  --weights    <results>/models/<model>/weights/: files taken as they are where that is native;
                   InternLM2 and InternLM2.5 are rewritten into Llama's layout
      --manifest   {schema, model, source, hub, revision, native_form (llama | null), license,
                   parameters, torch_dtype, remote_code, files [{path, size, sha256}], digest}
env:  numpy alone; transformers for an architecture that models/completeness.py has no table of.

Memory: one tensor at a time.
"""

import re
import sys
from math import prod
from pathlib import Path

from sftflow.core import cli, jsonio, manifests
from sftflow.models import completeness, internlm2, native, safetensors_files
from sftflow.models.completeness import read_object, shards
from sftflow.models.formats import INDEX, holds_weights


def rewrite(source: Path, folder: Path) -> dict[str, str]:
    """InternLM2's weights in Llama's layout, one shard after the other; give {path: sha256}.

    That they are what the shape wants was seen when the form was chosen.
    """
    shape = internlm2.Shape.of(read_object(source / "config.json"))
    files = shards(source)
    tensors = completeness.weights(source, files)
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
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        jsonio.write_json(folder / INDEX, index)
    return hashes


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


def made(
    source: Path, folder: Path, origin: dict, described: tuple[Path, dict], settings: dict
) -> tuple[dict[str, str], dict[str, safetensors_files.Tensor]]:
    """Fill `folder`; give {path: sha256} of what is known, and every tensor.

    described: the folder that holds all but the weights, and its record. What is checked is what
    later steps load. Raises UserError.
    """
    tokenizer, record = described
    foreign = settings["allow_remote_code"]
    if record["native_form"] == "llama":
        hashes = rewrite(source, folder)
    else:
        files = {file["path"]: file["sha256"] for file in origin["files"]}
        weights = {name: sha for name, sha in files.items() if holds_weights(name)}
        hashes = native.keep(source, folder, weights, foreign)
    for file in record["files"]:
        native.take(tokenizer / file["path"], folder / file["path"])
        hashes[file["path"]] = file["sha256"]
    return hashes, completeness.check(folder, foreign)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", required=True, help="its name in the config")
    parser.add_argument("--source", type=Path, required=True, help="source.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--weights", type=Path, required=True, help="folder")
    parser.add_argument("--manifest", type=Path, required=True)
    args = parser.parse_args()
    origin, record = manifests.verified(args.source), manifests.verified(args.tokenizer)
    source = args.source.parent / "source"
    described = manifests.folder_of(args.tokenizer, record), record
    settings = {"allow_remote_code": False} | args.settings
    with native.filled(args.weights, args.model, origin):
        hashes, tensors = made(source, args.weights, origin, described, settings)
    config, form = read_object(args.weights / "config.json"), record["native_form"]
    files = native.entries(args.weights, hashes)
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
        "torch_dtype": native.dtype_of(tensors) if tensors else config.get("torch_dtype"),
        "remote_code": form is None and settings["allow_remote_code"] and native.has_code(source),
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
