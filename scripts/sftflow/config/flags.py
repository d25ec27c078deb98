"""Names under which users and tools know a key, and flags that no `extra` may hold.

All of it follows from the schema: `was` and `flags` of a key, `reserved` of an `extra`.
"""

from collections.abc import Iterator
from functools import cache

from sftflow.config.schema import schema, section

HOMES = ("training", "serving")  # sections with flags that are passed through, under `extra`


def spelt(flag: str) -> str:
    """A flag as the schema spells it: --max-num-seqs is max_num_seqs."""
    return flag.lstrip("-").replace("-", "_")


def other_names(properties: dict[str, dict]) -> dict[str, str]:
    """{another name of a key: the key}, of the keys of one map."""
    return {
        name: key
        for key, node in properties.items()
        for name in (*node.get("flags", ()), *node.get("was", ()))
        if name not in properties
    }


def refusal(home: str, flag: str) -> str | None:
    """Why a flag may not stand under `<home>.extra`, and what to do; {home} is where it stands."""
    return _refusals(home).get(spelt(flag))


@cache
def _refusals(home: str) -> dict[str, str]:
    own = section(home)["properties"]
    elsewhere = {
        name: f"follows from {path}; set that"
        for path, node in _keys(schema())
        if not path.startswith(HOMES)
        for name in (*node.get("flags", ()), *node.get("was", ()))
    }
    other = {
        name: f"is called '{key}' here; write {{home}}.{key}"
        if name in own[key].get("was", ())
        else f"follows from {{home}}.{key}; set that"
        for name, key in other_names(own).items()
    }
    itself = {key: f"has a key of its own; write {{home}}.{key}" for key in own}
    return elsewhere | own["extra"]["reserved"] | other | itself


def _keys(node: dict, path: str = "") -> Iterator[tuple[str, dict]]:
    """(place, schema node) of every key: ("models.<model>.template", {…})."""
    for key, below in node.get("properties", {}).items():
        at = f"{path}.{key}".removeprefix(".")
        yield at, below
        yield from _keys(below, at)
    entry = node.get("additionalProperties")
    if isinstance(entry, dict) and "names" in node:
        yield from _keys(entry, f"{path}.<{node['names']}>")
