"""Answers that outlive jobs: kept for each subject by its way of asking, found by the request.

The folder of a way (identity.way: the weights and what turns a request into text) holds one
append-only file for each suite, so that suites may be asked at the same time: a file is open in one
process, and every process reads all files when it starts. A line is one answer:

    {"at", "key", "n", "response", "seconds", "sha256"}

`key` is the sha256 of the request (messages and generation parameters), `n` counts equal requests
(repeats; a question that a benchmark holds twice), `at` is the Unix time when the answer came,
`seconds` how long it took, `sha256` the digest of the rest in canonical form. The lines themselves
are in that form, which makes them cheap to check: nothing is parsed.

A line is with the kernel before the answer is used, so a killed process loses nothing; it is on the
disk within SYNC seconds, so a power cut loses that much. A last line without its end, which a cut
can leave, is not an answer and is taken away.
"""

import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sftflow.core.cli import UserError
from sftflow.core.jsonio import canonical
from sftflow.core.spans import merged
from sftflow.core.worker import PATIENCE, alone

SYNC = 1.0  # seconds
PAUSE = 1.0  # seconds between two answers that still belong to the same asking
NAMED = 10  # changed lines that an error names by number

_SEAL = b',"sha256":"'  # sorts last, so what stands before it is the rest
_HEAD = re.compile(rb'\{"at":[^,]+,"key":"([^"]+)","n":(\d+),')


class AnswerStore:
    """All answers of a folder, and the file in it that new ones go to.

    That file is open for one process at a time: a second one waits `patience` seconds, then gives
    up. Of two answers to one request the own file's goes first, then by file name.
    """

    def __init__(self, path: Path, patience: float = PATIENCE):
        self._held = contextlib.ExitStack()
        self._held.enter_context(alone(path, lock_of(path), patience))
        try:
            self._open(path)
        except BaseException:
            self._held.close()
            raise

    def _open(self, path: Path) -> None:
        self._file = self._held.enter_context(open(path, "ab+"))
        self._mutex = threading.Lock()
        self._synced = time.monotonic()
        drop_torn_line(self._file)
        # lines stay bytes until they are asked for: parsed they take several times the memory
        self._lines: dict[tuple[str, int], bytes] = {}
        others = sorted(set(path.parent.glob("*.jsonl")) - {path})
        for file in [*reversed(others), path]:
            self._lines.update(_read(file))

    def get(self, key: str, n: int) -> dict | None:
        line = self._lines.get((key, n))
        return None if line is None else json.loads(line)

    def add(self, key: str, n: int, response: dict, seconds: float) -> dict:
        """Keep an answer; returns the stored form."""
        answer = {"key": key, "n": n, "response": response, "seconds": seconds, "at": time.time()}
        line = sealed_line(answer)
        with self._mutex:
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._synced > SYNC:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
            self._lines[key, n] = line
        return answer

    def spans(self, asked: Iterable[tuple[str, int]]) -> list[tuple[float, float]]:
        """When answers to `asked`, (key, n) each, all of which are there, were under way: Unix
        times (begin, end), in order, apart by more than PAUSE."""
        answers = (json.loads(self._lines[key, n]) for key, n in asked)
        return merged(((a["at"] - a["seconds"], a["at"]) for a in answers), PAUSE)

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._held.close()


@contextlib.contextmanager
def answer_store(path: Path, patience: float = PATIENCE) -> Iterator[AnswerStore]:
    store = AnswerStore(path, patience)
    try:
        yield store
    finally:
        store.close()


def sealed_line(content: dict) -> bytes:
    """A record as a line that carries, as "sha256", the digest of the rest."""
    body = canonical(content)
    return body[:-1] + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def is_sealed(line: bytes) -> bool:
    """Whether a line is what `sealed_line` made."""
    body, _, seal = line.rpartition(_SEAL)
    return seal == hashlib.sha256(body + b"}").hexdigest().encode() + b'"}\n'


def _read(path: Path) -> dict[tuple[str, int], bytes]:
    """{(key, n): line} of a file. UserError when a line is not what was written."""
    lines, changed = {}, []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # torn, or another process is writing it
                break
            head = _HEAD.match(line)
            if head and is_sealed(line):
                lines[head[1].decode(), int(head[2])] = line
            else:
                changed.append(number)
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise UserError(
            f"{path}, line{'s' * (len(changed) > 1)} {', '.join(map(str, changed[:NAMED]))}{more}: "
            "the digest does not fit, so this is not what was answered. Delete what is named; "
            "its questions are asked again."
        )
    return lines


def drop_torn_line(file) -> None:
    """Take away a last line that has no end; `file` is open for "ab+"."""
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def lock_of(path: Path) -> Path:
    """Where those meet who want to append to `path`."""
    return path.with_name(f".{path.name}.lock")
