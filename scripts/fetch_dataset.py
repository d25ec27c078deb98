"""Fetch one dataset of dialogues: link a local file or folder, or download from a hub once.

in:   settings  {"source", "hub": local|modelscope|huggingface|null, "revision"}
out:  --output  <results>/datasets/<dataset>/source.json: {schema, dataset, source, hub,
                revision (a commit), made_with, files [{path, size, sha256}], digest};
                source/ beside it holds links to local files, or the download
env:  envs/evalscope for hub sources (its hub clients); a local source needs no library.
net:  only for hub sources. No later step of a dataset needs the network.
"""

import sys
from functools import partial
from pathlib import Path

from sftflow.core import cli, jsonio
from sftflow.inputs import hubs, rows


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--dataset", required=True, help="its name in the config")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="source.json")
    args = parser.parse_args()
    folder = args.output.with_name("source")
    hub = hubs.hub_of(args.settings["source"], args.settings.get("hub"))
    one = partial(hubs.one_format, formats=rows.SUFFIXES)
    origin = hubs.fetch(
        folder,
        args.settings["source"],
        hub,
        args.settings.get("revision"),
        kind="dataset",
        keep=[f"*{suffix}" for suffix in rows.SUFFIXES],
        leave=[pattern for name in rows.BESIDE for pattern in (name, f"*/{name}")],
        choose=list if hub == "local" else one,
    )
    files = hubs.files(folder)
    jsonio.write_record(
        args.output,
        {
            "schema": 1,
            "dataset": args.dataset,
            **origin,
            "made_with": args.settings.get("made_with", {}),
            "files": files,
            "digest": jsonio.tree_digest(files),
        },
    )
    size = sum(file["size"] for file in files) / 1e6
    cli.note(f"dataset {args.dataset}: {len(files)} file(s), {size:.1f} MB from {origin['source']}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
