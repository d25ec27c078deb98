"""The table of learning curves: loss of held-out dialogues, and of neutral text, by checkpoint.

Whether a training went past its best is a question of these losses alone: no benchmark is looked at
here, so that what is reported chooses nothing.
"""

from collections.abc import Iterator
from functools import cache
from math import exp

import pandas as pd
from sftflow.config import jobs
from sftflow.core.layout import PATHS, Results
from sftflow.reporting import stale
from sftflow.reporting.cells import asked
from sftflow.reporting.dialogue import losses
from sftflow.reporting.flags import TRIFLE, Flag
from sftflow.reporting.suites import cell_text
from sftflow.reporting.text import (
    MISSING,
    NONE,
    Table,
    confidence_text,
    headings,
    interval_of,
    label,
    loss_change,
    number,
    significant,
)
from sftflow.scoring import stats

OVERFITTING, NEVER = "overfitting", "worse than before the first step"
LOWEST, NO_RISE = "lowest at the end", "no rise that counts"


class Curves:
    """What there is to say of each run that keeps checkpoints: read and worked out once.

    rows: one for each run, step and set of texts. choices: one for each run with held-out losses.
    """

    def __init__(self, study: dict, results: Results):
        self.study, self.results = study, results
        self.runs = [name for name, run in study["runs"].items() if run["training"]["checkpoints"]]
        self.notes: list[str] = []
        self.stale: dict[str, str] = {}  # what: why
        self.rows: list[dict] = []
        self.choices: list[dict] = []
        for run in self.runs:
            if record := self._read(run):
                rows = list(self._of_run(run, record))
                self.rows += rows
                self.choices += choice(rows)

    def _read(self, run: str) -> dict | None:
        """The record of a run, if it is of what the config asks for today."""
        read = cache(self.results.read)
        record = read(PATHS.curve, run=run)
        if record is None:
            self.notes.append(f"`{run}`: its checkpoints are not measured yet.")
            return None
        changed = stale.training_changes(self.study, read, run, merging=False)
        changed += stale.otherwise(record, jobs.measure_curve(self.study, run)["made_with"])
        training = read(PATHS.training, run=run)
        if training and training["identity"] != record["training"]:
            changed.append("training")
        if changed:
            where = PATHS.curve.format(run=run)
            self.stale[where] = "; ".join(changed)
            self.notes.append(f"Stale, left out: {where} ({self.stale[where]}).")
            return None
        if record["missing"]:
            self.notes.append(
                f"`{run}`: its training did not keep the checkpoints of steps "
                f"{', '.join(map(str, record['missing']))}, and nothing is trained again for them."
            )
        return record

    def _of_run(self, run: str, record: dict) -> Iterator[dict]:
        steps = [one["step"] for one in record["steps"]]
        at_steps = [losses(self.results.lines(one)) for one in record["steps"]]
        alpha = 1 - self.study["statistics"]["confidence"]
        for text in at_steps[0]:
            curve = [found[text] for found in at_steps]
            sizes = [tokens for tokens, _ in curve[0].values()]
            if not sum(sizes):
                continue
            nats = [[found[key][1] for key in curve[0]] for found in curve]
            means = [sum(each) / sum(sizes) for each in nats]
            neutral = text not in self.study["datasets"]
            # the lowest is the lowest of many: each difference from it at a level that allows for
            # that (Bonferroni). What became of neutral text is seen from the base.
            origin = 0 if neutral else means.index(min(means))
            level = alpha if neutral else alpha / max(1, len(steps) - 1)
            for step, mean, each in zip(steps, means, nats, strict=True):
                result = stats.compare_totals(nats[origin], each, sizes)
                low, high = result.interval(level) or (None, None)
                yield {
                    "run": run, "step": step, "text": text, "neutral": neutral, "n": len(sizes),
                    "tokens": sum(sizes), "loss": mean, "perplexity": exp(mean),
                    "from_step": steps[origin], "difference": result.difference,
                    "ci_low": low, "ci_high": high, "level": 1 - level, "p": result.p,
                    "served": step == record["last"],
                }  # fmt: skip


def choice(rows: list[dict]) -> Iterator[dict]:
    """Of one run's rows, for its held-out dialogues: where the loss is lowest, and how much higher
    it is at the last step, whose weights are served."""
    for text in dict.fromkeys(row["text"] for row in rows if not row["neutral"]):
        curve = {row["step"]: row for row in rows if row["text"] == text}
        last = next(row for row in curve.values() if row["served"])
        best = curve[last["from_step"]]
        yield {
            "run": last["run"], "text": text, "best": best["step"], "best_loss": best["loss"],
            "last": last["step"], "last_loss": last["loss"], "rise": last["difference"],
            "ci_low": last["ci_low"], "ci_high": last["ci_high"],
            "verdict": verdict(best, last),
        }  # fmt: skip


