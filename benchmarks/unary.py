"""lip over unary RPCs (benchmarks/unary.py): each call is one SessionService.Call. What a client without streams can do at best."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from vllm_symphony.proto.message import call_message, outcome_of
from vllm_symphony.proto.v1 import session_pb2, session_pb2_grpc


class UnaryTransport:
    """One session's calls, in order of their making only where they are awaited."""

    def __init__(self, stub: Any, pid: int, resume: str) -> None:
        self._stub = stub
        self._pid = pid
        self._resume = resume
        self._posted: set[asyncio.Task[Any]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, socket: str) -> AsyncIterator[UnaryTransport]:
        """A session of its own at this server."""
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            stub: Any = session_pb2_grpc.SessionServiceStub(channel)
            made = await stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=60, name="/bench/unary"))
            yield cls(stub, made.pid, made.resume)
            await stub.EndSession(session_pb2.EndSessionRequest(pid=made.pid, resume=made.resume))

    def call(self, op: str, args: object, *, tid: int, on_part: Callable[[object], None] | None = None) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_task(self._ask(op, args, tid))

    def post(self, op: str, args: object, *, tid: int) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(op, args, tid))
        self._posted.add(task)
        task.add_done_callback(self._posted.discard)

    async def _ask(self, op: str, args: object, tid: int) -> Any:
        request = session_pb2.CallRequest(pid=self._pid, resume=self._resume)
        request.call.tid = tid
        call_message(op, args, request.call)
        return outcome_of((await self._stub.Call(request)).answer)
