"""The last values of a quantity, and what they say of the next one (kernel/sched/recent.py).

    order   3.0 9.0 1.0 ...    the oldest is forgotten, so that a tool that became slow is soon known as slow
    sorted  1.0 3.0 9.0 ...    an empirical distribution: no shape is assumed, for tools' times have long tails and several humps

All that is learned online is learned by one of these. Bounded: `SIZE` values; adding one costs a search and a shift of as many.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from math import ceil

SIZE = 256


class Recent:
    """An empirical distribution over the last `SIZE` values, all of them 0 or more."""

    __slots__ = ("_order", "values")

    def __init__(self) -> None:
        self._order: deque[float] = deque()
        self.values: list[float] = []  # ascending

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> None:
        if len(self._order) == SIZE:
            del self.values[bisect_left(self.values, self._order.popleft())]
        self._order.append(value)
        insort(self.values, value)

    def beyond(self, value: float) -> tuple[int, float]:
        """How many were greater, and their sum: what is known of one that has come so far already."""
        tail = self.values[bisect_right(self.values, value) :]
        return len(tail), sum(tail)

    def part_upto(self, value: float) -> float:
        """P(next <= value): the empirical distribution function."""
        return bisect_right(self.values, value) / len(self.values) if self.values else 0.0

    def quantile(self, part: float, above: float = -1.0) -> float | None:
        """The value that `part` of those greater than `above` do not pass; None: there are none."""
        first = bisect_right(self.values, above)
        count = len(self.values) - first
        return self.values[first + max(0, ceil(part * count) - 1)] if count else None
