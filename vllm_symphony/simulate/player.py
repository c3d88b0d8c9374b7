"""Plays a trace: the real kernel, the leaping device and a clock that is a number (simulate/player.py).

    arrivals, tools that return, kills --.
    the end of the device's leap --------+--> the clock is at the first of them --> kernel entries --> effects --> bodies, device
    the kernel's own deadlines ----------'

No asyncio, no sockets and no program's code: a call of the kernel costs what it costs a server's reactor, and little is spent
beside it. The device is told until when nothing comes, so it leaps over steps in which nothing is decided. Deterministic: no clock,
no chance.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Credentials, OpenFlags, Pid, ResourceLimits, Signal, pack_tokens
from vllm_symphony.engine.sim.core import Cost
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import (
    Completion,
    DeviceEffect,
    Launch,
    Part,
    Reply,
    ReplyError,
    SetPolicy,
    Signalled,
    ToolDone,
    ToolJob,
    Weigh,
)
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.limits import DEFAULT
from vllm_symphony.simulate import actor
from vllm_symphony.simulate.actor import Actor, Ask, Code, Fan, Thread
from vllm_symphony.simulate.device import TOKEN, LeapCore
from vllm_symphony.simulate.steptime import StepTime
from vllm_symphony.simulate.trace import Script, Trace

NO_LIMITS = replace(
    DEFAULT, processes=1 << 20, log_records=1000, step_records=1000, ended=1, event_count=16, program=ResourceLimits()
)
KV_BYTES = 8  # of a token, in the simulator's pages
MAX_MOMENTS = 4096
KILLED = 137
MANIFEST = "# /// script\n# [tool.symphony]\n# priority = {}\n# ///\n"


@dataclass(frozen=True, slots=True)
class Host:
    """The machine. The defaults are about those of an 8B model on one H100: 0.4 million tokens of KV, 25 GB/s to host memory."""

    num_pages: int = 25_000
    page_size: int = 16
    max_rows: int = 256
    max_tokens: int = 8192
    max_positions: int = 1 << 20
    host_tokens: int = 0  # of KV, in host memory below the device
    copied_tokens_s: float = 190_000.0  # between device and host memory
    step_time: StepTime = StepTime()  # noqa: RUF009  frozen
    reaction_s: float = 0.0  # from the end of a call of the model or a tool to the program's next call
    stride: int = 1  # steps between two looks at who waits; above 1 it is faster and not exact

    @property
    def cost(self) -> Cost:
        t = self.step_time
        return Cost(t.step_s, t.row_s, t.token_s, self.max_rows, self.max_tokens, self.copied_tokens_s * KV_BYTES)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program. `first_token_s`: from each of its calls to its first token; `failure`: empty, or why it failed."""

    script: Script
    ended_s: float | None
    first_token_s: tuple[float, ...]
    failure: str = ""

    @property
    def completion_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.script.at_s


@dataclass(frozen=True, slots=True)
class Moment:
    """The machine at one time."""

    at_s: float
    num_rows: int
    num_waiting: int
    pages_held: int
    num_programs: int


@dataclass(frozen=True, slots=True)
class Played:
    """All that happened. `counters`: the device's at the end."""

    trace: Trace
    host: Host
    outcomes: tuple[Outcome, ...]
    moments: tuple[Moment, ...]
    end_s: float
    counters: dict[str, float]


