"""What a reader should know first, as plain text in either language: what changed, and the flags.

For the report's first screen, its list of problems, and the terminal.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sftflow.reporting import dialogue, judgements
from sftflow.reporting.chinese import message, said
from sftflow.reporting.comparison import verdict_text
from sftflow.reporting.dialogue import INSTRUCTIONS, KNOWLEDGE, Pair, nats, of_pair
from sftflow.reporting.evidence import Evidence
from sftflow.reporting.flags import Flag
from sftflow.reporting.text import interval_of, label, points, with_interval
from sftflow.scoring import stats

NAMED = 4  # effects that one sentence names, and subjects that one line does


@dataclass(frozen=True)
class Effect:
    """What changed of one thing: psychology, +12.0 points [+3.1, +20.4], better."""

    of: str
    change: str
    unit: str
    verdict: str


# --- what changed --------------------------------------------------------------------------------


def headline(evidence: Evidence, language: str = "en") -> dict[str, list[str]]:
    """{what is compared: its sentences, one for each thing that was measured}."""
    told = {}
    found = sorted(by_candidate(evidence.rows).items(), key=lambda item: not changed(item[1]))
    for (baseline, candidate, trainings), rows in found:
        names = {
            "baseline": label(evidence.study, "subjects", baseline),
            "candidate": label(evidence.study, "subjects", candidate),
            "seeds": trainings,
        }
        title = "{candidate} against {baseline}"
        if trainings > 1:
            title = "{candidate} (the recipe, {seeds} seeds) against {baseline}"
        effects = {KNOWLEDGE: list(knowledge(evidence, rows))}
        if trainings == 1:
            effects |= in_dialogue(evidence, Pair(baseline, candidate))
        told[said(title, language, **names)] = sentences(evidence, effects, rows, language)
    return told


def changed(rows: list[dict]) -> bool:
    """Whether some score did: what did is told first."""
    return any(is_change(row["verdict"]) for row in rows)


def by_candidate(rows: list[dict]) -> dict[tuple, list[dict]]:
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault((row["baseline"], row["candidate"], row["trainings"]), []).append(row)
    return found


def sentences(
    evidence: Evidence, effects: dict[str, list[Effect]], rows: list[dict], language: str
) -> list[str]:
    told = []
    for kind, found in effects.items():
        if not found:
            continue
        first = sorted(found, key=lambda effect: not is_change(effect.verdict))
        parts = [effect_text(effect, language) for effect in first[:NAMED]]
        if len(found) > NAMED:
            parts.append(said("{count} more", language, count=len(found) - NAMED))
        text = said("; ", language).join(parts)
        if kind == KNOWLEDGE:
            text += by_benchmark(evidence, rows, language)
        told.append(said("{kind}: {text}.", language, kind=said(kind, language), text=text))
    absent = [said(kind, language) for kind, found in effects.items() if not found]
    if absent:
        told.append(said("Not measured: {what}.", language, what=said(", ", language).join(absent)))
    return told


def is_change(verdict: str) -> bool:
    return verdict in (stats.BETTER, stats.WORSE)


def effect_text(effect: Effect, language: str) -> str:
    return said(
        "{of} {change}{unit}, {verdict}" if effect.change else "{of}: {verdict}",
        language,
        of=said(effect.of, language),
        verdict=said(effect.verdict, language),
        change=effect.change,
        unit=said(effect.unit, language),
    )


def by_benchmark(evidence: Evidence, rows: list[dict], language: str) -> str:
    """`. Benchmarks: better: MMLU; undecided: GSM8K`, where one is not all of its suite."""
    study = evidence.study
    if all(len(study["suites"][suite]) == 1 for suite in study["evaluate"]["suites"]):
        return ""
    verdicts: dict[str, list[str]] = {}
    for row in rows:
        if row["benchmark"]:
            name = label(study, "benchmarks", row["benchmark"])
            known = "difference" in row
            verdicts.setdefault(row["verdict"] if known else "not compared", []).append(name)
    order = (stats.BETTER, stats.WORSE, stats.SAME, stats.UNDECIDED, "not compared")
    comma = said(", ", language)
    parts = [
        said(
            "{verdict}: {names}",
            language,
            verdict=said(verdict, language),
            names=comma.join(verdicts[verdict]),
        )
        for verdict in order
        if verdict in verdicts
    ]
    return said(". Benchmarks: {parts}", language, parts=said("; ", language).join(parts))


def knowledge(evidence: Evidence, rows: list[dict]) -> Iterable[Effect]:
    for row in rows:
        if row["benchmark"] or dialogue.suite_kind(evidence.study, row["suite"]) != KNOWLEDGE:
            continue
        known = "difference" in row
        change = points(row["difference"], interval_of(row)) if known else ""
        yield Effect(row["suite"], change, " points" if known else "", verdict_text(row))


def in_dialogue(evidence: Evidence, pair: Pair) -> dict[str, list[Effect]]:
    """What was measured beside knowledge, by the other five of the six questions."""
    study, talk = evidence.study, evidence.talk
    margin, share = study["dialogue"]["margin"], study["statistics"]["margin"]
    profile = talk.profile(pair, evidence.claims)

    def forgotten(*kinds: str) -> list[Effect]:
        return [
            Effect(row["of"], row["effect"], row["unit"], row["verdict"])
            for row in profile
            if row["kind"] in kinds
        ]

    return {
        "Held-out dialogues": [
            Effect(
                row["group"],
                nats(row),
                " nats per token",
                stats.verdict(dialogue.risen(interval_of(row)), margin),
            )
            for row in of_pair(talk.losses, pair)
            if not row["neutral"] and "n" in row
        ],
        "Preference": [
            Effect(
                row["judge"],
                with_interval(row["win_rate"], interval_of(row)),
                " % of turns won",
                judgements.verdict_of(row, share),
            )
            for row in of_pair(talk.preferences, pair)
        ],
        "Forgetting": forgotten("Language", INSTRUCTIONS),
        "Safety": [
            Effect(
                row["point"],
                points(row["difference"], interval_of(row)),
                " points",
                judgements.crisis_verdict(row, share),
            )
            for row in of_pair(talk.crises, pair)
            if "p_holm" in row
        ],
        "Behaviour": forgotten("Behaviour"),
    }


# --- flags ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """All flags of one kind: `lines` say whom it is about and what it is, `remedies` what to do."""

    name: str
    count: int
    lines: list[str]
    remedies: list[str]


def flag_groups(study: dict, flags: list[Flag], language: str, each: int = 20) -> list[Group]:
    """By kind, in the order of the flags; of many alike `each` in full, of the rest the names."""
    kinds: dict[str, list[Flag]] = {}
    for flag in flags:
        kinds.setdefault(flag.kind, []).append(flag)
    return [group(study, found, language, each) for found in kinds.values()]


def group(study: dict, flags: list[Flag], language: str, each: int) -> Group:
    alike: dict[str, list[Flag]] = {}  # by their English: only what is shown is put into words
    remedies: dict[str, Flag] = {}
    for flag in flags:
        alike.setdefault(flag.text, []).append(flag)
        remedies.setdefault(flag.remedy, flag)
    alternatives = list(alike.values())
    lines = [
        said(
            "{what}: {text}",
            language,
            what=some([where(study, flag) for flag in same], language),
            text=message(same[0], language).text,
        )
        for same in alternatives[:each]
    ]
    if rest := [where(study, flag) for same in alternatives[each:] for flag in same]:
        lines.append(
            said(
                "{count} more: {names}",
                language,
                count=len(rest),
                names=some(list(dict.fromkeys(rest)), language),
            )
        )
    named = [message(flag, language).remedy for flag in list(remedies.values())[:NAMED]]
    return Group(message(flags[0], language).name, len(flags), lines, named)


def some(names: list[str], language: str) -> str:
    text = said(", ", language).join(names[:NAMED])
    if len(names) > NAMED:
        return said("{text} and {count} more", language, text=text, count=len(names) - NAMED)
    return text


def where(study: dict, flag: Flag) -> str:
    """The label of what it is about."""
    kinds = ("subjects", "runs", "datasets", "judges")
    known = [label(study, kind, flag.where) for kind in kinds if flag.where in study[kind]]
    return known[0] if known else flag.where


def flag_lines(study: dict, flags: list[Flag], language: str = "en", each: int = 2) -> list[str]:
    """A line for each kind: `Answers cut off (13): tuned: GSM8K: … ; 11 more: … . Raise …`."""
    return [
        said(
            "{name} ({count}): {lines}. {remedy}.",
            language,
            name=found.name,
            count=found.count,
            lines=said("; ", language).join(found.lines),
            remedy=said("; ", language).join(found.remedies),
        )
        for found in flag_groups(study, flags, language, each)
    ]


# --- at the terminal -----------------------------------------------------------------------------

PAIRS, FLAGS = 5, 8  # that the end of a run tells; the report has all


def in_terminal(evidence: Evidence) -> str:
    """What a run says at its end: what changed, and a line for each kind of flag. In English."""
    told = list(headline(evidence).items())
    flags = flag_lines(evidence.study, evidence.flags, each=1)
    lines = [line for title, found in told[:PAIRS] for line in (title, *indented(found))]
    lines += more(len(told), PAIRS, "comparisons")
    lines += ["Flags", *indented(flags[:FLAGS])] if flags else ["Flags: none"]
    lines += more(len(flags), FLAGS, "kinds of flags")
    return "\n".join(printable(line) for line in lines) + "\n"


def indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def more(count: int, shown: int, what: str) -> list[str]:
    return [f"  {count - shown} more {what} in the report"] if count > shown else []


def printable(line: str) -> str:
    """Without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in line)
