"""Put a kept checkpoint where a subject's adapter lies, to be served and asked like any other.

in:   --checkpoints  runs/<run>/checkpoints.json
      --step         one that it lists
out:  --output       runs/<run>/steps/<step>/adapter.json, and adapter/ beside it
env:  the workflow's own
"""

import shutil
import sys
from pathlib import Path

from sftflow.core import cli, manifests
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record, write_record


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--checkpoints", type=Path, required=True, help="of the run")
    parser.add_argument("--step", type=int, required=True, help="which of them")
    parser.add_argument("--output", type=Path, required=True, help="…/<step>/adapter.json")
    args = parser.parse_args()
    listed = {one["step"]: one for one in read_record(args.checkpoints)["steps"]}
    if args.step not in listed:
        raise UserError(f"{args.checkpoints} lists no step {args.step}, but {[*listed]}")
    source = args.checkpoints.parent / listed[args.step]["manifest"]
    manifest = manifests.verified(source)
    target = manifests.folder_of(args.output, manifest)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(manifests.folder_of(source, manifest), target)
    write_record(args.output, manifest)


if __name__ == "__main__":
    sys.exit(cli.run(main))
