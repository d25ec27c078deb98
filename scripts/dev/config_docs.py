"""Writes config/README.md from the schema and the presets, so that it can't say anything else.

    PYTHONPATH=scripts uv run python scripts/dev/config_docs.py

A test fails when the file and the schema differ.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sftflow.config.schema import FOLDER, follow, presets, schema, types
from sftflow.core import cli
from sftflow.core.jsonio import write_text

INTRODUCTION = """\
# Configuration

| file | what it is |
| --- | --- |
| [config.yaml](config.yaml) | the demo; taken when no other config is named |
| [internlm2_5_7b.yaml](internlm2_5_7b.yaml) | a real study, annotated: a good start for your own |
| [benchmarks.yaml](benchmarks.yaml) | presets: what is known of each benchmark |
| [references.yaml](references.yaml) | published figures, to hold measured ones against |
| [schemas/](schemas) | what is allowed; scripts/dev/config_docs.py writes this page from it |

Your own study is one YAML file, named with `--configfile`; it is taken alone, not merged with the
demo's:

```
uv run snakemake -n --configfile my_study.yaml --cores 8
```

The file is checked before any job starts. All errors are told at once, each with its place and the
nearest valid name; unknown keys are errors too, and so are local sources that are not there. Paths
are relative to the folder that Snakemake runs in. The check is also a program of its own, which
needs no Snakemake, only jsonschema and yaml:

```
uv run python scripts/check.py my_study.yaml --config software=active
```

**YAML.** Put in quotes: a text that holds `: `, begins with a sign such as `?`, `*`, `&`, `!`, `@`,
or stands inside `[ ]` with `?`, `:` or `,` in it (`prompts: ["Can you sleep?"]`), and names that
YAML takes for something else (`no`, `007`). The file is in UTF-8 and indented with spaces.

**Names.** What stands in angle brackets below, such as `<model>`, is a name of your choice:
letters, digits, dots, underscores and hyphens. Models, runs and endpoints are *subjects* and share
one space of names.

**Inheritance.** `training`, `serving` and `generation` hold for everything; a model, run, endpoint
or benchmark states only what differs. A run is served like its model, unless it says otherwise.

**A change** of a key costs what its column says, for the runs, subjects or benchmarks that it is
about: *trains again* (a model or dataset is made again, and all that follows), *asks again* (and
scores), *scores again*, *writes again* (tables, reports, records), *nothing* (what is there stays;
the next job takes the new value).

**Secrets** belong in environment variables, never here; a key that looks like one is refused.

## In a few lines

A benchmark of your own, in evalscope's formats `general_mcq` (options, as here) or `general_qa`
(open answers). The folder holds exam_val.jsonl with rows such as
`{"question": "…", "A": "…", "B": "…", "answer": "A"}`:

```yaml
benchmarks:
  clinic:
    preset: general_mcq
    source: data/clinic
    subsets: [exam]
suites:
  psychology: [mmlu, clinic]
```

A run trained with three seeds, and a sweep over rank and dataset of another: four runs, named
`rank-lora_rank4-datasetone` and so on.

```yaml
runs:
  warm:
    model: internlm2.5-7b-chat
    dataset: one
    training: {learning_rate: 2e-4}
    seeds: [1, 2, 3]
  plain:
    model: internlm2.5-7b-chat
    dataset: one
sweeps:
  rank:
    run: plain
    grid:
      lora_rank: [4, 16]
      dataset: [one, two]
```

A server that somebody else runs, as a yardstick:

```yaml
endpoints:
  big-model:
    url: https://example.org/v1
    model: big-model-72b
    version: "2025-08-01"       # change it when they change the model
    key_env: BIG_MODEL_KEY      # the name of the variable that holds the key
```

## All keys
"""

PRESETS = """\
## Presets

