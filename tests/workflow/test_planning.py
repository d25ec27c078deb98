"""What snakemake plans, and refuses, before anything runs: a wrong plan costs GPU hours."""

import os
import re
import time
from pathlib import Path

import made_up
import pytest
import yaml
from sftflow.config import resolve
from sftflow.config.reading import merge
from sftflow.core import handover
from sftflow.core.jsonio import write_record
from support import jobs, stand_in_cards

STUDY = "config/internlm2_5_7b.yaml"


def test_demo_is_the_default_and_plans_every_stage(untouched, snakemake):
    """`snakemake` alone must plan the whole demo, from data to report."""
    planned = snakemake(untouched, "-n")
    assert planned.returncode == 0, planned.stdout
    stages = {"prepare_dataset", "train_run", "merge_run", "serve_subject", "evaluate_suite"}
    assert stages | {"score_suite", "tables", "report", "plan"} <= set(jobs(planned.stdout))


def test_real_study_plans_and_holds_nothing_of_the_demo(untouched, snakemake):
    """A user's config replaces the demo. Merged with it, the demo's model would be trained too."""
    planned = snakemake(untouched, "-n", "--configfile", STUDY)
    assert planned.returncode == 0, planned.stdout
    study = yaml.safe_load((untouched / STUDY).read_text(encoding="utf-8"))
    subjects = len(study["models"]) + len(study["runs"])
    assert jobs(planned.stdout)["serve_subject"] == subjects
    assert jobs(planned.stdout)["evaluate_suite"] == subjects * len(study["suites"])
    assert "tiny" not in planned.stdout


@pytest.mark.parametrize(
    ("stated", "limit"),
    [((), 2), pytest.param(("--resources", "gpu=1"), 1, marks=pytest.mark.slow)],
)
def test_no_more_gpus_are_given_than_there_are(workflow, snakemake, tmp_path, stated, limit):
    env = os.environ | stand_in_cards(tmp_path / "faked")
    done = snakemake(workflow, "usage", *stated, env=env)
    assert done.returncode == 0, done.stdout
    assert f'Resource("gpu", {limit})' in done.stdout


SWEEPS = {"rank_alpha": 27, "length": 6, "dataset": 4, "models": 4}  # trainings of each


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name != "dataset" else ()) for name in SWEEPS],
)
def test_shipped_sweeps_plan_their_grids_on_top_of_the_study(untouched, snakemake, name):
    """What is shipped as an example must at least plan, with every training that it promises."""
    files = STUDY, f"config/sweeps/{name}.yaml"
    planned = snakemake(untouched, "-n", "-q", "rules", "--configfile", *files)
    assert planned.returncode == 0, planned.stdout
    assert {path.stem for path in (untouched / "config/sweeps").glob("*.yaml")} == set(SWEEPS)
    assert jobs(planned.stdout)["train_run"] == 1 + SWEEPS[name]


@pytest.mark.slow
def test_a_sweep_with_halving_plans_its_rungs_and_then_who_goes_on(workflow, snakemake):
    """The first command must not train to the end what the second would leave out."""
    files = [workflow / STUDY, workflow / "config/sweeps/rank_alpha.yaml"]
    shipped = files[1].read_text(encoding="utf-8")
    files[1].write_text(shipped.replace("# halving:", "halving:"), encoding="utf-8")
    arguments = "-n", "-q", "rules", "--configfile", *map(str, files)
    planned = snakemake(workflow, *arguments)
    assert planned.returncode == 0, planned.stdout
    count = jobs(planned.stdout)
    assert count == count | {"train_rung": 2 * 27, "halve_sweep": 2, "tokenize_run": 28, "plan": 1}
    assert not {"train_run", "merge_run", "serve_subject", "report"} & count.keys()
    asked = jobs(snakemake(workflow, *arguments[3:], "-n", "report").stdout)
    assert (asked["train_rung"], asked["train_run"]) == (2 * 27, 1), "of the run that it varies"

    raw = merge(*(yaml.safe_load(path.read_text(encoding="utf-8")) for path in files))
    study = resolve.load(raw)
    loss = {run: float(place) for place, run in enumerate(study["contenders"])}
    best = list(loss)
    rungs = {4: {run: loss[run] for run in best[:27]}, 2: {run: loss[run] for run in best[:15]}}
    made_up.write_halving(workflow / "results", raw, "rank_alpha", rungs)
    planned = snakemake(workflow, *arguments)
    assert planned.returncode == 0, planned.stdout
    count = jobs(planned.stdout)
    assert (count["train_run"], count["merge_run"]) == (1 + 3 * 3, 3 * 3)
    assert count["evaluate_suite"] == len(study["suites"]) * (1 + 3 * 3)


