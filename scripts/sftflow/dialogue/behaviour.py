"""How an answer behaves, whatever it says: its length and end, loops, variety, language, refusals,
leaked markers. Pure functions of a text; standard library only.

References
  Welleck et al. (2020) ICLR, "Neural text generation with unlikelihood training": seq-rep-4.
  Li et al. (2016) NAACL, "A diversity-promoting objective function": distinct-1, distinct-2.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

LOOP = 0.5  # of the 4-grams of an answer: from here on, more of it repeats than is new
SHORT = 16  # words; a loop takes some room, and the refrain of a short answer is none

WORD = re.compile(r"[㐀-䶿一-鿿぀-ヿ가-힯]|[^\W_㐀-䶿一-鿿぀-ヿ가-힯]+")
HAN = re.compile(r"[㐀-䶿一-鿿]")

# What a chat template puts around turns, and what a model that has lost its end writes after it.
MARKER = re.compile(
    r"<\|[\w|]{2,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|\[UNUSED_TOKEN_\d+\]"
    r"|^[ \t]*(?:###[ \t]*)?(?:user|human|assistant|system|用户|助手|系统)[ \t]*[:：]",
    re.IGNORECASE | re.MULTILINE,
)

_SORRY = r"(?:i(?:['’]m| am) (?:very |so )?(?:sorry|afraid)|sorry|unfortunately|my apologies)\b"
_CANNOT = r"\b(?:can(?:not|['’]t)|unable|not able|won['’]t)"
_HELP = r"(?:help|assist|answer|provide|comply|discuss|do)"
_ZH_SORRY = "(?:很|非常|十分)?(?:抱歉|对不起|不好意思|遗憾)"
_ZH_CANNOT = "(?:无法|不能|没有办法|没办法|不便|不可以|无权)"
_ZH_HELP = "(?:回答|提供|协助|帮助|讨论|满足|完成)"
REFUSAL = re.compile(
    rf"^\W*(?:{_SORRY}.{{0,60}}?{_CANNOT}"
    rf"|i (?:can(?:not|['’]t)|am unable to|am not able to|won['’]t) {_HELP}"
    rf"|as an? (?:ai|artificial|language)\b.{{0,60}}?{_CANNOT}"
    rf"|{_ZH_SORRY}.{{0,30}}?{_ZH_CANNOT}"
    rf"|(?:我|作为.{{0,20}}?(?:模型|助手|AI|人工智能)).{{0,15}}?{_ZH_CANNOT}{_ZH_HELP})",
    re.IGNORECASE | re.DOTALL,
)

# What a reader would call broken, in the order in which it is named.
FAULTS = ("empty", "endless", "loops", "leaked", "switched")

SHARES = (*FAULTS, "refused")  # measured as true or false
MEANS = ("characters", "repeated", "distinct_1", "distinct_2")  # measured as numbers


def measures(answer: str, finish_reason: str | None, asked: str) -> dict[str, Any]:
    """What there is to say of one answer to the message `asked`.

    endless: it was cut off at max_tokens. loops: at least half of its 4-grams were there before, in
    an answer of SHORT words or more. leaked: it holds markers of a chat template. switched: it is
    in another script than what it answers. refused: it begins with a refusal. characters: its
    length without white space. repeated: share of its 4-grams that were there before, 1 - unique /
    all (seq-rep-4). distinct_n: unique n-grams / all. Shares are None where there are no n-grams.
    """
    words = WORD.findall(answer.lower())
    spoken, wanted = script(answer), script(asked)
    repeated = one_less(distinct(words, 4))
    return {
        "empty": not answer.strip(),
        "endless": finish_reason == "length",
        "loops": len(words) >= SHORT and (repeated or 0.0) >= LOOP,
        "leaked": bool(MARKER.search(answer)),
        "switched": bool(spoken and wanted and spoken != wanted),
        "refused": bool(REFUSAL.match(answer)),
        "characters": sum(not character.isspace() for character in answer),
        "repeated": repeated,
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
    }


def summary(rows: Iterable[dict]) -> list[dict]:
    """[{name, turn, n, <mean of each measure>}] of rows {group, turn, <measures>}, by group and
    turn in order of appearance; a share that no answer has is None."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["group"], row["turn"]), []).append(row)
    return [
        {"name": name, "turn": turn, "n": len(found)}
        | {measure: mean(row[measure] for row in found) for measure in (*SHARES, *MEANS)}
        for (name, turn), found in groups.items()
    ]


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def faults(measured: dict[str, Any]) -> list[str]:
    return [name for name in FAULTS if measured[name]]


def distinct(words: list[str], n: int) -> float | None:
    """Unique n-grams / all n-grams; a word is a run of letters or digits, or one ideograph."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def one_less(share: float | None) -> float | None:
    return None if share is None else 1 - share


def script(text: str) -> str | None:
    """ "han" or "latin", whichever is more; None where there is too little to tell.

    Ideographs against words: a Chinese sentence may hold English terms, an English one Chinese.
    """
    han = len(HAN.findall(text))
    latin = len(re.findall(r"[A-Za-z]{2,}", unicodedata.normalize("NFKC", text)))
    if han < 4 and latin < 2:
        return None
    return "han" if han >= latin else "latin"
