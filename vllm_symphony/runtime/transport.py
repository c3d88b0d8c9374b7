"""A program's calls over its socket, for asyncio (runtime/transport.py).

    lip.forward() -> call() -> frame -> socket ==> kernel
       future  <-  by id   <-  frame <- socket <==

No streams, protocols or tasks: the loop watches one socket, a call is one send and one future, and everything that one read
brought is handed out at once. A future that is cancelled sends `cancel`; its late answer is awaited silently. When the socket is
lost every call in flight, and every later one, raises DeviceLost.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from vllm_symphony.abi.calls import Cancel
from vllm_symphony.abi.codec import Answer, call_frame, error_of, read_answer, read_part, read_result
from vllm_symphony.abi.frame import FrameReader, pieces
from vllm_symphony.errors import DeviceLost, SymphonyError

_RECEIVE_BYTES = 1 << 18
OnPart = Callable[[Any], None]


class _CallFuture(asyncio.Future[Any]):
    """The answer of one call. Cancelling it cancels the call at the kernel."""

    __slots__ = ("call_id", "on_part", "op", "transport")

    def __init__(self, transport: SocketTransport, call_id: int, op: str, on_part: OnPart | None) -> None:
        super().__init__(loop=transport.loop)
        self.transport = transport
        self.call_id = call_id
        self.op = op
        self.on_part = on_part

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self.transport.post("cancel", Cancel(self.call_id))
        return True


class SocketTransport:
    """Implements lip's `Transport`. Owns `sock`; belongs to the thread and loop that called `start`."""

    def __init__(self, sock: socket.socket, reader: FrameReader | None = None, early: list[bytes] | None = None) -> None:
        """`reader` and `early`: what was already received and has not been looked at."""
        self.loop: asyncio.AbstractEventLoop
        self._sock = sock
        self._reader = reader or FrameReader()
        self._early = early or []
        self._calls: dict[int, _CallFuture] = {}
        self._last_id = 0
        self._unsent = bytearray()
        self._lost: str | None = None
        self._on_term: Callable[[], Any] = lambda: None
        self._thread = 0

    def start(self, on_term: Callable[[], Any] = lambda: None) -> None:
        """Serve the running loop. `on_term` is called at the first TERM only."""
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._on_term = on_term
        self._sock.setblocking(False)
        self.loop.add_reader(self._sock, self._readable)
        early, self._early = self._early, []
        for body in early:
            self._take(read_answer(body))

    def call(self, op: str, args: object, *, tid: int = 0, on_part: OnPart | None = None) -> asyncio.Future[Any]:
        """Send a call. The future gives the result dataclass or raises the call's SymphonyError; parts come to `on_part` first.

        Raises InvalidArgument at once for arguments that cannot be sent.
        """
        call_id = self._last_id = self._last_id + 1
        data = b"".join(pieces(call_id, call_frame(call_id, op, args, tid)))
        future = _CallFuture(self, call_id, op, on_part)
        if self._lost is not None:
            future.set_exception(DeviceLost(self._lost))
        else:
            self._calls[call_id] = future
            self._send(data)
        return future

    def post(self, op: str, args: object, *, tid: int = 0) -> None:
        """Send a call without an answer, from any thread. Its order among the caller's is kept; after a loss it does nothing."""
        data = call_frame(0, op, args, tid)
        if threading.get_ident() == self._thread:
            self._send(data)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self._send, data)

    def send_last(self, op: str, args: object) -> None:
        """Send what is still unsent and this call, waiting as long as it takes; the loop has ended."""
        with contextlib.suppress(OSError):
            self._sock.setblocking(True)
            self._sock.sendall(bytes(self._unsent) + call_frame(0, op, args))

    def close(self) -> None:
        """Stop; calls in flight raise DeviceLost. Idempotent."""
        self._lose("the transport was closed")

    def _send(self, data: bytes) -> None:
        if self._lost is not None:
            return
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as e:
            self._lose(f"lost the kernel: {e}")
            return
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self.loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as e:
            self._lose(f"lost the kernel: {e}")
            return
        del self._unsent[:sent]
        if not self._unsent:
            self.loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as e:
            self._lose(f"lost the kernel: {e}")
            return
        if not data:
            self._lose("lost the kernel: it closed the connection")
            return
        try:
            for body in self._reader.feed(data):
                self._take(read_answer(body))
        except SymphonyError as e:
            self._lose(f"lost the kernel: {e.message}")

    def _take(self, answer: Answer) -> None:
        if answer.signal is not None:
            on_term, self._on_term = self._on_term, lambda: None
            self.loop.call_soon(on_term)  # after who waits for an answer that came before it has seen that
            return
        if answer.part:
            call = self._calls.get(answer.id)
            if call is not None and call.on_part is not None and not call.done():
                call.on_part(read_part(call.op, answer.part))
            return
        call = self._calls.pop(answer.id, None)
        if call is None or call.done():
            return
        if answer.err is not None:
            call.set_exception(error_of(answer.err))
            return
        try:
            call.set_result(read_result(call.op, answer.ok))
        except SymphonyError as e:  # a server of another minor version
            call.set_exception(e)

    def _lose(self, message: str) -> None:
        if self._lost is not None:
            return
        self._lost = message
        if self._thread:  # it was started
            self.loop.remove_reader(self._sock)
            self.loop.remove_writer(self._sock)
        self._sock.close()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_exception(DeviceLost(message))
