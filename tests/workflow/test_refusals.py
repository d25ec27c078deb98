"""What snakemake refuses before it plans anything: configs that can't be read or meant, targets."""

import os

import pytest
import yaml

DEMO = "config/config.yaml"


def told(snakemake, folder, *arguments: str, **options) -> str:
    """What a refused `snakemake -n` says; nothing is planned, and no traceback shown."""
    refused = snakemake(folder, "-n", *arguments, **options)
    assert refused.returncode == 1, refused.stdout
    assert "Building DAG" not in refused.stdout
    assert "Traceback" not in refused.stdout
    return refused.stdout


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"prompts: [Can you sleep?]\n", "line 1, column 24: expected ',' or ']', but got '?'"),
        ("prompts: [我睡不着怎么办]\n".encode("gbk"), "iconv -f GBK -t UTF-8"),
    ],
)
def test_a_file_that_can_not_be_read(workflow, snakemake, content, line):
    """Snakemake reads --configfile before the Snakefile; and the default profile before that."""
    (workflow / "my study.yaml").write_bytes(content)
    text = told(snakemake, workflow, "--configfile", DEMO, "my study.yaml")
    assert "error: my study.yaml" in text and line in text


def test_the_demo_in_a_clone_elsewhere_that_can_not_be_read(workflow, snakemake):
    (workflow / DEMO).write_text("prompts: [Can you sleep?]")
    snakefile = str(workflow / "Snakefile")
    text = told(snakemake, workflow / "config", "--snakefile", snakefile)
    assert f"{workflow / DEMO}, line 1, column 24: expected ',' or ']'" in text


def test_what_stands_twice_is_told_with_both_lines_beside_all_other_errors(workflow, snakemake):
    text = (workflow / DEMO).read_text(encoding="utf-8")
    begin = text.index("  tiny-sft:")
    again = text[begin : text.index("\n\n", begin) + 1]
    (workflow / DEMO).write_text(
        text.replace(again, again + again).replace("loss", "lozz") + "x: 1"
    )
    first = text[:begin].count("\n") + 1
    second = first + again.count("\n")
    refused = told(snakemake, workflow)
    assert "the config has 2 errors:" in refused
    assert f"{DEMO}, line {second}: 'runs.tiny-sft' stands in line {first} already" in refused
    assert "x: unknown key" in refused


NO_GPU = {"env": os.environ | {"CUDA_VISIBLE_DEVICES": ""}}


def test_what_this_machine_lacks_is_told_before_anything_starts(untouched, snakemake):
    refused = told(
        *(snakemake, untouched, "-n", "--config"),
        "models={tiny: {source: config/demo/modle}}",
        "datasets={psychology: {source: config/demo/dialogue.jsonl}}",
        "training={device: cuda, num_train_epochs: two}",
        **NO_GPU,
    )
    assert "the config has 4 errors:" in refused
    assert f"no such file or folder: {untouched}/config/demo/modle" in refused
    assert "did you mean 'config/demo/dialogues.jsonl'?" in refused
    assert "training.device: cuda, but this machine has no GPU" in refused
    assert "training.num_train_epochs: must be a number, not 'two'" in refused


def test_numbers_in_config_maps_are_understood_and_a_cluster_may_have_gpus(untouched, snakemake):
    values = "{device: cuda, num_train_epochs: 2, use_dora: true, max_memory_gib: null, seed: 7}"
    planned = snakemake(
        *(untouched, "-n", "--profile", "profiles/slurm", "--config", f"training={values}"),
        **NO_GPU,
    )
    assert planned.returncode == 0, planned.stdout
    assert "train_run" in planned.stdout


def test_each_wrong_target_has_a_nearest_one(untouched, snakemake):
    wrong = {
        "tabels": "tables",
        "results/tables/genral.md": "results/tables/general.md",
        "results/tables/general.cvs": "results/tables/general.csv",
        "results/scores/tiny-sftt/mmlu.json": "results/scores/tiny-sft/mmlu.json",
        "results/subjects/tiny/redyness.json": "results/subjects/tiny/readiness.json",
    }
    refused = told(snakemake, untouched, "-n", "plan", *wrong, "--forcerun", "train_rum")
    for target, right in (wrong | {"train_rum": "train_run"}).items():
        line = f"{target}: no rule, and no file that this study makes; did you mean '{right}'?"
        assert line in refused
    assert "plan:" not in refused


@pytest.mark.slow
def test_the_same_target_elsewhere(untouched, snakemake, tmp_path_factory):
    """Results in another folder: their paths are the targets."""
    out = tmp_path_factory.mktemp("out")
    moved = (
        "--config",
        f"pathvars={yaml.safe_dump({'results': str(out)}, default_flow_style=True)}",
    )
    refused = told(snakemake, untouched, f"{out}/tables/genral.md", *moved)
    assert "tables/general.md'?" in refused


def test_results_of_an_older_version_are_refused_with_one_sentence(workflow, snakemake):
    """Their records can't be verified; taking them for missing would train everything again."""
    old = workflow / "results/scores/tiny"
    old.mkdir(parents=True)
    (old / "mmlu.json").write_text('{"schema": 1, "score": 0.5}')
    assert "results was made by sftflow 0.1" in told(snakemake, workflow)


@pytest.mark.parametrize(
    "record",
    [
        "models/tiny/manifest.json",
        pytest.param("subjects/tiny/readiness.json", marks=pytest.mark.slow),
    ],
)
def test_a_record_that_was_cut_off_is_named(workflow, snakemake, record):
    """By a full disk, or a power cut: which file, and that it may be deleted."""
    path = workflow / "results" / record
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "sub', encoding="utf-8")
    said = told(snakemake, workflow)
    assert f"results/{record} is not valid JSON" in said and "delete it" in said
