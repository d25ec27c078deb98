"""The table of a suite: scores side by side, means, seeds and details."""

from itertools import chain

import numpy as np
import pandas as pd
from sftflow.reporting.cells import Cell, Draws, incomplete, measured, seed_groups, suite_items
from sftflow.reporting.flags import Flag, in_order, kinds
from sftflow.reporting.text import (
    MISSING,
    NONE,
    STALE,
    WIDE,
    Table,
    confidence_text,
    headings,
    label,
    link,
    number,
    percent,
    pick,
    with_interval,
)

BAND = 0.05  # how far outside a measured interval a published figure may lie: prompts differ


def suite_table(study: dict, suite: str, cells: dict, draws: Draws, references: dict) -> Table:
    benchmarks = study["suites"][suite]
    subjects = study["evaluate"]["subjects"]
    if len(subjects) > WIDE:  # then each is a row: the best first
        best = {s: draws[suite, s]["micro"].score for s in subjects if (suite, s) in draws}
        subjects = sorted(subjects, key=lambda subject: -best.get(subject, -1))
    chosen = [cells[subject, benchmark] for benchmark in benchmarks for subject in subjects]
    rows = [row for cell in chosen for row in score_rows(study, cell, references)]
    sections = [
        ("Side by side", side_by_side(study, benchmarks, subjects, cells)),
        ("Suite means", suite_mean_frame(study, suite, subjects, cells, draws)),
    ]
    seeds = seed_frame(study, benchmarks, cells)
    if len(seeds):
        sections.append(("Between seeds", seeds))
    sections.append(("Details", detail_frame(study, rows)))
    return Table(
        suite,
        f"Suite {suite}",
        "Accuracy, or the metric named with the benchmark, in percent with "
        f"{confidence_text(study)} interval.",
        sections,
        pd.DataFrame(row | {"flags": kinds(row.get("flags", []))} for row in rows),
        [
            f"{label(study, 'subjects', flag.where)}: {flag}"
            for flag in in_order(chain.from_iterable(row.get("flags", []) for row in rows))
        ]
        + SCORE_NOTES
        + shared_notes(study, suite, cells)
        + reference_notes(study, chosen, references)
        + stale_notes(study, chosen),
    )


SCORE_NOTES = [
    "Intervals: Wilson for right-or-wrong scores (at the effective sample size where repeats or "
    "clusters make answers dependent), Student's t for graded scores. SE: standard error. A "
    "cluster is the questions of a subset that share a passage: 200 characters or more before "
    "their last line.",
    "Macro-F1: mean over the options that are the right answer of some question, of the same "
    f"extracted answers as the accuracy; {NONE} where answers are not options.",
    "Accuracy is evalscope's, which compares with other people's: where an answer states no choice "
    "or number in an explicit form, it takes the last capital letter or number. Strict: share of "
    "answers that came to their end and state what is right. Unstated: share that states nothing; "
    "misread: share that states something else than evalscope read; truncated: share that was cut "
    "off; empty: share without text. If stated: strict accuracy among the answers that state "
    "something; far above the accuracy, the format was lost and not the knowledge.",
    "Clean: accuracy on the questions that do not overlap with the subject's training data, as far "
    "as that is known. Chance: accuracy of blind guessing.",
    "Suite means have a percentile bootstrap interval (questions resampled within their benchmark, "
    "those of several among themselves; seeded); there is none where all questions were answered "
    "alike. The micro mean is over all questions: one that stands in several benchmarks counts "
    "once, and is resampled as one. The macro mean is over benchmarks.",
    "From a number to its origin: the score file names the answers, weights, data, settings and "
    "software; `uv run python scripts/trace.py SUBJECT BENCHMARK` prints that chain.",
]


def shared_notes(study: dict, suite: str, cells: dict) -> list[str]:
    """How many questions stand in several benchmarks of a suite that some subject has whole."""
    for subject in study["evaluate"]["subjects"]:
        mine = [cells[subject, benchmark] for benchmark in study["suites"][suite]]
        if incomplete(mine) is None:
            found = suite_items([cell.score["items"] for cell in mine])
            if found.shared:
                return [
                    f"{found.shared} of the suite's {len(found.copies)} questions stand in several "
                    "of its benchmarks."
                ]
            break
    return []


def reference_notes(study: dict, cells: list[Cell], references: dict) -> list[str]:
    found = [
        f"{label(study, 'benchmarks', cell.benchmark)} {percent(figure['score'])} for "
        f"{label(study, 'subjects', cell.subject)} ({reference_text(figure)})"
        for cell in cells
        if cell.score and (figure := reference_for(study, references, cell))
    ]
    if not found:
        return []
    return [
        f"Published figures, a sanity band (a flag warns where one lies more than {percent(BAND)} "
        "points outside the interval): " + "; ".join(found) + "."
    ]


