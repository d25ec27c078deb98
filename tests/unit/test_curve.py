"""Learning curves: which step is lowest, what is overfitting and what is chance, who chose."""

import copy
import json
import random

import made_up
import numpy as np
import pytest
from scipy import stats as scipy_stats
from sftflow.config import resolve
from sftflow.config.check import check
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import Results, weights_of
from sftflow.reporting import figures, report
from sftflow.reporting.cells import load_cells
from sftflow.reporting.comparison import candidates
from sftflow.reporting.curve import (
    LOWEST,
    NEVER,
    NO_RISE,
    OVERFITTING,
    Curves,
    curve_flags,
    curve_table,
    score_frame,
)
from sftflow.reporting.text import render
from sftflow.training.checkpoints import asked_for

RAW = made_up.RAW | {"training": {"checkpoints": "all"}}


def study(folder, means: dict[int, float], noise: float = 0.05, missing: tuple = ()) -> dict:
    """40 dialogues whose mean loss at each step is about that of `means`; 30 passages in zh."""
    made = made_up.write_study(folder, RAW)
    made_up.write_records(folder, made)
    chance = random.Random(7)
    sizes = [chance.randint(20, 300) for _ in range(40)]
    each = [chance.uniform(-0.4, 0.4) for _ in range(40)]
    losses = {
        step: {
            "talks": [
                (n, n * (mean + own + chance.gauss(0, noise)))
                for n, own in zip(sizes, each, strict=True)
            ],
            "neutral-zh": [(50, 50 * (3 + step / 1000))] * 30,
        }
        for step, mean in means.items()
    }
    made_up.write_curve(folder, made, "tuned", losses, missing)
    return made


def found(folder, made: dict) -> Curves:
    return Curves(made, Results(folder))


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ({0: 2.0, 100: 1.5, 200: 1.4, 300: 1.7}, OVERFITTING),
        ({0: 2.0, 100: 1.5, 200: 1.4, 300: 1.3}, LOWEST),
        ({0: 2.0, 100: 1.50, 200: 1.49, 300: 1.495}, NO_RISE),
        ({0: 1.3, 100: 1.5, 200: 1.7, 300: 1.9}, NEVER),
    ],
)
def test_what_is_said_of_the_last_step(tmp_path, means, verdict):
    made = study(tmp_path, means)
    curves = found(tmp_path, made)
    (one,) = curves.choices
    assert one["verdict"] == verdict and one["last"] == 300
    flags = curve_flags(curves)
    assert [flag.kind for flag in flags] == [
        *(["overfitted"] if verdict == OVERFITTING else []),
        *(["never better"] if verdict == NEVER else []),
    ]
    assert one["best"] == min(means, key=lambda step: means[step]) or verdict == NO_RISE


@pytest.mark.slow
def test_steps_that_differ_by_chance_alone_are_seldom_called_overfitting(tmp_path):
    """The lowest of eleven is a lucky one; that alone must not make the last look bad."""
    made = study(tmp_path, {0: 2.0})
    called = 0
    for seed in range(25):
        chance = random.Random(seed)
        losses = {
            step: {"talks": [(100, 100 * (1.5 + chance.gauss(0, 0.3))) for _ in range(40)]}
            for step in range(100, 1200, 100)
        }
        losses = {0: {"talks": [(100, 300.0)] * 40}} | losses
        made_up.write_curve(tmp_path, made, "tuned", losses)
        called += found(tmp_path, made).choices[0]["verdict"] == OVERFITTING
    assert called <= 4  # 5 % of 25, and three standard deviations


def test_rise_recomputed_from_the_lines(tmp_path):
    """The ratio estimator and its jackknife, at Bonferroni's level for three other steps."""
    made = study(tmp_path, {0: 2.0, 100: 1.5, 200: 1.4, 300: 1.7})
    sides = []
    for step in (200, 300):
        lines = (tmp_path / f"dialogue/tuned/curve/{step}.jsonl").read_text().splitlines()
        mine = [json.loads(line) for line in lines if '"talks"' in line]
        sides.append(np.array([(line["tokens"], line["nll"]) for line in mine]))
    tokens, change = sides[0][:, 0], sides[1][:, 1] - sides[0][:, 1]
    left_out = [np.delete(change, i).sum() / np.delete(tokens, i).sum() for i in range(40)]
    error = (39 / 40 * np.square(left_out - np.mean(left_out)).sum()) ** 0.5
    half = scipy_stats.t.ppf(1 - 0.05 / 3 / 2, 39) * error
    (one,) = found(tmp_path, made).choices
    assert one["best"] == 200 and one["rise"] == pytest.approx(change.sum() / tokens.sum())
    assert one["ci_low"] == pytest.approx(one["rise"] - half, rel=1e-3)
    assert one["best_loss"] == pytest.approx(sides[0][:, 1].sum() / tokens.sum())


