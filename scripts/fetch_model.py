"""Fetch one base model: link a local folder, or download from a hub once.

in:   settings  {"source", "hub": local|modelscope|huggingface|null, "revision",
                 "allow_remote_code": false}
out:  --output  <results>/models/<model>/source.json: {schema, model, source, hub,
                revision (a commit), made_with, files [{path, size, sha256}], digest};
                source/ beside it holds links to local files, or the download
env:  envs/evalscope for hub sources (its hub clients); a local source needs no library.
net:  only for hub sources. No later step of a model needs the network.

Weights are taken as safetensors. Pickle weights and Python files run code when they are loaded:
they are left out, unless allow_remote_code is true. Of weights in several formats or precisions
one is taken, and of folders inside only those with chat templates.
"""

import sys
from functools import partial
from pathlib import Path

from sftflow.core import cli, jsonio
from sftflow.inputs import hubs
from sftflow.models.formats import of_one_model


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", required=True, help="its name in the config")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="source.json")
    args = parser.parse_args()
    folder = args.output.with_name("source")
    origin = hubs.fetch(
        folder,
        args.settings["source"],
        args.settings.get("hub"),
        args.settings.get("revision"),
        kind="model",
        choose=partial(of_one_model, code=bool(args.settings.get("allow_remote_code"))),
    )
    files = hubs.files(folder)
    jsonio.write_record(
        args.output,
        {
            "schema": 1,
            "model": args.model,
            **origin,
            "made_with": args.settings.get("made_with", {}),
            "files": files,
            "digest": jsonio.tree_digest(files),
        },
    )
    size = sum(file["size"] for file in files) / 1e9
    cli.note(f"model {args.model}: {len(files)} files, {size:.2f} GB from {origin['source']}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
