"""Fine-tune a model on a run's dialogues with ms-swift, resuming where an earlier job was killed.

Reads the run's rows and receipt, the base model's manifest and weights. Writes, into --output
(results/runs/<run>):

    adapter/ and adapter.json   the weights of the last step, and their manifest with digests
    training.json               what happened: steps, losses, tokens, time, memory, speed, choices
    command.yaml                the exact ms-swift file: `swift sft command.yaml` does it again
    checkpoints/<identity>/     outlives kills and failures; only ever resumed for this identity
    trainings/<identity>/       all of the above, and the events: a finished training whose files
                                are what they were is taken from here, never done again; in
                                steps/<step>/ the weights of the checkpoints that `checkpoints` of
                                the training asks for, the last apart

With --part N it is a rung of successive halving (config/halving.py): the same training, but it is
validated, saved and stopped after 1/N of its steps, and --rung says what came of it: {part, step,
steps, validation_loss, or null and why}. The next rung, or the training itself, goes on from there.
Where --after, the decision after the rung before, has left the run out, nothing is trained.

SETTINGS is one JSON object:
    run        the run's name
    training   every key of the config's `training`, resolved (see config/README.md)
    model      {"name", "model_type", "template", "system"} of the base model
    swanlab    {"mode": disabled|offline|local|cloud, "host", "project", "workspace"}; the key comes
               from the environment variable SWANLAB_API_KEY only
    made_with  what of this decides about the weights, {key: value}; by default all of it
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sftflow.core import cli, gpu, process, space
from sftflow.core.cli import UserError, note
from sftflow.core.environ import for_tools
from sftflow.core.jsonio import (
    file_digest,
    read_json,
    read_record,
    tree_digest,
    tree_files,
    write_json,
    write_record,
    write_text,
)
from sftflow.core.manifests import folder_of, verified
from sftflow.core.progress import Progress
from sftflow.core.worker import WORKER, alone
from sftflow.reporting.flags import training_flags
from sftflow.training import checkpoints, estimate, patches, record, tracking
from sftflow.training import settings as decide
from sftflow.training.cost import split_batch

HERE = Path(__file__).resolve().parent
PLUGIN, TRACK = HERE / "sftflow" / "training" / "plugin.py", HERE / "track.py"


def versions() -> dict[str, str]:
    out = {"python": sys.version.split()[0]}
    for name in decide.PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


@dataclass
class Job:
    """One training: its name, its folder checkpoints/<identity>, and how to start it."""

    label: str
    folder: Path
    gpus: int
    expected: dict  # what the plug-in is told besides where to write events
    command: Callable[[int, Path | None], dict]  # (micro-batch, checkpoint) → ms-swift's file
    until: int | None = None  # of a rung: the step after which it stops

    @property
    def done(self) -> bool:
        if self.until is None:
            return finished(self.folder)
        return loss_at(self.until, self.folder) is not None


class Diverged(UserError):
    """A training that failed by its own settings, on whatever machine."""


def environment(job: Job, cache: str) -> dict[str, str]:
    """For ms-swift: no hub, no caches in the home folder, and no key."""
    env = patient() | for_tools()
    events = str(job.folder / "events.jsonl")
    return env | {
        "SFTFLOW_PLUGIN": json.dumps({"events": events, **job.expected}),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": cache,
        "MODELSCOPE_CACHE": cache,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_ALLOC_CONF": env.get("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
        "PYTHONUNBUFFERED": "1",
    }


def patient() -> dict[str, str]:
    """Threads that spin in waiting: alone that is faster, beside other load 3.6 times slower."""
    busy = os.getloadavg()[0] > (os.cpu_count() or 1) / 2
    return {"OMP_WAIT_POLICY": "PASSIVE"} if busy else {}


def watch(child: subprocess.Popen, events: record.Events, label: str) -> dict:
    """Show progress until ms-swift ends; returns its `failed` event, {} when there is none."""
    progress, failed = None, {}
    while True:
        ended = child.poll() is not None
        for entry in events.new():
            if entry["event"] == "start":
                progress = Progress(f"train {label}", entry["steps"], "steps")
                progress.update(entry["first_step"])
            elif entry["event"] == "step" and progress:
                progress.update(entry["step"])
            elif entry["event"] == "failed":
                failed = entry
        if ended:
            return failed
        time.sleep(0.2)


def run_swift(job: Job, command: dict) -> dict:
    """One attempt. Returns {} when it finished, else its `failed` event."""
    events = record.Events(job.folder / "events.jsonl")
    events.new()  # what an earlier attempt wrote
    file = job.folder.parents[1] / "command.yaml"  # not beside the events: ms-swift copies it there
    write_text(file, yaml.safe_dump(command, allow_unicode=True, sort_keys=True))
    launch = [sys.executable]
    if job.gpus > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={job.gpus}"]
    with tempfile.TemporaryDirectory(prefix="sftflow-train-") as cache:
        child = process.start([*launch, str(PLUGIN), str(file)], environment(job, cache))
        try:
            failed = watch(child, events, job.label)
        finally:
            process.stop(child)
    if child.returncode and not failed:
        return {"kind": "ended", "message": f"ms-swift ended with status {child.returncode}"}
    return failed


def validated(folder: Path) -> bool:
    """A validation was recorded here: a training that goes on does not begin with another."""
    return any(e["event"] == "validation" for e in record.Events(folder / "events.jsonl").new())


def finished(folder: Path) -> bool:
    """A training came to its end here, and its last checkpoint is complete."""
    ends = [e for e in record.Events(folder / "events.jsonl").new() if e["event"] == "end"]
    kept = checkpoints.checkpoints(folder)
    return bool(ends and kept and ends[-1]["step"] == kept[-1][0])


def loss_at(step: int, *folders: Path) -> float | None:
    """The validation loss at a step of the training whose events are in one of these folders."""
    found = [
        event["loss"]
        for folder in folders
        for event in record.Events(folder / "events.jsonl").new()
        if event["event"] == "validation" and event["step"] == step and "loss" in event
    ]
    return found[-1] if found else None


@contextlib.contextmanager
def recorder(settings: dict, folder: Path, output: Path) -> Iterator[dict]:
    """SwanLab, in a process of its own that alone gets the key; yields its entry in training.json.

    It bounds its own waiting for a server. Whatever becomes of it, the training is not touched:
    the entry says `kept` for what lies only on this disk, or `failed`, and why.
    """
    if settings["mode"] == "disabled":
        yield {"mode": "disabled"}
        return
    why = "SwanLab recorded nothing, see the log; all else is done"
    entry = {"mode": settings["mode"], "id": settings["id"], "status": "failed", "why": why}
    file, told = folder / "swanlab.json", folder / "tracked.json"
    told.unlink(missing_ok=True)
    write_json(file, settings)
    child = process.start(
        [sys.executable, str(TRACK), "--events", str(folder / "events.jsonl"),
         "--settings", str(file), "--output", str(output), "--record", str(told)],
        for_tools(None, "SWANLAB_"),
    )  # fmt: skip
    try:
        yield entry
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(tracking.LONGEST)
    finally:
        process.stop(child)
    if told.exists():
        outcome = read_json(told)
        entry["status"] = outcome["status"]
        entry.pop("why")
        entry |= {name: outcome[name] for name in ("why",) if name in outcome}
    if "why" in entry:
        note(f"train {settings['run']}  {entry['why']}")


def train(job: Job, micro: int) -> list[dict]:
    """Train to the end, or to the end of a rung, with smaller micro-batches when memory runs out.

    Returns the lowered micro-batches as [{"micro_batch", "accumulation", "message"}]; they are
    remembered in the folder for the next start.
    """
    memory = job.folder / "out_of_memory.json"
    lowered = read_json(memory) if memory.exists() else []
    while not job.done:
        if lowered:
            micro = lowered[-1]["micro_batch"]
        # one that a rung is to make, and a half written one, are in ms-swift's way
        found = [each for each in checkpoints.checkpoints(job.folder) if each[0] != job.until]
        for path in job.folder.glob("checkpoint-*"):
            if path not in [complete for _, complete in found]:
                shutil.rmtree(path)
        before = [each for each in found if job.until is None or each[0] < job.until]
        step, checkpoint = before[-1] if before else (0, None)
        if checkpoint:
            note(f"train {job.label}  goes on from step {step}")
        command = job.command(micro, checkpoint)
        if validated(job.folder):
            command |= {"eval_on_start": False}
        failed = run_swift(job, command)
        if failed.get("kind") == "out_of_memory" and micro > 1:
            accumulation = job.command(micro // 2, None)["gradient_accumulation_steps"]
            note(f"train {job.label}  out of memory: micro-batch {micro // 2} × {accumulation} now")
            lowered.append(
                {
                    "micro_batch": micro // 2,
                    "accumulation": accumulation,
                    "message": failed["message"],
                }
            )
            write_json(memory, lowered)
        elif failed or not job.done:
            why = failed.get("message", "ms-swift left no complete checkpoint of the last step")
            if space.LACK.search(why) or space.is_full(job.folder):
                why = f"the disk of {job.folder} is full; {space.ROOM}"
            kept = checkpoints.checkpoints(job.folder)
            where = f"; the checkpoint of step {kept[-1][0]} is kept: {kept[-1][1]}" if kept else ""
            kind = Diverged if failed.get("kind") == "diverged" else UserError
            raise kind(f"training of {job.label} stopped: {why}{where}")
    return lowered


def climb(job: Job, micro: int, store: Path) -> dict:
    """Train up to a rung, if it was not done before: {validation_loss, or None and why}."""
    until, why = job.until or 0, {}
    if loss_at(until, store) is None:
        try:
            train(job, micro)
        except Diverged as error:
            why = {"why": str(error)}
    return {"validation_loss": loss_at(until, store, job.folder), **why}


def stored(output: Path, key: str) -> Path:
    return output / "trainings" / key[:16]


def publish(output: Path, key: str) -> bool:
    """Put a finished training of this identity in its place; False if there is none, or not whole.

    What Snakemake deletes before a job, or what another training left, is made good from there.
    """
    store = stored(output, key)
    if not (store / "adapter.json").exists():  # written last
        return False
    manifest = read_record(store / "adapter.json")
    if (
        manifest["training"] != key
        or tree_digest(tree_files(store / "adapter")) != manifest["digest"]
    ):
        return False
    shutil.rmtree(output / "adapter", ignore_errors=True)
    # an adapter is copied, so that whoever writes into one of the two leaves the other whole
    full = manifest["form"] == "full"
    shutil.copytree(
        store / "adapter",
        output / "adapter",
        copy_function=checkpoints.link if full else shutil.copyfile,
    )
    for name in ("command.yaml", "training.json", "adapter.json"):
        write_text(output / name, (store / name).read_text(encoding="utf-8"))
    return True


def refuse_steps(asked: str | list[int] | None, run: str, steps: int) -> None:
    """UserError for checkpoints that the training will never come to."""
    beyond = [step for step in asked if step > steps] if isinstance(asked, list) else []
    if beyond:
        raise UserError(
            f"training.checkpoints of {run} names {beyond[0]}, but the training has {steps} steps: "
            "leave it out; the last step is measured in any case"
        )


def warn(run: str, output: Path) -> None:
    """Say at the terminal what is suspicious about a training."""
    for flag in training_flags(run, read_record(output / "training.json")):
        note(f"train {run}  {flag}")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--receipt", type=Path, required=True, help="the run's receipt.json; its rows lie beside it"
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, help="of the base model; its weights lie beside it"
    )
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="results/runs/<run>")
    parser.add_argument("--part", type=int, help="stop after 1/PART of the steps: a rung")
    parser.add_argument("--after", type=Path, help="the decision after the rung before, if any")
    parser.add_argument("--rung", type=Path, help="file for what came of the rung")
    args = parser.parse_args()
    if args.after and args.settings["run"] not in read_record(args.after)["going_on"]:
        note(f"train {args.settings['run']}  was left out after an earlier rung: nothing to do")
        write_record(args.rung, {"schema": 1, "run": args.settings["run"], "left_out": True})
        return
    with alone(args.output, args.output / WORKER):
        work(args)


def work(args: argparse.Namespace) -> None:
    """Train, or take what was trained before."""
    run, settings = args.settings["run"], args.settings["training"]
    model = args.settings["model"]
    receipt, manifest = verified(args.receipt), verified(args.manifest)
    weights = folder_of(args.manifest, manifest).resolve()
    shape = read_json(weights / "config.json")
    wanted = 0 if settings["device"] == "cpu" else settings.get("gpus", 1)
    with gpu.claim(wanted) as gpus:
        gpu.refuse_absent(gpus, settings["device"], "training")
        hardware: dict[str, Any] = {
            "kind": "cuda" if gpus else "cpu",
            "cores": len(os.sched_getaffinity(0)),
        }
        if gpus:
            hardware["memory_gib"] = min(g["memory_gib"] for g in gpus)
            hardware["capability"] = min(g["capability"] for g in gpus)
            hardware["name"] = gpus[0]["name"]
        needed = patches.packed_rows, patches.fused_lora
        refused = {each.name: why for each in needed if (why := patches.untested(each))}
        choices = decide.choose(settings, shape, manifest["parameters"], receipt, hardware, refused)
        decide.refuse_fp8(run, settings, choices, hardware)
        predicted = estimate.estimate(settings, receipt, shape, manifest["parameters"], hardware)
        made_with = args.settings.get("made_with") or {"training": settings, "model": model}
        key = decide.identity(made_with, manifest, receipt, hardware["kind"], versions())
        until = math.ceil(predicted["steps"] / args.part) if args.part else None
        if until and not receipt["validation_rows"]:
            raise UserError(
                f"a sweep's halving chooses by validation loss, and {run} has no dialogues kept "
                "apart for it: set validation_share of its dataset"
            )
        if not until and publish(args.output, key):
            note(f"train {run}  trained before, and its files are what they were: nothing to do")
            warn(run, args.output)
            return
        stop = f"; this rung stops after step {until}" if until else ""
        note(f"train {run}  {estimate.describe(predicted)}{stop}")
        begun = time.monotonic()
        folder = args.output.resolve() / "checkpoints" / key[:16]
        folder.mkdir(parents=True, exist_ok=True)

        def rows(side: str) -> str:
            return str(args.receipt.with_name(f"{side}.jsonl").resolve())

        def command(micro: int, checkpoint: Path | None) -> dict:
            flags = decide.command(
                settings, choices, model=model, weights=str(weights),
                train=rows("train"), output=str(folder), plugin=str(PLUGIN),
                validation=rows("validation") if receipt["validation_rows"] else None,
                gpus=max(1, len(gpus)), hardware=hardware, micro_batch=micro,
            )  # fmt: skip
            return flags | ({"resume_from_checkpoint": str(checkpoint)} if checkpoint else {})

        expected = {k: receipt[k] for k in ("train_rows", "validation_rows") if receipt[k]}
        expected["device"] = hardware["kind"]
        ours = {
            k: choices[k]["value"] for k in ("fused_lora", "checkpointed_layers") if k in choices
        }
        if settings.get("precision") == "fp8":
            ours["precision"] = "fp8"
        asked = settings.get("checkpoints")
        refuse_steps(asked, run, predicted["steps"])
        for at, path in checkpoints.checkpoints(folder):  # of an earlier job that kept none
            if checkpoints.asked_for(at, asked):
                checkpoints.keep(path, at)
        expected |= ours | {"keep": asked, "until": until}
        job = Job(run, folder, max(1, len(gpus)), expected, command, until)
        micro, _ = split_batch(settings, job.gpus)
        if until:
            made = {"run": run, "part": args.part, "step": until, "steps": predicted["steps"]}
            made |= {"training": key} | climb(job, micro, stored(args.output, key))
            write_record(args.rung, {"schema": 1, "left_out": False, **made})
            return
        tracked = {
            **args.settings.get("swanlab", {"mode": "disabled"}),
            "run": run,
            "id": key[:20],
            "config": {"model": manifest["model"], "training": settings, "choices": choices},
        }
        with (
            recorder(tracked, folder, args.output / "swanlab") as swanlab,
            gpu.Sampler() as sampler,
        ):
            lowered = train(job, micro)

    step, checkpoint = checkpoints.checkpoints(folder)[-1]
    events = record.Events(folder / "events.jsonl").new()
    busy = sampler.curve(*record.span(events))
    full = settings["tuner_type"] == "full"
    store = stored(args.output, key)
    shutil.rmtree(store, ignore_errors=True)
    checkpoints.take_weights(checkpoint, store / "adapter", manifest["model"], full)
    shutil.copyfile(folder / "events.jsonl", store / "events.jsonl")
    files = tree_files(store / "adapter")
    if lowered:
        micro = lowered[-1]["micro_batch"]
    flags = command(micro, None)
    flags["ENV"] = {"SFTFLOW_PLUGIN": json.dumps(ours)}  # so that the file alone does it again
    write_text(store / "command.yaml", yaml.safe_dump(flags, allow_unicode=True, sort_keys=True))
    resumed = sum(e["event"] == "start" and e["first_step"] > 0 for e in events)
    made = {
        "schema": 1,
        "run": run,
        "model": manifest["model"],
        "identity": key,
        "made_with": made_with,
        "settings": settings,
        "choices": choices,
        "micro_batch": flags["per_device_train_batch_size"],
        "accumulation": flags["gradient_accumulation_steps"],
        "out_of_memory": lowered,
        "resumed": resumed,
        **sampler.summary(*record.span(events)),  # memory: what the trainer says counts
        **({"gpu_curve": busy} if busy else {}),
        **record.summary(events, [g["name"] for g in gpus]),
        "estimate": {name: value for name, value in predicted.items() if name != "choices"},
        "seconds": round(record.seconds(events), 3),
        **({} if resumed else {"job_seconds": round(time.monotonic() - begun, 3)}),
        "hardware": {
            "device": hardware["kind"],
            "cores": hardware["cores"],
            **({"gpus": [g["name"] for g in gpus]} if gpus else {}),
        },
        "swanlab": swanlab,
        "versions": versions(),
    }
    made["flags"] = [flag.entry() for flag in training_flags(run, made)]
    write_record(store / "training.json", made)
    what = {
        "run": run,
        "form": "full" if full else "adapter",
        "training": key,
        "base": {"model": manifest["model"], "digest": manifest["digest"]},
    }
    checkpoints.store_steps(folder, store, what, step, asked)
    write_record(
        store / "adapter.json",
        {
            "schema": 1,
            **what,
            "files": files,
            "digest": tree_digest(files),
            "step": step,
            "command_sha256": file_digest(store / "command.yaml"),
        },
    )
    shutil.rmtree(folder / checkpoints.KEPT, ignore_errors=True)
    publish(args.output, key)
    warn(run, args.output)


if __name__ == "__main__":
    sys.exit(cli.run(main))
