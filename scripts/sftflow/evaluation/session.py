"""One serving session: who answers what the plans ask, and what comes of it."""

import argparse
import contextlib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sftflow.core import cli, gpu, space
from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest, file_digest, read_json, read_record, write_json, write_jsonl
from sftflow.core.progress import Progress
from sftflow.evaluation.answers import AnswerStore
from sftflow.evaluation.plans import Plan, Wanted, wanted
from sftflow.evaluation.samples import thinking
from sftflow.serving import backends, client, server
from sftflow.serving.completions import same_model

NO_SERVER = "not all of its questions are answered, because there is no server"


class Session:
    """The serving session: starts its server when something is asked for the first time, or goes on
    with one that is running."""

    def __init__(
        self, args: argparse.Namespace, settings: dict, running: client.Server | None = None
    ):
        self.spec = backends.Spec.of(settings, args)
        self.log, self.readiness = args.server_log, args.readiness
        self.locks = locks(args.environment)
        self.ended: Exception | None = None  # why there is no server any more
        self._stack = contextlib.ExitStack()
        self._running: client.Server | None = None
        self._mutex = threading.Lock()
        if running:
            self._use(running)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def start(self) -> None:
        if self._running is None:
            self._use(self._stack.enter_context(server.serve(self.spec, self.log)))

    def _use(self, running: client.Server) -> None:
        self._stack.enter_context(server.Watch(running, self.end))
        self._running = running

    def end(self, error: client.ServerError) -> None:
        """Nothing more is asked; what is under way is still answered, if it can be."""
        self.ended = error

    def ask(self, request: dict) -> tuple[dict, float]:
        """(the completion in the form of completions.py, seconds). ServerError when the server has
        ended or refuses; what a content filter of an endpoint refuses is an empty answer."""
        with self._mutex:
            if self._running is None:
                self.start()
        running = self._running
        assert running is not None
        if self.ended:
            raise self.ended
        try:
            return running.ask(request, self.spec.backend)
        except client.ServerError:
            try:
                running.check()
            except client.ServerError as error:
                self.ended = error
                raise error from None
            raise

    def provenance(self, packages: Iterable[str], spans: list[tuple[float, float]]) -> dict:
        """Where answers come from; `spans` says when they were under way, Unix times."""
        return {
            "software": {name: version(name) for name in packages},
            "locks": self.locks,
            "git": git(),
            "hardware": self.hardware(),
            "started": at(spans[0][0]) if spans else None,
            "seconds": round(sum(end - begin for begin, end in spans), 3),
            "spans": [[round(begin, 3), round(end, 3)] for begin, end in spans],
        }

    def hardware(self) -> dict:
        """Of the machine that was asked: this one, if a server was started here; else that which
        proved the subject, and was asked ahead. Here may be no GPU then."""
        proven = {} if self._running else read_record(self.readiness).get("hardware", {})
        return proven if "cpu" in proven else gpu.hardware()


def ask_all(session: Session, store: AnswerStore, plans: list[Plan], label: str) -> None:
    """Ask everything that has no answer yet: all benchmarks together, `concurrency` at once."""
    plans = [plan for plan in plans if plan.open]
    if not plans:
        cli.note(f"{label}  all answered before")
        return
    total = sum(len(plan.questions) for plan in plans)
    done = total - sum(len(plan.missing) for plan in plans)
    progress = Progress(label, total, "answers")
    progress.update(done)
    requests = wanted(plans)
    if not requests:
        return

    def ask(request: Wanted) -> None:
        if any(plan.open for plan in request.plans):
            store.add(request.key, request.n, *session.ask(request.request))

    try:
        session.start()
    except UserError as error:
        session.ended = error
        for plan in plans:
            plan.error = NO_SERVER if plan.missing else None
        return
    with ThreadPoolExecutor(session.spec.serving.get("concurrency") or 32) as pool:
        jobs = {pool.submit(ask, request): request for request in requests}
        for job in as_completed(jobs):
            waiting = [plan for plan in jobs[job].plans if plan.open]
            if problem := job.exception():
                if space.is_lack(problem):  # no further answer could be kept
                    pool.shutdown(cancel_futures=True)
                    raise problem
                for plan in waiting:
                    plan.error = NO_SERVER if session.ended else str(problem)
            else:
                done += len(waiting)
                progress.update(done)