What a benchmark has when the config states nothing else. All subsets, and the numbers of shots that
are possible, stand in [benchmarks.yaml](benchmarks.yaml). After an @ stands the commit that is
taken; without one it is the newest, which is recorded. Size: questions of the published set.
"""

KINDS = {
    "object": "map",
    "array": "list",
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
}

BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}


COSTS = {  # what happens when the value of a key changes, by what it affects
    "weights": "trains again",
    "answers": "asks again",
    "scores": "scores again",
    "record": "writes again",
    "cost": "nothing",
}


def code(value: object) -> str:
    """A value as a config would hold it."""
    return (
        f"`{json.dumps(value, ensure_ascii=False)}`" if not isinstance(value, str) else f"`{value}`"
    )


def allowed(node: dict) -> str:
    """The values a key takes: "whole number ≥ 1"."""
    if "enum" in node:
        return ", ".join(code(value) for value in node["enum"])
    kinds = [KINDS[kind] for kind in types(node) if kind != "null"]
    bounds = [f"{sign} {node[key]}" for key, sign in BOUNDS.items() if key in node]
    text = " ".join([" or ".join(kinds), ", ".join(bounds)]).strip()
    if "enum" in node.get("items", {}):
        text += f" of {allowed(node['items'])}"
    return text + ", `null`" * ("null" in types(node))


def rows(path: str, node: dict, required: bool = False) -> Iterator[tuple[str, ...]]:
    """(key, values, default, unit, cost of a change, meaning) of a schema node and all below it."""
    reference, node = node.get("$ref", ""), follow(node)
    shared = reference.split("/")[2] if reference.startswith("#/properties/") else None
    inherited = f"[{shared}](#{shared})"
    if shared and "properties" in node:
        yield f"`{path}`", "map", "—", "", "", f"Any key of {inherited} that differs here."
        return
    entry = node.get("additionalProperties") or node.get("items") or {}
    if "properties" in node:
        for key, below in node["properties"].items():
            yield from rows(f"{path}.{key}", below, key in node.get("required", ()))
    elif "names" in node:
        yield from rows(f"{path}.<{node['names']}>", entry)
    elif "properties" in entry:
        yield from rows(f"{path}[]", entry)
    else:
        default = code(node["default"]) if "default" in node else "—"
        default = "**required**" if required else inherited if shared else default
        unit, cost = node.get("unit", ""), COSTS[(entry | node)["affects"]]
        yield f"`{path}`", allowed(node), default, unit, cost, node["description"]


def table(header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    rule = ("---",) * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines)) + "\n"


def sections() -> Iterator[str]:
    header = ("key", "values", "default", "unit", "a change costs", "meaning")
    keys = {key: list(rows(key, node)) for key, node in schema()["properties"].items()}
    single = {key for key, (row, *more) in keys.items() if row[0] == f"`{key}`" and not more}
    yield "### general\n\n" + table(
        header, [row for key in keys if key in single for row in keys[key]]
    )
    for key in keys:
        if key not in single:
            node = schema()["properties"][key]
            names = node.get("propertyNames", {}).get("enum")
            which = (
                f" `<{node['names']}>` is one of {', '.join(map(code, names))}." if names else ""
            )
            yield f"### {key}\n\n{node['description']}{which}\n\n" + table(header, keys[key])


def published(source: dict | None) -> str:
    """Where a hub keeps a benchmark: "openai/gsm8k @ 740312a"."""
    if source is None:
        return "—"
    return source["id"] + (f" @ {source['revision'][:7]}" if source["revision"] else "")


def preset_table() -> str:
    header = ("preset", "ModelScope", "Hugging Face", "split", "shots", "answer", "prompt", "size")
    lines = []
    for name, preset in presets().items():
        options = f", {preset['options']} options" if preset["options"] else ""
        subsets = preset["subsets"]
        lines.append(
            (
                f"`{name}`",
                published(preset["sources"]["modelscope"]),
                published(preset["sources"]["huggingface"]),
                preset["eval_split"],
                str(preset["shots"]),
                preset["answer"].replace("_", " ") + options,
                preset["language"],
                f"{sum(subsets.values()):,} ({len(subsets)} subsets)" if subsets else "—",
            )
        )
    return table(header, lines)


def readme() -> str:
    return "\n".join([INTRODUCTION, *sections(), PRESETS, preset_table()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER / "README.md", help="file to write")
    args = parser.parse_args()
    write_text(args.output, readme())
    cli.note(f"{args.output} is written")


if __name__ == "__main__":
    sys.exit(cli.run(main))
