"""Record one run in SwanLab: the training while it goes on, and its scores once they exist.

    track.py --events checkpoints/<identity>/events.jsonl …     by train.py, until training ends
    track.py --training results/runs/<run>/training.json …      afterwards, with --scores

A process of its own: a SwanLab that is missing, slow or broken can't touch a training. The record
is always written whole (a resumed training, or scores that come later, replace the folder), under
an id made of the training's identity, so that everything lands in one experiment:

    swanlab sync results/runs/<run>/swanlab/run-*     uploads what was recorded offline

The key is read by SwanLab itself from the environment variable SWANLAB_API_KEY, nowhere else.

SETTINGS is one JSON object:
    mode     disabled, offline, local or cloud
    project, workspace   as in SwanLab; optional
    run, id, config      with --events: the experiment's name, its id (letters and digits), and what
                         to show beside the curves; with --training they are taken from there
"""

import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from sftflow.core import cli, process
from sftflow.core.jsonio import read_record, write_json
from sftflow.training.record import Events

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
    """What SwanLab shows of one event; {} for events that are not measurements."""
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
    found = map(read_record, files)
    return {f"scores/{score['suite']}/{score['benchmark']}": score["score"] for score in found}


def experiment(training: dict) -> dict:
    """An experiment's name, id and configuration, from training.json."""
    return {
        "run": training["run"],
        "id": training["identity"][:20],
        "config": {name: training[name] for name in ("model", "settings", "choices")},
    }


def record(settings: dict, events: Path, scored: list[Path], output: Path) -> None:
    """Write the whole record; follows `events` until the training ends."""
    import swanlab

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    swanlab.init(
        mode=MODES[settings["mode"]],
        project=settings.get("project"),
        workspace=settings.get("workspace"),
        name=settings["run"],
        id=settings["id"],
        resume="allow",
        config=settings["config"],
        log_dir=str(output),
    )
    step = 0
    for event in follow(events):
        if values := metrics(event):
            step = event["step"]
            swanlab.log(values, step=step)
    if scored:
        swanlab.log(scores(scored), step=step + 1)
    swanlab.finish()


def main() -> None:
    parser = cli.parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--events", type=Path, help="of a training that goes on")
    source.add_argument("--training", type=Path, help="training.json of a finished one")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--scores", type=Path, nargs="*", default=[], help="score files of the run")
    parser.add_argument("--output", type=Path, required=True, help="results/runs/<run>/swanlab")
    parser.add_argument("--record", type=Path, help="file that says how it went; no failure then")
    args = parser.parse_args()
    process.follow_snakemake()

    settings, events = args.settings, args.events
    if args.training:
        found = read_record(args.training)
        settings |= experiment(found)
        events = args.training.parent / "trainings" / found["identity"][:16] / "events.jsonl"
    outcome = {"schema": 1, "mode": settings["mode"], "status": "recorded"}
    if settings["mode"] != "disabled":
        outcome |= {"run": settings["run"], "id": settings["id"], "scores": len(args.scores)}
        try:
            record(settings, events, args.scores, args.output)
        except Exception as error:
            if not args.record:
                raise
            traceback.print_exc()
            outcome |= {"status": "failed", "error": type(error).__name__}
            cli.note(f"track {settings['run']}  SwanLab recorded nothing, see the log")
    if args.record:
        write_json(args.record, outcome)


if __name__ == "__main__":
    sys.exit(cli.run(main))