def reference_text(figure: dict) -> str:
    shots = f"{figure['shots']}-shot" if figure["shots"] is not None else "shots not stated"
    return ", ".join(filter(None, [shots, figure["prompt"], figure["source"]]))


def stale_notes(study: dict, cells: list[Cell]) -> list[str]:
    stale = [
        f"{label(study, 'subjects', cell.subject)} "
        f"{label(study, 'benchmarks', cell.benchmark)} ({cell.note})"
        for cell in cells
        if cell.state == STALE
    ]
    if not stale:
        return []
    return [
        "**Stale**: made with other settings, data or weights than the config now names; shown in "
        "the details, left out of means and comparisons: " + "; ".join(stale) + "."
    ]


def score_rows(study: dict, cell: Cell, references: dict) -> list[dict]:
    """One raw row for the whole benchmark, and one per subset where there are several."""
    settings = study["benchmarks"][cell.benchmark]
    base = {
        "benchmark": measured(study, cell.benchmark, [cell]),
        "subset": "all",
        "subject": cell.subject,
        "state": cell.state,
    }
    if not cell.score:
        return [{**base, "note": cell.note, "file": cell.path}]
    score = cell.score
    subsets = score["subsets"]
    whole = {**base, **_raw(score), "shots": pick(score, "provenance.settings.shots")}
    if whole["shots"] is None:
        whole["shots"] = settings.get("shots")
    if len(subsets) == 1:
        whole["subset"] = subsets[0]["name"]
    reference = reference_for(study, references, cell)
    whole["published"] = reference and reference["score"]
    whole["note"] = "; ".join(filter(None, [cell.note, settings.get("note")]))
    whole["flags"] = score_flags(study, cell, reference)
    whole["file"] = cell.path
    rows = [whole]
    if len(subsets) > 1:
        for subset in subsets:
            rows.append(
                {
                    **base,
                    **_raw(subset),
                    "subset": subset["name"],
                    "shots": whole["shots"],
                    "note": "",
                    "file": cell.path,
                }
            )
    return rows


def _raw(score: dict) -> dict:
    low, high = score["ci95"] or (None, None)
    strict = score.get("strict") or {}  # not in scores of older versions, nor in graded ones
    strict_low, strict_high = strict.get("ci95") or (None, None)
    clean = score["clean"] or {}
    clean_low, clean_high = clean.get("ci95") or (None, None)
    return {
        "n": score["n"],
        "score": score["score"],
        "stderr": score["stderr"],
        "ci_low": low,
        "ci_high": high,
        "strict": strict.get("score"),
        "strict_ci_low": strict_low,
        "strict_ci_high": strict_high,
        "macro_f1": score["macro_f1"],
        **{
            f"{what}_share": score[what] / score["answers"] if score.get(what) is not None else None
            for what in ("unparsed", "misread", "truncated", "empty")
        },
        "accuracy_stated": score.get("accuracy_stated"),
        "clean_n": clean.get("n"),
        "clean_score": clean.get("score"),
        "clean_ci_low": clean_low,
        "clean_ci_high": clean_high,
        "chance": score["chance"],
    }


def reference_for(study: dict, references: dict, cell: Cell) -> dict | None:
    """A base model's published figure (config/references.yaml) for what was asked here."""
    model = study["models"].get(cell.subject)
    if model is None or model.get("reference") is None:
        return None
    benchmark = study["benchmarks"][cell.benchmark]
    # A figure is of the whole benchmark: some subsets alone are easier or harder.
    return references[model["reference"]].get(benchmark["preset"]) if benchmark["whole"] else None


MANY = 0.1  # of a score's answers: what more of them do changes what the score means


def score_flags(study: dict, cell: Cell, reference: dict | None) -> list[Flag]:
    """What a reader must know before believing the number."""
    score = cell.score
    name = label(study, "benchmarks", cell.benchmark)
    found: list[Flag] = []

    def flag(kind: str, **values: str) -> None:
        found.append(Flag(kind, cell.subject, {"benchmark": name, **values}))

    low, high = score["ci95"] or (score["score"], score["score"])
    for kind, what in (("unstated", "unparsed"), ("cut off", "truncated")):
        if score[what] > MANY * score["answers"]:
            flag(kind, share=percent(score[what] / score["answers"]))
    if score.get("empty"):
        flag("empty", count=number(score["empty"]), n=number(score["answers"]))
    strict = score.get("strict")
    if strict and not low <= strict["score"] <= high:
        flag("misread", share=percent(score["score"]), strict=percent(strict["score"]))
    if reference and not low - BAND <= reference["score"] <= high + BAND:
        flag(
            "off published",
            score=percent(score["score"]),
            published=percent(reference["score"]),
            source=reference_text(reference),
        )
    return found


