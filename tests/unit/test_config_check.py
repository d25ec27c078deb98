"""Every error in a config says where, what, and what to do; all of them at once."""

import copy
import random

import pytest
import yaml
from sftflow.config import resolve
from sftflow.core.cli import UserError

STUDY = """
models: {base: {source: a/b}, other: {source: a/c}}
datasets: {talk: {source: a/d}, chat: {source: a/e}}
runs:
  tuned: {model: base, dataset: talk}
  many: {model: base, dataset: talk, seeds: [1, 2]}
endpoints: {cloud: {url: "https://host/v1", model: big, version: "1"}}
benchmarks: {mmlu: {subsets: [professional_psychology]}}
suites: {general: [gsm8k], psychology: [mmlu]}
"""


def study(changes: str = "{}") -> dict:
    """The study above with changes merged into it; a value of "-" takes a key away."""

    def merge(old: dict, new: dict) -> dict:
        merged = dict(old)
        for key, value in new.items():
            both = isinstance(value, dict) and isinstance(old.get(key), dict)
            merged[key] = merge(old[key], value) if both else value
        return {key: value for key, value in merged.items() if value != "-"}

    return merge(yaml.safe_load(STUDY), yaml.safe_load(changes))


def test_a_sound_study_has_no_errors():
    assert resolve.check(study()) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        # form
        ("modles: {}", "modles: unknown key; did you mean 'models'?"),
        ("runs: {tuned: {hardware: 1}}", "runs.tuned.hardware: unknown key; valid: model, dataset"),
        ("models: {base: {sorce: x}}", "models.base.sorce: unknown key; did you mean 'source'?"),
        ("lora_rank: 4", "lora_rank: unknown key; it belongs under 'training:'"),
        ("runs: {tuned: {lora_rank: 4}}", "runs.tuned.lora_rank: unknown key; it belongs under"),
        ("training: {train_type: lora}", "training.train_type: is called 'tuner_type' here"),
        ("benchmarks: {mmlu: {few_shot_num: 5}}", "few_shot_num: is called 'shots' here"),
        ("models: {base: {source: '-'}}", "models.base.source: is missing. A local folder"),
        ("runs: {tuned: {model: '-'}}", "runs.tuned.model: is missing. Base model"),
        ("training: {lora_rank: eight}", "training.lora_rank: must be a whole number, not 'eight'"),
        ("training: {lora_rank: true}", "training.lora_rank: must be a whole number, not true"),
        ("training: {use_dora: 1}", "training.use_dora: must be true or false, not 1"),
        ("suites: [mmlu]", "suites: must be a map (key: value), not ['mmlu']"),
        ("models: {base: {revision: 1234567}}", "must be a text or null, not 1234567; put it in q"),
        ("training: {lora_rank: 0}", "training.lora_rank: must be at least 1, not 0"),
        ("training: {warmup_ratio: 2}", "training.warmup_ratio: must be at most 1, not 2"),
        ("training: {learning_rate: 0}", "training.learning_rate: must be greater than 0, not 0"),
        ("training: {lora_dropout: 1}", "training.lora_dropout: must be less than 1, not 1"),
        ("software: manged", "software: unknown value 'manged'; did you mean 'managed'?"),
        ("training: {use_liger_kernel: 7}", "unknown value 7; valid: auto, true, false"),
        ("prompts: []", "prompts: must not be empty; fill it in or leave the key out"),
        ("suites: {general: [gsm8k, gsm8k]}", "suites.general: lists 'gsm8k' twice; list it once"),
        ("models: {a/b: {source: x}}", "models.a/b: can't be a name; use letters, digits,"),
        ("resources: {trian_run: {}}", "resources.trian_run: unknown name; did you mean 'train_ru"),
        ("endpoints: {cloud: {url: host}}", "endpoints.cloud.url: must be an address such as http"),
        ("endpoints: {cloud: {url: 'http://me:pw@h'}}", "without user name or password"),
        ("endpoints: {cloud: {headers: {'a b': c}}}", "can't be a name; use a header's name"),
        ("endpoints: {cloud: {headers: {X: 1}}}", "headers.X: must be a text"),
        ("endpoints: {cloud: {omit: [sed]}}", "did you mean 'seed'"),
        ("endpoints: {cloud: {extra_body: {model: x}}}", "what the workflow does not send itself"),
        ("endpoints: {cloud: {extra_body: {seed: 1}}}", "extra_body.seed: set generation.seed, or"),
        ("endpoints: {cloud: {timeout: 0}}", "timeout: must be greater than 0"),
        ("models: {base: {thinking: maybe}}", "thinking: must be true"),
        ("endpoints: {cloud: {key_env: a-key}}", "key_env: must be the NAME of an environment var"),
        # names that refer to something
        ("runs: {tuned: {model: bass}}", "'bass' is not defined under 'models:'; did you mean 'ba"),
        ("runs: {tuned: {dataset: tlk}}", "runs.tuned.dataset: 'tlk' is not defined under 'datase"),
        ("models: {base: {reference: qwen}}", "'qwen' is not in config/references.yaml; valid:"),
        ("sweeps: {s: {run: tund, grid: {seed: [1]}}}", "'tund' is not defined under 'runs:'; did"),
        ("sweeps: {s: {run: tuned, grid: {rank: [1]}}}", "sweeps.s.grid.rank: unknown key"),
        ("sweeps: {s: {run: tuned, grid: {lora_rank: [2, 0]}}}", "grid.lora_rank[1]: must be at l"),
        ("sweeps: {s: {run: tuned, grid: {dataset: [x]}}}", "grid.dataset[0]: 'x' is not defined"),
        (
            "sweeps: {s: {run: tuned, grid: {lora_rank: [2, 4, 8]}, halving: {factor: 1}}}",
            "sweeps.s.halving.factor: must be at least 2, not 1",
        ),
        (
            "sweeps: {s: {run: tuned, grid: {lora_rank: [2, 4, 8]}, halving: true}}",
            "sweeps.s.halving: must be a map (key: value), not true",
        ),
        (
            "sweeps: {s: {run: tuned, grid: {lora_rank: [2, 4], seed: [1, 2]}, halving: {}}}",
            "sweeps.s.halving: the last of 2 rungs would find one point of 2, and nothing to "
            "choose; write fewer rungs, or more values in the grid",
        ),
        (
            "sweeps: {s: {run: tuned, grid: {max_length: [64, 128, 256]}, halving: {}}}",
            "sweeps.s.halving: chooses by validation loss, which does not compare between values "
            "of max_length; leave max_length out of the grid, or halving out of the sweep",
        ),
        (
            "{sweeps: {s: {run: tuned, grid: {lora_rank: [2, 4, 8]}, halving: {}}}, "
            "datasets: {talk: {validation_share: 0}}}",
            "sweeps.s.halving: chooses by validation loss, and datasets.talk.validation_share is 0",
        ),
        (
            "{sweeps: {s: {run: tuned, grid: {lora_rank: [2, 4, 8]}, halving: {}}}, "
            "comparisons: [{baseline: base, candidate: s-lora_rank2}]}",
            "comparisons[0].candidate: whether 's-lora_rank2' is trained to its end, "
            "sweeps.s.halving decides; name the sweep 's', or leave its halving out",
        ),
        ("sweeps: {s: {run: many, grid: {seed: [3]}}}", "run 'many' has 'seeds'; leave one of the"),
        ("suites: {general: [gsm9k]}", "'gsm9k' is neither a benchmark nor a preset; did you mean"),
        ("suites: {general: [general_mcq]}", "'general_mcq' is neither a benchmark nor a preset"),
        ("benchmarks: {x: {source: a/b}}", "benchmarks.x.preset: 'x' is not in config/benchmarks"),
        ("benchmarks: {x: {preset: general_mcq}}", "benchmarks.x.source: is missing; preset 'gene"),
        (
            "benchmarks: {cmmlu: {hub: local}}",
            "source: is missing; preset 'cmmlu' has none on hub 'loc",
        ),
        ("benchmarks: {mmlu: {subsets: [psycholgy]}}", "'psycholgy' is no subset of 'mmlu'; did"),
        ("benchmarks: {super_gpqa: {shots: 3}}", "'super_gpqa' can't show 3 examples; valid: 0, 5"),
        ("evaluate: {subjects: [tund]}", "'tund' is no model, run or endpoint; did you mean 'tun"),
        ("evaluate: {suites: [generl]}", "evaluate.suites: 'generl' is not defined under 'suites:"),
        ("comparisons: [{baseline: base, candidate: x}]", "comparisons[0].candidate: 'x' is no mo"),
        # what contradicts itself
        ("runs: {base: {model: base, dataset: talk}}", "'base' is taken by models.base; rename"),
        (
            "endpoints: {many-seed1: {url: 'http://h', model: m, version: v}}",
            "is taken by runs.many; rename",
        ),
        (
            "sweeps: {tuned: {run: tuned, grid: {seed: [1]}}}",
            "'tuned' is taken by runs.tuned; rename",
        ),
        ("models: {many: {source: a/b}}", "runs.many: 'many' is taken by models.many; rename"),
        (
            "sweeps: {s: {run: tuned, grid: {target_modules: [a/b, a_b]}}}",
            "is taken by sweeps.s; rename o",
        ),
        ("suites: {psychology: [gsm8k]}", "'gsm8k' is already in suite 'general'; keep it in one"),
        ("suites: {training: [ceval]}", "suites.training: results/tables/training.md is another"),
        ("runs: {many: {training: {seed: 1}}}", "runs.many.training.seed: 'seeds' says it already"),
        ("training: {tuner_type: full}\nruns: {tuned: {serve: adapter}}", "has no adapter; write"),
        ("comparisons: [{baseline: base, candidate: base}]", "'base' is compared with itself"),
        (
            "evaluate: {subjects: [base]}\ncomparisons: [{baseline: base, candidate: tuned}]",
            "comparisons[0].candidate: 'tuned' is not evaluated; add it to evaluate.subjects",
        ),
        (
            "runs: {tuned: {training: {gpus: 3}}}",
            "gradient_accumulation_steps 4 is no multiple of gpus 3",
        ),
        *(
            (f"runs: {{tuned: {{training: {{precision: fp8, {key}: {value}}}}}}}", line)
            for key, value, line in (
                ("device", "cpu", "runs.tuned: precision fp8 needs a GPU: device is cpu"),
                ("tuner_type", "full", "rounds a frozen base: tuner_type is full, not lora"),
                ("torch_dtype", "float16", "needs torch_dtype bfloat16, not float16"),
                ("fused_lora", "false", "is a part of fused_lora, which is false"),
                ("extra", "{quant_method: bnb}", "needs a base that is not quantised"),
            )
        ),
        # flags that are passed through
        ("training: {extra: {lora_rank: 4}}", "has a key of its own; write training.lora_rank"),
        ("training: {extra: {train_type: lora}}", "is called 'tuner_type' here; write training.tu"),
        (
            "training: {extra: {bf16: true}}",
            "extra.bf16: follows from training.torch_dtype; set that",
        ),
        (
            "training: {extra: {output_dir: x}}",
            "output_dir: is set by the workflow, which knows",
        ),
        ("runs: {tuned: {training: {extra: {model: x}}}}", "follows from runs.<run>.model; set th"),
        ("runs: {tuned: {training: {extra: {dtype: x}}}}", "write runs.tuned.training.torch_dtype"),
        ("training: {extra: {deepspeed_config_path: x}}", "is called 'deepspeed' in this version"),
        (
            "training: {extra: {val_dataset: x}}",
            "follows from datasets.<dataset>.validation_share",
        ),
        ("training: {dtype: bfloat16}", "training.dtype: is called 'torch_dtype' here"),
        ("serving: {max_num_seqs: 3}", "serving.max_num_seqs: is called 'max_batch_size' here"),
        ("runs: {tuned: {model_id_or_path: x}}", "model_id_or_path: is called 'model' here"),
    ],
)
def test_one_error_is_one_line(changes, line):
    (found,) = resolve.check(study(changes))
    assert line in found


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ("tracking: {swanlab: {token: CANARY}}", "export SWANLAB_API_KEY instead"),
        ("training: {extra: {swanlab_token: CANARY}}", "training.extra.swanlab_token: a secret"),
        ("training: {extra: {hub_token: CANARY}}", "training.extra.hub_token: a secret does not"),
        ("endpoints: {cloud: {api_key: CANARY}}", "name that variable in key_env"),
        ("endpoints: {cloud: {headers: {api-key: CANARY}}}", "headers.api-key: a secret does not"),
        ("endpoints: {cloud: {headers: {Authorization: Bearer CANARY}}}", "NAME and write $NAME"),
        ("endpoints: {cloud: {headers: {Cookie: CANARY}}}", "headers.Cookie: a secret does not"),
        ("endpoints: {cloud: {key_env: sk-CANARYCANARYCANARY}}", "cloud.key_env: a secret does no"),
        ("models: {base: {revision: hf_CANARYCANARYCANARY}}", "models.base.revision: a secret doe"),
        ("software: hf_CANARYCANARYCANARY", "software: unknown value (a secret)"),
        ("password: CANARY", "password: a secret does not belong in a config"),
    ],
)
def test_a_secret_is_refused_and_never_shown(changes, line):
    found = "\n".join(resolve.check(study(changes)))
    assert line in found
    assert "CANARY" not in found


