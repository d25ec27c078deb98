"""What can change an answer, and nothing else: the parts of an identity, and its digest.

Two digests are made of them. `way` covers what turns a request into text: answers are kept by it,
so whatever asks the same request in the same way shares them. `identity` covers everything that can
change a benchmark's score.

No ports, hosts, paths, labels, resources or dates. An identity is computed before a question is
asked; two evaluations with the same one would give the same answers.
"""

from dataclasses import dataclass

from sftflow.core.jsonio import digest


@dataclass(frozen=True)
class Backend:
    """Which tool environment a backend runs in, and the packages there that compute an answer."""

    environment: str | None
    packages: tuple[str, ...]


BACKENDS = {
    "transformers": Backend("swift", ("ms-swift", "torch", "transformers")),
    "vllm": Backend("vllm", ("torch", "transformers", "vllm")),
    "endpoint": Backend(None, ()),
}


def weights(
    manifest: dict | None, adapter: dict | None = None, endpoint: dict | None = None
) -> str:
    """Digest of the weights: a model's or a merged run's manifest, with an adapter on it or not.

    Nobody can digest an endpoint's weights: its model name and the version that the user states
    stand for them.
    """
    if endpoint is not None:
        return digest({"model": endpoint["model"], "version": endpoint.get("version")})
    assert manifest is not None
    if adapter is not None:
        return digest({"base": manifest["digest"], "adapter": adapter["digest"]})
    return manifest["digest"]


def backend(part: dict, packages: dict) -> dict:
    """What turns weights into text: {name, versions, and the keys that decide about it}.

    `part` is what config/jobs.py says of the subject's backend, `packages` the versions in the
    backend's environment.
    """
    names = BACKENDS[part["name"]].packages
    return part | {"versions": {package: packages[package] for package in names}}


def settings(benchmark: dict, system: str | None, evalscope: str) -> dict:
    """How a benchmark is asked: its keys as a job is told them (config/jobs.py), how it generates
    apart. evalscope's version is in it: it words the prompts.
    """
    asked = {key: value for key, value in benchmark.items() if key != "generation"}
    asked["subsets"] = sorted(benchmark["subsets"])
    return asked | {"system": system, "evalscope": evalscope}


# How a token is drawn. At temperature 0 none is drawn: the likeliest one is taken.
DRAWING = ("seed", "top_p", "top_k")
# What OpenAI's own API does not know, with the value that changes nothing. Somebody else's server
# may refuse it, so there it is sent only where it says something.
NEUTRAL = {"repetition_penalty": 1}


def generation(stated: dict, backend: str | None = None, endpoint: dict | None = None) -> dict:
    """The generation settings that are sent: null means "not sent"; nor is what cannot change an
    answer at temperature 0, nor to an endpoint what its API may not know and changes nothing, nor
    what its `omit` names. Its `extra_body` is sent with them, under that name here.

    Our own servers take nothing from a model's generation_config.json, so what is not sent is off.
    """
    idle = DRAWING if stated.get("temperature") == 0 else ()
    neutral = NEUTRAL.items() if backend == "endpoint" else ()
    endpoint = endpoint or {}
    omitted, extra = endpoint.get("omit") or (), endpoint.get("extra_body")
    sent = {
        key: value
        for key, value in stated.items()
        if value is not None
        and key not in idle
        and key not in omitted
        and (key, value) not in neutral
    }
    return sent | ({"extra_body": extra} if extra else {})


def way(weights: str, backend: dict) -> str:
    """sha256 over what turns a request into text: {weights, backend}."""
    return digest({"weights": weights, "backend": backend})


def identity(parts: dict) -> str:
    """sha256 over {weights, data, settings, generation, backend}."""
    names = {"weights", "data", "settings", "generation", "backend"}
    if set(parts) != names:
        raise ValueError(f"an identity has the parts {sorted(names)}, got {sorted(parts)}")
    return digest(parts)
