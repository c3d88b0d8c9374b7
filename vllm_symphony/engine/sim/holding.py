"""The hold before a step of the simulated device, while the batch policy says so (engine/sim/holding.py): engine/cohort.py's twin
for a device that is asked, and never waits.

    begin() --until_s--> None: form the batch
                    '--> a time: nothing is computed before it, unless something comes and `begin` is asked again
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vllm_symphony.kernel.effect import SetPolicy
from vllm_symphony.kernel.sched import batch, catalogue
from vllm_symphony.kernel.sched.batch.policy import BatchPolicy, Look


class Holding:
    """`expected`: calls, as in `Look`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.policy: BatchPolicy = batch.make(batch.DEFAULT)
        self.expected = 0
        self.step_s = 0.0
        self.num_waits = 0
        self.waited_s = 0.0
        self._clock = clock
        self._hold: tuple[Look, Look] | None = None  # its first moment, and the last in which something came

    @property
    def is_holding(self) -> bool:
        """A step is held; it must be looked at again although whom it was held for may be gone."""
        return self._hold is not None

    def hear(self, e: SetPolicy) -> None:
        """What the kernel tells, as far as it is about when steps begin."""
        if e.level == catalogue.BATCH:
            self.policy, self._hold = batch.make(e.name, dict(e.parameters)), None

    def took(self, num_rows: int, seconds: float, times: int) -> None:
        """A step that computed took that long, or several in a row did."""
        keep = 0.7**times if self.step_s else 0.0
        self.step_s = keep * self.step_s + (1 - keep) * seconds
        self.policy.stepped(num_rows, seconds, times)

    def until_s(self, queued: int, streams: int, *, came: bool) -> float | None:
        """By the clock: until when the step is held. `came`: something has, since the last question."""
        now_s = self._clock()
        if self._hold is None:
            look = Look(now_s, queued, self.expected, streams, self.step_s, now_s, now_s)
            if not self.policy.begins(look):
                return None
            self.num_waits += 1
            self._hold = look, look
        first, look = self._hold
        look = replace(look, now_s=now_s, queued=queued, last_s=now_s if came else look.last_s)
        if (until_s := self.policy.until_s(look)) > now_s:
            self._hold = first, look
            return until_s
        self._hold = None
        self.waited_s += now_s - first.began_s
        self.policy.ended(first, look, disturbed=False)
        return None
