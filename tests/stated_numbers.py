"""Numbers that a report states, and where in the JSON files under results/ they come from.

A number is known where a JSON file holds it, to the digits that are shown, as it is or by one of
the RULES. Not looked at: code, targets of links, headings, dates, versions, what a model said.
"""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from sftflow.reporting.text import TEMPLATES

# How a number on a page follows from one in a file.
RULES = {
    "as it is": lambda x: x,
    "percent of a share": lambda x: 100 * x if abs(x) <= 1 else None,
    "GiB of bytes": lambda x: x / 2**30 if x > 2**26 else None,
    "MiB of bytes": lambda x: x / 2**20 if x > 2**16 else None,
    "perplexity of a loss": lambda x: math.exp(x) if 0 < x < 20 and x != int(x) else None,
    "whole number, rounded up to two digits": lambda x: (
        -(-int(x) // 10 ** (len(str(int(x))) - 2)) * 10 ** (len(str(int(x))) - 2)
        if x == int(x) and x > 99
        else None
    ),
}
SKIPPED = re.compile(
    r"```.*?```"  # commands, settings and examples, which are shown as they are
    r"|`[^`]*`"
    r"|\]\([^)]*\)"  # targets of links
    r"|^#+ [^\n]*$"  # the numbers of sections
    r"|\b\d{4}-\d\d-\d\d( \d\d:\d\d UTC)?"
    r"|\b[0-9a-f]{12,}\b",
    re.S | re.M,
)
NUMBER = re.compile(
    r"(?<![\w.@-])(?P<sign>[-+−])?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r"(?P<clock>:\d\d(?::\d\d)?)?(?![\w@]|\.\d)"
)


TAGS = (
    "benchmark",
    "suite",
    "group",
    "text",
    "dataset",
    "where",
)  # what a part of a record is about


class Known:
    """The numbers of the records under results/, by what they are about.

    A line that names benchmarks, suites or texts may state numbers about these alone; one that
    names none, any number.
    """

    def __init__(self, results: Path):
        study = json.loads((results / "study.json").read_text(encoding="utf-8"))
        self.labels = {suite: suite for suite in study["suites"]}
        self.labels |= {name: entry["label"] for name, entry in study["benchmarks"].items()}
        self.labels |= {name: name for name in (*study["datasets"], *study["dialogue"]["neutral"])}
        found: dict[str, set[float]] = {"": set()}
        for path in sorted(results.rglob("*.json")):
            if path.parts[len(results.parts)] in ("settings", "provenance", "dashboard"):
                continue
            content = json.loads(path.read_text(encoding="utf-8"))
            place = self.labels.keys() & set(path.relative_to(results).with_suffix("").parts)
            if isinstance(content, dict) and "runs.dataset" in content.get("made_with", {}):
                place.add(content["made_with"]["runs.dataset"])
            for tags, number in walk(content, frozenset(place), self.labels):
                for tag in ("", *tags):
                    found.setdefault(tag, set()).update(by_rules(number))
            listed = content.get("files") if isinstance(content, dict) else None
            if listed and all(isinstance(file, dict) and "size" in file for file in listed):
                found[""].update(by_rules(float(sum(file["size"] for file in listed))))
            if isinstance(content, dict) and content.get("trainable_parameters"):
                found[""].add(100 * content["trainable_parameters"] / content["parameters"])
        self.values = {tag: sorted(map(abs, numbers)) for tag, numbers in found.items()}

    def holds(self, line: str, value: float, half: float) -> bool:
        named = [tag for tag, label in self.labels.items() if tag in self.values
                 and re.search(rf"(?<![\w-]){re.escape(label)}(?![\w-])", line)]  # fmt: skip
        return any(within(self.values[tag], value, half) for tag in named or [""])


def by_rules(number: float) -> Iterator[float]:
    for rule in RULES.values():
        if (value := rule(number)) is not None:
            yield value


def walk(
    value: object, tags: frozenset[str], labels: dict[str, str]
) -> Iterator[tuple[frozenset[str], float]]:
    """Numbers in a record with what they are about, and how many it lists."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        if math.isfinite(value):
            yield tags, float(value)
    elif isinstance(value, dict):
        own = tags | {value[key] for key in TAGS if isinstance(value.get(key), str)}
        own |= {name for name, label in labels.items() if value.get("benchmark") == label}
        for key, item in value.items():
            yield from walk(item, own | ({key} & labels.keys()), labels)
        if count := value.get("answers", value.get("n")):  # shares of the answers
            for what in ("unparsed", "misread", "truncated", "empty"):
                if isinstance(value.get(what), int):
                    yield own, value[what] / count
    elif isinstance(value, list):
        yield tags, float(len(value))
        if len(value) <= 40 or not all(isinstance(item, int | float) for item in value):
            for item in value:  # curves of single steps are in no text
                yield from walk(item, tags, labels)
    elif isinstance(value, str):
        for found in NUMBER.finditer(value):  # such as what a flag says
            yield tags, read(found)[0]


def stated(page: str) -> Iterator[tuple[str, str, float, float]]:
    """(line, what stands there, its value, half of its last digit) of every number of a page."""
    for line in SKIPPED.sub(" ", page).replace("\u00a0", " ").splitlines():
        for found in NUMBER.finditer(line):
            yield line, found[0], *read(found)


def read(found: re.Match) -> tuple[float, float]:
    """What a number is, in seconds where it is a time, and half of its last digit."""
    digits = found["digits"].replace(",", "")
    if not found["clock"]:
        return float(digits), 0.5 * 10 ** -len(digits.partition(".")[2])
    parts = [digits, *found["clock"].strip(":").split(":")]
    return float(sum(int(part) * 60**place for place, part in enumerate(parts[::-1]))), 0.5


def within(values: list[float], value: float, half: float) -> bool:
    place = bisect_left(values, value - half * 1.0001)
    return place < len(values) and values[place] <= value + half * 1.0001


def of_texts() -> set[str]:
    """Numbers in sentences of ours, such as 80 % power."""
    source = TEMPLATES.parent
    texts = [*TEMPLATES.glob("report.*.md.j2"), *source.glob("*.py")]
    joined = "\n".join(path.read_text(encoding="utf-8") for path in texts)
    return {found["digits"] for found in NUMBER.finditer(joined)}


def unknown(page: str, known: Known, besides: set[str]) -> list[str]:
    """Numbers of a page that stand in no file."""
    return [
        f"{text} in {line.strip()[:80]}"
        for line, text, value, half in stated(page)
        if not known.holds(line, value, half) and text.strip("+-−") not in besides
    ]


def noticed(page: str, known: Known) -> float:
    """Share of the numbers of three digits or more that would be unknown if they were wrong."""
    shown = [(line, value, half) for line, _, value, half in stated(page) if value > 200 * half]
    wrong = [not known.holds(line, value + 14 * half, half) for line, value, half in shown]
    return sum(wrong) / max(len(wrong), 1)
