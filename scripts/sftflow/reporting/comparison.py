"""The table of comparisons: what changed from baseline to candidate, question by question."""

from typing import Any

import numpy as np
import pandas as pd
from sftflow.reporting.cells import (
    Cell,
    Draws,
    asked,
    incomplete,
    item_scores,
    measured,
    seed_groups,
)
from sftflow.reporting.text import (
    NONE,
    Table,
    confidence_text,
    label,
    link,
    p_value,
    percent,
    points,
)
from sftflow.scoring import stats


def comparison_table(study: dict, cells: dict, draws: Draws) -> Table:
    rows = comparison_rows(study, cells)
    frame = pd.DataFrame(
        {
            "Baseline": row["baseline"],
            "Candidate": row["candidate"],
            "Benchmark": measured(
                study, row["benchmark"], [cells.get((row["candidate"], row["benchmark"]))]
            ),
            "n": row.get("n", NONE),
            "Baseline score": _linked(row, "baseline"),
            "Candidate score": _linked(row, "candidate"),
            "Difference": points(row.get("difference"), _pair(row, "ci")),
            "Fixed / broken": f"{row['fixed']} / {row['broken']}" if "fixed" in row else NONE,
            "Unstated": f"{percent(row['baseline_unparsed_share'])} → "
            f"{percent(row['candidate_unparsed_share'])}"
            if "fixed" in row
            else NONE,
            "p": p_value(row.get("p")),
            "p (Holm)": p_value(row.get("p_holm")),
            "Verdict": row["verdict"],
            "Detectable": percent(row.get("detectable")),
            "Difference, clean": NONE
            if "clean_n" not in row
            else f"{points(row['clean_difference'], _pair(row, 'clean_ci'))} (n {row['clean_n']})",
        }
        for row in rows
    )
    if len(frame) and (frame["Difference, clean"] == NONE).all():
        frame = frame.drop(columns="Difference, clean")
    return Table(
        "comparison",
        "Comparison",
        "What changed from baseline to candidate, question by question. Scores in percent, "
        f"differences in percentage points with {confidence_text(study)} interval.",
        [
            ("Benchmarks", frame),
            ("Format or knowledge", form_frame(study, rows)),
            ("Suite means", suite_difference_frame(study, cells, draws)),
            *(
                [("Seeds together", seeds)]
                if len(seeds := seed_difference_frame(study, cells))
                else []
            ),
        ],
        pd.DataFrame(rows),
        COMPARISON_NOTES,
    )


COMPARISON_NOTES = [
    "Paired by question. Fixed: right only in the candidate; broken: right only in the baseline. "
    "p: exact two-sided McNemar test; interval: Newcombe's method 10. For graded scores, repeats "
    "and clustered questions: sign-flip permutation test and Student's t interval.",
    "Unstated: share of answers that state nothing in an explicit form, before and after. Format "
    "or knowledge: how many answers state something, and how many score, before → after. Gains "
    "among the stated answers are knowledge; what moves from unstated to stated is format; what is "
    "unstated and right is a lucky find of evalscope's, no evidence of either.",
    "p (Holm): adjusted over the benchmarks of one pair; the verdict goes by it. An interval is "
    "not adjusted, and of another method than p: near the threshold the two may disagree.",
    "Detectable: the smallest true difference that this n would have shown with 80 % power at the "
    "unadjusted level (exact McNemar power, Duffy 1984, at the observed discordance). No evidence "
    "is not evidence of no change: smaller differences may be there.",
    "Seeds together: interval and p are over questions (sampling error); the SD between seeds is "
    "the spread of the difference from training to training.",
    "p of a suite: the same test over all its questions together, not adjusted.",
    "Suite means are over complete sets only: micro over all questions, macro over benchmarks, "
    "with a percentile bootstrap interval of the paired difference (questions resampled within "
    "their benchmark, seeded).",
]


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
            "Baseline": row["baseline"],
            "Candidate": row["candidate"],
            "Benchmark": label(study, "benchmarks", row["benchmark"]),
            **{
                heading: f"{row[f'baseline_{name}']} → {row[f'candidate_{name}']}"
                for heading, name in FORM.items()
            },
        }
        for row in rows
        if "baseline_stated_right" in row and "candidate_stated_right" in row
    )


