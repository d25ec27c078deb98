"""Prove that a subject can be served, and measure it undisturbed: the server-readiness marker.

Runs in evalscope's environment, so that it is asked through the library that asks it later.

Settings (JSON):
    subject, form (base | merged | adapter | endpoint)
    model       {model_type, template, system, thinking} of the base model; none for an endpoint
    serving     {backend, max_batch_size, concurrency, ready_timeout, device, gpus, torch_dtype,
                max_model_len, extra}
    backend     what of this decides about answers: {name, torch_dtype, …}
    endpoint    {url, model, version, key_env, headers, omit, rename, extra_body, timeout, deadline,
                retries}, for an endpoint
    prompts     fixed prompts, answered at temperature 0
    generation  {repetition_penalty}, stated in every request
    max_tokens  of those answers (default 256)

Before anything starts, every file of the weights is compared with its manifest. With --also-weights
the run's other form (merged weights, or the adapter on its base) is started first, only to time it.
One server start gives both outputs.

The server then goes on: whatever later jobs of this run ask the subject (--ahead, as
config/asking.py has it) is asked now, and kept where they look for it, so none of them has to start
a server of its own. Readiness is written before, and nothing of what follows can lose it: what
fails, or does not get its turn within nine tenths of --minutes, is left to the job whose question
it is, which says what is wrong.
"""

import argparse
import os
import platform
import sys
import threading
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sftflow.core import cli, gpu, handover, identity, space
from sftflow.core.jsonio import read_json, read_record, write_record
from sftflow.core.manifests import manifest_of, verified
from sftflow.dialogue.asking import Dialogues, Judgement
from sftflow.evaluation.session import Session
from sftflow.evaluation.subject import Subject, offline
from sftflow.evaluation.suite import Suite
from sftflow.serving import backends, client, server
from sftflow.serving.completions import same_model
from sftflow.serving.measure import chat, known, measure


def arguments() -> argparse.Namespace:
    parser = cli.parser(__doc__)
    server.add_arguments(parser)
    parser.add_argument("--also-weights", type=Path, help="weights of the run's other form")
    parser.add_argument("--also-adapter", type=Path, help="adapter of the run's other form")
    parser.add_argument("--readiness", type=Path, required=True, help="output: readiness.json")
    parser.add_argument("--chat", type=Path, required=True, help="output: chat.json")
    parser.add_argument("--ahead", type=Path, help="what is asked ahead: JSON")
    parser.add_argument("--minutes", type=float, default=1e5, help="time that this job has")
    return parser.parse_args()


def main() -> None:
    begun = time.monotonic()
    args = arguments()
    offline()
    settings = args.settings
    manifest = args.manifest and verified(args.manifest, args.weights)
    adapter = args.adapter_manifest and verified(args.adapter_manifest, args.adapter)
    for folder in filter(None, (args.also_weights, args.also_adapter)):
        verified(manifest_of(folder), folder)
    packages = read_record(args.environment)["packages"] if args.environment else {}
    spec = backends.Spec.of(settings, args)
    label = f"serve {settings['subject']}"
    others = time_other(spec, args, label) if args.also_weights else {}
    cli.note(f"{label}  starting ({spec.backend}; {settings['chosen']})")
    with server.serve(spec, args.server_log) as running:
        cli.note(f"{label}  ready after {running.seconds['ready']:.1f} s")
        with gpu.Sampler() as sampler:
            session = measure(running, spec)
            answers = chat(running, settings)
        names = [name for name in running.others if not same_model(name, running.model)]
        if names:
            cli.note(f"{label}  WARNING asked for {running.model!r}, its answers say {names}")
        used = sampler.summary()
        if session["memory"]["gpu"] is None and "gpu_memory_gib" in used:  # not told
            session["memory"]["gpu"] = round(used["gpu_memory_gib"] * gpu.GIB)
        write_record(
            args.chat,
            {
                "schema": 1,
                "subject": settings["subject"],
                "form": settings["form"],
                "answers": answers,
            },
        )
        write_record(
            args.readiness,
            {
                "schema": 1,
                "subject": settings["subject"],
                "form": settings["form"],
                "weights": identity.weights(manifest, adapter, settings.get("endpoint")),
                "backend": identity.backend(settings["backend"], packages),
                "chosen": settings["chosen"],
                "models": [
                    settings["subject"] if m == running.model else m for m in running.models
                ],
                "probe": {"prompt": server.PROBE[0]["content"], "answer": running.probe},
                "seconds": {settings["form"]: session.pop("seconds"), **others},
                "job_seconds": round(time.monotonic() - begun, 3),
                **session,
                **({"served_models": running.others} if running.others else {}),
                "gpu": used,
                "hardware": {"machine": platform.machine(), **gpu.hardware()},
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        if args.ahead:
            ask_ahead(args, running, begun + 0.9 * 60 * args.minutes)


def time_other(spec: backends.Spec, args: argparse.Namespace, label: str) -> dict:
    """{form: seconds to ready} of a run's other form."""
    form = "adapter" if args.also_adapter else "merged"
    other = replace(spec, weights=args.also_weights, adapter=args.also_adapter)
    log = args.server_log.with_name(f"{args.server_log.stem}.{form}{args.server_log.suffix}")
    with server.serve(other, log) as running:
        cli.note(f"{label}  {form} form ready after {running.seconds['ready']:.1f} s")
        return {form: {**running.seconds, **known(running)[0]}}


def ask_ahead(args: argparse.Namespace, running: client.Server, end: float) -> None:
    """Ask what later jobs ask, each when its files are there, until none is left that can be."""
    if not (left := read_json(args.ahead)):
        return
    with Session(args, args.settings, running) as session:
        over = client.ServerError("the time of this job is nearly over (resources: runtime)")
        clock = threading.Timer(end - time.monotonic(), session.end, [over])
        clock.daemon = True
        clock.start()
        while job := next(filter(is_there, left), None):
            left.remove(job)
            try:
                ask(args, job, session)
            except Exception as error:
                if space.is_lack(error):
                    session.end(client.ServerError(f"{error}: {space.ROOM}"))
                elif not isinstance(error, cli.UserError):
                    traceback.print_exc()
                cli.note(f"{job['output']} is left to its own job: {error}")
            if session.ended:
                cli.note(f"no more is asked here: {session.ended}")
                break
        clock.cancel()


def is_there(job: dict) -> bool:
    """Whether every file that a job asks from is there; one that this run makes, when it is new."""
    files = job["inputs"].items()
    return all(os.path.exists(file) and os.path.getmtime(file) >= new for file, new in files)


def ask(args: argparse.Namespace, job: dict, session: Session) -> None:
    subject = Subject.of(args, job["settings"], args.readiness.parents[2])
    files = [Path(file) for file in job["inputs"]]
    asked: Suite | Dialogues | Judgement
    if job["rule"] == "evaluate_suite":
        asked = Suite(subject, files)
    elif job["rule"] == "answer_dialogues":
        asked = Dialogues(subject, files)
    else:
        asked = Judgement(subject, files, Path(job["output"]))
    with subject.store(asked.file) as store:
        asked.ask(session, store)
    failed = [p for p in asked.plans if p.error] if isinstance(asked, Suite) else []
    for plan in failed:
        cli.note(f"{job['output']} is left to its own job: {plan.name}: {plan.error}")
    if not failed:
        handover.tell_asked(job["output"])


if __name__ == "__main__":
    sys.exit(cli.run(main))
