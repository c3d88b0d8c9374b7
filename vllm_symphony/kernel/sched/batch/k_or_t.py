"""A step begins with K calls, or T after the first of them (kernel/sched/batch/k_or_t.py): to compare with.

K and T are right for one number of programs and one step time: with fewer than K programs every step waits for T.
Bound: T.
Source: the second and third rows of table 5 of Pie (SOSP 2025).
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.batch.policy import BatchPolicy, Look
from vllm_symphony.kernel.sched.parameter import Parameter


class KOrT(BatchPolicy):
    name = "k-or-t"
    help = "a step begins with k calls, or t_s after the first of them"
    parameters = {  # noqa: RUF012
        "k": Parameter(32.0, 1.0, "calls with which it begins at once"),
        "t_s": Parameter(0.01, 0.0, "seconds after the first of them in which it begins anyway"),
    }
    on_engine = False

    def __init__(self, k: float = 32.0, t_s: float = 0.01) -> None:
        self.k, self.t_s = k, t_s

    def begins(self, look: Look) -> bool:
        return 0 < look.queued < self.k

    def until_s(self, look: Look) -> float:
        return look.began_s + self.t_s if look.queued < self.k else look.now_s
