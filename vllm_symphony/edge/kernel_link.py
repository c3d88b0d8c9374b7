"""The edge's way to the kernel (edge/kernel_link.py).

    RPC, RPC, RPC ---- one shared socket, calls told apart by id ---->  kernel
    stream       ---- a socket of its own ------------------------->  kernel
    session      ---- a socket of its own (edge/session_link.py) --->  kernel

A unary call travels on the shared socket; cancelling the awaiting task sends `cancel` for its id. A stream gets its own socket: a
slow reader stops reading it, so back-pressure reaches the kernel and nobody else waits. (Rejected: windows per call on one socket;
the kernel would have to keep them, and a unix socket costs 0.2 ms.) The reader is an asyncio Protocol: no task to leak.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from msgspec import Raw

from vllm_symphony.abi.calls import Cancel, Hello, NoArgs
from vllm_symphony.abi.codec import Answer, call_frame, error_of, read_answer, read_part, read_result
from vllm_symphony.abi.frame import FrameReader, pieces
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, FEATURES, Credentials
from vllm_symphony.errors import BrokenPipe, DeviceLost, InvalidArgument, NotSupported, SymphonyError, WouldBlock

MAX_UNSENT_BYTES = 64 << 20  # to a kernel that does not read; above it calls are refused
MAX_PARTS_AHEAD = 64  # of a stream whose reader is slow


class KernelLink:
    """All calls of the edge to one kernel. Not connected until `open`; calls before it are EAGAIN, after a loss ENODEV."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.phase = "starting"  # what the kernel's host does until it is ready; set by the node
        self.lost = asyncio.Event()
        self.opened = asyncio.Event()
        self._socket: _Socket | None = None

    async def open(self) -> None:
        """Connect and say hello. Raises DeviceLost when nobody listens, NotSupported for another ABI."""
        self._socket = await _connect(self.path)
        self._socket.on_lost = self.lost.set
        self.opened.set()

    def close(self) -> None:
        """Hang up; calls in flight end with ENODEV."""
        self.lost.set()
        if self._socket:
            self._socket.transport.close()

    def check(self) -> None:
        """Raises WouldBlock while the kernel starts, DeviceLost when it is gone."""
        if self.lost.is_set():
            raise DeviceLost("the kernel is gone")
        if self._socket is None:
            raise WouldBlock(f"the server is starting: {self.phase}", retry_after_s=1.0, phase=self.phase)

    async def call(self, op: str, args: object, cred: Credentials, **beside: Any) -> Any:
        """Make a call for `cred` and wait for its result; a cancelled wait cancels the call. `beside`: `request_id`, `session` with
        `resume`, `tid`, as in the codec's Call.

        Raises: what the kernel answered; WouldBlock, DeviceLost as `check`.
        """
        self.check()
        assert self._socket is not None
        call_id, future = self._socket.send(op, args, cred, **beside)
        try:
            return read_result(op, await future)
        except asyncio.CancelledError:
            self._socket.cancel(call_id, cred)
            raise

    def post(self, op: str, args: object, cred: Credentials) -> None:
        """Make a call whose outcome nobody waits for; nothing happens when the kernel is gone."""
        if self._socket and not self.lost.is_set():
            _, future = self._socket.send(op, args, cred)
            future.add_done_callback(lambda f: f.cancelled() or f.exception())

    async def stream(self, op: str, args: object, cred: Credentials) -> AsyncGenerator[Any, None]:
        """Make a call and give its parts as they come; closing the generator cancels the call.

        Raises: as `call`, after the parts that came before; BrokenPipe when the kernel cut a slow reader off.
        """
        self.check()
        socket = await _connect(self.path)
        call_id, future = socket.send(op, args, cred)
        try:
            async for part in socket.parts(future):
                yield read_part(op, part)
            await future
        except DeviceLost:
            await self.call("ping", NoArgs(), cred)  # raises it again when the kernel is really gone
            raise BrokenPipe("the kernel cut the stream off: its reader was too slow") from None
        finally:
            if not future.done():
                socket.cancel(call_id, cred)
            socket.transport.close()


async def _connect(path: str) -> _Socket:
    try:
        _, socket = await asyncio.get_running_loop().create_unix_connection(_Socket, path)
    except OSError as e:
        raise DeviceLost(f"the kernel does not listen on {path}: {e.strerror}", path=path) from None
    _, future = socket.send("hello", Hello(ABI_MAJOR, ABI_MINOR, "edge", FEATURES), None)
    try:
        hello = read_result("hello", await future)
        if hello.abi_major != ABI_MAJOR:
            raise NotSupported(f"the kernel speaks ABI {hello.abi_major}.{hello.abi_minor}, this edge {ABI_MAJOR}.{ABI_MINOR}")
    except BaseException:
        socket.transport.close()
        raise
    return socket


class _Socket(asyncio.Protocol):
    """One connection: frames out, answers to the futures of their calls, parts to the one stream it carries."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.on_lost: Callable[[], None] = lambda: None
        self._frames = FrameReader()
        self._calls: dict[int, asyncio.Future[Raw]] = {}
        self._next_id = 1
        self._parts: deque[Raw] = deque()
        self._wake = asyncio.Event()

    def send(self, op: str, args: object, cred: Credentials | None, **beside: Any) -> tuple[int, asyncio.Future[Raw]]:
        """Write a call. Raises InvalidArgument when it is too large, WouldBlock when the kernel does not read."""
        if self.transport.is_closing():
            raise DeviceLost("the kernel is gone")
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise WouldBlock("the kernel is behind with reading calls", retry_after_s=0.1)
        call_id, self._next_id = self._next_id, self._next_id + 1
        self.transport.writelines(pieces(call_id, call_frame(call_id, op, args, cred=cred, **beside)))
        future = self._calls[call_id] = asyncio.get_running_loop().create_future()
        return call_id, future

    def cancel(self, call_id: int, cred: Credentials) -> None:
        """End a call that nobody awaits any more."""
        if self._calls.pop(call_id, None) and not self.transport.is_closing():
            self.transport.write(call_frame(self._next_id, "cancel", Cancel(call_id), cred=cred))
            self._next_id += 1

    async def parts(self, ended: asyncio.Future[Raw]) -> AsyncGenerator[Raw, None]:
        """The parts of the stream, until `ended` is."""
        ended.add_done_callback(lambda _: self._wake.set())
        while True:
            while self._parts:
                yield self._parts.popleft()
                if len(self._parts) == MAX_PARTS_AHEAD // 2 and not self.transport.is_closing():
                    self.transport.resume_reading()
            if ended.done():
                return
            self._wake.clear()
            await self._wake.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a socket; uvloop's is no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._answer(read_answer(body))
        except InvalidArgument as e:
            self._fail(e)
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(DeviceLost("the kernel is gone"))
        self.on_lost()

    def _answer(self, answer: Answer) -> None:
        if answer.part:  # an absent Raw may come as an empty one
            self._parts.append(answer.part)
            self._wake.set()
            if len(self._parts) == MAX_PARTS_AHEAD:
                self.transport.pause_reading()
            return
        future = self._calls.pop(answer.id, None)
        if future is None or future.done():
            return
        if answer.err is not None:
            future.set_exception(error_of(answer.err))
        elif answer.ok:
            future.set_result(answer.ok)

    def _fail(self, error: SymphonyError) -> None:
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # its owner may be gone
