"""The table of comparisons: what changed from baseline to candidate, question by question.

A row is a claim: about a whole suite (the primary one) or one of its benchmarks, of one subject or
of a recipe, which is all trainings of a run that differ in their seed. Its verdict is read off its
interval, and the interval is at the level at which Holm's procedure tested the claim in its family,
so that p, interval, verdict and detectable difference speak of one test.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sftflow.core.layout import answers_at, pair_name
from sftflow.reporting.cells import (
    Cell,
    Draws,
    SuiteItems,
    incomplete,
    item_scores,
    measured,
    seed_groups,
    suite_items,
)
from sftflow.reporting.flags import Flag
from sftflow.reporting.text import (
    NONE,
    Table,
    confidence_text,
    interval_of,
    label,
    link,
    number,
    p_value,
    percent,
    points,
)
from sftflow.scoring import stats

UNLIKE = ("unequal sample sets", "metrics differ")  # a problem that another evaluation solves
ALL = "all questions"  # in the column of benchmarks: the suite's own claim


@dataclass(frozen=True)
class Candidate:
    """What is compared with a baseline: one subject, or a recipe by all its trainings.

    The points of a sweep are one family, and so are the checkpoints of a run with its last step:
    looking for the best of them is one search.
    """

    baseline: str
    name: str
    trainings: tuple[str, ...]
    family: str

    @property
    def recipe(self) -> bool:
        return len(self.trainings) > 1


def candidates(study: dict) -> list[Candidate]:
    """Every pair of the study; then every recipe whose trainings are all paired with a baseline."""
    runs = study["runs"]
    pairs = [(pair["baseline"], pair["candidate"]) for pair in study["comparisons"]]
    found = [
        Candidate(baseline, name, (name,), runs.get(run, {}).get("sweep") or run)
        for baseline, name in pairs
        for run in [study["subjects"][name]["run"] or name]
    ]
    known = set(pairs)
    for group, members in seed_groups(study).items():
        for baseline in sorted({baseline for baseline, _ in pairs}):
            if all((baseline, run) in known for run in members):
                family = runs[members[0]].get("sweep") or group
                found.append(Candidate(baseline, group, tuple(members), family))
    return found


def comparison_table(study: dict, cells: dict, draws: Draws, rows: list[dict]) -> Table:
    """`rows` are those of comparison_rows; macro differences are added to them."""
    for row in rows:
        if row["trainings"] == 1 and not row["benchmark"]:
            row |= macro_difference(study, row, draws)
    single = [row for row in rows if row["trainings"] == 1]
    benchmarks = [row for row in single if row["benchmark"]]
    recipes = [row for row in rows if row["trainings"] > 1]
    return Table(
        "comparison",
        "Comparison",
        "What changed from baseline to candidate, question by question. Scores in percent, "
        "differences in percentage points. The suites' own tests, over all their questions, are "
        f"the primary ones; {confidence_text(study)} interval where nothing is adjusted.",
        [
            ("Suites", suite_frame(study, [row for row in single if not row["benchmark"]])),
            ("Benchmarks", benchmark_frame(study, cells, benchmarks)),
            *([("Seeds together", recipe_frame(study, recipes))] if recipes else []),
            ("Format or knowledge", form_frame(study, benchmarks)),
        ],
        pd.DataFrame(rows),
        notes(study["statistics"]),
    )


def notes(settings: dict) -> list[str]:
    alpha = f"{1 - settings['confidence']:.2g}"
    return [
        "Paired by question. Fixed: right only in the candidate; broken: right only in the "
        "baseline. p: two-sided mid-p McNemar test (Fagerland, Lydersen & Laake 2013), with "
        "Tango's score interval; the exact p is in the .csv. For graded scores, repeats and "
        "clustered questions: sign-flip permutation test (mid-p, too) with Student's t interval.",
        f"A suite's test, over all its questions, is tested at level {alpha}; its benchmarks "
        "together at the same, by Holm's procedure: p (Holm). A benchmark without a score counts "
        "in it with p = 1, so that less evidence never claims more; other suites do not count. "
        "The points of a sweep against one baseline are one family, for suites and for benchmarks.",
        "Verdict and interval: the interval is at the level at which Holm's procedure tested that "
        f"row ({alpha} divided by the number of tests in its family with so large a p; what it "
        "does not reach, at the level at which it stopped), made to agree with the test at its "
        f"edge: it leaves out 0 exactly where p (Holm) is below {alpha}. Better or worse: without "
        "0. Practically the same: with 0, and all of it within ± "
        f"{percent(settings['margin'])} points (statistics.margin). Undecided: neither.",
        "Questions that would decide: with so many, a true difference as large as the one observed "
        "(or as what it leaves to the margin, if that is more) is found with 80 % power at that "
        "level (Connor 1987). Detectable: the smallest true difference that this n would have "
        "shown with 80 % power, at that level too (Duffy 1984). Both at the observed share of "
        "differing questions, kept off 0 and 1: (fixed + broken + 1) / (n + 2).",
        "A candidate that is one training: a claim about this adapter, not about the recipe. Seeds "
        "together is about the recipe: the trainings are a sample of all that it could give, and "
        "interval and p contain the spread between them as well as that of the questions.",
        "The same question (by its letters and digits, and by its options too where those of the "
        "text are under 50 bytes) in several benchmarks counts once in a suite, with the mean of "
        "its scores; questions on one passage are one cluster.",
        "Clean: only the questions that overlap with neither side's training data, at the same "
        "level. A note says where they alone give another verdict.",
        "Unstated: share of answers that state nothing in an explicit form, before and after. "
        "Format or knowledge: how many answers state something, and how many score, before → "
        "after. Gains among the stated answers are knowledge; what moves from unstated to stated "
        "is format; what is unstated and right is a lucky find of evalscope's, no evidence of "
        "either.",
        "Macro difference: the benchmarks' differences, each with the same weight, whatever its n; "
        "another quantity than the one tested, with an unadjusted percentile bootstrap interval.",
    ]


# --- claims --------------------------------------------------------------------------------------


def comparison_rows(study: dict, cells: dict) -> list[dict]:
    """Raw rows: for every candidate and suite the suite's own claim, then its benchmarks'."""
    settings = study["statistics"]
    layouts: dict[tuple, SuiteItems] = {}
    rows: list[dict] = []
    families: dict[tuple, list[dict]] = {}
    for candidate in candidates(study):
        for suite in study["evaluate"]["suites"]:
            names = study["suites"][suite]
            sides = [
                [cells.get((subject, name)) for name in names]
                for subject in (candidate.baseline, *candidate.trainings)
            ]
            claims = [suite_claim(sides, layouts, settings["seed"])]
            claims += [
                benchmark_claim([side[place] for side in sides], candidate, settings["seed"])
                for place in range(len(names))
            ]
            about = {
                "baseline": candidate.baseline,
                "candidate": candidate.name,
                "trainings": len(candidate.trainings),
                "suite": suite,
            }
            mine = [
                about | {"benchmark": benchmark} | claim
                for benchmark, claim in zip(["", *names], claims, strict=True)
            ]
            rows += mine
            family = candidate.baseline, candidate.family, candidate.recipe, suite
            families.setdefault((*family, "suite"), []).append(mine[0])
            families.setdefault((*family, "benchmarks"), []).extend(mine[1:])
    for members in families.values():
        p_values = [row["result"].p if "result" in row else None for row in members]
        tested_at = stats.holm(p_values, 1 - settings["confidence"])
        for row, (adjusted, level) in zip(members, tested_at, strict=True):
            row |= {"p_holm": adjusted, "level": level}
            judge(row, settings["margin"])
    return rows


def suite_claim(
    sides: list[list[Cell | None]], layouts: dict[tuple, SuiteItems], seed: int
) -> dict:
    """Of all questions of a suite together, each once; `sides` has the baseline's cells first."""
    whole = [[cell for cell in side if cell] for side in sides]
    if problem := "not evaluated" if whole != sides else suite_problem(whole):
        return {"problem": problem}
    parts = [[cell.score["items"] for cell in side] for side in whole]
    key = tuple(part["digest"] for part in parts[0])
    if key not in layouts:
        layouts[key] = suite_items(parts[0])
    layout = layouts[key]
    scores = [layout.together([item_scores(cell.score) for cell in side]) for side in whole]
    masks = [clean_mask([part[place] for part in parts]) for place in range(len(parts[0]))]
    clean = None
    if any(mask is not None for mask in masks):
        sizes = [len(part["scores"]) for part in parts[0]]
        known = zip(masks, sizes, strict=True)
        joined = [np.ones(size, bool) if mask is None else mask for mask, size in known]
        clean = layout.together(joined) == 1
    copies = [f"{layout.shared} questions stand in several benchmarks: each counts once"]
    return {
        "baseline_score": float(scores[0].mean()),
        "candidate_score": float(np.mean(scores[1:])),
        "shared": layout.shared,
        "notes": copies if layout.shared else [],
        **claim(scores, layout.clusters, clean, seed),
    }


