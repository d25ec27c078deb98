"""What a judge is asked about answers, and what it says. Standard library only.

A judge compares two answers to one turn, each order once, by a rubric
(config/dialogue/rubric.*.md), or says of one answer to a message of a crisis whether five points
hold (config/dialogue/points.*.md).

References
  Zheng et al. (2023) NeurIPS, "Judging LLM-as-a-judge": both orders, a win only where they agree.
  Wang et al. (2024) ACL, "Large language models are not fair evaluators": position bias.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sftflow.core.handover import HOME
from sftflow.core.jsonio import digest
from sftflow.dialogue.behaviour import script
from sftflow.evaluation.stated import without_reasoning

RUBRICS = HOME / "config/dialogue"

WIN, TIE, LOSS = "win", "tie", "loss"  # of the candidate
# Both orders: which side stands first, so is called A.
ORDERS = ("baseline", "candidate")
POINTS = ("risk", "help", "method", "judgement", "diagnosis")  # each in the form that is good

SPEAKERS = {"en": {"user": "Person", "assistant": "Assistant"}}
SPEAKERS["zh"] = {"user": "来访者", "assistant": "助手"}


def rubric_file(kind: str, language: str) -> Path:
    """`kind`: rubric, of two answers; points, of one answer to a crisis message."""
    return RUBRICS / f"{kind}.{language}.md"


def rubric_digest(kind: str, language: str) -> str:
    return digest(rubric_file(kind, language).read_text(encoding="utf-8"))


def language_of(messages: Sequence[dict], wanted: str) -> str:
    """zh or en: as wanted, or with "auto" as the last message is written."""
    if wanted != "auto":
        return wanted
    return "zh" if script(messages[-1]["content"]) == "han" else "en"


def conversation(messages: Iterable[dict], language: str) -> str:
    """As a judge reads it. System prompts are left out: the two sides may have other ones."""
    return "\n\n".join(
        f"{SPEAKERS[language][message['role']]}: {message['content']}"
        for message in messages
        if message["role"] != "system"
    )


def prompt(template: str, texts: dict[str, str]) -> str:
    """A rubric with its places filled, all at once: an answer may hold "{B}" itself."""
    return re.sub(r"\{(\w+)\}", lambda place: texts.get(place[1], place[0]), template)


_VERDICT = re.compile(r"[\[【]{2}\s*([ABC]|tie|平局)\s*[\]】]{2}", re.IGNORECASE)
_TIES = {"TIE": "C", "平局": "C"}
_MARK = re.compile(r"[\[【]{2}([^\[\]【】]{9,80})[\]】]{2}")
_POINT = re.compile(r"([1-5])\s*[=:：]\s*(yes|no|[YN]|是|否)(?![a-z])", re.IGNORECASE)


def marks(pattern: re.Pattern, text: str, finish_reason: str | None) -> list[str]:
    """What is marked in the last line of what was said after thinking; where nothing is, and the
    text was not cut off, anywhere in it."""
    spoken = (without_reasoning(text) or "").rstrip("`*_ \t\r\n")
    found = pattern.findall(spoken.rpartition("\n")[2])
    return found or ([] if finish_reason == "length" else pattern.findall(spoken))


def verdict(text: str, finish_reason: str | None = "stop") -> str | None:
    """A, B or C (a tie) as a judge states it; None where it states none, or several."""
    found = {mark.upper() for mark in marks(_VERDICT, text, finish_reason)}
    found = {_TIES.get(mark, mark) for mark in found}
    return found.pop() if len(found) == 1 else None


def points(text: str, finish_reason: str | None = "stop") -> dict[str, bool] | None:
    """Whether each of POINTS holds, as a judge states it; None where one is not stated."""
    found = set(marks(_MARK, text, finish_reason))
    stated = _POINT.findall(found.pop()) if len(found) == 1 else []
    if [number for number, _ in stated] != list("12345"):
        return None
    return {
        name: answer.upper() in ("Y", "YES", "是")
        for name, (_, answer) in zip(POINTS, stated, strict=True)
    }


def preferred(first: str, said: str) -> str:
    """The side that a verdict prefers, when `first` stood first; "tie"."""
    other = ORDERS[1 - ORDERS.index(first)]
    return {"A": first, "B": other, "C": TIE}[said]


def outcome(record: dict) -> str | None:
    """WIN, TIE or LOSS of the candidate in a turn; None where the judge can't be read.

    A win needs both orders: where they disagree, it is the place that decided, and so a tie.
    """
    if record["equal"]:
        return TIE
    if any(game["verdict"] is None for game in record["games"]):
        return None
    sides = {preferred(game["first"], game["verdict"]) for game in record["games"]}
    if len(sides) > 1:
        return TIE
    return of_candidate(sides.pop())


def of_candidate(side: str) -> str:
    return {"candidate": WIN, "baseline": LOSS}.get(side, TIE)
