"""Tables: right numbers in right cells; what is missing, stale or unequal is seen, not used."""

import re
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest
import report
import tables as program
from sftflow.config import resolve, schema
from sftflow.core import cli, layout
from sftflow.core.jsonio import digest, read_json, read_jsonl, write_json, write_record
from sftflow.reporting import cells as tables_cells
from sftflow.reporting import comparison, sweeps, tables
from sftflow.reporting import report as pages
from sftflow.reporting import text as tables_text
from sftflow.reporting.chinese import translate
from sftflow.scoring import scores, stats

SHARES = {"base": 0.35, "tuned": 0.75}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    study = made_up.write_study(tmp_path, shares=SHARES)
    made_up.write_records(tmp_path, study)
    write_json(tmp_path / "study.json", study)
    return tmp_path


def change_study(results: Path, **changes) -> dict:
    study = resolve.load(made_up.RAW | changes)
    write_json(results / "study.json", study)
    return study


def build(results: Path, *names: str) -> dict[str, tables_text.Table]:
    study = read_json(results / "study.json")
    wanted = list(names) or layout.table_names(study["evaluate"]["suites"])
    return {t.name: t for t in tables.build(study, layout.Results(results), {}, wanted)}


def claim(results: Path, benchmark: str) -> dict:
    """The raw row about a benchmark."""
    data = build(results, "comparison")["comparison"].data
    return data[data["benchmark"] == benchmark].iloc[0]


def plain(cell: str) -> str:
    """Without its links."""
    return re.sub(r"\[(\d+)\]\([^)]*\)", r"\1", cell)


def section(table: tables_text.Table, heading: str) -> list[dict]:
    return dict(table.sections)[heading].to_dict("records")


def test_the_program_writes_every_table_for_people_and_for_programs(results, monkeypatch):
    arguments = ["--results", str(results), "--settings", str(results / "study.json")]
    monkeypatch.setattr("sys.argv", ["tables.py", *arguments])
    assert cli.run(program.main) == 0
    for name in (
        "training",
        "inference",
        "general",
        "psychology",
        "comparison",
        "chat",
        "data",
        "sweep",
    ):
        text = (results / f"tables/{name}.md").read_text()
        assert "nan" not in text.lower() and "None" not in text, name
        assert (results / f"tables/{name}.csv").exists()
    for link in re.findall(r"\]\(\.\./([^)]+)\)", (results / "tables/general.md").read_text()):
        assert (results / link).exists()
    first = {path: path.read_bytes() for path in (results / "tables").iterdir()}
    assert cli.run(program.main) == 0
    assert first == {path: path.read_bytes() for path in (results / "tables").iterdir()}


def test_cells_hold_the_numbers_of_the_score_files(results):
    table = build(results, "psychology")["psychology"]
    found = read_json(results / "scores/tuned/mmlu.json")
    low, high = found["ci95"]
    expected = f"{100 * found['score']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
    assert section(table, "Side by side")[0]["tuned"] == expected
    details = section(table, "Details")
    whole = next(row for row in details if row["Subject"] == "tuned" and row["Subset"] == "all")
    assert whole["Accuracy"] == expected
    assert (whole["n"], whole["Few-shot"], whole["Chance"]) == (40, 0, "25.0")
    assert "scores/tuned/mmlu.json" in whole["Score"]
    assert [row["Subset"] for row in details if row["Subject"] == "tuned"] == [
        "all", "high_school_psychology", "professional_psychology",
    ]  # fmt: skip
    raw = table.data[(table.data["subject"] == "tuned") & (table.data["subset"] == "all")].iloc[0]
    assert raw["score"] == found["score"] and raw["ci_low"] == low


def test_a_missing_score_is_seen_and_no_mean_is_taken_without_it(results):
    (results / "scores/tuned/mmlu.json").unlink()
    found = build(results, "psychology", "comparison")
    assert section(found["psychology"], "Side by side")[0]["tuned"] == "missing"
    mean = section(found["psychology"], "Suite means")[1]
    assert mean["Micro mean"] == tables_text.NONE and "MMLU missing" in mean["Note"]
    row = section(found["comparison"], "Benchmarks")[1]
    assert row["Verdict"] == "not compared: tuned: missing"
    assert row["p"] == row["Difference"] == tables_text.NONE


