"""How long a study takes: from what was measured, from constants, and on how many cards."""

import made_up
import pytest
from sftflow.config import resolve
from sftflow.core.jsonio import file_digest, read_record, write_jsonl, write_record
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import pace, plan
from sftflow.reporting.text import NONE
from sftflow.training.estimate import estimate
from test_plan import SHAPE, fetched_7b

# The demo on two cores, 2026-11-26: what its training took of its estimate, what its servers took
# until they answered, answers and generated tokens by benchmark, and the seconds of answering.
TRAINED = {"train_seconds": 61.751, "job_seconds": 77.9, "estimate": {"seconds": 285.2}}
BASE = pace.Served(
    [7.782], 4.2,
    {"gsm8k": (24, 633), "ceval": (28, 1000), "cmmlu": (28, 872), "mmlu": (40, 1161),
     "mmlu_pro": (40, 1210), "mmlu_redux": (40, 1139), "super_gpqa": (40, 1178)}, 11.418,
)  # fmt: skip
TUNED = pace.Served(
    [6.48, 6.447], 5.6,
    {"gsm8k": (24, 754), "ceval": (28, 1007), "cmmlu": (28, 993), "mmlu": (40, 1012),
     "mmlu_pro": (40, 979), "mmlu_redux": (40, 987), "super_gpqa": (40, 1015)}, 12.257,
)  # fmt: skip
ENTRY = {"run": "tuned", "form": "merged", "serving": {"gpus": 1, "time_both_forms": True}}


def step(name: str, seconds: float | None, *after: str, gpus: int = 1) -> pace.Step:
    return pace.Step(name, seconds, None, "", after, gpus)


def test_cards_share_what_can_be_done_at_once():
    steps = [
        step("train a", 10), step("merge a", 2, "train a"), step("ask a", 5, "merge a"),
        step("ask base", 6),
    ]  # fmt: skip
    assert pace.wall(steps, 1) == 23
    assert pace.wall(steps, 2) == 17
    assert pace.wall([step("train a", 10, gpus=2), step("ask base", 6)], 2) == 16
    assert pace.wall([step("train a", 10, gpus=4)], 2) == 10  # as many as there are
    assert pace.wall([step("train a", None)], 1) is None
    assert pace.wall([], 1) == 0


def test_seconds_that_overlap_count_once():
    assert pace.covered([(5, 7), (0, 2), (1, 3), (6, 6.5)]) == 5


@pytest.mark.parametrize(("asked", "known"), [(TUNED, BASE), (BASE, TUNED)])
def test_the_other_subject_of_the_demo_tells_what_one_takes(asked, known):
    entry = ENTRY if asked is TUNED else ENTRY | {"run": None, "form": "base"}
    questions = {name: (n, 96) for name, (n, _) in asked.tokens.items()}
    sessions = {"known": known, "asked": asked}
    made = pace.serving_step("asked", entry, "transformers", questions, sessions, 10**6, False)
    assert made.measured == pytest.approx(asked.seconds)
    assert made.seconds == pytest.approx(asked.seconds, rel=0.25)
    assert made.source == "1 subject measured here"
    # twice as many questions: another study, which its own session tells of, too
    more = {name: (2 * n, 96) for name, (n, _) in questions.items()}
    twice = pace.serving_step("asked", entry, "transformers", more, sessions, 10**6, False)
    assert twice.measured is None and twice.source == "2 subjects measured here"
    assert made.seconds < twice.seconds < 2 * made.seconds


def test_a_training_takes_of_its_estimate_what_others_took_of_theirs():
    records = {"tuned": TRAINED | {"run": "tuned", "model": "tiny"}}
    made = pace.training_step("other", "tiny", 171.1, 10**6, records, None, 1)
    assert made.seconds == pytest.approx(171.1 * 61.751 / 285.2 + 16.149)
    assert made.measured is None and made.source == "1 training measured here"
    own = records["tuned"]
    alone = pace.training_step("tuned", "tiny", 285.2, 10**6, records, own, 1)
    assert alone.source == pace.CONSTANTS and alone.measured == 77.9
    assert alone.seconds > 285.2
    unknown = pace.training_step("other", "tiny", None, None, records, None, 1)
    assert unknown.seconds is None


