"""Overlap of benchmark questions with training dialogues, by n-grams.

A question counts as contaminated when at least `threshold` of its n-grams occur somewhere in the
dialogues (PaLM, Chowdhery et al. 2022, section 8: 70 % of 8-grams of words). Chinese has no spaces,
so there characters are counted. A question shorter than one n-gram is one n-gram by itself; below
`LEAST` units nothing can be said, and it counts as clean.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# Han, kana, hangul: scripts without spaces, or with spaces that mean little for the overlap.
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
WORD = re.compile(r"[^\W_]+")
LEAST = 4


@dataclass
class Question:
    """One question as the trainer might have seen it, and which of its n-grams it has."""

    identity: str
    subset: str
    text: str
    language: str = ""
    grams: frozenset[str] = frozenset()


@dataclass
class Match:
    """Where an n-gram was met first."""

    dialogue: str
    passage: str


@dataclass
class Index:
    """The n-grams to look for, by (language, length)."""

    lengths: dict[str, int]  # language -> n
    wanted: dict[tuple[str, int], dict[str, Match | None]] = field(default_factory=dict)

    def add(self, question: Question) -> None:
        question.language = language(question.text)
        units = normal(question.text, question.language)
        n = min(self.lengths[question.language], len(units))
        if n < LEAST:
            return
        question.grams = frozenset(windows(units, n))
        table = self.wanted.setdefault((question.language, n), {})
        table.update(dict.fromkeys(question.grams - table.keys()))

    def search(self, dialogue: str, text: str) -> None:
        """Note which wanted n-grams one message of a dialogue holds."""
        units: dict[str, list[str] | str] = {}
        for (kind, n), table in self.wanted.items():
            if kind not in units:
                present = kind == "en" or CJK.search(text)
                units[kind] = normal(text, kind) if present else ""
            for gram in windows(units[kind], n):
                if gram in table and table[gram] is None:
                    table[gram] = Match(dialogue, gram)

    def coverage(self, question: Question) -> tuple[float, Match | None]:
        """(share of the question's n-grams that were met, the first of them)."""
        met = [match for gram in sorted(question.grams) if (match := self._lookup(question, gram))]
        return (len(met) / len(question.grams), met[0]) if met else (0.0, None)

    def _lookup(self, question: Question, gram: str) -> Match | None:
        units = normal(question.text, question.language)
        n = min(self.lengths[question.language], len(units))
        return self.wanted[question.language, n][gram]


def language(text: str) -> str:
    """ "zh" where characters of such scripts outnumber the words of others, else "en"."""
    han = len(CJK.findall(text))
    return "zh" if han > len(WORD.findall(CJK.sub(" ", text))) else "en"


def normal(text: str, kind: str) -> str | list[str]:
    """Case, width, punctuation and spaces left out: characters for "zh", words for "en"."""
    words = WORD.findall(unicodedata.normalize("NFKC", text).lower())
    return "".join(words) if kind == "zh" else words


def windows(units: str | list[str], n: int) -> Iterator[str]:
    if isinstance(units, str):
        return (units[i : i + n] for i in range(len(units) - n + 1))
    return (" ".join(units[i : i + n]) for i in range(len(units) - n + 1))


def summarise(questions: Iterable[Question], index: Index, threshold: float, shown: int) -> dict:
    """{n, overlapping, share, ids, examples} of one benchmark; the most overlap comes first."""
    total = 0
    hits: list[tuple[float, Question, Match]] = []
    for question in questions:
        total += 1
        share, match = index.coverage(question) if question.grams else (0.0, None)
        if match and share >= threshold:
            hits.append((share, question, match))
    hits.sort(key=lambda hit: (-hit[0], hit[1].identity))
    return {
        "n": total,
        "overlapping": len(hits),
        "share": round(len(hits) / total, 4) if total else None,
        "ids": sorted({question.identity for _, question, _ in hits}),
        "examples": [
            {
                "id": question.identity,
                "subset": question.subset,
                "coverage": round(share, 4),
                "question": question.text[:300],
                "dialogue": match.dialogue,
                "passage": match.passage,
            }
            for share, question, match in hits[:shown]
        ],
    }
