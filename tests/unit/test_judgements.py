"""Judges: who may judge, what is read of them, what the tables make of it; sheets for people."""

import csv
import io
import json
import random
import sys
from pathlib import Path
from unittest import mock

import made_up
import numpy as np
import pytest
import rate
import verify
import yaml
from scipy import stats as scipy_stats
from sftflow.config import jobs, resolve
from sftflow.core.cli import UserError
from sftflow.core.jsonio import digest, file_digest, read_record, write_jsonl, write_record
from sftflow.core.layout import CRISIS, Results
from sftflow.dialogue import judging, sheets
from sftflow.dialogue.turns import KINDS, crisis_turns
from sftflow.reporting import report
from sftflow.reporting.dialogue import Compared, dialogue_flags, dialogue_table
from sftflow.scoring import preference
from support import ROOT

FAR = {"url": "http://far/v1", "model": "strong", "version": "1"}
RAW = made_up.RAW | {"endpoints": {"far": FAR}, "judges": {"strong": {"subject": "far"}}}
PAIR = {"baseline": "base", "candidate": "tuned"}


# --- who judges ----------------------------------------------------------------------------------


def test_messages_of_a_crisis_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = resolve.check(made_up.RAW | {"dialogue": {"crisis": "own.jsonl"}}, here=True)
    assert [error for error in errors if "dialogue.crisis: no such file" in error]


def test_who_only_judges_is_not_evaluated():
    study = resolve.load(RAW)
    assert study["evaluate"]["subjects"] == ["base", "tuned"]
    asked = resolve.load(RAW | {"evaluate": {"subjects": ["base", "tuned", "far"]}})
    assert "far" in asked["evaluate"]["subjects"]


def test_messages_of_a_crisis_are_put_where_somebody_judges_the_answers():
    assert resolve.load(RAW)["dialogue"]["crisis"] == CRISIS
    assert resolve.load(made_up.RAW)["dialogue"]["crisis"] is None
    assert resolve.load(RAW | {"dialogue": {"crisis": False}})["dialogue"]["crisis"] is None
    assert resolve.load(made_up.RAW | {"dialogue": {"crisis": "own.jsonl"}})["dialogue"]["crisis"]


@pytest.mark.parametrize(
    "judge, why",
    [
        ("tuned", "'tuned' is itself"),
        ("base", "'tuned' is of the same base model"),
        ("copy", "'tuned' is of the same base model"),  # another name for the same source
        ("farr", "did you mean 'far'"),
    ],
)
def test_a_judge_of_its_own_kind_is_refused(judge, why):
    raw = RAW | {"judges": {"strong": {"subject": judge}}, "comparisons": [PAIR]}
    raw["models"] = raw["models"] | {"copy": {"source": "org/base"}}
    with pytest.raises(UserError, match=r"judges\.strong\.subject") as error:
        resolve.load(raw)
    assert why in str(error.value)


def test_a_judge_is_asked_at_temperature_0_with_its_own_length():
    told = jobs.judge_pair(resolve.load(RAW), "strong", "base--tuned")
    assert told["pair"] == PAIR and told["judge"]["max_tokens"] == 1024
    assert "temperature" not in told["generation"]
    assert told["made_with"]["endpoints.version"] == "1"


def test_every_key_of_a_judge_decides_about_its_jobs():
    study = resolve.load(RAW)
    was = jobs.judge_pair(study, "strong", "base--tuned")["made_with"]
    for key, value in (("limit", 7), ("rubric", "zh"), ("max_tokens", 9), ("subject", "other")):
        raw = RAW | {"judges": {"strong": {"subject": "far", key: value}}}
        raw["endpoints"] = {"far": FAR, "other": FAR | {"model": "another"}}
        now = jobs.judge_pair(resolve.load(raw), "strong", "base--tuned")["made_with"]
        assert now[f"judges.{key}"] == value != was[f"judges.{key}"]
    assert "judges.limit" not in jobs.judge_crisis(study, "strong", "base")["made_with"]


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, verdict",
    [
        ("A is warmer.\n[[A]]", "A"),
        ("**[[B]]**\n", "B"),
        ("结论：【【C】】", "C"),
        ("两者相当。\n[[平局]]", "C"),
        ("[[ tie ]]", "C"),
        ("<think>[[A]] or [[B]]?</think>\nIt is [[b]].", "B"),
        ("```\n[[A]]\n```", "A"),
        ("[[A]] is better, since B breaks off.\nThat is all.", "A"),
        ("Either [[A]] or [[B]]", None),
        ("[[A]] at first sight.\nOn reflection [[B]] may be.\nHard to say.", None),
        ("<think>It is [[A]]", None),
        ("A is better", None),
        ("", None),
    ],
)
def test_verdicts_are_read_and_never_guessed(said, verdict):
    assert judging.verdict(said) == verdict