def test_nothing_at_all_still_gives_tables(tmp_path):
    write_json(tmp_path / "study.json", resolve.load(made_up.RAW))
    for table in build(tmp_path).values():
        assert "nan" not in tables_text.render(table).lower()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"generation": {"max_tokens": 99}}, "generation.max_tokens: 2048 → 99"),
        ({"benchmarks": {**made_up.RAW["benchmarks"], "mmlu": {
            **made_up.RAW["benchmarks"]["mmlu"], "shots": 5}}}, "settings.shots: 0 → 5"),
        ({"serving": {"torch_dtype": "float16"}}, "backend.torch_dtype: auto → float16"),
        ({"statistics": {"confidence": 0.9}}, "confidence: 0.95 → 0.9"),
    ],
)  # fmt: skip
def test_a_score_of_another_config_is_stale_and_not_mixed_in(results, changes, reason):
    change_study(results, **changes)
    found = build(results, "psychology", "comparison")
    assert "stale" in section(found["psychology"], "Side by side")[0]["tuned"]
    assert reason in tables_text.render(found["psychology"])
    assert section(found["psychology"], "Suite means")[0]["Micro mean"] == tables_text.NONE
    assert section(found["comparison"], "Benchmarks")[1]["Verdict"].startswith("not compared")


def test_a_setting_that_was_taken_out_makes_stale_too(tmp_path):
    raw = made_up.RAW | {
        "training": {"extra": {"neftune_noise_alpha": 5}},
        "serving": {"extra": {"chunk": 1}},
    }
    study = made_up.write_study(tmp_path, raw)
    made_up.write_records(tmp_path, study)
    for name, reason in (
        ("training", "training.extra.neftune_noise_alpha: 5 → None"),
        ("serving", "backend.extra.chunk: 1 → None"),
    ):
        write_json(tmp_path / "study.json", resolve.load(raw | {name: {}}))
        found = build(tmp_path, "psychology")["psychology"]
        assert "stale" in section(found, "Side by side")[0]["tuned"], name
        assert reason in tables_text.render(found)


def test_labels_notes_and_ports_make_nothing_stale(results):
    change_study(
        results,
        models={"base": {"source": "org/base", "label": "Another name"}},
        serving={"concurrency": 3, "ready_timeout": 9},
        training={"dataloader_num_workers": 2},
    )
    assert not build(results, "psychology")["psychology"].data["state"].ne("ok").any()


def test_another_training_makes_the_run_stale_and_leaves_the_base(results):
    change_study(results, training={"learning_rate": 5e-5})
    row = section(build(results, "general")["general"], "Side by side")[0]
    assert "stale" in row["tuned"] and "stale" not in row["Base 1B"]


@pytest.mark.parametrize("path", ["models/base/manifest.json", "benchmarks/mmlu/manifest.json"])
def test_other_weights_and_other_data_make_stale(results, path):
    write_record(results / path, {"digest": digest("another")})
    row = section(build(results, "psychology")["psychology"], "Side by side")[0]
    assert "stale" in row["Base 1B"]


def test_scores_that_were_not_asked_for_are_named(results):
    write_record(results / "scores/old/mmlu.json", read_json(results / "scores/base/mmlu.json"))
    assert "scores/old/mmlu.json" in tables_text.render(build(results, "comparison")["comparison"])


def test_comparison_pairs_by_question(results):
    row = claim(results, "mmlu")
    base, tuned = (
        tables_cells.item_scores(read_json(results / f"scores/{name}/mmlu.json")) for name in SHARES
    )
    assert row["fixed"] == ((base == 0) & (tuned == 1)).sum()
    assert row["broken"] == ((base == 1) & (tuned == 0)).sum()
    assert row["difference"] == pytest.approx(tuned.mean() - base.mean())
    assert row["p"] == stats.compare(base, tuned).p
    assert row["verdict"] == "better"


def test_format_and_knowledge_stand_apart_in_a_comparison(results):
    """Before, ten lucky finds among answers that state nothing; after, what is known is stated."""
    study = read_json(results / "study.json")
    lost = {"stated": None, "right": False}
    before = [
        made_up.sample(i, i < 10, subset, **(lost if i < 15 else {}))
        for subset in sorted(study["benchmarks"]["mmlu"]["subsets"])
        for i in range(20)
    ]
    after = [{**record, "extracted": record["target"]} for record in before]
    after = [record | {"stated": record["target"], "score": 1.0, "right": True} for record in after]
    for subject, records in (("base", before), ("tuned", after)):
        made_up.write_scores(
            results,
            made_up.write_session(results, study, subject, "psychology", {"mmlu": records}),
        )
    found = build(results, "psychology", "comparison")
    row = section(found["comparison"], "Format or knowledge")[1]
    assert [row[heading] for heading in comparison.FORM] == [
        "0 → 40", "10 → 0", "20 → 0", "10 → 0",
    ]  # fmt: skip
    assert section(found["comparison"], "Benchmarks")[1]["Unstated"] == "75.0 → 0.0"
    base, tuned = (
        next(r for r in section(found["psychology"], "Details") if r["Subject"] == name)
        for name in ("Base 1B", "tuned")
    )
    assert base["Accuracy"].startswith("50 [") and base["Strict"].startswith("0.0 [")
    assert base["Flags"] == "unstated, misread" and tuned["Flags"] == tables_text.NONE
    assert "tuned" not in "".join(found["psychology"].notes[:2])
    assert (
        "MMLU: 50.0 % right by evalscope's reading, 0.0 % by what" in found["psychology"].notes[0]
    )
    assert tuned["Strict"].startswith("100.0 [")


