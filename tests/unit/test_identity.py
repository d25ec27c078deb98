"""Everything that can change an answer changes the identity; nothing else does."""

import copy

import pytest
from sftflow.core import identity

SERVING = {"backend": "transformers", "torch_dtype": "auto", "max_model_len": None, "extra": {}}
MODEL = {"model_type": "llama", "template": "chatml", "torch_dtype": "auto", "system": None}
PACKAGES = {"ms-swift": "4.6.0", "torch": "2.11.0", "transformers": "5.12.1", "vllm": "0.26.0"}
BENCHMARK = {"dataset": "mmlu", "subsets": ["b", "a"], "shots": 0, "prompt": None, "limit": None}
GENERATION = {"temperature": 0, "max_tokens": 32, "top_p": None}


def made(
    serving=SERVING,
    model=MODEL,
    packages=PACKAGES,
    benchmark=BENCHMARK,
    data="d",
    generation=GENERATION,
):
    return identity.identity(
        {
            "weights": "w",
            "data": data,
            "settings": identity.settings(benchmark, model["system"], "1.14.1"),
            "generation": identity.generation(generation, benchmark),
            "backend": identity.backend(serving, model, packages),
        }
    )


@pytest.mark.parametrize(
    "change",
    [
        {"serving": SERVING | {"torch_dtype": "float16"}},
        {"serving": SERVING | {"backend": "vllm"}},
        {"serving": SERVING | {"max_model_len": 100}},
        {"serving": SERVING | {"extra": {"attn_impl": "eager"}}},
        {"model": MODEL | {"template": "llama3"}},
        {"model": MODEL | {"system": "Be kind."}},
        {"packages": PACKAGES | {"transformers": "5.12.2"}},
        {"benchmark": BENCHMARK | {"shots": 5}},
        {"benchmark": BENCHMARK | {"limit": 10}},
        {"benchmark": BENCHMARK | {"prompt": "{question}"}},
        {"benchmark": BENCHMARK | {"repeats": 2}},
        {"benchmark": BENCHMARK | {"subsets": ["a"]}},
        {"benchmark": BENCHMARK | {"generation": {"max_tokens": 64}}},
        {"data": "other"},
    ],
)
def test_changes_that_count(change):
    assert made(**change) != made()


@pytest.mark.parametrize(
    "change",
    [
        {"serving": SERVING | {"concurrency": 1, "max_batch_size": 2, "gpus": 4, "device": "cpu"}},
        {"serving": SERVING | {"ready_timeout": 9}},
        {"packages": PACKAGES | {"ruff": "1", "vllm": "9"}},
        {"benchmark": BENCHMARK | {"label": "MMLU", "note": "x", "source": "/a/path"}},
        {"benchmark": BENCHMARK | {"subsets": ["a", "b"]}},
        {"benchmark": BENCHMARK | {"generation": {"temperature": 0}}},
        {"generation": GENERATION | {"seed": 7, "top_p": 0.5}},  # at temperature 0
    ],
)
def test_changes_that_do_not_count(change):
    assert made(**change) == made()


@pytest.mark.parametrize("change", [{"seed": 7}, {"top_p": 0.5}, {"temperature": 0.9}])
def test_sampling_counts_where_something_is_drawn(change):
    warm = GENERATION | {"temperature": 0.7, "seed": 1, "top_p": 1}
    assert made(generation=warm | change) != made(generation=warm)
    assert identity.generation(warm, {}) == warm


def test_a_benchmark_of_its_own_temperature():
    """What is left out follows from the temperature that the benchmark is asked at."""
    warm = {"temperature": 0.7, "seed": 1, "top_p": 0.9}
    assert identity.generation(warm, {"generation": {"temperature": 0}}) == {"temperature": 0}
    cold = warm | {"temperature": 0}
    assert identity.generation(cold, {"generation": {"temperature": 0.7}}) == warm


def test_way_of_asking():
    """Answers are shared by whatever is asked of these weights in this way."""
    backend = identity.backend(SERVING, MODEL, PACKAGES)
    faster = identity.backend(SERVING | {"concurrency": 1}, MODEL, PACKAGES)
    assert identity.way("w", backend) == identity.way("w", faster)
    newer = identity.backend(SERVING, MODEL, PACKAGES | {"torch": "9"})
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
