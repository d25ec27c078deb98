"""From scores and receipts to tables (root environment only: pandas, tabulate, scipy).

A `Table` is what one results/tables/<name>.md and .csv hold. Everything that the study asks for has
its row: what is missing, stale or cannot be compared says so in its place.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from sftflow import stale, stats
from sftflow.cli import UserError
from sftflow.jsonio import read_json

NONE = "—"  # has no meaning here, or could not be computed
MISSING = "missing"
STALE = "stale"
WIDE = 6  # so many subjects still stand side by side as columns

TAG = re.compile(r"<(?=[A-Za-z/!?])")

# {(suite, subject): {"micro" | "macro": (mean, bootstrap draws of it)}}
Draws = dict[tuple[str, str], dict[str, tuple[float, np.ndarray]]]


class Results:
    """The outputs of a study. What is not there reads as None."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def read(self, path: str) -> dict | None:
        try:
            return read_json(self.folder / path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{self.folder / path} is not valid JSON ({error}): delete it, and it is made again"
            ) from None


@dataclass(frozen=True)
class Cell:
    """One subject's result on one benchmark: its score file, or why there is none to use."""

    subject: str
    benchmark: str
    score: dict | None
    state: str = "ok"  # ok, missing or stale
    note: str = ""

    @property
    def usable(self) -> bool:
        return self.state == "ok"

    @property
    def path(self) -> str:
        return f"scores/{self.subject}/{self.benchmark}.json"


@dataclass
class Table:
    name: str
    title: str
    text: str
    sections: list[tuple[str, pd.DataFrame]]
    data: pd.DataFrame  # the same numbers, unrounded, for the .csv
    notes: list[str] = field(default_factory=list)


# --- reading -------------------------------------------------------------------------------------


def asked(study: dict) -> list[str]:
    """Every benchmark that is evaluated, in the order of the suites."""
    return [name for suite in study["evaluate"]["suites"] for name in study["suites"][suite]]


def load_cells(study: dict, results: Results) -> dict[tuple[str, str], Cell]:
    """Every cell that the study asks for, by (subject, benchmark)."""
    changes = stale.checker(study, results.read)
    cells = {}
    for benchmark in asked(study):
        for subject in study["evaluate"]["subjects"]:
            score = results.read(f"scores/{subject}/{benchmark}.json")
            state, note = "ok", ""
            if score is None:
                state, note = MISSING, "no score file"
            elif changed := changes(subject, benchmark, score):
                state, note = STALE, "stale: " + "; ".join(changed)
            cells[subject, benchmark] = Cell(subject, benchmark, score, state, note)
    return cells


def extra_scores(study: dict, results: Results) -> list[str]:
    """Score files that lie there but that the study does not ask for: named, never mixed in."""
    wanted = {
        f"scores/{subject}/{benchmark}.json"
        for benchmark in asked(study)
        for subject in study["evaluate"]["subjects"]
    }
    found = (
        path.relative_to(results.folder).as_posix()
        for path in results.folder.glob("scores/*/*.json")
    )
    return sorted(set(found) - wanted)


# --- formatting ----------------------------------------------------------------------------------


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def with_interval(share: float | None, interval: Iterable[float] | None) -> str:
    """`55.0 [34.2, 74.2]`, in percent."""
    if share is None:
        return NONE
    if interval is None:
        return percent(share)
    low, high = interval
    return f"{percent(share)} [{percent(low)}, {percent(high)}]"


def points(difference: float | None, interval: Iterable[float] | None) -> str:
    """`+12.0 [+3.1, +20.4]`, in percentage points."""
    if difference is None:
        return NONE
    text = f"{100 * difference:+.1f}"
    if interval is None:
        return text
    low, high = interval
    return f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]"


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    if value is None:
        return NONE
    return f"{value:,.{digits}f}" + (f" {unit}" if unit else "")


