"""FileService (edge/file_service.py). What each RPC means stands in protos/symphony/v1/file.proto.

Most RPCs are one system call (one_call.py). What is more than one has a module of its own: links and copies (naming.py), packs
(spool.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from vllm_symphony.abi.calls import Detokenize, Export, Import, List, Mkdir, Read, ReadResult, Stat
from vllm_symphony.abi.calls import Rename as RenameCall
from vllm_symphony.abi.calls import Watch as WatchCall
from vllm_symphony.abi.types import Credentials, unpack_tokens
from vllm_symphony.edge.concern import peer_minor
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.guard import about
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.looking import Looks
from vllm_symphony.edge.naming import Names, Naming
from vllm_symphony.edge.one_call import M, one_call
from vllm_symphony.edge.spool import Spool
from vllm_symphony.errors import InvalidArgument, NoSuchFile
from vllm_symphony.proto.message import read_as, to_message
from vllm_symphony.proto.v1 import file_pb2 as pb
from vllm_symphony.proto.v1.file_pb2_grpc import FileServiceServicer

FIRST_MINOR_WITH_DIRECTORIES = 2


class FileService(FileServiceServicer):
    """Files by their names: looked at, named, kept, moved in and out."""

    def __init__(self, kernel: KernelLink, spool: Spool, looks: Looks) -> None:
        self._kernel = kernel
        self._spool = spool
        self._looks = looks
        self._naming = Naming(kernel)

    # ---- names

    async def ListFiles(self, request: pb.ListFilesRequest, context: Any) -> pb.ListFilesResponse:  # noqa: N802
        return to_message(await self._kernel.call("list", List(request.prefix or "/"), caller(context)), pb.ListFilesResponse())

    async def ListDir(self, request: pb.ListDirRequest, context: Any) -> pb.ListDirResponse:  # noqa: N802
        return await self._call("listdir", request, context, pb.ListDirResponse())

    async def Mkdir(self, request: pb.MkdirRequest, context: Any) -> pb.MkdirResponse:  # noqa: N802
        return await self._call("mkdir", request, context, pb.MkdirResponse())

    async def Rmdir(self, request: pb.RmdirRequest, context: Any) -> pb.RmdirResponse:  # noqa: N802
        return await self._call("rmdir", request, context, pb.RmdirResponse())

    async def Unlink(self, request: pb.UnlinkRequest, context: Any) -> pb.UnlinkResponse:  # noqa: N802
        return await self._call("unlink", request, context, pb.UnlinkResponse())

    async def Rename(self, request: pb.RenameRequest, context: Any) -> pb.RenameResponse:  # noqa: N802
        args, cred = RenameCall(request.old_path, request.new_path), caller(context)
        try:
            await self._kernel.call("rename", args, cred, request_id=request.request_id)
        except NoSuchFile:
            if peer_minor(context) >= FIRST_MINOR_WITH_DIRECTORIES:
                raise
            await self._make_parents(args, cred)
            await self._kernel.call("rename", args, cred, request_id=request.request_id)
        return pb.RenameResponse()

    async def Link(self, request: pb.LinkRequest, context: Any) -> pb.LinkResponse:  # noqa: N802
        names = Names(request.path, request.new_path, request.replace)
        await self._naming.link(names, caller(context), request.request_id)
        return pb.LinkResponse()

    async def Copy(self, request: pb.CopyRequest, context: Any) -> pb.CopyResponse:  # noqa: N802
        names = Names(request.src, request.dst, request.replace)
        copy = await self._naming.copy(names, caller(context), request.request_id)
        return pb.CopyResponse(ino=copy.ino, length=copy.length)

    # ---- what is in them, and what is known of them

    async def Read(self, request: pb.ReadRequest, context: Any) -> pb.ReadResponse:  # noqa: N802
        cred = caller(context)
        read: ReadResult = await self._kernel.call("read", read_as(Read, request), cred)
        response = pb.ReadResponse(tokens=unpack_tokens(read.tokens), positions=unpack_tokens(read.positions), length=read.length)
        if read.text is not None:
            response.text = read.text  # below /proc
        elif request.text:
            response.text = (await self._kernel.call("detokenize", Detokenize(read.tokens, skip_special=False), cred)).text
        return response

    async def Stat(self, request: pb.StatRequest, context: Any) -> pb.StatResponse:  # noqa: N802
        return await self._call("stat", request, context, pb.StatResponse())

    async def Chmod(self, request: pb.ChmodRequest, context: Any) -> pb.ChmodResponse:  # noqa: N802
        return await self._call("chmod", request, context, pb.ChmodResponse())

    async def Chown(self, request: pb.ChownRequest, context: Any) -> pb.ChownResponse:  # noqa: N802
        return await self._call("chown", request, context, pb.ChownResponse())

    async def Setxattr(self, request: pb.SetxattrRequest, context: Any) -> pb.SetxattrResponse:  # noqa: N802
        return await self._call("setxattr", request, context, pb.SetxattrResponse())

    async def Getxattr(self, request: pb.GetxattrRequest, context: Any) -> pb.GetxattrResponse:  # noqa: N802
        return await self._call("getxattr", request, context, pb.GetxattrResponse())

    async def Listxattr(self, request: pb.ListxattrRequest, context: Any) -> pb.ListxattrResponse:  # noqa: N802
        return await self._call("listxattr", request, context, pb.ListxattrResponse())

    async def Removexattr(self, request: pb.RemovexattrRequest, context: Any) -> pb.RemovexattrResponse:  # noqa: N802
        return await self._call("removexattr", request, context, pb.RemovexattrResponse())

    async def Find(self, request: pb.FindRequest, context: Any) -> pb.FindResponse:  # noqa: N802
        return await self._call("find", request, context, pb.FindResponse())

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncGenerator[pb.WatchResponse, None]:  # noqa: N802
        parts = self._kernel.stream("watch", read_as(WatchCall, request), caller(context))
        async with aclosing(self._looks.over(parts)) as looking:
            async for part in looking:
                yield to_message(part, pb.WatchResponse())

    # ---- where they are kept, and what that costs

    async def Chattr(self, request: pb.ChattrRequest, context: Any) -> pb.ChattrResponse:  # noqa: N802
        return await self._call("chattr", request, context, pb.ChattrResponse())

    async def Pin(self, request: pb.PinRequest, context: Any) -> pb.PinResponse:  # noqa: N802
        return await self._call("pin", request, context, pb.PinResponse())

    async def Advise(self, request: pb.AdviseRequest, context: Any) -> pb.AdviseResponse:  # noqa: N802
        return await self._call("advise", request, context, pb.AdviseResponse())

    async def Sync(self, request: pb.SyncRequest, context: Any) -> pb.SyncResponse:  # noqa: N802
        return await self._call("sync", request, context, pb.SyncResponse())

    async def Statfs(self, request: pb.StatfsRequest, context: Any) -> pb.StatfsResponse:  # noqa: N802
        return await self._call("statfs", request, context, pb.StatfsResponse())

    async def Du(self, request: pb.DuRequest, context: Any) -> pb.DuResponse:  # noqa: N802
        return await self._call("du", request, context, pb.DuResponse())

    async def SetQuota(self, request: pb.SetQuotaRequest, context: Any) -> pb.SetQuotaResponse:  # noqa: N802
        return await self._call("setquota", request, context, pb.SetQuotaResponse())

    async def GetQuota(self, request: pb.GetQuotaRequest, context: Any) -> pb.GetQuotaResponse:  # noqa: N802
        return await self._call("getquota", request, context, pb.GetQuotaResponse())

    async def Gc(self, request: pb.GcRequest, context: Any) -> pb.GcResponse:  # noqa: N802
        return await self._call("gc", request, context, pb.GcResponse())

    async def Fsck(self, request: pb.FsckRequest, context: Any) -> pb.FsckResponse:  # noqa: N802
        return await self._call("fsck", request, context, pb.FsckResponse())

    # ---- packs

    async def Export(self, request: pb.ExportRequest, context: Any) -> AsyncGenerator[pb.ExportResponse, None]:  # noqa: N802
        self._spool.demand()
        packed = await self._kernel.call("export", read_as(Export, request), caller(context))
        async with aclosing(self._spool.sent(packed.spool)) as pieces:
            async for piece in pieces:
                yield pb.ExportResponse(num_bytes=packed.num_bytes, data=piece)

    async def Import(self, requests: AsyncIterator[pb.ImportRequest], context: Any) -> pb.ImportResponse:  # noqa: N802
        cred, first = caller(context), await anext(requests, None)
        if first is None:
            raise InvalidArgument("an import begins with the path of the file")
        about(first.path)
        whose = f"{cred.principal} {first.request_id or uuid4().hex}"
        async with self._spool.received(_pieces(first, requests), whose) as name:
            args = read_as(Import, first, spool=name)
            return to_message(await self._kernel.call("import", args, cred, request_id=first.request_id), pb.ImportResponse())

    async def _make_parents(self, renaming: RenameCall, cred: Credentials) -> None:
        """For a caller that knows no directories. Raises NoSuchFile when it is the old name that is missing."""
        await self._kernel.call("stat", Stat(path=renaming.old), cred)
        await self._kernel.call("mkdir", Mkdir(renaming.new.rpartition("/")[0] or "/", parents=True), cred)

    async def _call(self, op: str, request: Any, context: Any, response: M) -> M:
        return await one_call(self._kernel, op, request, context, response)


async def _pieces(first: pb.ImportRequest, rest: AsyncIterator[pb.ImportRequest]) -> AsyncIterator[bytes]:
    yield first.data
    async for request in rest:
        yield request.data