def comparison_rows(study: dict, cells: dict) -> list[dict]:
    """Raw rows for every pair and benchmark; Holm's family is the benchmarks of one pair."""
    rows = []
    for pair in study["comparisons"]:
        mine = [
            compare_cells(study, cells, pair["baseline"], pair["candidate"], benchmark)
            for benchmark in asked(study)
        ]
        for row, adjusted in zip(mine, stats.holm([r.get("p") for r in mine]), strict=True):
            row["p_holm"] = adjusted
            row["verdict"] = verdict(row, 1 - study["statistics"]["confidence"])
        rows += mine
    return rows


def compare_cells(study: dict, cells: dict, baseline: str, candidate: str, benchmark: str) -> dict:
    row = {"baseline": baseline, "candidate": candidate, "benchmark": benchmark}
    pair = [cells.get((subject, benchmark)) for subject in (baseline, candidate)]
    for subject, cell in zip((baseline, candidate), pair, strict=True):
        if cell is None or not cell.usable:
            return {**row, "problem": f"{subject}: {cell.state if cell else 'not evaluated'}"}
    base, tuned = (cells[subject, benchmark].score for subject in (baseline, candidate))
    for side, score in (("baseline", base), ("candidate", tuned)):
        row |= {f"{side}_score": score["score"]}
        row |= {f"{side}_unparsed_share": score["unparsed"] / score["answers"]}
        row |= {f"{side}_{name}": count for name, count in (score.get("form") or {}).items()}
    if base["items"]["digest"] != tuned["items"]["digest"]:
        return {
            **row,
            "problem": f"unequal sample sets ({base['n']} and {tuned['n']} questions, not the same "
            "ones): evaluate both again with the same benchmark settings",
        }
    if base["metric"] != tuned["metric"]:
        return {**row, "problem": f"metrics differ: {base['metric']} and {tuned['metric']}"}
    settings = {
        "confidence": study["statistics"]["confidence"],
        "seed": study["statistics"]["seed"],
    }
    clusters = base["items"]["clusters"] or tuned["items"]["clusters"]
    before, after = item_scores(base), item_scores(tuned)
    result = stats.compare(before, after, clusters, **settings)
    row |= _raw_difference(result)
    if mask := tuned["items"]["clean"] or base["items"]["clean"]:
        clean = np.frombuffer(mask.encode(), np.uint8) == ord("1")
        kept = (
            None
            if clusters is None
            else [c for c, keep in zip(clusters, clean, strict=True) if keep]
        )
        result = stats.compare(before[clean], after[clean], kept, **settings)
        row |= {f"clean_{key}": value for key, value in _raw_difference(result).items()}
    return row


def _raw_difference(result: stats.Difference) -> dict:
    low, high = result.interval or (None, None)
    return {
        "n": result.n,
        "difference": result.difference,
        "ci_low": low,
        "ci_high": high,
        "fixed": result.fixed,
        "broken": result.broken,
        "p": result.p,
        "detectable": result.detectable,
        "test": result.test,
    }


def verdict(row: dict, alpha: float) -> str:
    if "problem" in row:
        return "not compared: " + row["problem"]
    if row["p_holm"] is not None and row["p_holm"] < alpha:
        return "better" if row["difference"] > 0 else "worse"
    return f"no evidence at n = {row['n']}"


def _linked(row: dict, side: str) -> str:
    score = row.get(f"{side}_score")
    if score is None:
        return NONE
    return link(f"scores/{row[side]}/{row['benchmark']}.json", percent(score))


def _pair(row: dict, name: str) -> tuple[float, float] | None:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def suite_difference_frame(study: dict, cells: dict, draws: Draws) -> pd.DataFrame:
    rows = []
    confidence = study["statistics"]["confidence"]
    for pair in study["comparisons"]:
        for suite in study["evaluate"]["suites"]:
            row = {"Baseline": pair["baseline"], "Candidate": pair["candidate"], "Suite": suite}
            sides: list[list[Any]] = [
                [cells.get((pair[side], name)) for name in study["suites"][suite]]
                for side in ("baseline", "candidate")
            ]
            problem = suite_problem(sides)
            row |= suite_test(sides, problem, confidence, study["statistics"]["seed"])
            for name, kind in (("Micro difference", "micro"), ("Macro difference", "macro")):
                row[name] = NONE
                if problem is None:
                    (before, old), (after, new) = (
                        draws[suite, pair[side]][kind] for side in ("baseline", "candidate")
                    )
                    interval = stats.percentile_interval(new - old, confidence)
                    row[name] = points(after - before, interval)
            rows.append({**row, "Note": problem or ""})
    return pd.DataFrame(rows)