def ask_each(session: Session, store: AnswerStore, requests: list[dict], label: str) -> None:
    """Ask what has no answer yet, each request once. ServerError when the server gives out."""
    wanted = {digest(each): each for each in requests}
    missing = [key for key in wanted if store.get(key, 0) is None]
    if not missing:
        cli.note(f"{label}  all answered before")
        return
    progress = Progress(label, len(wanted), "answers")
    progress.update(done := len(wanted) - len(missing))
    session.start()

    def ask(key: str) -> None:
        store.add(key, 0, *session.ask(wanted[key]))

    with ThreadPoolExecutor(session.spec.serving.get("concurrency") or 32) as pool:
        for number, _ in enumerate(pool.map(ask, missing), start=1):
            progress.update(done + number)


def finish(plan: Plan, settings: dict, session: Session, store: AnswerStore) -> None:
    """Score a benchmark whose questions are answered, and write its records and its entry."""
    from sftflow.evaluation import harness

    system = plan.parts["settings"]["system"]
    plan.config.model = harness.StoredModel(settings["subject"], store, system, session.ask)
    figures, records = harness.run(plan.name, plan.config, plan.questions)
    samples = f"{plan.home}/samples.jsonl"
    write_jsonl(plan.results / samples, records)
    served = served_models(plan, store)
    thought = thinking(records)
    spans = store.spans((question.key, question.n) for question in plan.questions)
    plan.entry = {
        "identity": plan.identity,
        "parts": plan.parts,
        "samples": samples,
        "samples_sha256": file_digest(plan.results / samples),
        "n": len(records),
        "metric": figures["metric"],
        "evalscope": {"score": figures["score"], "subsets": figures["subsets"]},
        "provenance": session.provenance(("evalscope", "openai", "datasets"), spans)
        | ({"served_models": served} if served else {}),
        **({"thinking": thought} if thought else {}),
        "status": "ok",
    }
    write_json(plan.folder / "entry.json", plan.entry)
    asked = (settings.get("endpoint") or {}).get("model", "")
    if others := {name: n for name, n in served.items() if not same_model(name, asked)}:
        said = ", ".join(f"{name!r} ({count})" for name, count in others.items())
        cli.note(
            f"evaluate {settings['subject']} {settings['suite']}  {plan.name}: WARNING asked for "
            f"the model {asked!r}, but of {len(records)} answers some say they are of {said}"
        )
    cli.note(
        f"evaluate {settings['subject']} {settings['suite']}  {plan.name}: "
        f"{figures['metric']} {figures['score']:.4f}, n = {len(records)}"
    )


def served_models(plan: Plan, store: AnswerStore) -> dict[str, int]:
    """{other name of a model that answers bear than the one that was asked: how many}."""
    answers = (store.get(question.key, question.n) for question in plan.questions)
    named = (answer and answer["response"].get("served_model") for answer in answers)
    return dict(sorted(Counter(filter(None, named)).items()))


def at(time: float) -> str:
    """2026-01-01T09:30:59+00:00 of a Unix time."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def locks(environment: Path | None) -> dict[str, str | None]:
    """sha256 of the locks that the software here and the backend's were installed from."""
    own = Path(sys.prefix).parent / "uv.lock"  # beside envs/evalscope/.venv, if managed
    found = {"evalscope": file_digest(own) if own.exists() else None}
    if environment:
        record = read_json(environment)
        found[record["env"]] = record["lock"]
    return found


def git() -> str | None:
    """Commit of the workflow, with -dirty when files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError):
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or None
    return None
