"""The plan: what a limit can show, what a run costs, what is already there."""

from pathlib import Path

import made_up
import plan
import pytest
from sftflow.config import resolve
from sftflow.core import cli, layout
from sftflow.core.jsonio import read_record, write_json, write_jsonl, write_record
from sftflow.reporting import plan as tables_plan
from sftflow.reporting import stale, text
from sftflow.scoring import stats
from sftflow.training import cost, estimate

SHAPE = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 92544,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
}  # fmt: skip


def sections(results: Path, raw: dict = made_up.RAW, gpu: str = "H100") -> dict[str, list[dict]]:
    table = tables_plan.plan_table(resolve.load(raw), layout.Results(results), gpu)
    assert "nan" not in text.render(table).lower()
    return {heading: frame.to_dict("records") for heading, frame in table.sections}


def test_limit_10_is_seen_for_what_it_is(tmp_path):
    raw = made_up.RAW | {
        "benchmarks": {"gsm8k": {"limit": 10}, "mmlu": made_up.RAW["benchmarks"]["mmlu"]}
    }
    rows = sections(tmp_path, raw)["What can be seen"]
    asked = next(row for row in rows if "config" in row["Limit"])
    assert (asked["n"], asked["Half-width"], asked["Detectable"]) == ("10", "± 26.3", "58.1")
    everything = next(row for row in rows if row["Limit"] == "all")
    assert everything["n"] == "1,319"
    assert everything["Detectable"] == text.percent(stats.detectable(1319, tables_plan.DISCORDANCE))


def test_a_limit_counts_per_subset_and_not_beyond_its_size(tmp_path):
    write_record(
        tmp_path / "benchmarks/mmlu/manifest.json",
        {"digest": "x", "subsets": {"professional_psychology": 15, "high_school_psychology": 500}},
    )
    rows = [row for row in sections(tmp_path)["What can be seen"] if row["Benchmark"] == "MMLU"]
    assert {row["Limit"]: row["n"] for row in rows}["20 ◀ config"] == "35"
    assert rows[-1]["n"] == "515"


def test_detectable_is_at_the_verdicts_level(tmp_path):
    """All questions of a suite at 0.05; one of its benchmarks at the first step of Holm's."""
    raw = made_up.RAW | {"suites": {"both": ["gsm8k", "mmlu"]}}
    rows = sections(tmp_path, raw)["What can be seen"]
    assert (rows[0]["Benchmark"], rows[0]["n"]) == ("all questions", "60")
    expected = stats.detectable(60, tables_plan.DISCORDANCE, 0.05)
    assert rows[0]["Detectable"] == text.percent(expected)
    asked = next(row for row in rows if row["Limit"] == "20 ◀ config")
    expected = stats.detectable(20, tables_plan.DISCORDANCE, 0.025)
    assert asked["Detectable"] == text.percent(expected)
    raw |= {"sweeps": {"rank": {"run": "tuned", "grid": {"lora_rank": [4, 8, 16]}}}}
    swept = sections(tmp_path, raw)["What can be seen"][0]
    expected = stats.detectable(60, tables_plan.DISCORDANCE, 0.05 / 3)
    assert swept["Detectable"] == text.percent(expected)


def test_questions_needed_are_those_that_detect():
    for target in tables_plan.TARGETS:
        n = stats.questions_needed(target, tables_plan.DISCORDANCE)
        assert stats.detectable(n, tables_plan.DISCORDANCE) == pytest.approx(target, rel=0.02)


def test_what_is_not_known_yet_is_a_dash(tmp_path):
    row = sections(tmp_path)["What has to be trained"][0]
    assert row["Steps"] == row["Time"] == row["Memory"] == row["Trained"] == text.NONE
    assert row["Dialogues a step"] == 32


def test_five_thousand_dialogues_make_157_steps(tmp_path):
    """Not the 300 to 500 that the hand-written report expected."""
    receipt = made_up.dataset_receipt("talks") | {"train_rows": 5000}
    write_record(tmp_path / "datasets/talks/receipt.json", receipt)
    assert sections(tmp_path)["What has to be trained"][0]["Steps"] == "157"


def fetched_7b(folder, study: dict) -> dict:
    """A 7B study whose data and model are there, and nothing else; its run's receipt."""
    receipt = made_up.run_receipt("tuned", study["runs"]["tuned"]) | {"train_rows": 5000}
    receipt["tokens"] = {"train": 4_460_000, "mean": 892, "max": 2044, "histogram": []}
    write_record(folder / "runs/tuned/receipt.json", receipt)
    manifest = {"digest": "x", "parameters": 7_738_000_000}
    write_record(folder / "models/base/manifest.json", manifest)
    write_json(folder / "models/base/weights/config.json", SHAPE)
    return receipt


