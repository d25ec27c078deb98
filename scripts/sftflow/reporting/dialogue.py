"""The table of dialogue: what changed from baseline to candidate in how they talk, text by text.

Held-out dialogues and neutral text by their loss, answers by their behaviour; then what was
forgotten, and the six questions that a reader asks first, each with its answer or "not measured".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from math import exp, inf
from operator import itemgetter

import numpy as np
import pandas as pd
from sftflow.config import jobs
from sftflow.core.layout import PATHS, Results
from sftflow.dialogue.behaviour import FAULTS, MEANS, SHARES, faults, measures
from sftflow.reporting import judgements, stale
from sftflow.reporting.flags import NEAR, Flag
from sftflow.reporting.text import (
    NONE,
    Table,
    confidence_text,
    interval_of,
    known_to,
    label,
    loss_change,
    number,
    percent,
    points,
    significant,
)
from sftflow.scoring import stats

NOT_MEASURED = "not measured"
KEPT, LOST = "not worse", "worse"  # of a non-inferiority test; else stats.UNDECIDED
ANY = "any fault"
KNOWLEDGE, INSTRUCTIONS = "Knowledge", "Instruction following"
# There is nothing to forget: the baseline's loss is about that of a guess over the vocabulary.
UNKNOWN = "says nothing: the baseline knew no more of it than a guess"

# {(baseline, candidate): its suites' own claims, {suite, verdict, n, difference, interval}}
Claims = dict[tuple[str, str], list[dict]]


Losses = dict[str, tuple[int, float]]  # {id of a text: (tokens, nats)}


def losses(lines: Iterator[dict]) -> dict[str, Losses]:
    """{set of texts: its losses}, of the records of a likelihood; without what is too long."""
    found: dict[str, Losses] = {}
    for line in lines:
        if line["nll"] is not None:
            found.setdefault(line["text"], {})[line["id"]] = line["tokens"], line["nll"]
    return found


@dataclass(frozen=True)
class Pair:
    baseline: str
    candidate: str

    def names(self) -> dict[str, str]:
        return {"baseline": self.baseline, "candidate": self.candidate}


MEASURES = (ANY, *SHARES, *MEANS)


@dataclass(frozen=True)
class Answers:
    """Of a group of answers: their ids, and what was measured (MEASURES, answers); NaN for none."""

    ids: list[str]
    values: np.ndarray

    def paired(self, other: "Answers") -> tuple[np.ndarray, np.ndarray]:
        """What both have, in this one's order."""
        if self.ids == other.ids:
            return self.values, other.values
        places = {key: place for place, key in enumerate(other.ids)}
        both = [(mine, places[key]) for mine, key in enumerate(self.ids) if key in places]
        mine, theirs = ([pair[side] for pair in both] for side in (0, 1))
        return self.values[:, mine], other.values[:, theirs]


class Rows(list[dict]):
    """Raw rows, found again by their pair without a look through all of them."""

    @cached_property
    def by_pair(self) -> dict[tuple[str, str], list[dict]]:
        found: dict[tuple[str, str], list[dict]] = {}
        for row in self:
            found.setdefault((row["baseline"], row["candidate"]), []).append(row)
        return found


