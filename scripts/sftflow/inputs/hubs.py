"""Where inputs come from: a local file or folder, ModelScope, Hugging Face.

Only this module touches the network, and only the fetch programs call it. The hubs' own client
libraries are imported when a hub is asked, so local sources need the standard library alone.
"""

import fnmatch
import glob
import hashlib
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from sftflow.core.cli import UserError, note
from sftflow.core.jsonio import digest, file_digest, file_digests, read_json, tree_files, write_json
from sftflow.core.layout import local_source

HUBS = ("local", "modelscope", "huggingface")
COMMIT = re.compile(r"[0-9a-f]{40}")
CONNECT_SECONDS = 10  # a hub that does not answer in this time does not answer at all
ATTEMPTS = 4  # of a fetch, where a hub says that it is busy; each goes on where the last one ended
LONGEST_WAIT = 120.0  # seconds between them, whatever the hub asks for
BUSY = {408, 425, 429, 500, 502, 503, 504}  # HTTP: what may be otherwise in a moment
# Environment variables: where a mirror is stated, and the token for what is private or gated.
MIRRORS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}

Choice = Callable[[Collection[str]], list[str]]


@dataclass(frozen=True)
class Listed:
    """A file as a hub lists it: what it states of the content is None where it states nothing."""

    size: int | None  # bytes
    sha256: str | None = None
    blob: str | None = None  # git's sha1 of it


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
    choose: Choice = list,
) -> dict:
    """Put the source's files into a fresh `folder`; give {source, hub, revision (a commit) | null}.

    `kind` is "model" or "dataset". Of all files, those that match a pattern in `keep` and none in
    `leave` are taken (fnmatch over the path inside the source), and of these what `choose` gives;
    hidden files never. Local files are linked, not copied; a download is what the hub says it is.
    """
    hub = hub_of(source, hub)

    def chosen(names: Collection[str]) -> list[str]:
        found = choose([n for n in names if wanted(n, keep, leave) and not hidden(n)])
        if not found:
            raise UserError(f"{source}: holds none of the files looked for ({', '.join(keep)})")
        return found

    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    if hub == "local":
        shutil.rmtree(folder, ignore_errors=True)
        link_local(folder, source, chosen)
        return {"source": source, "hub": hub, "revision": None}
    check_reachable(hub, source, kind)
    download = from_huggingface if hub == "huggingface" else from_modelscope
    for attempt in range(1, ATTEMPTS + 1):
        try:
            commit = download(folder, source, revision, kind, chosen)
            break
        except UserError:
            raise
        except Exception as error:  # the clients raise dozens of types; each means "not fetched"
            status, wait = answered(error)
            if status not in BUSY or attempt == ATTEMPTS:
                text = failure(hub, source, kind, reason_of(error), revision, status)
                raise UserError(without_secrets(text)) from None
        seconds = min(2.0**attempt if wait is None else wait, LONGEST_WAIT)
        note(f"{hub} answers {status}: once more in {seconds:.0f} s ({attempt} of {ATTEMPTS})")
        time.sleep(seconds)
    if not COMMIT.fullmatch(revision or ""):
        note(
            f"{kind} {source}: {revision or 'newest'} on {hub} is {commit}; "
            "to pin it, state that as its revision"
        )
    return {"source": source, "hub": hub, "revision": commit}


def answered(error: BaseException) -> tuple[int | None, float | None]:
    """(HTTP status, Retry-After in seconds) that an error of a hub's client goes back to."""
    waiting, seen = [error], set[int]()
    while waiting:
        found = waiting.pop(0)
        seen.add(id(found))
        response = getattr(found, "response", None)
        status = getattr(response, "status_code", None) or getattr(found, "status_code", None)
        if status:
            stated = getattr(response, "headers", {}).get("Retry-After", "")
            return status, float(stated) if re.fullmatch(r"\d+(\.\d+)?", stated) else None
        failed = getattr(found, "failed_files", None)  # ModelScope's: {file: error}
        behind = [found.__cause__, found.__context__, *(failed or {}).values()]
        waiting += [one for one in behind if one is not None and id(one) not in seen]
    return None, None


def reason_of(error: BaseException) -> str:
    """One line; of ModelScope's "1 of 6 files failed" the file and its error."""
    for name, behind in (getattr(error, "failed_files", None) or {}).items():
        return f"{name}: {reason_of(behind)}"
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


def one_format(names: Collection[str], formats: Sequence[str]) -> list[str]:
    """Of files with one name and several endings that with the first of `formats`; says the rest.

    For what a hub holds: the copies are made by machine, and twice the rows would be duplicates.
    """
    taken: dict[str, str] = {}
    for ending in formats:
        for name in names:
            if name.endswith(ending):
                taken.setdefault(name.removesuffix(ending), name)
    kept = sorted(taken.values())
    if left := sorted({*names} - {*kept}):
        note(f"left on the hub, the same in another format: {', '.join(left)}")
    return kept


