"""Decide which points of a sweep go on after a rung: those with the least validation loss.

Reads the rung's record of every run that got there, and the decision after the rung before.

SETTINGS is one JSON object:
    sweep, part    the sweep, and the rung: at 1/part of a training's steps
    points         {point: its runs}
    factor         one of so many points goes on, rounded up
    made_with      what the decision stands for: the halving, and the digest of each training
"""

import sys
from pathlib import Path

from sftflow.config import halving
from sftflow.core import cli
from sftflow.core.cli import UserError, note
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import PATHS, Results


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--after", type=Path, help="the decision after the rung before, if any")
    parser.add_argument("--results", type=Path, required=True, help="where the rungs' records are")
    parser.add_argument("--output", type=Path, required=True, help="file for the decision")
    args = parser.parse_args()
    asked, results = args.settings, Results(args.results)
    earlier = read_record(args.after) if args.after else {"stopped": []}
    out = {point["point"] for point in earlier["stopped"]}
    points = {point: runs for point, runs in asked["points"].items() if point not in out}
    rungs = {run: rung(results, run, asked["part"]) for runs in points.values() for run in runs}
    try:
        made = halving.decide(points, rungs, asked["factor"], earlier["stopped"])
    except UserError as error:
        raise UserError(f"sweep {asked['sweep']}: {error}") from None
    gone_on, of = len(made["points"]), len(points)
    about = {"sweep": asked["sweep"], "part": asked["part"], "made_with": asked["made_with"]}
    write_record(args.output, {"schema": 1, **about, **made})
    when = f"after 1/{asked['part']} of the steps"
    note(f"halve {asked['sweep']}  {when} {gone_on} of {of} points go on")


def rung(results: Results, run: str, part: int) -> dict:
    found = results.read(PATHS.rung, run=run, part=str(part))
    if found is None:
        raise UserError(f"{results.path(PATHS.rung, run=run, part=str(part))} is not there")
    return found


if __name__ == "__main__":
    sys.exit(cli.run(main))
