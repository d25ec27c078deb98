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

    Raises UserError for a name that the data does not have.
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
    return [name for name in available if not isinstance(wanted, dict) or name in wanted]


def checked(rows: list[dict], settings: dict, where: str) -> list[dict]:
    """The rows as they are copied, their right answers in evalscope's form.

    UserError where a question lacks a field that evalscope will read, where no answer could be
    right, and where a field is a number here and a text there: evalscope's loader would refuse it.
    """
    fields = settings.get("fields") or []
    for number, row in enumerate(rows, start=1):
        for field in fields:
            if field not in row:
                raise UserError(f"{where}: no field {field!r}; the fields are {', '.join(row)}")
            if row[field] in (None, "") and field not in NULLABLE:
                raise UserError(f"{where}, row {number}: {field} is empty")
    rows = right_keys(rows, settings, where)
    kinds: dict[str, type] = {}
    for number, row in enumerate(rows, start=1):
        for field in fields:
            kind = kinds.setdefault(field, type(row[field])) if row[field] is not None else None
            if kind and kind is not type(row[field]):
                raise UserError(
                    f"{where}, row {number}: {field} is {type(row[field]).__name__}, "
                    f"in rows before it {kind.__name__}"
                )
    return rows


def check_counts(counts: dict[str, int], where: str, least: int = 1) -> None:
    small = {name: n for name, n in counts.items() if n < least}
    if small:
        need = "no questions" if least == 1 else f"fewer examples than the {least} shots"
        raise UserError(f"{where}: {need} in " + ", ".join(f"{k} ({n})" for k, n in small.items()))


def json_lines(readme: Path) -> dict[str, dict[str, str]] | None:
    """{config: {split: path}} of a README.md that names one .jsonl file for each, else None."""
    text = readme.read_text("utf-8") if readme.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    configs = (yaml.safe_load(front[1]) or {}).get("configs") if front else None
    files: dict[str, dict[str, str]] = {}
    for config in configs or []:
        for entry in config.get("data_files") or []:
            path = entry.get("path") if isinstance(entry, dict) else None
            if not isinstance(path, str) or not path.endswith(".jsonl") or "*" in path:
                return None
            files.setdefault(config["config_name"], {})[entry["split"]] = path
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
