"""Scores from sample-level records: evalscope's figure, reproducible, honest at extremes."""

import json
from pathlib import Path

import made_up
import pytest
import score
from sftflow.config import resolve
from sftflow.core import cli
from sftflow.core.cli import UserError
from sftflow.core.jsonio import file_digest, read_json, write_jsonl, write_record
from sftflow.scoring import scores

STUDY = resolve.load(made_up.RAW)


def scored(records: list[dict], overlapping: set[str] | None = None) -> dict:
    return scores.score(records, overlapping, 0.95)


SETTINGS = '{"confidence": 0.95}'


@pytest.fixture
def session(tmp_path: Path) -> Path:
    records = made_up.samples(0.55, 1, STUDY["benchmarks"]["mmlu"])
    return made_up.write_session(tmp_path, STUDY, "base", "psychology", {"mmlu": records})


@pytest.fixture
def run(session, monkeypatch, capsys):
    """Call the program as the rule does; gives (exit status, what it says on stderr)."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(
            "sys.argv",
            ["score.py", "--evaluation", str(session), "--settings", SETTINGS, *arguments],
        )
        return cli.run(score.main), capsys.readouterr().err

    return call


def test_a_score_holds_what_the_design_promises(session, run):
    assert run() == (0, "")
    found = read_json(session.parents[2] / "scores/base/mmlu.json")
    promised = (
        "schema subject benchmark suite metric n score stderr ci95 macro_f1 unparsed truncated "
        "strict misread empty subsets samples identity provenance"
    )
    assert set(promised.split()) <= found.keys()
    assert found["n"] == 40
    assert [subset["n"] for subset in found["subsets"]] == [20, 20]
    for part in (found, *found["subsets"]):
        assert part["strict"]["ci95"] and (part["misread"], part["empty"]) == (0, 0)
    assert found["score"] == pytest.approx(np_mean(found["subsets"]))
    assert found["ci95"][0] < found["score"] < found["ci95"][1]
    assert found["chance"] == 0.25
    assert {"weights", "data", "settings", "generation", "backend", "git"} <= found[
        "provenance"
    ].keys()


def np_mean(subsets: list[dict]) -> float:
    return sum(subset["score"] * subset["n"] for subset in subsets) / sum(s["n"] for s in subsets)


def test_the_same_samples_give_the_same_bytes_in_any_order(session, run):
    results = session.parents[2]
    path = results / "scores/base/mmlu.json"
    run()
    first = path.read_bytes()
    run()
    assert path.read_bytes() == first
    evaluation = read_json(session)
    entry = evaluation["benchmarks"]["mmlu"]
    lines = (results / entry["samples"]).read_text().splitlines()
    write_jsonl(results / entry["samples"], [json.loads(line) for line in reversed(lines)])
    entry["samples_sha256"] = file_digest(results / entry["samples"])
    write_record(session, evaluation)
    run()
    assert path.read_bytes() == first


@pytest.mark.parametrize("what", ["score", "subset"])
def test_a_figure_other_than_evalscopes_fails_and_shows_both(session, run, what):
    evaluation = read_json(session)
    figure = evaluation["benchmarks"]["mmlu"]["evalscope"]
    if what == "score":
        figure["score"] = round(figure["score"] + 0.0003, 4)
    else:
        name = "high_school_psychology"
        figure["subsets"][name] = round(figure["subsets"][name] + 0.0001, 4)
    write_record(session, evaluation)
    status, said = run()
    assert status == 1
    assert "from the samples" in said and "by evalscope" in said
    assert not (session.parents[2] / "scores").exists()


def test_missing_and_changed_answers_are_errors(session, run):
    results = session.parents[2]
    samples = results / read_json(session)["benchmarks"]["mmlu"]["samples"]
    samples.write_text(samples.read_text() + "\n")
    assert "digest" in run()[1]
    samples.unlink()
    assert "missing" in run()[1]
    status, said = run("--benchmark", "gsm8k")
    assert status == 1 and "holds no benchmark gsm8k" in said


def test_an_option_whose_score_contradicts_it_is_an_error(session, run):
    evaluation = read_json(session)
    entry = evaluation["benchmarks"]["mmlu"]
    path = session.parents[2] / entry["samples"]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[3]["extracted"] = "D" if records[3]["extracted"] != "D" else "A"
    write_jsonl(path, records)
    entry["samples_sha256"] = file_digest(path)
    write_record(session, evaluation)
    assert "was read as" in run()[1]


def test_a_benchmark_that_did_not_finish_is_no_score(session, run):
    evaluation = read_json(session)
    evaluation["benchmarks"]["mmlu"]["status"] = "failed"
    write_record(session, evaluation)
    assert "did not finish" in run()[1]


@pytest.mark.parametrize("right", [True, False])
def test_all_right_and_all_wrong(right):
    found = scored([made_up.sample(i, right) for i in range(20)])
    assert found["score"] == float(right)
    assert found["macro_f1"] == float(right)
    low, high = found["ci95"]
    assert (low, high) == pytest.approx((0.839, 1) if right else (0, 0.161), abs=1e-3)


def test_one_sample_has_no_standard_error_but_an_interval():
    found = scored([made_up.sample(0, True)])
    assert (found["n"], found["stderr"]) == (1, None)
    assert found["ci95"] == pytest.approx([0.2065, 1], abs=1e-4)


UNSTATED = {"stated": None, "right": False}


def test_nothing_stated():
    records = [made_up.sample(i, False, extracted="", **UNSTATED) for i in range(8)]
    found = scored(records)
    assert (found["unparsed"], found["accuracy_stated"], found["macro_f1"]) == (8, None, 0)
    assert found["strict"]["score"] == 0


def test_lost_format_and_lost_knowledge_are_told_apart():
    records = [made_up.sample(i, True) for i in range(6)]
    records += [
        made_up.sample(i, False, extracted="", ending="cut off", **UNSTATED) for i in range(6, 10)
    ]
    found = scored(records)
    assert found["score"] == 0.6
    assert found["accuracy_stated"] == 1
    assert (found["unparsed"], found["truncated"]) == (4, 4)


def test_lucky_finds_score_and_are_not_strictly_right():
    records = [made_up.sample(i, True) for i in range(5)]
    records += [made_up.sample(i, True, **UNSTATED) for i in range(5, 15)]
    records += [made_up.sample(i, False) for i in range(15, 20)]
    found = scored(records)
    assert (found["score"], found["strict"]["score"], found["misread"]) == (0.75, 0.25, 0)
    low, high = found["strict"]["ci95"]
    assert low < 0.25 < high < found["score"]
    assert found["form"] == {
        "stated_right": 5, "stated_wrong": 5, "unstated_right": 10, "unstated_wrong": 0,
    }  # fmt: skip


def test_what_was_read_otherwise_than_stated_is_counted():
    records = [made_up.sample(i, True) for i in range(6)]
    records += [made_up.sample(i, False, stated="ABCD"[i % 4], right=True) for i in range(6, 10)]
    found = scored(records)
    assert (found["score"], found["strict"]["score"], found["misread"]) == (0.6, 1.0, 4)
    assert found["accuracy_stated"] == 1


def test_answers_without_text_are_counted_and_wrong():
    records = [made_up.sample(i, True) for i in range(3)]
    records += [
        made_up.sample(i, False, answer="", extracted="", ending=end, **UNSTATED)
        for i, end in ((3, "refused"), (4, "empty"), (5, "cut off"))
    ]
    found = scored(records)
    assert (found["score"], found["empty"], found["truncated"], found["unparsed"]) == (0.5, 3, 1, 3)


@pytest.mark.parametrize(
    ("target", "read", "score"),
    [
        (["A", "C"], "A", 1), (["A", "C"], "C", 1), (["A", "C"], "B", 0), ([*"ABCD"], "D", 1),
        ("b", "B", 1), ("B", "b", 1), ("AC", "CA", 1), ("AC", "A", 0.5), ("(B)", "B", 0),
        ("B", "", 0),
    ],
)  # fmt: skip
def test_every_legal_result_has_a_score(target, read, score):
    sample = made_up.sample(0, True, target=target, extracted=read, score=score)
    scores.check_choices("mmlu_redux", [sample])
    found = scored([sample, made_up.sample(3, True)])
    assert found["score"] == (1 + score) / 2
    assert found["macro_f1"] == (1.0 if score == 1 else 0.5)


def test_graded_answers_have_a_score_and_no_strict_one(tmp_path):
    study = resolve.load(
        made_up.RAW
        | {"benchmarks": {"general_qa": {"source": "own"}}, "suites": {"general": ["general_qa"]}}
    )
    records = [
        made_up.sample(i, True, choices=None, score=i / 10, right=None, stated="text")
        for i in range(11)
    ]
    session = made_up.write_session(tmp_path, study, "base", "general", {"general_qa": records})
    made = scores.score_file(
        tmp_path, read_json(session), "general_qa", {"benchmarks": {}}, {"confidence": 0.95}
    )
    assert made["score"] == pytest.approx(0.5)
    assert made["strict"] is made["form"] is made["accuracy_stated"] is None
    assert made["misread"] == made["unparsed"] == 0


def test_records_of_an_older_version_say_what_to_do(session, run):
    evaluation = read_json(session)
    entry = evaluation["benchmarks"]["mmlu"]
    path = session.parents[2] / entry["samples"]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, [{k: v for k, v in r.items() if k != "stated"} for r in records])
    entry["samples_sha256"] = file_digest(path)
    write_record(session, evaluation)
    assert "evaluations/base/*.json, and run again: answers are kept" in run()[1]


def test_chance_counts_every_right_option():
    records = [made_up.sample(0, True), made_up.sample(1, True, target=["B", "C"])]
    assert scored(records)["chance"] == pytest.approx((1 / 4 + 2 / 4) / 2)


def test_numbers_have_no_f1_and_no_chance():
    found = scored([made_up.sample(i, i % 2 == 0, choices=None) for i in range(10)])
    assert found["macro_f1"] is None and found["chance"] is None


def test_the_clean_subset_leaves_out_what_was_trained_on():
    records = [made_up.sample(i, i < 5) for i in range(10)]
    seen = {record["id"] for record in records[:4]}
    found = scored(records, seen)
    assert found["clean"]["n"] == 6
    assert found["clean"]["score"] == pytest.approx(1 / 6)
    assert found["items"]["clean"].count("1") == 6
    everything = scored(records, {record["id"] for record in records})
    assert everything["clean"] == {"n": 0, "score": None, "stderr": None, "ci95": None}
    assert scored(records)["clean"] is None


def test_repeats_count_a_question_once():
    records = [
        made_up.sample(i, (i + repeat) % 3 > 0, repeat=repeat)
        for i in range(30)
        for repeat in range(4)
    ]
    found = scored(records)
    assert (found["n"], found["answers"], found["repeats"]) == (30, 120, 4)
    assert len(found["items"]["scores"]) == 30
    assert found["items"]["scores"][0] == pytest.approx(0.75, abs=0.26)


def test_unequal_repeats_are_an_error():
    records = [made_up.sample(0, True), made_up.sample(0, True, repeat=1), made_up.sample(1, True)]
    with pytest.raises(UserError, match="equally often"):
        scored(records)


def test_a_question_that_a_benchmark_holds_twice_stays_two_items():
    twin = made_up.sample(1, False, id=made_up.sample(0, True)["id"])
    found = scored([made_up.sample(0, True), twin])
    assert found["n"] == 2 and found["score"] == 0.5


def test_questions_that_share_a_passage_are_clustered():
    records = [made_up.sample(i, i % 10 < 5, cluster=f"passage {i // 5}") for i in range(40)]
    apart = scored([made_up.sample(i, i % 10 < 5) for i in range(40)])
    found = scored(records)
    assert found["score"] == apart["score"]
    assert found["stderr"] > 2 * apart["stderr"]
    assert found["ci95"][1] - found["ci95"][0] > apart["ci95"][1] - apart["ci95"][0]


def test_graded_scores_have_a_t_interval():
    found = scored([made_up.sample(i, True, choices=None, score=i / 10) for i in range(11)])
    assert found["score"] == pytest.approx(0.5)
    assert found["ci95"] == pytest.approx([0.2772, 0.7228], abs=1e-4)  # 0.5 ± 2.2281 × 0.1
