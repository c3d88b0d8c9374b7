"""The connections of a session, one after the other (client/session_link.py).

    open -> carry --lost--> wait -> connect again -> carry ...      until the session ends, or the lease must have run out

Each connection is a channel of its own, so that gRPC's wait after a failure does not add to ours. A typed error is the server's
word and final, but for those that only tell of a connection; anything else is a lost connection, and the server keeps the session
for its lease. That another connection took the session over (EPIPE) is final: two would fight for ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc

from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.client.call import ServerUnreachable, is_lost, let_go, typed_errors
from vllm_symphony.client.channel import Access
from vllm_symphony.client.retry import Retry, waiting_helps
from vllm_symphony.client.session_transport import SessionTransport
from vllm_symphony.errors import DeviceLost, SymphonyError
from vllm_symphony.proto.v1 import session_pb2 as pb
from vllm_symphony.proto.v1 import session_pb2_grpc

HELLO_TIMEOUT_S = 10.0
LAST_WORD_S = 2.0  # the edge said that it lost the kernel: either the session can be had at once, or the server stops


@dataclass(frozen=True, slots=True)
class _Connection:
    channel: Any
    stream: Any

    async def close(self) -> None:
        await let_go(self.stream)
        await self.channel.close()


class SessionLink:
    """Keeps `transport` connected to one session. `pid`, `resume` and `lease_s` are known from `open` on."""

    def __init__(self, access: Access, retry: Retry, transport: SessionTransport, name: str, lease_s: float) -> None:
        self.pid = 0
        self.resume = ""
        self.lease_s = lease_s
        self._access = access
        self._target = str(access.target)
        self._retry = retry
        self._transport = transport
        self._name = name
        self._connection: _Connection | None = None

    async def open(self) -> None:
        """Make the session, with a few tries where the server is too busy. Raises what the hello is answered, ServerUnreachable."""
        for tries_left, wait_s in zip(reversed(range(self._retry.tries)), self._retry.waits(), strict=False):
            try:
                await self._connect()
            except SymphonyError as e:
                if not tries_left or not waiting_helps(e):
                    raise
                await asyncio.sleep(self._retry.wait_s(wait_s, e))
            else:
                return

    async def serve(self) -> None:
        """Carry calls and answers, over as many connections as it takes, until the session has ended, and the transport with it."""
        while True:
            why = await self._carry()
            await self.close()
            if isinstance(why, SymphonyError) and not (
                is_lost(why) or isinstance(why, DeviceLost)
            ):  # that: the edge lost its own link
                self._transport.end(why)
                return
            end = await self._connect_again(why)
            if end is not None:
                self._transport.end(end)
                return

    async def close(self) -> None:
        """Hang up, if connected. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connect_again(self, lost: Exception) -> SymphonyError | None:
        """None when it is connected; else why it never will be."""
        loop = asyncio.get_running_loop()
        last_word = lost if isinstance(lost, DeviceLost) else None
        deadline = loop.time() + (self.lease_s if last_word is None else min(self.lease_s, LAST_WORD_S))
        for wait_s in self._retry.waits():
            await asyncio.sleep(min(wait_s, max(0.0, deadline - loop.time())))
            try:
                await self._connect()
                return None
            except (SymphonyError, ServerUnreachable) as e:
                if isinstance(e, SymphonyError) and not (is_lost(e) or waiting_helps(e)):
                    return e
                lost = e
            if loop.time() >= deadline:
                break
        return last_word or DeviceLost(
            f"lost session {self.pid}: no connection for its lease of {self.lease_s:g} s ({lost})", pid=self.pid
        )

    async def _connect(self) -> None:
        """Say hello and keep the connection."""
        channel = self._access.open(keepalive=True)
        stub: session_pb2_grpc.SessionServiceAsyncStub = session_pb2_grpc.SessionServiceStub(channel)
        connection = _Connection(channel, stub.Connect())
        hello = pb.Hello(abi_major=ABI_MAJOR, abi_minor=ABI_MINOR, pid=self.pid, resume=self.resume)
        if self.pid:
            hello.received = self._transport.received
        else:
            hello.lease_s, hello.name = self.lease_s, self._name
        try:
            first = await self._first_answer(connection, pb.ConnectRequest(hello=hello))
        except BaseException:
            await connection.close()
            raise
        self.pid, self.resume, self.lease_s = first.pid, first.resume, first.lease_s
        self._transport.start_over(first.last_call)
        self._connection = connection

    async def _first_answer(self, connection: _Connection, hello: pb.ConnectRequest) -> pb.HelloResult:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                with typed_errors(self._target):
                    await _write(connection.stream, hello)
                    answer = await connection.stream.read()
        except TimeoutError:
            raise ServerUnreachable(self._target, f"no answer within {HELLO_TIMEOUT_S:g} s") from None
        if answer is grpc.aio.EOF:
            raise ServerUnreachable(self._target, "the server hung up")
        hello_result: pb.HelloResult = answer.hello
        return hello_result

    async def _carry(self) -> Exception:
        """Both directions, until the connection ends; gives why it did."""
        assert self._connection is not None
        stream = self._connection.stream
        why: Exception = ServerUnreachable(self._target, "the server hung up")
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(self._send(stream))
            try:
                with typed_errors(self._target):
                    while (message := await stream.read()) is not grpc.aio.EOF:
                        self._transport.take(message)
            except (SymphonyError, ServerUnreachable) as e:
                why = e
            finally:
                sending.cancel()
        return why

    async def _send(self, stream: Any) -> None:
        changed = self._transport.changed
        while True:
            while (message := self._transport.next_message()) is not None:
                if not await _write(stream, message):
                    return
            changed.clear()
            await changed.wait()


async def _write(stream: Any, message: pb.ConnectRequest) -> bool:
    """False when the stream has ended: its reader learns why."""
    try:
        await stream.write(message)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True
