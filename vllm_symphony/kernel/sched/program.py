r"""A program as scheduling sees it (kernel/sched/program.py): a process with all that it started, or one plain request.

    spawn tree  1 - 2 - 3      one program, named by its first process: whoever waits for the answer waits for all of them
                    \- 4
    request     -              a program of one call

It lasts until its last process has ended and its last call. A session is a program too; what a client starts through one is not a
part of it, for a client may start anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Pid
from vllm_symphony.kernel.sched.ranking import Ranking

if TYPE_CHECKING:
    from vllm_symphony.kernel.sched.runnable import Runnable


@dataclass(slots=True, eq=False)
class Program:
    """`number`: in order of their beginnings. `cost`: tokens of KV that its calls held, summed over their steps; `tokens`: weighted
    tokens that were computed for it (runnable.py)."""

    number: int
    principal: str
    name: str
    priority: int = 0
    began_s: float = 0.0
    pids: set[Pid] = field(default_factory=set)  # that have not ended; none of a plain request
    waiting: Ranking[Runnable] = field(default_factory=Ranking)
    num_running: int = 0
    num_calls: int = 0  # so far
    cost: float = 0.0
    tokens: float = 0.0

    @property
    def is_over(self) -> bool:
        return not (self.pids or self.waiting or self.num_running)
