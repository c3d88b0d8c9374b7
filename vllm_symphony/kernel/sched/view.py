"""The run queue for who looks at it from outside (kernel/sched/view.py): `symphony top`, `symphony sched`, `symphony ps`.

device's thread   RunQueue, which changes all the time
kernel's thread   `seen`: copies of what is in it, each made in one go; numbers may be a moment apart
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vllm_symphony.abi.types import Pid

if TYPE_CHECKING:
    from vllm_symphony.kernel.sched.queue import RunQueue


class Standing(NamedTuple):
    """Of a process or a principal: calls that wait for the device, calls that it computes, weighted tokens so far (of a process:
    those of its whole program)."""

    queued: int = 0
    running: int = 0
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
    """One pass over calls, programs and principals; from any thread."""
    of_process: dict[Pid, list[int]] = {}  # calls that wait, calls that run
    of_principal: dict[str, list[int]] = {}
    for call in list(queue.calls):
        is_running = call.is_running
        of_process.setdefault(call.owner.pid, [0, 0])[is_running] += 1
        of_principal.setdefault(call.program.principal, [0, 0])[is_running] += 1
    programs, principals = queue.programs.copy(), queue.principals.copy()
    service = dict.fromkeys(of_process, 0.0) | {pid: program.tokens for pid, program in programs.items()}
    return QueueView(
        {pid: _standing(of_process.get(pid), tokens) for pid, tokens in service.items()},
        {name: _standing(of_principal.get(name), principal.tokens) for name, principal in principals.items()},
        {quantity: error.relative for quantity, error in queue.predictor.errors.items() if error.num},
    )


def _standing(calls: list[int] | None, service: float) -> Standing:
    queued, running = calls or (0, 0)
    return Standing(queued, running, service)
