"""Limits that the system keeps for one process (runtime/sandbox/rlimit.py).

Soft and hard are the same, so a program cannot raise them. The address space is a backstop for the memory cgroup, and the only
limit on memory where there is none: what an empty program has, the program's memory, and a stack for each task, which is reserved
but hardly used. The number of tasks is counted by the system for each user: without an own user it cannot be set here, for the
server's own processes count too.
"""

from __future__ import annotations

import resource

from vllm_symphony.runtime.sandbox.plan import MIB, Plan

STACK_BYTES = 8 * MIB
CPU_GRACE_S = 5  # the kernel of the machine (ours) ends a program earlier, and says why


def limits(plan: Plan) -> dict[int, int]:
    """RLIMIT_* -> value, for a program of this plan."""
    found = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_NOFILE: plan.fds,
        resource.RLIMIT_STACK: STACK_BYTES,
        resource.RLIMIT_CPU: plan.cpu_s + CPU_GRACE_S,
        resource.RLIMIT_AS: plan.base_bytes + plan.memory_bytes + plan.tasks * STACK_BYTES,
    }
    if plan.layers.user:
        found[resource.RLIMIT_NPROC] = plan.tasks
    return found


def apply(plan: Plan) -> None:
    """Limit this process. A hard limit that is lower already stays. Raises OSError."""
    for which, value in limits(plan).items():
        hard = resource.getrlimit(which)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (lowest, lowest))
