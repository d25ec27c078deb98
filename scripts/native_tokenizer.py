"""Give one base model its native form, all but the weights: what tokenizing needs of it.

in:   --source    <results>/models/<model>/source.json (the files lie in source/ beside it)
      settings    {"native_form": "auto"|"none"|"llama", "allow_remote_code": false}
out:  --output    <results>/models/<model>/tokenizer.json: {schema, model, native_form (llama |
                  null), made_with, files [{path, size, sha256}], digest}; tokenizer/ beside it
                  holds tokenizer and configs
env:  envs/swift for InternLM2 (tokenizers); a model that is native already needs none.

Refused, unless allow_remote_code is true: no safetensors (pickle weights run code when loaded), and
classes of the model's own (auto_map) where no native form is known.
"""

import sys
from pathlib import Path

from sftflow.core import cli, jsonio, manifests
from sftflow.models import native


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", required=True, help="its name in the config")
    parser.add_argument("--source", type=Path, required=True, help="source.json")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="tokenizer.json")
    args = parser.parse_args()
    origin = manifests.verified(args.source)
    source, folder = args.source.parent / "source", args.output.with_suffix("")
    settings = {"native_form": "auto", "allow_remote_code": False} | args.settings
    with native.filled(folder, args.model, origin):
        form, hashes = native.describe(source, folder, origin, settings)
    files = native.entries(folder, hashes)
    record = {
        "schema": 1,
        "model": args.model,
        "native_form": form,
        "made_with": settings.get("made_with", {}),
        "files": files,
        "digest": jsonio.tree_digest(files),
    }
    jsonio.write_record(args.output, record)
    cli.note(f"model {args.model}: {len(files)} files beside its weights, in native form")


if __name__ == "__main__":
    sys.exit(cli.run(main))