def suite_problem(sides: list[list[Cell]]) -> str | None:
    for side in sides:
        if reason := incomplete(side):
            return reason
    for cells in zip(*sides, strict=True):
        if len({cell.score["items"]["digest"] for cell in cells}) > 1:
            return f"unequal sample sets in {cells[0].title}"
    return None


def benchmark_claim(cells: list[Cell | None], candidate: Candidate, seed: int) -> dict:
    """Of one benchmark; `cells` has the baseline's first."""
    for subject, cell in zip((candidate.baseline, *candidate.trainings), cells, strict=True):
        if cell is None or not cell.usable:
            name, state = (cell.labels[0], cell.state) if cell else (subject, "not evaluated")
            return {"problem": f"{name}: {state}"}
    scores = [cell.score for cell in cells if cell]
    row: dict = {"baseline_score": scores[0]["score"]}
    row["candidate_score"] = float(np.mean([score["score"] for score in scores[1:]]))
    if not candidate.recipe:
        for side, score in zip(("baseline", "candidate"), scores, strict=True):
            row[f"{side}_unparsed_share"] = score["unparsed"] / score["answers"]
            row |= {f"{side}_{name}": count for name, count in (score.get("form") or {}).items()}
    items = [score["items"] for score in scores]
    if len({part["digest"] for part in items}) > 1:
        sizes = " and ".join(str(score["n"]) for score in scores)
        return {
            **row,
            "problem": f"unequal sample sets ({sizes} questions, not the same ones)",
        }
    metrics = dict.fromkeys(score["metric"] for score in scores)
    if len(metrics) > 1:
        return {**row, "problem": f"metrics differ: {' and '.join(metrics)}"}
    vectors = [item_scores(score) for score in scores]
    return row | claim(vectors, items[0]["clusters"], clean_mask(items), seed)


