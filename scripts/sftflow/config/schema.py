"""The schema of the config, and the files that lie beside it.

Needs jsonschema and yaml, so it is for the workflow's own environment only.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    import jsonschema

FOLDER = Path(__file__).resolve().parents[3] / "config"

EXPONENT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")


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
    """The stated hub, else the one that pins the preset, so that a study asks the same again."""
    pinned = (hub for hub, kept in sources.items() if kept and kept["revision"])
    return stated.get("hub") or next(pinned, "modelscope")


@cache
def references() -> dict:
    """Published figures: {reference: {preset: {score, shots, ...}}}."""
    return read_yaml(FOLDER / "references.yaml")


@cache
def preset_schema() -> dict:
    return read_yaml(FOLDER / "schemas" / "benchmarks.schema.yaml")


@cache
def validator() -> "jsonschema.Draft202012Validator":
    import jsonschema  # takes as long to import as all else that a job's settings need

    return jsonschema.Draft202012Validator(schema())


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
    """Forgive what YAML makes of honest input.

    `runs:` with nothing below is read as null and means "nothing stated"; `1e-4` is read as text,
    because YAML 1.1 wants 1.0e-4, and means a number; a name such as 7 is text.
    """
    node = follow(node)
    if isinstance(value, dict):
        tidied = {}
        for key, item in value.items():
            below = node.get("properties", {}).get(key, node.get("additionalProperties"))
            below = follow(below) if isinstance(below, dict) else {}
            if item is None and below and "null" not in types(below):
                if "object" not in types(below):
                    continue
                item = {}
            tidied[str(key)] = tidy(item, below)
        return tidied
    if isinstance(value, list):
        return [tidy(item, node.get("items", {})) for item in value]
    if isinstance(value, str) and "number" in types(node) and EXPONENT.match(value):
        return float(value)
    return value
