"""Where models, datasets and benchmarks come from, and whether what is local is there."""

import re
from collections.abc import Iterator
from pathlib import Path

from sftflow.config.reading import nearest_path
from sftflow.config.schema import preset_hub
from sftflow.core.layout import local_source

HUB_ID = re.compile(r"^\w[\w.-]*/[\w.-]+$")
DATA_FILES = (  # no hub ids by themselves
    ".jsonl", ".json", ".gz", ".parquet", ".arrow", ".csv", ".tsv", ".xlsx",
    ".zip", ".tar", ".tgz", ".bz2", ".xz",
)  # fmt: skip


def located(stated: dict, sources: dict | None = None) -> dict:
    """{source, hub, revision}, as stated, or else the preset's (`sources`: hub -> id, revision).

    A commit belongs to one source on one hub: a stated source never takes the preset's.
    """
    if sources is not None and "source" not in stated:
        hub = preset_hub(stated, sources)
        preset = sources[hub]
        revision = stated.get("revision", preset["revision"])
        return {"source": preset["id"], "hub": hub, "revision": revision}
    source = stated["source"]
    named = not HUB_ID.match(source) or source.endswith(DATA_FILES)
    here = named or local_source(source).exists()
    hub = stated.get("hub", "local" if here else "modelscope")
    return {"source": source, "hub": hub, "revision": stated.get("revision")}


def missing(config: dict) -> Iterator[str]:
    """Local sources that are not there, from the working directory; models that lack files."""
    for kind in ("models", "datasets", "benchmarks"):
        for name, entry in config.get(kind, {}).items():
            if "source" in entry and located(entry)["hub"] == "local":
                path = local_source(entry["source"])
                lack = _lack(path, kind, entry)
                if lack:
                    yield f"{kind}.{name}.source: {lack}"
    dialogue = config.get("dialogue", {})
    files = {f"neutral.{name}": file for name, file in dialogue.get("neutral", {}).items()}
    report = config.get("report", {})
    for name in ("notes", "compare_with"):
        if report.get(name) and (lack := _lack(Path(report[name]).expanduser(), "files", {})):
            yield f"report.{name}: {lack}"
    for name, file in (files | {"crisis": dialogue.get("crisis")}).items():
        if isinstance(file, str) and not local_source(file).is_file():
            lack = _lack(local_source(file), "files", {}) or "is a folder; give a file"
            yield f"dialogue.{name}: {lack}"


def doubtful(config: dict) -> Iterator[str]:
    """Sources of a resolved config that are taken for hub ids, but look like paths here."""
    for kind in ("models", "datasets", "benchmarks"):
        for name, entry in config[kind].items():
            path = Path(entry["source"])
            if entry["hub"] != "local" and path.parent.name and path.parent.is_dir():
                taken = f"taken for an id on {entry['hub']}, since '{path}' is not in {Path.cwd()}"
                yield f"{kind}.{name}.source: {taken}{nearest_path(path)}"


def _lack(path: Path, kind: str, entry: dict) -> str | None:
    """Why a path is no source of this kind."""
    if not path.exists():
        origin = "" if path.is_absolute() else f" (relative paths are read from {Path.cwd()})"
        return f"no such file or folder: {path.absolute()}{origin}{nearest_path(path)}"
    if kind != "models":
        return None
    whole = "give the folder that holds config.json, the tokenizer and *.safetensors"
    if not path.is_dir():
        return f"{path.absolute()} is a file; {whole}"
    if not (path / "config.json").is_file():
        return f"no config.json in {path.absolute()}; {whole}"
    if not entry.get("allow_remote_code") and not any(path.glob("*.safetensors")):
        return f"no *.safetensors in {path.absolute()}; {whole}"
    return None
