"""Claims: which family each is tested in, what its verdict rests on, and that its cells agree."""

import re
from pathlib import Path

import made_up
import numpy as np
import pytest
from sftflow.config import resolve
from sftflow.core.jsonio import digest, read_json, write_json
from sftflow.core.layout import Results
from sftflow.evaluation.samples import same_question
from sftflow.reporting import cells as reading
from sftflow.reporting import comparison, tables, text
from sftflow.reporting.chinese import translate
from sftflow.scoring import stats

OWN = {"preset": "general_mcq", "source": "q", "subsets": ["all"]}
RAW = made_up.RAW | {
    "benchmarks": {name: OWN for name in ("one", "two", "three", "other")},
    "suites": {"first": ["one", "two", "three"], "second": ["other"]},
}


def answers(fixed: int, broken: int, n: int, name: str = "q") -> tuple[list[dict], list[dict]]:
    """Before and after: the first questions fixed, the next broken, half of the rest right."""
    before, after = [], []
    for i in range(n):
        was = fixed <= i < fixed + broken or (i >= fixed + broken and i % 2 == 0)
        now = i < fixed or (i >= fixed + broken and i % 2 == 0)
        for records, right in ((before, was), (after, now)):
            records.append(made_up.sample(i, right, "all", same=digest([name, i])))
    return before, after


def outcomes(counts: dict[str, tuple[int, int, int]]) -> dict[str, tuple]:
    """{benchmark: (records before, records after)} from (fixed, broken, n) of each."""
    return {name: answers(*count, name) for name, count in counts.items()}


def write(results: Path, study: dict, found: dict[str, dict], overlaps: dict | None = None) -> None:
    """Scores from {candidate: outcomes}; the base's are those before of the first candidate."""
    subjects = {"base": {b: before for b, (before, _) in next(iter(found.values())).items()}}
    subjects |= {name: {b: after for b, (_, after) in own.items()} for name, own in found.items()}
    for subject, own in subjects.items():
        for suite, names in study["suites"].items():
            if mine := {b: own[b] for b in names if b in own}:
                session = made_up.write_session(results, study, subject, suite, mine)
                made_up.write_scores(results, session, (overlaps or {}).get(subject))


def rows(results: Path, study: dict) -> dict[tuple, dict]:
    """Claims by (candidate, benchmark or suite)."""
    cells = reading.load_cells(study, Results(results))
    found = comparison.comparison_rows(study, cells)
    return {(row["candidate"], row["benchmark"] or row["suite"]): row for row in found}


def table(results: Path, study: dict) -> text.Table:
    return tables.build(study, Results(results), {}, ["comparison"])[0]


FOUND = {"one": (16, 6, 40), "two": (17, 3, 40), "three": (7, 6, 40), "other": (5, 4, 40)}


@pytest.fixture
def study() -> dict:
    return resolve.load(RAW)


def test_the_suite_stands_first_and_is_not_adjusted(tmp_path, study):
    write(tmp_path, study, {"tuned": outcomes(FOUND)})
    found = list(rows(tmp_path, study).values())
    assert [row["benchmark"] for row in found] == ["", "one", "two", "three", "", "other"]
    whole = found[0]
    assert (whole["n"], whole["fixed"], whole["broken"]) == (120, 40, 15)
    assert whole["p"] == whole["p_holm"] == stats.compare_counts(40, 15, 120).p
    assert whole["level"] == pytest.approx(0.05)
    assert [heading for heading, _ in table(tmp_path, study).sections][:2] == [
        "Suites", "Benchmarks",
    ]  # fmt: skip


def test_another_suite_or_a_missing_score_claims_no_more(tmp_path, study):
    """As observed: leaving out `general`, or a score, turned "no evidence" into "better"."""
    counted = {"one": (16, 6, 40), "two": (14, 5, 40), "three": (13, 4, 40), "other": (5, 4, 40)}
    write(tmp_path, study, {"tuned": outcomes(counted)})
    before = rows(tmp_path, study)
    alone = resolve.load(RAW | {"evaluate": {"suites": ["first"]}})
    for key, row in rows(tmp_path, alone).items():
        assert (row["p_holm"], row["verdict"]) == (before[key]["p_holm"], before[key]["verdict"])
    (tmp_path / "scores/tuned/two.json").unlink()
    after = rows(tmp_path, study)
    for name in ("one", "three"):
        assert after["tuned", name]["p_holm"] >= before["tuned", name]["p_holm"]
    # the smallest p is still tested as one of three planned
    assert after["tuned", "three"]["p_holm"] == pytest.approx(3 * after["tuned", "three"]["p"])
    assert after["tuned", "two"]["verdict"] == "not compared: tuned: missing"
    assert after["tuned", "first"]["verdict"].startswith("not compared: incomplete")