def cell_text(cell: Cell) -> str:
    if not cell.score:
        return MISSING
    text = with_interval(cell.score["score"], cell.score["ci95"])
    return f"~~{text}~~ stale" if cell.state == STALE else text


def side_by_side(
    study: dict, benchmarks: list[str], subjects: list[str], cells: dict
) -> pd.DataFrame:
    """Few subjects are columns, as a reader compares them; many are rows."""
    subject_headings = headings(study, "subjects", subjects)
    if len(subjects) > WIDE:
        columns = headings(study, "benchmarks", benchmarks)
        return pd.DataFrame(
            {"Subject": heading, **{columns[b]: cell_text(cells[subject, b]) for b in benchmarks}}
            for subject, heading in subject_headings.items()
        )
    rows = []
    for benchmark in benchmarks:
        mine = {subject: cells[subject, benchmark] for subject in subjects}
        sizes = sorted({cell.score["n"] for cell in mine.values() if cell.score})
        rows.append(
            {
                "Benchmark": measured(study, benchmark, mine.values()),
                "n": " / ".join(map(str, sizes)) or NONE,
                **{subject_headings[subject]: cell_text(cell) for subject, cell in mine.items()},
            }
        )
    return pd.DataFrame(rows)


def suite_mean_frame(
    study: dict, suite: str, subjects: list[str], cells: dict, draws: Draws
) -> pd.DataFrame:
    """Micro and macro mean, over complete sets of one metric only."""
    rows = []
    for subject in subjects:
        row = {"Subject": label(study, "subjects", subject)}
        found = draws.get((suite, subject))
        for name, kind in (("Micro mean", "micro"), ("Macro mean", "macro")):
            row[name] = NONE
            if found:
                row[name] = with_interval(found[kind].score, found[kind].interval)
        row["Note"] = incomplete([cells[subject, b] for b in study["suites"][suite]]) or ""
        rows.append(row)
    return pd.DataFrame(rows)


def seed_frame(study: dict, benchmarks: list[str], cells: dict) -> pd.DataFrame:
    """Spread between training seeds, apart from the sampling error of one seed's score."""
    rows = []
    for group, runs in seed_groups(study).items():
        for benchmark in benchmarks:
            found = [cells[run, benchmark] for run in runs if (run, benchmark) in cells]
            scores = [cell.score["score"] for cell in found if cell.usable]
            errors = [cell.score["stderr"] for cell in found if cell.usable]
            if not found:
                continue
            several = len(scores) > 1
            rows.append(
                {
                    "Run": group,
                    "Benchmark": measured(study, benchmark, found),
                    "Seeds": f"{len(scores)} of {len(found)}",
                    "Mean": percent(np.mean(scores)) if scores else NONE,
                    "SD between seeds": percent(np.std(scores, ddof=1)) if several else NONE,
                    "Lowest to highest": f"{percent(min(scores))} to {percent(max(scores))}"
                    if several
                    else NONE,
                    "SE of one score (sampling)": percent(np.mean(errors))
                    if errors and None not in errors
                    else NONE,
                }
            )
    return pd.DataFrame(rows)


def detail_frame(study: dict, rows: list[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "Benchmark": row["benchmark"],
            "Subset": row["subset"],
            "Subject": label(study, "subjects", row["subject"]),
            "n": row.get("n", NONE),
            "Accuracy": MISSING
            if "score" not in row
            else ("~~%s~~ stale" if row["state"] == STALE else "%s")
            % with_interval(row["score"], _interval(row, "ci")),
            "SE": percent(row.get("stderr")),
            "Strict": with_interval(row.get("strict"), _interval(row, "strict_ci"))
            if "score" in row
            else NONE,
            "Macro-F1": percent(row.get("macro_f1")),
            "Unstated": percent(row.get("unparsed_share")),
            "Misread": percent(row.get("misread_share")),
            "Truncated": percent(row.get("truncated_share")),
            "Empty": percent(row.get("empty_share")),
            "If stated": percent(row.get("accuracy_stated")),
            "Clean": _clean(row),
            "Chance": percent(row.get("chance")),
            "Few-shot": NONE if row.get("shots") is None else row["shots"],
            "Published": percent(row.get("published")),
            "Flags": kinds(row.get("flags", [])) or NONE,
            "Note": row["note"],
            "Score": link(row["file"]) if "score" in row else NONE,
        }
        for row in rows
    )
    return frame.drop(
        columns=[name for name in ("Clean", "Published", "Flags") if (frame[name] == NONE).all()]
    )


def _clean(row: dict) -> str:
    if row.get("clean_n") is None:
        return NONE
    return f"{with_interval(row['clean_score'], _interval(row, 'clean_ci'))} (n {row['clean_n']})"


def _interval(row: dict, name: str) -> tuple[float, float] | None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return None if low is None else (low, high)
