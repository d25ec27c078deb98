"""Fetch one benchmark: exactly the splits and subsets that will be asked, as local data.

in:   settings  the benchmark with its preset: {"dataset" (evalscope's name), "source", "hub",
                "revision", "config", "subset_field", "eval_split", "few_shot_split", "shots",
                "fields", "form" (of a published one), "subsets" [asked] | {published: count} |
                null, "multiple_correct"}; other keys are not read
out:  --output  <results>/benchmarks/<benchmark>/manifest.json: {schema, benchmark, dataset, source,
                hub, revision (the commit that was taken), made_with, subsets {name: n}, shots,
                files [{path, size, sha256}], digest, notes [what was assumed], if any}; beside it
                data/ (evalscope's local_path) and source/
env:  envs/evalscope (datasets, the hub clients, pyarrow, openpyxl). Local JSON, CSV and the
      authors' own archives need no library. What is accepted: docs/accepted/benchmarks.md.
net:  for hub sources, and for what scores IFEval's answers. No later step of a benchmark needs the
      network.

Questions keep the published order, and `limit` is not applied here: evalscope asks the first
`limit` of each subset, so the same data and limit always give the same questions, and a limited and
a full evaluation share one data digest. Right answers are brought into evalscope's form; a row for
which no answer could be right is an error that names it. data/ is written anew as JSON lines,
because evalscope deletes files (dataset_infos.json) in the folder that it loads.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from sftflow.core import cli, jsonio
from sftflow.core.cli import UserError
from sftflow.inputs import authors, benchmarks, converted, hubs, own, punkt, tables, trees
from sftflow.inputs.benchmarks import PER_SUBSET, asked_subsets, check_counts, checked


class Published:
    """A source in any form that `datasets` loads, as evalscope itself would load it."""

    def __init__(self, folder: Path, cache: str, settings: dict):
        os.environ.update(HF_DATASETS_CACHE=cache, HF_DATASETS_DISABLE_PROGRESS_BARS="1")
        import datasets

        self.datasets, self.folder, self.settings = datasets, folder, settings

    def configs(self) -> list[str]:
        with self._told("its configs"):
            found = self.datasets.get_dataset_config_names(str(self.folder))
        if found == ["default"] != [self.settings["config"]]:
            raise UserError(authors.looked_for(trees.tree(self.folder), self.settings))
        return found

    def rows(self, config: str, split: str) -> list[dict]:
        name = None if config == "default" else config
        with self._told(f"config {config!r}, split {split!r}"):
            rows = self.datasets.load_dataset(str(self.folder), name, split=split).to_list()
            if rows and any(key.encode().startswith(trees.POINTER) for key in rows[0]):
                raise ValueError("a pointer is no table")
        return rows

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the library raises many types; each means "not loadable"
            if pointer := trees.pointer(self.folder):
                raise UserError(pointer) from error
            looked = authors.looked_for(trees.tree(self.folder), self.settings)
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"cannot read {what}: {reason}\n  {looked}") from error


class Plain:
    """A source that is JSON lines already, each file named in README.md: needs no library."""

    def __init__(self, folder: Path, files: dict[str, dict[str, str]]):
        self.files, self.tree = files, trees.tree(folder, packed=False)

    def configs(self) -> list[str]:
        return list(self.files)

    def rows(self, config: str, split: str) -> list[dict]:
        file = PurePosixPath(self.files.get(config, {}).get(split, "")).as_posix()
        if file not in self.tree:
            raise UserError(f"README.md names no file, or one that is not there: {config}/{split}")
        (table,) = tables.read(file, self.tree[file]()).values()
        return table.rows


Source = Plain | authors.Authors | Published


def opened(folder: Path, cache: str, settings: dict) -> Source:
    """The source in the form that its files have; what its README.md names, goes first."""
    readme = folder / "README.md"
    if files := benchmarks.json_lines(readme):
        return Plain(folder, files)
    if not benchmarks.readme_configs(readme) or settings["dataset"] in authors.BEFORE_README:
        for packed in (False, True):  # what is unpacked goes before archives beside it
            if found := authors.find(trees.tree(folder, packed), settings):
                return found
    return Published(folder, cache, settings)


def as_lines(rows: list[dict], where: str) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        number = text.count("\n", 0, error.start) + 1
        raise UserError(
            f"{where}, row {number}: holds half of a character ({text[error.start]!r})"
        ) from None
    return text


def write_split(data: Path, config: str, split: str, rows: list[dict]) -> str:
    """Write one split; give its path below `data`, which names its content.

    `datasets` caches a local folder by the names in its README.md alone: with plain names, edited
    questions, or another benchmark's, would be served from the cache.
    """
    text = as_lines(rows, f"{config}/{split}")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    path = f"{benchmarks.plain_name(config, 'config')}/{split}-{sha256[:16]}.jsonl"
    jsonio.write_text(data / path, text)
    return path


def copy_published(
    published: Source, data: Path, settings: dict
) -> tuple[dict[str, int], list[str]]:
    """Write data/ for a benchmark that is loaded by config and split.

    Gives {subset: questions}, and what is to be told of them.
    """
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
    subsets = {benchmarks.plain_name(name): counts["questions"][name] for name in names}
    check_counts(subsets, settings["eval_split"])
    if "examples" in splits:
        examples = {name: counts["examples"][name] for name in names}
        check_counts(examples, settings["few_shot_split"], settings["shots"])
    return subsets, benchmarks.differences(subsets, settings.get("subsets"))


def copy_own(source: Path, data: Path, settings: dict) -> tuple[dict[str, int], list[str]]:
    """Write data/ for general_mcq and general_qa: one file per subset (and split).

    Gives {subset: questions}, and what was assumed in reading the files.
    """
    asked = settings["eval_split"]
    read_form = converted.FORMS[settings["form"]] if settings.get("form") else own.tables_of
    found, notes = read_form(trees.tree(source), settings), []
    available = [name for name in found if asked in found[name]]
    if not available:
        files = ", ".join(where for splits in found.values() for where, _ in splits.values())
        raise UserError(f"no questions of the split {asked} that is asked; there is only {files}")
    names = asked_subsets(settings, available)
    subsets = {}
    for name in names:
        for split, (where, read) in found[name].items():
            if split != asked and not settings["shots"]:
                continue
            table = own.in_our_words(read(), settings, where)
            rows = checked(table.rows, settings, where, table.places)
            notes += [f"{where}: {note}" for note in table.notes]
            path = data / f"{benchmarks.plain_name(name)}_{split}.jsonl"
            jsonio.write_text(path, as_lines(rows, where))
            if split == asked:
                subsets[name] = len(rows)
            else:
                check_counts({name: len(rows)}, split, settings["shots"])
    check_counts(subsets, asked)
    return subsets, notes


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--benchmark", required=True, help="its name in the config")
    parser.add_argument("--settings", type=cli.settings, required=True, help="file with JSON")
    parser.add_argument("--output", type=Path, required=True, help="manifest.json")
    args = parser.parse_args()
    settings, folder = args.settings, args.output.parent
    data = folder / "data"
    source = settings["source"]
    hub = hubs.hub_of(source, settings.get("hub"))
    origin = hubs.fetch(
        folder / "source",
        source,
        settings.get("hub"),
        settings.get("revision"),
        kind="dataset",
        # of a hub, the same questions lie beside their authors' archive
        leave=["*.py", "dataset_infos.json", *(["*.tar"] if hub != "local" else [])],
    )
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    try:
        top = trees.snapshot(folder / "source")
        if settings.get("config") is None:
            subsets, notes = copy_own(top, data, settings)
        else:
            with tempfile.TemporaryDirectory() as cache:
                subsets, notes = copy_published(opened(top, cache, settings), data, settings)
        if settings["dataset"] in punkt.NEEDED_BY:
            punkt.copy_punkt(top, data)
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
            **({"notes": notes} if notes else {}),
            "files": files,
            "digest": jsonio.tree_digest(files),
        },
    )
    for text in notes:
        cli.note(f"benchmark {args.benchmark}: {text}")
    total = sum(subsets.values())
    cli.note(f"benchmark {args.benchmark}: {total} questions in {len(subsets)} subset(s)")


if __name__ == "__main__":
    sys.exit(cli.run(main))