def duration(seconds: float | None) -> str:
    """`1:02:03`, `12.3 s` below a minute, `1.23 s` below ten seconds."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def gibibytes(size: float | None) -> str:
    return NONE if size is None else f"{size / 2**30:.2f} GiB"


def pick(record: dict | None, path: str) -> object:
    """Value at a dotted path, or None."""
    for key in path.split("."):
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


def label(study: dict, kind: str, name: str) -> str:
    """What a person reads for a benchmark or subject: its label."""
    return study[kind][name]["label"] or name


def link(path: str, text: str = "json") -> str:
    """Link from results/tables/ to another output."""
    return f"[{text}](../{path})"


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table. Cells keep their text: a bar or a line break would end them, a tag vanish."""
    if frame.empty:
        return "(none)"
    return frame.map(_cell).to_markdown(index=False, disable_numparse=True)


def _cell(value: object) -> str:
    text = str(value)
    if text.isalnum():
        return text
    return TAG.sub("&lt;", text).replace("|", "\\|").replace("\r", "").replace("\n", "<br>")


def render(table: Table) -> str:
    parts = [f"# {table.title}", table.text]
    for heading, frame in table.sections:
        parts += ([f"## {heading}"] if heading else []) + [markdown(frame)]
    if table.notes:
        parts.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


# --- scores --------------------------------------------------------------------------------------


def suite_table(study: dict, suite: str, cells: dict, draws: Draws, references: dict) -> Table:
    benchmarks = study["suites"][suite]
    subjects = study["evaluate"]["subjects"]
    chosen = [cells[subject, benchmark] for benchmark in benchmarks for subject in subjects]
    rows = [row for cell in chosen for row in score_rows(study, cell, references)]
    sections = [
        ("Side by side", side_by_side(study, benchmarks, subjects, cells)),
        ("Suite means", suite_mean_frame(study, suite, cells, draws)),
    ]
    seeds = seed_frame(study, benchmarks, cells)
    if len(seeds):
        sections.append(("Between seeds", seeds))
    sections.append(("Details", detail_frame(rows)))
    return Table(
        suite,
        f"Suite {suite}",
        f"Accuracy in percent with {confidence_text(study)} interval.",
        sections,
        pd.DataFrame(rows),
        SCORE_NOTES + reference_notes(study, chosen, references) + stale_notes(chosen),
    )


SCORE_NOTES = [
    "Intervals: Wilson for right-or-wrong scores (at the effective sample size where repeats or "
    "clusters make answers dependent), Student's t for graded scores. SE: standard error.",
    "Macro-F1: mean over the options that are the right answer of some question, of the same "
    f"extracted answers as the accuracy; {NONE} where answers are not options.",
    "Unparsed: share of answers that do not state their choice or number in an explicit form; a "
    "lucky find in them still counts in the accuracy. Truncated: share that ran into max_tokens. "
    "If parsed: accuracy among the parsed answers; far above the accuracy, the format was lost and "
    "not the knowledge.",
    "Clean: accuracy on the questions that do not overlap with the subject's training data, as far "
    "as that is known. Chance: accuracy of blind guessing.",
    "Suite means have a percentile bootstrap interval (questions resampled within their benchmark, "
    "seeded); there is none where all questions were answered alike.",
    "From a number to its origin: the score file names the answers, weights, data, settings and "
    "software; `uv run python scripts/trace.py SUBJECT BENCHMARK` prints that chain.",
]


def confidence_text(study: dict) -> str:
    return f"{100 * study['statistics']['confidence']:g} %"


def reference_notes(study: dict, cells: list[Cell], references: dict) -> list[str]:
    found = [
        f"{label(study, 'benchmarks', cell.benchmark)} {percent(figure['score'])} for "
        f"{label(study, 'subjects', cell.subject)} ({reference_text(figure)})"
        for cell in cells
        if cell.score and (figure := reference_for(study, references, cell))
    ]
    return ["Published figures, a sanity band: " + "; ".join(found) + "."] if found else []


def reference_text(figure: dict) -> str:
    shots = f"{figure['shots']}-shot" if figure["shots"] is not None else "shots not stated"
    return ", ".join(filter(None, [shots, figure["prompt"], figure["source"]]))


