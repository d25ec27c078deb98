"""Ask one subject all benchmarks of a suite in one serving session (in evalscope's environment).

Settings (JSON):
    subject, suite
    model       {model_type, template, torch_dtype, system} of the base model; none for an endpoint
    serving     {backend, max_batch_size, concurrency, ready_timeout, device, gpus, torch_dtype,
                max_model_len, extra}
    endpoint    {url, model, version, key_env}, for an endpoint
    generation  {temperature, max_tokens, top_p, seed, …}
    benchmarks  {name: {dataset, subsets, shots, prompt, limit, generation, repeats}}

Beside the output FOLDER/SUITE.json lie, by identity, FOLDER/IDENTITY/: answers.jsonl (every answer,
kept whatever happens to the job), samples.jsonl (sample-level records) and evalscope/ (its own
predictions, reviews and reports). Nothing that has been answered is asked again, and with nothing
left to ask no server starts. A benchmark that fails does not stop the others: they finish, then the
job fails and names it.

evalscope's own HTML report of a benchmark is IDENTITY/evalscope/reports/report.html. Its dashboard
shows all of them: evalscope service --host 127.0.0.1 --outputs results/dashboard
"""

import argparse
import contextlib
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from sftflow.core import cli, identity, process
from sftflow.core.cli import UserError
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.manifests import folder_of, verified
from sftflow.evaluation.session import Plan, Session, ask_all, finish, finished, guarded, prepare
from sftflow.serving import backends, server


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    server.add_arguments(parser)
    parser.add_argument("--readiness", type=Path, required=True, help="the subject's marker")
    parser.add_argument(
        "--benchmarks", type=Path, nargs="+", required=True, metavar="MANIFEST",
        help="benchmarks/<benchmark>/manifest.json of every benchmark; data/ lies beside each",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="evaluations/SUBJECT/SUITE.json")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    process.follow_snakemake()
    os.environ.update(backends.without_proxy(dict(os.environ)), HF_HUB_OFFLINE="1")
    settings = args.settings
    plans = make_plans(args)
    with contextlib.ExitStack() as stack:
        # datasets caches by path and time; data may change under both
        cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="sftflow-"))
        os.environ["HF_DATASETS_CACHE"] = cache
        session = stack.enter_context(Session(args, settings))
        for plan in plans:
            if plan.entry is None:
                guarded(plan, prepare, settings, stack)
        ask_all(session, plans, f"evaluate {settings['subject']} {settings['suite']}")
        for plan in plans:
            if plan.entry is None and plan.error is None:
                guarded(plan, finish, settings, session)
    for plan in plans:
        if plan.entry:
            show_on_dashboard(plan, settings["subject"], args.output.parents[2])
    failed = [plan for plan in plans if plan.error]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(plans)} benchmarks failed; the answers of all are kept:\n"
            + "\n".join(f"  {plan.name}: {plan.error}" for plan in failed)
            + (f"\n{session.ended}" if session.ended else "")
        )
    write_record(
        args.output,
        {
            "schema": 1,
            "subject": settings["subject"],
            "suite": settings["suite"],
            "benchmarks": {plan.name: plan.entry for plan in plans},
        },
    )


def make_plans(args: argparse.Namespace) -> list[Plan]:
    """One plan per benchmark, in the config's order; a finished one has its entry already."""
    settings = args.settings
    packages = read_record(args.environment)["packages"] if args.environment else {}
    manifest = args.manifest and verified(args.manifest, args.weights)
    adapter = args.adapter_manifest and verified(args.adapter_manifest, args.adapter)
    weights = identity.weights(manifest, adapter, settings.get("endpoint"))
    ready = read_record(args.readiness)
    if ready["weights"] != weights:
        raise UserError(
            f"{args.readiness} is about other weights ({ready['weights'][:16]}…) than "
            f"{args.manifest or 'the endpoint'} ({weights[:16]}…): serve the subject again"
        )
    backend = identity.backend(settings["serving"], settings.get("model"), packages)
    system = (settings.get("model") or {}).get("system")
    manifests = {}
    for path in args.benchmarks:
        found = verified(path)
        manifests[found["benchmark"]] = (found, folder_of(path, found))
    plans = []
    for name, benchmark in settings["benchmarks"].items():
        if name not in manifests:
            raise UserError(f"--benchmarks names no manifest of {name}")
        data, folder = manifests[name]
        parts = {
            "weights": weights,
            "data": data["digest"],
            "settings": identity.settings(benchmark, system, version("evalscope")),
            "generation": identity.generation(settings["generation"], benchmark),
            "backend": backend,
        }
        home = args.output.parent / identity.identity(parts)[:16]
        plan = Plan(name, benchmark, data, folder, parts, home)
        plan.entry = finished(plan, args.output.parents[2])
        plans.append(plan)
    return plans


def show_on_dashboard(plan: Plan, subject: str, results: Path) -> None:
    """A link under results/dashboard/, where evalscope's dashboard finds all runs side by side."""
    link = results / "dashboard" / f"{subject}--{plan.name}"
    target = os.path.relpath(plan.folder / "evalscope", link.parent)
    if link.is_symlink() and os.readlink(link) == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


if __name__ == "__main__":
    sys.exit(cli.run(main))