def test_only_the_same_card_and_precision_tell_anything(tmp_path):
    for name, gpus, precision in (
        ("a", ["NVIDIA H100 80GB HBM3"], "torch_dtype"), ("b", [], "torch_dtype"),
        ("c", ["NVIDIA H100 80GB HBM3"], "fp8"), ("d", ["NVIDIA A100-SXM4-80GB"], None),
    ):  # fmt: skip
        settings = {} if precision is None else {"precision": precision}
        record = TRAINED | {"run": name, "hardware": {"gpus": gpus}, "settings": settings}
        write_record(tmp_path / f"runs/{name}/training.json", record)
    write_record(tmp_path / "runs/e/training.json", made_up.training_record("e", {"model": "m"} | {
        "training": {}}))  # fmt: skip
    found = Results(tmp_path)
    assert list(pace.trained(found, "H100", "torch_dtype")) == ["a"]
    assert list(pace.trained(found, "H100", "fp8")) == ["c"]
    assert list(pace.trained(found, None, "torch_dtype")) == ["b"]
    assert list(pace.trained(found, "A100", "torch_dtype")) == ["d"]
    assert pace.measured_card(found) == "H100"
    assert pace.measured_card(Results(tmp_path / "none")) is None


@pytest.fixture
def fetched(tmp_path):
    fetched_7b(tmp_path, resolve.load(made_up.RAW))
    return tmp_path


def rows(folder, gpu: str = "H100", raw: dict = made_up.RAW) -> dict[str, dict]:
    study = resolve.load(raw)
    shown = plan.step_frame(plan.step_rows(study, Results(folder), gpu))
    return {row["Step"]: row for row in shown.to_dict("records")}


def seconds(text: str) -> float:
    if text.endswith(" s"):
        return float(text.removesuffix(" s"))
    hours, minutes, rest = map(int, text.split(":"))
    return 3600 * hours + 60 * minutes + rest


def test_before_anything_is_measured_constants_stand(fetched):
    study = resolve.load(made_up.RAW)
    made = rows(fetched)
    assert {row["From"] for name, row in made.items() if not name.startswith("all")} == {
        pace.CONSTANTS
    }
    assert {row["Measured"] for row in made.values()} == {NONE}
    run = study["runs"]["tuned"]
    cost = estimate(
        run["training"], read_record(fetched / "runs/tuned/receipt.json"), SHAPE, 7_738_000_000,
        plan.hardware(run["training"], "H100"),
    )  # fmt: skip
    taken = seconds(made["train tuned"]["Predicted"])
    assert taken == pytest.approx(cost["seconds"] + pace.BESIDE_STEPS, abs=1)
    parts = [seconds(row["Predicted"]) for name, row in made.items() if not name.startswith("all")]
    assert seconds(made["all, one after another"]["Predicted"]) == pytest.approx(sum(parts), abs=4)
    assert max(parts) < seconds(made["all, on two GPUs"]["Predicted"]) < sum(parts)


@pytest.mark.parametrize("took", [249, 253, 255])
def test_constants_tell_a_7b_training_on_an_h100_within_a_seventh(fetched, took):
    """Measured on 2026-11-28 at this shape: 3.6 M tokens in jobs of so many seconds."""
    receipt = read_record(fetched / "runs/tuned/receipt.json")
    tokens = {"train": 3_600_000, "mean": 654, "max": 2044, "histogram": []}
    write_record(
        fetched / "runs/tuned/receipt.json", receipt | {"train_rows": 5510, "tokens": tokens}
    )
    assert seconds(rows(fetched)["train tuned"]["Predicted"]) == pytest.approx(took, rel=0.15)


@pytest.mark.parametrize(
    ("form", "took"),
    [*(("base", took) for took in (159, 171, 191, 205, 215)), ("merged", 170), ("merged", 173)],
)
def test_constants_tell_what_a_subject_takes_on_an_h100_within_a_quarter(form, took):
    """Measured on 2026-11-28: 6,580 answers, after the machine's first start of vLLM and after its
    second; a tuned model is started once, where nothing times its other form."""
    entry = ENTRY | {"form": form, "serving": {"gpus": 1, "time_both_forms": False}}
    questions = {"general_mcq": (6247, 250)}
    made = pace.serving_step("asked", entry, "vllm", questions, {}, 7_738_000_000, True)
    assert made.seconds == pytest.approx(took, rel=0.25) and made.source == pace.CONSTANTS


@pytest.mark.parametrize(
    ("weights", "took"), [*((1, took) for took in (25, 32, 35, 37, 40)), (3, 43)]
)
def test_constants_tell_what_losses_take_on_an_h100_within_a_quarter(weights, took):
    """Measured on 2026-11-28 in two studies; the first of each on its machine took longest."""
    made = pace.losses_step("losses", "own", weights, 7_738_000_000, {}, (), 1, True)
    assert made.seconds == pytest.approx(took, rel=0.25) and made.source == pace.CONSTANTS


