"""One supervised model server, whatever the backend: started, proven, watched and ended here.

    with server.serve(spec, log=...) as running:
        running.chat([{"role": "user", "content": "你好"}], max_tokens=16)

`spec` says what to serve (see `Spec`); backends are ms-swift's own server on transformers, vLLM,
and `endpoint`, a server that somebody else runs. A server of ours listens on 127.0.0.1 on a port
that stays ours from its choice to its end, under a random model name and behind our own key, so an
answer can come from nobody else and nobody else can ask; unless `spec.address` says otherwise.
"""

import argparse
import contextlib
import errno
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftflow.core import cli, gpu, process
from sftflow.core.handover import SCRATCH
from sftflow.core.jsonio import read_record
from sftflow.serving.backends import (
    ANYWHERE,
    COMMANDS,
    LOOPBACK,
    MODEL,
    SHARED_BY,
    Address,
    Spec,
    environment,
)
from sftflow.serving.client import (
    POLL,
    Manner,
    NotReached,
    Refused,
    Server,
    ServerError,
    TimedOut,
)
from sftflow.serving.completions import same_model

PROBE = [{"role": "user", "content": "你好"}]
PROBE_TOKENS = 16
NO_KEY = "EMPTY"  # openai's client wants one
LISTING = 30.0  # seconds for the list of an endpoint's models, which it need not have
SHOWN = 20  # models that an error names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What serve.py and evaluate.py must both be told: the weights, and what serves them."""
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--weights", type=Path, help="folder of a base model or a merged run")
    parser.add_argument("--manifest", type=Path, help="manifest.json or merged.json of --weights")
    parser.add_argument("--adapter", type=Path, help="adapter to put on --weights")
    parser.add_argument("--adapter-manifest", type=Path, help="adapter.json of --adapter")
    parser.add_argument("--environment", type=Path, help="environments/<env>.json of the backend")
    parser.add_argument("--python", help="interpreter; default: that of --environment")
    parser.add_argument("--server-log", type=Path, required=True, help="what the server says")
    parser.add_argument("--threads", type=int, help="CPU threads of the server")


@contextlib.contextmanager
def serve(spec: Spec, log: Path) -> Iterator[Server]:
    """Start a server, prove that it answers, yield it, end it. An endpoint is only proven."""
    if spec.backend == "endpoint":
        with contextlib.closing(connect(spec)) as running:
            yield running
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    key = kept_key() if spec.backend == "vllm" else secrets.token_urlsafe(32)
    address = spec.address or Address(LOOPBACK, 0, f"sftflow-{secrets.token_hex(8)}", key)
    with _gpus(spec) as on_gpu, socket.socket() as held, place(spec) as cwd:
        if address.port:
            refuse_taken(address.host, address.port)
        held.setsockopt(socket.SOL_SOCKET, SHARED_BY[spec.backend], 1)
        held.bind((address.host, address.port))
        port = held.getsockname()[1]  # ours: bound, never listening, shared with our server only
        running = Server(
            url=f"http://{LOOPBACK if address.host == ANYWHERE else address.host}:{port}/v1",
            model=address.model,
            key=address.key,
            log=log,
            stated=spec.stated,
            manner=spec.manner,
        )
        command, env = COMMANDS[spec.backend](spec, running, port)
        running.process = process.start(command, env=environment(spec) | env, log=log, cwd=cwd)
        try:
            wait_until_ready(running, spec.serving.get("ready_timeout") or 600)
            _prove_session(running, spec.record, on_gpu)
            yield running
        finally:
            running.close()
            process.stop(running.process)


def kept_key() -> str:
    """A key of this working folder's own: see backends._vllm for why it stays the same."""
    path = SCRATCH / "server.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(dir=path.parent)  # which nobody else may read
        os.write(handle, secrets.token_urlsafe(32).encode())
        os.close(handle)
        os.replace(fresh, path)
    return path.read_text("utf-8")


@contextlib.contextmanager
def place(spec: Spec) -> Iterator[str | None]:
    """Where the server of a backend is started, if not here."""
    if spec.backend != "vllm":
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="sftflow-serve-") as folder:
        Path(folder, MODEL).symlink_to(spec.local()[1].resolve())
        yield folder


def refuse_taken(host: str, port: int) -> None:
    """UserError where nobody can listen on this address now; it names the next free port."""
    reason = _unusable(host, port)
    if reason is None:
        return
    if reason.errno != errno.EADDRINUSE:
        raise cli.UserError(f"nobody can listen on {host}, port {port}: {reason.strerror}")
    free = next((p for p in range(port + 1, 65536) if _unusable(host, p) is None), None)
    named = f": {free} is free (--port {free})" if free else ""
    raise cli.UserError(f"port {port} of {host} is taken{named}")