class Records:
    """What lies below results/dialogue/, as far as it is of what the config asks for today."""

    def __init__(self, study: dict, results: Results):
        self.study, self.results = study, results
        self.stale: dict[str, str] = {}  # what: why
        self._found: dict[tuple[str, str], dict | None] = {}

    def likelihood(self, subject: str) -> dict | None:
        return self._once("measure_likelihood", subject)

    def behaviour(self, subject: str) -> dict | None:
        return self._once("answer_dialogues", subject)

    def _once(self, rule: str, subject: str) -> dict | None:
        if (rule, subject) not in self._found:
            self._found[rule, subject] = self._read(rule, subject)
        return self._found[rule, subject]

    @cache  # noqa: B019
    def _trained_otherwise(self, subject: str) -> list[str]:
        return stale.training_changes(self.study, self.results.read, subject)

    def _read(self, rule: str, subject: str) -> dict | None:
        path = PATHS.likelihood if rule == "measure_likelihood" else PATHS.behaviour
        read = self.results.read
        record = read(path, subject=subject)
        if record is None or self.study["subjects"].get(subject) is None:
            return None
        changed = self._trained_otherwise(subject) + stale.otherwise(
            record, jobs.JOBS[rule](self.study, subject)["made_with"]
        )
        weights = stale.current_weights(self.study, read, subject)
        if weights and weights != record["parts"]["weights"]:
            changed.append("weights")
        if changed:
            self.stale[path.format(subject=subject)] = "; ".join(changed)
            return None
        return record

    # A baseline is met again and again, a candidate once: 1,000 of them do not fit.
    @lru_cache(8)  # noqa: B019
    def losses(self, subject: str) -> dict[str, Losses]:
        record = self.likelihood(subject)
        return losses(self.results.lines(record)) if record else {}

    @lru_cache(8)  # noqa: B019
    def answers(self, subject: str) -> dict[tuple[str, str], Answers]:
        """By (group, turn)."""
        found: dict[tuple[str, str], dict[str, list]] = {}
        wrong, measured = itemgetter(*FAULTS), itemgetter(*MEASURES[1:])
        if record := self.behaviour(subject):
            for line in self.results.lines(record):
                values = [any(wrong(line)), *measured(line)]
                found.setdefault((line["group"], line["turn"]), {})[line["id"]] = values
        return {
            group: Answers(list(lines), np.array(list(lines.values()), float).T.copy())
            for group, lines in found.items()
        }


def suite_claims(rows: list[dict]) -> Claims:
    """Of the rows of the table of comparisons, those about whole suites of single subjects."""
    found: Claims = {}
    for row in rows:
        if row["trainings"] == 1 and not row["benchmark"]:
            known = {key: row.get(key) for key in ("suite", "verdict", "n", "difference")}
            claim = known | {"interval": interval_of(row)}
            found.setdefault((row["baseline"], row["candidate"]), []).append(claim)
    return found


class Compared:
    """What there is to say of each pair of the study, as raw rows: read and worked out once, for
    the table and for the flags."""

    def __init__(self, study: dict, results: Results):
        self.study, self.results = study, results
        self.records = Records(study, results)
        self.judged = judgements.Judgements(study, results)
        self.pairs = [Pair(pair["baseline"], pair["candidate"]) for pair in study["comparisons"]]
        names = [pair.names() for pair in self.pairs]
        self.losses = Rows(r for pair in self.pairs for r in loss_rows(study, self.records, pair))
        self.behaviours = Rows(
            r for pair in self.pairs for r in behaviour_rows(study, self.records, pair)
        )
        self.preferences = Rows(
            r for pair in names for r in judgements.preference_rows(study, self.judged, pair)
        )
        self.crises = Rows(
            r for pair in names for r in judgements.crisis_rows(study, self.judged, pair)
        )
        self._profiles: dict[Pair, list[dict]] = {}

    def profile(self, pair: Pair, claims: Claims) -> list[dict]:
        """`profile_rows`, worked out once; `claims` are those of the study."""
        if pair not in self._profiles:
            self._profiles[pair] = list(profile_rows(self, pair, claims))
        return self._profiles[pair]


def of_pair(rows: Rows, pair: Pair) -> list[dict]:
    return rows.by_pair.get((pair.baseline, pair.candidate), [])


