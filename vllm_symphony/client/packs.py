"""Files packed, out of the server and in again (client/packs.py).

    /kb/a.kv  -- export -->  a.symphony  -- import -->  /kb/b.kv      there, or at another server

A local file is whole or not there: it is written aside and renamed.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from vllm_symphony.abi.calls import ImportResult
from vllm_symphony.client.call import Caller, each
from vllm_symphony.errors import AccessDenied, TimedOut
from vllm_symphony.proto.message import read_as
from vllm_symphony.proto.v1 import file_pb2 as pb

if TYPE_CHECKING:
    from vllm_symphony.proto.v1.file_pb2_grpc import FileServiceAsyncStub

PIECE_BYTES = 256 << 10
Moved = Callable[[int, int], None]
"""Is told of progress: bytes that are there, bytes of all."""


class Packs:
    """What `Client` can do with packed files."""

    target: str
    _caller: Caller
    _file: FileServiceAsyncStub

    async def export_file(
        self,
        path: str,
        local: str | os.PathLike[str],
        *,
        pages: bool = True,
        progress: Moved | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Pack a file (tokens, positions, attributes, and with `pages` its computed pages) into the local file; gives its bytes.

        Raises AccessDenied when the local file cannot be written.
        """
        request = pb.ExportRequest(path=path, pages=pages)
        with _Aside(Path(local)) as aside:
            try:
                async with asyncio.timeout(timeout_s), aclosing(each(self.target, self._file.Export(request))) as responses:
                    async for response in responses:
                        num_bytes = await aside.write(response.data)
                        if progress:
                            progress(num_bytes, response.num_bytes)
            except TimeoutError:
                raise TimedOut(f"{path} was not exported within {timeout_s:g} s", path=path) from None
            return await aside.keep()

    async def import_file(
        self,
        local: str | os.PathLike[str],
        path: str,
        *,
        mode: int = 0o600,
        trust: bool = False,
        progress: Moved | None = None,
        timeout_s: float | None = None,
    ) -> ImportResult:
        """Make a file at `path` of a packed one. Its pages are taken if the server signed them or with `trust` (scope admin); else
        they are computed again.

        Raises AccessDenied when the local file cannot be read.
        """
        first = pb.ImportRequest(path=path, mode=mode, trust=trust, request_id=uuid4().hex)
        try:
            file = open(local, "rb")  # noqa: ASYNC230, SIM115 - its bytes are read in a thread; closed below
        except OSError as e:
            raise AccessDenied(f"cannot read {os.fspath(local)}: {e.strerror}", path=os.fspath(local)) from None
        with file:
            response = await self._caller.ask(_uploading(self._file, file.fileno(), progress), first, timeout_s)
        return read_as(ImportResult, response)


def _uploading(stub: FileServiceAsyncStub, fd: int, progress: Moved | None) -> Callable[..., Awaitable[pb.ImportResponse]]:
    """The RPC as one that takes its first message; each try begins at the file's beginning."""

    async def pieces(message: pb.ImportRequest) -> AsyncGenerator[pb.ImportRequest, None]:
        size, sent = os.fstat(fd).st_size, 0
        while piece := await asyncio.to_thread(os.pread, fd, PIECE_BYTES, sent):
            message.data = piece
            yield message
            message, sent = pb.ImportRequest(), sent + len(piece)
            if progress:
                progress(sent, size)
        if not sent:
            yield message  # of an empty file: the server says what is wrong

    def upload(first: pb.ImportRequest, timeout: float | None = None) -> Awaitable[pb.ImportResponse]:
        fresh = pb.ImportRequest()
        fresh.CopyFrom(first)
        return stub.Import(pieces(fresh), timeout=timeout)

    return upload


class _Aside:
    """A file beside `path` that takes its name when it is whole, and is removed when it never is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._num_bytes = 0

    def __enter__(self) -> _Aside:
        try:
            fd, self._name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        except OSError as e:
            raise self._refused(e) from None
        self._file = os.fdopen(fd, "wb", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with suppress(FileNotFoundError):  # it was kept
            os.unlink(self._name)

    async def write(self, piece: bytes) -> int:
        """Give the bytes that there are now."""
        try:
            await asyncio.to_thread(self._file.write, piece)
        except OSError as e:
            raise self._refused(e) from None
        self._num_bytes += len(piece)
        return self._num_bytes

    async def keep(self) -> int:
        try:
            await asyncio.to_thread(os.fsync, self._file.fileno())
            os.rename(self._name, self._path)
        except OSError as e:
            raise self._refused(e) from None
        return self._num_bytes

    def _refused(self, error: OSError) -> AccessDenied:
        return AccessDenied(f"cannot write {self._path}: {error.strerror}", path=str(self._path))
