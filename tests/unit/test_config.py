"""The resolved config: defaults, inheritance, seeds and sweeps, presets, subjects."""

import json
import re
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from sftflow.config import expand, jobs, resolve
from sftflow.config.schema import FOLDER, presets, read_yaml, references, schema

ROOT = FOLDER.parent
METADATA = ROOT / "envs/evalscope/.venv/lib/python3.11/site-packages/evalscope/benchmarks/_meta"


def load(text: str) -> dict:
    return resolve.load(yaml.safe_load(text))


SMALL = """
models: {base: {source: a/b, serving: {gpus: 2}}}
datasets: {talk: {source: a/d}, chat: {source: a/e}}
training: {lora_rank: 16, extra: {neftune_noise_alpha: 5}}
serving: {concurrency: 8}
generation: {max_tokens: 100}
"""


def test_an_empty_config_is_all_defaults():
    study = resolve.load({})
    assert study["training"]["lora_rank"] == 8
    assert study["training"]["learning_rate"] == 1e-4
    assert study["tracking"]["swanlab"]["mode"] == "offline"
    assert study["prompts"][0] == "你好"
    assert study["subjects"] == study["runs"] == {}
    assert study["comparisons"] == study["evaluate"]["subjects"] == []


def test_the_defaults_are_those_of_the_reports_command():
    training = resolve.load({})["training"]
    command = {
        "tuner_type": "lora",
        "torch_dtype": "bfloat16",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 4,
        "router_aux_loss_coef": 1e-3,
        "learning_rate": 1e-4,
        "lora_rank": 8,
        "lora_alpha": 32,
        "target_modules": "all-linear",
        "gradient_accumulation_steps": 4,
        "eval_steps": 100,
        "save_steps": 100,
        "save_total_limit": 3,
        "logging_steps": 20,
        "max_length": 2048,
        "warmup_ratio": 0.1,
        "dataloader_num_workers": 8,
    }
    assert training | command == training


def test_defaults_fit_their_own_schema():
    """Each default, taken as input, is allowed and changes nothing."""
    study = resolve.load({})
    sections = ("software", "stage", "languages", "training", "serving", "generation", "prompts")
    stated = {key: study[key] for key in (*sections, "tracking", "contamination", "statistics")}
    assert resolve.load(stated) == study


def test_a_run_inherits_and_overrides():
    run = load(
        SMALL
        + """
runs:
  tuned:
    model: base
    dataset: talk
    training: {lora_alpha: 64, extra: {neftune_noise_alpha: 1, max_grad_norm: 2}}
    serving: {max_batch_size: 4}
"""
    )["runs"]["tuned"]
    assert (run["training"]["lora_rank"], run["training"]["lora_alpha"]) == (16, 64)
    assert run["training"]["extra"] == {"neftune_noise_alpha": 1, "max_grad_norm": 2}
    serving = run["serving"]  # of the study, of the model, of the run
    assert (serving["concurrency"], serving["gpus"], serving["max_batch_size"]) == (8, 2, 4)
    assert (run["serve"], run["group"], run["sweep"], run["point"]) == ("merged", "tuned", None, {})
    assert run["label"] == "tuned"


def test_seeds_expand_to_runs_of_one_group():
    study = load(SMALL + "runs: {tuned: {model: base, dataset: talk, label: Tuned, seeds: [1, 7]}}")
    assert list(study["runs"]) == ["tuned-seed1", "tuned-seed7"]
    run = study["runs"]["tuned-seed7"]
    assert (run["training"]["seed"], run["group"], run["label"]) == (7, "tuned", "Tuned (seed 7)")