# What a job asks of a cluster, as its message.
ASKS = """
configfile: "config/internlm2_5_7b.yaml"

module study:
    snakefile: "Snakefile"
    config: config

use rule * from study
"""
SHOWN = "{resources.mem_mb} {resources.nodes} {resources.slurm_partition}"


def test_jobs_ask_for_what_their_model_needs_in_one_node_of_the_right_queue(workflow, snakemake):
    """A job without a GPU waits behind nobody's cards, cards of two nodes are of no use to one
    job, and 70 billion parameters do not fit where 7 do."""
    manifest = {"files": [{"path": "model.safetensors", "size": 140 * 10**9}]}
    for model in yaml.safe_load((workflow / STUDY).read_text(encoding="utf-8"))["models"]:
        write_record(workflow / f"results/models/{model}/manifest.json", manifest)
    rules = ["prepare_dataset", "train_run"]
    own = [
        f'use rule {rule} from study as {rule} with:\n    message: "{rule} asks {SHOWN}"\n'
        for rule in rules
    ]
    (workflow / "asks.smk").write_text("\n".join([ASKS, *own]), encoding="utf-8")
    profile = yaml.safe_load((workflow / "profiles/slurm/config.yaml").read_text(encoding="utf-8"))
    queues = ["slurm_partition='cpu'", "gpu_partition='cards'"]
    planned = snakemake(
        workflow, "-n", "train", "--snakefile", "asks.smk",
        "--default-resources", *profile["default-resources"], *queues,
    )  # fmt: skip
    assert planned.returncode == 0, planned.stdout
    asked = re.findall(r"(\w+) asks (.+)", planned.stdout)
    assert dict(asked) == {
        "prepare_dataset": "2000 1 cpu",
        "train_run": f"{16_000 + 3 * 140_000} 1 cards",
    }


ON_NODES = """
answer_dialogues evaluate_suite find_contamination judge_crisis judge_pair measure_curve
measure_likelihood merge_run native_model prepare_dataset restore_merged serve_subject
tokenize_run train_rung train_run
""".split()


def test_what_takes_seconds_is_no_job_of_a_cluster(untouched):
    """300 runs had 2,700 jobs for their scores alone."""
    rules = "\n".join(path.read_text(encoding="utf-8") for path in untouched.glob("rules/*.smk"))
    texts = re.split(r"^rule (\w+):", rules, flags=re.M)[1:]
    sent = {
        name
        for name, text in zip(texts[::2], texts[1::2], strict=True)
        if "localrule: True" not in text.partition("\n\n\n")[0]
    }
    assert sent == set(ON_NODES)


@pytest.mark.slow
def test_rows_are_tokenized_while_weights_are_brought_into_form(untouched, snakemake):
    """15 GB are rewritten in half a minute, in which a card would stand still."""
    count = jobs(snakemake(untouched, "-n", "results/runs/tiny-sft/receipt.json").stdout)
    assert "native_tokenizer" in count and "native_model" not in count


