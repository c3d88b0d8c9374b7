"""The run queue for who looks at it from outside (kernel/sched/view.py): `symphony top`, `symphony sched`, `symphony ps`.

device's thread   RunQueue, which changes all the time
kernel's thread   `seen`: copies of what is in it, each made in one go; numbers may be a moment apart
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Pid

if TYPE_CHECKING:
    from vllm_symphony.kernel.sched.queue import RunQueue


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a process or a principal: calls that compute, calls that wait for it, weighted tokens so far (of a process: those of its
    whole program)."""

    running: int = 0
    queued: int = 0
    service: float = 0.0


@dataclass(frozen=True, slots=True)
class QueueView:
    """Who is there. `errors`: how far predictions were off, as a part of what came."""

    processes: Mapping[Pid, Standing] = field(default_factory=dict)
    principals: Mapping[str, Standing] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def running(self) -> int:
        return sum(standing.running for standing in self.principals.values())

    @property
    def queued(self) -> int:
        return sum(standing.queued for standing in self.principals.values())


NOTHING = Standing()


def seen(queue: RunQueue) -> QueueView:
    """O(calls + programs + principals); from any thread."""
    calls = [(call.owner.pid, call.program.principal, call.is_running) for call in list(queue.calls)]
    of_process = Counter((pid, is_running) for pid, _, is_running in calls)
    of_principal = Counter((principal, is_running) for _, principal, is_running in calls)
    programs, principals = queue.programs.copy(), queue.principals.copy()
    pids = dict.fromkeys((*programs, *(pid for pid, _, _ in calls)))
    return QueueView(
        {
            pid: Standing(of_process[pid, True], of_process[pid, False], programs[pid].tokens if pid in programs else 0.0)
            for pid in pids
        },
        {
            name: Standing(of_principal[name, True], of_principal[name, False], principal.tokens)
            for name, principal in principals.items()
        },
        {quantity: error.relative for quantity, error in queue.predictor.errors.items() if error.num},
    )