def test_a_sweep_expands_to_every_combination_beside_its_template():
    study = load(
        SMALL
        + """
runs: {tuned: {model: base, dataset: talk, serve: adapter, label: Tuned}}
sweeps:
  grid:
    run: tuned
    grid: {learning_rate: [1e-4, 2.0e-5], use_dora: [true], dataset: [talk, chat]}
"""
    )
    names = [
        "grid-learning_rate0.0001-use_doratrue-datasettalk",
        "grid-learning_rate0.0001-use_doratrue-datasetchat",
        "grid-learning_rate2e-05-use_doratrue-datasettalk",
        "grid-learning_rate2e-05-use_doratrue-datasetchat",
    ]
    assert list(study["runs"]) == ["tuned", *names]
    assert study["sweeps"]["grid"]["runs"] == names
    run = study["runs"][names[3]]
    assert run["point"] == {"learning_rate": 2e-5, "use_dora": True, "dataset": "chat"}
    assert (run["dataset"], run["serve"], run["sweep"]) == ("chat", "adapter", "grid")
    assert run["training"]["learning_rate"] == 2e-5 and run["training"]["lora_rank"] == 16
    assert "dataset" not in run["training"]
    assert run["label"] == names[3]


def test_a_sweep_of_a_run_with_seeds_has_both():
    study = load(
        SMALL
        + """
runs: {tuned: {model: base, dataset: talk, seeds: [1, 2]}}
sweeps: {rank: {run: tuned, grid: {lora_rank: [4]}}}
evaluate: {subjects: [base, rank]}
"""
    )
    names = ["rank-lora_rank4-seed1", "rank-lora_rank4-seed2"]
    assert study["sweeps"]["rank"]["runs"] == names
    assert study["runs"][names[0]]["group"] == "rank-lora_rank4"
    assert study["evaluate"]["subjects"] == ["base", *names]
    assert study["comparisons"] == [{"baseline": "base", "candidate": name} for name in names]


def test_seeds_in_a_grid_are_replicates_of_a_point_and_a_value_may_be_a_list():
    """A grid over `target_modules` was refused, and a seed was a key of the grid like any other."""
    study = load(
        SMALL
        + """
runs: {tuned: {model: base, dataset: talk}}
sweeps:
  layers:
    run: tuned
    grid: {seed: [1, 2], target_modules: [all-linear, [q_proj, v_proj]], max_memory_gib: [null]}
  lucky: {run: tuned, grid: {seed: [3, 4]}}
evaluate: {subjects: [base, layers, lucky]}
"""
    )
    runs = study["runs"]
    names = study["sweeps"]["layers"]["runs"]
    assert names[2] == "layers-target_modulesq_proj_v_proj-max_memory_gibnull-seed1"
    assert runs[names[2]]["group"] == names[2].removesuffix("-seed1")
    assert runs[names[2]]["training"]["target_modules"] == ["q_proj", "v_proj"]
    assert runs[names[3]]["training"]["seed"] == 2 and "seed" not in runs[names[3]]["point"]
    assert runs["lucky-seed3"]["group"] == "lucky" and runs["lucky-seed3"]["point"] == {}
    assert study["evaluate"]["subjects"] == ["base", *names, "lucky-seed3", "lucky-seed4"]


def test_a_long_list_of_a_grid_makes_no_long_name():
    modules = [f"model.layers.{place}.self_attn.q_proj" for place in range(32)]
    name = expand.plain(modules)
    assert len(name) == expand.LONG and name != expand.plain(modules[:-1])


def test_subjects_are_models_runs_and_endpoints():
    study = load(
        SMALL
        + """
runs:
  tuned: {model: base, dataset: talk, label: Tuned, serve: adapter}
  whole: {model: base, dataset: talk, training: {tuner_type: full}}
endpoints:
  cloud: {url: "https://h/v1", model: m, version: "1", serving: {concurrency: 2}}
"""
    )
    subjects = study["subjects"]
    assert {name: (subject["kind"], subject["form"]) for name, subject in subjects.items()} == {
        "base": ("model", "base"),
        "tuned": ("run", "adapter"),
        "whole": ("run", "merged"),
        "cloud": ("endpoint", "endpoint"),
    }
    assert (subjects["tuned"]["model"], subjects["tuned"]["run"]) == ("base", "tuned")
    assert subjects["tuned"]["label"] == "Tuned"
    assert subjects["cloud"]["serving"]["backend"] == "endpoint"
    assert subjects["cloud"]["serving"]["concurrency"] == 2
    assert study["evaluate"]["subjects"] == list(subjects)


