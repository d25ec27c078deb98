"""The right answers of a benchmark's rows: brought into the one form that evalscope compares, or
refused with their row, where no answer could ever be right.

Of published benchmarks only what decides about the right answer is looked at: their questions stand
as they were published. Own questions (general_mcq, general_qa) are looked at whole.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from sftflow.core.cli import UserError

LETTERS = "ABCDEFGHIJ"  # as many options as evalscope's adapters know
SHOWN = 5  # rows that an error names

_AROUND = " \t\r\n.。,，:：;；、()[]{}<>《》【】「」*'\"“”‘’"
_BETWEEN = re.compile(r"\s*(?:[,;/&+、\s]|\band\b|\bor\b|和|或|与)\s*", re.IGNORECASE)


class Wrong(ValueError):
    """What is wrong with a row, and what would be right."""


def right_keys(
    rows: list[dict], settings: dict, where: str, places: list[str] | None = None
) -> list[dict]:
    """The rows, their keys in evalscope's form; UserError with the rows whose key can't be right.

    `settings`: {dataset, multiple_correct}. A data set that is not known here is left as it is.
    """
    check = CHECKS.get(settings["dataset"])
    if check is None:
        return rows
    kept, wrong = [], []
    for place, row in zip(places or (f"row {n + 1}" for n in range(len(rows))), rows, strict=True):
        try:
            kept.append(check(row, bool(settings.get("multiple_correct"))))
        except Wrong as error:
            wrong.append(f"{where}, {place}: {error}")
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more rows"] if len(wrong) > SHOWN else []
        raise UserError("\n  ".join([*wrong[:SHOWN], *more]))
    return kept


def letters(key: Any) -> list[str] | None:
    """The option letters that a key names, in its own order, or None: "(B)", "b", "Ｂ.", "A、C"."""
    if isinstance(key, list):
        several = [letters(one) or [] for one in key]
        return [x for one in several for x in one] if several and all(several) else None
    if not isinstance(key, str):
        return None
    text = unicodedata.normalize("NFKC", key).strip(_AROUND)
    parts = [part.strip(_AROUND).upper() for part in _BETWEEN.split(text)]
    if len(parts) == 1 and text.isupper() and len(set(text)) == len(text):
        parts = list(text)  # "BD"
    one_each = all(re.fullmatch("[A-Z]", part) for part in parts)
    return parts if parts and one_each else None


def letter(key: Any, count: int) -> str:
    """The one letter that a key names, of `count` options."""
    found, last = letters(key), LETTERS[count - 1]
    if found is None:
        raise Wrong(f"the answer is {key!r}; write the letter of the right option, A to {last}")
    if len(set(found)) > 1:
        raise Wrong(f"the answer is {key!r}; this benchmark has one right option, A to {last}")
    return _among(found, key, count)[0]


def _among(found: Iterable[str], key: Any, count: int) -> list[str]:
    if beyond := [one for one in found if one not in LETTERS[:count]]:
        raise Wrong(
            f"the answer is {key!r}, and there is no option {beyond[0]}: the options are A to "
            f"{LETTERS[count - 1]}"
        )
    return sorted(set(found))


# --- own questions --------------------------------------------------------------------------------


def _own_choice(row: dict, several: bool) -> dict:
    """general_mcq: question, A, B, …, answer (a letter; with `several` a list of letters)."""
    options = _own_options(row)
    rest = {name: value for name, value in row.items() if not _is_option(name)}
    if not several:
        if len(set(letters(row["answer"]) or "")) > 1:
            raise Wrong(
                f"the answer is {row['answer']!r}: where several options are right together, set "
                "multiple_correct: true for this benchmark; else write one letter"
            )
        return rest | options | {"answer": letter(row["answer"], len(options))}
    found = letters(row["answer"])
    if found is None:
        raise Wrong(
            f"the answer is {row['answer']!r}; write the letters of the right options, such as "
            f"AC, of A to {LETTERS[len(options) - 1]}"
        )
    return rest | options | {"answer": _among(found, row["answer"], len(options))}


def _is_option(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch("[A-Z]", name) is not None


def _own_options(row: dict) -> dict[str, str]:
    """{letter: text}; empty ones at the end, as a table's short rows have, are none."""
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise Wrong("the question is no text")
    stated = {name: row[name] for name in sorted(filter(_is_option, row))}
    options = {name: _text(name, value) for name, value in stated.items()}
    options = {name: text for name, text in options.items() if text}
    for here, there in zip(options, LETTERS, strict=False):
        if here != there:
            raise Wrong(f"option {there} is empty or missing, and there is an option {here}")
    if len(options) > len(LETTERS):
        raise Wrong(f"there are {len(options)} options; evalscope knows A to {LETTERS[-1]}")
    if len(options) < 2:
        raise Wrong("there is one option; a question needs two at least")
    seen: dict[str, str] = {}
    for name, text in options.items():
        if text in seen:
            raise Wrong(f"options {seen[text]} and {name} are the same ({text!r})")
        seen[text] = name
    return options


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Wrong(f"option {name} is {value!r}; write a text")
    return str(value).strip()