def clean_mask(items: Sequence[dict]) -> np.ndarray | None:
    """Questions (n,) that no side was trained on; None where that is known of no side."""
    known = [np.frombuffer(part["clean"].encode(), "S1") == b"1" for part in items if part["clean"]]
    return np.logical_and.reduce(known) if known else None


def claim(
    scores: list[np.ndarray], clusters: stats.Clusters, clean: np.ndarray | None, seed: int
) -> dict:
    """{result, clean}: the test over all questions, and over the clean ones; what seeds add."""

    def test(of: list[np.ndarray], clusters: stats.Clusters) -> stats.Difference:
        before, *after = of
        if len(after) > 1 and len(before):
            return stats.compare_recipe(before, after, clusters, seed)
        return stats.compare(before, after[0], clusters, seed)

    found: dict = {"result": test(scores, clusters)}
    if clean is not None:
        kept = None if clusters is None else np.asarray(clusters)[clean]
        found["clean"] = (
            found["result"] if clean.all() else test([each[clean] for each in scores], kept)
        )
    if len(scores) > 2:
        each = [float(np.mean(after - scores[0])) for after in scores[1:]]
        found["between"] = float(np.std(each, ddof=1))
        found["seeds_better"] = sum(difference > 0 for difference in each)
        found["seeds_worse"] = sum(difference < 0 for difference in each)
    return found