def verdict(best: dict, last: dict) -> str:
    if best is last:
        return LOWEST
    if (last["ci_low"] or 0) <= 0 or last["difference"] <= TRIFLE * best["loss"]:
        return NO_RISE
    return OVERFITTING if best["step"] else NEVER


WENT_WRONG = {OVERFITTING: "overfitted", NEVER: "never better"}


def curve_flags(found: Curves) -> list[Flag]:
    return [
        Flag(
            WENT_WRONG[one["verdict"]],
            one["run"],
            {
                "step": str(one["best"]), "before": number(one["best_loss"], 3),
                "last": str(one["last"]), "after": number(one["last_loss"], 3),
                "rise": rise_text(one),
            },
        )
        for one in found.choices
        if one["verdict"] in WENT_WRONG
    ]  # fmt: skip


def rise_text(one: dict) -> str:
    """`+0.120 [+0.080, +0.160]`"""
    rise = one.get("rise", one.get("difference"))
    return loss_change(rise, interval_of(one))


def curve_table(found: Curves, cells: dict) -> Table:
    return Table(
        "curve",
        "Learning curve",
        f"Loss in nats per token by checkpoint, from before the first step (0) to the last, with "
        f"{confidence_text(found.study)} intervals of paired differences."
        if found.runs
        else "No run keeps checkpoints: `checkpoints` under `training` of the config asks for it.",
        sections(found, cells) if found.runs else [],
        pd.DataFrame(found.rows),
        (found.notes + NOTES) if found.runs else [],
    )


NOTES = [
    "Held-out dialogues are the validation rows of the run's dataset, masked as in training; an "
    "adapter is on its base, not merged. Paired by text: the ratio estimator, jackknifed over "
    "texts, Student's t (Cochran 1977).",
    "Above the lowest: the loss less that of the step where it is lowest; each interval at a level "
    "that allows for the choice among all steps (Bonferroni). Neutral text: the difference from "
    "before the first step, unadjusted.",
    "Overfitting: at the last step the loss is above the lowest, with all of the interval, by more "
    "than 1 %.",
    "What is served under the run's name is the last step. Whoever takes another goes by these "
    "losses, never by the benchmarks reported; the loss of a step that was chosen here is a little "
    "too good.",
]


def sections(found: Curves, cells: dict) -> list[tuple[str, pd.DataFrame]]:
    made = [("Choice", choice_frame(found)), ("Steps", step_frame(found))]
    scores = score_frame(found.study, cells)
    return made if scores.empty else [*made, ("Scores", scores)]


def score_frame(study: dict, cells: dict) -> pd.DataFrame:
    """Of the checkpoints that were asked benchmarks; they chose nothing."""
    benchmarks = headings(study, "benchmarks", asked(study))
    return pd.DataFrame(
        {
            "Run": label(study, "runs", study["subjects"][name]["run"]),
            "Step": str(study["subjects"][name]["step"]),
            **{title: cell_text(cells[name, one]) for one, title in benchmarks.items()},
        }
        for name in study["evaluate"]["subjects"]
        if study["subjects"][name].get("step")
    )


def choice_frame(found: Curves) -> pd.DataFrame:
    chosen = {one["run"]: one for one in found.choices}
    return pd.DataFrame(
        {
            "Run": label(found.study, "runs", run),
            "Lowest at step": str(chosen[run]["best"]),
            "Loss there": number(chosen[run]["best_loss"], 4),
            "Served step": str(chosen[run]["last"]),
            "Served loss": number(chosen[run]["last_loss"], 4),
            "Above the lowest": rise_text(chosen[run]),
            "Verdict": chosen[run]["verdict"],
        }
        if run in chosen
        else {"Run": label(found.study, "runs", run), "Lowest at step": MISSING}
        for run in found.runs
    ).fillna(NONE)


def step_frame(found: Curves) -> pd.DataFrame:
    """A row for each run and step; a column for each neutral text."""
    lines: dict[tuple, dict] = {}
    for row in found.rows:
        line = lines.setdefault(
            (row["run"], row["step"]),
            {
                "Run": label(found.study, "runs", row["run"]),
                "Step": str(row["step"]) + (" (served)" if row["served"] else ""),
            },
        )
        if row["neutral"]:
            line[row["text"]] = f"{number(row['loss'], 4)} ({row['difference']:+.4f})"
        else:
            line |= {
                "n": row["n"],
                "Held-out loss": number(row["loss"], 4),
                "Perplexity": significant(row["perplexity"]),
                "Above the lowest": NONE if row["step"] == row["from_step"] else rise_text(row),
            }
    return pd.DataFrame(lines.values()).fillna(NONE)
