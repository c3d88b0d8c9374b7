"""What happens when a budget is used up (kernel/overrun.py).

    tokens              who asks for more: EDQUOT        running generates end with what they have, reason `quota`
    device_s            whose job runs, and who asks     ... those jobs end with EDQUOT
    wall_s, cpu_s       every program that is charged    ... all its calls that wait end with EDQUOT, later ones too
    processes, depth, tool_calls                         EDQUOT, and no more

A program that was told of one of the first four when nothing was left has `grace_s` to end by itself; then it gets TERM, and after
another grace KILL. However it ends by then, if not well: exit status 124, reason `limit`. Sessions and connections are told only:
their code is not ours to end. Calls that answer at once go on in the grace, so that a program can keep what it has.

Budgets are noticed where they are charged, and dealt with here at the end of the kernel's entry.
"""

from __future__ import annotations

from collections.abc import Iterator

from vllm_symphony.abi.table import CALLS
from vllm_symphony.errors import QuotaExceeded
from vllm_symphony.kernel import budget as budgets
from vllm_symphony.kernel import lifecycle
from vllm_symphony.kernel.budget import Budget
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind, Process

_MODEL = frozenset(op for op, spec in CALLS.items() if spec.kind == "model")
_WAITING = frozenset(op for op, spec in CALLS.items() if spec.kind in ("model", "text", "wait"))


def demand_tokens(m: Machine, call: Call, wanted: int, *, least: int | None = None) -> int:
    """How many tokens the call may put into files or have made, at least `least` (None: all that it wants).

    Raises:
        QuotaExceeded: not so many are left.
    """
    payer = budgets.of_call(m, call)
    left = payer.left("tokens")
    if left >= wanted:
        return wanted
    if least is not None and left >= least:
        return int(left)
    short = next(b for b in payer.chain() if b.left_here("tokens") == left)
    error = short.spent("tokens", call.start_ns)
    if short.is_used_up("tokens"):
        tell(m, call.process, short, "tokens", call.start_ns)
    raise error


def demand_time(m: Machine, call: Call) -> None:
    """Raises QuotaExceeded for a call that waits when there is no time left: on the clock, the processor or the device."""
    if call.op not in _WAITING:
        return
    is_program, is_model = call.process.kind is Kind.PROGRAM, call.op in _MODEL
    for b in budgets.of_call(m, call).chain():
        if b.limits is budgets.NO_LIMITS:
            continue
        if is_program and b.late:
            over = "wall_s"
        elif is_program and b.is_used_up("cpu_s"):
            over = "cpu_s"
        elif is_model and b.is_used_up("device_s"):
            over = "device_s"
        else:
            continue
        tell(m, call.process, b, over, call.start_ns)
        raise b.spent(over, call.start_ns)


def enforce(m: Machine, now_ns: int) -> None:
    """Deal with all budgets that were used up in this entry."""
    while m.overrun:
        budget, what = next(iter(m.overrun))
        del m.overrun[budget, what]
        if what == "tokens":
            _cut_generates(m, budget, now_ns)
        elif what == "device_s":
            _end_jobs(m, budget, now_ns)
        elif what in ("wall_s", "cpu_s"):
            _end_waits(m, budget, what, now_ns)


def tell(m: Machine, process: Process, budget: Budget, what: str, now_ns: int) -> None:
    """The process hears that nothing is left: a program has its grace from here, once."""
    if process.kind is not Kind.PROGRAM or process.exhausted or process.has_ended or process.is_leaving:
        return
    process.exhausted = budget.words(what, now_ns)
    when_ns = now_ns + int(m.limits.grace_s * 1e9)
    process.limit_timer = m.timers.at(when_ns, lambda at_ns: lifecycle.terminate(m, process, at_ns))


def forgive(m: Machine, budget: Budget) -> None:
    """It has other limits now: who was told that nothing is left, and was not signalled yet, is told again when that is so."""
    for process in _charged(m, budget):
        if process.exhausted and not process.termed:
            process.exhausted = ""
            m.timers.cancel(process.limit_timer)
            for b in process.own_budget.chain():
                if b.late:
                    m.overrun[b, "wall_s"] = None
                if b.is_used_up("cpu_s"):
                    m.overrun[b, "cpu_s"] = None


def _cut_generates(m: Machine, budget: Budget, now_ns: int) -> None:
    error = budget.spent("tokens", now_ns)
    for job in list(m.jobs.values()):
        if job.payer.pays(budget):
            m.meter.limits.add("tokens")
            job.cut_short(m, error, now_ns)


def _end_jobs(m: Machine, budget: Budget, now_ns: int) -> None:
    error = budget.spent("device_s", now_ns)
    for job in list(m.jobs.values()):
        if job.payer.pays(budget):
            job.interrupt(m, error, now_ns)
            tell(m, job.process, budget, "device_s", now_ns)


def _end_waits(m: Machine, budget: Budget, what: str, now_ns: int) -> None:
    error: QuotaExceeded = budget.spent(what, now_ns)
    for process in list(_charged(m, budget)):
        for call in list(process.calls.values()):
            if call.pending is not None and call.op in _WAITING:  # others are held by STOP only
                call.pending.interrupt(m, error, now_ns)
        tell(m, process, budget, what, now_ns)


def _charged(m: Machine, budget: Budget) -> Iterator[Process]:
    """Programs that run and are charged to it."""
    for process in m.processes.values():
        if process.kind is Kind.PROGRAM and not process.has_ended and budget in process.own_budget.chain():
            yield process
