"""The client's work on files (client/files.py): names, rights, attributes, where they are kept, what happens to them.

Each method is one RPC of FileService. Programs and sessions open files and edit them; these go by path. A deadline (`timeout_s`)
ends the call at the server too.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from vllm_symphony.abi.calls import DuResult, FindResult, FsckResult, GcResult, SyncResult, WatchPart
from vllm_symphony.abi.types import FileStat, FsStat, Quota
from vllm_symphony.client.call import Caller, each
from vllm_symphony.client.display import FileList
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.proto.message import from_message, read_as
from vllm_symphony.proto.v1 import file_pb2 as pb

if TYPE_CHECKING:
    from vllm_symphony.proto.v1.file_pb2_grpc import FileServiceAsyncStub


@dataclass(frozen=True, slots=True)
class FileText:
    """Tokens of a file, their positions, and the text when it was asked for (or it is a file below /proc, which has nothing else).
    `length` is the whole file's."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    length: int
    text: str | None


class Files:
    """What `Client` can do with files."""

    target: str
    _caller: Caller
    _file: FileServiceAsyncStub

    # ---- names

    async def ls(self, prefix: str = "/", *, timeout_s: float | None = None) -> FileList:
        """Named files (not directories) whose path begins with `prefix`, by name."""
        response = await self._caller.ask(self._file.ListFiles, pb.ListFilesRequest(prefix=prefix), timeout_s)
        return FileList(from_message(f) for f in response.files)

    async def listdir(self, path: str = "/", *, recursive: bool = False, timeout_s: float | None = None) -> FileList:
        """Files and directories in the directory, by name; `recursive`: and all below it."""
        response = await self._caller.ask(self._file.ListDir, pb.ListDirRequest(path=path, recursive=recursive), timeout_s)
        return FileList(from_message(f) for f in response.files)

    async def mkdir(self, path: str, *, mode: int = 0o777, parents: bool = False, timeout_s: float | None = None) -> None:
        """Make a directory, with `mode` less the bits 0o022. `parents`: those above it too, and one that exists is no error."""
        request = pb.MkdirRequest(path=path, mode=_mode(mode), parents=parents, request_id=_once())
        await self._caller.ask(self._file.Mkdir, request, timeout_s)

    async def rmdir(self, path: str, *, timeout_s: float | None = None) -> None:
        """Take an empty directory away."""
        await self._caller.ask(self._file.Rmdir, pb.RmdirRequest(path=path, request_id=_once()), timeout_s)

    async def rm(self, path: str, *, timeout_s: float | None = None) -> None:
        """Take a file's name away."""
        await self._caller.ask(self._file.Unlink, pb.UnlinkRequest(path=path, request_id=_once()), timeout_s)

    async def mv(self, old: str, new: str, *, timeout_s: float | None = None) -> None:
        """Give a file or a directory another name, replacing the file or the empty directory that has it."""
        request = pb.RenameRequest(old_path=old, new_path=new, request_id=_once())
        await self._caller.ask(self._file.Rename, request, timeout_s)

    async def link(self, path: str, new_path: str, *, replace: bool = False, timeout_s: float | None = None) -> None:
        """Give a file a further name; `replace`: what has it loses it, atomically."""
        request = pb.LinkRequest(path=path, new_path=new_path, replace=replace, request_id=_once())
        await self._caller.ask(self._file.Link, request, timeout_s)

    async def copy(self, src: str, dst: str, *, replace: bool = False, timeout_s: float | None = None) -> None:
        """Make a file that shares all pages of another: no work, no new pages until one of them is written."""
        request = pb.CopyRequest(src=src, dst=dst, replace=replace, request_id=_once())
        await self._caller.ask(self._file.Copy, request, timeout_s)

    # ---- what is in them, and what is known of them

    async def cat(
        self, path: str, *, offset: int = 0, count: int | None = None, text: bool = True, timeout_s: float | None = None
    ) -> FileText:
        """Tokens [offset, offset + count) of a file."""
        r = await self._caller.ask(self._file.Read, pb.ReadRequest(path=path, offset=offset, count=count, text=text), timeout_s)
        return FileText(tuple(r.tokens), tuple(r.positions), r.length, r.text if r.HasField("text") else None)

    async def stat(self, path: str, *, timeout_s: float | None = None) -> FileStat:
        """One file or directory."""
        found: FileStat = from_message((await self._caller.ask(self._file.Stat, pb.StatRequest(path=path), timeout_s)).file)
        return found

    async def chmod(self, path: str, mode: int, *, timeout_s: float | None = None) -> None:
        """Set the rights: bits 0o777 of a file, 0o3777 of a directory."""
        await self._caller.ask(self._file.Chmod, pb.ChmodRequest(path=path, mode=_mode(mode), request_id=_once()), timeout_s)

    async def chown(self, path: str, owner: str | None = None, group: str | None = None, *, timeout_s: float | None = None) -> None:
        """Give it to another principal (scope admin), or to a group that the caller is in."""
        await self._caller.ask(
            self._file.Chown, pb.ChownRequest(path=path, owner=owner, group=group, request_id=_once()), timeout_s
        )

    async def setxattr(
        self, path: str, name: str, value: str, *, create: bool = False, replace: bool = False, timeout_s: float | None = None
    ) -> None:
        """Set an extended attribute. `create`: it must be new; `replace`: it must exist."""
        request = pb.SetxattrRequest(path=path, name=name, value=value, create=create, replace=replace, request_id=_once())
        await self._caller.ask(self._file.Setxattr, request, timeout_s)

    async def getxattr(self, path: str, name: str, *, timeout_s: float | None = None) -> str:
        """One extended attribute."""
        response = await self._caller.ask(self._file.Getxattr, pb.GetxattrRequest(path=path, name=name), timeout_s)
        return str(response.attributes[name])

    async def listxattr(self, path: str, *, timeout_s: float | None = None) -> dict[str, str]:
        """All extended attributes, by name."""
        return dict((await self._caller.ask(self._file.Listxattr, pb.ListxattrRequest(path=path), timeout_s)).attributes)

    async def removexattr(self, path: str, name: str, *, timeout_s: float | None = None) -> None:
        """Take an extended attribute away."""
        await self._caller.ask(self._file.Removexattr, pb.RemovexattrRequest(path=path, name=name, request_id=_once()), timeout_s)

    async def find(
        self,
        path: str = "/",
        *,
        name: str = "",
        text: str = "",
        owner: str = "",
        kind: str = "",
        fidelity: str = "",
        xattr: dict[str, str] | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        min_age_s: float | None = None,
        max_age_s: float | None = None,
        limit: int = 1000,
        timeout_s: float | None = None,
    ) -> FindResult:
        """Files and directories below `path` that fit all of what is given, by path; with `text` the best match first.

        `name`: a glob on the last part of the path. `text`: words as in SQLite FTS5. `xattr`: name of an attribute -> a glob on its
        value. Lengths in tokens, ages since the tokens changed. `kind`: file or dir. `fidelity`: exact, pruned or approximate.
        """
        request = pb.FindRequest(
            path=path, name=name, owner=owner, kind=kind, fidelity=fidelity, xattr=xattr or {}, min_length=min_length,
            max_length=max_length, min_age_s=min_age_s, max_age_s=max_age_s, text=text, limit=limit,
        )  # fmt: skip
        return read_as(FindResult, await self._caller.ask(self._file.Find, request, timeout_s))

    async def watch(self, path: str = "/", *, recursive: bool = True) -> AsyncGenerator[WatchPart, None]:
        """What happens to the file, or in the directory (`recursive`: and below it), in parts, without end.

        The first part is empty: from then on nothing is missed, but what a part counts as `missing` because it was read too slowly.
        A connection that breaks ends it with ServerUnreachable: look again at what there is, then watch again.
        """
        request = pb.WatchRequest(path=path, recursive=recursive)
        async with aclosing(each(self.target, self._file.Watch(request))) as responses:
            async for response in responses:
                yield read_as(WatchPart, response)

    # ---- where they are kept, and what that costs

    async def chattr(
        self,
        path: str,
        *,
        durable: str | None = None,
        expires_s: float | None = None,
        ttl_s: float | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Say how it is kept; None: as it is.

        `durable` of a directory, for the files in it: none, tokens, pages, or "" as the directory above. `expires_s` of a file: it
        is unlinked so many seconds from now, 0 never. `ttl_s` of a directory: what is made in it expires so.
        """
        request = pb.ChattrRequest(path=path, durable=durable, expires_s=expires_s, ttl_s=ttl_s, request_id=_once())
        await self._caller.ask(self._file.Chattr, request, timeout_s)

    async def pin(self, path: str, *, timeout_s: float | None = None) -> None:
        """Keep a file's pages on the device."""
        await self._caller.ask(self._file.Pin, pb.PinRequest(path=path, pinned=True, request_id=_once()), timeout_s)

    async def unpin(self, path: str, *, timeout_s: float | None = None) -> None:
        """Let them go again when there is no room."""
        await self._caller.ask(self._file.Pin, pb.PinRequest(path=path, pinned=False, request_id=_once()), timeout_s)

    async def advise(
        self, path: str, advice: str = "willneed", *, tier: str = "host", wait: bool = False, timeout_s: float | None = None
    ) -> None:
        """willneed: bring the pages to the device. dontneed: demote them to the `tier` host or disk. `wait`: until it is done."""
        request = pb.AdviseRequest(path=path, advice=advice, tier=tier, wait=wait, request_id=_once())
        await self._caller.ask(self._file.Advise, request, timeout_s)

    async def sync(self, path: str | None = None, *, timeout_s: float | None = None) -> SyncResult:
        """Write a file, or all named files of the caller, to disk as their directories say, and wait until it is there."""
        return read_as(SyncResult, await self._caller.ask(self._file.Sync, pb.SyncRequest(path=path), timeout_s))

    async def statfs(self, *, timeout_s: float | None = None) -> FsStat:
        """The file system: what there is on the device, in host memory and on disk, and what the caller has of it."""
        fs: FsStat = from_message((await self._caller.ask(self._file.Statfs, pb.StatfsRequest(), timeout_s)).fs)
        return fs

    async def du(self, path: str = "/", *, timeout_s: float | None = None) -> DuResult:
        """What a file, or all below a directory, costs; a page that n files share costs each 1/n."""
        return read_as(DuResult, await self._caller.ask(self._file.Du, pb.DuRequest(path=path), timeout_s))

    async def getquota(self, principal: str = "", *, timeout_s: float | None = None) -> Quota:
        """The caller's limits and what is used of them; with scope admin another principal's."""
        response = await self._caller.ask(self._file.GetQuota, pb.GetQuotaRequest(principal=principal), timeout_s)
        quota: Quota = from_message(response.quota)
        return quota

    async def setquota(
        self,
        principal: str,
        *,
        device_pages: int | None = None,
        host_bytes: int | None = None,
        disk_bytes: int | None = None,
        files: int | None = None,
        rows: int | None = None,
        pinned_pages: int | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Set limits of a principal; scope admin. One below 0 takes the limit away, None leaves it."""
        request = pb.SetQuotaRequest(
            principal=principal, device_pages=device_pages, host_bytes=host_bytes, disk_bytes=disk_bytes, files=files, rows=rows,
            pinned_pages=pinned_pages, request_id=_once(),
        )  # fmt: skip
        await self._caller.ask(self._file.SetQuota, request, timeout_s)

    async def gc(self, *, dry_run: bool = False, timeout_s: float | None = None) -> GcResult:
        """Remove what has expired, what nobody refers to, and what the disk has no room for. `dry_run`: only say what that is."""
        return read_as(
            GcResult, await self._caller.ask(self._file.Gc, pb.GcRequest(dry_run=dry_run, request_id=_once()), timeout_s)
        )

    async def fsck(self, path: str = "/", *, rebuild: bool = False, timeout_s: float | None = None) -> FsckResult:
        """Prove what is kept below `path`. `rebuild`: compute the pages of stale files again."""
        request = pb.FsckRequest(path=path, rebuild=rebuild, request_id=_once())
        return read_as(FsckResult, await self._caller.ask(self._file.Fsck, request, timeout_s))


def _once() -> str:
    """A new `request_id`: whatever is tried again under it happens once."""
    return uuid4().hex


def _mode(mode: int) -> int:
    """Raises InvalidArgument for what is no mode, as 777 instead of 0o777."""
    if mode != stat.S_IMODE(mode):
        raise InvalidArgument(f"mode must be in 0..0o7777, not {mode:#o} (is it written in octal?)", mode=mode)
    return mode
