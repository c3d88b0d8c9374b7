"""How a program's calls reach the kernel (lip/transport.py).

    program -> lip (typed surface) -> call / post (this module) -> Transport (socketpair, gRPC, a test) -> kernel

`call` is the only place of the library that ever suspends a program (with `Generation`'s stream, which waits for the same call, and
standard input, lip/stdin.py): so a system call is the only checkpoint and the only cancel point. The transport is bound to the
*context*, not to the module, so that several programs may run in one event loop, each with its own; the thread id travels in the
same way.
Prior art: trio's `_traps.py`. Rejected: a global transport, which ties one OS process to one program and makes tests share state.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from typing import Any, Protocol

from vllm_symphony.abi.calls import Cancel, FdArgs, FdResult
from vllm_symphony.abi.calls import Random as RandomArgs
from vllm_symphony.abi.draw import key64


class Transport(Protocol):
    """What carries calls. All methods are called on the event loop's thread."""

    def call(self, op: str, args: object, *, tid: int, on_part: Callable[[object], None] | None = None) -> asyncio.Future[Any]:
        """Send a call; the future resolves to the result dataclass of `CALLS[op]` or raises a `SymphonyError`.

        `on_part` gets each part of a streaming call, in order, before the future resolves. Cancelling the future sends `cancel`
        for the call; what it still answers is dropped. The future has the call's id as `call_id`.
        """

    def post(self, op: str, args: object, *, tid: int) -> None:
        """Send a call that gets no reply, in order with all others. Never raises: after the end of the session it does nothing."""


ReadInput = Callable[[], Awaitable[bytes]]


class Session:
    """One program's end of a transport: its thread ids, its source of seeds, and what of its standard input it has not read
    (lip/stdin.py; `read_input` None: from file descriptor 0)."""

    def __init__(self, transport: Transport, seed: int | None, read_input: ReadInput | None = None) -> None:
        self.transport = transport
        self.read_input = read_input
        self.unread = b""
        self._seed = seed
        self._last_tid = 0
        self._num_seeds: Counter[int] = Counter()  # per thread, so that a replay does not depend on how threads interleave

    def next_tid(self) -> int:
        self._last_tid += 1
        return self._last_tid

    async def fresh_seed(self) -> int:
        """A seed for one unseeded draw, from the process's own source: a replayed process draws the same again."""
        if self._seed is None:
            self._seed = int.from_bytes((await call("random", RandomArgs(8))).data, "little")
        thread = tid()
        self._num_seeds[thread] += 1
        return key64(self._seed, thread, self._num_seeds[thread])


_session: ContextVar[Session] = ContextVar("symphony_session")
_tid: ContextVar[int] = ContextVar("symphony_tid", default=0)


def bind(transport: Transport, *, seed: int | None = None, read_input: ReadInput | None = None) -> Token[Session]:
    """Make `transport` the one of this context and of the tasks that start from it. The runtime calls it before `main`.

    `seed`: of the process's unseeded draws; without it the first such draw asks the kernel (`random`).
    """
    return _session.set(Session(transport, seed, read_input))


def unbind(token: Token[Session]) -> None:
    """Undo `bind` in the same context."""
    _session.reset(token)


def session() -> Session:
    """The session of this context. RuntimeError outside of a program, with the way to run one."""
    try:
        return _session.get()
    except LookupError:
        raise RuntimeError("no transport is bound: a program runs by `symphony run FILE`, not by itself") from None


def tid() -> int:
    """The calling thread's id inside its process; 0 is the main thread."""
    return _tid.get()


def set_tid(value: int) -> None:
    """Name the thread that this context belongs to (lip/thread.py)."""
    _tid.set(value)


async def call(op: str, args: object) -> Any:
    """Make a system call and wait for its result. Cancelling the caller cancels the call."""
    return await session().transport.call(op, args, tid=_tid.get())


async def call_fd(op: str, args: object) -> FdResult:
    """A call that makes an fd: cancelled while on its way, it closes what it was given, so that nobody owns a lost fd."""
    transport, thread = session().transport, _tid.get()
    pending = transport.call(op, args, tid=thread)
    try:
        result: FdResult = await asyncio.shield(pending)
    except asyncio.CancelledError:
        pending.add_done_callback(lambda done: _close_lost(transport, thread, done))
        raise
    return result


async def call_kept(op: str, args: object, keep: Callable[[Any], None]) -> Any:
    """A call whose result must not be lost: when the caller is cancelled the call is too, and what it gives all the same, because
    that was on its way, goes to `keep` (None: it gave nothing)."""
    transport, thread = session().transport, _tid.get()
    pending = transport.call(op, args, tid=thread)
    try:
        return await asyncio.shield(pending)
    except asyncio.CancelledError:
        if not pending.done():
            call_id: int = getattr(pending, "call_id")  # noqa: B009 (a future has none by its type)
            transport.post("cancel", Cancel(call_id), tid=thread)
        pending.add_done_callback(lambda done: _give(done, keep))
        raise


def _give(done: asyncio.Future[Any], keep: Callable[[Any], None]) -> None:
    keep(done.result() if not done.cancelled() and done.exception() is None else None)


def post(op: str, args: object) -> None:
    """Make a call that gets no reply; never waits."""
    session().transport.post(op, args, tid=_tid.get())


def _close_lost(transport: Transport, thread: int, done: asyncio.Future[Any]) -> None:
    if not done.cancelled() and done.exception() is None:
        transport.post("close", FdArgs(done.result().fd), tid=thread)