class Player:
    """One play of one trace."""

    def __init__(
        self, trace: Trace, host: Host, rules: Sequence[SetPolicy | Weigh] = (), *, seed: int = 0, check: bool = False
    ) -> None:
        """`rules`: policies and weights in force from the start. `check`: walk all invariants of kernel and device after every
        event."""
        self.trace, self.host, self.check = trace, host, check
        self.now_ns = 0
        self.core = LeapCore(
            num_pages=host.num_pages, page_size=host.page_size, max_positions=host.max_positions, clock=lambda: self.now_ns / 1e9,
            cost=host.cost, step_time=host.step_time, stride=host.stride, seed=seed,
            tiers=TierLimits(host_bytes=host.host_tokens * KV_BYTES),
        )  # fmt: skip
        self.kernel = Kernel(self.core.info, limits=NO_LIMITS, seed=seed)
        self.kernel.granted_tools = lambda _: ("*",)
        self.kernel.job_state, self.kernel.residency = self.core.job_state, self.core.residency
        self.kernel.capacity = self.core.capacity
        self.edge = self.kernel.connect(Credentials("root", scopes=("admin", "run")), "edge", 0)
        self.library = self.kernel.connect(Credentials("library", scopes=("admin",)), "client", 0)  # owns shared prefixes
        self.core.submit(rules)
        self.actors: dict[Pid, Actor] = {}
        self.ended: dict[int, Actor] = {}
        self.moments: list[Moment] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._num_events = 0
        self._leap_ends_ns: int | None = None
        self._every, self._skipped = 1, 0
        self._prefixes = {s.prefix[0]: s.prefix[1] for s in trace.scripts if s.prefix is not None}

    def play(self) -> Played:
        """To the end of the last program. Raises RuntimeError when nothing can happen any more and some have not ended."""
        for index, script in enumerate(self.trace.scripts):
            self._at(script.at_s, self._arrival(index, script))
        for name, length in self._prefixes.items():
            flags = int(OpenFlags.CREAT | OpenFlags.RDWR)
            tokens = pack_tokens([TOKEN] * length)
            self.kernel.call(self.library, 0, 0, "open", calls.Open(actor.prefix_path(name), tokens, flags, 0o644), 0)
        self._carry_out()
        while len(self.ended) < len(self.trace.scripts):
            self._leap()
            self._turn()
            self._carry_out()
        outcomes = tuple(self._outcome(index, script) for index, script in enumerate(self.trace.scripts))
        self._settle()
        core = self.core
        counters = core.counters() | {
            "busy_s": core.busy_s, "device_steps": core.num_steps, "prefilled": core.num_prefilled, "reused": core.num_reused,
            "redone": core.num_redone,
        }  # fmt: skip
        return Played(self.trace, self.host, outcomes, tuple(self.moments), self.now_ns / 1e9, counters)

    def _settle(self) -> None:
        """The device lets go of what the last ones held."""
        core = self.core
        while core.mail or core.is_stepping:
            if core.is_stepping:
                core.finish()
            else:
                core.begin()
            self._complete(core.take())
            self._carry_out()

    # ---- time

    def _at(self, at_s: float, what: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (int(at_s * 1e9), self._num_events, what))

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._at(self.now_ns / 1e9 + seconds, what)

    def _leap(self) -> None:
        core = self.core
        if self._leap_ends_ns is not None or not core.has_work:
            return
        seconds = core.leap(min(self._next_ns()) / 1e9)
        if seconds is not None:
            self._leap_ends_ns = self.now_ns + max(1, int(seconds * 1e9))
            self._look()

    def _next_ns(self) -> list[float]:
        """When something comes that is not the device's."""
        deadline_ns = self.kernel.next_deadline_ns()
        return [self._events[0][0] if self._events else inf, inf if deadline_ns is None else deadline_ns]

    def _turn(self) -> None:
        """The next thing happens."""
        core = self.core
        if core.out:
            self._complete(core.take())
            return
        wake_s = core.wake_at if self._leap_ends_ns is None else None
        wake_ns = inf if wake_s is None else int(wake_s * 1e9) + 1
        leap_ns = inf if self._leap_ends_ns is None else self._leap_ends_ns
        next_ns = min(*self._next_ns(), wake_ns, leap_ns)
        if next_ns == inf:
            waiting = [call.op for pid in self.actors for call in self.kernel.processes[pid].calls.values()]
            raise RuntimeError(f"nothing can happen any more, and {len(self.actors)} programs wait in {sorted(set(waiting))}")
        self.now_ns = max(self.now_ns, int(next_ns))
        if leap_ns <= self.now_ns:
            self._leap_ends_ns = None
            core.finish()
            self._complete(core.take())
        while self._events and self._events[0][0] <= self.now_ns:
            heapq.heappop(self._events)[2]()
        if (deadline_ns := self.kernel.next_deadline_ns()) is not None and deadline_ns <= self.now_ns:
            self.kernel.tick(self.now_ns)
        if self.check:
            self.kernel.check()
            core.check()

    def _complete(self, completions: list[Completion]) -> None:
        self.kernel.complete(completions, self.now_ns)

    def _look(self) -> None:
        """Remember the moment; of a long play every so many."""
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        core = self.core
        rows, held = len(core.batch), self.host.num_pages - core.pool.get_num_free_blocks()
        self.moments.append(Moment(self.now_ns / 1e9, rows, len(core.jobs) - rows, held, len(self.actors)))
        if len(self.moments) >= MAX_MOMENTS:
            del self.moments[1::2]
            self._every *= 2

    # ---- effects

    def _carry_out(self) -> None:
        effects = self.kernel.effects
        while effects:
            batch = effects[:]
            effects.clear()
            for e in batch:
                self._carry(e)

    def _carry(self, e: Any) -> None:
        kind = type(e)
        if kind is Reply:
            self._answer(e.pid, e.call_id, e.result, None)
        elif kind is ReplyError:
            self._answer(e.pid, e.call_id, None, e.error)
        elif kind is Part:
            self._first_token(e.pid, e.call_id)
        elif kind is ToolJob:
            self._after(json.loads(e.args)["seconds"], lambda: self._complete([ToolDone(e.job, calls.ToolResult(""))]))
        elif kind is Launch:
            self._launch(e)
        elif kind is Signalled:
            if e.signal == Signal.KILL:
                self._gone(self.actors[e.pid], KILLED)
        elif isinstance(e, DeviceEffect):
            self.core.mail.append(e)

    def _arrival(self, index: int, script: Script) -> Callable[[], None]:
        cred = Credentials(script.principal, scopes=("run",))

        def arrive() -> None:
            source = MANIFEST.format(script.priority) if script.priority else ""
            spawn = calls.Spawn(source, name=script.name, args=f'{{"index": {index}}}', tools=("*",))
            self.kernel.call(self.edge, index + 1, 0, "spawn", spawn, self.now_ns, cred)

        return arrive

    def _launch(self, e: Launch) -> None:
        index = json.loads(e.args)["index"]
        script = self.trace.scripts[index]
        process = self.actors[e.pid] = Actor(e.pid, index, script)
        self.kernel.started(e.pid, int(e.pid), self.now_ns)
        if script.killed_s is not None:
            self._after(script.killed_s, lambda: self._kill(process))
        self._go_on(process, Thread(0, actor.main(script)), None)

    def _kill(self, process: Actor) -> None:
        if process.pid in self.actors:
            cred = Credentials(process.script.principal, scopes=("run",))
            self.kernel.call(self.edge, 0, 0, "kill", calls.Kill(process.pid, Signal.KILL), self.now_ns, cred)

    # ---- bodies

    def _ask(self, process: Actor, thread: Thread, ask: Ask) -> None:
        process.num_calls += 1
        process.waiting[process.num_calls] = thread
        thread.waits_long = ask.op in ("generate", "forward", "call_tool")
        if ask.op == "generate":
            process.asked_ns[process.num_calls] = self.now_ns
        self.kernel.call(process.pid, process.num_calls, thread.tid, ask.op, ask.args, self.now_ns)

    def _answer(self, pid: Pid, call_id: int, result: Any, error: SymphonyError | None) -> None:
        process = self.actors.get(pid)
        if process is None:
            if error is not None:
                raise error
            return
        thread = process.waiting.pop(call_id)
        if error is None:
            if self.host.reaction_s and thread.waits_long:
                self._after(self.host.reaction_s, lambda: self._react(process, thread, result))
            else:
                self._go_on(process, thread, result)
        else:
            process.failure = process.failure or str(error)
            self._gone(process, 1)

    def _react(self, process: Actor, thread: Thread, result: Any) -> None:
        if process.pid in self.actors:
            self._go_on(process, thread, result)

    def _first_token(self, pid: Pid, call_id: int) -> None:
        process = self.actors.get(pid)
        if process is not None and (asked_ns := process.asked_ns.pop(call_id, None)) is not None:
            process.first_token_s.append((self.now_ns - asked_ns) / 1e9)

    def _go_on(self, process: Actor, thread: Thread, value: Any) -> None:
        try:
            wish = thread.body.send(value)
        except StopIteration:
            self._thread_ended(process, thread)
            return
        if isinstance(wish, Ask):
            self._ask(process, thread, wish)
        elif isinstance(wish, Code):
            self._after(wish.seconds, lambda: self._react(process, thread, None))
        else:
            self._spread(process, thread, wish)

    def _spread(self, process: Actor, parent: Thread, fan: Fan) -> None:
        parent.num_children = len(fan.bodies)
        for body in fan.bodies:
            process.num_threads += 1
            child = Thread(process.num_threads, body, parent)
            self._silently(process, "thread_start", calls.ThreadStart(child.tid))
            self._go_on(process, child, None)

    def _thread_ended(self, process: Actor, thread: Thread) -> None:
        if thread.parent is None:
            self._gone(process, 0)
            return
        self._silently(process, "thread_end", calls.ThreadEnd(thread.tid))
        thread.parent.num_children -= 1
        if not thread.parent.num_children:
            self._go_on(process, thread.parent, None)

    def _silently(self, process: Actor, op: str, args: Any) -> None:
        """A call whose answer nobody waits for."""
        self.kernel.call(process.pid, 0, 0, op, args, self.now_ns)

    def _gone(self, process: Actor, code: int) -> None:
        """Its OS process would be gone now."""
        del self.actors[process.pid]
        process.ended_ns = self.now_ns
        if code == KILLED:
            process.failure = "killed"
        self.ended[process.index] = process
        self.kernel.exited(process.pid, code, 0.0, self.now_ns)

    def _outcome(self, index: int, script: Script) -> Outcome:
        process = self.ended[index]
        assert process.ended_ns is not None
        return Outcome(script, process.ended_ns / 1e9, tuple(process.first_token_s), process.failure)
