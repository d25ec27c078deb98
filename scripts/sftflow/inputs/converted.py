"""Published benchmarks that evalscope does not know, read as questions of general_mcq.

Each form gives {subset: {split: (where, how to read it)}}, as `own.tables_of` does for own files.
Rows that no key can score are left out and counted in the notes of their table.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

from sftflow.core.cli import UserError
from sftflow.inputs import tables, trees
from sftflow.inputs.keys import LETTERS, right_keys
from sftflow.inputs.own import Found
from sftflow.inputs.tables import Table


def _only(tree: trees.Tree, pattern: str, words: str) -> dict[str, str]:
    """{what the pattern names: path} of the files looked for, in the order of their names."""
    found: dict[str, str] = {}
    for path in sorted(tree):
        if match := re.fullmatch(rf"(?:.*/)?{pattern}", path):
            name = match[1]
            if name in found:
                raise UserError(
                    f"the questions are there more than once; give one as source: {found[name]}, "
                    f"{path}"
                )
            found[name] = path
    if not found:
        raise UserError(f"looked for {words}; there is {', '.join(sorted(tree)[:8]) or 'nothing'}")
    return found


def _rows(tree: trees.Tree, path: str) -> list[dict]:
    (table,) = tables.read(path, tree[path]()).values()
    return table.rows


def _lettered(row: dict, path: str, options: str, key: str) -> dict:
    """A, B, … and the letter of the option that the key spells out, or counts from 0."""
    if missing := [name for name in (options, key) if name not in row]:
        raise UserError(f"{path}: no field {missing[0]!r}; the fields are {', '.join(row)}")
    texts, right = row[options], row[key]
    place = right if isinstance(right, int) else _index(texts, right)
    letter = LETTERS[place] if place is not None and 0 <= place < len(texts) else ""
    return {**dict(zip(LETTERS, texts, strict=False)), "answer": letter}


def _index(texts: list, key: object) -> int | None:
    return texts.index(key) if texts.count(key) == 1 else None


def _scorable(rows: Iterable[dict], settings: dict, where: str) -> Table:
    """The rows that a key can score; how many can't is a note."""
    kept: list[dict] = []
    left = 0
    for row in rows:
        try:
            kept += right_keys([row], settings, where)
        except UserError:
            left += 1
    return tables.numbered(kept, [f"{left} left out: no key can score them"] if left else [])


# --- CPsyExam -------------------------------------------------------------------------------------

TYPES = {False: "单项选择题", True: "多项选择题"}


def _cpsyexam(tree: trees.Tree, settings: dict) -> dict[str, dict[str, Found]]:
    """dev/<KG or CA>-….json, the questions of one kind: KG asks for knowledge, CA has cases.

    The keys of the test split are not published.
    """
    kind = TYPES[bool(settings.get("multiple_correct"))]
    files = _only(tree, rf"dev/(.+-{kind})\.json", f"dev/<KG or CA>-<subject>-{kind}.json")
    by_area: dict[str, list[str]] = {}
    for name, path in files.items():
        by_area.setdefault(name.partition("-")[0], []).append(path)
    return {
        area: {
            settings["eval_split"]: (
                f"{area}-…-{kind}",
                partial(_exam, tree, paths, settings, area),
            )
        }
        for area, paths in by_area.items()
    }


def _exam(tree: trees.Tree, paths: list[str], settings: dict, area: str) -> Table:
    made = []
    for path in paths:
        for row in _rows(tree, path):
            if not {"question", "options"} <= row.keys() or not isinstance(row["options"], dict):
                raise UserError(f"{path}: no question with options; there are {', '.join(row)}")
            if "answer" not in row:
                raise UserError(f"{path}: the answers are missing, as in the split test")
            made.append({"question": row["question"], **row["options"], "answer": row["answer"]})
    return _scorable(made, settings, area)


# --- EmoBench -------------------------------------------------------------------------------------

ASKED = {  # what is asked about the scenario, in our words
    ("EA", "zh"): "在这种情况下，{subject}最有效的做法是什么？",
    ("EA", "en"): "What would be most effective for {subject} in this situation?",
    ("EU_emotion", "zh"): "在这种情况下，{subject}最终会有怎样的情绪？",
    ("EU_emotion", "en"): "Which emotions would {subject} feel in the end?",
    ("EU_cause", "zh"): "{subject}为什么会产生这样的情绪？",
    ("EU_cause", "en"): "Why would {subject} come to feel that way?",
}
PARTS = {
    "EA": ("EA", "choices", "label"),
    "EU_emotion": ("EU", "emotion_choices", "emotion_label"),
    "EU_cause": ("EU", "cause_choices", "cause_label"),
}


def _emobench(tree: trees.Tree, settings: dict) -> dict[str, dict[str, Found]]:
    """EA.jsonl and EU.jsonl, both languages in one file; EU asks two things of one scenario."""
    files = _only(tree, r"(EA|EU)\.jsonl", "EA.jsonl and EU.jsonl")
    return {
        f"{part}_{language}": {
            settings["eval_split"]: (
                files[PARTS[part][0]],
                partial(_scenarios, tree, files[PARTS[part][0]], part, language, settings),
            )
        }
        for part, language in ASKED
        if PARTS[part][0] in files
    }


def _scenarios(tree: trees.Tree, path: str, part: str, language: str, settings: dict) -> Table:
    _, options, key = PARTS[part]
    asked = ASKED[part, language]
    made = [
        {
            "question": f"{row['scenario']}\n{asked.format(subject=row['subject'])}",
            **_lettered(row, path, options, key),
        }
        for row in _rows(tree, path)
        if row.get("language") == language
    ]
    return _scorable(made, settings, path)


# --- SafetyBench ----------------------------------------------------------------------------------


def _safety_bench(tree: trees.Tree, settings: dict) -> dict[str, dict[str, Found]]:
    """data/<zh, en or zh_subset>/test.parquet with keys; of it the questions on mental health."""
    named = r"data/(zh|en|zh_subset)/test\.(?:parquet|jsonl)"
    files = _only(tree, named, "data/<zh, en or zh_subset>/test.parquet (.jsonl)")
    return {
        name: {settings["eval_split"]: (path, partial(_mental_health, tree, path, settings))}
        for name, path in files.items()
    }


def _mental_health(tree: trees.Tree, path: str, settings: dict) -> Table:
    made = [
        {"question": row["question"], **_lettered(row, path, "options", "answer")}
        for row in _rows(tree, path)
        if row.get("category") == "Mental Health"
    ]
    return _scorable(made, settings, path)


FORMS: dict[str, Callable[[trees.Tree, dict], dict[str, dict[str, Found]]]] = {
    "cpsyexam": _cpsyexam,
    "emobench": _emobench,
    "safety_bench": _safety_bench,
}
