"""Kernel, simulated device and programs in one event loop, leaping from event to event (testing/world.py).

    program tasks --MemoryTransport--> faults --> Kernel --effects--> SimCore
                        ^-- replies -----------------'   ^-- completions, at the virtual time at which the step ends --'

Deterministic under its seed, also the order in which programs run; a second of virtual time costs nothing unless something happens
in it. Programs share the interpreter: one that never awaits a call hangs the test. A killed program gets CancelledError once, and
every call that it still makes is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_symphony.abi import calls
from vllm_symphony.abi.codec import Program
from vllm_symphony.abi.types import PYTHON, Credentials, Pid, Signal
from vllm_symphony.engine.image import image
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.engine.sim.model import decode
from vllm_symphony.engine.storage import StorageCore
from vllm_symphony.errors import BadProgram
from vllm_symphony.kernel.effect import (
    CancelTool,
    Completion,
    FeedInput,
    Hangup,
    JobFailed,
    Launch,
    Part,
    Reply,
    ReplyError,
    Signalled,
    StoreCheck,
    StoreEffect,
    StoreExport,
    StoreFind,
    StoreGc,
    StoreImport,
    StoreSync,
    StoreWrite,
    ToolJob,
)  # fmt: skip
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.limits import Limits
from vllm_symphony.kernel.sched.view import seen
from vllm_symphony.kernel.syscall.target import shown
from vllm_symphony.lip import transport
from vllm_symphony.lip.program import bind_arguments
from vllm_symphony.runtime import loader
from vllm_symphony.runtime.program import failure_of
from vllm_symphony.store.state import StateDirectory
from vllm_symphony.testing.fault import Faults
from vllm_symphony.testing.leap import LeapLoop
from vllm_symphony.testing.run import KILLED, Input, Run, apart, enter
from vllm_symphony.testing.script import Unscripted
from vllm_symphony.testing.tool import Props
from vllm_symphony.testing.transport import MemoryTransport

EPOCH_NS = 1_700_000_000_000_000_000


@dataclass(eq=False)
class Stop:
    """Where a drive pauses although programs run: before the clock passes `at_ns`, or once `condition` holds."""

    reached: asyncio.Future[None]
    at_ns: int | None = None
    condition: Callable[[], bool] | None = None

    def is_due(self, next_ns: int | None) -> bool:
        if self.at_ns is not None:
            return next_ns is None or next_ns > self.at_ns
        return self.condition is not None and self.condition()


class World:
    """All that happens on a machine. `Machine` says when."""

    def __init__(self, device: SimDevice, seed: int, limits: Limits, principal: str, directory: StateDirectory | None) -> None:
        """`directory`: where files outlive the machine; it is ours from here on. None: nowhere."""
        self.now_ns = 0
        self.device = device
        self.core = device.core
        self.seed = seed
        self.kernel = Kernel(device.model, limits=limits, seed=seed, epoch_ns=EPOCH_NS)
        self.kernel.image = image()
        self.kernel.job_state = self.core.job_state
        self.kernel.residency, self.kernel.capacity = self.core.residency, self.core.capacity
        self.kernel.queue_view = lambda: seen(self.core.former.queue)
        model = device.model
        self.storage = StorageCore(directory, fingerprint=model.fingerprint, page_bytes=model.page_bytes, decode=decode)
        if directory is not None:
            self.kernel.restore(self.storage.load(), 0)
        self.kernel.input_bytes = self._input_bytes
        self.loop = LeapLoop(lambda: self.now_ns / 1e9, self._leap)
        self.runs: dict[Pid, Run] = {}
        self.faults = Faults(seed)
        self.props = Props(self)
        self.failure: Exception | None = None  # why the machine stopped first
        self.is_closing = False
        self.step_ends_ns: int | None = None
        self._stop: Stop | None = None
        self._transports: dict[Pid, MemoryTransport] = {}
        self.connections: dict[str, Pid] = {}  # of principals
        self.root = self.connection_of(principal)
        self._namespaces: dict[str, dict[str, Any]] = {}
        self._carrying = False
        self._carry_out()  # what was restored

    # ---- driving

    @property
    def now_s(self) -> float:
        """Virtual seconds since the machine began."""
        return self.now_ns / 1e9

    @property
    def client(self) -> MemoryTransport:
        """The test's own connection. Control calls answer at once: `m.client.call(op, args).result()`."""
        return self._transports[self.root]

    def connection_of(self, principal: str) -> Pid:
        """The test's connection as that principal. The first one's has scope admin, too."""
        if principal not in self.connections:
            scopes = ("run",) if self.connections else ("admin", "run")
            pid = self.connections[principal] = self.kernel.connect(Credentials(principal, scopes=scopes), "client", self.now_ns)
            self._transports[pid] = MemoryTransport(self, pid)
        return self.connections[principal]

    def close_connections(self) -> None:
        for pid in self.connections.values():
            self._transports[pid].close()

    def drive(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Let things happen until `what` is done."""
        task = self.loop.create_task(what)
        try:
            with apart():
                return self.loop.run_until_complete(task)
        finally:
            task.cancel()

    async def all_ended(self) -> None:
        while tasks := [run.task for run in self.runs.values() if run.task is not None and not run.task.done()]:
            await asyncio.wait(tasks)

    async def paused(self, at_ns: int | None = None, condition: Callable[[], bool] | None = None) -> None:
        """Until the clock would pass `at_ns`, where it is left; or until `condition` holds when no program can go on."""
        self._stop = Stop(self.loop.create_future(), at_ns, condition)
        try:
            await self._stop.reached
        finally:
            self._stop = None

    def settle(self) -> None:
        """Let the device end what nobody waits for, and take its mail."""
        while self.kernel.jobs or self.kernel.works or self.core.mail:
            if self.step_ends_ns is not None or self.core.begin() is not None:
                self.step_ends_ns = None
                self.core.finish()
            elif self.core.wake_at is not None:  # pages are on their way
                self.now_ns = max(self.now_ns, int(self.core.wake_at * 1e9) + 1)
            self._complete()

    def enter(self, pid: Pid, call_id: int, tid: int, op: str, args: Any) -> None:
        """A process's call."""
        run = self.runs.get(pid)
        fault = self.faults.strike_call(pid, op) if run is not None else None
        if fault is not None and fault.error is not None:
            self.kernel.reject(pid, call_id, tid, op, fault.error, self.now_ns)
        else:
            if fault is not None:
                self.client.post("kill", calls.Kill(pid, Signal.KILL))
            elif run is not None and op == "emit":
                run.emitted.append(json.loads(args.value))
            self.kernel.call(pid, call_id, tid, op, args, self.now_ns)
        self._carry_out()

    def deliver(self, completions: Sequence[Completion]) -> None:
        """Tell the kernel what was done outside of the device."""
        self.kernel.complete(completions, self.now_ns)
        self._carry_out()

    def _carry_out(self) -> None:
        effects = self.kernel.effects
        if self._carrying:
            return
        self._carrying = True
        while effects:
            batch = effects[:]
            effects.clear()
            stored: list[StoreEffect] = []
            for e in batch:
                if isinstance(e, Reply | ReplyError):
                    if (there := self._transports.get(e.pid)) is not None:
                        there.answer(e.call_id, e.result if isinstance(e, Reply) else e.error)
                elif isinstance(e, Part):
                    if (there := self._transports.get(e.pid)) is not None:
                        there.part(e.call_id, e.part)
                elif isinstance(e, Launch):
                    self._launch(e)
                elif isinstance(e, Signalled):
                    self._signal(e)
                elif isinstance(e, StoreWrite | StoreSync | StoreFind | StoreCheck | StoreGc | StoreExport | StoreImport):
                    stored.append(e)
                elif isinstance(e, FeedInput):
                    if (fed := self.runs[e.pid].input) is not None:
                        fed.feed(e.data, e.eof)
                elif isinstance(e, ToolJob):
                    self.props.submit(e)
                elif isinstance(e, CancelTool):
                    self.props.cancel(e)
                elif not isinstance(e, Hangup):  # nobody of this world is a session
                    self.core.submit((e,))
            if stored and (done := self.storage.apply(stored)):  # disks take no time here
                self.kernel.complete(done, self.now_ns)
        self._carrying = False

    def _leap(self, timeout_s: float | None) -> None:
        """Nothing is ready: let the next thing happen."""
        core = self.core
        self._begin_step()
        if core.out:
            self._complete()
            return
        wake_ns = None if self.step_ends_ns is not None or core.wake_at is None else int(core.wake_at * 1e9) + 1
        loop_ns = None if timeout_s is None else self.now_ns + int(timeout_s * 1e9) + 1
        deadline_ns = self.kernel.next_deadline_ns()
        next_ns = min((t for t in (self.step_ends_ns, deadline_ns, wake_ns, loop_ns) if t is not None), default=None)
        stop = self._stop
        if stop is not None and stop.is_due(next_ns):
            self.now_ns = max(self.now_ns, stop.at_ns or 0)
            stop.reached.set_result(None)
            return
        if next_ns is None:
            waiting = {p.pid: [c.op for c in p.calls.values()] for p in self.kernel.processes.values() if p.calls}
            raise self._failed(RuntimeError(f"nothing can happen any more, and programs wait: {waiting}"))
        self.now_ns = max(self.now_ns, next_ns)
        if self.step_ends_ns is not None and self.step_ends_ns <= self.now_ns:
            self.step_ends_ns = None
            core.finish()
            self._complete()
        if deadline_ns is not None and deadline_ns <= self.now_ns:
            self.kernel.tick(self.now_ns)
            self._carry_out()

    def _begin_step(self) -> None:
        core = self.core
        if self.step_ends_ns is None and core.has_work and core.begin() is not None:
            core.step_s *= self.faults.factor()
            self.step_ends_ns = self.now_ns + max(1, int(core.step_s * 1e9))

    def _complete(self) -> None:
        completions = self.core.take()
        self.kernel.complete(completions, self.now_ns)
        self._carry_out()
        for done in completions:
            if isinstance(done, JobFailed) and isinstance(done.error, Unscripted) and not self.is_closing:
                raise self._failed(done.error)

    def _failed(self, error: Exception) -> Exception:
        self.failure = self.failure or error
        return error

    # ---- programs

    def _input_bytes(self, pid: Pid) -> int | None:
        run = self.runs.get(pid)
        return None if run is None or run.input is None else run.input.num_bytes

    def _launch(self, e: Launch) -> None:
        run = self.runs[e.pid] = Run(e.pid, input=Input() if e.stdin else None)
        run.transport = self._transports[e.pid] = MemoryTransport(self, e.pid)
        run.task = self.loop.create_task(self._main(run, e))
        run.task.add_done_callback(lambda _: self._gone(run))

    async def _main(self, run: Run, e: Launch) -> None:
        """The process boundary: whatever a program does ends here."""
        assert run.transport is not None
        enter(run)
        transport.bind(run.transport, seed=e.seed, read_input=run.read_input)
        self.kernel.started(e.pid, int(e.pid), self.now_ns)
        try:
            await run.transport.may_go()
            entry, kwargs = self._load(e)
            value = entry(**kwargs)
            value = await value if inspect.isawaitable(value) else value
            end = calls.Exit(0, value=json.dumps(value, ensure_ascii=False, allow_nan=False))
        except BadProgram as error:
            print(error.message, file=sys.stderr)
            end = calls.Exit(2, error=error.message, reason="program")
        except BaseException as error:  # noqa: BLE001
            end = failure_of(error)
            run.error = error if isinstance(error, Exception) else None
        await run.transport.may_go()
        if not run.transport.is_closed:
            process = self.kernel.processes[run.pid]
            open_files = {file.inode.ino: file.inode for file in process.fds.files.values()}
            run.left_open = [shown(self.kernel, inode) for inode in open_files.values()]
            run.transport.post("exit", end)
            self._ended(run, end.code)

    def _load(self, e: Launch) -> tuple[Callable[..., Any], dict[str, Any]]:
        if e.runtime != PYTHON:
            raise BadProgram(f"this machine runs Python, not {e.runtime}")
        names = self._namespaces.get(e.source)
        if names is None:
            return loader.load(Program(e.source, e.entry, e.args, e.name, e.seed))
        entry = names[e.entry]
        return entry, bind_arguments(entry, json.loads(e.args))

    def _gone(self, run: Run) -> None:
        """It was cancelled before it began."""
        assert run.transport is not None
        if not run.transport.is_closed:
            run.transport.post("exit", failure_of(asyncio.CancelledError()))
            self._ended(run, 130)

    def _ended(self, run: Run, code: int) -> None:
        assert run.transport is not None
        run.ended_s = self.now_s
        process = self.kernel.processes.get(run.pid)
        for kind, text in (("stdout", run.stdout), ("stderr", run.stderr)):
            self.kernel.output(run.pid, kind, text, self.now_ns)
        run.transport.close()
        del self._transports[run.pid]
        self.kernel.exited(run.pid, code, 0.0, self.now_ns)
        run.status = process.exit if process is not None else None
        self._carry_out()

    def _signal(self, e: Signalled) -> None:
        run = self.runs.get(e.pid)
        if run is None or run.task is None or run.task.done():
            return
        assert run.transport is not None
        if e.signal == Signal.KILL:
            self.loop.call_soon(self.end_by_kill, run)
        elif e.signal == Signal.STOP:
            run.transport.hold()
        elif e.signal == Signal.CONT:
            run.transport.release()
            if run.term_waits:
                self.loop.call_soon(run.task.cancel)
        elif run.transport.is_held:
            run.term_waits = True
        else:
            self.loop.call_soon(run.task.cancel)  # as runtime/transport.py: answers come first

    def end_by_kill(self, run: Run) -> None:
        assert run.transport is not None
        if not run.transport.is_closed:
            self._ended(run, KILLED)
            if run.task is not None:
                run.task.cancel()
