"""ProcessService (edge/process_service.py). What each RPC means stands in protos/symphony/v1/process.proto."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vllm_symphony.abi.calls import Attach, Kill, Ps, Spawn, Strace, Wait, WaitResult
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.proto.message import to_message, word_of
from vllm_symphony.proto.v1 import process_pb2 as pb
from vllm_symphony.proto.v1.process_pb2_grpc import ProcessServiceServicer


class ProcessService(ProcessServiceServicer):
    """Programs: started, watched, ended."""

    def __init__(self, kernel: KernelLink) -> None:
        self._kernel = kernel

    async def Run(self, request: pb.RunRequest, context: Any) -> AsyncGenerator[pb.RunResponse, None]:  # noqa: N802
        """Spawn and attach; leaving before the end is TERM."""
        cred = caller(context)
        pid = (await self._kernel.call("spawn", _spawn(request.program, detach=False), cred)).pid
        ended = False
        try:
            yield pb.RunResponse(pid=pid)
            async with aclosing(self._kernel.stream("attach", Attach(pid), cred)) as parts:
                async for part in parts:
                    yield pb.RunResponse(events=[to_message(e, pb.ProcessEvent()) for e in part.events])
            result: WaitResult = await self._kernel.call("wait", Wait(pid), cred)
            ended = True
            yield to_message(_Ended(result), pb.RunResponse())
        finally:
            if not ended:
                self._kernel.post("kill", Kill(pid), cred)

    async def Spawn(self, request: pb.SpawnRequest, context: Any) -> pb.SpawnResponse:  # noqa: N802
        result = await self._kernel.call("spawn", _spawn(request.program, detach=True), caller(context))
        return pb.SpawnResponse(pid=result.pid)

    async def Attach(self, request: pb.AttachRequest, context: Any) -> AsyncGenerator[pb.AttachResponse, None]:  # noqa: N802
        args = Attach(request.pid, max(request.from_seq, 1), request.follow)
        async with aclosing(self._kernel.stream("attach", args, caller(context))) as parts:
            async for part in parts:
                yield pb.AttachResponse(events=[to_message(e, pb.ProcessEvent()) for e in part.events])

    async def Wait(self, request: pb.WaitRequest, context: Any) -> pb.WaitResponse:  # noqa: N802
        timeout_s = request.timeout_s if request.HasField("timeout_s") else None
        result: WaitResult = await self._kernel.call("wait", Wait(request.pid, timeout_s), caller(context))
        return to_message(_Ended(result), pb.WaitResponse())

    async def Kill(self, request: pb.KillRequest, context: Any) -> pb.KillResponse:  # noqa: N802
        word = word_of(pb.Signal.DESCRIPTOR, request.signal or pb.SIGNAL_TERM).upper()
        await self._kernel.call("kill", Kill(request.pid, word), caller(context))
        return pb.KillResponse()

    async def ListProcesses(self, request: pb.ListProcessesRequest, context: Any) -> pb.ListProcessesResponse:  # noqa: N802
        pid = request.pid if request.HasField("pid") else None
        result = await self._kernel.call("ps", Ps(pid), caller(context))
        return to_message(result, pb.ListProcessesResponse())

    async def Strace(self, request: pb.StraceRequest, context: Any) -> AsyncGenerator[pb.StraceResponse, None]:  # noqa: N802
        args = Strace(request.pid if request.HasField("pid") else None, request.follow)
        async with aclosing(self._kernel.stream("strace", args, caller(context))) as parts:
            async for part in parts:
                yield to_message(part, pb.StraceResponse())


class _Ended:
    """A WaitResult with the fields of RunResponse and WaitResponse."""

    def __init__(self, result: WaitResult) -> None:
        self.pid, self.events, self.exit, self.process = result.pid, (), result.exit, result.usage


def _spawn(program: pb.Program, detach: bool) -> Spawn:
    if not program.source.strip():
        raise InvalidArgument("program.source is empty")
    return Spawn(program.source, program.entry or "main", program.args or "{}", program.name, detach)
