"""The table of dialogue: from records of single texts and answers to verdicts and flags."""

import json
import random
from math import exp

import made_up
import numpy as np
import pytest
from scipy import stats as scipy_stats
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import Results
from sftflow.reporting import report
from sftflow.reporting.dialogue import Compared, dialogue_flags, dialogue_table
from sftflow.reporting.evidence import Evidence
from sftflow.scoring import stats

FINE = ("That sounds hard. What would help you now?", "stop", "I feel low today.")
BROKEN = ("I see. " * 20, "length", "I feel low today.")


def study(folder, shift: float, broken: int = 0, neutral: float = 0.0) -> dict:
    """40 held-out dialogues whose loss falls by about `shift` nats per token, 60 passages that lose
    `neutral`, 40 answers of which `broken` are broken after the training."""
    made = made_up.write_study(folder)
    made_up.write_records(folder, made)
    chance = random.Random(7)
    talks = [(chance.randint(20, 300), chance.uniform(1.5, 2.5)) for _ in range(40)]
    plain = [(chance.randint(50, 100), chance.uniform(2, 3)) for _ in range(60)]

    def losses(down: float, up: float) -> dict:
        return {
            "talks": [(n, n * (loss - down + chance.gauss(0, 0.05))) for n, loss in talks],
            "zh": [(n, n * (loss + up + chance.gauss(0, 0.01))) for n, loss in plain],
        }

    opening = ("talks", "opening")
    made_up.write_dialogue(folder, made, "base", losses(0, 0), {opening: [FINE] * 40})
    answers = {opening: [BROKEN] * broken + [FINE] * (40 - broken)}
    made_up.write_dialogue(folder, made, "tuned", losses(shift, neutral), answers)
    return made


def table(folder, made: dict) -> dict:
    evidence = Evidence(made, Results(folder), {})
    return dialogue_table(evidence.talk, evidence.claims)


def sections(folder, made: dict) -> dict:
    return dict(table(folder, made).sections)