def test_losses_are_foretold_by_those_of_others_on_the_same_card(tmp_path):
    h100 = {"gpus": ["NVIDIA H100 80GB HBM3"]}
    for file, gpus, seconds, computed, steps in (
        ("dialogue/base/likelihood.json", h100, 30.0, 344, None),
        ("dialogue/tuned/curve.json", h100, 45.0, 344 * 3, [{}, {}, {}]),
        ("dialogue/small/likelihood.json", {"gpus": []}, 5.0, 344, None),
        ("dialogue/again/likelihood.json", h100, 1.0, 0, None),  # nothing was left to compute
    ):
        made = {"hardware": gpus, "seconds": seconds, "computed": computed}
        write_record(tmp_path / file, {"provenance": made} | ({"steps": steps} if steps else {}))
    found = pace.losses(Results(tmp_path), "H100")
    assert found == {
        "dialogue/base/likelihood.json": (30.0, 1.0), "dialogue/tuned/curve.json": (45.0, 1.5),
    }  # fmt: skip
    own = "dialogue/base/likelihood.json"
    made = pace.losses_step("losses", own, 1, 10**9, found, (), 1, True)
    assert (made.seconds, made.measured, made.source) == (30.0, 30.0, "1 job measured here")
    four = pace.losses_step("losses", "dialogue/new/curve.json", 4, 10**9, found, (), 1, False)
    assert (four.seconds, four.measured, four.source) == (52.5, None, "2 jobs measured here")
    unknown = pace.losses_step("losses", own, 1, 10**9, {}, (), 1, False)
    assert (unknown.seconds, unknown.source) == (None, pace.NOTHING)


def test_checkpoints_are_looked_at_after_their_training(fetched):
    training = {"checkpoints": "all", "num_train_epochs": 0.5, "save_steps": 1}
    study = resolve.load(raw := made_up.RAW | {"training": training})
    made_steps = plan.steps_of(Results(fetched), "tuned", study["runs"]["tuned"])
    assert isinstance(made_steps, int)
    made = rows(fetched, raw=raw)["losses of checkpoints of tuned"]
    weights = made_steps + 1  # each step's, and the base
    expected = pace.LOSSES * pace.for_weights(weights)
    assert seconds(made["Predicted"]) == pytest.approx(expected, rel=0.02)


def test_weights_that_a_training_leaves_to_look_at():
    assert plan.kept_weights("all", 100, 173) == 3  # the base, step 100, and the last
    assert plan.kept_weights("all", 100, 200) == 3 and plan.kept_weights("all", 100, 50) == 2
    assert plan.kept_weights([20, 60], 20, 60) == 3 and plan.kept_weights([20, 40], 20, 60) == 4
    assert plan.kept_weights("all", 100, None) is None


def test_what_is_not_fetched_yet_has_no_hours(tmp_path):
    assert {row["Predicted"] for row in rows(tmp_path).values()} == {NONE}


def test_answers_of_a_session_are_read_from_its_samples(fetched):
    ready = made_up.readiness("base", {"form": "base"}) | {
        "backend": {"name": "vllm"}, "job_seconds": 20.0, "session": {"device": "cuda:0"},
        "hardware": {"gpus": ["NVIDIA H100 80GB HBM3"]},
    }  # fmt: skip
    write_record(fetched / "subjects/base/readiness.json", ready)
    write_jsonl(fetched / "lines.jsonl", [{"tokens_out": 30}, {"tokens_out": None}])
    study = resolve.load(made_up.RAW)
    (suite, *_) = study["evaluate"]["suites"]
    entry = {
        "status": "ok", "provenance": {"spans": [[100.0, 103.0], [102.0, 105.0]]},
        "parts": {"settings": {"dataset": "gsm8k"}}, "samples": "lines.jsonl",
        "samples_sha256": file_digest(fetched / "lines.jsonl"),
    }  # fmt: skip
    record = {"benchmarks": {"gsm8k": entry, "mmlu": entry | {"status": "failed"}}}
    write_record(fetched / PATHS.evaluation.format(subject="base", suite=suite), record)
    name, card, session = pace.served(study, Results(fetched), "base")
    assert (name, card) == ("vllm", "NVIDIA H100 80GB HBM3")
    assert session == pace.Served([6.1], pytest.approx(13.9), {"gsm8k": (2, 30)}, 5.0)
    assert pace.mean_tokens([session], "gsm8k") == pace.mean_tokens([session], "mmlu") == 15
    assert pace.mean_tokens([], "gsm8k") == pace.ANSWER
