"""The kernel: what the host may tell it, and nothing else (kernel/kernel.py).

    reactor --- connect, call, reject, started, output, exited, disconnected ---+
    device  --- complete, device_lost ------------------------------------------+--> Kernel --> effects, in order
    clock   --- tick -----------------------------------------------------------+

Pure and deterministic: the same entries in the same order give the same effects. No clock, no threads, no I/O: time comes in as
`now_ns` and never goes back; one thread owns it and takes `effects` away after each entry. A call never raises: what a program did
wrong is a `ReplyError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from vllm_symphony.abi.calls import Spawn
from vllm_symphony.abi.record import Restored
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import ABI_MINOR, Credentials, ExitStatus, ModelInfo, Pid, ProcessState, StepRecord
from vllm_symphony.errors import DeviceLost, Interrupted, InvalidArgument, NoSuchCall, NoSuchProcess, SymphonyError, WouldBlock
from vllm_symphony.kernel import budget, lease, lifecycle, overrun, rest
from vllm_symphony.kernel.call import Call, Held
from vllm_symphony.kernel.effect import Completion, JobFailed, ReplyError, StepRan
from vllm_symphony.kernel.fs.inode import EXACT
from vllm_symphony.kernel.limits import DEFAULT, Limits
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind, Process
from vllm_symphony.kernel.request import Requests
from vllm_symphony.kernel.syscall import keep
from vllm_symphony.kernel.syscall.table import SYSCALLS
from vllm_symphony.trace.summary import DIGESTS

UNHELD = ("cancel",)  # calls that a stopped process may have made before: they only end what is held


class Kernel(Machine):
    """The machine's entries. `effects` grows in order; `log` is the event log."""

    def __init__(
        self,
        model: ModelInfo,
        *,
        limits: Limits = DEFAULT,
        seed: int = 0,
        boot_ns: int = 0,
        epoch_ns: int = 0,
        info: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        """`boot_ns` is `now_ns` at the start, `epoch_ns` the wall clock then; `info` gives the host's part of `info`."""
        super().__init__(model, limits=limits, seed=seed, boot_ns=boot_ns, epoch_ns=epoch_ns, info=info)

    def connect(
        self,
        cred: Credentials,
        role: str,
        now_ns: int,
        *,
        lease_s: float = 0.0,
        name: str = "",
        minor: int = ABI_MINOR,
        traceparent: str = "",
    ) -> Pid:
        """A connection of role `client` or `edge`: a process without code, with fds and children of its own. A client with a lease
        is a session. `minor`: of the ABI that it was written for;
        `traceparent`: what a session continues."""
        if role not in (Kind.CLIENT, Kind.EDGE):
            raise InvalidArgument(f"role must be client or edge, not {role!r}")
        if role == Kind.CLIENT and lease_s:
            process = lease.open_session(self, cred, lease_s, name, now_ns, traceparent)
        else:
            process = lifecycle.birth(self, Kind(role), role, cred, now_ns)
        process.minor = minor
        return process.pid

    def restore(self, restored: Restored, now_ns: int) -> None:
        """What a store that outlives us holds; before any other entry. From here on it is told of every change."""
        self.keep.restore(restored, now_ns)
        for record in restored.principals:
            budget.restore(self, record)
        self.registry.restore(restored.programs)
        self.sched.restore(restored)

    def save(self, now_ns: int) -> bool:
        """The server is about to stop: have on disk what directories keep with its pages. False: there is nothing to do."""
        return keep.save_all(self, now_ns)

    def reweighted(self, fingerprint: str) -> None:
        """The model has other weights, and the device no page of before. Files stand as after a start with another model: what was
        saved of exact ones is not used, edited ones are stale."""
        self.model = replace(self.model, fingerprint=fingerprint)
        for inode in self.files.inodes.values():
            inode.stale = bool(inode.saved) or (inode.fidelity != EXACT and inode.length > 0)

    def weigh(self, principal: str, weight: float, cap: int | None = None) -> None:
        """The host's word on a principal's part of the device, and the most of its calls at once. Raises InvalidArgument."""
        self.sched.weigh(principal, weight, cap)

    def set_policy(self, level: str, name: str, parameters: Mapping[str, float] = MappingProxyType({})) -> None:
        """The host's word at the start on who decides. Raises as `catalogue.demand`."""
        self.sched.begin_with(level, name, parameters)

    def resume(self, pid: Pid, cred: Credentials) -> None:
        """A session is connected again. Raises NoSuchProcess when it has ended, or is not the caller's."""
        lease.resume(self, lease.find(self, pid, cred))

    def end_session(self, pid: Pid, why: str, now_ns: int) -> None:
        """The host cannot keep a session; harmless when it has ended."""
        process = self.processes.get(pid)
        if process is not None and process.kind is Kind.SESSION:
            lease.end(self, process, why, now_ns)
            self.flush(now_ns)

    def call(
        self,
        pid: Pid,
        call_id: int,
        tid: int,
        op: str,
        args: Any,
        now_ns: int,
        cred: Credentials | None = None,
        *,
        session: Pid = Pid(0),  # noqa: B008
        request_id: str = "",
    ) -> None:
        """A system call, `args` being the dataclass of its row in CALLS. From an edge only: `cred` is whom it acts for, `session`
        whose call it is. `request_id`: a retry with the same one gets the first one's result."""
        door = self.processes.get(pid)
        if door is None or door.state is ProcessState.ZOMBIE:
            if call_id:
                self.effects.append(ReplyError(pid, call_id, NoSuchProcess(f"no such process: {pid}", pid=pid)))
            return
        if door.state is ProcessState.STARTING:
            self._runs(door, now_ns)  # who calls runs, whether or not the host has said so
        if cred is None or door.kind is not Kind.EDGE:
            cred = door.cred
        digest = DIGESTS.get(op)
        call = Call(door, door, call_id, tid, op, digest(args) if digest is not None else (), cred, now_ns)
        try:
            if session:
                call.process = lease.find(self, session, cred)
                lease.renew(self, call.process, now_ns)
            self._admit(call)
        except SymphonyError as error:
            self.fail(call, error, now_ns)
        else:
            if call.process.stopped and (op not in UNHELD or tid not in call.process.threads):
                held = call.pending = Held(call, args, request_id)
                call.process.held.append(held)
                return
            self._run(call, args, request_id, now_ns)
        self._settle(now_ns)

    def _run(self, call: Call, args: Any, request_id: str, now_ns: int) -> None:
        """Carry the call out: it ends, or waits for something."""
        try:
            thread = call.process.threads.get(call.tid)
            if thread is None:
                raise InvalidArgument(f"unknown thread: {call.tid} ({len(call.process.threads)} run)", tid=call.tid)
            thread.tally.num_calls += 1
            overrun.demand_time(self, call)
            result = self._repeated(call, request_id, args) if request_id and CALLS[call.op].mutates else None
            if result is None:
                result = SYSCALLS[call.op](self, call, args)
        except SymphonyError as error:
            self.fail(call, error, now_ns)
        else:
            if result is not None:
                self.finish(call, result, now_ns)
            else:
                rest.begin(self, call, args)

    def _settle(self, now_ns: int) -> None:
        """The end of an entry: who was told to go on does, budgets that are used up are dealt with, streams and the store hear."""
        while self.continued or self.overrun:
            overrun.enforce(self, now_ns)
            if self.continued:
                self._release(self.continued.pop(0), now_ns)
        if self._dirty or self.keep.is_due:
            self.flush(now_ns)

    def _release(self, process: Process, now_ns: int) -> None:
        """Carry out the calls of a process that goes on, in the order in which it made them."""
        self.channels.go_on(process, now_ns)
        while process.held and not process.stopped:
            held = process.held.pop(0)
            call = held.call
            assert call is not None, "who ends a held call takes it out"
            held.call = call.pending = None
            call.start_ns = now_ns
            self._run(call, held.args, held.request_id, now_ns)

    def _admit(self, call: Call) -> None:
        """Let the call in, or say why not; from here it is in the process's table until it ends, and in its door's."""
        process, door = call.process, call.door
        calls = process.calls
        process.tally.num_calls += 1
        if call.id == 0 or door is not process:
            self.num_silent += 1
            call.key = -self.num_silent
        if call.id in door.calls or call.id < 0:
            raise InvalidArgument(f"call id {call.id} is negative, or still in flight", id=call.id)
        if call.op not in SYSCALLS:
            raise NoSuchCall(f"no such call: {call.op}", op=call.op)
        if process.reported is not None or process.killed:
            raise Interrupted("the process has ended and waits for its socket to close")
        if len(calls) >= self.limits.calls:
            raise WouldBlock(f"{len(calls)} calls are in flight, the most a process may have", limit=self.limits.calls)
        calls[call.key] = call
        if door is not process and call.id:
            door.calls[call.id] = call

    def _repeated(self, call: Call, request_id: str, args: Any) -> Any | None:
        """The result of an earlier call with this id; None for the first one, which is remembered when it succeeds."""
        process = call.process
        if process.kind is Kind.EDGE:  # many principals share it
            requests = self.requests.pop(call.cred.principal, None) or Requests(self.limits.requests)
            self.requests[call.cred.principal] = requests  # the latest last
            if len(self.requests) > self.limits.requesters:
                del self.requests[next(iter(self.requests))]
        else:
            requests = process.requests
        if isinstance(args, Spawn) and args.traceparent:
            args = replace(args, traceparent="")  # each try is a span of its own at the caller
        result = requests.claim(request_id, call.op, args)
        if result is None:
            call.requests, call.request_id = requests, request_id
        return result

    def reject(self, pid: Pid, call_id: int, tid: int, op: str, error: SymphonyError, now_ns: int) -> None:
        """The codec refused the frame: the caller gets `error`, and the log a line."""
        process = self.processes.get(pid)
        if process is not None and not process.has_ended:
            process.tally.num_calls += 1
            self.fail(Call(process, process, call_id, tid, op, (), process.cred, now_ns), error, now_ns)
            self._settle(now_ns)

    def started(self, pid: Pid, os_pid: int, now_ns: int) -> None:
        """The program's OS process runs."""
        process = self.processes.get(pid)
        if process is not None and not process.has_ended:
            process.os_pid = os_pid
            self._runs(process, now_ns)
            self.flush(now_ns)

    def _runs(self, process: Process, now_ns: int) -> None:
        if process.state is ProcessState.STARTING:
            process.state = ProcessState.RUNNING
            self.meter.start_seconds.observe(now_ns - process.started_ns)
            lifecycle.note(self, process, "started", "", now_ns)

    def output(self, pid: Pid, kind: str, text: str, now_ns: int) -> None:
        """The program wrote to `stdout` or `stderr`."""
        process = self.processes.get(pid)
        if process is not None and not process.has_ended and text:
            self._runs(process, now_ns)  # what it says comes by another way than the word that it runs
            lifecycle.note(self, process, kind, text, now_ns)
            self.flush(now_ns)

    def used(self, pid: Pid, cpu_s: float, memory_bytes: int, now_ns: int) -> None:
        """What the program's OS process has used since it started: CPU seconds, and resident memory now."""
        process = self.processes.get(pid)
        if process is not None and process.kind is Kind.PROGRAM and not process.has_ended:
            lifecycle.burnt(self, process, cpu_s)
            process.memory_bytes = memory_bytes
            self._settle(now_ns)

    def exited(
        self, pid: Pid, code: int, cpu_s: float, now_ns: int, error: SymphonyError | str | None = None, reason: str = ""
    ) -> None:
        """The OS process is gone, or could not be started: `code` as a shell shows it (128 + n), `cpu_s` all that it used, `error`
        the host's word, `reason` if the host knows it: `limit` (out of memory, CPU time) or `denied` (a system call)."""
        process = self.processes.get(pid)
        if process is not None and process.kind is Kind.PROGRAM and not process.has_ended:
            lifecycle.burnt(self, process, cpu_s)
            process.died_of = reason
            lifecycle.finalise(self, process, lifecycle.status_of(process, code, error), now_ns)
            self._settle(now_ns)

    def disconnected(self, pid: Pid, now_ns: int) -> None:
        """A client or an edge is gone; what it owned goes with it. A session's lease begins."""
        process = self.processes.get(pid)
        if process is not None and process.kind is Kind.SESSION:
            if not process.has_ended:
                lease.suspend(self, process, now_ns)
        elif process is not None and process.kind is not Kind.PROGRAM:
            lifecycle.finalise(self, process, ExitStatus(0, "exit"), now_ns)
            self.flush(now_ns)

    def complete(self, completions: Sequence[Completion], now_ns: int) -> None:
        """What the device has done. Work that was forgotten meanwhile (a text job of a dead process) is passed over."""
        jobs = self.jobs
        for completion in completions:
            job = jobs.get(completion.job)
            if job is None:
                text = self.works.get(completion.job)
                if text is not None:
                    text.completed(self, completion, now_ns)
                elif isinstance(completion, StepRan):
                    shift = self.offset_ns
                    self.steps.append(StepRecord(
                        completion.step, completion.t_start_ns + shift, completion.t_end_ns + shift, completion.num_calls,
                        completion.num_tokens,
                    ))  # fmt: skip
            elif isinstance(completion, JobFailed):
                job.failed(self, completion, now_ns)
            else:
                job.completed(self, completion, now_ns)
        self._settle(now_ns)

    def device_lost(self, message: str, now_ns: int) -> None:
        """Nothing can be computed any more: device calls end with ENODEV, programs are told to end, with code 70."""
        if self.lost is not None:
            return
        self.lost = message
        error = DeviceLost(message)
        for job in list(self.jobs.values()):
            job.failed(self, JobFailed(job.id, error), now_ns)
        for text in list(self.works.values()):
            text.interrupt(self, error, now_ns)
        for process in list(self.processes.values()):
            if process.kind is Kind.PROGRAM and not process.has_ended and process.reported is None:
                process.lost = message
                lifecycle.terminate(self, process, now_ns)
        self.flush(now_ns)

    def tick(self, now_ns: int) -> None:
        """Let what is due happen."""
        self.timers.run(now_ns)
        self.files.expiries.run(now_ns)
        self._settle(now_ns)

    def next_deadline_ns(self) -> int | None:
        """When `tick` has something to do; None: never."""
        due = [when_ns for when_ns in (self.timers.next_ns(), self.files.expiries.next_ns()) if when_ns is not None]
        return min(due, default=None)

    def idle(self) -> bool:
        """No process, no call, no file without a name: all that ran has left nothing. What `ps` shows of ended ones is nothing."""
        return (
            all(process.has_ended for process in self.processes.values())
            and not self.jobs
            and not self.works
            and not self.timers
            and self.channels.is_idle()
            and all(inode.names and not inode.num_open for inode in self.files.inodes.values())
        )
