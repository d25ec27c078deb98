"""Questions of the user's own, in whatever words and files: brought into evalscope's fields.

    general_mcq    question, A, B, …, answer (letters)
    general_qa     question, query or messages; answer or response

What is brought in is told by notes; what can't be told for sure is left for `keys` to refuse.
"""

import ast
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from sftflow.core.cli import UserError
from sftflow.inputs import tables, trees
from sftflow.inputs.keys import LETTERS, letters
from sftflow.inputs.tables import Table

Found = tuple[str, Callable[[], Table]]
OF_DATASETS = ("dataset_info.json", "dataset_dict.json", "state.json")  # written beside the rows
WORDS = {
    "question": ("question", "query", "prompt", "问题", "题目", "题干"),
    "options": ("options", "choices", "选项"),
    "answer": (
        "answer", "response", "target", "reference", "correct_answer", "answer_letter",
        "answer_key", "答案", "正确答案", "参考答案", "标准答案",
    ),
}  # fmt: skip
TAKEN = {"general_qa": ("question", "query", "answer", "response")}  # by evalscope, as they stand
ASKED = {
    "general_mcq": ("question", "answer", *LETTERS),
    "general_qa": ("question", "query", "messages", "system", "answer", "response"),
}
EITHER = (
    ("question", "query"), ("answer", "response"),
    ("messages", "question"), ("messages", "query"), ("messages", "system"),
)  # fmt: skip
NAMES = {word: name for name, words in WORDS.items() for word in words}
OPTION = re.compile(r"(?:option|choice|opt|选项)?([a-z])")


# --- files ----------------------------------------------------------------------------------------


def tables_of(tree: trees.Tree, settings: dict) -> dict[str, dict[str, Found]]:
    """{subset: {split: (where, how to read it)}} of all files that may hold questions.

    <subset>_<split>.jsonl, or <split>/<subset>.jsonl, or <subset>.jsonl for what is asked. Sheets
    of a workbook that has several are as files of their names.
    """
    asked = settings["eval_split"]
    splits = [split for split in (asked, settings.get("few_shot_split")) if split]
    found: dict[str, dict[str, Found]] = {}
    for path in sorted(filter(_is_table, tree)):
        parts = _parts(path, tree[path])
        for name, read in parts.items():
            where = path if len(parts) == 1 else f"{path}, sheet {name}"
            subset, split = of_name(name, splits)
            folder = PurePosixPath(path).parent.name
            split = split or (folder if folder in splits else asked)
            known = found.setdefault(subset, {})
            if split in known:
                raise UserError(
                    f"{known[split][0]} and {where} are both subset {subset}, split {split}: "
                    "leave one"
                )
            known[split] = (where, read)
    if not found:
        held = ", ".join(sorted(tree)[:8]) or "nothing"
        raise UserError(
            f"no questions: looked for files of {', '.join(tables.SUFFIXES)}; there is {held}"
        )
    return found


def _is_table(path: str) -> bool:
    return tables.is_table(path) and PurePosixPath(path).name not in OF_DATASETS


def _parts(path: str, content: Callable[[], bytes]) -> dict[str, Callable[[], Table]]:
    """{name: how to read it}: a file, or the sheets of a workbook."""
    name = tables.stem(path)
    if (part := re.fullmatch(r"(.+)-\d+-of-0*(\d+)", name)) and part[2] != "1":
        raise UserError(f"{path} is one of {part[2]} parts of a table: join them into one file")
    if path.lower().endswith(".xlsx"):
        sheets = tables.read(path, content())
        return {sheet: partial(lambda table: table, table) for sheet, table in sheets.items()}
    return {part[1] if part else name: partial(_only, path, content)}


def _only(path: str, content: Callable[[], bytes]) -> Table:
    read = list(tables.read(path, content()).values())
    if len(read) != 1:
        raise UserError(f"{path} is a workbook of {len(read)} sheets: call it .xlsx")
    return read[0]


def of_name(name: str, splits: list[str]) -> tuple[str, str | None]:
    """(subset, split) of "sleep_val"; the split is None where the name states none."""
    for split in splits:
        if name.endswith(f"_{split}"):
            return name.removesuffix(f"_{split}"), split
    return name, None


# --- fields ---------------------------------------------------------------------------------------


def in_our_words(table: Table, settings: dict, where: str) -> Table:
    """The rows with evalscope's fields, and notes on what was taken for what.

    UserError where one thing is there in two fields that differ.
    """
    dataset = settings["dataset"]
    notes, rows = list(table.notes), []
    renamed: dict[str, str] = {}
    for row, place in zip(table.rows, table.places, strict=True):
        try:
            made = _renamed(row, dataset, renamed)
            rows.append(_spread(made) if dataset == "general_mcq" else _parsed(made))
        except ValueError as error:
            raise UserError(f"{where}, {place}: {error}") from None
    if renamed:
        notes.append("read " + ", ".join(f"{old!r} as {new}" for old, new in renamed.items()))
    if dataset == "general_mcq":
        rows, said = _letters(rows, [f"{where}, {place}" for place in table.places])
        notes += said
    unused = Counter(key for row in rows for key in row if key not in ASKED[dataset])
    if unused:
        notes.append("not asked: " + ", ".join(map(repr, unused)))
    return Table(rows, table.places, notes)


