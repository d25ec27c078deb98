"""Progress that a person can see while a long step runs."""

import time
from datetime import timedelta

from sftflow.core.cli import note


class Progress:
    """Prints `label  done/total unit  share  ETA`, at most every `interval` seconds."""

    def __init__(self, label: str, total: int, unit: str, interval: float = 5.0):
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.begun = self.printed = time.monotonic()
        self.first: int | None = None

    def update(self, done: int) -> None:
        now = time.monotonic()
        if self.first is None:  # what was there before (resumed, cached) says nothing about speed
            self.first, self.begun = done, now
        if now - self.printed < self.interval and done < self.total:
            return
        self.printed = now
        fresh = done - self.first
        left = (now - self.begun) / fresh * (self.total - done) if fresh > 0 else None
        eta = f"  ETA {timedelta(seconds=round(left))}" if left is not None else ""
        share = f"  {100 * done // self.total} %" if self.total else ""
        note(f"{self.label}  {done}/{self.total} {self.unit}{share}{eta}")
