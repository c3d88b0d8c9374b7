"""attach, strace, info, model_info: looking at the machine (kernel/syscall/view.py).

    events of a process  --cursor--> AttachPart, AttachPart, ...     a stream holds a number, not a copy: the ring is the only
    event log, steps     --cursor--> StracePart, StracePart, ...     buffer, so a late viewer costs nothing, but meets gaps

What is new is sent once an entry of the kernel, in parts of bounded size; a long log in several turns. Streams of a process end
when it does.
"""

from __future__ import annotations

import json
from itertools import takewhile

from vllm_symphony.abi.calls import Attach, AttachPart, Done, InfoResult, ModelInfoResult, NoArgs, Strace, StracePart
from vllm_symphony.abi.types import Pid, ProcessRecord, StepRecord
from vllm_symphony.errors import InvalidArgument, NoSuchProcess, NotOwner
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import Part
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind, Process
from vllm_symphony.trace.log import Family


class Viewer(Pending):
    """One attach: what it has shown lies below `next_seq`."""

    __slots__ = ("follow", "next_seq", "target")

    def __init__(self, call: Call, target: Process, next_seq: int, follow: bool) -> None:
        super().__init__(call)
        self.target = target
        self.next_seq = next_seq
        self.follow = follow
        target.viewers.append(self)

    def drop(self, m: Machine) -> None:
        super().drop(m)
        self.target.viewers.remove(self)

    def flush(self, m: Machine, now_ns: int) -> None:
        call = self.call
        assert call is not None
        while events := self.target.events.take(self.next_seq, m.limits.part_events, m.limits.part_bytes):
            self.next_seq = events[-1].seq + 1
            m.emit(Part(call.door.pid, call.id, AttachPart(events)))
        if self.target.has_ended or not self.follow:
            self.drop(m)
            m.finish(call, Done(), now_ns)


class Tracer(Pending):
    """One strace of a family (None: all of the principal's; principal None: all), from `next_seq` on. `lives`: of processes, not
    sent yet."""

    __slots__ = ("family", "follow", "last_step", "lives", "missing", "next_seq", "num_lives", "offset_ns", "principal", "steps")

    def __init__(self, m: Machine, call: Call, a: Strace, family: Family | None, principal: str | None) -> None:
        super().__init__(call)
        self.family = family
        self.principal = principal
        self.follow = a.follow
        self.steps = a.steps
        self.last_step = 0
        self.next_seq = a.from_seq
        self.missing = _missing(m, self) if a.from_seq == 1 else max(0, m.log.first_seq - a.from_seq)
        m.tracers.append(self)
        self.lives: list[ProcessRecord] = []
        self.num_lives = 0
        self.offset_ns = m.offset_ns
        if a.processes:
            for process in m.processes.values():
                if process.kind in (Kind.PROGRAM, Kind.SESSION) and not process.has_ended:
                    self.hear(process)
            m.life_watchers.append(self.hear)

    def hear(self, process: Process) -> None:
        """It began, or ended."""
        if self.principal in (None, process.cred.principal) and (
            self.family is None or self.family.takes(process.pid, process.spawner)
        ):
            self.num_lives += 1
            self.lives.append(process.record(self.num_lives, self.offset_ns))

    def drop(self, m: Machine) -> None:
        super().drop(m)
        m.tracers.remove(self)
        if self.hear in m.life_watchers:
            m.life_watchers.remove(self.hear)

    def flush(self, m: Machine, now_ns: int) -> None:
        call, size = self.call, m.limits.part_events
        assert call is not None
        until = max(self.next_seq, m.log.first_seq) + m.limits.trace_records
        records = list(m.log.since(self.next_seq, until=until, family=self.family, principal=self.principal))
        steps = self._new_steps(m) if self.steps else []
        self.next_seq = min(until, m.log.next_seq)
        lives, self.lives = self.lives, []
        for start in range(0, max(len(records), len(steps), len(lives), bool(self.missing)), size):
            end = start + size
            part = StracePart(tuple(records[start:end]), tuple(steps[start:end]), self.missing, tuple(lives[start:end]))
            m.emit(Part(call.door.pid, call.id, part))
            self.missing = 0
        m.timers.cancel(self.timer)
        if self.next_seq < m.log.next_seq or (self.steps and m.steps and self.last_step < m.steps[-1].step):
            self.timer = m.timers.at(now_ns + 1, lambda at_ns: self.flush(m, at_ns))  # the rest in the next turn: others come first
        elif not self.follow or (self.family is not None and not self._lives(m, self.family)):
            self.drop(m)
            m.finish(call, Done(), now_ns)

    def _new_steps(self, m: Machine) -> list[StepRecord]:
        """Steps that were not sent, in order, not too many at once. The newest are last, so this looks at none that was sent."""
        steps = list(takewhile(lambda step: step.step > self.last_step, reversed(m.steps)))[: -m.limits.trace_records - 1 : -1]
        if steps:
            self.last_step = steps[-1].step
        return steps

    @staticmethod
    def _lives(m: Machine, family: Family) -> bool:
        """Somebody of the family has not ended; a child that made no call yet is in no log, but has a pid above its parent's."""
        known = (m.processes.get(Pid(pid)) for pid in family.pids)
        if any(p is not None and not p.has_ended for p in known):
            return True
        return family.children and any(family.takes(p.pid, p.spawner) and not p.has_ended for p in m.processes.values())