def test_misread_and_empty_answers_are_warned_of(results):
    study = read_json(results / "study.json")
    records = [
        made_up.sample(i, False, subset, stated="ABCD"[i % 4], right=True)
        for subset in sorted(study["benchmarks"]["mmlu"]["subsets"])
        for i in range(20)
    ]
    records[0] |= {"answer": "", "stated": None, "right": False, "ending": "refused"}
    made_up.write_scores(
        results, made_up.write_session(results, study, "base", "psychology", {"mmlu": records})
    )
    details = section(build(results, "psychology")["psychology"], "Details")
    row = next(r for r in details if r["Subject"] == "Base 1B")
    assert row["Flags"] == "empty, misread"
    assert (row["Misread"], row["Empty"], row["Unstated"]) == ("97.5", "2.5", "2.5")


def test_loops_that_were_cut_off_are_warned_of(results):
    """A model that never ends scores at chance by its last capital letter."""
    study = read_json(results / "study.json")
    records = [
        made_up.sample(i, i % 4 == 0, subset, stated=None, right=False, ending="cut off")
        for subset in sorted(study["benchmarks"]["mmlu"]["subsets"])
        for i in range(20)
    ]
    made_up.write_scores(
        results, made_up.write_session(results, study, "base", "psychology", {"mmlu": records})
    )
    details = section(build(results, "psychology")["psychology"], "Details")
    row = next(r for r in details if r["Subject"] == "Base 1B")
    assert row["Accuracy"].startswith("25 [") and row["Strict"].startswith("0.0 [")
    assert row["Flags"] == "unstated, cut off, misread"


def test_unequal_sample_sets_are_an_error_of_that_comparison(results):
    study = read_json(results / "study.json")
    records = made_up.samples(0.9, 5, study["benchmarks"]["mmlu"])[1:]
    session = made_up.write_session(results, study, "tuned", "psychology", {"mmlu": records})
    made_up.write_scores(results, session)
    found = build(results, "comparison")["comparison"]
    rows = section(found, "Benchmarks")
    assert "unequal sample sets (40 and 39" in rows[1]["Verdict"]
    assert rows[0]["Verdict"] != rows[1]["Verdict"]
    assert "unequal" in section(found, "Suites")[1]["Verdict"]


def test_identical_subjects_show_no_evidence_and_no_false_certainty(results):
    write_record(
        results / "scores/tuned/mmlu.json",
        read_json(results / "scores/base/mmlu.json") | {"subject": "tuned"},
    )
    write_record(results / "runs/tuned/merged.json", {"digest": digest("base"), "adapter": "x"})
    write_record(results / "runs/tuned/adapter.json", {"digest": "x"})
    found = build(results, "comparison")["comparison"]
    row = section(found, "Benchmarks")[1]
    assert row["Verdict"].startswith("undecided (about ")
    assert row["p"] == "1.0000" and plain(row["Fixed / broken"]) == "0 / 0"
    low, high = re.findall(r"[-+]\d+\.\d", row["Difference"])[1:]
    assert float(low) < 0 < float(high)
    assert section(found, "Suites")[1]["Macro difference"] == "+0.0"


def test_comparison_on_the_clean_questions(results):
    session = results / "evaluations/tuned/psychology.json"
    ids = [made_up.sample(i, True, "high_school_psychology")["id"] for i in range(15)]
    made_up.write_scores(results, session, {"mmlu": {"ids": ids}})
    found = build(results, "comparison", "psychology")
    assert "(n 25)" in section(found["comparison"], "Benchmarks")[1]["Difference, clean"]
    details = section(found["psychology"], "Details")
    assert "(n 25)" in next(row for row in details if row["Subject"] == "tuned")["Clean"]