def test_all_errors_are_told_at_once_and_none_hides_another():
    wrong = """
    software: manged
    models: {base: {sorce: x, native_form: lama}}
    training: {lora_rank: eight, extra: {output_dir: x}}
    runs: {tuned: {model: bass}}
    comparisons: [{baseline: base, candidat: tuned}]
    suites: {psychology: [mmlu, gsm8k]}
    """
    with pytest.raises(UserError) as error:
        resolve.load(study(wrong))
    first, *lines, last = str(error.value).splitlines()
    assert first == "the config has 9 errors:"
    assert {line.split(":")[0].strip() for line in lines} == {
        "software",
        "models.base.sorce",
        "models.base.native_form",
        "training.lora_rank",
        "training.extra.output_dir",
        "runs.tuned.model",
        "comparisons[0].candidat",
        "comparisons[0].candidate",
        "suites.psychology",
    }
    assert "config/README.md" in last


def prompt(preset: str, template: str) -> list[str]:
    asked = {"preset": preset, "source": "a/b", "prompt": template}
    return resolve.check(study() | {"benchmarks": {"own": asked}, "suites": {"s": ["own"]}})


CHOICE = "{question}\n{choices}\nEnd with ANSWER: and one of {letters}."


@pytest.mark.parametrize("preset", resolve.presets())
def test_a_prompt_works_or_is_refused_with_its_reason(preset):
    """tests/faults/test_benchmarks_asked.py asks those that work with the real evalscope."""
    about = resolve.presets()[preset]
    template = CHOICE if about["answer"] == "multiple_choice" else "{question} End with a number."
    if about["prompt"] is True:
        assert prompt(preset, template) == []
    else:
        (found,) = prompt(preset, template)
        assert found.startswith(f"benchmarks.own.prompt: {about['label']} can have no other prompt")
        assert about["prompt"] in found


