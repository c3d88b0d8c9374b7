"""Who goes next (tools/queue.py).

    principal a: 1 2 3 4 5 6        running: at most `most` of all, `most_each` of one
    principal b: 7                  next: 1 7 2 3 ...        round robin, first come first served inside

A principal that floods waits for itself. Pure: jobs are whatever the caller puts in.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

from vllm_symphony.errors import WouldBlock

J = TypeVar("J")


class FairQueue(Generic[J]):
    """Bounded by principal."""

    def __init__(self, most: int, most_each: int, most_waiting_each: int) -> None:
        self._most, self._most_each, self._most_waiting = most, most_each, most_waiting_each
        self._waiting: dict[str, deque[J]] = {}  # whose turn is next comes first
        self._running: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def num_running(self) -> int:
        return self._running.total()

    def put(self, principal: str, job: J) -> None:
        """Raises WouldBlock when too many of the principal's wait."""
        waiting = self._waiting.get(principal, ())
        if len(waiting) > self._most_waiting:
            raise WouldBlock(f"{len(waiting)} calls of tools wait for {principal}, the most at once", limit=self._most_waiting)
        self._waiting.setdefault(principal, deque()).append(job)

    def take(self) -> tuple[str, J] | None:
        """The next one that may run; it counts as running until `done`."""
        if self._running.total() >= self._most:
            return None
        for principal, jobs in self._waiting.items():
            if self._running[principal] < self._most_each:
                job = jobs.popleft()
                del self._waiting[principal]
                if jobs:
                    self._waiting[principal] = jobs  # at the end of the row
                self._running[principal] += 1
                return principal, job
        return None

    def done(self, principal: str) -> None:
        self._running[principal] -= 1
        if not self._running[principal]:
            del self._running[principal]

    def remove(self, principal: str, job: J) -> bool:
        """It shall not run any more; False when it does, or did."""
        jobs = self._waiting.get(principal)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._waiting[principal]
        return True
