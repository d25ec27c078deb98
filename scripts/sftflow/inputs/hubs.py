"""Where inputs come from: a local file or folder, ModelScope, Hugging Face.

Only this module touches the network, and only the fetch programs call it. The hubs' own client
libraries are imported when a hub is asked, so local sources need the standard library alone.
"""

import fnmatch
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from sftflow.core.cli import UserError, note
from sftflow.core.jsonio import digest, file_digest, read_json, tree_files, write_json
from sftflow.core.layout import local_source

HUBS = ("local", "modelscope", "huggingface")
COMMIT = re.compile(r"[0-9a-f]{40}")
CONNECT_SECONDS = 10  # a hub that does not answer in this time does not answer at all


def hub_of(source: str, hub: str | None) -> str:
    """Which hub a source means: the one stated, else local if it exists here, else ModelScope."""
    if hub in (None, "", "auto"):
        return "local" if local_source(source).exists() else "modelscope"
    if hub not in HUBS:
        raise UserError(f"hub {hub!r} is not known; choose one of {', '.join(HUBS)}")
    return hub


def fetch(
    folder: Path,
    source: str,
    hub: str | None = None,
    revision: str | None = None,
    *,
    kind: str,
    keep: Sequence[str] = ("*",),
    leave: Sequence[str] = (),
) -> dict:
    """Put the source's files into a fresh `folder`; give {source, hub, revision (a commit) | null}.

    `kind` is "model" or "dataset". Of all files, those that match a pattern in `keep` and none in
    `leave` are taken (fnmatch over the path inside the source). Local files are linked, not copied.
    """
    hub = hub_of(source, hub)
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    if hub == "local":
        shutil.rmtree(folder, ignore_errors=True)
        link_local(folder, source, keep, leave)
        return {"source": source, "hub": hub, "revision": None}
    check_reachable(hub, source, kind)
    try:
        download = from_huggingface if hub == "huggingface" else from_modelscope
        commit = download(folder, source, revision, kind, list(keep), list(leave))
    except UserError:
        raise
    except Exception as error:  # the clients raise dozens of types; each means "not fetched"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = f"{type(error).__name__}: {reason}"
        raise UserError(failure(hub, source, kind, reason, revision)) from error
    if not COMMIT.fullmatch(revision or ""):
        note(
            f"{kind} {source}: {revision or 'newest'} on {hub} is {commit}; "
            "to pin it, state that as its revision"
        )
    return {"source": source, "hub": hub, "revision": commit}


def begin(folder: Path, *origin: str) -> None:
    """Empty the folder, unless what lies there is of the same hub, source and commit.

    What an interrupted download has finished is not downloaded again, and what another one has left
    is not taken for a part of this one.
    """
    mark = folder / ".origin"
    if not mark.exists() or read_json(mark) != list(origin):
        shutil.rmtree(folder, ignore_errors=True)
        write_json(mark, list(origin))


def files(folder: Path) -> list[dict]:
    """What was fetched: {path, size, sha256}, without the hub clients' own notes (hidden files)."""
    return [file for file in tree_files(folder) if not hidden(file["path"])]


def hidden(path: str) -> bool:
    return any(part.startswith(".") for part in Path(path).parts)


def wanted(path: str, keep: Sequence[str], leave: Sequence[str]) -> bool:
    def any_of(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)

    return any_of(keep) and not any_of(leave)


def local_files(source: str, keep: Sequence[str] = ("*",), leave: Sequence[str] = ()) -> dict:
    """{path inside the source: file} of a local file or folder; {} if it does not exist."""
    top = local_source(source)
    if top.is_file():
        return {top.name: top}
    walk = os.walk(top, followlinks=True)
    files = sorted(Path(base) / name for base, _, names in walk for name in names)
    named = {file.relative_to(top).as_posix(): file for file in files}
    return {
        name: file for name, file in named.items() if wanted(name, keep, leave) and not hidden(name)
    }


