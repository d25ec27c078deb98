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

import os
import sys
from pathlib import Path

from sftflow.core import cli
from sftflow.core.cli import UserError
from sftflow.core.jsonio import write_record
from sftflow.evaluation.plans import Plan, guarded
from sftflow.evaluation.session import Session, finish
from sftflow.evaluation.subject import Subject, parser
from sftflow.evaluation.suite import Suite


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "--benchmarks", type=Path, nargs="+", required=True, metavar="MANIFEST",
        help="benchmarks/<benchmark>/manifest.json of every benchmark; data/ lies beside each",
    )  # fmt: skip
    args = flags.parse_args()
    subject = Subject.asked(args)
    suite = Suite(subject, args.benchmarks)
    plans = suite.plans
    with subject.store(suite.file) as store, Session(args, args.settings) as session:
        suite.ask(session, store)
        for plan in plans:
            if plan.open:
                guarded(plan, finish, args.settings, session, store)
    for plan in plans:
        if plan.entry:
            show_on_dashboard(plan, subject.name)
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
            "subject": subject.name,
            "suite": suite.file,
            "benchmarks": {plan.name: plan.entry for plan in plans},
        },
    )


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
