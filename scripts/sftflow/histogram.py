"""Counts small enough for a receipt."""

from collections import Counter


class Histogram:
    """Non-negative whole numbers: total, mean, extremes, and counts per power-of-two-like bin.

    Bins are [edge, next edge), with edges 0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ...: two per
    doubling, so that turns and token lengths fit the same record.
    """

    def __init__(self) -> None:
        self.values: Counter[int] = Counter()

    def add(self, value: int) -> None:
        self.values[value] += 1

    def record(self) -> dict:
        count = self.values.total()
        total = sum(value * n for value, n in self.values.items())
        bins: Counter[int] = Counter()
        for value, n in self.values.items():
            bins[lower_edge(value)] += n
        return {
            "total": total,
            "mean": round(total / count, 2) if count else None,
            "min": min(self.values, default=None),
            "max": max(self.values, default=None),
            "histogram": [[edge, bins[edge]] for edge in sorted(bins)],
        }


def lower_edge(value: int) -> int:
    if value < 2:
        return value
    power = 1 << (value.bit_length() - 1)
    half = power + power // 2
    return half if value >= half else power
