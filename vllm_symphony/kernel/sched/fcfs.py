"""First come, first served (kernel/sched/fcfs.py).

Bound: a call begins after at most those that came before it.
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.policy import Policy


class FirstCome(Policy):
    name = "fcfs"
    help = "calls in the order in which they came"
