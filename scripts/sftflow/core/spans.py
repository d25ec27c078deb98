"""Spans of time, (begin, end) in seconds: what overlaps counts once."""

from collections.abc import Iterable


def merged(spans: Iterable[tuple[float, float]], pause: float = 0.0) -> list[tuple[float, float]]:
    """The union of spans, in order; those at most `pause` seconds apart become one."""
    union: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if union and begin <= union[-1][1] + pause:
            union[-1] = union[-1][0], max(union[-1][1], end)
        else:
            union.append((begin, end))
    return union
