"""attach, strace, info, model_info: looking at the machine (kernel/syscall/view.py).

    events of a process  --cursor--> AttachPart, AttachPart, ...     a stream holds a number, not a copy: the ring is the only
    event log            --cursor--> StracePart, StracePart, ...     buffer, so a late viewer costs nothing, but meets gaps

What is new is sent once an entry of the kernel, in parts of bounded size. Streams of a process end when it does.
"""

from __future__ import annotations

import json

from vllm_symphony.abi.calls import Attach, AttachPart, Done, InfoResult, ModelInfoResult, NoArgs, Strace, StracePart
from vllm_symphony.abi.types import CallRecord, Pid
from vllm_symphony.errors import InvalidArgument, NoSuchProcess, NotOwner
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import Part
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind, Process


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
    """One strace of `pid` (None: all of the principal's; principal None: all), from `next_seq` on."""

    __slots__ = ("follow", "next_seq", "pid", "principal")

    def __init__(self, m: Machine, call: Call, pid: int | None, principal: str | None, follow: bool) -> None:
        super().__init__(call)
        self.pid = pid
        self.principal = principal
        self.follow = follow
        self.next_seq = 1
        m.tracers.append(self)

    def drop(self, m: Machine) -> None:
        super().drop(m)
        m.tracers.remove(self)

    def flush(self, m: Machine, now_ns: int) -> None:
        call = self.call
        assert call is not None
        room: list[CallRecord] = []
        for record in m.log.since(self.next_seq, pid=self.pid, principal=self.principal):
            room.append(record)
            if len(room) == m.limits.part_events:
                m.emit(Part(call.door.pid, call.id, StracePart(tuple(room))))
                room = []
        if room:
            m.emit(Part(call.door.pid, call.id, StracePart(tuple(room))))
        self.next_seq = m.log.next_seq
        target = m.processes.get(Pid(self.pid)) if self.pid is not None else None
        if not self.follow or (self.pid is not None and (target is None or target.has_ended)):
            self.drop(m)
            m.finish(call, Done(), now_ns)


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
    """Stream the event log; answers Done at the end of the process, or at once without `follow`."""
    demand_door(call)
    principal = None if call.cred.is_admin else call.cred.principal
    if a.pid is not None and Pid(a.pid) not in m.processes and not m.log.has(a.pid, principal):
        raise NoSuchProcess(f"no such process: {a.pid}", pid=a.pid)
    if a.pid is not None and Pid(a.pid) in m.processes:
        m.find(a.pid, call.cred)
    tracer = Tracer(m, call, a.pid, principal, a.follow)
    call.pending = tracer
    m.mark(tracer)


def info(m: Machine, call: Call, a: NoArgs) -> InfoResult:
    """The server as it is now: what the host says of itself, and the kernel's counters."""
    demand_door(call)
    host = m.info() if m.info is not None else {}
    return InfoResult(json.dumps({**host, "kernel": m.counters()}, default=str))


def model_info(m: Machine, call: Call, a: NoArgs) -> ModelInfoResult:
    """The model and its limits."""
    return ModelInfoResult(m.model)
