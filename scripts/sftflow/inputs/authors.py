"""Benchmarks as their authors publish them, found in a folder or an archive, zipped or not.

Each becomes rows in the form in which the hubs have it, so that one and the same question is one
and the same row, wherever it comes from.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from sftflow.core.cli import UserError
from sftflow.inputs import tables, trees
from sftflow.inputs.benchmarks import PER_SUBSET

LETTERS = "ABCD"
SHOWN = 8  # kinds of what is there instead


class Layout(NamedTuple):
    """Where the questions of a split lie, and what makes rows of one file of them.

    `path`: {split}, {config}, <subset>, and <part> for the files that one table was divided into.
    """

    path: str
    rows: Callable[[str, str, bytes], list[dict]]


def _ceval(name: str, _subset: str, content: bytes) -> list[dict]:
    rows = _with(name, content, ("question", *LETTERS, "answer"))
    numbers = [{"id": int(row["id"])} if row.get("id", "").isdecimal() else {} for row in rows]
    return [
        row | number | {"explanation": row.get("explanation", "")}
        for row, number in zip(rows, numbers, strict=True)
    ]


def _cmmlu(name: str, subset: str, content: bytes) -> list[dict]:
    """ "(A) …" for A, "(A)" for an answer: so evalscope reads them."""
    made = []
    for number, row in enumerate(_with(name, content, ("Question", *LETTERS, "Answer")), start=1):
        answer = row["Answer"].strip()
        if answer not in tuple(LETTERS):
            raise UserError(f"{name}, row {number}: the answer is {answer!r}, none of A to D")
        choices = [f"({key}) {row[key]}" for key in LETTERS]
        made.append({"question": row["Question"], "choices": choices, "answer": f"({answer})"})
    return [row | {"category": subset} for row in made]


def _mmlu(name: str, subset: str, content: bytes) -> list[dict]:
    """Tables without a header."""
    said, _ = tables.text(name, content)
    header = ("question", *LETTERS, "answer")
    table = tables.delimited_rows(name, said, [], header)
    made = []
    for row, place in zip(table.rows, table.places, strict=True):
        if row["answer"] not in tuple(LETTERS):
            raise UserError(f"{name}, {place}: the answer is {row['answer']!r}, none of A to D")
        choices = [row[key] for key in LETTERS]
        key = LETTERS.index(row["answer"])
        made.append(
            {"question": row["question"], "subject": subset, "choices": choices, "answer": key}
        )
    return made


def _as_they_are(name: str, _subset: str, content: bytes) -> list[dict]:
    (table,) = tables.read(name, content).values()
    return table.rows


def _with(name: str, content: bytes, columns: Iterable[str]) -> list[dict]:
    rows = _as_they_are(name, "", content)
    found = list(rows[0]) if rows else []
    if rows and (missing := [column for column in columns if column not in found]):
        raise UserError(f"{name}: no column {', '.join(missing)}; there are {', '.join(found)}")
    return rows


# Of the hubs: parquet or arrow, in one file or several; a README.md that names them may be missing.
PARTS = r"(?P<part>-\d+-of-\d+(?:-\w+)?)?\.(?:parquet|arrow|jsonl|json)"
OF_HUBS = [
    Layout("{config}/{split}<part>", _as_they_are),
    Layout("{config}/{split}/data<part>", _as_they_are),
]
BARE = [Layout("{split}<part>", _as_they_are), Layout("{split}/data<part>", _as_they_are)]
LAYOUTS = {
    "ceval": [
        Layout("{split}/<subset>_{split}.csv", _ceval),
        Layout("<subset>_{split}.csv", _ceval),
    ],
    "cmmlu": [Layout("{split}/<subset>.csv", _cmmlu)],
    "mmlu": [
        Layout("{split}/<subset>_{split}.csv", _mmlu),
        Layout("<subset>_{split}.csv", _mmlu),
    ],
    "gsm8k": [Layout("{split}.jsonl", _as_they_are)],
    "ifeval": [
        Layout("ifeval_input_data.jsonl", _as_they_are),  # of the hub
        Layout("input_data.jsonl", _as_they_are),
    ],
    "super_gpqa": [Layout("SuperGPQA-all.jsonl", _as_they_are)],
    "mmlu_redux": [Layout("<subset>/data<part>", _as_they_are)],
}


# On a hub, its tables lie in an archive, whatever the README.md beside it names.
BEFORE_README = ("cmmlu",)


class Authors:
    """A benchmark in one of its layouts, below one folder of a tree."""

    def __init__(self, tree: trees.Tree, top: str, layout: Layout, settings: dict):
        self.tree, self.top, self.layout, self.settings = tree, top, layout, settings

    def files(self, split: str) -> list[tuple[str, str]]:
        """(subset, path) of each file of a split, in the order of their names."""
        pattern = _pattern(self.layout, self.settings, split)
        matches = [m for m in map(pattern.fullmatch, self.tree) if m and m["top"] == self.top]
        return sorted((match.groupdict().get("subset") or "", match[0]) for match in matches)

    def configs(self) -> list[str]:
        if self.settings["config"] != PER_SUBSET:
            return [self.settings["config"]]
        return list(dict.fromkeys(subset for subset, _ in self.files(self.settings["eval_split"])))

    def rows(self, config: str, split: str) -> list[dict]:
        files = self.files(split)
        if self.settings["config"] == PER_SUBSET:
            files = [(subset, path) for subset, path in files if subset == config]
        if not files:
            looked = _words(self.layout, self.settings, split).replace("<subset>", config)
            raise UserError(f"there is no {looked} in {self.top or 'the source'}")
        return [row for s, path in files for row in self.layout.rows(path, s, self.tree[path]())]


def find(tree: trees.Tree, settings: dict) -> Authors | None:
    """The benchmark in a tree; None where it has none of the layouts known.

    UserError where it is there more than once.
    """
    for layout in _layouts(settings):
        pattern = _pattern(layout, settings, settings["eval_split"])
        tops = sorted({match["top"] for match in map(pattern.fullmatch, tree) if match})
        if len(tops) > 1:
            where = ", ".join(top or "the folder itself" for top in tops)
            raise UserError(f"the questions are there more than once; give one as source: {where}")
        if tops:
            return Authors(tree, tops[0], layout, settings)
    return None


def looked_for(tree: trees.Tree, settings: dict) -> str:
    """What a source would hold, and what it does hold, for an error."""
    split = settings["eval_split"]
    own = LAYOUTS.get(settings["dataset"], [])
    forms = [_words(layout, settings, split) for layout in [*own, *OF_HUBS]]
    paths = map(PurePosixPath, tree)
    held = sorted({str(path.parent / f"*{path.suffix}") for path in paths})
    more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    return (
        f"looked for {', or '.join(dict.fromkeys(forms))}, in folders or archives, or a README.md "
        f"that names the files; there is {', '.join(held[:SHOWN]) or 'nothing'}{more}"
    )


def _layouts(settings: dict) -> list[Layout]:
    bare = [] if settings["config"] == PER_SUBSET else BARE
    return [*OF_HUBS, *LAYOUTS.get(settings["dataset"], []), *bare]


def _words(layout: Layout, settings: dict, split: str) -> str:
    config = settings["config"]
    path = layout.path.format(split=split, config="<subset>" if config == PER_SUBSET else config)
    if config == "default":
        path = path.removeprefix("default/")
    return path.replace("<part>", "*.parquet (.arrow, .jsonl, .json)")


def _pattern(layout: Layout, settings: dict, split: str) -> re.Pattern:
    config = settings["config"]
    place = {"default": "(?:data/)?", PER_SUBSET: "<subset>/"}.get(config, f"{config}/")
    path = layout.path.replace("{config}/", place).replace(".", r"\.").format(split=split)
    path = path.replace("<subset>", "(?P<subset>[^/]+)").replace("<part>", PARTS)
    return re.compile(rf"(?P<top>(?:.*/)?){path}")
