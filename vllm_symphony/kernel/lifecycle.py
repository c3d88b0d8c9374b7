"""From birth to the end of a process (kernel/lifecycle.py).

    launch --> STARTING --> RUNNING --TERM--(grace_s)--KILL--> OS process gone --> finalise --> zombie --> reaped or pushed out
                            |     ^
                           STOP  CONT      its calls are held meanwhile

However a process ends (its `exit`, an exception, a signal, its parent, the device, a vanished connection), `finalise` is the one
place that frees what it held: calls, fds, anonymous files, threads, timers, children, viewers. Work that the device still does
holds its file until the device says that it stopped, and no longer.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from hashlib import blake2b

from vllm_symphony.abi.calls import Spawn, WaitResult
from vllm_symphony.abi.types import Credentials, ExitStatus, Pid, ProcessState, Signal
from vllm_symphony.errors import BadProgram, DeviceLost, NoChild, NoSuchProcess, SymphonyError, WouldBlock
from vllm_symphony.kernel import budget
from vllm_symphony.kernel.budget import Budget
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import Hangup, Launch, ProcessBegan, ProcessEnded, Signalled
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind, Process
from vllm_symphony.kernel.program import Prepared
from vllm_symphony.trace.context import well_formed

BAD_PROGRAM, DEVICE_LOST, LIMIT, KILLED = 2, 70, 124, 137
MAX_NAME = 255  # characters


def birth(m: Machine, kind: Kind, name: str, cred: Credentials, now_ns: int) -> Process:
    """A new pid."""
    m.num_pids += 1
    process = Process(Pid(m.num_pids), kind, name, cred, m.limits, m.seed, now_ns)
    m.processes[process.pid] = process
    m.meter.started.add(kind)
    if kind is not Kind.EDGE:
        above = budget.of_principal(m, cred.principal)
        process.budget = Budget(f"process {process.pid}", budget.NO_LIMITS, above, now_ns)
    return process


def launch(m: Machine, parent: Process | None, what: Prepared, a: Spawn, now_ns: int) -> Process:
    """Make a program and have its OS process started.

    Raises:
        WouldBlock: too many run.
        QuotaExceeded: too many of its tree or its principal, or too deep.
    """
    if m.num_programs >= m.limits.processes:
        raise WouldBlock(f"{m.num_programs} programs run, the most at once", limit=m.limits.processes)
    above = budget.of_principal(m, what.cred.principal) if parent is None else parent.own_budget
    budget.demand_child(above, now_ns)
    limits = budget.tighter(a.limits or budget.NO_LIMITS, what.limits)
    if parent is None or parent.kind is not Kind.PROGRAM:
        limits = budget.filled(limits, m.limits.program)

    process = birth(m, Kind.PROGRAM, what.name or what.entry, what.cred, now_ns)
    process.source, process.code, process.program = what.source, what.code, what.program
    process.runtime, process.stdin, process.detached = what.runtime, a.stdin, a.detach
    process.priority = what.priority
    process.traceparent = well_formed(a.traceparent)
    process.budget = Budget(f"process {process.pid} and what it spawned", limits, above, now_ns)
    m.num_programs += 1
    if parent is not None:
        process.parent = parent
        process.spawner = parent.pid
        process.session = parent.session
        parent.children[process.pid] = process
    budget.start_program(m, process)
    m.meter.launches.add(what.runtime)
    tell_of(m, process)
    starter = parent.pid if parent is not None and parent.kind is Kind.PROGRAM else None
    m.emit(ProcessBegan(process.pid, starter, process.cred.principal, process.program or process.name, process.priority))
    m.emit(Launch(
        process.pid, what.source, what.entry, a.args, process.name, seed_of(m, process), what.code, what.runtime,
        budget.in_force(process.budget, now_ns), a.stdin,
    ))  # fmt: skip
    return process


def seed_of(m: Machine, process: Process) -> int:
    """Of the program's own random numbers."""
    return int.from_bytes(blake2b(f"{m.seed}:{process.pid}".encode(), digest_size=8).digest(), "little") >> 11