def test_losses_recomputed_from_their_records(tmp_path):
    """The ratio estimator and its jackknife, worked out here from the lines of the two files."""
    made = study(tmp_path, shift=0.3)
    data = table(tmp_path, made).data
    (row,) = data[(data["what"] == "loss") & (data["group"] == "talks")].to_dict("records")
    sides = []
    for subject in ("base", "tuned"):
        lines = (tmp_path / f"dialogue/{subject}/likelihood.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines if '"talks"' in line]
        sides.append(np.array([(line["tokens"], line["nll"]) for line in found]))
    tokens, change = sides[0][:, 0], sides[1][:, 1] - sides[0][:, 1]
    difference = change.sum() / tokens.sum()
    left_out = [np.delete(change, i).sum() / np.delete(tokens, i).sum() for i in range(40)]
    error = (39 / 40 * np.square(left_out - np.mean(left_out)).sum()) ** 0.5
    half = scipy_stats.t.ppf(0.975, 39) * error
    assert row["difference"] == pytest.approx(difference)
    assert row["ci_low"] == pytest.approx(difference - half, rel=1e-3)
    assert row["ci_high"] == pytest.approx(difference + half, rel=1e-3)
    shown = sections(tmp_path, made)["Likelihood"].to_dict("records")[0]
    assert shown["Verdict"] == "better" and shown["Candidate"] == "tuned"
    assert shown["Perplexity"].startswith(f"{exp(sides[0][:, 1].sum() / tokens.sum()):.3f} →")


def test_the_six_questions_and_what_was_not_measured(tmp_path):
    made = study(tmp_path, shift=0.3, neutral=0.2)
    (row,) = sections(tmp_path, made)["Six questions"].to_dict("records")
    assert row["Held-out dialogues"] == "better" and row["Forgetting"] == "worse"
    assert row["Behaviour"] == "undecided"  # 40 answers, none with a fault: up to 9 % are possible
    assert row["Preference"] == row["Safety"] == "not measured"
    assert "general: " in row["Knowledge"]


def test_who_never_knew_a_language_can_not_have_kept_it(tmp_path):
    """A demo's tiny model finds neutral text as unlikely as a guess; "not worse" would mislead."""
    made = study(tmp_path, shift=0.3)
    for subject, loss in (("base", 6.8), ("tuned", 6.0)):
        losses = {"zh": [(50, 50 * loss + i) for i in range(9)]}
        made_up.write_dialogue(tmp_path, made, subject, losses, {})
    found = sections(tmp_path, made)
    assert "no more of it than a guess" in found["Likelihood"].to_dict("records")[0]["Verdict"]
    assert found["Six questions"].to_dict("records")[0]["Forgetting"] == "not measured"


def test_language_that_was_kept(tmp_path):
    made = study(tmp_path, shift=0.3, neutral=0.0)
    (row,) = sections(tmp_path, made)["Six questions"].to_dict("records")
    assert row["Forgetting"] == "not worse"
    assert [flag.kind for flag in dialogue_flags(Compared(made, Results(tmp_path)))] == []


def test_following_instructions_is_no_knowledge_and_can_be_forgotten(tmp_path):
    """A suite of IFEval alone stands in the profile of forgetting, and among the six questions."""
    raw = json.loads(json.dumps(made_up.RAW))
    raw["suites"]["instructions"] = ["ifeval"]
    made = made_up.write_study(tmp_path, raw, {"base": 1.0, "tuned": 0.1})
    made_up.write_records(tmp_path, made)
    found = sections(tmp_path, made)
    profile = found["Forgetting"].set_index("Of")
    assert profile.loc["suite instructions", "What"] == "Instruction following"
    assert profile.loc["suite instructions", "Verdict"] == "worse"
    (row,) = found["Six questions"].to_dict("records")
    assert row["Forgetting"] == "worse" and "instructions" not in row["Knowledge"]
    page = report.page("zh", report.collect(made, Results(tmp_path)))
    assert "指令遵循" in page


def test_answers_that_broke_are_flagged_with_their_share(tmp_path):
    made = study(tmp_path, shift=0.0, broken=30)
    shown = sections(tmp_path, made)["Behaviour"].to_dict("records")[0]
    assert shown["Loops"] == "0.0 → 75.0 *" and shown["Empty"] == "0.0 → 0.0"
    flags = dialogue_flags(Compared(made, Results(tmp_path)))
    assert {(flag.kind, flag.values["what"]) for flag in flags} == {
        ("broken", "endless"), ("broken", "loops"),
    }  # fmt: skip
    assert "from 0.0 % to 75.0 % of 40 answers" in str(flags[0])
    page = report.page("en", report.collect(made, Results(tmp_path)))
    assert "from 0.0 % to 75.0 %" in page.split("## 2.")[0]  # in the first section
    assert "循环重复" in report.page("zh", report.collect(made, Results(tmp_path)))


def test_one_broken_answer_of_forty_is_no_flag(tmp_path):
    made = study(tmp_path, shift=0.0, broken=1)
    assert dialogue_flags(Compared(made, Results(tmp_path))) == []


def test_a_fixed_prompt_whose_answer_broke_is_flagged(tmp_path):
    """你好, answered well before and with an endless loop after."""
    made = study(tmp_path, shift=0.0)
    path = tmp_path / "subjects/tuned/chat.json"
    record = read_record(path)
    record["answers"][0] |= {"answer": "很高人" + "选一个人" * 60, "finish_reason": "length"}
    write_record(path, record)
    (flag,) = dialogue_flags(Compared(made, Results(tmp_path)))
    assert flag.kind == "prompt" and "你好" in flag.text and "endless, loops" in flag.text


def test_other_tokenizers_are_not_compared(tmp_path):
    made = study(tmp_path, shift=0.0)
    losses = {"talks": [(10, 20.0)] * 40}
    made_up.write_dialogue(tmp_path, made, "base", losses, {})
    (row,) = sections(tmp_path, made)["Likelihood"].to_dict("records")
    assert "other tokenizers" in row["Verdict"]


def test_what_other_settings_gave_is_left_out_and_said(tmp_path):
    made = study(tmp_path, shift=0.3)
    made["dialogue"] |= {"max_length": 99}
    found = table(tmp_path, made)
    assert dict(found.sections)["Likelihood"].empty
    assert any("dialogue.max_length: 4096 → 99" in note for note in found.notes)


def test_table_and_report_say_the_same_of_a_suite_that_is_not_compared(tmp_path):
    """A score that is missing gives no row with a number that is none."""
    made = study(tmp_path, shift=0.3)
    (tmp_path / "scores/tuned/gsm8k.json").unlink()
    shown = report.collect(made, Results(tmp_path))["dialogue"]
    expected = sections(tmp_path, made)
    for name in ("Six questions", "Forgetting"):
        assert shown[name].to_dict("records") == expected[name].to_dict("records")
    assert not shown["Forgetting"].astype(str).isin(["nan"]).any(axis=None)


def test_without_any_record_everything_is_not_measured(tmp_path):
    made = made_up.write_study(tmp_path)
    made_up.write_records(tmp_path, made)
    (row,) = sections(tmp_path, made)["Six questions"].to_dict("records")
    assert row["Held-out dialogues"] == row["Forgetting"] == row["Behaviour"] == "not measured"


@pytest.mark.parametrize("n", [12, 160])
def test_coverage_of_a_loss_difference(n):
    """Made-up dialogues of very unequal lengths whose changes hang together within each."""
    generator = np.random.default_rng(n)
    held, trials = 0, 2000
    for _ in range(trials):
        sizes = generator.lognormal(4.5, 0.7, n).astype(int) + 1
        change = sizes * generator.normal(0.1, 0.3, n)
        interval = stats.compare_totals(np.zeros(n), change, sizes).interval(0.05)
        held += interval[0] <= 0.1 <= interval[1]
    noise = 3 * (0.05 * 0.95 / trials) ** 0.5
    least = 0.935 if n == 12 else 0.945  # a ratio of few and unequal texts covers a little less
    assert least - noise <= held / trials <= 0.96 + noise
