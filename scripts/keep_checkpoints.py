"""List the checkpoints of a finished training whose weights are kept, by `training.checkpoints`.

in:   --adapter    runs/<run>/adapter.json: the last step
      --training   runs/<run>/training.json
      settings     {"run", "training": {"checkpoints": all | [steps]}, "made_with"}
out:  --output     runs/<run>/checkpoints.json:
        training   identity of the training; last: its last step
        steps      [{step, manifest (relative to runs/<run>), digest}] in order, the last one too
        missing    steps that `all` means, and that were gone when this was written
env:  the workflow's own

Nothing is trained here. What the training kept lies in trainings/<identity>/steps/; what it did not
keep is taken from checkpoints/<identity>/, where the last ones remain. UserError where a step that
the config names is in neither.
"""

import sys
from pathlib import Path

from sftflow.core import cli, manifests
from sftflow.core.cli import UserError, note
from sftflow.core.jsonio import read_record, write_record
from sftflow.training import checkpoints


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="adapter.json of the run")
    parser.add_argument("--training", type=Path, required=True, help="training.json of the run")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="…/<run>/checkpoints.json")
    args = parser.parse_args()
    run, asked = args.settings["run"], args.settings["training"]["checkpoints"]
    adapter, training = manifests.verified(args.adapter), read_record(args.training)
    home, key, last = args.output.parent, adapter["training"], adapter["step"]
    store = home / "trainings" / key[:16]
    what = {name: adapter[name] for name in ("run", "form", "training", "base")}
    checkpoints.store_steps(home / "checkpoints" / key[:16], store, what, last, asked)
    found = {last: args.adapter}
    for place in store.glob("steps/*/adapter.json"):
        if checkpoints.asked_for(step := int(place.parent.name), asked):
            found[step] = place
    every = training["settings"]["save_steps"]
    missing = sorted(checkpoints.due(asked, every, last) - found.keys())
    if missing and asked != "all":
        raise UserError(
            f"{run} was trained without keeping the checkpoints of steps "
            f"{', '.join(map(str, missing))}, and nothing is trained again for them. Kept are "
            f"{', '.join(map(str, sorted(found)))}: name of these in training.checkpoints, or "
            f"write all for what there is. To train once more for them, delete {home}"
        )
    if missing:
        note(
            f"checkpoints {run}  {len(missing)} are gone, and nothing is trained again for them: "
            f"measured are steps {', '.join(map(str, sorted(found)))}"
        )
    write_record(
        args.output,
        {
            "schema": 1,
            "run": run,
            "training": key,
            "last": last,
            "steps": [
                {
                    "step": step,
                    "manifest": str(path.relative_to(home)),
                    "digest": manifests.verified(path)["digest"],
                }
                for step, path in sorted(found.items())
            ],
            "missing": missing,
            "made_with": args.settings.get("made_with", {}),
        },
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