def _unusable(host: str, port: int) -> OSError | None:
    """Why nobody can listen there; connections that are closed already don't count."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            return error
    return None


@contextlib.contextmanager
def _gpus(spec: Spec) -> Iterator[bool]:
    """Hold the GPUs that the server needs, if this machine has any; whether it has."""
    if spec.cards:
        yield True
        return
    wanted = gpus_of(spec)
    with contextlib.ExitStack() as stack:
        device = spec.serving.get("device")
        try:
            claimed = stack.enter_context(gpu.claim(wanted))
            gpu.refuse_absent(claimed, device, "serving")
        except cli.UserError as error:
            raise ServerError(str(error)) from error
        if not claimed and device != "cpu" and spec.backend == "vllm":
            raise ServerError(
                "the backend vllm needs a GPU, and NVIDIA's library (nvidia-ml-py) shows "
                "none here: set serving.backend to transformers (or serving.device to cpu, if your "
                "vLLM is one for CPUs)"
            )
        yield bool(claimed)


def gpus_of(spec: Spec) -> int:
    """How many GPUs a server asks for, where this machine has any."""
    local = spec.backend != "endpoint" and spec.serving.get("device") != "cpu"
    return (spec.serving.get("gpus") or 1) if local else 0


def connect(spec: Spec) -> Server:
    """The endpoint as a Server that has answered. Its key comes from the environment variable that
    the user names. Whether it lists its models, and which, decides nothing by itself."""
    endpoint = spec.endpoint
    name = endpoint.get("key_env")
    key = os.environ.get(name, "").strip() if name else NO_KEY
    if not key:
        raise ServerError(f"{endpoint['url']} needs a key: set the environment variable {name}")
    address, *query = endpoint["url"].split("?", 1)
    address = address.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    running = Server(
        url="?".join([address, *query]),
        model=endpoint["model"],
        key=key,
        stated=spec.stated,
        manner=Manner.of(endpoint),
    )
    begun = time.monotonic()
    try:
        running.models = _known(running)
        asked(running, spec.serving.get("ready_timeout"))
        named = [*running.models, *running.others]
        if running.models and not any(same_model(running.model, other) for other in named):
            raise ServerError(_other_models(running))
    except BaseException:
        running.close()
        raise
    running.seconds["ready"] = round(time.monotonic() - begun, 3)
    return running


def _known(running: Server) -> list[str]:
    """The models that an endpoint lists; [] where it has no list, or none for us."""
    try:
        return listed(running.get("/models", LISTING, retries=1))
    except TimedOut:
        return []
    except NotReached as error:
        raise ServerError(f"{error}. Is that server running?") from error
    except ServerError as error:
        if isinstance(error, Refused) and 300 <= error.status < 400:  # so is the rest
            raise
        return []


def wait_until_ready(running: Server, timeout: float) -> None:
    """Until the model list names the model and a chat completion was answered; else ServerError."""
    begun = time.monotonic()
    while True:
        running.check()
        left = begun + timeout - time.monotonic()
        if left <= 0:
            raise ServerError(
                f"the server was not ready after {timeout:g} s (serving.ready_timeout). "
                f"{running.log_excerpt()}"
            )
        try:
            with _ended_by(running):
                _prove(running, timeout=left)
            break
        except NotReached:
            time.sleep(POLL)
    running.seconds["ready"] = round(time.monotonic() - begun, 3)


def _prove(running: Server, timeout: float) -> None:
    """The list of models names ours, and ours answers. NotReached: nobody answers (yet)."""
    running.models = listed(running.get("/models", min(timeout, 10.0)))
    if running.model not in running.models:
        raise ServerError(_other_models(running))
    asked(running, timeout)


def asked(running: Server, timeout: float | None) -> None:
    """Ask a first question, and note the answer and how long it took."""
    begun = time.monotonic()
    answer = running.chat(PROBE, PROBE_TOKENS, timeout)
    running.seconds["first_answer"] = round(time.monotonic() - begun, 3)
    running.probe = answer["choices"][0]["message"]["content"]


def listed(models: Any) -> list[str]:
    """The names in what GET /models gave, whatever that is."""
    entries = models.get("data", models.get("models")) if isinstance(models, dict) else models
    entries = entries if isinstance(entries, list) else []
    names = (entry.get("id", entry.get("name")) if isinstance(entry, dict) else entry
             for entry in entries)  # fmt: skip
    return [name for name in names if isinstance(name, str)]


def _other_models(running: Server) -> str:
    return (
        f"the server at {running.url} serves {running.models[:SHOWN]}, not {running.model}: "
        "it is not the one that was meant"
    )


def _prove_session(running: Server, record: Path | None, on_gpu: bool) -> None:
    """The server computes where it is meant to, and was imported from the packages that its
    environment's record names."""
    try:
        session = running.get("/session")
    except ServerError:  # vLLM has no such address, and starts nowhere but on its GPU
        return
    if on_gpu and session.get("device") == "cpu":
        raise ServerError(
            "the server computes on the CPU, though it was given a GPU: its torch can't use it. "
            f"{running.log_excerpt()}"
        )
    if record is None:
        return
    told = session.get("versions", {})
    packages = read_record(record)["packages"]
    other = [name for name in told if name in packages and packages[name] != told[name]]
    if other:
        names = ", ".join(
            f"{name} {told[name]}, where {record} has {packages[name]}" for name in other
        )
        raise ServerError(
            f"the server runs {names}: its environment has changed since. Delete that record, and "
            "it is made again"
        )


@contextlib.contextmanager
def _ended_by(running: Server) -> Iterator[None]:
    """A server that ends while it is asked explains a failed request better than the request."""
    try:
        yield
    except ServerError:
        running.check()
        raise


class Watch:
    """Calls `on_end(error)` once, within `interval` seconds of the end of a server."""

    def __init__(self, running: Server, on_end, interval: float = 0.5):
        self._running, self._on_end, self._interval = running, on_end, interval
        self._over = threading.Event()

    def __enter__(self) -> "Watch":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            try:
                self._running.check()
            except ServerError as error:
                return self._on_end(error)