def test_interval_verdict_and_p_agree_in_every_row(tmp_path, study):
    """Over many studies of small counts, with what Holm's procedure makes of them."""
    random = np.random.default_rng(0)
    edges = 0
    for _ in range(300):
        claims = [
            {"result": stats.compare_counts(int(f), int(b), 40)}
            for f, b in random.integers(0, 15, size=(7, 2))
        ]
        levels = stats.holm([claim["result"].p for claim in claims], 0.05)
        for claim, (adjusted, level) in zip(claims, levels, strict=True):
            claim |= {"p_holm": adjusted, "level": level}
            comparison.judge(claim, 0.02)
            excluded = claim["ci_low"] > 0 or claim["ci_high"] < 0
            assert excluded == (claim["p_holm"] < 0.05) == (claim["verdict"] in ("better", "worse"))
            assert (claim["needed"] is not None) == (claim["verdict"] == "undecided")
            edges += claim["p"] < 0.05 <= claim["p_holm"]
            shown = text.points(claim["difference"], (claim["ci_low"], claim["ci_high"]))
            low, high = re.findall(r"[-+][\d.e-]+", shown)[1:]
            assert (float(low) > 0 or float(high) < 0) == excluded
    assert edges > 20  # where an unadjusted interval would contradict


def test_four_verdicts_with_the_questions_that_would_decide(tmp_path):
    raw = RAW | {"statistics": {"margin": 0.05}}
    study = resolve.load(raw)
    counts = {"one": (40, 2, 300), "two": (2, 40, 300), "three": (3, 3, 300), "other": (9, 4, 60)}
    write(tmp_path, study, {"tuned": outcomes(counts)})
    found = rows(tmp_path, study)
    said = {name: found["tuned", name]["verdict"] for name in counts}
    assert said == {
        "one": "better", "two": "worse", "three": "practically the same", "other": "undecided",
    }  # fmt: skip
    open_ = found["tuned", "other"]
    assert open_["needed"] == stats.questions_needed(5 / 60, 14 / 62, 0.05)
    assert open_["detectable"] == stats.detectable(60, 14 / 62, 0.05)
    shown = {
        r["Benchmark"]: r
        for r in dict(table(tmp_path, study).sections)["Benchmarks"].to_dict("records")
    }
    verdict = shown["other"]["Verdict"]
    assert (
        verdict == f"undecided (about {comparison.roughly(open_['needed'])} questions would decide)"
    )
    chinese = translate(dict(table(tmp_path, study).sections)["Benchmarks"], "zh")["结论"]
    assert list(chinese)[:3] == ["更好", "更差", "基本持平"] and "题可下结论" in list(chinese)[3]


@pytest.mark.parametrize("count", [1, 9, 47, 101, 1234, 99_999])
def test_a_count_is_rounded_up_to_two_digits(count):
    shown = int(comparison.roughly(count).replace(",", ""))
    assert count <= shown < 1.1 * count + 1 and len(str(shown).rstrip("0")) <= 2


def test_questions_that_would_decide_are_more_than_there_are():
    for fixed in range(25):
        for broken in range(25):
            claim = {"result": stats.compare_counts(fixed, broken, 60), "p_holm": 1, "level": 0.05}
            comparison.judge(claim, 0.02)
            if claim["verdict"] == "undecided":
                assert claim["needed"] > 60


def test_detectable_is_worked_out_at_the_verdicts_level(tmp_path, study):
    write(tmp_path, study, {"tuned": outcomes(FOUND)})
    found = rows(tmp_path, study)["tuned", "three"]
    assert found["level"] < 0.05
    discordance = 14 / 42
    assert found["detectable"] == stats.detectable(40, discordance, found["level"])
    assert stats.power(40, found["detectable"], discordance, found["level"]) == pytest.approx(
        0.8, abs=0.005
    )