def without_secrets(text: str) -> str:
    """Without tokens, and without the name and password in a mirror's or proxy's address."""
    for token in filter(None, map(os.environ.get, [*TOKENS.values(), "HUGGING_FACE_HUB_TOKEN"])):
        text = text.replace(token, "***")
    return re.sub(r"://[^/@\s]*@", "://***@", text)


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


def local_files(source: str) -> dict[str, Path]:
    """{path inside the source: file} of a local file or folder; {} if it does not exist.

    Without hidden files, and without what `walk` says is not taken.
    """
    top = local_source(source)
    if top.is_file():
        return {top.name: top}
    return {name: path for name, path, stray in walk(top) if stray is None}


def walk(top: Path) -> Iterator[tuple[str, Path, str | None]]:
    """(path inside, path, why it is not taken) of everything below a folder, sorted.

    A link may lead to a file inside the folder, and in a cache of Hugging Face's client
    (models--owner--name/snapshots/commit) to blobs/ of the same repository. Where linked folders
    lie inside, their files are taken once, from where they lie.
    """
    real = top.resolve()
    inside = [real]
    for parent in real.parents:
        if parent.name == "snapshots" and "--" in parent.parent.name:
            inside.append(parent.parent / "blobs")
    found = []
    for base, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(base) / name
            stray = astray(path, inside)
            if (stray or not path.is_dir()) and not name.startswith("."):
                found.append((path.relative_to(top).as_posix(), path, stray))
    yield from sorted(found)