def judge(row: dict, margin: float) -> None:
    """Turn a claim, tested at `level`, into numbers and a verdict, in place."""
    result, clean = row.pop("result", None), row.pop("clean", None)
    said = row.pop("notes", [])
    if result is None:
        row |= {"verdict": f"not compared: {row['problem']}", "note": ""}
        return
    level = row["level"]
    interval = result.interval(level)
    verdict = stats.verdict(interval, margin)
    needed = None
    if verdict == stats.UNDECIDED and result.difference is not None:
        size = abs(result.difference)
        needed = result.needed(level, max(size, margin - size))
    row |= {
        "n": result.n,
        "difference": result.difference,
        **bounds("ci", interval),
        "fixed": result.fixed,
        "broken": result.broken,
        "p": result.p,
        "p_exact": result.p_exact,
        "test": result.test,
        "detectable": result.detectable(level),
        "verdict": verdict,
        "needed": needed,
    }
    if clean is not None:
        row |= {"clean_n": clean.n, "clean_difference": clean.difference}
        row |= bounds("clean_ci", clean.interval(level))
        row["clean_verdict"] = stats.verdict(clean.interval(level), margin)
        if row["clean_verdict"] != verdict:
            rests = "rests on contaminated questions: " if verdict != stats.UNDECIDED else ""
            said.append(f"{rests}{row['clean_verdict']} on the {clean.n} clean ones")
    if interval and verdict in (stats.BETTER, stats.WORSE) and max(map(abs, interval)) <= margin:
        said.append("all of it within the margin")
    row["note"] = "; ".join(said)


