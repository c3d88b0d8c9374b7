"""The state of the machine, and how calls end (kernel/machine.py).

    processes --own--> calls in flight --wait for--> jobs, timers, children, streams
        |                                             |
        +--fds--> files <-----------------------------+          effects: what the world must do, in order

The calls (`syscall/`), the life of processes (`lifecycle`) and the entries (`kernel`) all work on this one object. A call ends in
one place, `finish` or `fail`: reply, event log, clean-up. Streams are marked when they have something new and flushed once an
entry.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vllm_symphony.abi.types import Credentials, Ino, JobId, MetricSample, ModelInfo, Pid, StepRecord, ToolInfo
from vllm_symphony.errors import NoSuchProcess, QuotaExceeded, SymphonyError
from vllm_symphony.kernel.budget import Budget
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import Capacity, Effect, Reply, ReplyError, Residency, Resumes
from vllm_symphony.kernel.fs.account import Account
from vllm_symphony.kernel.fs.keep import Keeper
from vllm_symphony.kernel.fs.table import FileTable
from vllm_symphony.kernel.fs.watch import Watches
from vllm_symphony.kernel.ipc.table import Channels
from vllm_symphony.kernel.job import Job
from vllm_symphony.kernel.limits import Limits
from vllm_symphony.kernel.meter import Meter
from vllm_symphony.kernel.process import Process
from vllm_symphony.kernel.registry import Registry
from vllm_symphony.kernel.request import Requests
from vllm_symphony.kernel.sched.settings import Settings
from vllm_symphony.kernel.sched.view import QueueView
from vllm_symphony.kernel.timer import Timers
from vllm_symphony.trace.log import EventLog


class Machine:
    """All of the kernel's state. Times inside are `now_ns`; `offset_ns` makes wall-clock times of them for readers."""

    def __init__(
        self,
        model: ModelInfo,
        *,
        limits: Limits,
        seed: int,
        boot_ns: int,
        epoch_ns: int,
        info: Callable[[], dict[str, Any]] | None,
    ) -> None:
        self.model = model
        self.limits = limits
        self.seed = seed
        self.boot_ns = boot_ns
        self.offset_ns = epoch_ns - boot_ns
        self.info = info
        self.job_state: Callable[[JobId], tuple[str, str]] = lambda _: ("batch", "")  # the device's, for `why`
        self.residency: Callable[[Ino], Residency] = lambda _: Residency()  # the device's, for `stat`, `du` and quotas
        self.capacity: Callable[[], Capacity] = Capacity  # the device's
        self.unread_bytes: Callable[[Pid], int] = lambda _: 0  # answers that a peer has not taken; the host's, for `why`
        self.input_bytes: Callable[[Pid], int | None] = lambda _: None  # that a program has not read; None: it is closed
        self.tool_table: Callable[[str], Sequence[ToolInfo]] = lambda _: ()  # tools that a principal may use; the tool host's
        self.granted_tools: Callable[[str], Sequence[str]] | None = None  # globs, the operator's; None: no tools
        self.may_trust: Callable[[str], bool] = lambda _: False  # with programs in the host's own process; the operator's word
        self.queue_view: Callable[[], QueueView] = QueueView  # who waits for the device; the device's
        self.image: Mapping[str, str] = {}  # distributions that programs may import: name -> version

        self.host_samples: Callable[[], Iterable[MetricSample]] = tuple  # what the host counts: engine, store, fork servers

        self.effects: list[Effect] = []
        self.meter = Meter()
        self.reports: dict[Pid, tuple[MetricSample, ...]] = {}  # what edges count, the last that each has said
        self.log = EventLog(limits.log_records, self.offset_ns)
        self.timers = Timers()
        self.account = Account(self)
        self.files = FileTable(limits, self.emit, boot_ns, self.account)
        self.watches = Watches(self)
        self.channels = Channels(self)
        self.processes: dict[Pid, Process] = {}
        self.budgets: dict[str, Budget] = {}  # of principals
        self.overrun: dict[tuple[Budget, str], None] = {}  # budgets that were used up in this entry, and what of them
        self.continued: list[Process] = []  # that go on after this entry, with the calls that were held
        self.ended: deque[Process] = deque()  # zombies without a parent, oldest first
        self.jobs: dict[JobId, Job] = {}
        self.works: dict[JobId, Pending] = {}  # of the tokenizer and of the store
        self.tracers: list[Pending] = []
        self.life_watchers: list[Callable[[Process], None]] = []  # of those tracers that want to hear of processes
        self.lost: str | None = None  # the device's last words
        self.steps: deque[StepRecord] = deque(maxlen=limits.step_records)
        self.requests: dict[str, Requests] = {}  # of principals who call through an edge

        self.num_pids = 0
        self.num_jobs = 0
        self.num_programs = 0  # that have not ended
        self.sessions_of: Counter[str] = Counter()  # that have not ended, by principal
        self.num_silent = 0  # calls without a reply so far: their keys
        self.keep = Keeper(self)
        self.registry = Registry(self)
        self.sched = Settings(self.emit, lambda: self.keep.on)
        self._dirty: dict[Pending, None] = {}

    @property
    def num_sessions(self) -> int:
        """That have not ended."""
        return self.sessions_of.total()

    def emit(self, effect: Effect) -> None:
        """Ask something of the world."""
        self.effects.append(effect)

    def find(self, pid: int, cred: Credentials) -> Process:
        """The process, if `cred` may see it. Raises NoSuchProcess, also for one that it may not see."""
        process = self.processes.get(Pid(pid))
        if process is None or not process.visible_to(cred):
            raise NoSuchProcess(f"no such process: {pid}", pid=pid)
        return process

    def finish(self, call: Call, result: Any, now_ns: int) -> None:
        """The call succeeded. Harmless when it has ended already."""
        if call.ended:
            return
        if call.requests is not None:
            call.requests.settle(call.request_id, result)
            call.requests = None
        self._end(call, "ok", now_ns)
        pid = call.door.pid
        if call.id and pid in self.processes:
            self.effects.append(Reply(pid, call.id, result))

    def fail(self, call: Call, error: SymphonyError, now_ns: int) -> None:
        """The call failed. Harmless when it has ended already."""
        if call.ended:
            return
        self._end(call, error.reason, now_ns)
        if isinstance(error, QuotaExceeded):
            self.meter.limits.add(str(error.values.get("resource") or error.values.get("what") or ""))
        if call.id:
            self.effects.append(ReplyError(call.door.pid, call.id, error))

    def abandon(self, call: Call, now_ns: int) -> None:
        """End a call whose process is gone: let go of what it waits for, log it, answer nobody."""
        if call.ended:
            return
        if call.pending is not None:
            call.pending.drop(self)
        self._end(call, "EINTR", now_ns)

    def refuse(self, call: Call, error: SymphonyError, now_ns: int) -> None:
        """End a call whose process is gone, and tell its door why."""
        if not call.ended and call.pending is not None:
            call.pending.drop(self)
        self.fail(call, error, now_ns)

    def _end(self, call: Call, result: str, now_ns: int) -> None:
        process, door = call.process, call.door
        if process.fds.touched:
            process.settle_pages(self.model.page_size, now_ns)
        call.ended = True
        call.pending = None
        if process.calls.get(call.key) is call:
            del process.calls[call.key]
        if door is not process:
            process.called_ns = now_ns
            if door.calls.get(call.id) is call:
                del door.calls[call.id]
        if call.requests is not None:
            call.requests.forget(call.request_id)
        if call.rests:
            self.emit(Resumes(process.pid, call.tid, call.key))
        self.meter.call_ended(call, result, now_ns)
        self.log.append((
            process.pid, call.tid, call.op, call.digest, result, call.start_ns, now_ns, call.step_first, call.step_last,
            call.cred.principal, process.spawner,
        ))  # fmt: skip
        if self.tracers:
            self.mark(*self.tracers)

    def mark(self, *streams: Pending) -> None:
        """These streams have something new to send."""
        for stream in streams:
            self._dirty[stream] = None

    def flush(self, now_ns: int) -> None:
        """Send what streams have; ending one may mark another. Tell the store what has changed."""
        while self._dirty:
            stream = next(iter(self._dirty))
            del self._dirty[stream]
            if stream.call is not None:
                stream.flush(self, now_ns)
        if self.keep.is_due:
            self.keep.flush()

    def counters(self) -> dict[str, int]:
        """What is held now, and how many calls there were: for `info` and tests."""
        processes = self.processes.values()
        return {
            "processes": sum(not p.has_ended for p in processes),
            "programs": self.num_programs,
            "sessions": self.num_sessions,
            "zombies": sum(p.has_ended for p in processes),
            "calls": sum(call.process is p for p in processes for call in p.calls.values()),
            "jobs": len(self.jobs) + len(self.works),
            "files": len(self.files.inodes),
            "named_files": sum(1 for inode in self.files.inodes.values() if inode.names),
            "names": sum(len(inode.names) for inode in self.files.inodes.values()),
            "directories": len(self.files.directories),
            "fds": sum(len(p.fds) for p in processes),
            "threads": sum(len(p.threads) for p in processes),
            "timers": len(self.timers),
            "viewers": sum(len(p.viewers) for p in processes),
            "tracers": len(self.tracers),
            "watchers": self.watches.num_watchers,
            "channels": len(self.channels.all),
            "handles": self.channels.num_handles,
            "messages": self.channels.num_messages,
            "calls_ended": self.log.next_seq - 1,
        }

    def check(self) -> None:
        """All invariants of the machine. Raises AssertionError."""
        self.timers.check()
        self.registry.check()
        self.files.check(self.model.max_positions)
        self.account.check({**self.files.inodes, **self.files.directories})
        open_files = [file.inode for p in self.processes.values() for file in p.fds.files.values()]
        open_files += self.channels.files()
        assert len(open_files) == sum(inode.num_open for inode in self.files.inodes.values())
        assert all(self.files.inodes.get(inode.ino) is inode for inode in open_files)
        self._check_budgets()
        for pid, process in self.processes.items():
            assert process.pid == pid
            process.check()
            for call in process.calls.values():
                assert call.pending is not None and call.pending.call is call, f"{call.op} waits for nothing"
        for inode in self.files.inodes.values():
            if inode.lock is not None:
                inode.lock.check()
        for job in self.jobs.values():
            assert job.inode.writer == job.id if job.writes else job.id in job.inode.readers
            assert job.call is None or not job.call.ended
            assert job.call is not None or job.stopping is not None
        held = {i.writer for i in self.files.inodes.values() if i.writer} | {
            j for i in self.files.inodes.values() for j in i.readers
        }
        assert held <= self.jobs.keys() | self.works.keys()
        for kind, count in (("program", self.num_programs), ("session", self.num_sessions)):
            assert count == sum(p.kind == kind and not p.has_ended for p in self.processes.values())
        assert all(p.has_ended and p.parent is None and self.processes[p.pid] is p for p in self.ended)
        assert len(self.ended) == sum(p.has_ended and p.parent is None for p in self.processes.values()) <= self.limits.ended
        assert all(s.call is not None and not s.call.ended for s in self.tracers)
        self.watches.check()
        self.channels.check()
        assert not (self._dirty or self.overrun or self.continued)

    def _check_budgets(self) -> None:
        """Each program is counted in each budget above it."""
        running: Counter[Budget] = Counter()
        known = dict.fromkeys(self.budgets.values())
        for process in self.processes.values():
            if process.budget is not None:
                chain = list(process.budget.chain())
                known.update(dict.fromkeys(chain))
                if process.kind == "program" and not process.has_ended:
                    running.update(chain)
        for budget in known:
            budget.check(running[budget], bool(self.jobs))
