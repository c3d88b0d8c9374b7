"""How fast a program's control calls are taken (engine/pace.py): a token bucket.

    spend() a call --> left < 1: it reads no more until `enough_at_ns`; the program waits in its send, nothing fails

`rate` a second on the average, two seconds of it at once. Work goes on in small batches, so a program that floods costs a wake-up
per batch and not one per call.
"""

from __future__ import annotations

BURST_S = 2.0
BATCH_S = 0.02


class Pace:
    """Belongs to one connection."""

    __slots__ = ("_batch", "_burst", "_left", "_rate", "_t_ns")

    def __init__(self, rate: float, now_ns: int) -> None:
        self._rate = rate
        self._burst = max(1.0, BURST_S * rate)
        self._batch = max(1.0, BATCH_S * rate)
        self._left = self._burst
        self._t_ns = now_ns

    def spend(self) -> None:
        """One call. What was taken already may go below nothing."""
        self._left -= 1

    @property
    def is_short(self) -> bool:
        """Nothing is left, unless time has brought some: ask `is_spent`. Costs no look at the clock."""
        return self._left < 1

    def is_spent(self, now_ns: int) -> bool:
        self._left = min(self._burst, self._left + (now_ns - self._t_ns) * self._rate / 1e9)
        self._t_ns = now_ns
        return self._left < 1

    def enough_at_ns(self) -> int:
        """When there is a batch again."""
        return self._t_ns + int((self._batch - self._left) / self._rate * 1e9) + 1
