"""The backends: how each is started, and what it is told."""

import argparse
import json
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftflow.core import environments, identity
from sftflow.core.environ import for_tools
from sftflow.core.jsonio import read_record
from sftflow.serving.client import LOCAL, Manner, Server, ServerError


@dataclass(frozen=True)
class Address:
    """Where a server is found, by which name, and what opens it. host: of this machine, IPv4."""

    host: str
    port: int
    model: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Spec:
    """What to serve.

    serving: {backend, max_batch_size, concurrency, ready_timeout (s), device, gpus, torch_dtype,
        max_model_len, extra (the backend's own flags)}; model: {model_type, template, thinking};
    endpoint: {url, model, key_env, headers, omit, rename, extra_body, timeout, deadline, retries};
    stated: generation settings of the requests that prove and measure it; python: the interpreter
    of the backend's environment, and record: environments/<env>.json of it; address: where others
    find it, if they are to; cards: UUIDs of GPUs that the caller holds for it.
    """

    serving: dict
    model: dict = field(default_factory=dict)
    endpoint: dict = field(default_factory=dict)
    stated: dict = field(default_factory=dict)
    weights: Path | None = None
    adapter: Path | None = None
    python: str | None = None
    record: Path | None = None
    threads: int | None = None
    address: Address | None = None
    cards: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: dict, args: argparse.Namespace) -> "Spec":
        """From a program's settings and its arguments --weights --adapter --environment --threads.

        --python names another interpreter than that of the backend's recorded environment.
        """
        python = args.python
        if python is None and args.environment is not None:
            record = read_record(args.environment)
            python = environments.interpreter(record["env"], record["software"])
        return cls(
            serving=settings["serving"],
            model=settings.get("model") or {},
            endpoint=settings.get("endpoint") or {},
            stated=identity.generation(
                settings.get("generation") or {},
                settings["serving"]["backend"],
                settings.get("endpoint"),
            ),
            weights=args.weights,
            adapter=args.adapter,
            python=python,
            record=args.environment,
            threads=args.threads,
        )

    @property
    def backend(self) -> str:
        return self.serving["backend"]

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self.address.host if self.address else LOOPBACK

    @property
    def manner(self) -> Manner:
        """How our own servers are asked: whether to think goes with each request."""
        thinking = self.model.get("thinking")
        named = dict.fromkeys(THINKING, thinking)
        return Manner(extra={} if thinking is None else {"chat_template_kwargs": named})

    def local(self) -> tuple[str, Path]:
        """(interpreter, folder of the weights) of a server that is started here."""
        if self.python is None or self.weights is None:
            raise ServerError(f"the backend {self.backend} needs --python and --weights")
        return self.python, self.weights


def environment(spec: Spec) -> dict[str, str]:
    """Environment of a server: no secret, no network, no proxy for this machine, its threads."""
    env = for_tools()
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
    if spec.cards:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(spec.cards)
    if spec.serving.get("device") == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    return env


