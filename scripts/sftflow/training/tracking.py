"""SwanLab as a training sees it: bounded in time, kept on this disk, and said when it went wrong.

A server can refuse, hang, or go away at any moment. So the whole record always lies in a folder
here, which SwanLab's own `swanlab sync` can upload at any time, and nothing waits for a server
longer than START and END say.
"""

import contextlib
import ipaddress
import itertools
import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Seconds that a server may take
START = 30  # until an experiment is open; the training goes on meanwhile
END = 30  # for the last uploads, when the training has ended
LEAVE = 3  # for a last word, when the training has failed
LONGEST = START + END + 10  # that a training can wait: it was shorter than START, and a slow disk
CLOUD = "https://api.swanlab.cn"
SYSTEM = "__swanlab__"  # how the keys of system metrics begin
ASIDE = "earlier"  # folder of records that a new one takes in


class TimeLimit(BaseException):
    """Raised by `within`; no Exception, because SwanLab catches those wherever they come from."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise TimeLimit in the main thread, whatever it waits for, when the time is up."""

    def ring(*_: object) -> None:
        raise TimeLimit(f"no answer within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, where something swallowed it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def address(host: str | None) -> str:
    """The server's address: the config's, else what SwanLab's users export, else the cloud."""
    return (host or os.environ.get("SWANLAB_API_HOST") or CLOUD).rstrip("/")


def without_proxy(server: str) -> None:
    """A server on this machine, or in a private network, is asked directly."""
    name = urlsplit(server).hostname or ""
    with contextlib.suppress(ValueError):
        if name != "localhost" and not ipaddress.ip_address(name).is_private:
            return
        named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [named, name]))


def bad_key(key: str | None) -> str | None:
    """Why a key can't be sent; it is never shown."""
    if not key:
        return "SWANLAB_API_KEY is not exported"
    if not (key.isascii() and key.isprintable() and " " not in key):
        return "SWANLAB_API_KEY holds spaces or characters that no key has"
    return None


def command(settings: dict, output: Path, every_step: bool = False) -> str:
    """What uploads a record, or what of it is missing there, into the same experiment."""
    host = settings.get("host")
    parts = ["swanlab sync --id", settings["id"], *(["--host", host] if host else [])]
    return " ".join([*parts, *["--start-step 0"] * every_step, f"{shlex.quote(str(output))}/run-*"])


@dataclass
class Traffic:
    """What SwanLab's requests met: {(method, path): why it failed}, less what went well later.

    SwanLab reports hardly any of it to its caller: it catches errors, prints them, tries again
    for minutes, and drops records that a server has refused.
    """

    server: str
    key: str
    trouble: dict[tuple[str, str], str] = field(default_factory=dict)
    dropped: str | None = None  # why records were refused for good: no later request brings them

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        from swanlab.sdk.internal.pkg.client.session import SessionWithRetry, WarningRetry

        send, increment = SessionWithRetry.send, WarningRetry.increment

        def noted(session: Any, request: Any, **kwargs: Any) -> Any:
            asked = (request.method, urlsplit(request.url).path)
            try:
                answer = send(session, request, **kwargs)
            except Exception as error:
                response = getattr(error, "response", None)
                self.failed(asked, getattr(response, "status_code", None), error)
                raise
            self.trouble.pop(asked, None)
            return answer

        def again(
            retry: Any, method: Any = None, url: Any = None, response: Any = None,
            error: Any = None, _pool: Any = None, _stacktrace: Any = None,
        ) -> Any:  # fmt: skip
            self.failed((method, urlsplit(url).path), getattr(response, "status", None), error)
            return increment(retry, method, url, response, error, _pool, _stacktrace)

        SessionWithRetry.send, WarningRetry.increment = noted, again
        try:
            yield
        finally:
            SessionWithRetry.send, WarningRetry.increment = send, increment

    def failed(self, asked: tuple[str, str], status: int | None, error: Exception | None) -> None:
        method, path = asked
        if path.endswith("/heartbeat"):
            return
        self.trouble.pop(asked, None)  # the last comes last
        self.trouble[asked] = reason(asked, status, error)
        records = method != "GET" and path.endswith(("/house/metrics", "/series", "/profile"))
        if records and status and status < 500:
            self.dropped = self.trouble[asked]

    def why(self, error: BaseException | None = None) -> str | None:
        """One sentence about what went wrong; None when nothing did."""
        what = next(reversed(self.trouble.values()), self.dropped)
        if error and not what:
            timed = isinstance(error, TimeLimit)
            what = f"gave {error}" if timed else f"can't be used: {error or type(error).__name__}"
        told = f"SwanLab at {self.server} {what}" if what else None
        return told.replace(self.key, "(the key)") if told and self.key else told