def test_the_points_of_a_sweep_are_one_family(tmp_path):
    sweep = {"rank": {"run": "tuned", "grid": {"lora_rank": [4, 8, 16, 32]}}}
    study = resolve.load(RAW | {"sweeps": sweep})
    points = [name for name, run in study["runs"].items() if run["sweep"]]
    same = outcomes({name: (12, 3, 40) for name in FOUND})
    write(tmp_path, study, {name: same for name in ("tuned", *points)})
    found = rows(tmp_path, study)
    p = found["tuned", "one"]["p"]
    assert found["tuned", "one"]["p_holm"] == pytest.approx(3 * p)  # its suite's benchmarks
    for name in points:
        assert found[name, "one"]["p_holm"] == pytest.approx(12 * p)
        whole = found[name, "first"]
        assert whole["p_holm"] == pytest.approx(4 * whole["p"])
        low, high = found[name, "one"]["ci_low"], found["tuned", "one"]["ci_low"]
        assert low < high


# --- one question is one question ----------------------------------------------------------------

STEM = "Which lobe of the brain receives what the eyes send through the thalamus?"


def test_the_same_question_is_known_however_it_is_set():
    four, ten = ["occipital", "frontal"], ["occipital", "frontal", "parietal", "limbic"]
    known = same_question(STEM, four)
    for text_, options in (
        (f"  {STEM.upper()}\n", four),
        (STEM.replace("?", " ?").replace("brain", "“brain”"), four[::-1]),
        (STEM.replace("W", "Ｗ"), ten),  # MMLU-Pro: the same stem with more options
    ):
        assert same_question(text_, options) == known
    assert same_question(STEM.replace("eyes", "ears"), four) != known


def test_a_stem_that_could_be_anyones_counts_with_its_options():
    short = "Which of the following is true?"
    assert same_question(short, ["a", "b"]) == same_question(short, ["b", "A"])
    assert same_question(short, ["a", "b"]) != same_question(short, ["a", "c"])
    assert same_question("下列说法正确的是", ["甲", "乙"]) != same_question(
        "下列说法正确的是", ["甲"]
    )
    long = "在经典条件反射实验中，铃声在与食物多次配对之后成为"
    assert same_question(long, ["甲", "乙"]) == same_question(long, ["乙", "丙", "丁"])


@pytest.mark.parametrize(("one", "other"), [("3 + 4", "3 - 4"), ("1.5 m", "15 m"), ("x<y", "x>y")])
def test_what_changes_a_question_is_not_left_out(one, other):
    assert same_question(f"Compute {one}", None) != same_question(f"Compute {other}", None)


def shared_study(results: Path, study: dict) -> dict[str, tuple]:
    """Benchmark `two` begins with the first 20 questions of `one`."""
    found = outcomes(FOUND)
    for records in found["two"]:
        for record in records[:20]:
            record["same"] = digest(["one", record["index"]])
    write(results, study, {"tuned": found})
    return found


def test_a_question_of_two_benchmarks_counts_once_in_the_suite(tmp_path, study):
    found = shared_study(tmp_path, study)
    whole = rows(tmp_path, study)["tuned", "first"]
    assert whole["n"] == 100 and whole["shared"] == 20
    assert "20 questions stand in several benchmarks: each counts once" in whole["note"]
    changes: dict[str, list[float]] = {}
    for name in ("one", "two", "three"):
        for before, after in zip(*found[name], strict=True):
            changes.setdefault(before["same"], []).append(after["score"] - before["score"])
    once = np.array([np.mean(each) for each in changes.values()])
    assert len(once) == 100
    assert whole["difference"] == pytest.approx(once.mean())
    assert whole["fixed"] == (once > 0).sum() and whole["test"] == stats.SIGN_FLIP
    assert whole["p"] == pytest.approx(stats.compare(np.zeros(100), once).p)
    page = text.render(tables.build(study, Results(tmp_path), {}, ["first"])[0])
    assert "20 of the suite's 100 questions stand in several of its benchmarks" in page