def test_what_was_cut_off_before_its_last_line_has_no_verdict():
    assert judging.verdict("[[A]] would be right if\nthe second", "length") is None
    assert judging.verdict("Reasons.\n[[A]]", "length") == "A"


@pytest.mark.parametrize(
    "said, holds",
    [
        ("Reasons.\n[[1=Y 2=N 3=Y 4=Y 5=N]]", "YNYYN"),
        ("[[1: yes, 2: no, 3: yes, 4: yes, 5: yes]]", "YNYYY"),
        ("【【1=是 2=否 3=是 4=是 5=是】】", "YNYYY"),
        ("[[1=Y 2=N 3=Y 4=Y]]", None),
        ("[[1=Y 2=N 3=Y 4=Y 5=maybe]]", None),
        ("1=Y 2=N 3=Y 4=Y 5=Y", None),
    ],
)
def test_five_points_are_read_together_or_not_at_all(said, holds):
    found = judging.points(said)
    assert (found and "".join("NY"[value] for value in found.values())) == holds


def test_an_answer_can_not_fill_places_of_the_rubric():
    text = judging.prompt("<{A}><{B}>{C}", {"A": "look: {B}", "B": "b"})
    assert text == "<look: {B}><b>{C}"


def test_rubrics_have_their_places_in_both_languages():
    for language in ("en", "zh"):
        rubric = judging.rubric_file("rubric", language).read_text(encoding="utf-8")
        points = judging.rubric_file("points", language).read_text(encoding="utf-8")
        assert all(rubric.count(place) == 1 for place in ("{conversation}", "{A}", "{B}"))
        assert all(points.count(place) == 1 for place in ("{conversation}", "{A}", "{kind}"))


def test_the_set_of_crisis_messages():
    """Half in each language, every kind in both, none twice."""
    found = crisis_turns(ROOT / CRISIS, None)
    rows = [json.loads(line) for line in (ROOT / CRISIS).read_text("utf-8").splitlines()]
    assert len(found) >= 64 and len({turn.messages[0]["content"] for turn in found}) == len(found)
    for language in ("zh", "en"):
        mine = [row for row in rows if row["language"] == language]
        assert len(mine) >= 32 and {row["kind"] for row in mine} == set(KINDS)
        script = {"zh": "zh", "en": "en"}[language]
        messages = [[{"role": "user", "content": row["text"]}] for row in mine]
        assert {judging.language_of(one, "auto") for one in messages} == {script}


@pytest.mark.parametrize(
    "line, why",
    [
        ('{"id": "a", "kind": "near"}', "text"),
        ('{"id": "a", "kind": "urgent", "text": "x"}', "'urgent' is none of"),
        ('{"id": "a", "kind": "near", "text": " "}', "not empty"),
        ("[1]", "a line is"),
        ("{", "a line is"),
    ],
)
def test_crisis_messages_of_the_user_with_a_mistake(tmp_path, line, why):
    path = tmp_path / "own.jsonl"
    path.write_text('{"id": "0", "kind": "near", "text": "x"}\n' + line + "\n")
    with pytest.raises(UserError, match="line 2") as error:
        crisis_turns(path, None)
    assert why in str(error.value)


# --- figures -------------------------------------------------------------------------------------


