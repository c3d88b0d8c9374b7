"""Few numbers from noisy samples, on a machine that others share (benchmarks/stats.py).

Ratios come from pairs that ran next to each other, first one order then the other (A B, B A, ...): a slow minute hits both sides of
a pair and leaves its ratio alone. The median of the ratios is the figure; nothing is thrown away.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import psutil

T = TypeVar("T")


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear between the two nearest samples, as numpy's default."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    at = (len(ordered) - 1) * percent / 100
    low, high = math.floor(at), math.ceil(at)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def spread(samples: Sequence[float]) -> float:
    """Distance of the quartiles as a part of the median: 0.05 is a quiet machine, 0.5 a useless one."""
    middle = median(samples)
    return (percentile(samples, 75) - percentile(samples, 25)) / middle if middle else math.inf


@dataclass
class Pairs:
    """Samples of two things that were measured side by side; `ratios` are a over b, pair by pair."""

    a: list[float] = field(default_factory=list)
    b: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.a, self.b, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)


def paired(a: Callable[[], float], b: Callable[[], float], repeats: int, *, warm_up: int = 1) -> Pairs:
    """Measure `a` and `b` in turns, `repeats` times each; each call returns its own measurement.

    The order changes with each pair. `warm_up` pairs are run first and forgotten.
    """
    for _ in range(warm_up):
        a(), b()
    pairs = Pairs()
    for i in range(repeats):
        sides = ((pairs.a, a), (pairs.b, b))
        for samples, measure in sides if i % 2 == 0 else reversed(sides):
            samples.append(measure())
    return pairs


def in_rounds(sides: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Measure more than two things in turns; sample i of each belongs to round i.

    Each round begins with another side and every second one runs backwards, so that no side always follows the same one.
    """
    found: dict[str, list[T]] = {name: [] for name in sides}
    names = list(sides)
    for i in range(repeats):
        order = names[i % len(names) :] + names[: i % len(names)]
        for name in order if i % 2 == 0 else reversed(order):
            found[name].append(sides[name]())
    return found


def cpu_time_s(pid: int) -> float:
    """CPU seconds of a process and all below it, ended and waited-for children included.

    Children that end and are reaped by somebody else between two looks are lost; a difference is then too small, never too large.
    """
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for p in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                t = p.cpu_times()
                total += t.user + t.system + t.children_user + t.children_system
    return total