def test_suite_means_are_micro_and_macro(tmp_path):
    raw = made_up.RAW | {"suites": {"both": ["gsm8k", "mmlu"]}}
    study = made_up.write_study(tmp_path, raw, SHARES)
    write_json(tmp_path / "study.json", study)
    gsm8k, mmlu = (read_json(tmp_path / f"scores/tuned/{b}.json") for b in ("gsm8k", "mmlu"))
    row = section(build(tmp_path, "both")["both"], "Suite means")[1]
    micro = (gsm8k["score"] * 20 + mmlu["score"] * 40) / 60
    assert row["Micro mean"].startswith(f"{100 * micro:.0f} [")
    assert row["Macro mean"].startswith(f"{50 * (gsm8k['score'] + mmlu['score']):.0f} [")


def test_suites_are_tested_as_one(tmp_path):
    raw = made_up.RAW | {"suites": {"both": ["gsm8k", "mmlu"]}}
    study = made_up.write_study(tmp_path, raw, SHARES)
    write_json(tmp_path / "study.json", study)
    base, tuned = (
        np.concatenate(
            [
                tables_cells.item_scores(read_json(tmp_path / f"scores/{name}/{benchmark}.json"))
                for benchmark in ("gsm8k", "mmlu")
            ]
        )
        for name in SHARES
    )
    row = section(build(tmp_path, "comparison")["comparison"], "Suites")[0]
    expected = stats.compare(base, tuned)
    assert (row["n"], plain(row["Fixed / broken"])) == (60, f"{expected.fixed} / {expected.broken}")
    assert row["p"] == tables_text.p_value(expected.p)
    said = tables_text.points(expected.difference, expected.interval(0.05))
    assert row["Difference"] == f"[{said}](../report/answers.html#pair=base--tuned)"
    (tmp_path / "scores/tuned/mmlu.json").unlink()
    row = section(build(tmp_path, "comparison")["comparison"], "Suites")[0]
    assert row["n"] == row["p"] == row["Fixed / broken"] == tables_text.NONE


