"""A machine for tests (testing/machine.py): start programs, let time pass, look at what there is, at any moment.

    m = Machine(model=Script("Paris."))            run = m.start(main, question="...")
    m.run()                                        to the end                       run.value, run.stdout, run.emitted, run.status
    m.advance(0.2), m.run_until(...)               half-way                         m.ps(), m.files(), m.text(path), m.calls(run)
    m.fail("forward", OutOfPages("..."), nth=3)    what goes wrong on purpose
    m.check_idle()                                 nothing is left

What happens is in `World`; here is when, and what a test sees of it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import CallRecord, FileStat, Pid, ProcessStat, ResourceLimits, Signal, ToolInfo
from vllm_symphony.engine.sim import Cost, Model, SimDevice
from vllm_symphony.engine.sim.model import decode
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.fs.node import SYSTEM
from vllm_symphony.kernel.limits import DEFAULT, Limits
from vllm_symphony.kernel.process import Kind
from vllm_symphony.kernel.syscall.target import shown
from vllm_symphony.lip.program import bind_arguments
from vllm_symphony.lip.text import to_json
from vllm_symphony.store.state import StateDirectory
from vllm_symphony.testing.fault import CallFault, Fault, SlowSteps
from vllm_symphony.testing.run import Run
from vllm_symphony.testing.script import Script, Wants
from vllm_symphony.testing.tool import Answer, Prop
from vllm_symphony.testing.world import World

UNLIMITED = replace(DEFAULT, program=ResourceLimits())  # a program has the limits that a test gives it
SHOWN_CALLS = 12  # of the event log, in `describe`


class Machine(World):
    """Start programs, then `run` until nothing is left to happen."""

    def __init__(
        self,
        *,
        seed: int = 0,
        device: SimDevice | None = None,
        limits: Limits = UNLIMITED,
        principal: str = "ann",
        step_s: float | None = None,
        state_dir: Path | None = None,
        **sim: Any,
    ) -> None:
        """`step_s`: what each step of the device takes; `state_dir`: files outlive the machine there, for the next one; `sim`: of
        `SimDevice` (num_pages, page_size, model, cost, ...)."""
        if step_s is not None:
            sim["cost"] = Cost(step_s=step_s, row_s=0.0, token_s=0.0)
        directory = StateDirectory(state_dir) if state_dir is not None else None
        if directory is not None:
            sim.setdefault("tiers", TierLimits(directory=directory.pages))
        device = device or SimDevice(seed=seed, clock=lambda: self.now_s, **sim)
        super().__init__(device, seed, limits, principal, directory)

    # ---- programs

    def start(self, program: Callable[..., Any] | Path | str, *args: Any, **kwargs: Any) -> Run:
        """A program: a function, a file or source text. It begins when time is let pass."""
        return self.start_with({}, program, *args, **kwargs)

    def start_with(self, more: Mapping[str, Any], program: Callable[..., Any] | Path | str, *args: Any, **kwargs: Any) -> Run:
        """As `start`, with other fields of the call `spawn`: {"limits": lip.Limits(tokens=1000), "stdin": True}."""
        if isinstance(program, str | Path):
            name = "program.py" if isinstance(program, str) else program.name
            source = program if isinstance(program, str) else program.read_text()
            spawn = calls.Spawn(source, "main", to_json(kwargs), name, tools=("*",))
        else:
            bound = inspect.signature(program).bind(*args, **kwargs).arguments
            source = f"# {program.__module__}:{id(program.__globals__)}"  # stands for the module's text
            self._namespaces[source] = program.__globals__ | {program.__name__: program}
            spawn = calls.Spawn(source, program.__name__, to_json(bind_arguments(program, bound)), program.__name__, tools=("*",))
        future = self.client.call("spawn", replace(spawn, **more))
        return self.runs[future.result().pid]

    @contextmanager
    def acting_as(self, principal: str) -> Iterator[None]:
        """What is started or called meanwhile is this principal's."""
        before, self.root = self.root, self.connection_of(principal)
        try:
            yield
        finally:
            self.root = before

    def feed(self, run: Run, text: str = "", *, eof: bool = False) -> None:
        """Write to its standard input, which programs read by `lip.stdin`."""
        self.call("feed", calls.Feed(run.pid, text.encode(), eof))

    def call(self, op: str, args: object) -> Any:
        """A call of the machine's own client, to its end."""

        async def ask() -> Any:
            return await self.client.call(op, args)

        return self.drive(ask())

    def script(self, wants: str | Mapping[str, Wants], *, otherwise: Model | None = None) -> Script:
        """From the next row on the model wants this (testing/script.py)."""
        script = self.core.weights = Script(wants, otherwise=otherwise)
        return script

    def tool(
        self,
        name: str,
        answer: Answer,
        *,
        takes_s: float = 0.0,
        parameters: Mapping[str, Any] | None = None,
        description: str = "",
    ) -> None:
        """From now on there is this tool, and programs may call it (testing/tool.py). What was called is in `m.props.calls`."""
        info = ToolInfo(name, description, to_json(parameters or {"type": "object", "properties": {}}), driver="python")
        self.props.add(Prop(info, answer, takes_s))

    # ---- time

    def run(self, *, until_s: float | None = None) -> None:
        """Until every program has ended, or the clock is at `until_s`.

        Raises:
            RuntimeError: some programs wait for what can never happen.
            Unscripted: a program asked the model for what its script does not speak of.
        """
        if until_s is None:
            self.drive(self.all_ended())
        else:
            self.drive(self._ended_or(at_ns=int(until_s * 1e9)))

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, whoever runs; all that is due by then has happened."""
        self.drive(self.paused(at_ns=self.now_ns + int(seconds * 1e9)))

    def run_until_blocked(self) -> None:
        """Until no program can go on at this moment: each waits for the device, for a time or for another program."""
        self.advance(0)

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds; it is looked at whenever no program can go on, before the clock moves.

        Raises:
            AssertionError: every program has ended, and it does not hold.
        """
        self.drive(self._ended_or(condition=condition))
        assert condition(), f"every program has ended by {self.now_s:g} s, and the condition never held"

    async def _ended_or(self, at_ns: int | None = None, condition: Callable[[], bool] | None = None) -> None:
        ends = [self.loop.create_task(what) for what in (self.all_ended(), self.paused(at_ns, condition))]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    # ---- faults

    def fail(
        self, op: str, error: SymphonyError, *, nth: int = 1, times: int | None = 1, chance: float = 1.0, run: Run | None = None
    ) -> Fault:
        """From the `nth` call of `op` by a program (or by `run`) on, `times` of them end in `error` and do nothing else.

        `times` None: all. `chance`: of each, drawn from the machine's seed. The fault's `num_struck` says how often it struck.
        """
        return self._add(CallFault(nth, times, chance, self.faults.rng(), op=op, pid=_pid(run), error=error))

    def kill_at(self, op: str | None = None, *, nth: int = 1, chance: float = 1.0, run: Run | None = None) -> Fault:
        """Kill the program that makes the `nth` call of `op` (None: of any kind), in that call."""
        return self._add(CallFault(nth, 1, chance, self.faults.rng(), op=op, pid=_pid(run)))

    def slow(self, factor: float, *, nth: int = 1, times: int | None = None, chance: float = 1.0) -> Fault:
        """From the `nth` step of the device on, `times` of them (None: all) take `factor` times as long."""
        return self._add(SlowSteps(nth, times, chance, self.faults.rng(), factor=factor))

    def kill(self, run: Run, signal: str = Signal.KILL) -> None:
        """Signal the program now."""
        self.client.call("kill", calls.Kill(run.pid, str(signal))).result()

    def _add(self, fault: CallFault | SlowSteps) -> Fault:
        self.faults.add(fault)
        return fault

    # ---- what there is

    def ps(self) -> list[ProcessStat]:
        """The programs that have not ended, in order of birth."""
        model = self.kernel.model
        programs = [p for p in self.kernel.processes.values() if p.kind is Kind.PROGRAM and not p.has_ended]
        return [p.stat(model.page_size, self.kernel.offset_ns) for p in programs]

    def files(self) -> list[FileStat]:
        """All files, named and anonymous, in order of birth."""
        kernel = self.kernel
        return [shown(kernel, inode) for inode in kernel.files.inodes.values()]

    def text(self, path: str) -> str:
        """What the named file holds, the marks of a chat too. Raises NoSuchFile."""
        return decode(self.kernel.files.lookup_file(path, SYSTEM).tokens, skip_special=False)

    def calls(self, of: Run | int, op: str | None = None) -> list[CallRecord]:
        """The calls of a program (those of `op`) that have ended, in that order: op, args in short, result, times."""
        pid = of.pid if isinstance(of, Run) else of
        return [record for record in self.kernel.log.since(pid=pid) if op in (None, record.op)]

    # ---- the end

    def check(self) -> None:
        """All invariants of kernel and device."""
        self.kernel.check()
        self.core.check()

    def check_idle(self) -> None:
        """Nothing is left but named files, and they account for every page that is held. AssertionError says what there is."""
        left = [f"program {p.pid} ({p.name}) waits in {', '.join(p.waiting) or 'nothing'}" for p in self.ps()]
        if not left:
            self.settle()
            self.check()
            left += [f"file {f.ino} ({f.length} tokens) is open {f.num_open} times" for f in self.files() if f.num_open]
            left += [f"{len(held)} {what}" for what, held in (("jobs", self.core.jobs), ("asks", self.core.asks)) if held]
            gone = self.core.table.files.keys() - self.kernel.files.inodes.keys()
            left += [f"pages of file {ino}, which is gone" for ino in sorted(gone)]
        assert not left, "the machine is not idle:\n  " + "\n  ".join(left)

    def describe(self) -> str:
        """For the report of a failed test: the seed, the programs, the last calls."""
        lines = [f"seed {self.seed}, {self.now_s:g} s"]
        lines += [f"{p.pid:>4} {p.name} waits in {', '.join(p.waiting) or 'nothing'}" for p in self.ps()]
        log = self.kernel.log
        lines += [f"{c.pid:>4} {c.op} {c.args} -> {c.result}" for c in log.since(log.next_seq - SHOWN_CALLS)]
        return "\n".join(lines)

    def close(self) -> None:
        """Kill what still runs, end the client and the loop; then nothing may be left. Idempotent."""
        if not self.loop.is_closed():
            self.is_closing = True
            for run in self.runs.values():
                if run.task is not None and not run.task.done():
                    self.end_by_kill(run)
            self.close_connections()
            for pid in self.connections.values():
                self.kernel.disconnected(pid, self.now_ns)
            self._carry_out()
            self.drive(self.all_ended())
            if self.kernel.save(self.now_ns):
                self._carry_out()
            self.settle()
            self.kernel.keep.close()
            self._carry_out()
            self.storage.close()
            self.loop.close()

    def crash(self) -> None:
        """The machine is off, at once: what its state directory has is all that is left of it."""
        self.is_closing = True
        self.storage.abandon()
        for run in self.runs.values():
            if run.task is not None:
                run.task.cancel()
        self.loop.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pid(run: Run | None) -> Pid | None:
    return None if run is None else run.pid


def run_program(program: Callable[..., Any] | Path | str, *args: Any, machine: Machine | None = None, **kwargs: Any) -> Any:
    """Run a program (its `main`, its file or its source text) to its end; its value, or what it raised."""
    if machine is not None:
        run = machine.start(program, *args, **kwargs)
        machine.run()
        return run.value
    with Machine() as own:
        return run_program(program, *args, machine=own, **kwargs)