def _renamed(row: dict, dataset: str, renamed: dict[str, str]) -> dict:
    made: dict[str, Any] = {}
    came: dict[str, str] = {}
    for pair in EITHER if dataset == "general_qa" else ():
        given = [row[name] for name in pair if row.get(name) not in (None, "", [])]
        if len(given) == 2 and given[0] != given[1]:
            raise ValueError(f"both {pair[0]} and {pair[1]} are given; leave one")
    if dataset == "general_qa" and row.get("history") not in (None, "", []):
        raise ValueError("the history would not be asked; write it into messages")
    for key, value in row.items():
        name = _name(key, dataset)
        if name in came and value not in (None, "") and made[name] not in (None, "", value):
            raise ValueError(f"{came[name]!r} and {key!r} both give the {name}; leave one")
        if name not in made or made[name] in (None, ""):
            made[name], came[name] = value, key
        if name != key:
            renamed[key] = name
    return made


def _name(key: str, dataset: str) -> str:
    plain = unicodedata.normalize("NFKC", key).strip().casefold()
    if key in TAKEN.get(dataset, ()):
        return key
    compact = re.sub(r"[\s-]+", "_", plain)
    name = NAMES.get(compact, key)
    if dataset == "general_qa":
        return key if name == "options" else name
    option = OPTION.fullmatch(compact.replace("_", ""))
    if compact not in NAMES and option and (key.isupper() or len(key) > 1 or key < "k"):
        return option[1].upper()
    return name


def _spread(row: dict) -> dict:
    """`options` in one field as A, B, …: a list, {letter: text}, or either as text."""
    if row.get("options") in (None, ""):
        return {key: value for key, value in row.items() if key != "options"}
    options = row["options"]
    if isinstance(options, str):
        options = _literal(options)
    if isinstance(options, dict):
        options = {str(key).strip().upper(): value for key, value in options.items()}
    elif isinstance(options, list) and len(options) <= len(LETTERS):
        options = dict(zip(LETTERS, options, strict=False))
    if not isinstance(options, dict) or not options or set(options) - set(LETTERS):
        raise ValueError(
            f"the options are {str(row['options'])[:60]!r}; write a list of 2 to {len(LETTERS)} "
            "texts, or one column for each, A, B, …"
        )
    if any(row.get(letter) not in (None, "") for letter in options):
        raise ValueError("there are options in one field and in columns of their own; leave one")
    made: dict[str, Any] = {}
    for key, value in row.items():
        if key == "options":
            made |= options
        elif key not in options:
            made[key] = value
    return made


def _parsed(row: dict) -> dict:
    """Messages that are text, as in a table, as the list that they write."""
    said = row.get("messages")
    return row | {"messages": _literal(said) or said} if isinstance(said, str) else row


def _literal(text: str) -> Any:
    """JSON, or the list that pandas writes into a cell."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


# --- keys -----------------------------------------------------------------------------------------


def _letters(rows: list[dict], places: list[str]) -> tuple[list[dict], list[str]]:
    """Keys that are an option's text, or a number that can be counted in one way only, as letters.

    Numbers count from 0 where one is 0, from 1 where one is the number of its options, and are left
    where they may be either. A text is taken where it can be no letter; where some keys are texts,
    UserError for one that may be either.
    """
    base = _base(rows)
    if base is not None:
        made = [row | {"answer": LETTERS[int(row["answer"]) - base]} for row in rows]
        return made, [f"answers are numbers counted from {base}: {base} is A"]
    spelt = [_by_text(row, row.get("answer")) for row in rows]
    if not any(spelt):
        return rows, []
    for row, text, place in zip(rows, spelt, places, strict=True):
        key, options = row.get("answer"), _options(row)
        if text is None and isinstance(key, str) and key in options.values():
            if options.get(key.strip().upper()) != key:
                raise UserError(
                    f"{place}: the answer is {key!r}, a letter and the text of another option, and "
                    "other answers in this file are texts; write letters"
                )
    made = [row | {"answer": text} if text else row for row, text in zip(rows, spelt, strict=True)]
    return made, [f"{len(rows) - spelt.count(None)} answers are the text of an option"]


def _options(row: dict) -> dict[str, str]:
    stated = ((letter, row.get(letter)) for letter in LETTERS)
    return {letter: _plain(text) for letter, text in stated if text not in (None, "")}


def _plain(text: Any) -> str:
    return unicodedata.normalize("NFKC", str(text)).strip()


def _number(key: Any) -> int | None:
    if isinstance(key, bool) or not isinstance(key, int | str):
        return None
    return int(key) if re.fullmatch(r"[0-9]{1,2}", str(key).strip()) else None


def _base(rows: list[dict]) -> int | None:
    """0 or 1, where every key is a number and only one of them fits the whole file."""
    keys = [_number(row.get("answer")) for row in rows]
    if not keys or None in keys:
        return None
    pairs = [(key, _options(row)) for key, row in zip(keys, rows, strict=True) if key is not None]
    if any(str(key) in options.values() for key, options in pairs):
        return None  # a number among numbers may be the text
    fits = [b for b in (0, 1) if all(b <= key < b + len(options) for key, options in pairs)]
    return fits[0] if len(fits) == 1 else None


def _by_text(row: dict, key: Any) -> str | list[str] | None:
    """The letter of the option that a key spells out: "oak", "B. oak"; None where none does."""
    if isinstance(key, list):
        several = [_by_text(row, one) for one in key]
        return [str(one) for one in several] if several and all(several) else None
    options = _options(row)
    if not isinstance(key, str) or _number(key) is not None:
        return None
    if set(letters(key) or "?") <= options.keys():
        return None
    return next(_spelt(options, _plain(key)), None)


def _spelt(options: dict[str, str], key: str) -> Iterator[str]:
    same = [letter for letter, text in options.items() if text == key]
    if len(same) == 1:
        yield same[0]
    lettered = re.match(r"\W*([A-Z])\W+", key)
    if lettered and key[lettered.end() :].strip() == options.get(lettered[1], ""):
        yield lettered[1]