def note(m: Machine, process: Process, kind: str, text: str, now_ns: int) -> None:
    """Add to the process's events, for viewers of now and later."""
    size = m.limits.part_bytes
    if kind in ("stdout", "stderr") and len(text) > size:
        for start in range(0, len(text), size):
            process.events.add(kind, text[start : start + size], now_ns + m.offset_ns)
    else:
        process.events.add(kind, text, now_ns + m.offset_ns)
    if process.viewers:
        m.mark(*process.viewers)


def tell_of(m: Machine, process: Process) -> None:
    """It began, or ended: for the event log's readers."""
    for hear in m.life_watchers:
        hear(process)


def terminate(m: Machine, process: Process, now_ns: int) -> None:
    """TERM: tell it once to end, and kill it after the grace."""
    if process.has_ended or process.termed or process.killed:
        return
    process.termed = True
    m.timers.cancel(process.limit_timer)
    m.emit(Signalled(process.pid, Signal.TERM))
    start_grace(m, process, now_ns)


def start_grace(m: Machine, process: Process, now_ns: int) -> None:
    """From here it has `grace_s` to be gone by itself."""
    if process.term_timer is None:
        process.term_timer = m.timers.at(now_ns + int(m.limits.grace_s * 1e9), lambda at_ns: kill(m, process, at_ns))


def stop(m: Machine, process: Process) -> None:
    """STOP: hold its code, and its calls from here on. What it waits for already goes on, and is answered."""
    if not (process.has_ended or process.killed or process.stopped):
        process.stopped = True
        m.emit(Signalled(process.pid, Signal.STOP))


def go_on(m: Machine, process: Process) -> None:
    """CONT: let it run, and carry out the calls that were held, in order."""
    if process.stopped:
        process.stopped = False
        m.emit(Signalled(process.pid, Signal.CONT))
        m.continued.append(process)


def burnt(m: Machine, process: Process, cpu_s: float) -> None:
    """Its code has used so much processor time since it started."""
    more = cpu_s - process.tally.cpu_s
    if more > 0:
        process.tally.cpu_s = cpu_s
        budget.charge(m, process.own_budget, "cpu_s", more)


def kill(m: Machine, process: Process, now_ns: int) -> None:
    """KILL: end it now. Its calls end here, the rest when the OS process is gone."""
    if process.has_ended or process.killed:
        return
    process.killed = True
    process.stopped = False
    for timer in (process.term_timer, process.limit_timer):
        m.timers.cancel(timer)
    if process.kind is Kind.SESSION:  # its code is the client's: there is nothing to wait for
        finalise(m, process, ExitStatus(KILLED, "signal"), now_ns)
        return
    m.emit(Signalled(process.pid, Signal.KILL))
    for call in list(process.calls.values()):
        m.abandon(call, now_ns)


def status_of(process: Process, code: int, error: SymphonyError | str | None) -> ExitStatus:
    """How it ended: by what was done to it, by its own report, or by its OS exit code and the host's word."""
    reported = process.reported
    if process.lost is not None:
        return ExitStatus(DEVICE_LOST, "device", error=process.lost)
    if reported is None and isinstance(error, SymphonyError):
        if isinstance(error, DeviceLost):
            return ExitStatus(DEVICE_LOST, "device", error=error.message)
        if isinstance(error, BadProgram):
            return ExitStatus(BAD_PROGRAM, "program", error=error.message)
    if reported is None:
        if process.killed:  # its calls were refused from then on: it may have stumbled over that before the signal came
            code = KILLED
        if process.died_of:
            reason = process.died_of
        elif code == 0:
            reason = "exit"
        elif code > 128:
            reason = "signal"
        else:
            reason = "program" if code == BAD_PROGRAM else "exception"
        reported = ExitStatus(code, reason, error=None if error is None else str(error))
    if process.exhausted and reported.code:
        return ExitStatus(LIMIT, "limit", reported.value, process.exhausted)
    if process.orphaned and reported.code:
        return ExitStatus(reported.code, process.orphaned, reported.value, reported.error)
    return reported