def test_a_question_of_two_benchmarks_is_resampled_as_one(tmp_path, study):
    shared_study(tmp_path, study)
    cells = reading.load_cells(study, Results(tmp_path))
    draws = reading.suite_draws(study, cells)
    whole = rows(tmp_path, study)["tuned", "first"]
    for side in ("base", "tuned"):
        mean, drawn, _ = draws["first", side]["micro"]
        key = "baseline_score" if side == "base" else "candidate_score"
        assert mean == pytest.approx(whole[key])
        assert drawn.mean() == pytest.approx(mean, abs=0.01)
        single = [cells[side, name].score["score"] for name in ("one", "two", "three")]
        assert draws["first", side]["macro"][0] == pytest.approx(np.mean(single))
    (_, old, _), (_, new, _) = (draws["first", side]["micro"] for side in ("base", "tuned"))
    parts = [cells["base", name].score["items"] for name in ("one", "two", "three")]
    layout = reading.suite_items(parts)
    scores = [
        layout.together([reading.item_scores(cells[s, b].score) for b in ("one", "two", "three")])
        for s in ("base", "tuned")
    ]
    changes = scores[1] - scores[0]
    of = [frozenset(layout.benchmark[layout.question == place]) for place in range(100)]
    kinds = [changes[[own == kind for own in of]] for kind in set(of)]
    assert sorted(map(len, kinds)) == [20, 20, 20, 40]
    expected = sum(len(kind) * kind.var(ddof=1) for kind in kinds) ** 0.5 / 100
    assert np.std(new - old) == pytest.approx(expected, rel=0.05)


def test_suite_means_vary_enough_where_few_questions_share_the_same_benchmarks():
    """Else intervals are too narrow: one question alone, drawn again, is always itself."""
    random = np.random.default_rng(4)
    sets = [[0]] * 7 + [[1]] * 9 + [[2]] * 30 + [[0, 1]] * 3 + [[0, 2]] * 2 + [[1, 2], [0, 1, 2]]
    questions = [[q for q, own in enumerate(sets) if place in own] for place in range(3)]
    parts = [
        {"scores": "0" * len(mine), "questions": "".join(f"{q:08}" for q in mine), "clusters": None}
        for mine in questions
    ]
    value = random.random(len(sets))
    scores = np.concatenate([value[mine] for mine in questions])[:, None]
    drawn = stats.bootstrap_means(reading.strata(reading.suite_items(parts), scores), 20_000)
    # the influence of each question on the macro mean (linearised ratio estimator)
    influence = np.zeros(len(sets))
    for mine in questions:
        influence[mine] += (value[mine] - value[mine].mean()) / len(mine) / 3
    groups = [[q for q, own in enumerate(sets) if own == kind] for kind in ([0], [1], [2])]
    groups.append([q for q, own in enumerate(sets) if len(own) > 1])
    expected = sum(len(group) * influence[group].var(ddof=1) for group in groups) ** 0.5
    macro = np.mean([drawn[place] for place in range(3)], axis=0)
    assert macro.std() == pytest.approx(expected, rel=0.1)
    assert sum(map(len, groups)) == len(sets) and macro.std() > 0


def test_a_question_that_joins_two_passages_joins_their_clusters():
    def part(questions: list[int], passages: list[int | None] | None) -> dict:
        return {
            "scores": "0" * len(questions),
            "questions": "".join(f"{number:08}" for number in questions),
            "clusters": passages and [str(each) for each in passages],
        }

    layout = reading.suite_items([part([1, 2, 3, 4], [1, 1, 2, 2]), part([2, 5, 6], None)])
    assert (len(layout.copies), layout.shared) == (6, 1)
    assert list(layout.copies) == [1, 2, 1, 1, 1, 1]
    assert layout.clusters is not None and len(set(layout.clusters)) == 4
    layout = reading.suite_items([part([1, 2, 3, 4], [1, 1, 2, 2]), part([2, 3], [7, 7])])
    assert len(set(layout.clusters)) == 1
    assert reading.suite_items([part([1, 2], None), part([2, 3], None)]).clusters is None


def test_a_question_twice_in_one_benchmark_is_one_cluster(tmp_path, study):
    before, after = answers(10, 2, 40)
    for records in (before, after):
        records[1]["same"] = records[0]["same"]
    write(tmp_path, study, {"tuned": {"other": (before, after)}})
    row = rows(tmp_path, study)["tuned", "other"]
    assert row["test"] == stats.SIGN_FLIP and row["n"] == 40


def test_a_score_file_names_its_questions_compactly(tmp_path, study):
    write(tmp_path, study, {"tuned": {"other": answers(3, 3, 40)}})
    named = [
        read_json(tmp_path / f"scores/{subject}/other.json")["items"]["questions"]
        for subject in ("base", "tuned")
    ]
    assert named[0] == named[1] and len(named[0]) == 8 * 40
    assert len({named[0][i : i + 8] for i in range(0, 320, 8)}) == 40


# --- contamination -------------------------------------------------------------------------------