def without_proxy(env: dict[str, str]) -> dict[str, str]:
    """{NO_PROXY, no_proxy} that name this machine beside what they named before."""
    named = env.get("no_proxy") or env.get("NO_PROXY") or ""
    hosts = ",".join(dict.fromkeys(filter(None, [*named.split(","), *LOCAL.split(",")])))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _swift(spec: Spec, running: Server, port: int) -> tuple[list[str], dict[str, str]]:
    """ms-swift's server on transformers: see swift_deploy.py."""
    python, weights = spec.local()
    flags = {
        **(spec.serving.get("extra") or {}),  # first: of a flag given twice the later one counts
        "model": weights,
        "adapters": spec.adapter,
        "model_type": spec.model.get("model_type"),
        "template": spec.model.get("template"),
        "agent_template": spec.model.get("agent_template"),
        "torch_dtype": _dtype(spec),
        "max_model_len": spec.serving.get("max_model_len"),
        "max_batch_size": spec.serving.get("max_batch_size"),
        "served_model_name": running.model,
        "verbose": "false",  # prompts and answers stay out of the log
        "log_interval": -1,
        "load_args": "false",  # the checkpoint's args.json names paths of the training
        "use_hf": "true",
    }
    launcher = Path(__file__).with_name("swift_deploy.py")
    env = {
        "SFTFLOW_KEY": running.key,
        "SFTFLOW_PORT": str(port),
        "SFTFLOW_HOST": spec.host,
        # the cache of keys and values grows with each token; without this, by new allocations
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    return [python, "-P", str(launcher), *_flags(flags)], env


def _vllm(spec: Spec, running: Server, port: int) -> tuple[list[str], dict[str, str]]:
    """vLLM's own server, started in a folder where MODEL leads to the weights.

    Where `extra` lets it compile, it does so anew whenever one of its variables or the path of a
    model differs: with a key that stays and one name for all, models of one shape are compiled
    once.
    """
    python, _ = spec.local()
    flags: dict[str, Any] = {}
    for name, value in (spec.serving.get("extra") or {}).items():
        if isinstance(value, bool):  # as argparse's BooleanOptionalAction has it
            flags[name if value else f"no-{name}"] = ""
        else:
            flags[name] = value
    flags |= {  # after `extra`: of a flag given twice the later one counts
        "model": MODEL,
        "host": spec.host,
        "port": port,
        "dtype": _dtype(spec),
        "max-model-len": spec.serving.get("max_model_len"),
        "max-num-seqs": spec.serving.get("max_batch_size"),
        "tensor-parallel-size": spec.serving.get("gpus") or 1,
        "served-model-name": running.model,
        "disable-uvicorn-access-log": "",
        "generation-config": "vllm",  # what a request does not state is off, not the model's own
    }
    if spec.adapter:
        rank = json.loads((spec.adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
        flags |= {
            "served-model-name": f"{running.model}-base",
            "enable-lora": "",
            "max-lora-rank": next(size for size in LORA_RANKS if size >= rank),
            "lora-modules": f"{running.model}={spec.adapter.resolve()}",
        }
    command = [python, "-P", str(Path(__file__).with_name("vllm_serve.py"))]
    env = {
        "VLLM_API_KEY": running.key,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Its kernels are compiled by nvcc at the first start: two minutes, where there is an nvcc.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        # Its engine has the imports of its server already, which a new process needs 20 s for.
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
    }
    return [*command, *_flags(flags)], env


def vllm_seconds(log: Path) -> dict[str, float]:
    """{load: seconds} as vLLM's log tells them; {} when it does not."""
    took = re.search(
        r"Model loading took .*? ([\d.]+) seconds",
        log.read_text(encoding="utf-8", errors="replace"),
    )
    return {"load": float(took[1])} if took else {}


COMMANDS = {"transformers": _swift, "vllm": _vllm}
# By which option a server shares the port that is held for it, whose socket never listens.
SHARED_BY = {"transformers": socket.SO_REUSEPORT, "vllm": socket.SO_REUSEADDR}
MODEL = "model"
LOOPBACK, ANYWHERE = "127.0.0.1", "0.0.0.0"
THINKING = ("enable_thinking", "thinking")  # what chat templates call it: Qwen3's, DeepSeek's
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for


def _dtype(spec: Spec) -> str | None:
    """The number type asked for, or that of the weights: left alone, ms-swift may take another."""
    asked = spec.serving.get("torch_dtype") or "auto"
    if asked != "auto":
        return asked
    _, weights = spec.local()
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    return config.get("dtype") or config.get("torch_dtype")


def _flags(flags: dict) -> list[str]:
    """{"a": 1, "b": "", "c": None, "d": [2, 3]} becomes --a 1 --b --d 2 3; a dict becomes JSON."""
    words: list[str] = []
    for name, value in flags.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            given = (json.dumps(v) if isinstance(v, dict) else str(v) for v in values if v != "")
            words += [f"--{name}", *given]
    return words
