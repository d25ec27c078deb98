"""One supervised model server, whatever the backend: started, proven, watched and ended here.

    with server.serve(spec, log=...) as running:
        running.chat([{"role": "user", "content": "你好"}], max_tokens=16)

`spec` says what to serve (see `Spec`); backends are ms-swift's own server on transformers, vLLM,
and `endpoint`, a server that somebody else runs. A server of ours listens on 127.0.0.1 on a port
that stays ours from its choice to its end, under a random model name and behind a random key, so an
answer can come from nobody else and nobody else can ask.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sftflow import cli, gpu, process
from sftflow.cli import UserError

PROBE = [{"role": "user", "content": "你好"}]
PROBE_TOKENS = 16
LOCAL = "127.0.0.1,localhost,::1"
POLL = 0.2  # seconds between two looks at a server that starts
ENDING = 5.0  # seconds that a server whose engine has died may take to end itself
LOG_LINES = 40
ERRORS = 5  # the first ones that a log names
ERROR = re.compile(r"^(?:\(.*?\) )?(?:ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.M)


class ServerError(UserError):
    """The server did not come up, ended, or is not the one it should be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What serve.py and evaluate.py must both be told: the weights, and what serves them."""
    parser.add_argument("--settings", type=cli.settings, required=True, help="JSON, or @FILE")
    parser.add_argument("--weights", type=Path, help="folder of a base model or a merged run")
    parser.add_argument("--manifest", type=Path, help="manifest.json or merged.json of --weights")
    parser.add_argument("--adapter", type=Path, help="adapter to put on --weights")
    parser.add_argument("--adapter-manifest", type=Path, help="adapter.json of --adapter")
    parser.add_argument("--environment", type=Path, help="environments/<env>.json of the backend")
    parser.add_argument("--python", help="interpreter of the backend's environment")
    parser.add_argument("--server-log", type=Path, required=True, help="what the server says")
    parser.add_argument("--threads", type=int, help="CPU threads of the server")


@dataclass(frozen=True)
class Spec:
    """What to serve.

    serving: {backend, max_batch_size, concurrency, ready_timeout (s), device, gpus, torch_dtype,
        max_model_len, extra (the backend's own flags)}; model: {model_type, template};
    endpoint: {url, model, key_env}; python: the interpreter of the backend's environment.
    """

    serving: dict
    model: dict = field(default_factory=dict)
    endpoint: dict = field(default_factory=dict)
    weights: Path | None = None
    adapter: Path | None = None
    python: str | None = None
    threads: int | None = None

    @classmethod
    def of(cls, settings: dict, args: argparse.Namespace) -> "Spec":
        """From a program's settings and its arguments --weights --adapter --python --threads."""
        return cls(
            serving=settings["serving"],
            model=settings.get("model") or {},
            endpoint=settings.get("endpoint") or {},
            weights=args.weights,
            adapter=args.adapter,
            python=args.python,
            threads=args.threads,
        )

    @property
    def backend(self) -> str:
        return self.serving["backend"]


@dataclass
class Server:
    """A server that answers. `seconds`: {ready, import, load, first_answer}, as far as known."""

    url: str  # up to and including /v1
    model: str
    key: str
    log: Path | None = None
    process: subprocess.Popen | None = None
    seconds: dict = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    probe: str = ""

    def check(self, patience: float = 0.0) -> None:
        """Raises ServerError, with its log, when the server has ended or ends within `patience` s.

        A server whose engine has died refuses requests for a while before it ends itself.
        """
        last = time.monotonic() + patience
        while self.process is not None:
            if self.process.poll() is not None:
                raise ServerError(
                    f"the server ended with status {self.process.returncode}. {_told(self.log)}"
                )
            if time.monotonic() >= last:
                return
            time.sleep(POLL)

    def request(self, path: str, body: dict | None = None, timeout: float = 600.0):
        """The open HTTP response of GET, or of POST with a JSON body; `path` follows /v1."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"},
        )
        local = urlsplit(self.url).hostname in LOCAL.split(",")
        proxies = urllib.request.ProxyHandler({} if local else None)
        return urllib.request.build_opener(proxies).open(request, timeout=timeout)

    def json(self, path: str, body: dict | None = None, timeout: float = 600.0) -> dict:
        try:
            with self.request(path, body, timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            if error.code >= 500:
                self.check(ENDING)
            raise ServerError(f"the server refused {path}: HTTP {error.code}: {text}") from error
        except ValueError as error:  # not JSON
            raise ServerError(f"{self.url}{path} is not OpenAI's API: {error}") from error

    def chat(self, messages: list[dict], timeout: float = 600.0, **generation) -> dict:
        """A chat completion, as OpenAI's API gives it."""
        body = {"model": self.model, "messages": messages, **generation}
        return self.json("/chat/completions", body, timeout)


@contextlib.contextmanager
def serve(spec: Spec, log: Path) -> Iterator[Server]:
    """Start a server, prove that it answers, yield it, end it. An endpoint is only proven."""
    if spec.backend == "endpoint":
        yield connect(spec)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    with _gpus(spec), socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, SHARED_BY[spec.backend], 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]  # ours: bound, never listening, shared with our server only
        running = Server(
            url=f"http://127.0.0.1:{port}/v1",
            model=f"sftflow-{secrets.token_hex(8)}",
            key=secrets.token_urlsafe(32),
            log=log,
        )
        command, env = COMMANDS[spec.backend](spec, running, port)
        running.process = process.start(command, env=environment(spec) | env, log=log)
        try:
            wait_until_ready(running, spec.serving.get("ready_timeout") or 600)
            yield running
        finally:
            process.stop(running.process)


@contextlib.contextmanager
def _gpus(spec: Spec) -> Iterator[None]:
    """Hold the GPUs that the server needs, if this machine has any."""
    wanted = 0 if spec.serving.get("device") == "cpu" else spec.serving.get("gpus") or 1
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(gpu.claim(wanted))
        except ValueError as error:
            raise ServerError(f"{error}: lower serving.gpus") from error
        device = spec.serving.get("device")
        if not found and device == "cuda":
            raise ServerError("serving.device is cuda, and this machine shows no GPU")
        if not found and device != "cpu" and spec.backend == "vllm":
            raise ServerError(
                "the backend vllm needs a GPU, and NVIDIA's library (nvidia-ml-py) shows "
                "none here: set serving.backend to transformers (or serving.device to cpu, if your "
                "vLLM is one for CPUs)"
            )
        yield


def connect(spec: Spec) -> Server:
    """The endpoint as a Server. Its key comes from the environment variable that the user names."""
    endpoint = spec.endpoint
    name = endpoint.get("key_env")
    key = os.environ.get(name, "") if name else "EMPTY"
    if not key:
        raise ServerError(f"{endpoint['url']} needs a key: set the environment variable {name}")
    url = endpoint["url"].rstrip("/").removesuffix("/chat/completions")
    running = Server(url=url, model=endpoint["model"], key=key)
    try:
        begun = time.monotonic()
        _prove(running, timeout=60.0)
        running.seconds["ready"] = round(time.monotonic() - begun, 3)
    except OSError as error:
        raise ServerError(f"{url} does not answer: {error}. Is that server running?") from error
    return running


def wait_until_ready(running: Server, timeout: float) -> None:
    """Until the model list names the model and a chat completion was answered; else ServerError."""
    begun = time.monotonic()
    while True:
        running.check()
        left = begun + timeout - time.monotonic()
        if left <= 0:
            raise ServerError(
                f"the server was not ready after {timeout:g} s (serving.ready_timeout). "
                f"{_told(running.log)}"
            )
        try:
            with _ended_by(running):
                _prove(running, timeout=left)
            break
        except OSError:
            time.sleep(POLL)
    running.seconds["ready"] = round(time.monotonic() - begun, 3)


def _prove(running: Server, timeout: float) -> None:
    """The list of models names ours, and ours answers. OSError: nobody answers (yet)."""
    listed = running.json("/models", timeout=min(timeout, 10.0))
    running.models = [model["id"] for model in listed.get("data", [])]
    if running.model not in running.models:
        raise ServerError(
            f"the server at {running.url} serves {running.models}, not {running.model}: "
            "it is not the one that was meant"
        )
    begun = time.monotonic()
    answer = running.chat(PROBE, timeout=timeout, max_tokens=PROBE_TOKENS, temperature=0)
    running.seconds["first_answer"] = round(time.monotonic() - begun, 3)
    running.probe = answer["choices"][0]["message"]["content"] or ""


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


def environment(spec: Spec) -> dict[str, str]:
    """Environment of a server: no network, no proxy for this machine, the threads it may use."""
    env = dict(os.environ)
    env |= without_proxy(env)
    env |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "USE_HF": "1",  # ms-swift asks ModelScope's hub otherwise
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin on shared cores stop one another
    }
    if spec.threads:
        env["OMP_NUM_THREADS"] = str(spec.threads)
    if spec.serving.get("device") == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    return env


