"""Record one run in SwanLab: the training while it goes on, and its scores once they exist.

Reads the event log of a training and follows it to its end, apart from the training itself: a
SwanLab that is missing, slow or broken can't touch it. The record is always written whole (a
resumed training, or scores that come later, replace the folder), under the id of the training's
identity, so that everything lands in one experiment:

    swanlab sync results/runs/<run>/swanlab/run-*     uploads what was recorded offline

The key is read by SwanLab itself from the environment variable SWANLAB_API_KEY, nowhere else.

SETTINGS is one JSON object:
    mode       offline (default), local or cloud
    project, workspace   as in SwanLab; optional
    run        the experiment's name
    id         up to 64 letters and digits: one experiment, however often it is recorded
    config     what to show beside the curves
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sftflow import cli, process
from sftflow.jsonio import read_json
from sftflow.training import Events

MODES = {"cloud": "online", "local": "local", "offline": "offline"}


def follow(path: Path, interval: float = 1.0) -> Iterator[dict]:
    """Events as they are written, until the training ends (one that fails stops this process)."""
    events = Events(path)
    while True:
        for event in events.new():
            yield event
            if event["event"] == "end":
                return
        time.sleep(interval)


def metrics(event: dict) -> dict[str, float]:
    """What SwanLab shows of one event; {} for events that are no measurement."""
    if event["event"] == "step":
        return {
            "train/loss": event["loss"],
            "train/learning_rate": event["learning_rate"],
            "train/tokens_per_second": event["tokens"] / event["seconds"],
        }
    if event["event"] == "validation":
        return {f"validation/{k}": event[k] for k in ("loss", "token_accuracy") if k in event}
    return {}


def scores(files: list[Path]) -> dict[str, float]:
    """scores/<subject>/<benchmark>.json as {"scores/<suite>/<benchmark>": score}."""
    found = map(read_json, files)
    return {f"scores/{score['suite']}/{score['benchmark']}": score["score"] for score in found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=Path, required=True, help="the training's events.jsonl")
    parser.add_argument("--settings", type=cli.settings, required=True, help="JSON or @file")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="score files of the run")
    parser.add_argument("--output", type=Path, required=True, help="results/runs/<run>/swanlab")
    args = parser.parse_args()
    process.follow_snakemake()

    import swanlab

    settings = args.settings
    shutil.rmtree(args.output, ignore_errors=True)
    args.output.mkdir(parents=True)
    swanlab.init(
        mode=MODES[settings.get("mode", "offline")],
        project=settings.get("project"),
        workspace=settings.get("workspace"),
        name=settings["run"],
        id=settings["id"],
        resume="allow",
        config=settings.get("config"),
        log_dir=str(args.output),
    )
    step = 0
    for event in follow(args.events):
        if values := metrics(event):
            step = event["step"]
            swanlab.log(values, step=step)
    if args.scores:
        swanlab.log(scores(args.scores), step=step + 1)
    swanlab.finish()


if __name__ == "__main__":
    sys.exit(cli.run(main))