def local_digest(source: str, memory: Path) -> str | None:
    """Digest of a local file or folder: names and bytes; None if it does not exist.

    `memory` is a JSON file that remembers the digests of files by size and time of change, so that
    gigabytes are read once and not whenever somebody asks.
    """
    known = read_json(memory) if memory.exists() else {}
    parts, fresh = [], {}
    for name, file in local_files(source).items():
        state = file.stat()
        key = f"{file.resolve()} {state.st_size} {state.st_mtime_ns}"
        if key not in known:
            fresh[key] = file_digest(file)
        parts.append([name, known.get(key) or fresh[key]])
    if fresh:
        write_json(memory, known | fresh)
    return digest(parts) if parts else None


def link_local(folder: Path, source: str, keep: Sequence[str], leave: Sequence[str]) -> None:
    """Mirror a local file or folder as links, so that what is read is what lies there."""
    if not local_source(source).exists():
        raise UserError(f"{source}: no such file or folder (from {Path.cwd()})")
    files = local_files(source, keep, leave)
    if not files:
        raise UserError(f"{source}: holds none of the files looked for ({', '.join(keep)})")
    for name, file in files.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())


def endpoint(hub: str) -> str:
    if hub == "huggingface":
        return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    domain = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
    domain = (domain or "https://modelscope.cn").rstrip("/")
    return domain if "://" in domain else f"https://{domain}"


def check_reachable(hub: str, source: str, kind: str) -> None:
    """Ask the hub's front door once, because the clients try for minutes before they give up."""
    try:
        urllib.request.urlopen(endpoint(hub), timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(failure(hub, source, kind, getattr(error, "reason", error))) from error


def failure(hub: str, source: str, kind: str, reason: object, revision: str | None = None) -> str:
    mirror, other = "MODELSCOPE_ENDPOINT", "huggingface"
    if hub == "huggingface":
        mirror, other = "HF_ENDPOINT", "modelscope"
    return (
        f"could not fetch the {kind} {source} from {hub} ({endpoint(hub)}): {reason}\n"
        f"  - a local copy? There is none at {Path(source).absolute()}\n"
        f"  - no network here? Copy it from a machine that has one and give the local copy:\n"
        f"      source: path/to/{Path(source).name}\n"
        f"      hub: local\n"
        f"  - behind a proxy? Set http_proxy and https_proxy.\n"
        f"  - a mirror? Set {mirror}.\n"
        f"  - {other} within reach? Set `hub: {other}`, and as source the id that it has there\n"
        f"    (a benchmark's preset knows that: leave out its source and revision)."
        + (
            f"\n  - revision {revision}: is it one of {hub}'s? Each hub has its own."
            if revision
            else ""
        )
    )


def from_huggingface(
    folder: Path, source: str, revision: str | None, kind: str, keep: list[str], leave: list[str]
) -> str:
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(CONNECT_SECONDS))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().repo_info(
        source, revision=revision, repo_type=kind, timeout=CONNECT_SECONDS
    )  # a branch moves: from here on, its commit is what counts
    begin(folder, "huggingface", source, info.sha)
    snapshot_download(
        source,
        revision=info.sha,
        repo_type=kind,
        local_dir=folder,
        allow_patterns=keep,
        ignore_patterns=leave,
    )
    return info.sha


def from_modelscope(
    folder: Path, source: str, revision: str | None, kind: str, keep: list[str], leave: list[str]
) -> str:
    from modelscope_hub import HubApi
    from modelscope_hub.compat import snapshot_download

    commit = revision or "master"
    if not COMMIT.fullmatch(commit):
        files = HubApi().legacy.list_repo_files(source, kind, revision=commit)
        commit = newest_commit(files) or commit
    begin(folder, "modelscope", source, commit)
    snapshot_download(
        repo_id=source,
        repo_type=kind,
        revision=commit,
        local_dir=str(folder),
        allow_patterns=keep,
        ignore_patterns=leave,
    )
    return commit


def newest_commit(files: list[dict]) -> str | None:
    """ModelScope names no commit for a branch, but each file names the one that changed it last."""
    dated = [file for file in files if file.get("Revision") and file.get("CommittedDate")]
    newest = max(dated, key=lambda file: file["CommittedDate"], default=None)
    return newest["Revision"] if newest else None
