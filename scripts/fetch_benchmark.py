"""Fetch one benchmark: exactly the splits and subsets that will be asked, as local data.

in:   settings  the benchmark with its preset: {"dataset" (evalscope's name), "source", "hub",
                "revision", "config", "subset_field", "eval_split", "few_shot_split", "shots",
                "fields", "subsets" [asked] | {published: count} | null, "multiple_correct"};
                other keys are not read
out:  --output  <results>/benchmarks/<benchmark>/manifest.json: {schema, benchmark, dataset, source,
                hub, revision (the commit that was taken), made_with, subsets {name: n}, shots,
                files [{path, size, sha256}], digest}; beside it data/ (evalscope's local_path) and
                source/
env:  envs/evalscope (datasets, the hub clients). Local JSON lines, CSV and CMMLU's .zip need no
      library.
net:  only for hub sources. No later step of a benchmark needs the network.

Questions keep the published order, and `limit` is not applied here: evalscope asks the first
`limit` of each subset, so the same data and limit always give the same questions, and a limited and
a full evaluation share one data digest. Right answers are brought into evalscope's form; a row for
which no answer could be right is an error that names it. data/ is written anew as JSON lines,
because evalscope deletes files (dataset_infos.json) in the folder that it loads.
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sftflow.core import cli, jsonio
from sftflow.core.cli import UserError
from sftflow.inputs import benchmarks, hubs
from sftflow.inputs.benchmarks import PER_SUBSET, asked_subsets, check_counts, checked

PLAIN_FORMATS = (".jsonl", ".csv", ".tsv")


class Published:
    """A source in any form that `datasets` loads, as evalscope itself would load it."""

    def __init__(self, folder: Path, cache: str):
        os.environ.update(HF_DATASETS_CACHE=cache, HF_DATASETS_DISABLE_PROGRESS_BARS="1")
        import datasets

        self.datasets, self.folder = datasets, str(folder)

    def configs(self) -> list[str]:
        return self.datasets.get_dataset_config_names(self.folder)

    def rows(self, config: str, split: str) -> list[dict]:
        name = None if config == "default" else config
        try:
            return self.datasets.load_dataset(self.folder, name, split=split).to_list()
        except Exception as error:  # the library raises many types; each means "not loadable"
            raise UserError(
                f"cannot read config {config!r}, split {split!r}: {type(error).__name__}: {error}"
            ) from error


class Plain:
    """A source that is JSON lines already, each file named in README.md: needs no library."""

    def __init__(self, folder: Path, files: dict[str, dict[str, str]]):
        self.folder, self.files = folder, files

    def configs(self) -> list[str]:
        return list(self.files)

    def rows(self, config: str, split: str) -> list[dict]:
        file = self.files.get(config, {}).get(split)
        if not file or not (self.folder / file).is_file():
            raise UserError(f"README.md names no file, or one that is not there: {config}/{split}")
        return list(jsonio.read_jsonl(self.folder / file))


class Zipped:
    """CMMLU as its authors publish it, a .zip of <split>/<subject>.csv: needs no library.

    The loading script that lies beside it is never run, and `datasets` no longer could.
    """

    def __init__(self, archive: Path):
        self.archive = archive

    def configs(self) -> list[str]:
        return ["default"]

    def rows(self, config: str, split: str) -> list[dict]:
        try:
            with zipfile.ZipFile(self.archive) as archive:
                names = [n for n in archive.namelist() if re.fullmatch(rf"{split}/\w+\.csv", n)]
                tables = {name: archive.read(name).decode("utf-8-sig") for name in sorted(names)}
        except (zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {self.archive.name}: {error}") from error
        if not tables:
            raise UserError(f"{self.archive.name} holds no {split}/<subject>.csv")
        return [row for name, text in tables.items() for row in cmmlu_rows(name, text)]


def cmmlu_rows(name: str, text: str) -> Iterator[dict]:
    """Rows of one subject's table as evalscope reads them: "(A) …" for A, "(A)" for an answer."""
    table = csv.DictReader(io.StringIO(text, newline=""))
    columns = ("Question", "A", "B", "C", "D", "Answer")
    if missing := set(columns) - set(table.fieldnames or ()):
        raise UserError(f"{name}: no column {', '.join(sorted(missing))}")
    for number, row in enumerate(table, start=1):
        question, *options, answer = (row[column] for column in columns)
        answer = (answer or "").strip()
        if None in options or answer not in ("A", "B", "C", "D"):
            raise UserError(f"{name}, row {number}: not four options and an answer of A to D")
        yield {
            "question": question,
            "choices": [f"({key}) {option}" for key, option in zip("ABCD", options, strict=True)],
            "answer": f"({answer})",
            "category": Path(name).stem,
        }


Source = Plain | Zipped | Published


