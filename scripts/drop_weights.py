"""Drop what of a run's weights can be made again from its adapter, or is no longer resumed.

in:   --run      runs/<run>: merged.json, the manifest, stays, and so does what
                 `training.checkpoints` asked for, in trainings/<identity>/steps/
out:  --output   runs/<run>/dropped.json: {run, folders, bytes (that were freed)}
env:  the workflow's own
"""

import shutil
import sys
from pathlib import Path

from sftflow.core import cli, space
from sftflow.core.cli import note
from sftflow.core.jsonio import write_record


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--output", type=Path, required=True, help="dropped.json in it")
    args = parser.parse_args()
    folders = [*space.merged(args.run), *space.checkpoints(args.run)]
    freed = space.freed(folders)
    for folder in folders:
        shutil.rmtree(folder)
    names = sorted(folder.relative_to(args.run).as_posix() for folder in folders)
    what = {"schema": 1, "run": args.run.name, "folders": names, "bytes": freed}
    write_record(args.output, what)
    note(f"run {args.run.name}  {space.shown(freed)} of weights dropped: its adapter is kept")


if __name__ == "__main__":
    sys.exit(cli.run(main))
