"""The wait before a step, while the batch policy holds it (engine/cohort.py).

    schedule() --hold--> policy.begins? --until_s--> sleep on the mail --something came--> asked again
                                                                       '--nothing by then, or a plain request--> the step begins

Who is expected and how long steps are is counted here; what follows from it is the policy's (kernel/sched/batch/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from vllm_symphony.kernel.effect import SetPolicy
from vllm_symphony.kernel.sched import batch, catalogue
from vllm_symphony.kernel.sched.batch.policy import BatchPolicy, Look


class Cohort:
    """`wait`: sleep that many seconds at most; True: something was taken. `expected`: calls, as in `Look`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.policy: BatchPolicy = batch.make(batch.DEFAULT)
        self.wait: Callable[[float], bool] | None = None
        self.expected = 0
        self.step_s = 0.0
        self.num_waits = 0
        self.waited_s = 0.0
        self._clock = clock

    def hear(self, e: SetPolicy) -> None:
        """What the kernel tells, as far as it is about when steps begin."""
        if e.level == catalogue.BATCH:
            self.choose(e.name, dict(e.parameters))

    def choose(self, name: str, parameters: Mapping[str, float]) -> None:
        """Another policy from here on. Raises InvalidArgument; NotSupported: it is for the simulator only."""
        catalogue.demand(catalogue.BATCH, name, parameters)
        self.policy = batch.make(name, parameters)

    def took(self, num_rows: int, seconds: float) -> None:
        """A step that computed took that long."""
        self.step_s = seconds if not self.step_s else 0.7 * self.step_s + 0.3 * seconds
        self.policy.stepped(num_rows, seconds)

    def hold(self, streams: float, queued: Callable[[], int], disturbed: Callable[[], bool]) -> None:
        """Wait for as long as the policy says, or until `disturbed`."""
        now_s = self._clock()
        first = look = Look(now_s, queued(), self.expected, streams, self.step_s, now_s, now_s)
        if self.wait is None or disturbed() or not self.policy.begins(look):
            return
        self.num_waits += 1
        while (until_s := self.policy.until_s(look)) > look.now_s and not disturbed():
            if not self.wait(until_s - look.now_s):
                break
            now_s = self._clock()
            look = replace(look, now_s=now_s, last_s=now_s, queued=queued())
        self.waited_s += self._clock() - first.began_s
        self.policy.ended(first, look, disturbed=disturbed())