def astray(path: Path, inside: list[Path]) -> str | None:
    """Why a path below a folder is not taken; None if it is."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        return "a link to nothing"
    if not any(target.is_relative_to(folder) for folder in inside):
        return f"a link out of the folder, to {target}"
    if not (target.is_file() or target.is_dir()):
        return "no regular file"
    return None if os.access(target, os.R_OK) else "cannot be read"


def local_digest(source: str, memory: Path) -> str | None:
    """Digest of a local file or folder: names and bytes; None if it does not exist.

    `memory` is a JSON file that remembers the digests of files by size and time of change, so that
    gigabytes are read once and not whenever somebody asks.
    """

    def key(file: Path) -> str:
        state = file.stat()
        return f"{file.resolve()} {state.st_size} {state.st_mtime_ns}"

    known = read_json(memory) if memory.exists() else {}
    keys = {name: (key(file), file) for name, file in local_files(source).items()}
    fresh = {own: file for own, file in keys.values() if own not in known}
    if fresh:
        known |= dict(zip(fresh, file_digests(fresh.values()), strict=True))
        write_json(memory, known)
    return digest([[name, known[own]] for name, (own, _) in keys.items()]) if keys else None


def link_local(folder: Path, source: str, chosen: Choice) -> None:
    """Mirror a local file or folder as links, so that what is read is what lies there."""
    top = local_source(source)
    if not top.exists():
        raise UserError(f"{source}: no such file or folder (from {Path.cwd()})")
    everything = [] if top.is_file() else list(walk(top))
    files = local_files(source)
    names = chosen([*files, *(n for n, path, stray in everything if stray and not path.is_dir())])
    for name, path, stray in everything:
        if stray and (name in names or path.is_dir()):
            raise UserError(
                f"{source}: {name} is {stray}. Only files of the folder itself are taken: put the "
                "file there in its place, or take it away"
            )
    for name in names:
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(files[name].resolve())


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


def failure(
    hub: str,
    source: str,
    kind: str,
    reason: object,
    revision: str | None = None,
    status: int | None = None,
) -> str:
    """What could not be fetched, why, and what to do: where a status was answered, not a proxy."""
    other = "modelscope" if hub == "huggingface" else "huggingface"
    token = TOKENS[hub]
    state = "set now: is it this one's, and still valid?" if os.environ.get(token) else "not set"
    access = (
        f"private or gated? Ask for access on its page, and set {token} to a token of yours "
        f"({state})."
    )
    name = f"is {source} its name there? Names are owner/name, with capitals as they are."
    advice = {
        401: [access, name],
        403: [access],
        404: [name, access],
        429: [f"too many requests: wait, or set {token}; a token allows more ({state})."],
    }.get(status or 0) or [
        "behind a proxy? Set http_proxy and https_proxy.",
        f"a mirror? Set {MIRRORS[hub]}.",
    ]
    if revision:
        advice.append(f"revision {revision}: is it one of {hub}'s? Each hub has its own.")
    lines = [
        f"could not fetch the {kind} {source} from {hub} ({endpoint(hub)}): {reason}",
        *(f"  - {line}" for line in advice),
        f"  - a local copy? There is none at {Path(source).absolute()}",
        "  - no network here? Copy it from a machine that has one and give the local copy:",
        f"      source: path/to/{Path(source).name}",
        "      hub: local",
        f"  - {other} within reach? Set `hub: {other}`, and as source the id that it has there",
        "    (a benchmark's preset knows that: leave out its source and revision).",
    ]
    return "\n".join(lines)


def check_space(folder: Path, listed: dict[str, Listed]) -> None:
    """Raise UserError if what is still to be downloaded has no room on the disk."""
    there = {name: folder / name for name in listed if (folder / name).is_file()}
    needed = sum(file.size or 0 for name, file in listed.items() if name not in there)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {needed / 1e9:.1f} GB are to be downloaded, {free / 1e9:.1f} GB are free. "
            "Make room, or state another `pathvars: results:`"
        )


def check_download(folder: Path, hub: str, listed: dict[str, Listed]) -> None:
    """Compare what lies here with what the hub lists. A file that differs is removed: UserError."""
    for left in folder.rglob("*.incomplete"):  # by a client that was killed
        left.unlink()
    wrong = []
    for name, stated in listed.items():
        path = folder / name
        problem = difference(path, stated) if path.is_file() else "was not downloaded"
        if problem:
            path.unlink(missing_ok=True)
            wrong.append(f"{name} {problem}")
    if wrong:
        raise UserError(
            f"not what {hub} ({without_secrets(endpoint(hub))}) lists; removed, so that the next "
            "try downloads again:\n  " + "\n  ".join(wrong) + "\nWith a mirror or a proxy in "
            "between: try without it."
        )


def difference(path: Path, stated: Listed) -> str | None:
    size = path.stat().st_size
    if stated.size is not None and size != stated.size:
        return f"has {size:,} bytes, not {stated.size:,}"
    if stated.sha256:
        expected, found = stated.sha256, file_digest(path)
    elif stated.blob:
        content = path.read_bytes()  # git's own files are small; large ones are LFS's
        expected = stated.blob
        found = hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False).hexdigest()
    else:
        return None
    return None if found == expected.lower() else f"has the checksum {found}, not {expected}"


def of_listing(listed: dict[str, Listed], chosen: Choice) -> dict[str, Listed]:
    """The entries to download. Raises UserError for a name that leads out of the folder."""
    for name in listed:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{name!r}: a file of the hub that leads out of its folder")
    return {name: listed[name] for name in chosen(listed)}


def from_huggingface(
    folder: Path, source: str, revision: str | None, kind: str, chosen: Choice
) -> str:
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(CONNECT_SECONDS))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().repo_info(
        source, revision=revision, repo_type=kind, timeout=CONNECT_SECONDS, files_metadata=True
    )  # a branch moves: from here on, its commit is what counts
    files = of_listing(
        {
            file.rfilename: Listed(file.size, file.lfs and file.lfs.sha256, file.blob_id)
            for file in info.siblings
        },
        chosen,
    )
    begin(folder, "huggingface", source, info.sha)
    check_space(folder, files)
    snapshot_download(
        source,
        revision=info.sha,
        repo_type=kind,
        local_dir=folder,
        allow_patterns=list(map(glob.escape, files)),
    )
    check_download(folder, "huggingface", files)
    return info.sha


def from_modelscope(
    folder: Path, source: str, revision: str | None, kind: str, chosen: Choice
) -> str:
    from modelscope_hub import HubApi

    hub = HubApi()
    with suppress(Exception):  # without a mirror stated, the one of its two sites that has it
        hub = HubApi(endpoint=hub.resolve_endpoint_for_read(source, repo_type=kind))
    commit = revision or "master"
    listing = hub.legacy.list_repo_files(source, kind, revision=commit)
    commit = commit if COMMIT.fullmatch(commit) else newest_commit(listing) or commit
    entries = {file["Path"]: file for file in listing if file.get("Type") != "tree"}
    files = of_listing(
        {name: Listed(file.get("Size"), file.get("Sha256")) for name, file in entries.items()},
        chosen,
    )
    begin(folder, "modelscope", source, commit)
    check_space(folder, files)
    hub.download_repo(
        source,
        repo_type=kind,
        revision=commit,
        local_dir=str(folder),
        file_list=[entries[name] for name in files],
    )
    check_download(folder, "modelscope", files)
    return commit


def newest_commit(files: list[dict]) -> str | None:
    """ModelScope names no commit for a branch, but each file names the one that changed it last."""
    dated = [file for file in files if file.get("Revision") and file.get("CommittedDate")]
    newest = max(dated, key=lambda file: file["CommittedDate"], default=None)
    return newest["Revision"] if newest else None
