"""Timers: what is due when (kernel/timer.py).

A heap of (when, number) with lazy deletion: a timer that is cancelled stays in the heap as a dead entry until it surfaces, or until
dead ones outnumber live ones and the heap is rebuilt; so a million calls with a long `timeout_s` cost no memory.
Order is (when, number): timers of one instant fire in the order in which they were set, so runs repeat.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

Fire = Callable[[int], None]
FOREVER_S = 1e9  # what is asked for beyond it is the same


def after(now_ns: int, seconds: float) -> int:
    """When it will be so many seconds later; any float above 0 may be asked for."""
    return now_ns + int(min(seconds, FOREVER_S) * 1e9)


class Timer:
    """One alarm. `fire(now_ns)` is called once, unless it was cancelled before."""

    __slots__ = ("fire", "live", "when_ns")

    def __init__(self, when_ns: int, fire: Fire) -> None:
        self.when_ns = when_ns
        self.fire = fire
        self.live = True


class Timers:
    """All alarms of the kernel."""

    __slots__ = ("_heap", "_live", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._live = 0
        self._number = 0

    def __len__(self) -> int:
        return self._live

    def at(self, when_ns: int, fire: Fire) -> Timer:
        """Call `fire` at the first tick that is not before `when_ns`."""
        timer = Timer(when_ns, fire)
        self._number += 1
        heappush(self._heap, (when_ns, self._number, timer))
        self._live += 1
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Forget it; harmless when it is None, fired or cancelled."""
        if timer is None or not timer.live:
            return
        timer.live = False
        self._live -= 1
        if len(self._heap) > 64 and self._live * 2 < len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].live]
            heapify(self._heap)

    def next_ns(self) -> int | None:
        """When the next one is due."""
        heap = self._heap
        while heap and not heap[0][2].live:
            heappop(heap)
        return heap[0][0] if heap else None

    def run(self, now_ns: int) -> None:
        """Fire all that are due; those set meanwhile for the same instant too."""
        while (when_ns := self.next_ns()) is not None and when_ns <= now_ns:
            timer = heappop(self._heap)[2]
            timer.live = False
            self._live -= 1
            timer.fire(now_ns)

    def check(self) -> None:
        """The count of live ones is right."""
        assert self._live == sum(entry[2].live for entry in self._heap)