def test_report_shows_figure_table_flag_and_who_chose(tmp_path):
    made = study(tmp_path, {0: 2.0, 100: 1.5, 200: 1.4, 300: 1.7}, missing=(50,))
    shown = report.collect(made, Results(tmp_path))
    english, chinese = (report.page(language, shown) for language in ("en", "zh"))
    for text in (
        "under a run's name is the last step", "never by the benchmarks", "learning_curve.en.svg",
        "tuned: held-out loss is lowest at step 200", "**overfitting**", "300 (served)",
        "tuned: Held-out loss per token was lowest at step 200",
    ):  # fmt: skip
        assert text in english, text
    for text in ("最后一步的权重", "学习曲线", "第 200 步最低", "**过拟合**", "300（部署）"):
        assert text in chinese, text
    picture = report.draw(made, shown, "en")["learning_curve"].svg()
    assert "Held-out dialogues" in picture and "tuned, zh" in picture
    page = render(curve_table(found(tmp_path, made), {}))
    assert "3.3000 (+0.3000)" in page and "did not keep the checkpoints of steps 50" in page


def test_without_checkpoints_nothing_is_shown_but_who_chose(tmp_path):
    made = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, made)
    shown = report.collect(made, Results(tmp_path))
    page = report.page("en", shown)
    assert "under a run's name is the last step" in page and "learning_curve" not in page
    assert "No run keeps checkpoints" in render(curve_table(found(tmp_path, made), {}))
    assert "no data yet" in figures.learning_curve([]).svg()


def test_a_curve_of_other_settings_or_another_training_is_left_out_and_said(tmp_path):
    made = study(tmp_path, {0: 2.0, 100: 1.5})
    other = copy.deepcopy(made)
    other["dialogue"]["max_length"] = 99
    curves = found(tmp_path, other)
    assert curves.rows == [] and "dialogue.max_length: 4096 → 99" in curves.notes[0]
    path = tmp_path / "runs/tuned/merged.json"  # of an older adapter: nothing that a curve needs
    write_record(path, read_record(path) | {"adapter": "another"})
    assert found(tmp_path, made).rows
    path = tmp_path / "runs/tuned/training.json"
    write_record(path, read_record(path) | {"identity": "another"})
    curves = found(tmp_path, made)
    assert curves.rows == [] and "(training)" in curves.notes[0]
    assert "missing" in render(curve_table(curves, {}))


def test_which_checkpoints_are_asked_for():
    assert asked_for(7, "all") and asked_for(7, [7]) and not asked_for(7, [8])
    assert not asked_for(7, None)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("all", None), ([100, 300], None), (None, None),
        ([150], "runs.tuned: checkpoints 150 is no multiple of save_steps 100"),
        ("every", "training.checkpoints: must be all, a list of steps, or null"),
        ([], "training.checkpoints: must not be empty"),
        ([100, 100], "training.checkpoints: lists 100 twice"),
    ],
)  # fmt: skip
def test_checkpoints_that_are_never_saved_are_told_before_anything_starts(stated, said):
    errors = check(made_up.RAW | {"training": {"checkpoints": stated}})
    assert len(errors) == (said is not None) and all(error.startswith(said) for error in errors)


def test_a_sweep_may_not_hide_a_step_that_is_never_saved():
    run = made_up.RAW["runs"]["tuned"]
    sweeps = {"often": {"run": "tuned", "grid": {"save_steps": [50, 75]}}}
    raw = made_up.RAW | {"runs": {"tuned": run | {"training": {"checkpoints": [100]}}}}
    (error,) = check(raw | {"sweeps": sweeps})
    assert error.startswith("sweeps.often: checkpoints 100 is no multiple of save_steps 75")
    assert resolve.load(raw)["runs"]["tuned"]["training"]["checkpoints"] == [100]


def test_a_checkpoint_of_a_stated_step_is_a_subject(tmp_path):
    """Asked and compared like any other, as an adapter on its base, in one family with its run."""
    raw = made_up.RAW | {
        "training": {"checkpoints": [100, 200]},
        "evaluate": {"subjects": ["base", "tuned", "tuned@100"]},
        "comparisons": [
            {"baseline": "base", "candidate": "tuned"},
            {"baseline": "base", "candidate": "tuned@100"},
        ],
    }
    assert check(raw) == []
    made = made_up.write_study(tmp_path, raw)
    entry = made["subjects"]["tuned@100"]
    assert (entry["form"], entry["run"], entry["step"]) == ("adapter", "tuned", 100)
    assert weights_of(entry, "adapter")["adapter"] == "runs/tuned/steps/100/adapter.json"
    assert weights_of(made["subjects"]["tuned"], "adapter")["adapter"] == "runs/tuned/adapter.json"
    assert {one.family for one in candidates(made)} == {"tuned"}
    cells = load_cells(made, Results(tmp_path))
    (row,) = score_frame(made, cells).to_dict("records")
    assert (row["Run"], row["Step"]) == ("tuned", "100") and "[" in row["GSM8K"]
    errors = check(raw | {"evaluate": {"subjects": ["tuned@150"]}})
    assert any("tuned@150' is no model, run or endpoint" in error for error in errors)


def test_without_a_list_no_checkpoint_is_a_subject():
    for training in ({"checkpoints": "all"}, {"checkpoints": [100], "tuner_type": "full"}):
        subjects = resolve.resolve(made_up.RAW | {"training": training})["subjects"]
        assert set(subjects) == {"base", "tuned"}
