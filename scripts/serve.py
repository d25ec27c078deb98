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

Before anything starts, every file of the weights is compared with its manifest. One server start
gives both outputs. With --also-weights the run's other form (merged weights, or the adapter on its
base) is started once more, only to time it.
"""

import argparse
import platform
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sftflow.core import cli, gpu, identity
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.manifests import manifest_of, verified
from sftflow.serving import backends, server
from sftflow.serving.completions import same_model
from sftflow.serving.measure import chat, known, measure


def arguments() -> argparse.Namespace:
    parser = cli.parser(__doc__)
    server.add_arguments(parser)
    parser.add_argument("--also-weights", type=Path, help="weights of the run's other form")
    parser.add_argument("--also-adapter", type=Path, help="adapter of the run's other form")
    parser.add_argument("--readiness", type=Path, required=True, help="output: readiness.json")
    parser.add_argument("--chat", type=Path, required=True, help="output: chat.json")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    settings = args.settings
    manifest = args.manifest and verified(args.manifest, args.weights)
    adapter = args.adapter_manifest and verified(args.adapter_manifest, args.adapter)
    for folder in filter(None, (args.also_weights, args.also_adapter)):
        verified(manifest_of(folder), folder)
    packages = read_record(args.environment)["packages"] if args.environment else {}
    spec = backends.Spec.of(settings, args)
    label = f"serve {settings['subject']}"
    cli.note(f"{label}  starting ({spec.backend})")
    with server.serve(spec, args.server_log) as running, gpu.Sampler() as sampler:
        cli.note(f"{label}  ready after {running.seconds['ready']:.1f} s")
        session = measure(running, spec)
        answers = chat(running, settings)
    if others := [name for name in running.others if not same_model(name, running.model)]:
        cli.note(f"{label}  WARNING asked for {running.model!r}, its answers say {others}")
    used = sampler.summary()
    if session["memory"]["gpu"] is None and "gpu_memory_gib" in used:  # the server does not tell
        session["memory"]["gpu"] = round(used["gpu_memory_gib"] * gpu.GIB)
    forms = {settings["form"]: session.pop("seconds")}
    if args.also_weights:
        other = "adapter" if args.also_adapter else "merged"
        forms[other] = time_other(spec, args, other)
        cli.note(f"{label}  {other} form ready after {forms[other]['ready']:.1f} s")
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
            "models": [settings["subject"] if m == running.model else m for m in running.models],
            "probe": {"prompt": server.PROBE[0]["content"], "answer": running.probe},
            "seconds": forms,
            **session,
            **({"served_models": running.others} if running.others else {}),
            "gpu": used,
            "hardware": {
                "machine": platform.machine(),
                "gpus": [found["name"] for found in gpu.describe()],
            },
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def time_other(spec: backends.Spec, args: argparse.Namespace, form: str) -> dict:
    """Seconds to ready of a run's other form."""
    other = replace(spec, weights=args.also_weights, adapter=args.also_adapter)
    log = args.server_log.with_name(f"{args.server_log.stem}.{form}{args.server_log.suffix}")
    with server.serve(other, log) as running:
        return {**running.seconds, **known(running)[0]}


if __name__ == "__main__":
    sys.exit(cli.run(main))
