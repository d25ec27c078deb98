"""One serving session: who answers what the plans ask, and what comes of it."""

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sftflow.core import cli, gpu
from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest, file_digest, read_json, write_json, write_jsonl
from sftflow.core.progress import Progress
from sftflow.evaluation.answers import AnswerStore
from sftflow.evaluation.plans import Plan, Wanted, wanted
from sftflow.serving import backends, client, server
from sftflow.serving.completions import NoAnswer, filtered, normalised, withheld

NO_SERVER = "not all of its questions are answered, because there is no server"


class Session:
    """The serving session: starts its server when something is asked for the first time."""

    def __init__(self, args: argparse.Namespace, settings: dict):
        self.spec = backends.Spec.of(settings, args)
        self.log = args.server_log
        self.locks = locks(args.environment)
        self.ended: Exception | None = None  # why there is no server any more
        self._stack = contextlib.ExitStack()
        self._client: Any = None
        self._mutex = threading.Lock()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def start(self) -> None:
        import httpx
        from openai import OpenAI

        running = self._stack.enter_context(server.serve(self.spec, self.log))
        self._running = running
        self._stack.enter_context(server.Watch(running, self._end))
        http = httpx.Client(limits=httpx.Limits(max_connections=None))
        self._stack.callback(http.close)
        # a local server that fails has ended; somebody else's may be busy or far away
        retries = 8 if self.spec.backend == "endpoint" else 0
        self._client = OpenAI(
            api_key=running.key, base_url=running.url, http_client=http, max_retries=retries
        )

    def _end(self, error: client.ServerError) -> None:
        self.ended = error

    def _look(self) -> None:
        """Is there still a server? One that ends drops its connections, or refuses, first."""
        try:
            self._running.check(client.ENDING)
        except client.ServerError as error:
            self.ended = error
            raise

    def ask(self, request: dict) -> tuple[dict, float]:
        """(the completion in the form of completions.py, seconds). ServerError when the server has
        ended or refuses; what a content filter of an endpoint refuses is an empty answer."""
        import openai

        with self._mutex:
            if self._client is None:
                self.start()
        if self.ended:
            raise self.ended
        messages = request["messages"]
        rest = {name: value for name, value in request.items() if name != "messages"}
        begun = time.monotonic()
        try:
            # what the client's signature does not know, and whatever else is stated, as it stands
            answer = self._client.chat.completions.create(
                model=self._running.model, messages=messages, extra_body=rest
            )
            response = normalised(_plain(answer), self.spec.backend)
        except openai.APIConnectionError as error:
            self._look()
            raise client.ServerError(f"the connection to the server broke: {error}") from error
        except openai.APIStatusError as error:
            if error.status_code >= 500:
                self._look()
            elif self.spec.backend == "endpoint" and filtered(error.body):
                return withheld(self.spec.backend), round(time.monotonic() - begun, 3)
            raise client.ServerError(
                f"the server refused a question: HTTP {error.status_code}: {error.message[:500]}. "
                "A prompt that is too long for the model needs fewer shots, a smaller "
                "max_tokens, or a larger serving.max_model_len."
            ) from error
        except NoAnswer as error:
            raise client.ServerError(str(error)) from error
        return response, round(time.monotonic() - begun, 3)


def _plain(answer: object) -> object:
    """What the client made of a response, as JSON: it takes any, and builds models of it."""
    dump = getattr(answer, "model_dump", None)
    return dump(exclude_none=True, warnings=False) if dump else answer


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
    spans = store.spans((question.key, question.n) for question in plan.questions)
    plan.entry = {
        "identity": plan.identity,
        "parts": plan.parts,
        "samples": samples,
        "samples_sha256": file_digest(plan.results / samples),
        "n": len(records),
        "metric": figures["metric"],
        "evalscope": {"score": figures["score"], "subsets": figures["subsets"]},
        "provenance": provenance(("evalscope", "openai", "datasets"), session.locks, spans),
        "status": "ok",
    }
    write_json(plan.folder / "entry.json", plan.entry)
    cli.note(
        f"evaluate {settings['subject']} {settings['suite']}  {plan.name}: "
        f"{figures['metric']} {figures['score']:.4f}, n = {len(records)}"
    )


def at(time: float) -> str:
    """2026-01-01T09:30:59+00:00 of a Unix time."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def provenance(
    packages: Iterable[str], locks: dict[str, str | None], spans: list[tuple[float, float]]
) -> dict:
    """Where answers come from; `spans` says when they were under way, Unix times."""
    return {
        "software": {name: version(name) for name in packages},
        "locks": locks,
        "git": git(),
        "hardware": gpu.hardware(),
        "started": at(spans[0][0]) if spans else None,
        "seconds": round(sum(end - begin for begin, end in spans), 3),
        "spans": [[round(begin, 3), round(end, 3)] for begin, end in spans],
    }


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
