"""The schema of the config, and the files that lie beside it.

Needs jsonschema and yaml, so it is for the workflow's own environment only.
"""

import datetime
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import jsonschema

FOLDER = Path(__file__).resolve().parents[3] / "config"

# Of any key: the largest seed that numpy takes, and beyond any count or size.
LARGEST = 2**32 - 1

NUMBER = re.compile(r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$")
WORDS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
    **dict.fromkeys(("null", "~"), None),
}


def read_yaml(path: str | Path) -> Any:
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def schema() -> dict:
    return read_yaml(FOLDER / "schemas" / "config.schema.yaml")


@cache
def presets() -> dict:
    """What is known of each benchmark, by preset name."""
    return read_yaml(FOLDER / "benchmarks.yaml")


def preset_hub(stated: dict, sources: dict) -> str:
    """The stated hub, else the one that pins the preset, so that a study asks the same again, else
    one that has it."""
    pinned = [hub for hub, kept in sources.items() if kept and kept["revision"]]
    having = [hub for hub, kept in sources.items() if kept]
    return stated.get("hub") or next(iter(pinned + having), "modelscope")


@cache
def references() -> dict:
    """Published figures: {reference: {preset: {score, shots, ...}}}."""
    return read_yaml(FOLDER / "references.yaml")


@cache
def preset_schema() -> dict:
    return read_yaml(FOLDER / "schemas" / "benchmarks.schema.yaml")


@cache
def validator() -> "jsonschema.Draft202012Validator":
    """Of the schema; NaN and infinity are no numbers, and whole numbers have an end."""
    import jsonschema  # takes as long to import as all else that a job's settings need

    usual = jsonschema.Draft202012Validator
    checker = usual.TYPE_CHECKER.redefine_many({"number": _is_number, "integer": _is_integer})
    return jsonschema.validators.extend(usual, type_checker=checker)(schema())


def _is_number(_, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # false for NaN, too


def _is_integer(checker, value: Any) -> bool:
    return _is_number(checker, value) and value == int(value) <= LARGEST


def section(name: str) -> dict:
    """The schema of a top-level key."""
    return schema()["properties"][name]


def follow(node: dict) -> dict:
    """The schema node itself, or the one its `$ref` points to with what stands beside that."""
    while "$ref" in node:
        target = schema()
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    return node


def types(node: dict) -> list[str]:
    """The JSON types a schema node allows; none when it does not say."""
    kind = node.get("type", [])
    return [kind] if isinstance(kind, str) else kind


def tidy(value: Any, node: dict) -> Any:
    """Forgive what YAML and Snakemake's --config make of honest input.

    `runs:` with nothing below is read as null and means "nothing stated"; `1e-4` is read as text,
    because YAML 1.1 wants 1.0e-4, and means a number; a name such as 7 is text, and so is a date.
    Inside a map given to --config everything is read as text.
    """
    node = follow(node)
    if isinstance(value, dict):
        tidied = {}
        for key, item in value.items():
            below = _below(key, node)
            if isinstance(item, str):
                item = _meant(item, below)
            if item is None and below and "null" not in types(below):
                if "object" not in types(below):
                    continue
                item = {}
            tidied[str(key)] = tidy(item, below)
        return tidied
    if isinstance(value, list):
        return [tidy(item, node.get("items", {})) for item in value]
    if isinstance(value, datetime.date):
        return str(value)
    if isinstance(value, float) and "integer" in types(node) and value.is_integer():
        return int(value)
    return _meant(value, node) if isinstance(value, str) else value


def _below(key: Any, node: dict) -> dict:
    """The schema of what stands under a key; of a grid's values, that of the key they vary."""
    if node is section("sweeps")["additionalProperties"]["properties"]["grid"]:
        varied = section("training")["properties"].get(key, {"type": "string"})
        return {"type": "array", "items": varied}
    below = node.get("properties", {}).get(key, node.get("additionalProperties"))
    return follow(below) if isinstance(below, dict) else {}


def _meant(text: str, node: dict) -> Any:
    """What a text stands for where the schema wants a number, true, false or null."""
    kinds, values = types(node), node.get("enum", [])
    known = WORDS.get(text.lower(), text)
    if known is None and "null" in kinds:
        return None
    if not node or "string" in kinds or text in values:
        return text
    if known is None or text == "":
        return None
    if isinstance(known, bool):
        wanted = "boolean" in kinds or any(value is known for value in values)
        return known if wanted else text
    if NUMBER.match(text) and {"number", "integer"} & set(kinds):
        return _number(text, kinds)
    return text


def _number(text: str, kinds: list[str]) -> int | float:
    """A number from a text; 1e3 is a whole one where only those are allowed."""
    if text.lstrip("+-").isdigit() and len(text) < 400:
        return int(text)
    number = float(text)
    return int(number) if "number" not in kinds and number.is_integer() else number