def stale_notes(cells: list[Cell]) -> list[str]:
    stale = [
        f"{cell.subject} {cell.benchmark} ({cell.note})" for cell in cells if cell.state == STALE
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
        "benchmark": label(study, "benchmarks", cell.benchmark),
        "subset": "all",
        "subject": cell.subject,
        "state": cell.state,
    }
    if cell.score is None:
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
    whole["note"] = "; ".join(
        filter(None, [cell.note, settings.get("note"), *warnings(cell, reference)])
    )
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
    clean = score["clean"] or {}
    clean_low, clean_high = clean.get("ci95") or (None, None)
    return {
        "n": score["n"],
        "score": score["score"],
        "stderr": score["stderr"],
        "ci_low": low,
        "ci_high": high,
        "macro_f1": score["macro_f1"],
        "unparsed_share": score["unparsed"] / score["answers"] if score["answers"] else None,
        "truncated_share": score["truncated"] / score["answers"] if score["answers"] else None,
        "accuracy_parsed": score["accuracy_parsed"],
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
    figure = references[model["reference"]].get(benchmark["preset"])
    if figure is None or set(benchmark["subsets"]) != set(
        figure["subsets"] or benchmark["published"] or ()
    ):
        return None
    return figure


def warnings(cell: Cell, reference: dict | None) -> list[str]:
    """What a reader must know before believing the number."""
    score = cell.score
    found = []
    if score["answers"] and score["unparsed"] > 0.1 * score["answers"]:
        found.append("many answers unparsed: format or knowledge?")
    if score["answers"] and score["truncated"] > 0.1 * score["answers"]:
        found.append("many answers truncated: raise max_tokens")
    if reference:
        low, high = score["ci95"] or (score["score"], score["score"])
        band = reference["band"]
        if not low - band <= reference["score"] <= high + band:
            found.append(
                f"far from the published {percent(reference['score'])}: check prompt, template and "
                "parsing"
            )
    return found


def cell_text(cell: Cell) -> str:
    if cell.score is None:
        return MISSING
    text = with_interval(cell.score["score"], cell.score["ci95"])
    return f"~~{text}~~ stale" if cell.state == STALE else text


def side_by_side(
    study: dict, benchmarks: list[str], subjects: list[str], cells: dict
) -> pd.DataFrame:
    """Few subjects are columns, as a reader compares them; many are rows."""
    if len(subjects) <= WIDE:
        rows = []
        for benchmark in benchmarks:
            sizes = {c.score["n"] for s in subjects if (c := cells[s, benchmark]).score}
            row = {
                "Benchmark": label(study, "benchmarks", benchmark),
                "n": " / ".join(map(str, sorted(sizes))) or NONE,
            }
            for subject in subjects:
                row[label(study, "subjects", subject)] = cell_text(cells[subject, benchmark])
            rows.append(row)
        return pd.DataFrame(rows)
    return pd.DataFrame(
        {
            "Subject": label(study, "subjects", subject),
            **{label(study, "benchmarks", b): cell_text(cells[subject, b]) for b in benchmarks},
        }
        for subject in subjects
    )


def item_scores(score: dict) -> np.ndarray:
    """Scores of a score file's items (n,), in the order of their keys."""
    scores = score["items"]["scores"]
    if isinstance(scores, str):
        return np.frombuffer(scores.encode(), np.uint8).astype(float) - ord("0")
    return np.asarray(scores, float)


def suite_draws(study: dict, cells: dict) -> Draws:
    """Means of every subject that has a complete suite.

    Micro is the mean over all questions, macro over benchmarks; questions are resampled within
    their benchmark, the same ones for every subject that was asked the same set.
    """
    settings = study["statistics"]
    draws = {}
    for suite in study["evaluate"]["suites"]:
        names = study["suites"][suite]
        complete = [
            subject
            for subject in study["evaluate"]["subjects"]
            if incomplete([cells[subject, name] for name in names]) is None
        ]
        parts: dict[str, list[tuple[int, float, np.ndarray]]] = {s: [] for s in complete}
        for place, name in enumerate(names):
            same: dict[str, list[str]] = {}
            for subject in complete:
                same.setdefault(cells[subject, name].score["items"]["digest"], []).append(subject)
            for group in same.values():
                items = [cells[subject, name].score["items"] for subject in group]
                means = stats.bootstrap_means(
                    np.column_stack([item_scores(cells[s, name].score) for s in group]),
                    items[0]["clusters"],
                    settings["bootstrap"],
                    [settings["seed"], place],
                )
                for subject, column in zip(group, means.T, strict=True):
                    score = cells[subject, name].score
                    parts[subject].append((score["n"], score["score"], column))
        for subject, found in parts.items():
            sizes, scores, columns = (np.array(values) for values in zip(*found, strict=True))
            draws[suite, subject] = {
                "micro": (np.average(scores, weights=sizes), np.average(columns, 0, sizes)),
                "macro": (scores.mean(), columns.mean(axis=0)),
            }
    return draws


def suite_mean_frame(study: dict, suite: str, cells: dict, draws: Draws) -> pd.DataFrame:
    """Micro and macro mean, over complete sets of one metric only."""
    rows = []
    confidence = study["statistics"]["confidence"]
    for subject in study["evaluate"]["subjects"]:
        row = {"Subject": label(study, "subjects", subject)}
        found = draws.get((suite, subject))
        for name, kind in (("Micro mean", "micro"), ("Macro mean", "macro")):
            row[name] = NONE
            if found:
                mean, drawn = found[kind]
                row[name] = with_interval(mean, stats.percentile_interval(drawn, confidence))
        row["Note"] = incomplete([cells[subject, b] for b in study["suites"][suite]]) or ""
        rows.append(row)
    return pd.DataFrame(rows)


def incomplete(cells: list[Cell]) -> str | None:
    """Why no mean may be taken over these cells; None if it may."""
    absent = [f"{cell.benchmark} {cell.state}" for cell in cells if not cell.usable]
    if absent:
        return "incomplete: " + ", ".join(absent)
    metrics = {cell.score["metric"] for cell in cells}
    if len(metrics) > 1:
        return f"no mean over different metrics ({', '.join(sorted(metrics))})"
    return None


def seed_groups(study: dict) -> dict[str, list[str]]:
    """Runs that differ in their training seed only, by the name they were configured under."""
    groups: dict[str, list[str]] = {}
    for name, run in study["runs"].items():
        groups.setdefault(run.get("group") or name, []).append(name)
    return {group: runs for group, runs in groups.items() if len(runs) > 1}


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
                    "Benchmark": label(study, "benchmarks", benchmark),
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


def detail_frame(rows: list[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "Benchmark": row["benchmark"],
            "Subset": row["subset"],
            "Subject": row["subject"],
            "n": row.get("n", NONE),
            "Accuracy": MISSING
            if "score" not in row
            else ("~~%s~~ stale" if row["state"] == STALE else "%s")
            % with_interval(row["score"], _interval(row, "ci")),
            "SE": percent(row.get("stderr")),
            "Macro-F1": percent(row.get("macro_f1")),
            "Unparsed": percent(row.get("unparsed_share")),
            "Truncated": percent(row.get("truncated_share")),
            "If parsed": percent(row.get("accuracy_parsed")),
            "Clean": _clean(row),
            "Chance": percent(row.get("chance")),
            "Few-shot": NONE if row.get("shots") is None else row["shots"],
            "Published": percent(row.get("published")),
            "Note": row["note"],
            "Score": link(row["file"]) if "score" in row else NONE,
        }
        for row in rows
    )
    return frame.drop(
        columns=[name for name in ("Clean", "Published") if (frame[name] == NONE).all()]
    )


def _clean(row: dict) -> str:
    if row.get("clean_n") is None:
        return NONE
    return f"{with_interval(row['clean_score'], _interval(row, 'clean_ci'))} (n {row['clean_n']})"


def _interval(row: dict, name: str) -> tuple[float, float] | None:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return None if low is None else (low, high)


# --- comparison ----------------------------------------------------------------------------------


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
    base, tuned = (cell.score for cell in pair)
    for side, score in (("baseline", base), ("candidate", tuned)):
        row |= {f"{side}_score": score["score"]}
        row |= {f"{side}_unparsed_share": score["unparsed"] / score["answers"]}
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


def comparison_table(study: dict, cells: dict, draws: Draws) -> Table:
    rows = comparison_rows(study, cells)
    frame = pd.DataFrame(
        {
            "Baseline": row["baseline"],
            "Candidate": row["candidate"],
            "Benchmark": label(study, "benchmarks", row["benchmark"]),
            "n": row.get("n", NONE),
            "Baseline score": _linked(row, "baseline"),
            "Candidate score": _linked(row, "candidate"),
            "Difference": points(row.get("difference"), _pair(row, "ci")),
            "Fixed / broken": f"{row['fixed']} / {row['broken']}" if "fixed" in row else NONE,
            "Unparsed": f"{percent(row['baseline_unparsed_share'])} → "
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
    "Unparsed: share of answers in no explicit form, before and after. Where it changes a lot, the "
    "format was learnt or lost, and the scores say little about knowledge.",
    "p (Holm): adjusted over the benchmarks of one pair; the verdict goes by it. An interval is "
    "not adjusted, and of another method than p: near the threshold the two may disagree.",
    "Detectable: the smallest true difference that this n would have shown with 80 % power at the "
    "unadjusted level (exact McNemar power, Duffy 1984, at the observed discordance). No evidence "
    "is not evidence of no change: smaller differences may be there.",
    "Seeds together: interval and p are over questions (sampling error); the SD between seeds is "
    "the spread of the difference from training to training.",
    "Suite means are over complete sets only: micro over all questions, macro over benchmarks, "
    "with a percentile bootstrap interval of the paired difference (questions resampled within "
    "their benchmark, seeded).",
]


def _linked(row: dict, side: str) -> str:
    score = row.get(f"{side}_score")
    if score is None:
        return NONE
    return link(f"scores/{row[side]}/{row['benchmark']}.json", percent(score))


def _pair(row: dict, name: str) -> tuple[float, float] | None:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return None if low is None else (low, high)


def suite_difference_frame(study: dict, cells: dict, draws: Draws) -> pd.DataFrame:
    rows = []
    confidence = study["statistics"]["confidence"]
    for pair in study["comparisons"]:
        for suite in study["evaluate"]["suites"]:
            row = {"Baseline": pair["baseline"], "Candidate": pair["candidate"], "Suite": suite}
            sides = [
                [cells.get((pair[side], name)) for name in study["suites"][suite]]
                for side in ("baseline", "candidate")
            ]
            problem = suite_problem(sides)
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
    members = [cells.get((name, benchmark)) for name in (baseline, *runs)]
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
        "SD between seeds": percent(np.std(each, ddof=1)),
        "Seeds better / worse": f"{sum(d > 0 for d in each)} / {sum(d < 0 for d in each)}",
        "Note": "",
    }


def seed_problem(members: list[Cell | None]) -> str | None:
    if any(cell is None for cell in members):
        return "not evaluated"
    if absent := [f"{cell.subject} {cell.state}" for cell in members if not cell.usable]:
        return "incomplete: " + ", ".join(absent)
    if len({cell.score["items"]["digest"] for cell in members}) > 1:
        return "unequal sample sets"
    return None


def suite_problem(sides: list[list[Cell | None]]) -> str | None:
    if any(cell is None for side in sides for cell in side):
        return "not evaluated"
    if reason := incomplete(sides[0]) or incomplete(sides[1]):
        return reason
    for before, after in zip(*sides, strict=True):
        if before.score["items"]["digest"] != after.score["items"]["digest"]:
            return f"unequal sample sets in {before.benchmark}"
    return None


# --- training, inference, chat, data, sweep ------------------------------------------------------


def training_table(study: dict, results: Results) -> Table:
    records = {name: results.read(f"runs/{name}/training.json") for name in study["runs"]}
    return Table(
        "training",
        "Training",
        "One row per run; curves are in its training.json.",
        [("", pd.DataFrame(training_row(study, *item) for item in records.items()))],
        pd.DataFrame({"run": name, **flat(record or {})} for name, record in records.items()),
        [
            "Loss is the mean over the tokens of an optimizer step that carry loss. Tokens are "
            "real ones; padding is not counted.",
            "FLOP utilisation: useful FLOPs per second by the GPUs' data-sheet rate, with the "
            "formula in training.json; without a GPU there is none.",
        ],
    )


def training_row(study: dict, name: str, record: dict | None) -> dict:
    run = study["runs"][name]
    row = {
        "Run": name,
        "Model": run["model"],
        "Dataset": run["dataset"],
        "Seed": run["training"]["seed"],
    }
    if record is None:
        return {**row, "Steps": MISSING}
    memory = record.get("gpu_memory_gib", record.get("host_memory_gib"))
    return {
        **row,
        "Steps": number(record.get("steps")),
        "Epochs": number(record.get("epochs"), 2),
        "Final loss": number(record.get("final_loss"), 4),
        "Best loss": number(record.get("best_loss"), 4),
        "Validation loss": number(record.get("validation_loss"), 4),
        "Token accuracy": percent(record.get("token_accuracy")),
        "Time": duration(record.get("train_seconds")),
        "Dialogues/s": number(record.get("samples_per_second"), 2),
        "Tokens/s": number(record.get("tokens_per_second")),
        "Padded": percent(record.get("padded_share")),
        "Peak memory": number(memory, 2, "GiB"),
        "GPU use": NONE
        if "gpu_utilisation_percent" not in record
        else f"{record['gpu_utilisation_percent']:.0f} %, {record['gpu_power_watt']:.0f} W",
        "FLOP utilisation": percent(record.get("flop_utilisation")),
        "Record": link(f"runs/{name}/training.json"),
    }


def inference_table(study: dict, results: Results) -> Table:
    subjects = study["evaluate"]["subjects"]
    records = {name: results.read(f"subjects/{name}/readiness.json") for name in subjects}
    return Table(
        "inference",
        "Inference",
        "How each subject came up and answered, measured on an undisturbed server.",
        [("", pd.DataFrame(inference_row(study, *item) for item in records.items()))],
        pd.DataFrame({"subject": name, **flat(record or {})} for name, record in records.items()),
        [
            "Ready: from the start of the server to its first proven answer. A run is started in "
            "both forms, adapter on base and merged; the rest is of the form that is served.",
            "Tokens/s: generated tokens, of one answer and of as many at once as are asked in an "
            "evaluation.",
            f"Memory: {NONE} where there is no GPU, or the server is somebody else's.",
        ],
    )


def inference_row(study: dict, name: str, record: dict | None) -> dict:
    row = {"Subject": label(study, "subjects", name), "Form": study["subjects"][name]["form"]}
    if record is None:
        return {**row, "Backend": MISSING}
    form, seconds, speed = record["form"], record["seconds"], record["speed"]
    several = f"{number(speed['tokens_per_second_concurrent'], 1)} (×{speed['concurrency']})"
    return {
        **row,
        "Backend": record["backend"]["name"],
        "Ready": duration(seconds[form].get("ready")),
        "Weights loaded in": duration(seconds[form].get("load")),
        "First answer": duration(seconds[form].get("first_answer")),
        "Ready as adapter": duration(pick(seconds, "adapter.ready")),
        "Ready as merged": duration(pick(seconds, "merged.ready")),
        "First token": duration(speed["first_token_seconds"]),
        "Tokens/s, one stream": number(speed["tokens_per_second"], 1),
        "Tokens/s, together": several,
        "Process memory": gibibytes(record["memory"]["process"]),
        "GPU memory": gibibytes(record["memory"]["gpu"]),
        "Record": link(f"subjects/{name}/readiness.json"),
    }


def chat_table(study: dict, results: Results) -> Table:
    """Prompts are rows; few subjects are columns, many are rows below each prompt."""
    subjects = study["evaluate"]["subjects"]
    records = {name: results.read(f"subjects/{name}/chat.json") for name in subjects}
    rows = [
        {"prompt": prompt, "subject": name, **(chat_answer(records[name], prompt) or {})}
        for prompt in study["prompts"]
        for name in subjects
    ]
    texts = {(row["prompt"], row["subject"]): row.get("answer", MISSING) for row in rows}
    if len(subjects) <= WIDE:
        frame = pd.DataFrame(
            {
                "Prompt": prompt,
                **{label(study, "subjects", name): texts[prompt, name] for name in subjects},
            }
            for prompt in study["prompts"]
        )
    else:
        frame = pd.DataFrame(
            {
                "Prompt": row["prompt"],
                "Subject": row["subject"],
                "Answer": row.get("answer", MISSING),
            }
            for row in rows
        )
    return Table(
        "chat",
        "Fixed prompts",
        "Answers at temperature 0; an answer that ends in … ran into max_tokens.",
        [("", frame)],
        pd.DataFrame(rows),
    )


def chat_answer(record: dict | None, prompt: str) -> dict | None:
    """The answer to one prompt; None where this subject was not asked it."""
    found = [a for a in (record or {}).get("answers", []) if a["prompt"] == prompt]
    if not found:
        return None
    answer = {key: found[0].get(key) for key in ("answer", "finish_reason", "seconds")}
    if answer["finish_reason"] == "length":
        answer["answer"] += " …"
    return answer


def data_table(study: dict, results: Results) -> Table:
    datasets = {name: results.read(f"datasets/{name}/receipt.json") for name in study["datasets"]}
    runs = {name: results.read(f"runs/{name}/receipt.json") for name in study["runs"]}
    overlap = {
        name: results.read(f"datasets/{name}/contamination.json") for name in study["datasets"]
    }
    return Table(
        "data",
        "Training data",
        "What was read, what was kept, what each run trains on, and which benchmark questions the "
        "dialogues hold.",
        [
            ("Datasets", pd.DataFrame(dataset_row(*item) for item in datasets.items())),
            ("Dropped rows", dropped_frame("Dataset", datasets)),
            ("Runs", pd.DataFrame(fit_row(study, *item) for item in runs.items())),
            ("Dropped by a run", dropped_frame("Run", runs)),
            ("Contamination", contamination_frame(study, overlap)),
            ("Contamination, examples", example_frame(study, overlap)),
        ],
        pd.DataFrame(
            [{"kind": "dataset", "name": name, **flat(r or {})} for name, r in datasets.items()]
            + [{"kind": "run", "name": name, **flat(r or {})} for name, r in runs.items()]
            + [
                {"kind": "contamination", "name": f"{name}/{benchmark}", **flat(found)}
                for name, record in overlap.items()
                for benchmark, found in (record or {}).get("benchmarks", {}).items()
            ]
        ),
        [
            "Carry loss: share of the tokens that the model is trained to say. Padded: share of "
            "the positions that would be padding at the run's batch settings.",
            "Contamination: a question overlaps when at least the threshold's share of its n-grams "
            "occurs in the training dialogues. Its score is also given on the clean questions.",
        ],
    )


def contamination_frame(study: dict, overlap: dict[str, dict | None]) -> pd.DataFrame:
    rows = []
    for name, record in overlap.items():
        if record is None:
            rows.append(
                {"Dataset": name, "Benchmark": MISSING, "n": "", "Overlapping": "", "Share": ""}
            )
            continue
        for benchmark, found in record["benchmarks"].items():
            known = benchmark in study["benchmarks"]
            rows.append(
                {
                    "Dataset": name,
                    "Benchmark": label(study, "benchmarks", benchmark) if known else benchmark,
                    "n": number(found["n"]),
                    "Overlapping": number(found["overlapping"]),
                    "Share": percent(found["share"]),
                }
            )
    return pd.DataFrame(rows)


def example_frame(study: dict, overlap: dict[str, dict | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Dataset": name,
            "Benchmark": benchmark,
            "Subset": example["subset"],
            "Covered": percent(example["coverage"]),
            "Question": example["question"],
            "Passage": example["passage"],
            "Dialogue": example["dialogue"][:12],
        }
        for name, record in overlap.items()
        for benchmark, found in (record or {"benchmarks": {}})["benchmarks"].items()
        for example in found["examples"]
    )


def dataset_row(name: str, receipt: dict | None) -> dict:
    if receipt is None:
        return {"Dataset": name, "Source": MISSING}
    return {
        "Dataset": name,
        "Source": receipt["source"],
        "Revision": receipt["revision"] or NONE,
        "Read": number(receipt["rows_read"]),
        "Kept": number(receipt["rows_kept"]),
        "Dropped": number(receipt["rows_read"] - receipt["rows_kept"]),
        "Train": number(receipt["train_rows"]),
        "Validation": number(receipt["validation_rows"]),
        "Turns (mean, max)": _mean_and_max(receipt["turns"]),
        "Characters (mean, max)": _mean_and_max(receipt["characters"]),
        "Digest": receipt["digest"][:12],
        "Receipt": link(f"datasets/{name}/receipt.json"),
    }


def _mean_and_max(record: dict) -> str:
    return f"{number(record['mean'], 1)}, {number(record['max'])}"


def dropped_frame(kind: str, receipts: dict[str, dict | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            kind: name,
            "Reason": reason,
            "Rows": number(found["count"]),
            "First lines": ", ".join(map(str, found["lines"])),
        }
        for name, receipt in receipts.items()
        for reason, found in (receipt or {}).get("dropped", {}).items()
    )


def fit_row(study: dict, name: str, receipt: dict | None) -> dict:
    row = {"Run": name, "Dataset": study["runs"][name]["dataset"]}
    if receipt is None:
        return {**row, "Kept": MISSING}
    tokens = receipt["tokens"]
    return {
        **row,
        "Kept": number(receipt["rows_kept"]),
        "Tokens": number(tokens.get("train")),
        "Mean": number(tokens["mean"], 1),
        "Max": number(tokens["max"]),
        "Padded": percent(receipt.get("padded_share")),
        "Carry loss": percent(receipt.get("loss_share")),
        "Steps per epoch": number(receipt.get("steps_per_epoch")),
        "Receipt": link(f"runs/{name}/receipt.json"),
    }


def sweep_table(study: dict, results: Results, cells: dict) -> Table:
    """Each point of a sweep against its scores."""
    benchmarks = asked(study)
    rows, data = [], []
    for name, run in study["runs"].items():
        if not run["sweep"]:
            continue
        record = results.read(f"runs/{name}/training.json") or {}
        found = {b: cells.get((name, b)) for b in benchmarks}
        rows.append(
            {
                "Sweep": run["sweep"],
                "Run": name,
                **{key: str(value) for key, value in run["point"].items()},
                "Steps": number(record.get("steps")) if record else MISSING,
                "Final loss": number(record.get("final_loss"), 4),
                "Validation loss": number(record.get("validation_loss"), 4),
                **{
                    label(study, "benchmarks", b): cell_text(cell) if cell else "not evaluated"
                    for b, cell in found.items()
                },
            }
        )
        data.append(
            {
                "sweep": run["sweep"],
                "run": name,
                **run["point"],
                **{key: record.get(key) for key in ("steps", "final_loss", "validation_loss")},
                **{
                    b: cell.score["score"] if cell and cell.usable else None
                    for b, cell in found.items()
                },
            }
        )
    return Table(
        "sweep",
        "Sweeps",
        f"Each point of a grid: accuracy in percent with {confidence_text(study)} interval."
        if rows
        else "The config defines no sweep.",
        [("", pd.DataFrame(rows).fillna(NONE))] if rows else [],
        pd.DataFrame(data),
        ["The best of many points looks better than it is: confirm it on other questions."]
        if rows
        else [],
    )


def flat(record: dict, prefix: str = "") -> dict:
    """Nested scalars by dotted name; lists (curves) are left to the JSON file."""
    result = {}
    for key, value in record.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            result[prefix + key] = value
    return result


def names(study: dict) -> list[str]:
    """Every table but the plan, in the order of the report."""
    return [
        "training",
        "inference",
        *study["evaluate"]["suites"],
        "comparison",
        "chat",
        "data",
        "sweep",
    ]


def build(study: dict, results: Results, references: dict, wanted: list[str]) -> list[Table]:
    """The tables of these names; scores are read only for the tables that show them."""
    plain = {
        "training": training_table,
        "inference": inference_table,
        "chat": chat_table,
        "data": data_table,
    }
    scores_wanted = bool(set(wanted) - plain.keys())
    cells = load_cells(study, results) if scores_wanted else {}
    draws = suite_draws(study, cells) if scores_wanted else {}
    tables = []
    for name in wanted:
        if name in plain:
            tables.append(plain[name](study, results))
        elif name == "comparison":
            tables.append(comparison_table(study, cells, draws))
            if extra := extra_scores(study, results):
                tables[-1].notes.append(
                    "Scores that lie in results/ but that this config does not ask for, left out: "
                    + ", ".join(extra[:20])
                    + (" …" if len(extra) > 20 else "")
                )
        elif name == "sweep":
            tables.append(sweep_table(study, results, cells))
        else:
            tables.append(suite_table(study, name, cells, draws, references))
    return tables
