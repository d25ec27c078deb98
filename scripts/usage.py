"""What a results folder holds, part by part, and what of it can go.

in:   --results   a results folder
out:  a table on the terminal; nothing is deleted
env:  any Python from 3.11 on; standard library alone.
"""

import shlex
import signal
import sys
from pathlib import Path

from sftflow.core import cli, space
from sftflow.core.cli import UserError, note


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="what to look at")
    results = parser.parse_args().results
    if not results.is_dir():
        raise UserError(f"{results}: there is no such folder")
    spare = [each for each in space.spare(results) if space.freed([each.folder])]
    rows = []
    for name, folders in space.parts(results):
        here = [each.folder for each in spare if each.folder.is_relative_to(results / name)]
        rows.append((space.size(folders), space.freed(here), name))
    width = max((len(name) for _, _, name in rows), default=4)
    note(f"{'what':<{width}}  {'size':>10}  {'can go':>10}")
    for size, free, name in sorted(rows, key=lambda row: (-row[0], row[2])):
        note(f"{name:<{width}}  {space.shown(size):>10}  {space.shown(free) if free else '':>10}")
    whole, free = space.size([results]), space.freed([each.folder for each in spare])
    note(f"{'all of it':<{width}}  {space.shown(whole):>10}  {space.shown(free):>10}")
    for then in dict.fromkeys(each.then for each in spare):
        folders = [each.folder for each in spare if each.then == then]
        note(f"\n{space.shown(space.freed(folders))}, {then}:")
        for folder in folders:
            note(f"  rm -r {shlex.quote(str(folder))}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `usage.py | head` is no error
    sys.exit(cli.run(main))
