"""An open file as programs hold it, but for its tokens (lip/handle.py): what it is called, whose it is, where it is kept.

A handle owns one fd: `close`, the end of its `async with` block or the loss of the last reference gives it back; the process's end
gives back all. What goes by name alone is in path.py.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Literal, Self

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import FileStat
from vllm_symphony.errors import SymphonyError
from vllm_symphony.lip import transport
from vllm_symphony.lip.lock import Lock

Advice = Literal["willneed", "dontneed"]
Tier = Literal["host", "disk"]


class Handle:
    """An open file. `length` is its number of tokens as this program last learnt it; `stat` asks."""

    def __init__(self, opened: calls.FdResult, path: str | None = None) -> None:
        self.fd = opened.fd
        self.ino = opened.ino
        self.path = path
        self._length = opened.length
        self._transport: transport.Transport | None = transport.session().transport  # None once closed

    @property
    def length(self) -> int:
        """In tokens."""
        return self._length

    def __len__(self) -> int:
        return self._length

    # ---- names, rights, attributes

    async def link(self, path: str, *, replace: bool = False) -> None:
        """Give the file a (further) name, under which it outlives the process.

        `replace`: what has the name loses it, atomically: who opens it finds the old file or this one, never none.

        Raises:
            FileExists: the name is taken.
            NoSuchFile, NotDirectory, AccessDenied: of the directory.
            NotOwner: the file is another principal's.
        """
        await self._call("link", calls.Link(self.fd, path, replace))
        self.path = self.path or path

    async def stat(self) -> FileStat:
        """All that the kernel knows of it."""
        stat: FileStat = (await self._call("stat", calls.Stat(self.fd))).file
        self.note_length(stat.length)
        return stat

    async def chmod(self, mode: int) -> None:
        """Set its rights, bits 0o777. NotOwner when it is another principal's."""
        await self._call("chmod", calls.Chmod(mode, self.fd))

    async def chown(self, owner: str | None = None, group: str | None = None) -> None:
        """Give it to another principal (scope admin), or to a group that the caller is in. NotOwner, QuotaExceeded."""
        await self._call("chown", calls.Chown(self.fd, None, owner, group))

    async def setxattr(self, name: str, value: str, *, create: bool = False, replace: bool = False) -> None:
        """Set an extended attribute. `create`: it must be new (FileExists); `replace`: it must exist (NoAttribute)."""
        await self._call("setxattr", calls.Setxattr(name, value, self.fd, None, create, replace))

    async def getxattr(self, name: str) -> str:
        """An extended attribute; NoAttribute when there is none."""
        result: calls.XattrsResult = await self._call("getxattr", calls.Xattr(name, self.fd))
        return result.attributes[name]

    async def listxattr(self) -> dict[str, str]:
        """All extended attributes, by name."""
        result: calls.XattrsResult = await self._call("listxattr", calls.FileArgs(self.fd))
        return result.attributes

    async def removexattr(self, name: str) -> None:
        """Take an extended attribute away; NoAttribute when there is none."""
        await self._call("removexattr", calls.Xattr(name, self.fd))

    # ---- sharing, keeping

    def lock(
        self,
        kind: Literal["exclusive", "shared"] = "exclusive",
        *,
        lease_s: float = 30.0,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> Lock:
        """The file's lock, for `async with` or `await`: exclusive (nobody else writes meanwhile) or shared (any number).

        Granted in the order of asking. It is taken away after `lease_s`, unless renewed: the next write is then StaleFile, once.

        Raises:
            WouldBlock: somebody has it, and `wait` is False. TimedOut: after `timeout_s`.
            BadFile: exclusive needs a file that is open for writing.
        """
        return Lock(self, calls.Flock(self.fd, kind, lease_s, wait, timeout_s))

    async def unlock(self) -> None:
        """Let others have the lock; harmless when it is not held."""
        await self._call("flock", calls.Flock(self.fd, "unlock"))

    async def pin(self, pinned: bool = True) -> None:
        """Keep its pages on the device, or (`pinned=False`) let them go again when there is no room.

        Raises QuotaExceeded above the principal's limit, OutOfPages when they do not fit.
        """
        await self._call("pin", calls.Pin(self.fd, None, pinned))

    async def chattr(self, *, durable: str | None = None, expires_s: float | None = None, ttl_s: float | None = None) -> None:
        """Say how it is kept: unlinked in `expires_s` seconds, 0 never. The others are of directories. NotOwner."""
        await self._call("chattr", calls.Chattr(self.fd, None, durable, expires_s, ttl_s))

    async def advise(
        self, advice: Advice = "willneed", *, tier: Tier = "host", wait: bool = False, timeout_s: float | None = None
    ) -> None:
        """willneed: bring its pages to the device. dontneed: demote them to the `tier`. `wait`: until it is done.

        Raises:
            FileBusy: a call writes it. OutOfPages, NotSupported: there is no room, or no such tier. TimedOut.
        """
        await self._call("advise", calls.Advise(self.fd, None, advice, tier, wait, timeout_s))

    async def sync(self, *, timeout_s: float | None = None) -> calls.SyncResult:
        """Write it to disk as its directory says, and wait until it is there. InvalidArgument where the directory keeps nothing."""
        result: calls.SyncResult = await self._call("sync", calls.Sync(self.fd, None, timeout_s))
        return result

    async def du(self) -> calls.DuResult:
        """What it costs; a page that n files share costs each 1/n."""
        result: calls.DuResult = await self._call("du", calls.FileArgs(self.fd))
        return result

    # ---- its end

    @property
    def is_open(self) -> bool:
        """It was not closed."""
        return self._transport is not None

    async def close(self) -> None:
        """Give the fd back; an anonymous file whose last fd this was is gone. Closing twice is no error."""
        if self._transport is not None:
            self._transport = None
            await transport.call("close", calls.FdArgs(self.fd))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._transport is not None and in_loop():  # else the program is over, or this is a foreign thread's collection
            self._transport.post("close", calls.FdArgs(self.fd), tid=0)

    def __repr__(self) -> str:
        return f"<file {self.path or 'anonymous'}, fd {self.fd}, {self._length} tokens>"

    # ---- for the library's own modules

    def note_length(self, length: int) -> int:
        self._length = length
        return length

    def note_error(self, error: SymphonyError) -> None:
        """An error that says how long the file is now keeps `length` true."""
        length = error.values.get("length")
        if isinstance(length, int):
            self._length = length

    async def _call(self, op: str, args: object) -> Any:
        try:
            return await transport.call(op, args)
        except SymphonyError as e:
            self.note_error(e)
            raise


def in_loop() -> bool:
    """Does the calling thread run an event loop?"""
    try:
        return asyncio.get_running_loop() is not None
    except RuntimeError:
        return False