def test_a_suite_with_repeats_or_passages_is_tested_by_what_is_independent(tmp_path):
    raw = made_up.RAW | {
        "benchmarks": {**made_up.RAW["benchmarks"], "gsm8k": {"limit": 20, "repeats": 2}},
        "suites": {"both": ["gsm8k", "mmlu"]},
        "generation": {"temperature": 0.7},
        "serving": {"backend": "vllm"},  # it heeds seeds
    }
    study = resolve.load(raw)
    subsets = sorted(study["benchmarks"]["mmlu"]["subsets"])
    for subject, share in (("base", 1), ("tuned", 3)):
        answers = {
            "gsm8k": [
                made_up.sample(i, (i + r) % 4 < share, choices=None, repeat=r)
                for i in range(20)
                for r in range(2)
            ],
            "mmlu": [
                made_up.sample(i, i // 5 < share, subset, cluster=f"passage {i // 5}")
                for subset in subsets
                for i in range(20)
            ],
        }
        made_up.write_scores(
            tmp_path, made_up.write_session(tmp_path, study, subject, "both", answers)
        )
    cells = tables_cells.load_cells(study, layout.Results(tmp_path))
    sides = [[cells[subject, b] for b in ("gsm8k", "mmlu")] for subject in ("base", "tuned")]
    clusters = tables_cells.suite_items([cell.score["items"] for cell in sides[0]]).clusters
    assert len(clusters) == 60 and len(set(clusters)) == 20 + 4
    before, after = (
        np.concatenate([tables_cells.item_scores(cell.score) for cell in side]) for side in sides
    )
    found = comparison.suite_claim(sides, {}, 0)["result"]
    assert found == stats.compare(before, after, clusters)
    assert found.test == stats.SIGN_FLIP and found.n == 60


def test_spread_between_seeds_stands_apart_from_sampling_error(tmp_path):
    raw = made_up.RAW | {"runs": {"tuned": {**made_up.RAW["runs"]["tuned"], "seeds": [1, 2, 3]}}}
    shares = {"tuned-seed1": 0.5, "tuned-seed2": 0.7, "tuned-seed3": 0.9}
    write_json(tmp_path / "study.json", made_up.write_study(tmp_path, raw, shares))
    scores = [read_json(tmp_path / f"scores/{name}/mmlu.json") for name in shares]
    found = build(tmp_path, "psychology", "comparison")
    row = section(found["psychology"], "Between seeds")[0]
    values = pd.Series([each["score"] for each in scores])
    assert (row["Run"], row["Seeds"]) == ("tuned", "3 of 3")
    assert row["Mean"] == f"{100 * values.mean():.1f}"
    assert row["SD between seeds"] == f"{100 * values.std():.1f}"
    assert row["SE of one score (sampling)"] == (
        f"{100 * sum(each['stderr'] for each in scores) / 3:.1f}"
    )
    base = read_json(tmp_path / "scores/base/mmlu.json")["score"]
    together = section(found["comparison"], "Seeds together")[-1]
    assert together["Difference"].startswith(f"{100 * (values.mean() - base):+.0f} [")
    assert together["SD between seeds"] == f"{100 * values.std():.1f}"
    (tmp_path / "scores/tuned-seed2/mmlu.json").unlink()
    together = section(build(tmp_path, "comparison")["comparison"], "Seeds together")[-1]
    assert together["Verdict"] == "not compared: tuned-seed2: missing"


def test_repeats_are_compared_by_question(tmp_path):
    raw = made_up.RAW | {
        "benchmarks": {**made_up.RAW["benchmarks"], "gsm8k": {"limit": 20, "repeats": 3}},
        "generation": {"temperature": 0.7},
        "serving": {"backend": "vllm"},  # it heeds seeds
    }
    study = made_up.write_study(tmp_path, raw, SHARES)
    for subject, threshold in (("base", 1), ("tuned", 3)):
        records = [
            made_up.sample(i, (i + r) % 4 < threshold, choices=None, repeat=r)
            for i in range(20)
            for r in range(3)
        ]
        session = made_up.write_session(tmp_path, study, subject, "general", {"gsm8k": records})
        made_up.write_scores(tmp_path, session)
    write_json(tmp_path / "study.json", study)
    row = claim(tmp_path, "gsm8k")
    assert row["test"] == "sign-flip permutation"
    assert row["n"] == 20 and row["verdict"] == "better"


def swept(results: Path, grid: dict, losses: dict[str, float]) -> dict:
    """A study with a sweep of `tuned`, whose trainings ended with these validation losses."""
    raw = made_up.RAW | {"sweeps": {"rank": {"run": "tuned", "grid": grid}}}
    study = made_up.write_study(results, raw)
    write_json(results / "study.json", study)
    for name, loss in losses.items():
        record = made_up.training_record(name, study["runs"][name])
        write_record(results / f"runs/{name}/training.json", record | {"validation_loss": loss})
    return study


def test_a_sweep_shows_its_points_and_their_scores(tmp_path):
    """The least validation loss comes first and is chosen, whatever the scores say."""
    losses = {"rank-lora_rank4": 1.3, "rank-lora_rank8": 1.2}
    swept(tmp_path, {"lora_rank": [4, 8, 16]}, losses)
    table = build(tmp_path, "sweep")["sweep"]
    rows = section(table, "rank")
    assert [row["lora_rank"] for row in rows] == ["8", "4", "16"]
    assert [row["Chosen"] for row in rows] == ["chosen", tables_text.NONE, tables_text.NONE]
    assert rows[0]["Validation loss"] == "1.2000" and rows[2]["Validation loss"] == "missing"
    for heading in ("MMLU", "Suite psychology"):
        assert all(re.match(r"\d+ \[", row[heading]) for row in rows)
    assert list(table.data["choice"].fillna("")) == ["chosen", "", ""]


def test_a_sweep_with_halving_shows_who_was_left_out_where_and_how(tmp_path):
    """A point that was dropped in silence is a hole in the grid that nobody can judge."""
    ranks = {rank: f"rank-lora_rank{rank}" for rank in (4, 8, 16, 32)}
    raw = made_up.RAW | {
        "sweeps": {"rank": {"run": "tuned", "grid": {"lora_rank": list(ranks)}, "halving": {}}}
    }
    first, second = {4: 1.5, 8: 1.4, 16: None, 32: 1.3}, {8: 1.1, 32: 1.2}
    climbed = {
        part: {ranks[rank]: loss for rank, loss in losses.items()}
        for part, losses in ((4, first), (2, second))
    }
    made_up.write_halving(tmp_path, raw, "rank", climbed)
    study = made_up.write_study(tmp_path, raw)
    write_json(tmp_path / "study.json", study)
    made_up.write_records(tmp_path, study)
    record = read_json(tmp_path / "runs/rank-lora_rank8/training.json")
    table = build(tmp_path, "sweep")["sweep"]
    rows = section(table, "rank")
    told = [(row["lora_rank"], row["Chosen"], row["Validation loss"]) for row in rows]
    assert told == [
        ("8", "chosen", f"{record['validation_loss']:.4f}"),
        ("32", "left out", "1.2000"),
        ("4", "left out", "1.5000"),
        ("16", "left out", "diverged"),
    ]
    assert [row["Steps"] for row in rows[1:]] == ["20 of 40", "10 of 40", "10 of 40"]
    assert rows[1]["MMLU"] == "not evaluated" and "[" in rows[0]["MMLU"]
    assert (
        "after 1/4 of the steps 2 of 4 points went on, after 1/2 of the steps 1 of 2"
        in (table.notes[0])
    )
    assert table.notes[1] == "rank-lora_rank16: the loss is nan"
    assert list(table.data["steps"]) == [record["steps"], 20, 10, 10]
    english = pages.page("en", pages.collect(study, layout.Results(tmp_path)))
    assert "chosen of 4 points, 3 of them left out on the way" in english
    assert "after 1/4 of the steps 2 of 4 points went on" in english

    undecided = made_up.write_study(tmp_path / "open", raw)
    write_json(tmp_path / "open/study.json", undecided)
    table = build(tmp_path / "open", "sweep")["sweep"]
    assert "rank: which points go on is not decided yet." in table.notes
    assert {row["Validation loss"] for row in section(table, "rank")} == {"missing"}


def test_seeds_of_a_sweep_are_one_row_with_mean_and_spread(tmp_path):
    """Three seeds of two ranks were six rows, and nobody could see what is noise."""
    losses = {
        f"rank-lora_rank{rank}-seed{seed}": loss + shift
        for rank, loss in ((4, 1.21), (8, 1.2), (16, 1.5))
        for seed, shift in ((1, -0.02), (2, 0.0), (3, 0.02))
    }
    study = swept(tmp_path, {"lora_rank": [4, 8, 16], "seed": [1, 2, 3]}, losses)
    table = build(tmp_path, "sweep")["sweep"]
    rows = section(table, "rank")
    assert [row["lora_rank"] for row in rows] == ["8", "4", "16"]
    assert rows[0]["Validation loss"] == "1.2000 ± 0.0200" and rows[0]["Seeds"] == "3"
    assert [row["Chosen"] for row in rows[1:]] == ["within the seeds' spread", tables_text.NONE]
    scores = [
        read_json(tmp_path / f"scores/rank-lora_rank8-seed{seed}/mmlu.json")["score"]
        for seed in (1, 2, 3)
    ]
    expected = f"{100 * np.mean(scores):.1f} ± {100 * np.std(scores, ddof=1):.1f}"
    assert rows[0]["MMLU"] == rows[0]["Suite psychology"] == expected
    assert len(table.data) == 9
    best = sweeps.chosen(sweeps.points(study, layout.Results(tmp_path)))
    counts = {"of": 3, "left_out": 0, "rivals": 1}
    assert best == [{"sweep": "rank", "point": "lora_rank 8", "loss": "1.2000 ± 0.0200"} | counts]


def test_the_report_tells_of_sweeps_in_both_languages_and_says_what_chose(tmp_path):
    study = swept(tmp_path, {"lora_rank": [4, 8]}, {})
    made_up.write_records(tmp_path, study)
    found = pages.collect(study, layout.Results(tmp_path))
    english, chinese = pages.page("en", found), pages.page("zh", found)
    assert "The validation loss chooses; scores play no part" in english
    assert "按验证 Loss 选定，得分不参与选择" in chinese
    assert "figures/sweep.en.svg" in english and "figures/sweep.zh.svg" in chinese
    part = chinese.partition("扫参")[2].partition("## 10.")[0]
    assert "| 选定" in part and "评测集 general" in part and "chosen" not in part
    assert ">lora_rank<" in pages.draw(study, found, "zh")["sweep"].svg()
    plain = made_up.write_study(tmp_path / "plain")
    assert "sweep.svg" not in pages.page(
        "zh", pages.collect(plain, layout.Results(tmp_path / "plain"))
    )


def test_validation_losses_of_other_dialogues_choose_nothing(tmp_path):
    """A shorter max_length leaves the long validation dialogues out: its loss looks better."""
    losses = {"rank-max_length512": 1.1, "rank-max_length1024": 1.2}
    study = swept(tmp_path, {"max_length": [512, 1024]}, losses)
    for name in losses:
        receipt = made_up.run_receipt(name, study["runs"][name])
        files = [{"path": "validation.jsonl", "size": 1, "sha256": digest(name)}]
        write_record(tmp_path / f"runs/{name}/receipt.json", receipt | {"files": files})
    table = build(tmp_path, "sweep")["sweep"]
    assert {row["Chosen"] for row in section(table, "rank")} == {tables_text.NONE}
    assert "do not compare" in table.notes[0]


def test_a_page_of_many_rows_says_what_it_leaves_out_and_begins_with_what_matters():
    """1,000 subjects made a page of 4 MB, in the order of the config."""
    verdicts = ["undecided", "not worse"] * tables_text.MOST + ["worse"]
    frame = pd.DataFrame({"Candidate": map(str, range(len(verdicts))), "Verdict": verdicts})
    table = tables_text.Table("many", "Many", "", [("", frame)], frame, ["a note"] * 600)
    lines = tables_text.render(table).splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    assert len(rows) == tables_text.MOST and "| worse" in rows[0] and "not worse" in rows[2]
    assert any("501 more rows, of 1,001" in line and "many.csv" in line for line in lines)
    assert lines[-1] == "- … 100 more notes"


def test_text_of_a_model_cannot_break_a_table(results):
    rendered = tables_text.render(build(results, "chat")["chat"])
    assert "\\|" in rendered and "&lt;b>in two lines&lt;/b>" in rendered
    rows = [line for line in rendered.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2


def test_a_published_figure_warns_and_does_not_fail(tmp_path):
    study = made_up.write_study(tmp_path, REFERRED, {"internlm": 0.35})
    table = build_with_references(tmp_path, study, "general")
    row = section(table, "Details")[0]
    assert row["Published"] == "86.0"
    assert "off published" in row["Flags"]
    assert "here, 86.0 published (0-shot, chain of thought" in tables_text.render(table)
    assert "GSM8K 86.0 for internlm (0-shot, chain of thought, README" in tables_text.render(table)
    study = made_up.write_study(tmp_path, REFERRED, {"internlm": 0.9})
    row = section(build_with_references(tmp_path, study, "general"), "Details")[0]
    assert row["Published"] == "86.0" and "Flags" not in row


def test_a_published_figure_stands_only_where_the_whole_benchmark_was_asked(tmp_path):
    study = made_up.write_study(tmp_path, REFERRED)
    table = build_with_references(tmp_path, study, "psychology")
    assert "Published" not in section(table, "Details")[0]
    assert "ublished" not in tables_text.render(table)


REFERRED = {
    "models": {"internlm": {"source": "org/internlm", "reference": "internlm2_5-7b-chat"}},
    "benchmarks": made_up.RAW["benchmarks"],
    "suites": made_up.RAW["suites"],
}


def build_with_references(results: Path, study: dict, name: str) -> tables_text.Table:
    """With config/references.yaml itself, whose form these tests hold on to."""
    figures = schema.references()
    return tables.build(study, layout.Results(results), figures, [name])[0]


def test_records_of_training_and_serving(results):
    found = build(results, "training", "inference", "data")
    row = section(found["training"], "")[0]
    assert (row["Steps"], row["Final loss"], row["Time"]) == ("60", "1.031", "0:01:16")
    assert (row["Validation loss before"], row["Validation loss"]) == ("1.6200", "1.2100")
    assert row["First loss"] == "1.59" and row["Flags"] == "—" and "Best loss" not in row
    row = section(found["inference"], "")[1]
    assert (row["Ready as merged"], row["Ready as adapter"]) == ("6.10 s", "7.40 s")
    assert row["GPU memory"] == tables_text.NONE
    assert section(found["data"], "Dropped rows")[0]["First lines"] == "7, 12, 99"
    row = section(found["data"], "Contamination")[0]
    assert (row["Overlapping"], row["Stem, whole, options"]) == ("1", "0, 1, 0")
    assert row["Uncheckable"] == "2"
    assert section(found["data"], "Contamination, examples")[0]["Kind"] == "whole"
    measured = found["data"].notes[-1]
    assert "Found: verbatim 99.0 %, translated 0.0 %. Of 400 that nobody leaked, 0.2 %" in measured


def test_tables_made_beside_each_other_are_the_same(results):
    """What a second processor makes comes from another process."""
    study, files = read_json(results / "study.json"), layout.Results(results)
    names = layout.table_names(study["evaluate"]["suites"])
    alone, both = (tables.build(study, files, {}, names, workers) for workers in (0, 1))
    assert [*map(tables_text.render, both)] == [*map(tables_text.render, alone)]
    assert [table.data.to_csv() for table in both] == [table.data.to_csv() for table in alone]


# --- report --------------------------------------------------------------------------------------


def run_report(results: Path, monkeypatch, *more: str) -> None:
    arguments = ["--results", str(results), "--settings", str(results / "study.json"), *more]
    monkeypatch.setattr("sys.argv", ["report.py", *arguments])
    assert cli.run(report.main) == 0


@pytest.mark.slow
def test_the_report_is_filled_and_stands_alone(results, monkeypatch):
    run_report(results, monkeypatch)
    chinese = (results / "report/report.zh.md").read_text()
    for heading in ("### 9.1 训练结果", "### 9.3 评测结果：general", "### 9.5 性能对比"):
        assert heading in chinese
    assert "待" not in chinese
    assert "| 数据集" in chinese and "F1分数" in chinese
    page = (results / "report/report.html").read_text()
    assert not re.search(r"(src|href)=\"https?:", page)
    assert page.count("data:image/svg+xml;base64,") == 10  # five figures, two languages
    assert "<b>in two" not in page
    for name in ("differences", "loss", "learning_rate", "scores", "token_lengths"):
        for language in ("zh", "en"):
            assert (results / f"figures/{name}.{language}.svg").read_text().startswith("<?xml")
            assert (results / f"figures/{name}.{language}.png").read_bytes()[1:4] == b"PNG"
    made = [*results.glob("report/*"), *results.glob("figures/*")]
    first = {path: path.read_bytes() for path in made}
    assert len(first) > 25
    run_report(results, monkeypatch, "--threads", "2")
    assert {path: path.read_bytes() for path in made} == first


def test_the_report_of_an_empty_study_says_so(tmp_path, monkeypatch):
    write_json(tmp_path / "study.json", resolve.load(made_up.RAW | {"languages": ["en"]}))
    run_report(tmp_path, monkeypatch)
    page = (tmp_path / "report/report.en.md").read_text()
    assert "**Missing** (4)" in page and "Base 1B, tuned: No score of MMLU" in page
    assert not (tmp_path / "report/report.zh.md").exists()


def test_a_users_name_is_not_translated():
    frame = pd.DataFrame({"Model": ["base"], "Form": ["base"], "Verdict": ["undecided"]})
    shown = translate(frame, "zh").iloc[0].to_dict()
    assert shown == {"模型": "base", "形式": "基座", "结论": "样本不足，无显著差异"}


def test_scores_of_samples_in_a_file_are_those_of_the_tables(results):
    """From the cell back to the answers: the chain closes."""
    found = read_json(results / "scores/tuned/mmlu.json")
    again = scores.score(list(read_jsonl(results / found["samples"])), None, 0.95)
    assert again["score"] == found["score"]


def test_subjects_with_one_label_stay_two_columns(results):
    change_study(results, runs={"tuned": {**made_up.RAW["runs"]["tuned"], "label": "Base 1B"}})
    columns = section(build(results, "general")["general"], "Side by side")[0].keys()
    assert {"Base 1B (base)", "Base 1B (tuned)"} <= columns


def test_another_metric_than_accuracy_is_named(tmp_path):
    own = {"preset": "general_qa", "source": "q", "subsets": ["all"]}
    raw = made_up.RAW | {"benchmarks": {"essay": own}, "suites": {"writing": ["essay"]}}
    study = resolve.load(raw)
    for subject in ("base", "tuned"):
        records = [made_up.sample(i, True, "all", None, score=i / 20) for i in range(20)]
        session = made_up.write_session(tmp_path, study, subject, "writing", {"essay": records})
        evaluation = read_json(session)
        evaluation["benchmarks"]["essay"]["metric"] = "Rouge-L"
        write_record(session, evaluation)
        made_up.write_scores(tmp_path, session)
    write_json(tmp_path / "study.json", study)
    found = build(tmp_path, "writing", "comparison")
    assert section(found["writing"], "Side by side")[0]["Benchmark"] == "essay (Rouge-L)"
    assert section(found["writing"], "Details")[0]["Macro-F1"] == tables_text.NONE
    assert section(found["comparison"], "Benchmarks")[0]["p"] == "1.0000"


def test_another_dataset_makes_a_run_stale(results):
    """A run that the config now trains on other dialogues is another run."""
    change_study(
        results,
        datasets={**made_up.RAW["datasets"], "other": {"source": "other.jsonl"}},
        runs={"tuned": {"model": "base", "dataset": "other"}},
    )
    found = build(results, "psychology")["psychology"]
    row = section(found, "Side by side")[0]
    assert "stale" in row["tuned"] and "stale" not in row["Base 1B"]
    assert "runs.dataset: talks → other" in tables_text.render(found)