def ids(records: list[dict], chosen: range) -> dict:
    return {"ids": [records[i]["id"] for i in chosen]}


def test_a_verdict_that_rests_on_contaminated_questions_says_so(tmp_path, study):
    """As observed: +50 points, all of them won on questions of the training data."""
    before, after = answers(20, 0, 40)
    overlap = {"tuned": {"other": ids(before, range(20))}}
    write(tmp_path, study, {"tuned": {"other": (before, after)}}, overlap)
    row = rows(tmp_path, study)["tuned", "other"]
    assert row["verdict"] == "better" and row["clean_n"] == 20 and row["clean_difference"] == 0
    assert row["note"] == "rests on contaminated questions: undecided on the 20 clean ones"
    assert rows(tmp_path, study)["tuned", "second"]["note"] == row["note"]
    shown = dict(table(tmp_path, study).sections)["Benchmarks"]
    assert row["note"] in list(shown["Note"])
    assert "结论依赖受污染的题目：仅看 20 道未污染题：样本不足，无显著差异" in list(
        translate(shown, "zh")["备注"]
    )


def test_clean_means_clean_for_both_sides(tmp_path, study):
    before, after = answers(8, 8, 40)
    overlap = {
        "base": {"other": ids(before, range(10))},
        "tuned": {"other": ids(before, range(5, 15))},
    }
    write(tmp_path, study, {"tuned": {"other": (before, after)}}, overlap)
    row = rows(tmp_path, study)["tuned", "other"]
    assert row["clean_n"] == 25
    assert row["clean_difference"] == pytest.approx(-1 / 25)


# --- recipes -------------------------------------------------------------------------------------

SEEDS = {"tuned": {**made_up.RAW["runs"]["tuned"], "seeds": [1, 2, 3]}}


def test_a_recipe_counts_the_spread_between_its_trainings(tmp_path):
    """Three trainings, one of them far better: each adapter may be so, the recipe is undecided."""
    study = resolve.load(RAW | {"runs": SEEDS})
    counts = {1: (6, 4, 80), 2: (40, 0, 80), 3: (4, 4, 80)}
    base = [made_up.sample(i, i % 2 == 1, "all") for i in range(80)]
    trainings = {}
    for seed, (fixed, broken, _) in counts.items():
        after = [
            made_up.sample(i, (i // 2 < fixed) if i % 2 == 0 else (i // 2 >= broken), "all")
            for i in range(80)
        ]
        trainings[f"tuned-seed{seed}"] = {"other": (base, after)}
    write(tmp_path, study, trainings)
    found = rows(tmp_path, study)
    assert found["tuned-seed2", "other"]["verdict"] == "better"
    recipe = found["tuned", "other"]
    scores = [
        reading.item_scores(read_json(tmp_path / f"scores/{name}/other.json"))
        for name in ("base", *trainings)
    ]
    naive = stats.compare(scores[0], np.mean(scores[1:], axis=0))
    assert naive.interval(0.05)[0] > 0  # what pooling the seeds as fixed would claim
    assert recipe["verdict"] == "undecided" and recipe["test"] == stats.RECIPE
    assert recipe["difference"] == pytest.approx(naive.difference)
    assert (recipe["seeds_better"], recipe["trainings"]) == (2, 3)
    row = dict(table(tmp_path, study).sections)["Seeds together"].to_dict("records")[-1]
    assert row["Verdict"] == "undecided (more seeds would decide)"
    assert row["Candidate"] == "tuned (3 seeds)" and row["Seeds better / worse"] == "2 / 0"
    rendered = text.render(table(tmp_path, study))
    assert "a claim about this adapter, not about the recipe" in rendered


def test_recipes_of_a_sweep_are_one_family(tmp_path):
    sweep = {"rank": {"run": "tuned", "grid": {"lora_rank": [4, 8]}}}
    study = resolve.load(RAW | {"runs": SEEDS, "sweeps": sweep})
    found = comparison.candidates(study)
    recipes = [each for each in found if each.recipe]
    assert {each.family for each in recipes} == {"tuned", "rank"}
    assert len([each for each in recipes if each.family == "rank"]) == 2
    assert all(len(each.trainings) == 3 for each in recipes)


def test_nothing_compared_gives_an_empty_table(tmp_path, study):
    write_json(tmp_path / "study.json", study)
    assert all(row["verdict"].startswith("not compared") for row in rows(tmp_path, study).values())