def without_proxy(env: dict[str, str]) -> dict[str, str]:
    """{NO_PROXY, no_proxy} that name this machine beside what they named before."""
    named = env.get("no_proxy") or env.get("NO_PROXY") or ""
    hosts = ",".join(dict.fromkeys(filter(None, [*named.split(","), *LOCAL.split(",")])))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _swift(spec: Spec, running: Server, port: int) -> tuple[list[str], dict[str, str]]:
    """ms-swift's server on transformers: see deploy.py."""
    flags = {
        "model": spec.weights,
        "adapters": spec.adapter,
        "model_type": spec.model.get("model_type"),
        "template": spec.model.get("template"),
        "torch_dtype": _dtype(spec),
        "max_model_len": spec.serving.get("max_model_len"),
        "max_batch_size": spec.serving.get("max_batch_size"),
        "served_model_name": running.model,
        "verbose": "false",  # prompts and answers stay out of the log
        "log_interval": -1,
        "load_args": "false",  # the checkpoint's args.json names paths of the training
        "use_hf": "true",
        **(spec.serving.get("extra") or {}),
    }
    launcher = Path(__file__).with_name("deploy.py")
    env = {
        "SFTFLOW_KEY": running.key,
        "SFTFLOW_PORT": str(port),
        # the cache of keys and values grows with each token; without this, by new allocations
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    return [spec.python, "-P", str(launcher), *_flags(flags)], env


def _vllm(spec: Spec, running: Server, port: int) -> tuple[list[str], dict[str, str]]:
    """vLLM's own server."""
    flags = {
        "model": spec.weights,
        "host": "127.0.0.1",
        "port": port,
        "dtype": _dtype(spec),
        "max-model-len": spec.serving.get("max_model_len"),
        "max-num-seqs": spec.serving.get("max_batch_size"),
        "tensor-parallel-size": spec.serving.get("gpus") or 1,
        "served-model-name": running.model,
        "disable-uvicorn-access-log": "",
    }
    if spec.adapter:
        rank = json.loads((spec.adapter / "adapter_config.json").read_text())["r"]
        flags |= {
            "served-model-name": f"{running.model}-base",
            "enable-lora": "",
            "max-lora-rank": next(size for size in LORA_RANKS if size >= rank),
            "lora-modules": f"{running.model}={spec.adapter}",
        }
    for name, value in (spec.serving.get("extra") or {}).items():
        if isinstance(value, bool):  # as argparse's BooleanOptionalAction has it
            flags[name if value else f"no-{name}"] = ""
        else:
            flags[name] = value
    command = [spec.python, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    env = {"VLLM_API_KEY": running.key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return [*command, *_flags(flags)], env


def vllm_seconds(log: Path) -> dict[str, float]:
    """{load: seconds} as vLLM's log tells them; {} when it does not."""
    found = re.search(r"Model loading took .*? ([\d.]+) seconds", log.read_text(errors="replace"))
    return {"load": float(found[1])} if found else {}


COMMANDS = {"transformers": _swift, "vllm": _vllm}
# By which option a server shares the port that is held for it, whose socket never listens.
SHARED_BY = {"transformers": socket.SO_REUSEPORT, "vllm": socket.SO_REUSEADDR}
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for


def _dtype(spec: Spec) -> str | None:
    """The number type asked for, or that of the weights: left alone, ms-swift may take another."""
    asked = spec.serving.get("torch_dtype") or "auto"
    if asked != "auto":
        return asked
    config = json.loads((spec.weights / "config.json").read_text())
    return config.get("dtype") or config.get("torch_dtype")


def _flags(flags: dict) -> list[str]:
    """{"a": 1, "b": "", "c": None, "d": [2, 3]} becomes --a 1 --b --d 2 3; a dict becomes JSON."""
    words = []
    for name, value in flags.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            given = (json.dumps(v) if isinstance(v, dict) else str(v) for v in values if v != "")
            words += [f"--{name}", *given]
    return words


def _told(log: Path) -> str:
    """The end of a log, and before it every error that it names.

    vLLM's engine is a process of its own. What ended it stands in the log above the tracebacks of
    those that waited for it.
    """
    text = log.read_text(errors="replace")
    errors = list(dict.fromkeys(match[1] for match in ERROR.finditer(text)))[:ERRORS]
    named = "".join(f"\n  {error}" for error in errors)
    tail = process.tail(log, LOG_LINES)
    return (f"Its log names:{named}\n" if named else "") + f"The end of {log}:\n{tail}"
