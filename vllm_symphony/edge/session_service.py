"""SessionService (edge/session_service.py). What each RPC means stands in protos/symphony/v1/session.proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from vllm_symphony.abi.calls import Exit, Hello, NoArgs
from vllm_symphony.abi.codec import Answer, read_outcome
from vllm_symphony.abi.types import ABI_MAJOR, Credentials
from vllm_symphony.edge.concern import peer_minor
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.guard import Guard
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.session_link import SessionLink, connect_session
from vllm_symphony.edge.trace_parent import traceparent
from vllm_symphony.errors import InvalidArgument, TimedOut
from vllm_symphony.proto.message import call_of, from_message, outcome_message, to_message
from vllm_symphony.proto.v1 import session_pb2 as pb
from vllm_symphony.proto.v1.session_pb2_grpc import SessionServiceServicer

HELLO_TIMEOUT_S = 10.0  # for the first message of a Connect


class SessionService(SessionServiceServicer):
    """Remote programs: made, connected, called, ended."""

    def __init__(self, kernel: KernelLink, guard: Guard) -> None:
        self._kernel = kernel
        self._guard = guard
        self._links: set[SessionLink] = set()  # of Connect

    def end_idle(self) -> None:
        """The server stops: connections end as soon as no call of theirs is in flight, so that nobody waits for them."""
        for link in self._links:
            link.end_when_idle()

    def end(self) -> None:
        """The grace is over: connections end, whatever is in flight."""
        for link in self._links:
            link.end()

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.CreateSessionResponse:  # noqa: N802
        if not request.lease_s > 0:
            raise InvalidArgument(f"lease_s must be above 0, not {request.lease_s:g}", lease_s=request.lease_s)
        hello = Hello(ABI_MAJOR, peer_minor(context), lease_s=request.lease_s, name=request.name,
                      traceparent=traceparent(context))  # fmt: skip
        link = await self._link(hello, caller(context))
        link.close()
        return pb.CreateSessionResponse(pid=link.hello.pid, resume=link.hello.resume, lease_s=link.hello.lease_s)

    async def Connect(  # type: ignore[override]  # noqa: N802  the stubs know no coroutine that writes by itself
        self, requests: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> None:
        """Two directions at once: a task reads the client, this one writes to it. Whichever ends first ends the other."""
        cred, told = caller(context), self._guard.told(context)
        hello = await _hello(requests)
        link = await self._link(replace(hello, traceparent=hello.traceparent or traceparent(context)), cred)

        async def before(call_id: int, op: str, args: Any) -> None:
            await self._guard.turn(cred)
            self._guard.begin(context, op, args)
            told.asked(call_id, op, args)

        self._links.add(link)
        try:
            await context.write(pb.ConnectResponse(hello=to_message(link.hello, pb.HelloResult())))
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_carry_calls(requests, link, before))
                async for answer in link.answers():
                    if not answer.part:
                        told.answered(answer.id, answer.err.reason if answer.err else None)
                    await context.write(_response(answer))
                reading.cancel()
        except BaseExceptionGroup as group:  # of one: the reader's, or the kernel's reason
            raise group.exceptions[0] from None
        finally:
            self._links.discard(link)
            link.close()

    async def Call(self, request: pb.CallRequest, context: Any) -> pb.CallResponse:  # noqa: N802
        op, args = call_of(request.call)
        if op == "generate":
            args = replace(args, stream=False)  # one answer is all that there is
        elif op == "watch":
            raise InvalidArgument("watch streams what happens: make it over Connect, or by FileService.Watch")
        result = await self._kernel.call(
            op, args, caller(context), tid=request.call.tid, request_id=request.call.request_id, **_session(request)
        )
        response = pb.CallResponse()
        outcome_message(result, response.answer)
        return response

    async def KeepAlive(self, request: pb.KeepAliveRequest, context: Any) -> pb.KeepAliveResponse:  # noqa: N802
        result = await self._kernel.call("keep_alive", NoArgs(), caller(context), **_session(request))
        return pb.KeepAliveResponse(lease_s=result.lease_s)

    async def EndSession(self, request: pb.EndSessionRequest, context: Any) -> pb.EndSessionResponse:  # noqa: N802
        args = from_message(request.exit) if request.HasField("exit") else Exit(0)
        await self._kernel.call("exit", args, caller(context), **_session(request))
        return pb.EndSessionResponse()

    async def _link(self, hello: Hello, cred: Credentials) -> SessionLink:
        self._kernel.check()
        return await connect_session(self._kernel.path, hello, cred)


async def _hello(requests: AsyncIterator[pb.ConnectRequest]) -> Hello:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            first = await anext(requests, None)
    except TimeoutError:
        raise TimedOut(f"no hello came within {HELLO_TIMEOUT_S:g} s") from None
    if first is None or not first.HasField("hello"):
        raise InvalidArgument("the first message of Connect is a hello")
    hello: Hello = from_message(first.hello)
    if not hello.pid and not hello.lease_s > 0:
        raise InvalidArgument(f"a new session needs a lease above 0, not {hello.lease_s:g}", lease_s=hello.lease_s)
    return hello


async def _carry_calls(
    requests: AsyncIterator[pb.ConnectRequest], link: SessionLink, before: Callable[[int, str, Any], Awaitable[None]]
) -> None:
    """What the client says, until it hangs up; then the answers end too. `before` is awaited before each call.

    Raises InvalidArgument for what is no message, and what `before` raises.
    """
    async for request in requests:
        kind = request.WhichOneof("message")
        if kind == "call":
            call = request.call
            op, args = call_of(call)
            await before(call.id, op, args)
            link.send(call.id, op, args, call.tid, request_id=call.request_id, ack=request.ack)
        elif kind is None and request.ack:
            link.send(0, "ping", NoArgs(), ack=request.ack)
        else:
            raise InvalidArgument("a message after the first is a call or an ack")
        await link.drain()
    link.close()


def _response(answer: Answer) -> pb.ConnectResponse:
    response = pb.ConnectResponse(seq=answer.seq)
    if answer.signal is not None:
        response.signal = answer.signal
    else:
        response.answer.id = answer.id
        outcome_message(read_outcome(answer), response.answer)
    return response


def _session(request: Any) -> dict[str, Any]:
    """Whose call it is, beside the call. Raises InvalidArgument when the request names no session."""
    if request.pid <= 0:
        raise InvalidArgument("pid names no session", pid=request.pid)
    return {"session": request.pid, "resume": request.resume}
