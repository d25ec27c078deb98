"""Progress that a person can see while a long step runs."""

import time
from datetime import timedelta

from sftflow.core.cli import note

ENOUGH = 3  # before it is said when the rest will be done


class Progress:
    """Prints `label  done/total unit  share  ETA`, at most every `interval` seconds.

    The clock starts with the first that is done here: a start-up is no speed, and nor is what was
    there before (resumed, cached).
    """

    def __init__(self, label: str, total: int, unit: str, interval: float = 5.0):
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.printed = time.monotonic()
        self.found: int | None = None  # what was there before
        self.started: tuple[float, int] | None = None  # when the first was done, and how many were

    def update(self, done: int) -> None:
        now = time.monotonic()
        if self.found is None:
            self.found = done
        if self.started is None and done > self.found:
            self.started = now, done
        if now - self.printed < self.interval and done < self.total:
            return
        self.printed = now
        left = self._left(now, done)
        eta = f"  ETA {timedelta(seconds=round(left))}" if left is not None else ""
        share = f"  {100 * done // self.total} %" if self.total else ""
        note(f"{self.label}  {done}/{self.total} {self.unit}{share}{eta}")

    def _left(self, now: float, done: int) -> float | None:
        """Seconds; None while too little is known."""
        if self.started is None or self.found is None or done - self.found < ENOUGH:
            return None
        begun, first = self.started
        return (now - begun) / (done - first) * (self.total - done) if done > first else None
