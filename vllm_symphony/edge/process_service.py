"""ProcessService (edge/process_service.py). What each RPC means stands in protos/symphony/v1/process.proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from vllm_symphony.abi.calls import Attach as AttachCall
from vllm_symphony.abi.calls import Kill, PidArgs, Ps, Spawn, StracePart
from vllm_symphony.abi.calls import Strace as StraceCall
from vllm_symphony.abi.types import Credentials
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.looking import Looks
from vllm_symphony.edge.one_call import one_call
from vllm_symphony.edge.trace_parent import traceparent
from vllm_symphony.errors import BadProgram, BrokenPipe, TimedOut
from vllm_symphony.proto.message import from_message, to_message, word_of
from vllm_symphony.proto.v1 import process_pb2 as pb
from vllm_symphony.proto.v1.process_pb2_grpc import ProcessServiceServicer

_NO_EVENT = 2**53 - 1  # attach from here on: nothing but the end


class ProcessService(ProcessServiceServicer):
    """Programs: started, watched, ended."""

    def __init__(self, kernel: KernelLink, looks: Looks) -> None:
        self._kernel = kernel
        self._looks = looks

    async def Run(self, request: pb.RunRequest, context: Any) -> AsyncGenerator[pb.RunResponse, None]:  # noqa: N802
        """Spawn and attach; leaving before the end is TERM."""
        cred = caller(context)
        pid = (await self._kernel.call("spawn", _spawn(request.program, context), cred, request_id=request.request_id)).pid
        ended = False
        try:
            yield pb.RunResponse(pid=pid)
            async with aclosing(self._events(AttachCall(pid), cred)) as parts:
                async for events in parts:
                    yield pb.RunResponse(events=events)
            ended = True
            process = await self._process(pid, cred)
            yield pb.RunResponse(exit=process.exit, process=process)
        finally:
            if not ended:
                self._kernel.post("kill", Kill(pid), cred)

    async def Spawn(self, request: pb.SpawnRequest, context: Any) -> pb.SpawnResponse:  # noqa: N802
        spawned = await self._kernel.call("spawn", _spawn(request.program, context), caller(context), request_id=request.request_id)
        return pb.SpawnResponse(pid=spawned.pid)

    async def Attach(self, request: pb.AttachRequest, context: Any) -> AsyncGenerator[pb.AttachResponse, None]:  # noqa: N802
        args = AttachCall(request.pid, max(request.from_seq, 1), request.follow)
        async with aclosing(self._looks.over(self._events(args, caller(context)))) as parts:
            async for events in parts:
                yield pb.AttachResponse(events=events)

    async def Wait(self, request: pb.WaitRequest, context: Any) -> pb.WaitResponse:  # noqa: N802
        """Watch for the end and look: unlike the kernel's `wait`, which reaps, any number of clients may."""
        cred = caller(context)
        try:
            async with asyncio.timeout(request.timeout_s if request.HasField("timeout_s") else None):
                async with aclosing(self._events(AttachCall(request.pid, _NO_EVENT), cred)) as parts:
                    async for _ in parts:
                        pass
        except TimeoutError:
            raise TimedOut(f"process {request.pid} still runs after {request.timeout_s:g} s", pid=request.pid) from None
        process = await self._process(request.pid, cred)
        return pb.WaitResponse(exit=process.exit, process=process)

    async def Kill(self, request: pb.KillRequest, context: Any) -> pb.KillResponse:  # noqa: N802
        word = word_of(pb.Signal.DESCRIPTOR, request.signal or pb.SIGNAL_TERM).upper()
        await self._kernel.call("kill", Kill(request.pid, word), caller(context), request_id=request.request_id)
        return pb.KillResponse()

    async def Feed(self, request: pb.FeedRequest, context: Any) -> pb.FeedResponse:  # noqa: N802
        return await one_call(self._kernel, "feed", request, context, pb.FeedResponse())

    async def GetLimits(self, request: pb.GetLimitsRequest, context: Any) -> pb.GetLimitsResponse:  # noqa: N802
        return await one_call(self._kernel, "getrlimit", request, context, pb.GetLimitsResponse(), **_whose(request, context))

    async def SetLimits(self, request: pb.SetLimitsRequest, context: Any) -> pb.SetLimitsResponse:  # noqa: N802
        return await one_call(self._kernel, "setrlimit", request, context, pb.SetLimitsResponse(), **_whose(request, context))

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:  # noqa: N802
        return await one_call(self._kernel, "getrusage", request, context, pb.GetUsageResponse())

    async def ListProcesses(self, request: pb.ListProcessesRequest, context: Any) -> pb.ListProcessesResponse:  # noqa: N802
        pid = request.pid if request.HasField("pid") else None
        result = await self._kernel.call("ps", Ps(pid), caller(context))
        return to_message(result, pb.ListProcessesResponse())

    async def _events(self, args: AttachCall, cred: Credentials) -> AsyncGenerator[list[pb.ProcessEvent], None]:
        """The events of an attach. A reader so slow that the kernel cut it off goes on where it was; a gap tells what it missed."""
        while True:
            try:
                async with aclosing(self._kernel.stream("attach", args, cred)) as parts:
                    async for part in parts:
                        args = replace(args, from_seq=part.events[-1].seq + 1)
                        yield [to_message(e, pb.ProcessEvent()) for e in part.events]
                return
            except BrokenPipe:
                continue

    async def _process(self, pid: int, cred: Credentials) -> pb.ProcessStat:
        (stat,) = (await self._kernel.call("ps", Ps(pid), cred)).processes
        return to_message(stat, pb.ProcessStat())

    async def Strace(self, request: pb.StraceRequest, context: Any) -> AsyncGenerator[pb.StraceResponse, None]:  # noqa: N802
        pid = request.pid if request.HasField("pid") else None
        args = StraceCall(pid, request.follow, request.children, request.steps)
        async with aclosing(self._looks.over(self._records(args, caller(context)))) as parts:
            async for part in parts:
                yield to_message(part, pb.StraceResponse())

    async def Why(self, request: pb.WhyRequest, context: Any) -> pb.WhyResponse:  # noqa: N802
        return to_message(await self._kernel.call("why", PidArgs(request.pid), caller(context)), pb.WhyResponse())

    async def _records(self, args: StraceCall, cred: Credentials) -> AsyncGenerator[StracePart, None]:
        """The parts of a strace. A reader so slow that the kernel cut it off goes on where it was, as in `_events`."""
        last_step = 0
        while True:
            try:
                async with aclosing(self._kernel.stream("strace", args, cred)) as parts:
                    async for part in parts:
                        part = replace(part, steps=tuple(s for s in part.steps if s.step > last_step))
                        if part.records:
                            args = replace(args, from_seq=part.records[-1].seq + 1)
                        if part.steps:
                            last_step = part.steps[-1].step
                        yield part
                return
            except BrokenPipe:
                continue


def _spawn(program: pb.Program, context: Any) -> Spawn:
    """Detached from the edge, so that it can still be looked at when it has ended; `Run` ends it with its caller."""
    if not program.source.strip() and not program.code and not program.program:
        raise BadProgram("the program is empty")
    return Spawn(
        source=program.source or None,
        entry=program.entry or "main",
        args=program.args or "{}",
        name=program.name,
        detach=True,
        abi=program.abi,
        code=program.code,
        program=program.program,
        runtime=program.runtime,
        limits=from_message(program.limits) if program.HasField("limits") else None,
        tools=tuple(program.tools),
        stdin=program.stdin,
        traceparent=traceparent(context),
    )


def _whose(request: Any, context: Any) -> dict[str, Any]:
    """Limits of nobody in particular are those of the caller, which is no process here."""
    asked = request.HasField("pid") or request.HasField("principal")
    return {} if asked else {"principal": caller(context).principal}
