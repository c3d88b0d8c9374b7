"""One session's connection to the kernel (edge/session_link.py).

    gRPC stream  <--  answers, whole and in order  <--  socket of its own  <--  kernel
                 -->  calls                        -->                     -->

It keeps nothing: what is not acknowledged is kept by the kernel's host, so the edge may lose the connection at any time. A client
that does not read stops us from reading, and so the kernel from sending to this session; nobody else waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from vllm_symphony.abi.calls import Hello, HelloResult
from vllm_symphony.abi.codec import Answer, call_frame, error_of, read_answer, read_result
from vllm_symphony.abi.frame import FrameReader, pieces
from vllm_symphony.abi.types import Credentials
from vllm_symphony.errors import DeviceLost, InvalidArgument, SymphonyError

_STOPPING = "the server is stopping"
MAX_ANSWERS_AHEAD = 64  # of a client that reads slowly


async def connect_session(path: str, hello: Hello, cred: Credentials) -> SessionLink:
    """Make a session for `cred`, or carry on with one; its hello was answered. Close it in the end.

    Raises: DeviceLost when nobody listens; what the kernel answers to the hello.
    """
    try:
        _, link = await asyncio.get_running_loop().create_unix_connection(SessionLink, path)
    except OSError as e:
        raise DeviceLost(f"the kernel does not listen on {path}: {e.strerror}", path=path) from None
    try:
        link.send(0, "hello", hello, cred=cred)
        async for answer in link.answers():
            if answer.err is not None:
                raise error_of(answer.err)
            link.hello = read_result("hello", answer.ok)
            return link
        raise DeviceLost("the kernel is gone")
    except BaseException:
        link.close()
        raise


class SessionLink(asyncio.Protocol):
    """One connection. `hello`: the kernel's answer to ours."""

    hello: HelloResult
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._answers: deque[Answer] = deque()
        self._changed = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._is_greeted = False  # the hello was answered
        self._is_closed = False
        self._is_ending = False
        self._in_flight: set[int] = set()
        self._end: SymphonyError | None = None

    def send(self, call_id: int, op: str, args: Any, tid: int = 0, cred: Credentials | None = None, **beside: Any) -> None:
        """Write a call, unless the connection is gone. Raises InvalidArgument when it is too large."""
        data = pieces(call_id, call_frame(call_id, op, args, tid, cred, **beside))
        if call_id:
            self._in_flight.add(call_id)
        if not self.transport.is_closing():
            self.transport.writelines(data)

    async def drain(self) -> None:
        """Until the kernel has taken most of what was written."""
        await self._may_write.wait()

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """Answers, as they come, until `close`. Raises the kernel's reason for any other end of the connection."""
        while True:
            while self._answers:
                answer = self._answers.popleft()
                if len(self._answers) == MAX_ANSWERS_AHEAD // 2 and not self.transport.is_closing():
                    self.transport.resume_reading()
                if not answer.part:
                    self._in_flight.discard(answer.id)
                yield answer
            if self._is_ending and not self._in_flight:
                self._ended(DeviceLost(_STOPPING))
            if self._end is not None:
                raise self._end
            if self._is_closed:
                return
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Hang up; the session's lease begins. Idempotent."""
        self._is_closed = True
        self.transport.close()
        self._changed.set()

    def end_when_idle(self) -> None:
        """End with an error as soon as no call is in flight."""
        self._is_ending = True
        self._changed.set()

    def end(self) -> None:
        """End with an error now."""
        self._ended(DeviceLost(_STOPPING))

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a socket; uvloop's is no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                answer = read_answer(body)
                if self._is_greeted and answer.err is not None and not answer.id and not answer.seq:
                    self._ended(error_of(answer.err))  # why it is cut off
                    return
                self._is_greeted = True
                self._answers.append(answer)
        except InvalidArgument as e:
            self._ended(e)
            self.transport.abort()
        self._changed.set()
        if len(self._answers) >= MAX_ANSWERS_AHEAD:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._may_write.set()
        if not self._is_closed:
            self._ended(DeviceLost("the kernel is gone"))

    def _ended(self, why: SymphonyError) -> None:
        if self._end is None:
            self._end = why
        self._changed.set()