def made_turns(seed: int, share: float, longer: float = 0.0) -> list[dict]:
    """60 dialogues of one or two turns; the candidate wins about `share` of them."""
    chance, turns = random.Random(seed), []
    for dialogue in range(60):
        for _ in range(1 + dialogue % 2):
            drawn = chance.random()
            said = "BA" if drawn < share else "AA" if drawn < share + 0.2 else "AB"
            extra = int(chance.gauss(100 * longer, 30))
            turns.append(
                {"dialogue": f"{dialogue}", "said": said}
                | {"baseline": "b" * 200, "candidate": "c" * (200 + extra)}
            )
    return turns


def study(folder: Path, turns: list[dict], crises: dict | None = None) -> dict:
    made = made_up.write_study(folder, RAW)
    made_up.write_records(folder, made)
    made_up.write_judgement(folder, made, "strong", PAIR, turns)
    for subject, rows in (crises or {}).items():
        made_up.write_crisis(folder, made, "strong", subject, rows)
    return made


def sections(folder: Path, made: dict) -> dict:
    return dict(dialogue_table(Compared(made, Results(folder)), {}).sections)


def test_preference_recomputed_from_its_records(tmp_path):
    """Wins, the rate and Student's t over dialogues, worked out here from the lines of the file."""
    made = study(tmp_path, made_turns(1, 0.6))
    data = dialogue_table(Compared(made, Results(tmp_path)), {}).data
    (row,) = data[data["what"] == "preference"].to_dict("records")
    text = (tmp_path / "judgements/strong/base--tuned/lines.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    points = {"BA": 1.0, "AB": 0.0, "AA": 0.5}
    verdicts = ["".join(game["verdict"] for game in line["games"]) for line in lines]
    scores = np.array([points[said] for said in verdicts])
    assert (row["wins"], row["losses"]) == (verdicts.count("BA"), verdicts.count("AB"))
    assert row["win_rate"] == pytest.approx(scores.mean())
    totals: dict[str, float] = {}
    for line, score in zip(lines, scores, strict=True):
        totals[line["id"]] = totals.get(line["id"], 0.0) + score - scores.mean()
    spread = np.array(list(totals.values()))
    error = (spread.var(ddof=1) * len(spread)) ** 0.5 / len(scores)
    half = scipy_stats.t.ppf(0.975, len(spread) - 1) * error
    assert row["ci_low"] == pytest.approx(scores.mean() - half, rel=1e-3)
    assert row["consistency"] == pytest.approx(1 - verdicts.count("AA") / len(lines))
    first = [game["verdict"] for line in lines for game in line["games"]]
    assert row["first_place"] == pytest.approx(first.count("A") / len(first))
    shown = sections(tmp_path, made)
    assert shown["Preference"].to_dict("records")[0]["Verdict"] == "better"
    assert shown["Six questions"].to_dict("records")[0]["Preference"] == "strong: better"
    assert "strong：更好" in report.page("zh", report.collect(made, Results(tmp_path)))


def test_length_controlled_win_rate_by_other_code():
    """Newton's method for the same logistic regression; a judge that only likes length has 50 %."""
    chance = np.random.default_rng(3)
    lengths = chance.normal(40, 60, 400)
    x = np.tanh(lengths / lengths.std())
    scores = (chance.random(400) < 1 / (1 + np.exp(-2 * x))).astype(float)
    clusters = [f"{i // 2}" for i in range(400)]
    found = preference.length_controlled(list(scores), list(lengths), clusters, 0.05)
    design, beta = np.column_stack([np.ones(400), x]), np.zeros(2)
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ beta))
        beta += np.linalg.solve((design.T * (p * (1 - p))) @ design, design.T @ (scores - p))
    assert found.rate == pytest.approx(1 / (1 + np.exp(-beta[0])), abs=1e-6)
    assert scores.mean() > 0.6 and found.interval[0] < 0.5 < found.interval[1]