def _own_text(row: dict, _: bool) -> dict:
    """general_qa: question (or query, or messages) and answer (or response)."""
    asked = row.get("messages") or row.get("question") or row.get("query")
    if not isinstance(asked, str | list) or not asked or not str(asked).strip():
        raise Wrong("there is no question; write one as query (or question, or messages)")
    if row.get("messages") and not _is_dialogue(asked):
        raise Wrong(
            "messages is no list of {role, content} that ends with the user's; the roles are "
            "system, user and assistant"
        )
    for name in ("answer", "response"):  # evalscope looks for them in this order
        if row.get(name) is not None and str(row[name]).strip():
            if not isinstance(row[name], str | int | float):
                raise Wrong(f"the {name} is {row[name]!r}; write a text")
            return row | {name: str(row[name])}
    raise Wrong("there is no answer to compare with; write one as response (or answer)")


def _is_dialogue(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in value)
        and all(turn.get("role") in ("system", "user", "assistant") for turn in value)
        and value[-1]["role"] == "user"
    )


# --- published benchmarks -------------------------------------------------------------------------


def _number_after_mark(row: dict, _: bool) -> dict:
    """gsm8k: the number after the last ####."""
    said = str(row["answer"])
    mark, number = said.rpartition("####")[1:]
    if not re.search(r"\d", number) or (not mark and re.search(r"[^\W\d_]", number)):
        raise Wrong(f"the answer ends with no number ({said[-40:]!r}); write it after ####")
    return row


def _index(row: dict, _: bool) -> dict:
    """mmlu: a number from 0, of at most four options."""
    options, key = _options(row["choices"]), row["answer"]
    last = min(len(options), 4) - 1
    if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key <= last:
        raise Wrong(f"the answer is {key!r}; write the number of the right option, 0 to {last}")
    return row


def _listed(options: str, key: str) -> Callable[[dict, bool], dict]:
    """A letter among the options that stand in one list."""
    return lambda row, _: row | {key: letter(row[key], len(_options(row[options])))}


def _options(options: Any) -> list:
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise Wrong(f"the options are no list of 2 to {len(LETTERS)} texts")
    return options


def _four(row: dict, _: bool) -> dict:
    """ceval: a letter of A to D."""
    return row | {"answer": letter(row["answer"], 4)}


def _bracketed(row: dict, _: bool) -> dict:
    """cmmlu: "(B)", and options that begin with "(A) ", which evalscope cuts off."""
    options = _options(row["choices"])
    for own, option in zip(LETTERS, options, strict=False):
        if not isinstance(option, str) or not option.startswith(f"({own})"):
            raise Wrong(f"option {own} is {option!r}; it must begin with '({own}) '")
    return row | {"answer": f"({letter(row['answer'], len(options))})"}


def _corrected(row: dict, _: bool) -> dict:
    """mmlu_redux: a number from 0, and for some kinds of error the corrected one, or ones."""
    _index(row, False)
    kind, fixed = row["error_type"], row.get("correct_answer")
    if fixed in (None, "") or kind not in ("wrong_groundtruth", "multiple_correct_answers"):
        return row
    last = len(row["choices"]) - 1
    found = _numbers(str(fixed))
    several = kind == "multiple_correct_answers"
    if found is None and several:  # evalscope looks for the options' own words
        return row
    if found is None or (len(found) > 1 and not several) or not all(0 <= n <= last for n in found):
        what = "numbers or letters" if several else "the number or letter"
        raise Wrong(
            f"the correct_answer is {fixed!r}; write {what} of the right options, 0 to {last}"
        )
    return row | {"correct_answer": ", ".join(map(str, found))}


def _numbers(key: str) -> list[int] | None:
    """[0, 2] of "0, 2", "(0 2)", "A and C"; None of anything else."""
    parts = [part.strip(_AROUND) for part in _BETWEEN.split(key.strip(_AROUND))]
    if parts and all(re.fullmatch(r"\d{1,3}", part) for part in parts):
        return [int(part) for part in parts]
    found = letters(key)
    return None if found is None else [LETTERS.find(one) for one in found]


CHECKS: dict[str, Callable[[dict, bool], dict]] = {
    "general_mcq": _own_choice,
    "general_qa": _own_text,
    "gsm8k": _number_after_mark,
    "mmlu": _index,
    "mmlu_pro": _listed("options", "answer"),
    "super_gpqa": _listed("options", "answer_letter"),
    "ceval": _four,
    "cmmlu": _bracketed,
    "mmlu_redux": _corrected,
    "iquiz": _listed("choices", "answer"),
}
