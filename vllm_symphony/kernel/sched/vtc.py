"""Equal shares for programs, by virtual counters (kernel/sched/vtc.py): the baseline for fairness.

Each program is a client of VTC; the counter is fair.py's. Running calls never give way.
Bound: of two programs that wait all along neither gets more than 2 max(w_in L_in, w_out M) weighted tokens above the other; a call
waits for at most (programs - 1) times that, and what its own program asked for before.
Source: Sheng et al., "Fairness in serving large language models" (OSDI 2024, arXiv 2401.00588), algorithm 2, theorem 4.4.
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.fair import Counters
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.program import Program
from vllm_symphony.kernel.sched.ranking import Key
from vllm_symphony.kernel.sched.runnable import Runnable


class EqualShares(Policy):
    name = "vtc"
    help = "equal shares for programs, in weighted tokens (VTC)"

    def __init__(self) -> None:
        self.counters: Counters[Program] = Counters()

    def paid(self, call: Runnable, amount: float) -> bool:
        self.counters.pay(call.program, amount)
        return True

    def entered(self, program: Program, *, rested: bool) -> None:
        self.counters.enter(program, rested=rested)

    def emptied(self, program: Program) -> None:
        self.counters.leave(program)

    def left(self, program: Program, now_s: float) -> None:
        self.counters.forget(program)

    def key(self, program: Program, first: Runnable) -> Key:
        return (self.counters[program], program.number)
