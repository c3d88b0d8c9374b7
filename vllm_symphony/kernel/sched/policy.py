"""Who goes first: the process policy (kernel/sched/policy.py).

A device call leaves the kernel with an order key, and the batch former takes ready calls in that order; so whoever wants another
discipline (fair shares, priorities, deadlines) writes one function here and touches neither the calls nor the engine. The first
part of a key is the policy's own; the second, the number of the job, makes the order total and repeatable.
"""

from __future__ import annotations

from typing import Protocol

from vllm_symphony.abi.types import JobId, Pid
from vllm_symphony.kernel.effect import OrderKey


class Policy(Protocol):
    """The order of calls between processes."""

    def key(self, pid: Pid, job: JobId) -> OrderKey:
        """Place of this job among those that wait; smaller goes first."""


class FirstCome:
    """First come, first served."""

    def key(self, pid: Pid, job: JobId) -> OrderKey:
        """All equal, so the arrival decides."""
        return (0.0, job)