def opened(folder: Path, cache: str) -> Source:
    if files := benchmarks.json_lines(folder / "README.md"):
        return Plain(folder, files)
    if archive := next(folder.glob("cmmlu_*.zip"), None):
        return Zipped(archive)
    return Published(folder, cache)


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def write_split(data: Path, config: str, split: str, rows: list[dict]) -> str:
    """Write one split; give its path below `data`, which names its content.

    `datasets` caches a local folder by the names in its README.md alone: with plain names, edited
    questions, or another benchmark's, would be served from the cache.
    """
    text = as_lines(rows)
    path = f"{config}/{split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
    jsonio.write_text(data / path, text)
    return path


def copy_published(published: Source, data: Path, settings: dict) -> dict[str, int]:
    """Write data/ for a benchmark that is loaded by config and split; give {subset: questions}."""
    per_subset, field = settings["config"] == PER_SUBSET, settings.get("subset_field")
    splits = {"questions": settings["eval_split"]}
    if settings["shots"] and settings.get("few_shot_split"):
        splits["examples"] = settings["few_shot_split"]
    names = asked_subsets(settings, published.configs()) if per_subset else []
    files: dict[str, dict[str, str]] = {}
    counts: dict[str, Counter] = {}
    for use, split in splits.items():
        counts[use] = Counter()
        for config in names if per_subset else [settings["config"]]:
            rows = checked(published.rows(config, split), settings, f"{config}/{split}")
            if field:
                if not names:
                    found = dict.fromkeys(benchmarks.subset_name(row, settings) for row in rows)
                    names = asked_subsets(settings, found)
                rows = [row for row in rows if benchmarks.subset_name(row, settings) in names]
                counts[use].update(benchmarks.subset_name(row, settings) for row in rows)
            else:
                names = names or asked_subsets(settings, [config])
                counts[use][config] = len(rows)
            files.setdefault(config, {})[split] = write_split(data, config, split, rows)
    jsonio.write_text(data / "README.md", benchmarks.front_matter(files))
    subsets = {name: counts["questions"][name] for name in names}
    check_counts(subsets, settings["eval_split"])
    if "examples" in splits:
        examples = {name: counts["examples"][name] for name in names}
        check_counts(examples, settings["few_shot_split"], settings["shots"])
    return subsets


def copy_plain(source: Path, data: Path, settings: dict) -> dict[str, int]:
    """Write data/ for general_mcq and general_qa: one file per subset (and split)."""
    files = {path.name: path for path in sorted(source.iterdir()) if path.suffix in PLAIN_FORMATS}
    splits = [settings["eval_split"], settings.get("few_shot_split")]
    found: dict[str, dict[str, Path]] = {}
    for path in files.values():
        subset, split = path.stem, settings["eval_split"]
        for known in filter(None, splits):
            if path.stem.endswith(f"_{known}"):
                subset, split = path.stem.removesuffix(f"_{known}"), known
        found.setdefault(subset, {})[split] = path
    available = [name for name, by_split in found.items() if settings["eval_split"] in by_split]
    names = asked_subsets(settings, available)
    subsets = {}
    for name in names:
        for split, path in found[name].items():
            if split != settings["eval_split"] and not settings["shots"]:
                continue
            rows = checked(plain_rows(path), settings, path.name)
            jsonio.write_text(data / f"{name}_{split}.jsonl", as_lines(rows))
            if split == settings["eval_split"]:
                subsets[name] = len(rows)
            else:
                check_counts({name: len(rows)}, split, settings["shots"])
    check_counts(subsets, settings["eval_split"])
    return subsets


def plain_rows(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return list(jsonio.read_jsonl(path))
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t"))


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--benchmark", required=True, help="its name in the config")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="manifest.json")
    args = parser.parse_args()
    settings, folder = args.settings, args.output.parent
    data = folder / "data"
    source = settings["source"]
    origin = hubs.fetch(
        folder / "source",
        source,
        settings.get("hub"),
        settings.get("revision"),
        kind="dataset",
        leave=["*.py", "dataset_infos.json", "*.tar"],
    )
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    try:
        if settings.get("config") is None:
            subsets = copy_plain(folder / "source", data, settings)
        else:
            with tempfile.TemporaryDirectory() as cache:
                subsets = copy_published(opened(folder / "source", cache), data, settings)
    except UserError as error:
        raise UserError(f"benchmark {args.benchmark} ({source}): {error}") from None
    files = jsonio.tree_files(data)
    jsonio.write_record(
        args.output,
        {
            "schema": 1,
            "benchmark": args.benchmark,
            "dataset": settings["dataset"],
            **origin,
            "made_with": settings.get("made_with", {}),
            "subsets": subsets,
            "shots": settings["shots"],
            "files": files,
            "digest": jsonio.tree_digest(files),
        },
    )
    total = sum(subsets.values())
    cli.note(f"benchmark {args.benchmark}: {total} questions in {len(subsets)} subset(s)")


if __name__ == "__main__":
    sys.exit(cli.run(main))
