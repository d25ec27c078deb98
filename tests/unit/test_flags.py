"""What is suspicious about a training: made-up records, and where their flags are shown."""

import re

import made_up
import pytest
from sftflow.config import resolve
from sftflow.core.jsonio import read_record, write_record
from sftflow.core.layout import Results
from sftflow.inputs import lengths, sharegpt
from sftflow.reporting import chinese, records, report, text
from sftflow.reporting.flags import KINDS, Flag, training_flags


def trained(first: float, final: float, checks: list[float] = (), se: float = 0.02, **more) -> dict:
    """A training.json's losses: window means with standard error `se`, validation losses in order
    with paired errors `se`."""
    record = {
        "steps": 60, "window_steps": 10, "uniform_loss": 8.7, "curve": {"loss": [first, final]},
        "first_loss": first, "first_loss_se": se, "final_loss": final, "final_loss_se": se,
    }  # fmt: skip
    if checks:
        record |= {
            "validation_loss_before": checks[0], "validation_loss": checks[-1],
            "best_validation_loss": min(checks), "validation_change": checks[-1] - checks[0],
            "validation_change_se": se, "validation_rise": checks[-1] - min(checks),
            "validation_rise_se": se,
        }  # fmt: skip
    return record | more


def kinds(record: dict) -> list[str]:
    return [flag.kind for flag in training_flags("r", record)]


@pytest.mark.parametrize(
    "record, expected",
    [
        (trained(2.0, 1.5, [2.1, 1.8, 1.7]), None),
        (trained(2.0, 1.5), None),
        # nothing is left: near a uniform guess, or twice the validation loss
        (trained(8.6, 8.7, [1.2, 8.7]), "destroyed"),
        (trained(2.0, 4.0, [1.2, 2.5]), "destroyed"),
        (trained(2.0, 8.0), "destroyed"),
        # a first window that is high already does not hide it
        (trained(8.7, 8.7, curve={"loss": [2.0, 8.7]}), "destroyed"),
        # a model that knew nothing is as it was
        (trained(8.7, 8.69, [8.7, 8.7]), "flat"),
        (trained(8.7, 8.0, [8.7, 8.1]), None),
        (trained(2.0, 2.2), "diverged"),
        (trained(2.0, 2.2, [2.1, 2.0]), "diverged"),
        (trained(2.0, 1.99, [2.1, 2.3]), "diverged"),
        (trained(2.0, 2.2, se=0.2), "flat"),
        (trained(2.0, 2.0), "flat"),
        (trained(2.0, 2.01, [2.1, 2.1]), "flat"),
        # the noise of few dialogues a step hides what the validation shows
        (trained(2.0, 1.8, [2.1, 1.9], se=0.09), None),
        # the windows overlap: nothing can be said of the steps alone
        (trained(2.0, 2.0, steps=13), None),
        (trained(2.0, 1.5, [2.1, 1.7, 1.9]), "overfitting"),
        (trained(2.0, 1.5, [2.1, 1.70, 1.71]), None),
        (trained(2.0, 1.5, [2.1, 2.4]), "overfitting"),
        # the smallest trifle is no rise, however small its noise
        (trained(2.0, 1.5, [2.1, 1.7, 1.705], se=0.0), None),
    ],
)
def test_losses(record, expected):
    assert kinds(record) == ([expected] if expected else [])


def test_one_validation_batch_has_no_noise_but_a_trifle():
    record = trained(2.0, 1.99, [2.0, 2.1]) | {"validation_change_se": None}
    assert kinds(record) == ["diverged"]


def test_a_training_that_went_on_without_a_before_is_judged_by_the_rest():
    record = trained(2.0, 1.5, [9.9, 1.6, 2.2])
    del record["validation_loss_before"], record["validation_change"]
    assert kinds(record) == ["overfitting"]


def test_memory_that_ran_out_is_told_beside_the_rest():
    lowered = [{"micro_batch": m, "accumulation": a} for m, a in ((4, 4), (2, 8))]
    found = training_flags("r", trained(2.0, 2.2, out_of_memory=lowered))
    assert [flag.kind for flag in found] == ["diverged", "out of memory"]
    assert "micro-batch lowered to 2 × 8" in found[1].text


def test_what_an_older_version_recorded_is_not_judged():
    assert kinds({"final_loss": 9.9, "curve": {"loss": [1.0]}}) == []


RECORDS = {
    "destroyed": trained(8.6, 8.7, [1.2, 8.7]),
    "diverged": trained(2.0, 2.2),
    "overfitting": trained(2.0, 1.5, [2.1, 1.7, 1.9]),
    "flat": trained(2.0, 2.0),
    "out of memory": trained(2.0, 1.5, out_of_memory=[{"micro_batch": 2, "accumulation": 8}]),
}


DIALOGUE = [
    Flag(
        "overfitted", "r",
        {
            "step": "200", "before": "1.210", "last": "600", "after": "1.430",
            "rise": "+0.2200 [+0.1500, +0.2900]",
        },
    ),
    Flag("prompt", "r", {"prompt": "你好", "faults": "endless, loops"}),
    Flag(
        "broken", "r",
        {"what": "loops", "group": "talks", "before": "0.0", "after": "75.0", "n": "40"},
    ),
    Flag(
        "inconsistent judge", "r",
        {"judge": "strong", "share": "40.0", "least": "60.0", "first": "80.0"},
    ),
    Flag("forgotten", "r", {"text": "zh", "before": "2.0", "after": "2.3", "margin": "0.05"}),
]  # fmt: skip


