"""A program of a trace as the kernel sees it (simulate/actor.py): calls, one after another, and threads for its branches.

    body (a generator) --Ask(op, args)--> player --kernel.call--> ... reply --> body goes on
                       --Code(seconds)--> its own code runs
                       --Fan(bodies)----> so many threads; it goes on when all of them have ended

It says what an honest program says and no more: what will come (decode lengths, gaps) is known to the trace alone.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Pid, pack_tokens
from vllm_symphony.simulate.device import TOKEN
from vllm_symphony.simulate.trace import Gap, Script, Singles, Turn


@dataclass(frozen=True, slots=True)
class Ask:
    """A system call."""

    op: str
    args: Any


@dataclass(frozen=True, slots=True)
class Code:
    """The program's own code, for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fan:
    """Bodies that run at the same time, a thread each."""

    bodies: tuple[Body, ...]


Body = Generator[Ask | Fan | Code, Any, None]


@dataclass(slots=True, eq=False)
class Thread:
    """A body and what it waits for. `parent`: who waits for it and its siblings."""

    tid: int
    body: Body
    parent: Thread | None = None
    num_children: int = 0
    waits_long: bool = False  # for the model or a tool


@dataclass(slots=True, eq=False)
class Actor:
    """A process of a trace: its threads by the call each waits for, and what became of it."""

    pid: Pid
    index: int
    script: Script
    num_calls: int = 0
    num_threads: int = 0
    waiting: dict[int, Thread] = field(default_factory=dict)
    asked_ns: dict[int, int] = field(default_factory=dict)  # generates without a token so far: since when
    first_token_s: list[float] = field(default_factory=list)
    ended_ns: int | None = None
    failure: str = ""


def prefix_path(name: str) -> str:
    """Where a shared prefix is."""
    return f"/tmp/prefix-{name}"


def main(script: Script) -> Body:
    """The program's own thread."""
    steps = list(script.steps)
    if script.prefix is not None:
        opened = yield Ask("open", calls.Open(prefix_path(script.prefix[0])))
        fd = (yield Ask("fork", calls.FdArgs(opened.fd))).fd
    else:
        while isinstance(steps[0], Gap):
            yield from _rest(steps.pop(0))
        first = steps[0]
        assert isinstance(first, Turn)
        fd = (yield Ask("open", calls.Open(tokens=_tokens(first.prompt)))).fd
        steps[0] = Turn(0, first.decode)
    for step in steps:
        if isinstance(step, Gap):
            yield from _rest(step)
        elif isinstance(step, Singles):
            yield from _singles(fd, step)
        elif step.forks:
            branches = []
            for _ in range(step.forks):
                copy = yield Ask("fork", calls.FdArgs(fd))
                branches.append(_branch(copy.fd, step))
            yield Fan(tuple(branches))
        else:
            yield from _turn(fd, step)
    yield Ask("exit", calls.Exit(0))


def _turn(fd: int, turn: Turn) -> Body:
    if turn.prompt:
        yield Ask("append", calls.Append(fd, _tokens(turn.prompt)))
    yield Ask("generate", calls.Generate(fd, turn.decode, ignore_eos=True, stream=True, text=False))


def _singles(fd: int, step: Singles) -> Body:
    for i in range(step.num_tokens):
        if i:
            yield Code(step.code_s)
        yield Ask("forward", calls.Forward(fd, _tokens(1), outputs="", keep="none"))


def _branch(fd: int, turn: Turn) -> Body:
    yield from _turn(fd, turn)
    yield Ask("close", calls.FdArgs(fd))


def _rest(step: Any) -> Body:
    yield Ask("call_tool", calls.CallTool(step.tool, f'{{"seconds": {step.seconds!r}}}'))


def _tokens(count: int) -> bytes:
    return pack_tokens([TOKEN] * count)