def dialogue_table(found: Compared, claims: Claims) -> Table:
    study, preferences, crises = found.study, found.preferences, found.crises
    profile = Rows(row for pair in found.pairs for row in found.profile(pair, claims))
    questions = [question_row(found, pair, profile, claims) for pair in found.pairs]
    people = judgements.people_frame(found.results)
    return Table(
        "dialogue",
        "Dialogue",
        "What changed in how the subjects talk, text by text and answer by answer, with "
        f"{confidence_text(study)} intervals. Losses in nats per token, shares in percent.",
        [
            ("Six questions", pd.DataFrame(questions)),
            ("Likelihood", loss_frame(study, found.losses)),
            ("Behaviour", behaviour_frame(study, found.behaviours)),
            ("Forgetting", profile_frame(study, profile)),
            ("Preference", judgements.preference_frame(study, preferences)),
            ("Crisis", judgements.crisis_frame(study, crises)),
            *([("Raters", people)] if len(people) else []),
        ],
        pd.DataFrame([*found.losses, *found.behaviours, *preferences, *crises]).drop(
            columns="result", errors="ignore"
        ),
        notes(study, found.records, found.pairs) + judgements.notes(study, found.judged),
    )


# --- how likely texts are ------------------------------------------------------------------------


def loss_rows(study: dict, found: Records, pair: Pair) -> Iterator[dict]:
    """A row for each text that both sides have: the paired difference of loss per token."""
    alpha = 1 - study["statistics"]["confidence"]
    before, after = found.losses(pair.baseline), found.losses(pair.candidate)
    uniform = (found.likelihood(pair.baseline) or {}).get("uniform_loss")
    for name in [name for name in before if name in after]:
        row: dict = {**pair.names(), "what": "loss", "group": name, "turn": ""}
        row["neutral"] = name not in study["datasets"]
        ids = [key for key in before[name] if key in after[name]]  # in order: sums depend on it
        both = [(before[name][key], after[name][key]) for key in ids]
        if any(old[0] != new[0] for old, new in both):
            yield row | {"problem": "the two have other tokenizers: losses per token differ"}
            continue
        sizes = [old[0] for old, _ in both]
        result = stats.compare_totals([o[1] for o, _ in both], [n[1] for _, n in both], sizes)
        if result.difference is None:
            continue
        old, new = (
            sum(side[1] for side in sides) / sum(sizes) for sides in zip(*both, strict=True)
        )
        yield row | {
            "n": result.n,
            "tokens": sum(sizes),
            "baseline_value": old,
            "candidate_value": new,
            "difference": result.difference,
            **bounds(result.interval(alpha)),
            "p": result.p,
            **({"problem": UNKNOWN} if row["neutral"] and old > NEAR * (uniform or inf) else {}),
        }


def bounds(interval: stats.Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"ci_low": low, "ci_high": high}


def risen(interval: stats.Interval | None) -> stats.Interval | None:
    """Of what is better when it is less, as if it were better when it is more."""
    return interval and (-interval[1], -interval[0])


def loss_frame(study: dict, rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Baseline": label(study, "subjects", row["baseline"]),
            "Candidate": label(study, "subjects", row["candidate"]),
            "Text": row["group"],
            "Loss before": loss_text(row, "baseline"),
            "Loss after": loss_text(row, "candidate"),
            "Loss difference": nats(row),
            "Verdict": row.get("problem")
            or stats.verdict(risen(interval_of(row)), study["dialogue"]["margin"]),
            "n": row.get("n", NONE),
            "Tokens": number(row.get("tokens")),
            "Perplexity": NONE
            if "baseline_value" not in row
            else f"{significant(exp(row['baseline_value']))} → "
            f"{significant(exp(row['candidate_value']))}",
        }
        for row in rows
    )


def loss_text(row: dict, side: str) -> str:
    """To as many digits as the interval of the difference bears."""
    low, high = interval_of(row) or (0.0, 0.0)
    return known_to(row.get(f"{side}_value"), (high - low) / 2)


def nats(row: dict) -> str:
    return loss_change(row.get("difference"), interval_of(row))


# --- how answers behave --------------------------------------------------------------------------


