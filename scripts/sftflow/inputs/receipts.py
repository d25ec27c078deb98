"""Counts small enough for a receipt."""

from collections import Counter
from collections.abc import Iterable

SHOWN = 20  # line numbers that a receipt names


class Lines:
    """How many rows, and where the first of them are."""

    def __init__(self) -> None:
        self.count = 0
        self.lines: list[int | str] = []

    def add(self, where: int | str) -> None:
        self.count += 1
        if len(self.lines) < SHOWN:
            self.lines.append(where)

    def record(self) -> dict:
        return {"count": self.count, "lines": self.lines}


class Histogram:
    """Non-negative whole numbers: total, mean, extremes, and counts per power-of-two-like bin.

    Bins are [edge, next edge), with edges 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ...: two per
    doubling, so that turns and token lengths fit the same record. Empty bins between are recorded.
    """

    def __init__(self) -> None:
        self.values: Counter[int] = Counter()

    def add(self, value: int) -> None:
        self.values[value] += 1

    @property
    def count(self) -> int:
        return self.values.total()

    def record(self) -> dict:
        count = self.count
        total = sum(value * n for value, n in self.values.items())
        bins = dict.fromkeys(edges(self.values), 0)
        for value, n in self.values.items():
            bins[lower_edge(value)] += n
        return {
            "total": total,
            "mean": round(total / count, 2) if count else None,
            "min": min(self.values, default=None),
            "max": max(self.values, default=None),
            "histogram": [[edge, n] for edge, n in bins.items()],
        }


def lower_edge(value: int) -> int:
    """The edge of a value's bin; what is below 0 is its own."""
    if value < 2:
        return value
    power = 1 << (value.bit_length() - 1)
    half = power + power // 2
    return half if value >= half else power


def edges(values: Iterable[int]) -> list[int]:
    """Every lower edge from the smallest value's bin to the largest's."""
    last = lower_edge(max(values, default=-1))
    lower, edge = [], lower_edge(min(values, default=0))
    while edge <= last:
        lower.append(edge)
        edge = next_edge(edge)
    return lower


def next_edge(edge: int) -> int:
    if edge < 2:
        return edge + 1
    power = 1 << (edge.bit_length() - 1)
    return power + power // 2 if edge == power else 2 * power