@pytest.mark.parametrize(
    "scores, lengths",
    [
        ([1.0, 0.0] * 20, [10.0, -10.0] * 20),  # length tells winners without error
        ([1.0, 0.0] * 20, [5.0] * 40),
        ([1.0] * 40, [float(i) for i in range(40)]),
        ([1.0, 0.0], [1.0, 2.0]),
        ([], []),
    ],
)
def test_no_length_controlled_rate_where_it_can_not_be_estimated(scores, lengths):
    clusters = [str(i) for i in range(len(scores))]
    assert preference.length_controlled(scores, lengths, clusters, 0.05).rate is None


def test_all_alike_is_no_certainty():
    """Where every turn was won, or tied, an interval still says how few they were."""
    twice = [str(i // 2) for i in range(12)]
    won = preference.win_rate([1] * 12, [0] * 12, twice, 0.05)
    assert won.rate == 1 and 0.5 < won.interval[0] < 0.9
    tied = preference.win_rate([0] * 12, [0] * 12, twice, 0.05)
    assert tied.rate == 0.5 and tied.interval[0] < 0.4 < 0.6 < tied.interval[1]
    assert preference.win_rate([], [], [], 0.05).rate is None


def test_a_judge_that_follows_the_order_is_flagged(tmp_path):
    turns = [turn | {"said": "AA"} for turn in made_turns(1, 0.5)]
    made = study(tmp_path, turns)
    (flag,) = dialogue_flags(Compared(made, Results(tmp_path)))
    assert flag.kind == "inconsistent judge" and "in 0.0 % of turns" in flag.text
    assert "won 100.0 % of its decisions" in flag.text
    (row,) = sections(tmp_path, made)["Preference"].to_dict("records")
    assert row["Verdict"] != "better" and row["Win, tie, loss"].startswith("0, ")


def test_another_rubric_or_version_is_left_out_and_said(tmp_path):
    made = study(tmp_path, made_turns(1, 0.6))
    made["endpoints"]["far"] |= {"version": "2"}
    found = dialogue_table(Compared(made, Results(tmp_path)), {})
    assert dict(found.sections)["Preference"].empty
    assert any("endpoints.version: 1 → 2" in note for note in found.notes)
    made["endpoints"]["far"] |= {"version": "1"}
    with mock.patch.object(judging, "rubric_digest", lambda *_: "f" * 64):
        assert dict(dialogue_table(Compared(made, Results(tmp_path)), {}).sections)[
            "Preference"
        ].empty


def test_crisis_points_before_and_after(tmp_path):
    """Of 40 answers 20 named help before, none after; figures of speech stand in a row of their
    own; what a judge did not say is counted."""

    def rows(helped: int) -> list[dict]:
        holds = dict.fromkeys(judging.POINTS, True)
        made = [{"kind": "near", "points": holds | {"help": i < helped}} for i in range(40)]
        made += [{"kind": "figurative", "points": holds}] * 8
        return [*made, {"kind": "crisis", "points": None}]

    made = study(tmp_path, made_turns(1, 0.5), {"base": rows(20), "tuned": rows(0)})
    shown = {row["Point"]: row for row in sections(tmp_path, made)["Crisis"].to_dict("records")}
    assert len(shown) == 6
    row = shown["names help"]
    assert (row["n"], row["Holds"], row["Verdict"]) == (40, "50.0 → 0.0", "worse")
    p = 2 * 0.5**20 * 0.5 * 5  # mid-p McNemar of 0 against 20, Holm over five
    assert float(row["p (Holm)"].replace("< ", "")) >= p and row["Unreadable"] == 1
    assert shown["takes a figure of speech as meant"]["n"] == 8
    (questions,) = sections(tmp_path, made)["Six questions"].to_dict("records")
    assert questions["Safety"] == "strong: worse"
    assert "按本意理解修辞" in report.page("zh", report.collect(made, Results(tmp_path)))


def test_verify_reads_judgements_again(tmp_path):
    made = resolve.load(RAW)
    made_up.write_judgement(tmp_path, made, "strong", PAIR, made_turns(1, 0.5))
    made_up.write_crisis(tmp_path, made, "strong", "base", [{"kind": "near", "points": None}])
    assert [row.files for row in verify.rows(tmp_path) if not row.problems] == [2, 2]
    for home in ("judgements/strong/base--tuned", "crisis/strong/base"):
        file = tmp_path / home / "lines.jsonl"
        file.write_text(file.read_text().replace("near", "crisis").replace("[[B]]", "[[A]]"))
    wrong = [row.what for row in verify.rows(tmp_path) if row.problems]
    assert wrong == ["judgements/strong/base--tuned.json", "crisis/strong/base.json"]


# --- sheets for people ---------------------------------------------------------------------------


def exported(folder: Path, *flags: str, dataset: str = "talks", first: str = "=1+1") -> Path:
    answers = []
    for subject in ("base-model", "tuned-model"):
        file = f"dialogue/{subject}/x.jsonl"
        rows = [
            {
                "dataset": dataset, "id": f"{i:03}", "turn": "opening", "kind": "near",
                "messages": [{"role": "user", "content": f"我今天很难过，第 {i} 次。"}],
                "answer": f"{first} {'before' if subject == 'base-model' else 'after'} {i}",
            }
            for i in range(30)
        ]  # fmt: skip
        write_jsonl(folder / file, rows)
        record = {"subject": subject, "identity": digest(subject), "records": file}
        record |= {"records_sha256": file_digest(folder / file)}
        answers.append(folder / f"dialogue/{subject}/answers.json")
        write_record(answers[-1], record)
    sheet = folder / "sheet.csv"
    run("export", "--answers", *map(str, answers), "--output", str(sheet), *flags)
    return sheet


def run(*arguments: str) -> None:
    with mock.patch.object(sys, "argv", ["rate.py", *arguments]):
        rate.main()


def rows_of(sheet: Path) -> list[dict]:
    return list(csv.DictReader(io.StringIO(sheet.read_text("utf-8-sig"), newline="")))


def test_a_sheet_is_blind_and_no_cell_is_a_formula(tmp_path):
    sheet = exported(tmp_path)
    text = sheet.read_bytes()
    assert text.startswith(b"\xef\xbb\xbf") and "很难过".encode() in text
    assert b"base-model" not in text and b"tuned-model" not in text and b"base" not in text
    rows = rows_of(sheet)
    assert len(rows) == 30 and all(row["A"].startswith("'=") for row in rows)
    firsts = ["before" in row["A"] for row in rows]
    assert 5 < sum(firsts) < 25  # either side stands first
    assert [row["A"].split()[-1] for row in rows] != [str(i) for i in range(30)]  # shuffled
    assert [r["A"] for r in rows_of(exported(tmp_path))] == [r["A"] for r in rows]  # by the seed


@pytest.mark.parametrize("start", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", " =1", "\t=1"])
def test_formulas_are_neutralised(start):
    assert sheets.harmless(start).startswith("'")
    assert sheets.harmless("I feel = sad") == "I feel = sad"


def filled(sheet: Path, name: str, choose, encoding="utf-8-sig", delimiter=",") -> str:
    rows = rows_of(sheet)
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], delimiter=delimiter)
    table.writeheader()
    table.writerows(row | {"choice": choose(row)} for row in rows)
    path = sheet.with_name(f"{name}.csv")
    path.write_bytes(text.getvalue().encode(encoding))
    return str(path)


def likes_after(row: dict) -> str:
    return "a" if "after" in row["A"] else "B"


def read_back(tmp_path, *names: str) -> dict:
    run("read", *names, "--key", str(tmp_path / "sheet.key.json"), "--results", str(tmp_path))
    return read_record(tmp_path / "ratings/base-model--tuned-model.json")


def test_sheets_come_back_whoever_saved_them(tmp_path):
    """Excel saves GBK, semicolons, tabs in UTF-16: two raters agree, a third errs in ten rows."""
    sheet = exported(tmp_path)
    ann = filled(sheet, "ann", likes_after)
    bo = filled(sheet, "bo", likes_after, "gbk", ";")

    def errs(row: dict) -> str:
        return likes_after(row) if int(row["row"]) > 10 else "C"

    record = read_back(tmp_path, ann, bo, filled(sheet, "cy", errs, "utf-16", "\t"))
    assert record["outcomes"]["ann"] == {"win": 30}
    assert record["outcomes"]["cy"] == {"win": 20, "tie": 10}
    agreed = {(row["first"], row["second"]): row for row in record["agreement"]}
    assert agreed["ann", "bo"]["agreement"] == 1 and agreed["ann", "bo"]["kappa"] is None
    assert agreed["ann", "cy"]["agreement"] == pytest.approx(2 / 3)
    made = made_up.write_study(tmp_path, RAW)
    made_up.write_records(tmp_path, made)
    assert len(sections(tmp_path, made)["Raters"]) == 3


def test_kappa_by_hand():
    """20 yes and yes, 5 yes and no, 10 no and yes, 15 no and no: (0.7 - 0.5) / (1 - 0.5)."""
    first = ["y"] * 25 + ["n"] * 25
    second = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert preference.kappa(first, second) == pytest.approx(0.4)


def test_raters_against_the_judge(tmp_path):
    sheet = exported(tmp_path)
    key = read_record(tmp_path / "sheet.key.json")
    lines = [
        {"dataset": "talks", "id": f"{i:03}", "turn": "opening", "equal": False}
        | {"games": [{"first": f, "verdict": v} for f, v in zip(judging.ORDERS, "BA", strict=True)]}
        for i in range(30)
    ]
    record = {"judge": "strong", "answers": key["answers"]}
    home = "judgements/strong/base-model--tuned-model"
    made_up.write_with_records(tmp_path, home, record, lines)
    found = read_back(tmp_path, filled(sheet, "ann", likes_after))
    (row,) = found["agreement"]
    assert (row["second"], row["n"], row["agreement"]) == ("judge strong", 30, 1)


@pytest.mark.parametrize(
    "spoil, why",
    [
        (lambda text: text.replace("row,", "line,", 1), "no column 'row'"),
        (lambda text: text.replace("\n1,", "\n77,", 1), "row 77 is not in the key"),
        (lambda text: text.replace("\n1,", "\n2,", 1), "row 2: is there twice"),
        (lambda text: text.replace(",B,", ",D,").replace(",a,", ",D,"), "'D' is none of A, B, C"),
        (lambda text: "PK\x03\x04" + text, "save it as CSV"),
    ],
)
def test_sheets_that_can_not_be_read_say_why(tmp_path, spoil, why):
    sheet = exported(tmp_path, first="fine")
    path = Path(filled(sheet, "ann", likes_after, "utf-8"))
    path.write_bytes(spoil(path.read_text("utf-8")).encode())
    with pytest.raises(UserError) as error:
        read_back(tmp_path, str(path))
    assert why in str(error.value) and "ann.csv" in str(error.value)


def test_a_sheet_about_a_crisis(tmp_path):
    sheet = exported(tmp_path, "--crisis", dataset="crisis")
    rows = rows_of(sheet)
    assert len(rows) == 60 and set(judging.POINTS) <= rows[0].keys()
    text = sheet.read_text("utf-8-sig").replace(",,,,,,", ",Y,n,是,否,Y,")
    (tmp_path / "ann.csv").write_text(text, encoding="utf-8")
    (tmp_path / "bo.csv").write_text(text, encoding="utf-8")
    run(
        "read", str(tmp_path / "ann.csv"), str(tmp_path / "bo.csv"),
        "--key", str(tmp_path / "sheet.key.json"), "--results", str(tmp_path),
    )  # fmt: skip
    record = read_record(tmp_path / "ratings/base-model--tuned-model-crisis.json")
    assert {row["what"]: row["n"] for row in record["agreement"]} == dict.fromkeys(
        judging.POINTS, 60
    )


def test_the_commented_judge_of_the_real_study_is_one_line_away():
    text = (ROOT / "config/internlm2_5_7b.yaml").read_text(encoding="utf-8")
    shown = text.replace("# judges:", "judges:").replace("# endpoints:", "endpoints:")
    study = resolve.load(yaml.safe_load(shown))
    assert len(study["judges"]) == 1 and not resolve.load(yaml.safe_load(text))["judges"]
