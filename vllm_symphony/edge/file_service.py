"""FileService (edge/file_service.py). What each RPC means stands in protos/symphony/v1/file.proto."""

from __future__ import annotations

from typing import Any

from vllm_symphony.abi.calls import Detokenize, List, PathArgs, Read, ReadResult, Rename, Stat
from vllm_symphony.abi.types import unpack_tokens
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.proto.message import to_message
from vllm_symphony.proto.v1 import file_pb2 as pb
from vllm_symphony.proto.v1.file_pb2_grpc import FileServiceServicer


class FileService(FileServiceServicer):
    """Named files: looked at, named."""

    def __init__(self, kernel: KernelLink) -> None:
        self._kernel = kernel

    async def ListFiles(self, request: pb.ListFilesRequest, context: Any) -> pb.ListFilesResponse:  # noqa: N802
        return to_message(await self._kernel.call("list", List(request.prefix or "/"), caller(context)), pb.ListFilesResponse())

    async def Stat(self, request: pb.StatRequest, context: Any) -> pb.StatResponse:  # noqa: N802
        return to_message(await self._kernel.call("stat", Stat(path=request.path), caller(context)), pb.StatResponse())

    async def Read(self, request: pb.ReadRequest, context: Any) -> pb.ReadResponse:  # noqa: N802
        cred = caller(context)
        count = request.count if request.HasField("count") else None
        read: ReadResult = await self._kernel.call("read", Read(path=request.path, offset=request.offset, count=count), cred)
        response = pb.ReadResponse(tokens=unpack_tokens(read.tokens), positions=unpack_tokens(read.positions), length=read.length)
        if request.text:
            response.text = (await self._kernel.call("detokenize", Detokenize(read.tokens, skip_special=False), cred)).text
        return response

    async def Unlink(self, request: pb.UnlinkRequest, context: Any) -> pb.UnlinkResponse:  # noqa: N802
        await self._kernel.call("unlink", PathArgs(request.path), caller(context), request_id=request.request_id)
        return pb.UnlinkResponse()

    async def Rename(self, request: pb.RenameRequest, context: Any) -> pb.RenameResponse:  # noqa: N802
        args = Rename(request.old_path, request.new_path)
        await self._kernel.call("rename", args, caller(context), request_id=request.request_id)
        return pb.RenameResponse()
