"""Everything that can change an answer changes the identity; nothing else does."""

import copy

import made_up
import pytest
from sftflow.config import jobs, resolve
from sftflow.core import identity
from sftflow.training import settings

RAW = made_up.RAW | {"generation": {"max_tokens": 32}}
PACKAGES = {"ms-swift": "4.6.0", "torch": "2.11.0", "transformers": "5.12.1", "vllm": "0.26.0"}


def made(packages=PACKAGES, data="d", subject="base", **changes):
    """Identity of a benchmark, whose settings are `benchmark`, under a config with changes."""
    benchmark = changes.pop("benchmark", {})
    model = made_up.RAW["models"]["base"] | changes.pop("model", {})
    benchmarks = {"mmlu": made_up.RAW["benchmarks"]["mmlu"] | benchmark}
    study = resolve.resolve(
        RAW
        | {"models": {"base": model}, "benchmarks": benchmarks, "suites": {"s": ["mmlu"]}}
        | changes
    )
    asked = jobs.asked_benchmark(study, "mmlu")
    return identity.identity(
        {
            "weights": "w",
            "data": data,
            "settings": identity.settings(asked, study["models"]["base"]["system"], "1.14.1"),
            "generation": identity.generation(asked["generation"]),
            "backend": identity.backend(jobs.backend(study, subject), packages),
        }
    )


@pytest.mark.parametrize(
    "change",
    [
        {"serving": {"torch_dtype": "float16"}},
        {"serving": {"backend": "vllm"}},
        {"serving": {"max_model_len": 100}},
        {"serving": {"extra": {"attn_impl": "eager"}}},
        {"model": {"template": "llama3"}},
        {"model": {"agent_template": "hermes"}},
        {"model": {"system": "Be kind."}},
        {"packages": PACKAGES | {"transformers": "5.12.2"}},
        {"benchmark": {"shots": 3}},
        {"benchmark": {"limit": 10}},
        {"benchmark": {"prompt": "{question}"}},
        {"benchmark": {"repeats": 2}},
        {"benchmark": {"multiple_correct": True}},
        {"generation": {"max_tokens": 32, "repetition_penalty": 1.1}},  # at temperature 0, too
        {"benchmark": {"subsets": ["professional_psychology"]}},
        {"benchmark": {"generation": {"max_tokens": 64}}},
        {"data": "other"},
    ],
)
def test_changes_that_count(change):
    assert made(**change) != made()


@pytest.mark.parametrize(
    "change",
    [
        {"serving": {"concurrency": 1, "max_batch_size": 2, "gpus": 4, "device": "cpu"}},
        {"serving": {"ready_timeout": 9}},
        {"packages": PACKAGES | {"ruff": "1", "vllm": "9"}},
        {"benchmark": {"label": "MMLU", "note": "x", "source": "/a/path"}},
        {"benchmark": {"subsets": ["high_school_psychology", "professional_psychology"]}},
        {"benchmark": {"generation": {"temperature": 0}}},
        {"generation": {"max_tokens": 32, "seed": 7, "top_p": 0.5, "top_k": 9}},  # at temperature 0
    ],
)
def test_changes_that_do_not_count(change):
    assert made(**change) == made()


@pytest.mark.parametrize(
    "change", [{"seed": 7}, {"top_p": 0.5}, {"top_k": 9}, {"temperature": 0.9}]
)
def test_sampling_counts_where_something_is_drawn(change):
    warm = {"max_tokens": 32, "temperature": 0.7, "seed": 1, "top_p": 1}
    assert made(generation=warm | change) != made(generation=warm)
    assert identity.generation(warm) == warm


def test_a_benchmark_of_its_own_temperature():
    """What is left out follows from the temperature that the benchmark is asked at."""
    warm = {"temperature": 0.7, "seed": 1, "top_p": 0.9}
    assert identity.generation(warm | {"temperature": 0}) == {"temperature": 0}
    cold = {"generation": {"temperature": 0}, "benchmark": {"generation": {"temperature": 0.7}}}
    assert made(**cold) != made(generation={"temperature": 0})


def test_an_endpoint_is_sent_what_its_api_knows():
    cold = {"temperature": 0, "repetition_penalty": 1, "top_k": None}
    assert identity.generation(cold, "vllm") == {"temperature": 0, "repetition_penalty": 1}
    assert identity.generation(cold, "endpoint") == {"temperature": 0}
    asked = cold | {"repetition_penalty": 1.1}  # by a user who knows better
    assert identity.generation(asked, "endpoint") == {"temperature": 0, "repetition_penalty": 1.1}


def test_what_an_endpoint_is_not_sent_and_sent_besides_counts():
    asked = {"temperature": 0.7, "seed": 1, "max_tokens": 9}
    endpoint = {"omit": ["seed"], "extra_body": {"reasoning_effort": "low"}, "timeout": 5}
    assert identity.generation(asked, "endpoint", endpoint) == {
        "temperature": 0.7, "max_tokens": 9, "extra_body": {"reasoning_effort": "low"},
    }  # fmt: skip
    defaults = {"omit": [], "extra_body": {}}
    assert identity.generation(asked, "endpoint", defaults) == asked


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_thinking_counts_where_it_is_stated(backend):
    """What was made before the key was there stays what it is."""
    several = {made(serving={"backend": backend}, model={"thinking": t}) for t in (True, False)}
    unstated = made(serving={"backend": backend}, model={"thinking": None})
    assert unstated == made(serving={"backend": backend}) and len({*several, unstated}) == 3
    part = jobs.backend(resolve.resolve(RAW), "base")
    assert "thinking" not in part
    config, manifest, receipt = {"training.seed": 1}, {"digest": "w"}, {"digest": "d"}
    trained = {
        settings.identity(config | more, manifest, receipt, "cpu", {})
        for more in ({}, {"models.thinking": None}, {"models.thinking": True})
    }
    assert len(trained) == 2


def test_way_of_asking():
    """Answers are shared by whatever is asked of these weights in this way."""
    part = jobs.backend(resolve.resolve(RAW), "base")
    assert "agent_template" not in part  # what is not stated changes no identity
    faster = jobs.backend(resolve.resolve(RAW | {"serving": {"concurrency": 1}}), "base")
    backend = identity.backend(part, PACKAGES)
    assert identity.way("w", backend) == identity.way("w", identity.backend(faster, PACKAGES))
    newer = identity.backend(part, PACKAGES | {"torch": "9"})
    several = {identity.way(w, b) for w in ("w", "v") for b in (backend, newer)}
    assert len(several) == 4


def test_weights():
    base, adapter = {"digest": "b"}, {"digest": "a"}
    assert identity.weights(base) == "b"
    endpoint = {"model": "m", "version": "1", "url": "http://x"}
    several = {
        identity.weights(base),
        identity.weights(base, adapter),
        identity.weights({"digest": "b2"}, adapter),
        identity.weights(None, endpoint=endpoint),
        identity.weights(None, endpoint=endpoint | {"version": "2"}),
    }
    assert len(several) == 5
    moved = copy.deepcopy(endpoint) | {"url": "http://elsewhere:9/v1", "key_env": "K"}
    assert identity.weights(None, endpoint=moved) == identity.weights(None, endpoint=endpoint)


def test_parts_are_complete():
    with pytest.raises(ValueError, match="parts"):
        identity.identity({"weights": "w"})