def reason(asked: tuple[str, str], status: int | None, error: Exception | None) -> str:
    """Why a request failed, as the end of a sentence about the server."""
    path = asked[1].removeprefix("/api")
    if status in (401, 403) and path.startswith("/login"):
        return f"refuses the key in SWANLAB_API_KEY (status {status})"
    if status is not None:
        told = f"answers {asked[0]} {path} with status {status}"
        text = str(getattr(error, "message", ""))
        told += f" ({text})" if text and text != "unknown error" else ""
        named = status in (403, 404) and path.startswith("/project")
        return told + "; look at tracking.swanlab.workspace and project" * named
    text = str(error)
    if "timed out" in text:
        return "does not answer"
    found = re.search(r"\[Errno -?\d+\] ([^'\")]+)|(Remote end closed)", text)
    what = next(filter(None, found.groups())) if found else type(error).__name__
    return f"can't be reached ({what.lower()})"


def at_once() -> None:
    """From now on SwanLab writes each record when it has it, so that a kill costs none."""
    from swanlab.sdk.internal.core_python.store import DataStoreWriter

    write = DataStoreWriter.write

    def whole(writer: Any, data: bytes) -> None:
        write(writer, data)
        writer.ensure_flushed()

    DataStoreWriter.write = whole


@dataclass
class Earlier:
    """What an earlier session of the same training has recorded here."""

    records: list = field(default_factory=list)  # protobuf, less beginning and end
    files: dict[str, bytes] = field(default_factory=dict)  # that the records speak of

    @property
    def points(self) -> dict[tuple[str, int], float]:
        """{(key, step): value}."""
        found = (r.scalar for r in self.records if r.HasField("scalar"))
        return {(point.key, point.step): point.value.number for point in found}


def read(file: Path) -> list:
    """The records of a run's file, as far as they are whole."""
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    reader = DataStoreReader()
    try:
        reader.open(file)
    except Exception:  # not even a header: killed as it began
        return []
    try:
        return [Record.FromString(data) for data in reader]
    finally:
        reader.close()


def earlier(output: Path, id: str) -> Earlier:
    """What the folder of a run's record holds of the training `id`."""
    found = Earlier()
    files = (sorted(place.glob("run-*/run-*.swanlab")) for place in (output / ASIDE, output))
    for file in itertools.chain.from_iterable(files):
        first, *records = read(file) or [None]
        if first is not None and first.start.id == id:
            found.records += [r for r in records if not r.HasField("finish")]
            found.files |= {path.name: path.read_bytes() for path in file.parent.glob("files/*")}
    return found


def join(before: Earlier, output: Path) -> None:
    """Put what was recorded before in front of what a session has just recorded.

    Points that both have stay as they were, and so does what is said of the machine: scores may be
    added on another. System metrics are counted anew in each session, so theirs are counted on.
    One `swanlab sync` then uploads everything.
    """
    from swanlab.proto.swanlab.save.v1.save_pb2 import SaveType
    from swanlab.sdk.internal.core_python.store import DataStoreWriter

    files = list(output.glob("run-*/run-*.swanlab"))
    if not files:
        return
    if not before.records:
        shutil.rmtree(output / ASIDE, ignore_errors=True)
        return
    known = before.points
    shift = 1 + max((step for key, step in known if key.startswith(SYSTEM)), default=-1)
    first, *new = read(files[0])
    machine = [r for r in before.records if r.save.type == SaveType.SAVE_TYPE_METADATA]
    kept = []
    for record in new:
        if machine and record.save.type == SaveType.SAVE_TYPE_METADATA:
            continue
        if record.HasField("scalar"):
            if record.scalar.key.startswith(SYSTEM):
                record.scalar.step += shift
            if (record.scalar.key, record.scalar.step) in known:
                continue
        kept.append(record)
    whole = files[0].with_suffix(".whole")
    whole.unlink(missing_ok=True)
    writer = DataStoreWriter()
    writer.open(whole)
    # each session states the config anew
    older = [r for r in before.records if r.save.type != SaveType.SAVE_TYPE_CONFIG]
    for number, record in enumerate([first, *older, *kept]):
        if record.num > 0:  # SwanLab drops a record whose number it has seen; others are below 0
            record.num = number
        writer.write(record.SerializeToString())
    writer.close()
    whole.replace(files[0])
    for record in machine:  # their files are looked for beside the run's
        name = Path(record.save.source_path).name
        (files[0].parent / "files" / name).write_bytes(before.files.get(name, b""))
    shutil.rmtree(output / ASIDE, ignore_errors=True)


def clear(output: Path) -> None:
    """Make room for a new record; the one that is there stays aside until `join` has it."""
    (output / ASIDE).mkdir(parents=True, exist_ok=True)
    for folder in output.glob("run-*"):
        shutil.rmtree(output / ASIDE / folder.name, ignore_errors=True)
        folder.rename(output / ASIDE / folder.name)
