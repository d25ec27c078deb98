"""Record one run in SwanLab: the training while it goes on, and its scores once they exist.

    track.py --events checkpoints/<identity>/events.jsonl …     by train.py, until training ends
    track.py --training results/runs/<run>/training.json …      afterwards, with --scores

A process of its own: a SwanLab that is missing, slow or broken can't touch a training. Whatever a
server does, the whole record lies in --output, under an id made of the training's identity, so
that a resumed training, scores that come later and

    swanlab sync --id ID [--host HOST] results/runs/<run>/swanlab/run-*

all land in one experiment. The key is the environment variable SWANLAB_API_KEY and nothing else.
Of the machine SwanLab is told the hardware and its load: no host name, no path, no command line, no
git remote, no output.

SETTINGS is one JSON object:
    mode     disabled, offline, local or cloud
    host     address of a SwanLab of your own; null: SWANLAB_API_HOST, else SwanLab's cloud
    project, workspace   as in SwanLab; optional
    run, id, config      with --events: the experiment's name, its id (letters and digits), and what
                         to show beside the curves; with --training they are taken from there
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from sftflow.core import cli
from sftflow.core.jsonio import read_record, write_json
from sftflow.training import tracking
from sftflow.training.record import Events


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


def start(settings: dict, mode: str, output: Path, key: str, monitor: bool) -> None:
    """Open the experiment; waits for a server when `mode` is online.

    `monitor`: this machine is the one that trains.
    """
    import swanlab

    hidden = dict.fromkeys(("runtime", "requirements", "conda", "git", "swanlab"), False)
    chosen: dict = {
        "interactive": False,  # a job must never wait for somebody to type
        "probe": {"hardware": monitor, "monitor": monitor} | hidden,
        "terminal": {"proxy_type": "none"},
        "core": {"skip_store": False},
    }
    if mode == "online":
        chosen |= {"api_key": key, "api_host": tracking.address(settings.get("host"))}
    swanlab.init(
        mode=mode,
        project=settings.get("project"),
        workspace=settings.get("workspace"),
        name=settings["run"],
        id=settings["id"],
        resume="allow",
        config=settings["config"],
        log_dir=str(output),
        settings=swanlab.Settings.model_validate(chosen),
    )


def sync(settings: dict, output: Path, key: str) -> None:
    """Upload what the server lacks of a record; what goes wrong is in the traffic, or raised."""
    import swanlab

    (folder,) = output.glob("run-*")
    chosen = {
        "interactive": False,
        "api_key": key,
        "api_host": tracking.address(settings.get("host")),
        "run": {"id": settings["id"]},
    }
    swanlab.sync(folder, settings=swanlab.Settings.model_validate(chosen))


def opened(settings: dict, output: Path, key: str, traffic: tracking.Traffic) -> str | None:
    """Open the experiment at its server; returns why it could not be."""
    try:
        with tracking.within(tracking.START):
            start(settings, "online", output, key, monitor=True)
    except (Exception, tracking.TimeLimit) as error:
        return traffic.why(error)
    traffic.trouble.clear()  # what came before worked out, such as a project that was not there
    return None


def uploaded(until: float, traffic: tracking.Traffic, upload: Callable[[], None]) -> str | None:
    """Run what uploads, until a time of time.monotonic(); returns why not everything arrived."""
    try:
        with tracking.within(max(0.1, until - time.monotonic())):
            upload()
    except (Exception, tracking.TimeLimit) as error:
        return traffic.why(error)
    return traffic.why()


def write(settings: dict, events: Path, scored: dict[str, float], known: dict) -> None:
    """Log a training until it ends, and those of its scores that are not `known`."""
    import swanlab

    step = 0
    for event in follow(events):
        if values := metrics(event):
            step = event["step"]
            swanlab.log(values, step=step)
    last = {key: value for (key, _), value in sorted(known.items())}
    if fresh := {key: value for key, value in scored.items() if last.get(key) != value}:
        step = max([step, *(at for key, at in known if key.startswith("scores/"))])
        swanlab.log(fresh, step=step + 1)


def record(
    settings: dict, events: Path, scored: dict[str, float], output: Path, later: bool
) -> dict:
    """Record everything; follows `events` until the training ends, which it has if `later`.

    Returns {"status": "recorded"}, or for a server that did not get everything {"status": "kept",
    "why": one sentence with the command that uploads it}.
    """
    import swanlab

    key = os.environ.get("SWANLAB_API_KEY", "").strip(" \t\r\n\"'")  # as SwanLab's own login does
    cloud = settings["mode"] == "cloud"
    server = tracking.address(settings.get("host"))
    tracking.without_proxy(server)
    traffic = tracking.Traffic(server, key)
    tracking.at_once()
    before = tracking.earlier(output, settings["id"])
    tracking.clear(output)
    with traffic.watched():
        why = tracking.bad_key(key) if cloud else None
        hopeless = bool(why)
        live = cloud and not later and not why
        if live and (why := opened(settings, output, key, traffic)):
            live = False
            hopeless = "refuses the key" in why
            cli.note(f"track {settings['run']}  {why}; recorded here for now")
            tracking.clear(output)
        if not live:
            mode = "local" if settings["mode"] == "local" else "offline"
            start(settings, mode, output, key, monitor=not later)
        try:
            write(settings, events, scored, before.points)
            until = time.monotonic() + tracking.END + (tracking.START if later else 0)
            if live:
                why = uploaded(until, traffic, swanlab.finish)
            else:
                swanlab.finish()
        except BaseException:  # such as SystemExit: the training failed, or was ended
            with contextlib.suppress(tracking.TimeLimit), tracking.within(tracking.LEAVE):
                swanlab.finish(state="crashed", error="the training did not come to its end")
            raise
        finally:
            tracking.join(before, output)
        # what was not uploaded live; after a resume also what an earlier session could not upload
        if cloud and not hopeless and (not live or (before.records and not why)):
            traffic.trouble.clear()
            why = uploaded(until, traffic, lambda: sync(settings, output, key))
    if not why:
        return {"status": "recorded"}
    command = tracking.command(settings, output, every_step=bool(traffic.dropped))
    return {"status": "kept", "why": f"{why}; nothing is lost, upload it with: {command}"}


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

    settings, events = args.settings, args.events
    if args.training:
        found = read_record(args.training)
        settings |= experiment(found)
        events = args.training.parent / "trainings" / found["identity"][:16] / "events.jsonl"
    outcome = {"schema": 1, "mode": settings["mode"], "status": "recorded"}
    if settings["mode"] != "disabled":
        outcome |= {"run": settings["run"], "id": settings["id"], "scores": len(args.scores)}
        try:
            outcome |= record(
                settings, events, scores(args.scores), args.output, later=bool(args.training)
            )
        except Exception as error:
            if not args.record:
                raise
            traceback.print_exc()
            why = "SwanLab recorded nothing, see the log"
            outcome |= {"status": "failed", "error": type(error).__name__, "why": why}
        if "why" in outcome:
            cli.note(f"track {settings['run']}  {outcome['why']}")
    if args.record:
        write_json(args.record, outcome)


if __name__ == "__main__":
    status = cli.run(main)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written. Threads of SwanLab's have kept a process from ending, deaf to SIGTERM, for as
    # long as the training would wait for it: 80 s, with the GPU held.
    os._exit(status)