@pytest.mark.parametrize(
    ("cards", "first"),
    [pytest.param(1, "serve_subject", marks=pytest.mark.slow), (2, "train_run")],
)
def test_what_a_free_card_is_given_to(workflow, snakemake, cards, first):
    """With a card to spare the training begins at once; with one, what is wrong with asking is seen
    before the hours that training takes."""
    for path in workflow.glob("rules/*.smk"):  # of jobs with a message no priority is shown
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"^    message:\n.+\n", "", text, flags=re.M), encoding="utf-8")
    planned = snakemake(workflow, "-n", "--resources", f"gpu={cards}")
    assert planned.returncode == 0, planned.stdout
    told = re.findall(r"^rule (\w+):\n((?:    .+\n)+)", planned.stdout, re.M)
    urgency = {rule: int((re.findall(r"priority: (\d+)", text) or [0])[0]) for rule, text in told}
    assert max(("serve_subject", "train_run"), key=urgency.__getitem__) == first
    assert urgency["merge_run"] > urgency["measure_curve"]


def test_who_has_its_answers_already_waits_for_no_card(workflow, snakemake, monkeypatch):
    """Scoring 4,000 answers takes 20 s, in which a card stood still, once for each suite."""
    rule = "use rule evaluate_suite from study as evaluate_suite with:\n"
    shown = '    message: "{wildcards.subject} {wildcards.suite} asks {resources.gpu}"\n'
    (workflow / "asks.smk").write_text(f"{ASKS}\n{rule}{shown}", encoding="utf-8")
    monkeypatch.chdir(workflow)
    planned = workflow / "planned.json"
    monkeypatch.setenv(handover.PLANNED, str(planned))
    planned.write_text("[]")
    handover.tell_asked("results/evaluations/qwen2.5-7b-instruct/general.json")

    def gpus() -> dict[str, str]:
        told = snakemake(workflow, "-n", "--snakefile", "asks.smk", "tables").stdout
        return dict(re.findall(r"(\S+ \w+) asks (\d)", told))

    everyone = gpus() | {"qwen2.5-7b-instruct general": "1"}
    assert set(everyone.values()) == {"1"} and len(everyone) == 9
    assert gpus() == everyone | {"qwen2.5-7b-instruct general": "0"}
    later = time.time() + 10  # it was another run of Snakemake that has asked
    os.utime(planned, (later, later))
    assert gpus() == everyone


@pytest.mark.parametrize(
    "targets", ["plan data", pytest.param("train", marks=pytest.mark.slow), "tables report"]
)
def test_named_targets(untouched, snakemake, targets):
    """The targets of the README exist, and each asks for no more than it needs."""
    planned = snakemake(untouched, "-n", *targets.split())
    assert planned.returncode == 0, planned.stdout
    count = jobs(planned.stdout)
    assert ("train_run" in count) == (targets != "plan data")
    assert ("serve_subject" in count) == (targets == "tables report")


def test_every_error_is_told_before_any_job(workflow, snakemake):
    """Someone with three mistakes must not find them one run at a time."""
    config = workflow / "config/config.yaml"
    broken = yaml.safe_load(config.read_text(encoding="utf-8"))
    broken["runs"]["tiny-sft"]["dataset"] = "psycology"
    broken["training"]["lora_rang"] = 8
    broken["suites"]["general"].append("gsm9k")
    config.write_text(yaml.safe_dump(broken), encoding="utf-8")
    refused = snakemake(workflow)
    assert refused.returncode != 0
    for told in ("psycology", "lora_rank", "gsm9k"):
        assert told in refused.stdout
    assert not (workflow / "results/environments").exists()


def test_reporting_alone_plans_nothing_upstream(untouched, snakemake):
    """stage=report on a machine without GPU, data or weights must never start a training."""
    planned = snakemake(untouched, "-n", "--config", "stage=report")
    assert planned.returncode == 0, planned.stdout
    assert set(jobs(planned.stdout)) <= {
        *("all", "write_study", "plan", "data", "train", "tables", "report", "cards", "total")
    }


def test_every_rule_says_what_it_does_and_needs(untouched):
    """A rule without log, message or resources fails on a cluster in ways that nobody can read."""
    for path in sorted(Path(untouched, "rules").glob("*.smk")):
        for rule in re.split(r"^rule ", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
            for directive in ("log:", "message:", "threads:", "resources:", "conda:"):
                assert f"    {directive}" in rule, (
                    f"{path.name}: {rule.splitlines()[0]} {directive}"
                )