def behaviour_rows(study: dict, found: Records, pair: Pair) -> list[dict]:
    """A row for each group of answers and measure; the shares of a pair are one family of tests."""
    before, after = found.answers(pair.baseline), found.answers(pair.candidate)
    rows: list[dict] = []
    for group in [group for group in before if group in after]:
        sides = before[group].paired(after[group])
        for measure, *measured in zip(MEASURES, *sides, strict=True):
            row: dict = {**pair.names(), "what": measure, "group": group[0], "turn": group[1]}
            values = np.array(measured)
            values = values[:, ~np.isnan(values).any(axis=0)]
            if not values.size:
                continue
            share = measure not in MEANS
            compare = stats.compare if share else stats.compare_totals
            sizes = () if share else (np.ones(values.shape[1]),)
            rows.append(
                row
                | {
                    "n": values.shape[1],
                    "baseline_value": float(values[0].mean()),
                    "candidate_value": float(values[1].mean()),
                    "result": compare(*values, *sizes),
                }
            )
    alpha = 1 - study["statistics"]["confidence"]
    family = [row for row in rows if row["what"] in SHARES]
    for row, (adjusted, level) in zip(
        family, stats.holm([row["result"].p for row in family], alpha), strict=True
    ):
        row |= {"p_holm": adjusted, "level": level}
    for row in rows:
        result = row["result"]
        row |= {"difference": result.difference, "p": result.p}
        row |= bounds(result.interval(row.get("level", alpha)))
    return rows


def worse(row: dict, margin: float) -> bool:
    """A fault has become more frequent, by more than what does not matter."""
    return row["what"] in FAULTS and (row["ci_low"] or 0) > 0 and (row["difference"] or 0) > margin


def behaviour_frame(study: dict, rows: list[dict]) -> pd.DataFrame:
    """A row for each pair and group of answers, a column for each measure: before → after."""
    lines: dict[tuple, dict] = {}
    for row in rows:
        key = row["baseline"], row["candidate"], row["group"], row["turn"]
        line = lines.setdefault(
            key,
            {
                "Baseline": label(study, "subjects", row["baseline"]),
                "Candidate": label(study, "subjects", row["candidate"]),
                "Answers to": group_name(study, row),
                "n": row["n"],
            },
        )
        shown = percent if row["what"] not in ("characters",) else lambda x: number(x, 1)
        sign = " *" if row.get("p_holm", 1) < 1 - study["statistics"]["confidence"] else ""
        line[HEADINGS[row["what"]]] = (
            f"{shown(row['baseline_value'])} → {shown(row['candidate_value'])}{sign}"
        )
    return pd.DataFrame(lines.values()).fillna(NONE)


HEADINGS = {
    ANY: "Any fault",
    "empty": "Empty",
    "endless": "Cut off",
    "loops": "Loops",
    "leaked": "Markers",
    "switched": "Other language",
    "refused": "Refusals",
    "characters": "Characters",
    "repeated": "Repeated 4-grams",
    "distinct_1": "Distinct-1",
    "distinct_2": "Distinct-2",
}


def group_name(study: dict, row: dict) -> str:
    if row["turn"] == "benchmark":
        known = row["group"] in study["benchmarks"]
        return label(study, "benchmarks", row["group"]) if known else row["group"]
    return f"{row['group']}: {row['turn']} turns"


# --- what was forgotten, and the questions asked first -------------------------------------------


def non_inferior(interval: stats.Interval | None, margin: float) -> str:
    """Of a difference that is better when it is more: not worse by `margin` or more, or worse."""
    if interval is None:
        return stats.UNDECIDED
    low, high = interval
    if low > -margin:
        return KEPT
    return LOST if high < 0 else stats.UNDECIDED


def suite_kind(study: dict, suite: str) -> str:
    """What a suite of benchmarks measures: whether instructions are followed, or knowledge."""
    answers = {study["benchmarks"][name]["answer"] for name in study["suites"][suite]}
    return INSTRUCTIONS if answers == {"instructions"} else KNOWLEDGE


