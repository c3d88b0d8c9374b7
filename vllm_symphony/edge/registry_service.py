"""RegistryService and ToolService (edge/registry_service.py): what is there to be run and called. protos/symphony/v1 tells more."""

from __future__ import annotations

from typing import Any

from vllm_symphony.abi.calls import NoArgs
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.one_call import one_call
from vllm_symphony.proto.message import to_message
from vllm_symphony.proto.v1 import registry_pb2 as pb
from vllm_symphony.proto.v1 import tool_pb2
from vllm_symphony.proto.v1.registry_pb2_grpc import RegistryServiceServicer
from vllm_symphony.proto.v1.tool_pb2_grpc import ToolServiceServicer


class RegistryService(RegistryServiceServicer):
    """Programs that were installed."""

    def __init__(self, kernel: KernelLink) -> None:
        self._kernel = kernel

    async def Install(self, request: pb.InstallRequest, context: Any) -> pb.InstallResponse:  # noqa: N802
        return await one_call(self._kernel, "install", request, context, pb.InstallResponse())

    async def Uninstall(self, request: pb.UninstallRequest, context: Any) -> pb.UninstallResponse:  # noqa: N802
        return await one_call(self._kernel, "uninstall", request, context, pb.UninstallResponse())

    async def ListPrograms(self, request: pb.ListProgramsRequest, context: Any) -> pb.ListProgramsResponse:  # noqa: N802
        return await one_call(self._kernel, "programs", request, context, pb.ListProgramsResponse())

    async def GetProgram(self, request: pb.GetProgramRequest, context: Any) -> pb.GetProgramResponse:  # noqa: N802
        return await one_call(self._kernel, "program", request, context, pb.GetProgramResponse())


class ToolService(ToolServiceServicer):
    """Tools that programs may be given."""

    def __init__(self, kernel: KernelLink) -> None:
        self._kernel = kernel

    async def ListTools(self, request: tool_pb2.ListToolsRequest, context: Any) -> tool_pb2.ListToolsResponse:  # noqa: N802
        return to_message(await self._kernel.call("tools", NoArgs(), caller(context)), tool_pb2.ListToolsResponse())
