"""Answers that outlive jobs: one append-only file per identity.

A line is one answer: {"key", "n", "response", "seconds", "at"}. `key` is the sha256 of the request
(messages and generation parameters), `n` counts equal requests (repeats; a question that a
benchmark holds twice), `at` is the Unix time when the answer came, `seconds` how long it took.

A line is with the kernel before the answer is used, so a killed process loses nothing; it is on the
disk within SYNC seconds, so a power cut loses that much. A last line without its end, which a cut
can leave, is not an answer and is taken away.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from sftflow.core.cli import UserError

SYNC = 1.0  # seconds


class AnswerStore:
    """Open for one process at a time: a second one waits `patience` seconds, then gives up."""

    def __init__(self, path: Path, patience: float = 30.0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab+")
        self._mutex = threading.Lock()
        self._synced = time.monotonic()
        _lock(self._file, path, patience)
        self._answers: dict[tuple[str, int], dict] = {}
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                answer = json.loads(line)
            except ValueError:
                raise UserError(
                    f"{path}, line {number}, is no JSON: something other than this workflow wrote "
                    "there. Delete that line; its question is asked again."
                ) from None
            self._answers[answer["key"], answer["n"]] = answer

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str, n: int) -> dict | None:
        return self._answers.get((key, n))

    def add(self, key: str, n: int, response: dict, seconds: float) -> dict:
        """Keep an answer; returns the stored form."""
        answer = {"key": key, "n": n, "response": response, "seconds": seconds, "at": time.time()}
        line = json.dumps(answer, ensure_ascii=False).encode() + b"\n"
        with self._mutex:
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._synced > SYNC:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
            self._answers[key, n] = answer
        return answer

    def span(self) -> tuple[float, float]:
        """(Unix time of the first question, seconds in which at least one answer was under way)."""
        begun, busy, end = float("inf"), 0.0, float("-inf")
        for came, took in sorted((a["at"], a["seconds"]) for a in self._answers.values()):
            begun = min(begun, came - took)
            busy += max(0.0, came - max(end, came - took))
            end = max(end, came)
        return begun, busy

    def close(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


@contextlib.contextmanager
def answer_store(path: Path, patience: float = 30.0) -> Iterator[AnswerStore]:
    store = AnswerStore(path, patience)
    try:
        yield store
    finally:
        store.close()


def _lock(file, path: Path, patience: float) -> None:
    """The kernel drops the lock with the process, so a killed job leaves none behind."""
    end = time.monotonic() + patience
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise UserError(
                    f"another process is still answering into {path}. Wait for it, or end it, "
                    "and start again."
                ) from None
            time.sleep(0.2)