def _missing(m: Machine, tracer: Tracer) -> int:
    """Calls that have left the log: all that were made, but those that are in it and those that have not ended. Of a process that
    was reaped nobody knows how many it made."""
    if m.log.first_seq == 1:
        return 0
    family, principal = tracer.family, tracer.principal
    if family is None and principal is None:
        return m.log.first_seq - 1
    shown = [
        p for p in m.processes.values()
        if (family is None or family.takes(p.pid, p.spawner)) and (principal is None or p.cred.principal == principal)
    ]  # fmt: skip
    kept = m.log.kept(family, principal)
    return sum(max(0, p.tally.num_calls - len(p.calls) - kept[p.pid]) for p in shown)


def demand_door(call: Call) -> None:
    """Raises NotOwner for a program."""
    if call.process.kind in (Kind.PROGRAM, Kind.SESSION):
        raise NotOwner(f"{call.op} is for clients, not for programs")


def attach(m: Machine, call: Call, a: Attach) -> None:
    """Stream a program's events; answers Done at its end, or at once without `follow`."""
    demand_door(call)
    if a.from_seq < 1:
        raise InvalidArgument(f"from_seq must be 1 or more, not {a.from_seq}", from_seq=a.from_seq)
    target = m.find(a.pid, call.cred)
    if target.kind not in (Kind.PROGRAM, Kind.SESSION):
        raise NoSuchProcess(f"process {a.pid} is a connection and has no events", pid=a.pid)
    viewer = Viewer(call, target, a.from_seq, a.follow)
    call.pending = viewer
    m.mark(viewer)


def strace(m: Machine, call: Call, a: Strace) -> None:
    """Stream the event log; answers Done at the end of the process (with `children`, of its last descendant), or at once without
    `follow`."""
    demand_door(call)
    if a.from_seq < 1:
        raise InvalidArgument(f"from_seq must be 1 or more, not {a.from_seq}", from_seq=a.from_seq)
    principal = None if call.cred.is_admin else call.cred.principal
    family = None
    if a.pid is not None:
        if Pid(a.pid) in m.processes:
            m.find(a.pid, call.cred)
        elif not m.log.has(a.pid, principal):
            raise NoSuchProcess(f"no such process: {a.pid}", pid=a.pid)
        family = Family(a.pid, a.children)
    tracer = Tracer(m, call, a, family, principal)
    call.pending = tracer
    m.mark(tracer)


def info(m: Machine, call: Call, a: NoArgs) -> InfoResult:
    """The server as it is now: what the host says of itself, and the kernel's counters."""
    demand_door(call)
    host = m.info() if m.info is not None else {}
    policies = {p.level: {"policy": p.policy, "from": p.source, "parameters": p.parameters} for p in m.sched.shown()}
    view = m.queue_view()
    queue = {"running": view.running, "waiting": view.queued}
    return InfoResult(json.dumps({**host, "sched": policies, "queue": queue, "kernel": m.counters()}, default=str))


def model_info(m: Machine, call: Call, a: NoArgs) -> ModelInfoResult:
    """The model and its limits."""
    return ModelInfoResult(m.model)