def finalise(m: Machine, process: Process, status: ExitStatus, now_ns: int) -> None:
    """End it: free all that it held, tell its viewers and its parent."""
    for call in list(process.calls.values()):
        if call.door is not process:  # who called from outside must hear of it
            m.refuse(call, NoSuchProcess(f"process {process.pid} has ended", pid=process.pid), now_ns)
        else:
            m.abandon(call, now_ns)
    for fd in list(process.fds.files):
        inode = process.fds.remove(fd)
        m.files.release(inode)
        m.channels.gifts.released(inode)
    m.channels.clean_up(process, now_ns)
    for timer in (process.term_timer, process.limit_timer, process.lease_timer):
        m.timers.cancel(timer)
    process.requests.clear()
    process.threads.clear()
    process.source, process.code = None, b""
    process.stopped = False
    process.settle_pages(m.model.page_size, now_ns)
    process.state = ProcessState.ZOMBIE
    process.ended_ns = now_ns
    process.exit = status
    _leave_children(m, process, now_ns)

    note(m, process, "exit", json.dumps(asdict(status)), now_ns)
    if process.kind in (Kind.PROGRAM, Kind.SESSION):
        m.meter.ended.add(process.kind, status.reason)
        m.emit(ProcessEnded(process.pid))
        tell_of(m, process)
    m.mark(*m.tracers)
    m.flush(now_ns)  # viewers and tracers of this process end here
    if process.kind is Kind.SESSION:
        m.sessions_of[process.cred.principal] -= 1
        m.sessions_of += Counter()  # only those that have some
        m.emit(Hangup(process.pid, status.error or status.reason))
    elif process.kind is Kind.PROGRAM:
        m.num_programs -= 1
        budget.end_program(m, process)
    else:
        del m.processes[process.pid]
        m.reports.pop(process.pid, None)
        return
    if process.parent is None:
        _keep_for_a_while(m, process)
    else:
        wake_waiter(m, process.parent, now_ns)


def _leave_children(m: Machine, process: Process, now_ns: int) -> None:
    """Children end with their parent unless they were detached; nobody will reap them, so they join the ended ones."""
    process.below = process.all_below()
    children, process.children = process.children, {}
    for child in children.values():
        child.parent = None
        if child.has_ended:
            _keep_for_a_while(m, child)
        elif not child.detached:
            child.orphaned = "lease" if "lease" in (process.orphaned, process.exit and process.exit.reason) else "orphan"
            terminate(m, child, now_ns)


def _keep_for_a_while(m: Machine, process: Process) -> None:
    """An ended program without a parent stays visible until newer ones push it out."""
    m.ended.append(process)
    while len(m.ended) > m.limits.ended:
        del m.processes[m.ended.popleft().pid]


def wake_waiter(m: Machine, parent: Process, now_ns: int) -> None:
    """Give ended children to the calls that wait for them, in the order in which they asked."""
    for wait in list(parent.waiters):
        call = wait.call
        if call is None:
            continue
        try:
            result = reap(m, parent, wait.wanted)
        except NoChild as error:  # another call reaped it
            wait.interrupt(m, error, now_ns)
            continue
        if result is not None:
            wait.drop(m)
            m.finish(call, result, now_ns)


def reap(m: Machine, parent: Process, wanted: int | None) -> WaitResult | None:
    """Take the status of the child that ended first (of the wanted one) and forget it; None while there is none.

    Raises:
        NoChild: no such child, running or ended.
    """
    if wanted is None:
        candidates = list(parent.children.values())
    else:
        candidates = [child for pid, child in parent.children.items() if pid == wanted]
    if not candidates:
        raise NoChild("no child" if wanted is None else f"process {wanted} is no child of the caller")
    ended = [child for child in candidates if child.exit is not None]
    if not ended:
        return None
    child = min(ended, key=lambda c: (c.ended_ns or 0, c.pid))
    assert child.exit is not None
    stat = child.stat(m.model.page_size, m.offset_ns)
    parent.below.add(child.tally)
    parent.below.add(child.below)
    del parent.children[child.pid], m.processes[child.pid]
    child.parent = None
    return WaitResult(child.pid, child.exit, stat)


class ChildWait(Pending):
    """A call that waits for a child to end: `wanted`, or any (None)."""

    __slots__ = ("parent", "wanted")

    def __init__(self, call: Call, wanted: int | None) -> None:
        super().__init__(call)
        self.parent = call.process
        self.wanted = wanted
        self.parent.waiters.append(self)

    def drop(self, m: Machine) -> None:
        super().drop(m)
        self.parent.waiters.remove(self)
