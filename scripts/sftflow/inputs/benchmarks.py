"""Benchmark data as evalscope reads it from disk, written once in one plain form.

    data/README.md                          front matter that names each config's files
    data/<config>/<split>-<sha256>.jsonl    one question a line, in the published order
    data/<subset>_<split>.jsonl             instead of both, for general_mcq and general_qa

A preset (config/benchmarks.yaml) says where a benchmark keeps things: `config` (one name, or
"<subset>": one config per subset, or null: general_*), `subset_field`, `eval_split`,
`few_shot_split`, `fields`.
"""

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import yaml
from sftflow.core.cli import UserError
from sftflow.inputs.keys import right_keys

PER_SUBSET = "<subset>"
LOWERED = {"mmlu_pro"}  # evalscope knows its subsets by their names in lower case
NULLABLE = {"correct_answer", "cot_content"}  # mean something only for some questions


def subset_name(row: dict, settings: dict) -> str:
    name = str(row[settings["subset_field"]])
    return name.lower() if settings["dataset"] in LOWERED else name


def asked_subsets(settings: dict, available: Iterable[str]) -> list[str]:
    """The subsets to ask: those listed, else all in the data (of the published ones, if known).

    Raises UserError for a name that the data does not have, and where nothing is left to ask.
    """
    available, wanted = list(available), settings.get("subsets")
    if isinstance(wanted, list) and wanted:
        if unknown := [name for name in wanted if name not in available]:
            hints = []
            for name in unknown:
                near = difflib.get_close_matches(name, available, n=1)
                hints.append(f"{name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
            raise UserError(
                f"no subset {', '.join(hints)} in the data. Valid names: "
                + ", ".join(sorted(available))
            )
        return wanted
    known = [name for name in available if not isinstance(wanted, dict) or name in wanted]
    if not known and isinstance(wanted, dict):
        raise UserError(
            f"none of its subsets ({_some(wanted)}) is in the data, which holds {_some(available)}"
        )
    return known


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") or "nothing"


def plain_name(name: str, what: str = "subset") -> str:
    """The name, if a file or folder can be called so; UserError for "../x"."""
    bad = name.startswith(".") or re.search(r"[/\\\x00-\x1f\x7f]", name) or not name.strip()
    if bad or len(name.encode()) > 150:
        raise UserError(
            f"{what} {name[:80]!r}: is the name of files, too; it is short, begins with no dot and "
            "has no slash"
        )
    return name


def differences(counts: dict[str, int], published: object) -> list[str]:
    """Where counts are not those that are published (config/benchmarks.yaml), if these are known.

    Data of one's own may well hold less; it is told, and no error.
    """
    if not isinstance(published, dict):
        return []
    told = []
    if other := [f"{k} {n} (of {published[k]})" for k, n in counts.items() if n != published[k]]:
        told.append(f"other counts than published: {_some(other)}")
    if absent := [name for name in published if name not in counts]:
        of = f"{len(absent)} of {len(published)} published subsets"
        told.append(f"{of} are not here: {_some(absent)}")
    return told


def checked(
    rows: list[dict], settings: dict, where: str, places: list[str] | None = None
) -> list[dict]:
    """The rows as they are copied, their right answers in evalscope's form.

    `places` says of each row how people find it; by default "row 1" and so on.

    UserError where a question lacks a field that evalscope will read, where no answer could be
    right, and where a field is a number here and a text there: evalscope's loader would refuse it.
    """
    fields = settings.get("fields") or []
    places = places or [f"row {number}" for number in range(1, len(rows) + 1)]
    for place, row in zip(places, rows, strict=True):
        for field in fields:
            if field not in row:
                at = where if row is rows[0] else f"{where}, {place}"
                raise UserError(f"{at}: no field {field!r}; the fields are {', '.join(row)}")
            if row[field] in (None, "") and field not in NULLABLE:
                raise UserError(f"{where}, {place}: {field} is empty")
    rows = right_keys(rows, settings, where, places)
    kinds: dict[str, type] = {}
    for place, row in zip(places, rows, strict=True):
        for field in fields:
            kind = kinds.setdefault(field, type(row[field])) if row[field] is not None else None
            if kind and kind is not type(row[field]):
                raise UserError(
                    f"{where}, {place}: {field} is {type(row[field]).__name__}, "
                    f"in rows before it {kind.__name__}"
                )
    return rows


def check_counts(counts: dict[str, int], where: str, least: int = 1) -> None:
    small = {name: n for name, n in counts.items() if n < least}
    if small:
        need = "no questions" if least == 1 else f"fewer examples than the {least} shots"
        raise UserError(f"{where}: {need} in " + ", ".join(f"{k} ({n})" for k, n in small.items()))


def readme_configs(readme: Path) -> list[dict]:
    """The configs that the front matter of a README.md states; [] where it states none."""
    text = readme.read_text("utf-8-sig", errors="replace") if readme.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        stated = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError as error:
        raise UserError(f"README.md: its front matter is no YAML: {error}") from None
    configs = stated.get("configs") if isinstance(stated, dict) else None
    return [config for config in configs or [] if isinstance(config, dict)]


def json_lines(readme: Path) -> dict[str, dict[str, str]] | None:
    """{config: {split: path}} of a README.md that names one .jsonl file for each, else None."""
    files: dict[str, dict[str, str]] = {}
    for config in readme_configs(readme):
        for entry in config.get("data_files") or []:
            path = entry.get("path") if isinstance(entry, dict) and "split" in entry else None
            if not isinstance(path, str) or not path.endswith(".jsonl") or "*" in path:
                return None
            files.setdefault(config.get("config_name", "default"), {})[entry["split"]] = path
    return files or None


def front_matter(files: dict[str, dict[str, str]]) -> str:
    """README.md for `datasets`: {config: {split: path}}, written as JSON, which YAML includes."""
    configs = [
        {
            "config_name": config,
            "data_files": [{"split": split, "path": path} for split, path in splits.items()],
        }
        for config, splits in files.items()
    ]
    return f"---\n{json.dumps({'configs': configs}, ensure_ascii=False, indent=1)}\n---\n"