def test_hours_and_memory_of_a_7b_run(tmp_path):
    study = resolve.load(made_up.RAW)
    receipt = fetched_7b(tmp_path, study)
    row = sections(tmp_path, gpu="H200")["What has to be trained"][0]
    expected = estimate.estimate(
        study["runs"]["tuned"]["training"], receipt, SHAPE, 7_738_000_000,
        {"kind": "cuda", "cores": 8, "name": "H200", "memory_gib": 141, "capability": [9, 0]},
    )  # fmt: skip
    minutes = 4 * 7.738e9 * 4.46e6 / (989e12 * cost.UTILISATION) / 60
    assert minutes == pytest.approx(expected["seconds"] / 60, rel=0.06)
    assert row["Memory"] == f"{expected['memory_gib']:.0f} GiB"
    found = sum(
        int(part) * unit for part, unit in zip(row["Time"].split(":"), (60, 1, 1 / 60), strict=True)
    )
    assert found == pytest.approx(expected["seconds"] / 60, rel=0.01)
    assert 30 < float(row["Memory"].split()[0]) < 141
    assert float(sections(tmp_path)["What has to be trained"][0]["Memory"].split()[0]) < 80
    assert sections(tmp_path, gpu="A100")["What has to be trained"][0]["Time"] > row["Time"]


def test_a_run_on_the_cpu_has_its_estimate_too(tmp_path):
    raw = made_up.RAW | {"training": {"device": "cpu", "torch_dtype": "float32"}}
    run = resolve.load(raw)["runs"]["tuned"]
    write_record(tmp_path / "runs/tuned/receipt.json", made_up.run_receipt("tuned", run))
    write_record(tmp_path / "models/base/manifest.json", {"digest": "x", "parameters": 2_000_000})
    small = {"hidden_size": 128, "intermediate_size": 384, "vocab_size": 4096}
    write_json(tmp_path / "models/base/weights/config.json", SHAPE | small)
    row = sections(tmp_path, raw)["What has to be trained"][0]
    assert row["Time"] != text.NONE and row["Memory"] != text.NONE


def test_what_is_already_there(tmp_path):
    study = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, study)
    found = sections(tmp_path)
    assert found["What has to be trained"][0]["Trained"] == "yes, took 0:01:16"
    assert {row["Scored"] for row in found["What is already there"]} == {"1 of 1"}
    record = tmp_path / "runs/tuned/training.json"
    write_record(record, read_record(record) | {"gpu_memory_gib": 37.8})
    (row,) = sections(tmp_path)["What has to be trained"]
    assert row["Trained"] == "yes, took 0:01:16 and 38 GiB"  # beside the memory that was expected
    changed = sections(tmp_path, made_up.RAW | {"training": {"lora_rank": 4}})
    assert "lora_rank: 8 → 4" in changed["What has to be trained"][0]["Trained"]
    assert changed["What is already there"][-1]["Stale"] == 1


def test_answers_kept_are_counted_by_way_of_asking(tmp_path):
    study = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, study)
    read = layout.Results(tmp_path).read
    way = stale.current_way(study, read, "base")
    for path, count in ((layout.answers_folder("base", way), 7), ("evaluations/base/x", 4)):
        write_jsonl(tmp_path / path / "general.jsonl", [{"n": i} for i in range(count)])

    def kept(**changes) -> list[str]:
        rows = sections(tmp_path, made_up.RAW | changes)["What is already there"]
        return [row["Answers kept"] for row in rows]

    assert kept() == ["7", "0", "0", "0"]
    # another limit and another seed leave them of use, another number type does not
    benchmarks = made_up.RAW["benchmarks"] | {"gsm8k": {"limit": 3}}
    assert kept(benchmarks=benchmarks, generation={"seed": 9}) == ["7", "0", "0", "0"]
    assert kept(serving={"torch_dtype": "float16"}) == ["0", "0", "0", "0"]


def test_the_program_writes_the_plan(tmp_path, monkeypatch, capsys):
    write_json(tmp_path / "study.json", resolve.load(made_up.RAW))
    arguments = ["--results", str(tmp_path), "--settings", str(tmp_path / "study.json")]
    monkeypatch.setattr("sys.argv", ["plan.py", *arguments])
    assert cli.run(plan.main) == 0
    assert (tmp_path / "tables/plan.md").exists() and (tmp_path / "tables/plan.csv").exists()
    assert "What can be seen" in capsys.readouterr().out
