"""Ask one subject all benchmarks of a suite in one serving session (in evalscope's environment).

Settings (JSON):
    subject, suite
    model       {model_type, template, system, thinking} of the base model; none for an endpoint
    serving     {backend, max_batch_size, concurrency, ready_timeout, device, gpus, torch_dtype,
                max_model_len, extra}
    backend     what of this decides about answers: {name, torch_dtype, …}
    endpoint    {url, model, version, key_env, headers, omit, rename, extra_body, timeout, deadline,
                retries}, for an endpoint
    benchmarks  {name: {dataset, subsets, shots, prompt, multiple_correct, limit, repeats,
                generation {temperature, max_tokens, top_p, top_k, repetition_penalty, seed}}}

Every answer is kept, whatever happens to the job, in EVALUATIONS/SUBJECT/answers/WAY/SUITE.jsonl
and found again by its request (see sftflow.evaluation.answers); WAY is a digest of the weights and
the backend. Nothing that has been answered is asked again, whichever benchmark or suite it was for,
and with nothing left to ask no server starts. In EVALUATIONS/SUBJECT/BENCHMARK/IDENTITY/ lies what
came of a benchmark: samples.jsonl (sample-level records), entry.json (its entry in the output) and
evalscope/ (its own predictions, reviews and reports). A benchmark that fails does not stop the
others: they finish, then the job fails and names it.

evalscope's own HTML report of a benchmark is evalscope/reports/report.html there. Its dashboard
shows all of them: evalscope service --host 127.0.0.1 --outputs results/dashboard
"""

import argparse
import contextlib
import os
import sys
from importlib.metadata import version
from pathlib import Path

from sftflow.core import cli, identity, layout
from sftflow.core.cli import UserError
from sftflow.core.jsonio import write_record
from sftflow.core.manifests import folder_of, verified
from sftflow.evaluation.answers import answer_store
from sftflow.evaluation.plans import Plan, finished, guarded, prepare
from sftflow.evaluation.session import Session, ask_all, finish
from sftflow.evaluation.subject import asked_backend, asked_weights
from sftflow.serving import backends, server


def arguments() -> argparse.Namespace:
    parser = cli.parser(__doc__)
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
    os.environ.update(backends.without_proxy(dict(os.environ)), HF_HUB_OFFLINE="1")
    settings, results = args.settings, args.output.parents[2]
    subject, suite = settings["subject"], settings["suite"]
    weights, backend = asked_weights(args), asked_backend(args)
    plans = make_plans(args, results, weights, backend)
    answers = results / layout.answers_folder(subject, identity.way(weights, backend))
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(answer_store(answers / f"{suite}.jsonl"))
        session = stack.enter_context(Session(args, settings))
        for plan in plans:
            if plan.open:
                guarded(plan, prepare, subject, store)
        ask_all(session, store, plans, f"evaluate {subject} {suite}")
        for plan in plans:
            if plan.open:
                guarded(plan, finish, settings, session, store)
    for plan in plans:
        if plan.entry:
            show_on_dashboard(plan, subject)
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
            "subject": subject,
            "suite": suite,
            "benchmarks": {plan.name: plan.entry for plan in plans},
        },
    )


def make_plans(args: argparse.Namespace, results: Path, weights: str, backend: dict) -> list[Plan]:
    """One plan per benchmark, in the config's order; a finished one has its entry already."""
    settings = args.settings
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
            "generation": identity.generation(
                benchmark["generation"], backend["name"], settings.get("endpoint")
            ),
            "backend": backend,
        }
        home = layout.evaluation_folder(settings["subject"], name, identity.identity(parts))
        plan = Plan(name, benchmark, data, folder, parts, results, home)
        plan.entry = finished(plan)
        plans.append(plan)
    return plans


def show_on_dashboard(plan: Plan, subject: str) -> None:
    """A link under results/dashboard/, where evalscope's dashboard finds all runs side by side."""
    link = plan.results / "dashboard" / f"{subject}--{plan.name}"
    target = os.path.relpath(plan.folder / "evalscope", link.parent)
    if link.is_symlink() and os.readlink(link) == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)


if __name__ == "__main__":
    sys.exit(cli.run(main))