def test_comparisons_default_to_every_run_against_its_base():
    runs = "runs: {tuned: {model: base, dataset: talk}}\n"
    pair = [{"baseline": "base", "candidate": "tuned"}]
    assert load(SMALL + runs)["comparisons"] == pair
    assert load(SMALL + runs + "evaluate: {subjects: [tuned]}")["comparisons"] == []
    seeds = "runs: {tuned: {model: base, dataset: talk, seeds: [1, 2]}}\n"
    chosen = "comparisons: [{baseline: tuned, candidate: base}]"
    assert load(SMALL + seeds + chosen)["comparisons"] == [
        {"baseline": "tuned-seed1", "candidate": "base"},
        {"baseline": "tuned-seed2", "candidate": "base"},
    ]


def test_a_benchmark_takes_its_preset_and_what_is_stated():
    study = load(
        SMALL
        + """
benchmarks:
  mmlu: {subsets: [professional_psychology], shots: 0, generation: {temperature: 1}}
  exam: {preset: general_mcq, source: data/exam/here}
  ceval: {hub: modelscope}
suites: {general: [gsm8k, mmlu, exam]}
"""
    )
    mmlu = study["benchmarks"]["mmlu"]
    assert (mmlu["dataset"], mmlu["config"], mmlu["eval_split"]) == ("mmlu", "all", "test")
    assert (mmlu["source"], mmlu["hub"], mmlu["shots"]) == ("cais/mmlu", "huggingface", 0)
    assert (mmlu["chance"], mmlu["published"]) == (0.25, {"professional_psychology": 612})
    assert (mmlu["suite"], mmlu["label"], mmlu["whole"]) == ("general", "MMLU", False)
    assert mmlu["generation"]["temperature"] == 1 and mmlu["generation"]["max_tokens"] == 100
    gsm8k = study["benchmarks"]["gsm8k"]  # named in a suite only
    assert (gsm8k["shots"], gsm8k["subsets"], gsm8k["whole"]) == (4, ["main"], True)
    assert gsm8k["chance"] is None
    exam = study["benchmarks"]["exam"]
    assert (exam["dataset"], exam["source"], exam["hub"]) == (
        "general_mcq",
        "data/exam/here",
        "local",
    )
    assert (exam["subsets"], exam["published"], exam["label"]) == (["default"], None, "exam")
    ceval = study["benchmarks"]["ceval"]
    assert (ceval["source"], ceval["suite"]) == ("evalscope/ceval", None)
    assert resolve.warnings(study) == [
        "datasets.talk: no run uses it",
        "datasets.chat: no run uses it",
        "benchmarks.ceval: in no suite, so it is never asked",
    ]


def test_a_commit_belongs_to_one_source_on_one_hub():
    pins = presets()["ceval"]["sources"]
    stated = {
        "": ("ceval/ceval-exam", "huggingface", pins["huggingface"]["revision"]),
        "revision: v1": ("ceval/ceval-exam", "huggingface", "v1"),
        "revision: null": ("ceval/ceval-exam", "huggingface", None),
        "hub: modelscope": ("evalscope/ceval", "modelscope", pins["modelscope"]["revision"]),
        "hub: modelscope, revision: v1": ("evalscope/ceval", "modelscope", "v1"),
        "source: my/ceval": ("my/ceval", "modelscope", None),
        "source: ceval/ceval-exam, hub: huggingface": ("ceval/ceval-exam", "huggingface", None),
        "source: ./ceval": ("./ceval", "local", None),
    }
    for text, expected in stated.items():
        entry = load(f"benchmarks: {{ceval: {{{text}}}}}")["benchmarks"]["ceval"]
        assert (entry["source"], entry["hub"], entry["revision"]) == expected, text