SCORES = [
    Flag(
        "contaminated", "d",
        {"benchmark": "MMLU", "overlapping": "7", "n": "40", "share": "17.5"},
    ),
    Flag(
        "contaminated verdict", "r",
        {"of": "MMLU", "verdict": "better", "clean": "undecided", "n": "33"},
    ),
    Flag("format shift", "r", {"benchmark": "MMLU", "before": "3.0", "after": "60.0"}),
    Flag("misread", "r", {"benchmark": "MMLU", "share": "50.0", "strict": "20.0"}),
    Flag("cut off", "r", {"benchmark": "MMLU", "share": "35.0"}),
    Flag("unstated", "r", {"benchmark": "MMLU", "share": "35.0"}),
    Flag("empty", "r", {"benchmark": "MMLU", "count": "3", "n": "40"}),
    Flag(
        "off published", "r",
        {"benchmark": "MMLU", "score": "35.0", "published": "71.0", "source": "5-shot, README"},
    ),
    Flag(
        "served unlike", "r",
        {"baseline": "Base", "before": "backend transformers", "after": "backend vllm"},
    ),
    Flag("never better", "r", DIALOGUE[0].values),
    Flag(
        "dropped rows", "d",
        {"dropped": "5", "rows": "100", "share": "5.0", "reasons": "empty turn: 3, not text: 2"},
    ),
    Flag(
        "not comparable", "r",
        {
            "benchmark": "MMLU",
            "why": "unequal sample sets (40 and 39 questions, not the same ones)",
        },
    ),
    Flag("stale", "r", {"what": "MMLU", "changes": "settings.shots: 0 → 5"}),
    Flag("missing", "r", {"benchmark": "MMLU"}),
]  # fmt: skip


def test_every_kind_speaks_chinese():
    flags = [flag for record in RECORDS.values() for flag in training_flags("r", record)]
    flags += DIALOGUE + SCORES
    assert KINDS.keys() == chinese.FLAGS.keys() == chinese.FLAG_NAMES.keys()
    assert sorted(KINDS) == sorted(flag.kind for flag in flags)
    for flag in flags:
        said = chinese.message(flag, "zh")
        assert said.name == chinese.FLAG_NAMES[flag.kind]
        whole, numbers = f"{said.text}。{said.remedy}", re.compile(r"\d+(?:\.\d+)?")
        assert sorted(numbers.findall(whole)) == sorted(numbers.findall(f"{flag}"))
        assert not re.search(r"\b(rose|loss|noise|lower|empty|better|were)\b", whole)


def test_a_kind_says_the_same_in_both_languages():
    """The same values, so that neither leaves out what the other tells."""
    for kind, english in KINDS.items():
        for part in ("text", "remedy"):
            said = (getattr(message, part) for message in (english, chinese.FLAGS[kind]))
            one, other = (sorted(re.findall(r"{\w+}", text)) for text in said)
            assert one == other, kind


def test_reasons_of_dropped_rows_speak_chinese():
    reasons = [*sharegpt.REASONS, lengths.TOO_LONG, lengths.NO_ANSWER, lengths.EXCHANGE]
    assert chinese.REASONS.keys() == {*reasons, lengths.NO_LOSS}


def test_flags_stand_in_table_and_report(tmp_path):
    runs = {f"r{place}": kind for place, kind in enumerate(RECORDS)}
    raw = made_up.RAW | {"runs": dict.fromkeys(runs, made_up.RAW["runs"]["tuned"])}
    raw["evaluate"] = {"subjects": ["base"], "suites": []}
    study = resolve.load(raw)
    made_up.write_records(tmp_path, study)
    for run, kind in runs.items():
        path = tmp_path / f"runs/{run}/training.json"
        was = {k: v for k, v in read_record(path).items() if not k.startswith("validation")}
        made = was | RECORDS[kind]
        made["curve"] = was["curve"] | {"loss": [made["first_loss"], *was["curve"]["loss"][1:]]}
        write_record(path, made)
    table = records.training_table(study, Results(tmp_path))
    assert table.sections[0][1]["Flags"].tolist() == table.data["flags"].tolist() == [*RECORDS]
    found = report.collect(study, Results(tmp_path))
    english, zh = (report.page(language, found) for language in ("en", "zh"))
    assert {flag.kind for flag in found["flags"]} == {*RECORDS, "dropped rows", "contaminated"}
    for flag in found["flags"]:
        said = chinese.message(flag, "zh")
        if flag.kind in RECORDS:
            assert f"- {flag.where}: {flag}\n" in text.render(table)
        for page, words in ((english, chinese.message(flag, "en")), (zh, said)):
            first, _, problems = page.partition("## 10.")
            for part in (words.name, words.text, words.remedy):
                assert part in problems
            assert f"**{words.name}**" in first.partition("## 2.")[0]
        assert said.name in zh.partition("## 5.")[2].partition("## 10.")[0] or (
            flag.kind not in RECORDS
        ), "in the table"
