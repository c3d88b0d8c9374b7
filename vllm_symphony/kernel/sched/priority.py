"""By declared priority, with patience (kernel/sched/priority.py).

    overdue (in order of arrival)  >  priority 9  >  ...  >  priority 0  >  ...

A declaration orders a principal's own programs only, so a lie harms nobody else. A call that has waited for `patience_s` goes
before all that have not, and never gives way.
Bound: of the calls that come after it, none begins once it is overdue and waits; so it waits for at most `patience_s` and the calls
before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from vllm_symphony.kernel.sched.parameter import Parameter
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.runnable import Runnable


class ByPriority(Policy):
    name = "priority"
    help = "programs by the priority that they declare; who has waited too long goes first"
    parameters = {"patience_s": Parameter(30.0, 0.0, "a call that has waited for so long goes first")}  # noqa: RUF012

    def __init__(self, patience_s: float = 30.0) -> None:
        self.patience_s = patience_s
        self._young: deque[Runnable] = deque()  # not overdue yet, in order of arrival; some have ended

    def called(self, call: Runnable, now_s: float) -> None:
        call.rank = (-call.program.priority, call.number)
        self._young.append(call)

    def aged(self, now_s: float) -> Iterable[Runnable]:
        overdue = []
        while self._young and now_s - self._young[0].arrived_s >= self.patience_s:
            call = self._young.popleft()
            call.rank = (-math.inf, call.number)
            overdue.append(call)
        return overdue

    def yields(self, running: Runnable, waiting: Runnable) -> bool:
        return running.rank[0] > waiting.rank[0]
