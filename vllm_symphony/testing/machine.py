"""A whole machine in one event loop (testing/machine.py): kernel, simulated device and programs, leaping from event to event.

    program tasks --MemoryTransport--> Kernel --effects--> SimCore
                        ^-- replies --'   ^-- completions, at the virtual time at which the step ends --'

Deterministic under its seed, also the order in which programs run; a second of virtual time costs nothing unless something happens
in it. Programs share the interpreter: one that never awaits a call hangs the test, and what they print is kept apart by context.
A killed program gets CancelledError once, and every call that it still makes is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from vllm_symphony.abi import calls
from vllm_symphony.abi.codec import Program
from vllm_symphony.abi.types import Credentials, ExitStatus, Pid, Signal
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.errors import BadProgram
from vllm_symphony.kernel.effect import Launch, Part, Reply, ReplyError, Signalled
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.limits import DEFAULT, Limits
from vllm_symphony.lip import ProgramFailed, transport
from vllm_symphony.lip.program import bind_arguments
from vllm_symphony.lip.text import to_json
from vllm_symphony.runtime import child, loader
from vllm_symphony.testing.leap import LeapLoop
from vllm_symphony.testing.transport import MemoryTransport

EPOCH_NS = 1_700_000_000_000_000_000
KILLED = 137
_run: ContextVar[Run] = ContextVar("symphony_testing_run")


@dataclass(eq=False)
class Run:
    """A program of the machine, and what it left."""

    pid: Pid
    stdout: str = ""
    stderr: str = ""
    emitted: list[Any] = field(default_factory=list)
    status: ExitStatus | None = None
    error: BaseException | None = None
    ended_s: float = 0.0
    task: asyncio.Task[None] | None = None
    transport: MemoryTransport | None = None

    @property
    def value(self) -> Any:
        """What `main` returned. Raises what it raised, or ProgramFailed."""
        if self.error is not None:
            raise self.error
        if self.status is None or self.status.code:
            raise ProgramFailed(self.pid, self.status or ExitStatus(KILLED, "signal"))
        return None if self.status.value is None else json.loads(self.status.value)


class Machine:
    """Start programs, then `run` until nothing is left to happen."""

    def __init__(
        self, *, seed: int = 0, device: SimDevice | None = None, limits: Limits = DEFAULT, principal: str = "ann", **sim: Any
    ) -> None:
        """`sim`: of `SimDevice` (num_pages, page_size, model, cost, ...)."""
        self.now_ns = 0
        self.device = device or SimDevice(seed=seed, clock=lambda: self.now_ns / 1e9, **sim)
        self.core = self.device.core
        self.kernel = Kernel(self.device.model, limits=limits, seed=seed, epoch_ns=EPOCH_NS)
        self.loop = LeapLoop(lambda: self.now_ns / 1e9, self._leap)
        self.root = self.kernel.connect(Credentials(principal, scopes=("admin",)), "client", 0)
        self.runs: dict[Pid, Run] = {}
        self.step_ends_ns: int | None = None
        self._transports: dict[Pid, MemoryTransport] = {self.root: MemoryTransport(self, self.root)}
        self._namespaces: dict[str, dict[str, Any]] = {}
        self._carrying = False

    # ---- what a test does

    def start(self, program: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Run:
        """A program (a function or source text); it begins to run with `run`."""
        if isinstance(program, str):
            spawn = calls.Spawn(program, "main", to_json(kwargs), "program.py")
        else:
            bound = inspect.signature(program).bind(*args, **kwargs).arguments
            source = f"# {program.__module__}:{id(program.__globals__)}"  # stands for the module's text
            self._namespaces[source] = program.__globals__ | {program.__name__: program}
            spawn = calls.Spawn(source, program.__name__, to_json(bind_arguments(program, bound)), program.__name__)
        future = self.client.call("spawn", spawn)
        return self.runs[future.result().pid]

    def run(self) -> None:
        """Until every program has ended. RuntimeError when some wait for what can never happen."""
        self._drive(self._all_ended())

    def call(self, op: str, args: object) -> Any:
        """A call of the machine's own client, to its end."""

        async def ask() -> Any:
            return await self.client.call(op, args)

        return self._drive(ask())

    @property
    def client(self) -> MemoryTransport:
        return self._transports[self.root]

    @property
    def now_s(self) -> float:
        return self.now_ns / 1e9

    def check(self) -> None:
        """All invariants of kernel and device."""
        self.kernel.check()
        self.core.check()

    def settle(self) -> None:
        """Let the device end what nobody waits for, and take its mail."""
        while self.kernel.jobs or self.core.mail:
            if self.step_ends_ns is None and self.core.begin() is not None:
                self.core.finish()
            elif self.step_ends_ns is not None:
                self.step_ends_ns = None
                self.core.finish()
            self._complete()

    def close(self) -> None:
        """Kill what still runs, end the client and the loop; then nothing may be left. Idempotent."""
        if not self.loop.is_closed():
            for run in self.runs.values():
                if run.task is not None and not run.task.done():
                    self._kill(run)
            self.client.close()
            self.kernel.disconnected(self.root, self.now_ns)
            self._carry_out()
            self._drive(self._all_ended())
            self.settle()
            self.loop.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, what: Coroutine[Any, Any, Any]) -> Any:
        with _apart():
            return self.loop.run_until_complete(what)

    async def _all_ended(self) -> None:
        while tasks := [run.task for run in self.runs.values() if run.task is not None and not run.task.done()]:
            await asyncio.wait(tasks)

    # ---- the kernel's world

    def enter(self, pid: Pid, call_id: int, tid: int, op: str, args: Any) -> None:
        """A program's call."""
        if op == "emit" and pid in self.runs:
            self.runs[pid].emitted.append(json.loads(args.value))
        self.kernel.call(pid, call_id, tid, op, args, self.now_ns)
        self._carry_out()

    def _carry_out(self) -> None:
        effects = self.kernel.effects
        if self._carrying:
            return
        self._carrying = True
        while effects:
            batch = effects[:]
            effects.clear()
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
                else:
                    self.core.submit((e,))
        self._carrying = False

    def _leap(self, timeout_s: float | None) -> None:
        """Nothing is ready: let the next thing happen."""
        core = self.core
        if self.step_ends_ns is None and (core.mail or core.jobs or core.asks):
            seconds = core.begin()
            if seconds is not None:
                self.step_ends_ns = self.now_ns + max(1, int(seconds * 1e9))
        if core.out:
            self._complete()
            return
        wake_ns = None if self.step_ends_ns is not None or core.wake_at is None else int(core.wake_at * 1e9) + 1
        loop_ns = None if timeout_s is None else self.now_ns + int(timeout_s * 1e9) + 1
        deadline_ns = self.kernel.next_deadline_ns()
        coming = [t for t in (self.step_ends_ns, deadline_ns, wake_ns, loop_ns) if t is not None]
        if not coming:
            waiting = {p.pid: [c.op for c in p.calls.values()] for p in self.kernel.processes.values() if p.calls}
            raise RuntimeError(f"nothing can happen any more, and programs wait: {waiting}")
        self.now_ns = max(self.now_ns, min(coming))
        if self.step_ends_ns is not None and self.step_ends_ns <= self.now_ns:
            self.step_ends_ns = None
            core.finish()
            self._complete()
        if deadline_ns is not None and deadline_ns <= self.now_ns:
            self.kernel.tick(self.now_ns)
            self._carry_out()

    def _complete(self) -> None:
        self.kernel.complete(self.core.take(), self.now_ns)
        self._carry_out()

    # ---- programs

    def _launch(self, e: Launch) -> None:
        run = self.runs[e.pid] = Run(e.pid)
        run.transport = self._transports[e.pid] = MemoryTransport(self, e.pid)
        run.task = self.loop.create_task(self._main(run, e))
        run.task.add_done_callback(lambda _: self._gone(run))

    async def _main(self, run: Run, e: Launch) -> None:
        """The process boundary: whatever a program does ends here."""
        assert run.transport is not None
        _run.set(run)
        transport.bind(run.transport, seed=e.seed)
        self.kernel.started(e.pid, int(e.pid), self.now_ns)
        try:
            entry, kwargs = self._load(e)
            value = entry(**kwargs)
            value = await value if inspect.isawaitable(value) else value
            end = calls.Exit(0, value=json.dumps(value, ensure_ascii=False, allow_nan=False))
        except BadProgram as error:
            print(error.message, file=sys.stderr)
            end = calls.Exit(2, error=error.message, reason="program")
        except BaseException as error:  # noqa: BLE001
            end = child._failure(error)
            run.error = error if isinstance(error, Exception) else None
        if not run.transport.is_closed:
            run.transport.post("exit", end)
            self._ended(run, end.code)

    def _load(self, e: Launch) -> tuple[Callable[..., Any], dict[str, Any]]:
        names = self._namespaces.get(e.source)
        if names is None:
            return loader.load(Program(e.source, e.entry, e.args, e.name, e.seed))
        entry = names[e.entry]
        return entry, bind_arguments(entry, json.loads(e.args))

    def _gone(self, run: Run) -> None:
        """It was cancelled before it began."""
        assert run.transport is not None
        if not run.transport.is_closed:
            run.transport.post("exit", child._failure(asyncio.CancelledError()))
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
        if e.signal == Signal.KILL:
            self.loop.call_soon(self._kill, run)
        else:
            self.loop.call_soon(run.task.cancel)  # as runtime/transport.py: answers come first

    def _kill(self, run: Run) -> None:
        assert run.transport is not None
        if not run.transport.is_closed:
            self._ended(run, KILLED)
            if run.task is not None:
                run.task.cancel()


class _Apart(io.TextIOBase):
    """What programs print, each to its own; the rest to where it went before."""

    def __init__(self, name: str, before: Any) -> None:
        self._name = name
        self._before = before

    def write(self, text: str) -> int:
        run = _run.get(None)
        if run is None:
            return int(self._before.write(text))
        setattr(run, self._name, getattr(run, self._name) + text)
        return len(text)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    out, err = _Apart("stdout", sys.stdout), _Apart("stderr", sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def run_program(program: Callable[..., Any] | str, *args: Any, machine: Machine | None = None, **kwargs: Any) -> Any:
    """Run a program (its `main`, or its source text) to its end; its value, or what it raised."""
    if machine is not None:
        run = machine.start(program, *args, **kwargs)
        machine.run()
        return run.value
    with Machine() as own:
        return run_program(program, *args, machine=own, **kwargs)