def test_presets_without_a_prompt_of_the_users():
    refused = {name for name, preset in resolve.presets().items() if preset["prompt"] is not True}
    assert refused == {"ceval", "cmmlu", "general_qa", "ifeval"}


@pytest.mark.parametrize(
    ("preset", "template", "line"),
    [
        ("mmlu", "{question} ANSWER:", "{choices} is missing, where evalscope puts the choices"),
        ("mmlu", CHOICE + "{subject}", "{subject} is no place-holder (those are {question}, {cho"),
        ("mmlu", CHOICE + "{}", "{} is no place-holder"),
        ("mmlu", CHOICE + "}", "write {{ and }} for braces that are no place-holder"),
        (
            "general_mcq",
            "{question} {choices} 答案：",
            'must ask for the answer in the form "ANSWER',
        ),
        ("gsm8k", "{question} in \\\\boxed{x}", "{x} is no place-holder (those are {question});"),
        ("gsm8k", "Count.", "{question} is missing"),
    ],
)
def test_a_prompt_that_evalscope_could_not_fill_or_read(preset, template, line):
    (found,) = prompt(preset, template)
    assert line in found
    assert prompt("gsm8k", "{question} in \\boxed{{}}") == []


def test_several_right_options_are_for_own_questions():
    own = {"source": "a/b", "multiple_correct": True}
    one = study() | {"benchmarks": {"mmlu": own}, "suites": {"s": ["mmlu"]}}
    (found,) = resolve.check(one)
    assert found == "benchmarks.mmlu.multiple_correct: 'mmlu' has one right option; leave it out"
    one["benchmarks"]["mmlu"]["preset"] = "general_mcq"
    assert resolve.check(one) == []


