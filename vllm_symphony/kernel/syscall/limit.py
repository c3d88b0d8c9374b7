"""Limits and what was used of them (kernel/syscall/limit.py): getrlimit, setrlimit, getrusage.

How it is counted: kernel/budget.py; what happens when it is used up: kernel/overrun.py. Anybody may lower the limits of its own
processes; only scope admin raises them, and sees and sets those of principals. What the host keeps (memory, tasks, files and calls
a second of one process) counts for processes that are started from then on.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from vllm_symphony.abi.calls import Done, Getrlimit, Getrusage, RlimitResult, RusageResult, Setrlimit
from vllm_symphony.abi.types import ResourceLimits, ThreadUsage
from vllm_symphony.errors import InvalidArgument, NotOwner
from vllm_symphony.kernel import budget, overrun
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Process
from vllm_symphony.kernel.syscall.quota import MAX_PRINCIPAL

_NOT_OF_PRINCIPALS = ("wall_s", "depth")


def getrlimit(m: Machine, call: Call, a: Getrlimit) -> RlimitResult:
    """What may be used in all as things stand, and what is used."""
    now_ns = call.start_ns
    if a.principal is not None:
        _demand_one(a.pid)
        if a.principal != call.cred.principal and not call.cred.is_admin:
            raise NotOwner(
                f"only scope admin sees the limits of {a.principal[:MAX_PRINCIPAL]}", principal=a.principal[:MAX_PRINCIPAL]
            )
        known = m.budgets.get(a.principal)
        return (
            RlimitResult(known.limits, known.used(now_ns))
            if known is not None
            else RlimitResult(ResourceLimits(), ResourceLimits())
        )
    process = _target(m, call, a.pid)
    own = process.budget or budget.of_call(m, call)
    used = replace(own.used(now_ns), memory_bytes=process.memory_bytes or None)
    return RlimitResult(budget.in_force(own, now_ns), used)


def setrlimit(m: Machine, call: Call, a: Setrlimit) -> Done:
    """Lower limits, or with scope admin set them."""
    given: dict[str, Any] = {name: value for name, value in asdict(a.limits).items() if value is not None}
    if a.principal is not None:
        _demand_one(a.pid)
        _set_of_principal(m, call, a.principal, given)
        return Done()
    budget.demand_limits(a.limits)
    process = _target(m, call, a.pid)
    own = process.budget
    if own is None:
        raise NotOwner("an edge has no limits of its own: say whose", pid=process.pid)
    for name, value in given.items():
        limit = getattr(own.limits, name)
        if limit is not None and value > limit and not call.cred.is_admin:
            raise NotOwner(f"{name} is {limit} and may be lowered, not raised to {value} (scope admin may)", what=name, limit=limit)
    own.limits = replace(own.limits, **given)
    if "wall_s" in given:
        budget.watch_time(m, own)
    budget.recheck(m, own)
    if call.cred.is_admin:
        overrun.forgive(m, own)
    return Done()


def getrusage(m: Machine, call: Call, a: Getrusage) -> RusageResult:
    """What the process has used, its children, its threads."""
    process = _target(m, call, a.pid)
    for each in (process, *process.children.values()):
        each.settle_pages(m.model.page_size, call.start_ns)
    threads = tuple(ThreadUsage(tid, thread.name, thread.tally.usage()) for tid, thread in sorted(process.threads.items()))
    return RusageResult(process.usage(), process.all_below().usage(), threads)


def _target(m: Machine, call: Call, pid: int | None) -> Process:
    return call.process if pid is None else m.find(pid, call.cred)


def _demand_one(pid: int | None) -> None:
    if pid is not None:
        raise InvalidArgument("a process or a principal, not both", pid=pid)


def _set_of_principal(m: Machine, call: Call, principal: str, given: dict[str, Any]) -> None:
    if not call.cred.is_admin:
        raise NotOwner(f"only scope admin sets the limits of principals, not {call.cred.principal}")
    if not 0 < len(principal) <= MAX_PRINCIPAL:
        raise InvalidArgument(f"a principal has 1..{MAX_PRINCIPAL} characters")
    for name in _NOT_OF_PRINCIPALS:
        if name in given:
            raise InvalidArgument(f"{name} is a limit of processes, not of principals", what=name)
    new = {name: None if value < 0 else value for name, value in given.items()}
    budget.demand_limits(ResourceLimits(**new))
    budget.set_limits(m, principal, replace(budget.of_principal(m, principal).limits, **new))
    overrun.forgive(m, budget.of_principal(m, principal))