def suite_test(sides: list[list[Cell]], problem: str | None, confidence: float, seed: int) -> dict:
    """The paired test over all questions of a suite, benchmarks together."""
    if problem is not None:
        return {"n": NONE, "Fixed / broken": NONE, "p": NONE}
    before, after = (np.concatenate([item_scores(cell.score) for cell in side]) for side in sides)
    dependent = any(cell.score["items"]["clusters"] for side in sides for cell in side)
    clusters = suite_clusters(sides) if dependent else None
    result = stats.compare(before, after, clusters, confidence, seed)
    return {
        "n": result.n,
        "Fixed / broken": f"{result.fixed} / {result.broken}",
        "p": p_value(result.p),
    }


def suite_clusters(sides: list[list[Cell]]) -> list[str]:
    """Clusters of a suite's questions; those of different benchmarks are never one."""
    return [
        f"{before.benchmark} {cluster}"
        for before, after in zip(*sides, strict=True)
        for cluster in before.score["items"]["clusters"]
        or after.score["items"]["clusters"]
        or range(before.score["n"])
    ]


def suite_problem(sides: list[list[Cell | None]]) -> str | None:
    whole = [[cell for cell in side if cell] for side in sides]
    if whole != sides:
        return "not evaluated"
    if reason := incomplete(whole[0]) or incomplete(whole[1]):
        return reason
    for before, after in zip(*whole, strict=True):
        if before.score["items"]["digest"] != after.score["items"]["digest"]:
            return f"unequal sample sets in {before.benchmark}"
    return None


def seed_difference_frame(study: dict, cells: dict) -> pd.DataFrame:
    """Runs that differ in their seed only, as one: each question's score is the mean over seeds."""
    pairs = {(pair["baseline"], pair["candidate"]) for pair in study["comparisons"]}
    return pd.DataFrame(
        seed_difference_row(study, cells, baseline, group, runs, benchmark)
        for group, runs in seed_groups(study).items()
        for baseline in sorted({baseline for baseline, _ in pairs})
        if all((baseline, run) in pairs for run in runs)
        for benchmark in asked(study)
    )


def seed_difference_row(
    study: dict, cells: dict, baseline: str, group: str, runs: list[str], benchmark: str
) -> dict:
    row = {
        "Baseline": baseline,
        "Candidate": f"{group} ({len(runs)} seeds)",
        "Benchmark": label(study, "benchmarks", benchmark),
        "Difference": NONE,
        "p": NONE,
        "SD between seeds": NONE,
        "Seeds better / worse": NONE,
    }
    members: list[Any] = [cells.get((name, benchmark)) for name in (baseline, *runs)]
    if problem := seed_problem(members):
        return {**row, "Note": problem}
    before, *after = (item_scores(cell.score) for cell in members)
    each = [float(np.mean(scores - before)) for scores in after]
    together = stats.compare(
        before,
        np.mean(after, axis=0),
        members[0].score["items"]["clusters"],
        study["statistics"]["confidence"],
        study["statistics"]["seed"],
    )
    return {
        **row,
        "Difference": points(together.difference, together.interval),
        "p": p_value(together.p),
        "SD between seeds": percent(float(np.std(each, ddof=1))),
        "Seeds better / worse": f"{sum(d > 0 for d in each)} / {sum(d < 0 for d in each)}",
        "Note": "",
    }


def seed_problem(members: list[Cell | None]) -> str | None:
    whole = [cell for cell in members if cell]
    if whole != members:
        return "not evaluated"
    if absent := [f"{cell.subject} {cell.state}" for cell in whole if not cell.usable]:
        return "incomplete: " + ", ".join(absent)
    if len({cell.score["items"]["digest"] for cell in whole}) > 1:
        return "unequal sample sets"
    return None