WARM = "generation: {temperature: 0.7}\nbenchmarks: {mmlu: {repeats: 3}}\n"


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ("", "base, many-seed1, many-seed2, other, tuned"),
        ("serving: {backend: vllm}", None),
        ("evaluate: {subjects: [cloud]}", None),
        ("evaluate: {subjects: [base, cloud]}", "base"),
        ("evaluate: {subjects: [many]}\nmodels: {base: {serving: {backend: vllm}}}", None),
        ("serving: {backend: vllm}\nruns: {tuned: {serving: {backend: transformers}}}", "tuned"),
        ("benchmarks: {mmlu: {repeats: 3, generation: {temperature: 0}}}", None),
        ("benchmarks: {mmlu: {repeats: 1}}", None),
    ],
)
def test_repeats_need_a_backend_that_heeds_seeds(changes, refused):
    config = study(WARM)
    for key, value in yaml.safe_load(changes or "{}").items():
        old = config.get(key, {})
        config[key] = old | {
            name: {**old.get(name, {}), **new} if isinstance(new, dict) else new
            for name, new in value.items()
        }
    found = resolve.check(config)
    assert len(found) == (refused is not None)
    if refused:
        assert f"transformers, which serves {refused}, never reads a seed" in found[0]


def test_what_yaml_makes_of_honest_input_is_forgiven():
    """An empty section, a number as 1e-4, an entry with nothing to state."""
    forgiven = study("{training: {learning_rate: 2e-4}, sweeps: , comparisons: }")
    forgiven["benchmarks"]["ceval"] = None
    forgiven["training"]["weight_decay"] = None
    resolved = resolve.load(forgiven)
    assert resolved["training"]["learning_rate"] == 0.0002
    assert resolved["training"]["weight_decay"] == 0.1
    assert resolved["benchmarks"]["ceval"]["shots"] == 5
    assert resolved["comparisons"]


def test_junk_anywhere_is_an_error_and_never_a_crash():
    """1,000 studies with one to three nodes replaced; what passes the check can be resolved."""
    sweeps = """
    sweeps: {rank: {run: tuned, grid: {lora_rank: [4], gpus: [1, 2], dataset: [talk]}}}
    training: {extra: {neftune_noise_alpha: 5}}
    evaluate: {subjects: [base, tuned, rank]}
    comparisons: [{baseline: base, candidate: tuned}]
    tracking: {swanlab: {mode: local}}
    resources: {train_run: {mem_mb: 1000}}
    """
    whole = study(sweeps)
    junk = [None, True, 0, -1, 2.5, "", "x", "1e-4", [], [None], ["x"], [[]], {}, {"x": {}}, {1: 2}]
    rng = random.Random(0)

    def spoil(node):
        """Replace one node somewhere below `node`."""
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
            spoil(node[key])
        else:
            node[key] = copy.deepcopy(rng.choice(junk))

    sound = 0
    for _ in range(1000):
        spoilt = copy.deepcopy(whole)
        for _ in range(rng.randint(1, 3)):
            spoil(spoilt)
        if not resolve.check(spoilt):
            resolve.resolve(spoilt)
            sound += 1
    assert 0 < sound < 500