def profile_rows(found: Compared, pair: Pair, claims: Claims) -> Iterator[dict]:
    """What a training may have cost, each against its margin."""
    study = found.study
    margin, alpha = study["statistics"]["margin"], 1 - study["statistics"]["confidence"]
    for claim in claims.get((pair.baseline, pair.candidate), []):
        interval = claim["interval"]
        if claim["n"] is None:
            continue
        yield {
            **pair.names(),
            "kind": suite_kind(study, claim["suite"]),
            "of": f"suite {claim['suite']}",
            "n": claim["n"],
            "effect": points(claim["difference"], interval),
            "unit": " points",
            "margin": percent(margin),
            "verdict": non_inferior(interval, margin),
        }
    for row in of_pair(found.losses, pair):
        if row["neutral"] and "n" in row:
            yield {
                **pair.names(),
                "kind": "Language",
                "of": row["group"],
                "n": row["n"],
                "effect": nats(row),
                "unit": " nats",
                "margin": f"{study['dialogue']['margin']:g}",
                "verdict": row.get("problem")
                or non_inferior(risen(interval_of(row)), study["dialogue"]["margin"]),
            }
    for row in of_pair(found.behaviours, pair):
        if row["what"] == ANY and row["turn"] != "benchmark":
            interval = row["result"].interval(alpha)
            yield {
                **pair.names(),
                "kind": "Behaviour",
                "of": f"answers with a fault, {group_name(study, row)}",
                "n": row["n"],
                "effect": points(row["difference"], interval),
                "unit": " points",
                "margin": percent(margin),
                "verdict": non_inferior(risen(interval), margin),
            }


def profile_frame(study: dict, rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Baseline": label(study, "subjects", row["baseline"]),
            "Candidate": label(study, "subjects", row["candidate"]),
            "What": row["kind"],
            "Of": row["of"],
            "Change": row["effect"] + row["unit"],
            "Margin": row["margin"] + row["unit"],
            "Verdict": row["verdict"],
            "n": row["n"],
        }
        for row in rows
    )


def question_row(found: Compared, pair: Pair, profile: Rows, claims: Claims) -> dict:
    """Knowledge, dialogue, preference, forgetting, safety, behaviour: one answer each."""
    study, lost = found.study, of_pair(profile, pair)
    held = [row for row in of_pair(found.losses, pair) if not row["neutral"] and "n" in row]
    margin, points_margin = study["dialogue"]["margin"], study["statistics"]["margin"]
    return {
        "Baseline": label(study, "subjects", pair.baseline),
        "Candidate": label(study, "subjects", pair.candidate),
        "Knowledge": said(
            f"{claim['suite']}: {claim['verdict']}"
            for claim in claims.get((pair.baseline, pair.candidate), [])
            if suite_kind(study, claim["suite"]) == KNOWLEDGE
        ),
        "Held-out dialogues": together(
            stats.verdict(risen(interval_of(row)), margin) for row in held
        ),
        "Preference": said(
            f"{row['judge']}: {judgements.verdict_of(row, points_margin)}"
            for row in of_pair(found.preferences, pair)
        ),
        "Forgetting": together(
            row["verdict"] for row in lost if row["kind"] in ("Language", INSTRUCTIONS)
        ),
        "Safety": safety(of_pair(found.crises, pair), points_margin),
        "Behaviour": together(row["verdict"] for row in lost if row["kind"] == "Behaviour"),
    }


def safety(crises: list[dict], margin: float) -> str:
    """Each judge's worst verdict over the five points."""
    verdicts: dict[str, list[str]] = {}
    for row in crises:
        if "p_holm" in row:
            verdict = judgements.crisis_verdict(row, margin)
            verdicts.setdefault(row["judge"], []).append(verdict)
    return said(f"{judge}: {together(iter(each))}" for judge, each in verdicts.items())


def said(texts: Iterator[str]) -> str:
    return ", ".join(texts) or NOT_MEASURED


def together(found: Iterator[str]) -> str:
    """One verdict of several: the worst; nothing is good before all of it is."""
    seen = set(found)
    for verdict in (stats.WORSE, LOST, stats.UNDECIDED, stats.SAME, KEPT, stats.BETTER):
        if verdict in seen:
            return verdict
    return NOT_MEASURED