def test_every_published_benchmark_is_pinned_on_hugging_face():
    unpinned = set()
    for name, preset in presets().items():
        kept = preset["sources"]["huggingface"]
        if not (kept and kept["revision"]):
            unpinned.add(name)
    own = {name for name in presets() if name.startswith("general_")}
    assert unpinned - own == {"cpsyexam", "cpsyexam_multi", "emobench", "safety_bench", "iquiz"}


def test_a_source_is_local_when_it_exists_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "models: {a: {source: data/model}, b: {source: ./x}, c: {source: a/b/c}}"

    def hubs() -> list[str]:
        return [model["hub"] for model in load(text)["models"].values()]

    assert hubs() == ["modelscope", "local", "local"]
    Path("data/model").mkdir(parents=True)
    assert hubs() == ["local", "local", "local"]


def test_a_misspelt_local_file_is_not_taken_for_a_hub_id():
    text = "datasets: {a: {source: data/typo.jsonl}, b: {source: data/x.jsonl, hub: huggingface}}"
    assert [each["hub"] for each in load(text)["datasets"].values()] == ["local", "huggingface"]


@pytest.mark.parametrize("name", ["config.yaml", "internlm2_5_7b.yaml"])
def test_the_shipped_configs_are_sound(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = resolve.load(read_yaml(FOLDER / name))
    assert resolve.warnings(study) == []
    assert json.loads(json.dumps(study)) == study
    assert study["suites"]["general"] == ["gsm8k", "ceval", "cmmlu"]
    assert study["suites"]["psychology"][:4] == ["mmlu", "mmlu_pro", "mmlu_redux", "super_gpqa"]


def test_the_study_asks_what_the_report_asks():
    study = resolve.load(read_yaml(FOLDER / "internlm2_5_7b.yaml"))
    psychology = {
        name: (study["benchmarks"][name]["subsets"], study["benchmarks"][name]["shots"])
        for name in study["suites"]["psychology"]
    }
    both = ["professional_psychology", "high_school_psychology"]
    assert psychology == {
        "mmlu": (both, 0),
        "mmlu_pro": (["psychology"], 5),
        "mmlu_redux": (both, 0),
        "super_gpqa": (["Psychology"], 0),
        # what the report did not ask: psychology in the study's own language
        "cmmlu_psychology": (["professional_psychology"], 0),
        "cpsyexam": (["KG", "CA"], 0),
        "cpsyexam_multi": (["KG", "CA"], 0),
        "emobench": (["EA_zh", "EU_emotion_zh", "EU_cause_zh"], 0),
        "safety_bench": (["zh_subset"], 0),
    }
    assert study["tracking"]["swanlab"]["project"] == "multi-model-psychology"


def test_the_commented_parts_of_the_study_are_sound_too():
    """What a user uncomments must work: sweeps, an own benchmark, seeds, resources."""
    text = (FOLDER / "internlm2_5_7b.yaml").read_text(encoding="utf-8")
    start, end = text.index("# sweeps:"), text.index("\nserving:")
    sweeps = yaml.safe_load(re.sub(r"(?m)^# ?", "", text[start:end]))
    sweeps["sweeps"]["data"]["grid"]["dataset"].remove("another")
    clinic = re.search(r"(?m)^  # clinic:\n(  #   .*\n)+", text).group()
    benchmarks = yaml.safe_load(re.sub(r"(?m)^  # ?", "", clinic))
    resources = yaml.safe_load(re.sub(r"(?m)^# ?", "", text[text.index("# resources:") :]))
    study = yaml.safe_load(text) | sweeps | resources
    study["benchmarks"] |= benchmarks
    study["suites"]["psychology"].append("clinic")
    study["runs"]["internlm2.5-7b-sft"]["seeds"] = [42, 43, 44]
    assert len(resolve.load(study)["runs"]) == 3 * (1 + 4 + 3 + 1)


@pytest.mark.parametrize("name", ["config", "benchmarks", "references"])
def test_the_schemas_are_sound(name):
    sound = read_yaml(FOLDER / f"schemas/{name}.schema.yaml")
    jsonschema.Draft202012Validator.check_schema(sound)
    if name != "config":
        jsonschema.validate(read_yaml(FOLDER / f"{name}.yaml"), sound)


def test_every_key_is_described_and_no_map_is_open():
    """Open maps are named ones, and those that pass flags through."""

    def walk(path, node):
        if "$ref" in node:
            return
        assert "description" in node or not path or path.endswith("[]"), path
        if node.get("type") == "object" and not path.endswith((".extra", ".grid", ".extra_body")):
            assert "additionalProperties" in node, path
            closed = node["additionalProperties"] is False or "propertyNames" in node
            assert closed or "names" in node, path
        for key, below in node.get("properties", {}).items():
            walk(f"{path}.{key}", below)
        if isinstance(node.get("additionalProperties"), dict) and "names" in node:
            walk(f"{path}[]", node["additionalProperties"])

    walk("", schema())


def test_a_step_that_takes_resources_is_a_rule():
    rules = "\n".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    asked = set(re.findall(r'\b(?:ask|memory|minutes)\("(\w+)"', rules))
    assert asked == set(schema()["properties"]["resources"]["propertyNames"]["enum"])


def test_references_name_presets():
    assert {name for figures in references().values() for name in figures} <= set(presets())


@pytest.mark.skipif(not METADATA.exists(), reason="envs/evalscope is not synced")
@pytest.mark.parametrize(
    "name", [n for n, preset in presets().items() if preset["dataset"] == n and preset["subsets"]]
)
def test_a_preset_says_what_evalscope_says(name):
    known = json.loads((METADATA / f"{name}.json").read_text(encoding="utf-8"))
    preset, meta = presets()[name], known["meta"]
    assert preset["sources"]["modelscope"]["id"] == meta["dataset_id"]
    assert preset["shots"] == meta["few_shot_num"]
    assert preset["eval_split"] == meta["eval_split"]
    assert preset["few_shot_split"] == (meta["train_split"] or None)
    assert sorted(preset["subsets"]) == sorted(meta["subset_list"])
    counts = {row["name"]: row["sample_count"] for row in known["statistics"]["subset_stats"]}
    assert preset["subsets"] == counts


def test_a_thousand_subjects_are_resolved_in_a_moment():
    """Every Snakemake process, also that of each job, loads the config anew."""
    raw = {
        "models": {"base": {"source": "a/b"}},
        "datasets": {"talk": {"source": "a/d"}},
        "runs": {
            f"r{i}": {"model": "base", "dataset": "talk", "training": {"lora_rank": i + 1}}
            for i in range(1000)
        },
        "suites": {"all": list(presets())[:7]},
    }
    resolve.load({})  # the schema is read once
    begun = time.process_time()
    assert len(resolve.load(raw)["subjects"]) == 1001
    assert time.process_time() - begun < 0.5  # about 0.09 s on an idle core


@pytest.mark.parametrize(
    ("rule", "section", "keys"),
    [
        ("fetch_dataset", "datasets", {"source", "revision"}),
        ("prepare_dataset", "datasets", {"validation_share", "split_seed", "reasoning"}),
        ("fetch_model", "models", {"source", "revision"}),
        ("fetch_benchmark", "benchmarks", {"source", "revision"}),
        ("find_contamination", "contamination", {"threshold", "min_words"}),
        ("tokenize_run", "runs", {"dataset", "model"}),
    ],
)
def test_changes_that_were_never_seen_as_stale_decide(rule, section, keys):
    assert keys <= set(jobs.deciding(rule, section))


def test_what_changes_no_row_that_is_kept_decides_nothing():
    assert "max_bad_share" not in jobs.deciding("prepare_dataset", "datasets")
