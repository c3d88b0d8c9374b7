"""SystemService (edge/system_service.py). What each RPC means stands in protos/symphony/v1/system.proto."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from vllm_symphony.abi.calls import Metrics, NoArgs
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, FEATURES
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.meter import DOORS
from vllm_symphony.edge.one_call import one_call
from vllm_symphony.proto.message import to_message
from vllm_symphony.proto.v1 import system_pb2 as pb
from vllm_symphony.proto.v1.system_pb2_grpc import SystemServiceServicer


class SystemService(SystemServiceServicer):
    """The server itself."""

    def __init__(self, kernel: KernelLink) -> None:
        self._kernel = kernel
        self._began = time.monotonic()

    async def Ping(self, request: pb.PingRequest, context: Any) -> pb.PingResponse:  # noqa: N802
        began = time.perf_counter()
        await self._kernel.call("ping", NoArgs(), caller(context))
        return pb.PingResponse(kernel_s=time.perf_counter() - began)

    async def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> pb.GetInfoResponse:  # noqa: N802
        cred = caller(context)
        detail = (await self._kernel.call("info", NoArgs(), cred)).json
        model = (await self._kernel.call("model_info", NoArgs(), cred)).model
        return pb.GetInfoResponse(
            version=version("vllm-symphony"),
            abi_major=ABI_MAJOR,
            abi_minor=ABI_MINOR,
            uptime_s=time.monotonic() - self._began,
            model=model.name,
            detail=detail,
            features=FEATURES,
        )

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:  # noqa: N802
        result = await self._kernel.call("metrics", Metrics(DOORS.samples()), caller(context))
        return to_message(result, pb.GetMetricsResponse())

    async def GetSched(self, request: pb.GetSchedRequest, context: Any) -> pb.GetSchedResponse:  # noqa: N802
        return await one_call(self._kernel, "getsched", request, context, pb.GetSchedResponse())

    async def SetSched(self, request: pb.SetSchedRequest, context: Any) -> pb.SetSchedResponse:  # noqa: N802
        return await one_call(self._kernel, "setsched", request, context, pb.SetSchedResponse())

    async def SetWeight(self, request: pb.SetWeightRequest, context: Any) -> pb.SetWeightResponse:  # noqa: N802
        return await one_call(self._kernel, "setweight", request, context, pb.SetWeightResponse())