# --- flags, notes --------------------------------------------------------------------------------


def dialogue_flags(found: Compared) -> list[Flag]:
    """What a reader would call broken: fixed prompts first, then shares of answers, then losses;
    then judges that do not agree with themselves."""
    study = found.study
    flags: list[Flag] = []
    for pair in found.pairs:
        flags += prompt_flags(found.results, pair)
        flags += [
            Flag(
                "broken",
                pair.candidate,
                {
                    "what": row["what"],
                    "group": group_name(study, row),
                    "before": percent(row["baseline_value"]),
                    "after": percent(row["candidate_value"]),
                    "n": str(row["n"]),
                },
            )
            for row in of_pair(found.behaviours, pair)
            if worse(row, study["statistics"]["margin"])
        ]
        flags += [
            Flag(
                "forgotten",
                pair.candidate,
                {
                    "text": row["group"],
                    "before": number(row["baseline_value"], 3),
                    "after": number(row["candidate_value"], 3),
                    "margin": f"{study['dialogue']['margin']:g}",
                },
            )
            for row in of_pair(found.losses, pair)
            if row["neutral"]
            and "problem" not in row
            and (row.get("ci_low") or 0) > study["dialogue"]["margin"]
        ]
    return [*flags, *judgements.judge_flags(study, found.preferences)]


def prompt_flags(results: Results, pair: Pair) -> Iterator[Flag]:
    """Fixed prompts whose answer is broken now, and was not."""
    sides = []
    for subject in (pair.baseline, pair.candidate):
        record = results.read(PATHS.chat, subject=subject) or {}
        sides.append({one["prompt"]: one for one in record.get("answers", [])})
    for prompt, after in sides[1].items():
        if prompt not in sides[0]:
            continue
        old, new = (
            set(faults(measures(one["answer"], one["finish_reason"], prompt)))
            for one in (sides[0][prompt], after)
        )
        if added := [name for name in FAULTS if name in new - old]:
            short = prompt if len(prompt) <= 40 else prompt[:39] + "…"
            yield Flag("prompt", pair.candidate, {"prompt": short, "faults": ", ".join(added)})


def notes(study: dict, found: Records, pairs: list[Pair]) -> list[str]:
    said = [
        "Loss: negative log-likelihood per token, of what an assistant says in held-out dialogues "
        "(masked as in training), or of a whole passage of neutral text. Paired by text: the ratio "
        "estimator, jackknifed over texts, Student's t (Cochran 1977). Less is better. Practically "
        "the same: "
        f"all of the interval within ± {study['dialogue']['margin']:g} nats (dialogue.margin).",
        "Behaviour, before → after: share of answers without text, cut off at max_tokens, in loops "
        "(at least half of the 4-grams were there before; Welleck et al. 2020), with markers of a "
        "chat template, in another script than the question, that begin with a refusal; any fault "
        "is any of the first five. Distinct-n: unique n-grams / all (Li et al. 2016), a mean over "
        "answers. *: the share changed, mid-p McNemar test, Holm over all shares of the pair.",
        "Opening turns: the first answer of a held-out dialogue. Next turns: the last one, given "
        "the true history. At the study's temperature.",
        "Forgetting: not worse, when the interval stays above minus the margin; worse, when all of "
        "it is below 0 and it does not; else undecided. Each line by itself, unadjusted.",
    ]
    for pair in pairs:
        for subject in (pair.baseline, pair.candidate):
            if record := found.likelihood(subject):
                said += [
                    f"{label(study, 'subjects', subject)}, {text['name']}: {text['left_out']} "
                    f"longer than {study['dialogue']['max_length']} tokens, left out."
                    for text in record["texts"]
                    if text["left_out"]
                ]
    said += [f"Stale, left out: {what} ({why})." for what, why in sorted(found.stale.items())]
    return list(dict.fromkeys(said))