def bounds(name: str, interval: stats.Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


SHIFT = 0.1  # of the answers: so many more or fewer that state nothing


def comparison_flags(study: dict, rows: list[dict]) -> Iterator[Flag]:
    """Claims that say less than they seem to: of contaminated questions, of a format, of none."""
    for row in rows:
        name = label(study, "benchmarks", row["benchmark"]) if row["benchmark"] else row["suite"]
        if row.get("clean_verdict", row["verdict"]) != row["verdict"] != stats.UNDECIDED:
            values = {"verdict": row["verdict"], "clean": row["clean_verdict"]}
            values |= {"of": name, "n": number(row["clean_n"])}
            yield Flag("contaminated verdict", row["candidate"], values)
        before, after = (row.get(f"{side}_unparsed_share") for side in ("baseline", "candidate"))
        if before is not None and abs(after - before) > SHIFT:
            values = {"benchmark": name, "before": percent(before), "after": percent(after)}
            yield Flag("format shift", row["candidate"], values)
        if row["benchmark"] and (why := row.get("problem", "")).startswith(UNLIKE):
            yield Flag("not comparable", row["candidate"], {"benchmark": name, "why": why})


# --- how they look -------------------------------------------------------------------------------


def judged(row: dict) -> dict:
    """The columns that every claim has, from its difference on."""
    return {
        "Difference": _to_answers(row, points(row.get("difference"), interval_of(row))),
        "Verdict": verdict_text(row),
        "n": row.get("n", NONE),
        "Fixed / broken": " / ".join(
            _to_answers(row, str(row[show.lower()]), show) for show in ("Fixed", "Broken")
        )
        if "fixed" in row
        else NONE,
        "p": p_value(row.get("p")),
        "p (Holm)": p_value(row.get("p_holm")),
        "Detectable": percent(row.get("detectable")),
        "Difference, clean": NONE
        if "clean_n" not in row
        else points(row["clean_difference"], interval_of(row, "clean_ci"))
        + f" (n {row['clean_n']})",
    }


def verdict_text(row: dict) -> str:
    if row["verdict"] != stats.UNDECIDED:
        return row["verdict"]
    if row["needed"] is not None:
        return f"undecided (about {roughly(row['needed'])} questions would decide)"
    return "undecided (more seeds would decide)" if row["trainings"] > 1 else stats.UNDECIDED


def roughly(count: int) -> str:
    """Rounded up to two digits: 1,234 -> 1,300."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return f"{-(-count // unit) * unit:,}"


def tidy(rows: list[dict]) -> pd.DataFrame:
    """Without the columns that say nothing in any row."""
    frame = pd.DataFrame(rows)
    silent = {"Difference, clean": NONE, "Note": "", "Macro difference": NONE}
    return frame.drop(columns=[c for c in silent if c in frame and (frame[c] == silent[c]).all()])


def suite_frame(study: dict, rows: list[dict]) -> pd.DataFrame:
    return tidy(
        [
            {
                "Baseline": label(study, "subjects", row["baseline"]),
                "Candidate": label(study, "subjects", row["candidate"]),
                "Suite": row["suite"],
                "Baseline score": percent(row.get("baseline_score")),
                "Candidate score": percent(row.get("candidate_score")),
                **judged(row),
                "Macro difference": points(
                    row.get("macro_difference"), interval_of(row, "macro_ci")
                ),
                "Note": row["note"],
            }
            for row in rows
        ]
    )


def macro_difference(study: dict, row: dict, draws: Draws) -> dict:
    if "difference" not in row:
        return {}
    before, after = (draws[row["suite"], row[side]]["macro"] for side in ("baseline", "candidate"))
    confidence = study["statistics"]["confidence"]
    interval = stats.percentile_interval(after.drawn - before.drawn, confidence)
    return {
        "baseline_macro": before.score,
        "candidate_macro": after.score,
        "macro_difference": after.score - before.score,
        **bounds("macro_ci", interval),
    }


def benchmark_frame(study: dict, cells: dict, rows: list[dict]) -> pd.DataFrame:
    return tidy(
        [
            {
                "Baseline": label(study, "subjects", row["baseline"]),
                "Candidate": label(study, "subjects", row["candidate"]),
                "Benchmark": measured(
                    study, row["benchmark"], [cells.get((row["candidate"], row["benchmark"]))]
                ),
                "Baseline score": _linked(row, "baseline"),
                "Candidate score": _linked(row, "candidate"),
                **judged(row),
                "Unstated": f"{percent(row['baseline_unparsed_share'])} → "
                f"{percent(row['candidate_unparsed_share'])}"
                if "fixed" in row
                else NONE,
                "Note": row["note"],
            }
            for row in rows
        ]
    )


def recipe_frame(study: dict, rows: list[dict]) -> pd.DataFrame:
    """Runs that differ in their seed only, as one."""
    return tidy(
        [
            {
                "Baseline": label(study, "subjects", row["baseline"]),
                "Candidate": f"{row['candidate']} ({row['trainings']} seeds)",
                "Suite": row["suite"],
                "Benchmark": label(study, "benchmarks", row["benchmark"])
                if row["benchmark"]
                else ALL,
                **judged(row),
                "SD between seeds": percent(row.get("between")),
                "Seeds better / worse": f"{row['seeds_better']} / {row['seeds_worse']}"
                if "seeds_better" in row
                else NONE,
                "Note": row["note"],
            }
            for row in rows
        ]
    )


FORM = {
    "Stated, right": "stated_right",
    "Stated, wrong": "stated_wrong",
    "Unstated, right": "unstated_right",
    "Unstated, wrong": "unstated_wrong",
}


def form_frame(study: dict, rows: list[dict]) -> pd.DataFrame:
    """A row per pair and benchmark: the 2 x 2 of stated and right, before → after, in answers."""
    return pd.DataFrame(
        {
            "Baseline": label(study, "subjects", row["baseline"]),
            "Candidate": label(study, "subjects", row["candidate"]),
            "Benchmark": label(study, "benchmarks", row["benchmark"]),
            **{
                heading: f"{row[f'baseline_{name}']} → {row[f'candidate_{name}']}"
                for heading, name in FORM.items()
            },
        }
        for row in rows
        if "baseline_stated_right" in row and "candidate_stated_right" in row
    )


def _linked(row: dict, side: str) -> str:
    score = row.get(f"{side}_score")
    if score is None:
        return NONE
    return link(f"scores/{row[side]}/{row['benchmark']}.json", percent(score))


def _to_answers(row: dict, text: str, show: str = "") -> str:
    """To the answers of a pair, side by side, all or those to `show`; a recipe's are those of its
    trainings."""
    if row.get("difference") is None or row["trainings"] > 1:
        return text
    pair = pair_name({side: row[side] for side in ("baseline", "candidate")})
    return link(answers_at(pair=pair, benchmark=row["benchmark"] or "", show=show), text)
