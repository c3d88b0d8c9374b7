"""Channels as programs hold them (lip/channel.py): messages between processes, and between threads of one.

    async with lip.channel("orders", create=True, access="r") as orders:         in one program: serve
        async for message in orders:
            await message.reply(await answer(message.json()))
    async with lip.channel("orders", access="w") as orders:                      in another one: ask
        print((await orders.request({"item": 7})).json())

A handle is its process's own: a child opens the channel by its name. What is no bytes travels as JSON. Cancelling a `recv` loses
nothing: a message that was on its way to it is the next one here.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, Literal

from vllm_symphony.abi import calls, types
from vllm_symphony.abi.types import ChannelStat, OpenFlags, SendFd
from vllm_symphony.errors import BrokenPipe, InvalidArgument
from vllm_symphony.lip import transport
from vllm_symphony.lip.file import File
from vllm_symphony.lip.handle import in_loop
from vllm_symphony.lip.text import to_json

Access = Literal["r", "w", "rw"]


class Message:
    """What was received. `files`: that came along, open here. `missing`: messages of a topic before this one that were dropped,
    because they were not read in time. `pid`, `principal`: who sent it."""

    def __init__(self, got: types.Message, files: list[File]) -> None:
        self.data = got.data
        self.files = files
        self.seq = got.seq
        self.missing = got.missing
        self.pid = got.pid
        self.principal = got.principal
        self._token = got.token

    def json(self) -> Any:
        """The value that was sent. InvalidArgument when it is no JSON."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as e:
            raise InvalidArgument(f"message {self.seq} is no JSON: {e}") from None

    @property
    def wants_reply(self) -> bool:
        """It is a request, and was not answered yet."""
        return self._token > 0

    async def reply(self, value: object = None, *, files: Sequence[File] = (), writable: bool = False) -> None:
        """Answer the request; once.

        Raises:
            InvalidArgument: it is no request, or was answered.
            BrokenPipe: who asked does not wait any more.
        """
        if not self.wants_reply:
            raise InvalidArgument(f"message {self.seq} wants no reply, or has it")
        token, self._token = self._token, 0
        await transport.call("respond", calls.Respond(token, _packed(value), _fds(files, writable)))

    def __repr__(self) -> str:
        return f"<message {self.seq} of process {self.pid}, {len(self.data)} bytes, {len(self.files)} files>"


class Channel:
    """An open channel; made by `channel`."""

    def __init__(self, ch: int, name: str) -> None:
        self.ch = ch
        self.name = name
        self.room = Room(self)
        self._kept: deque[types.Message] = deque()  # of receives that were cancelled when their message was on its way
        self._num_late = 0  # cancelled receives whose end is not known yet
        self._late_news = asyncio.Event()
        self._transport: transport.Transport | None = transport.session().transport  # None once closed

    async def send(
        self,
        value: object,
        *,
        files: Sequence[File] = (),
        writable: bool = False,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> int:
        """Send bytes, or a value as JSON; how many queues took it (of a topic: how many listen). Waits while the channel is full.

        `files` go along: the receiver has them open too, to read, with `writable` to write. Cancelled it may have been sent or not.

        Raises:
            WouldBlock: it is full, and `wait` is False. TimedOut: it still is after `timeout_s`.
            BrokenPipe: nobody can receive it any more.
            InvalidArgument: it is too large. QuotaExceeded: too much that was sent is not received.
        """
        args = calls.Send(self.ch, _packed(value), _fds(files, writable), wait, timeout_s)
        took: int = (await transport.call("send", args)).num_receivers
        return took

    async def recv(self, *, wait: bool = True, timeout_s: float | None = None) -> Message:
        """The next message.

        Raises:
            WouldBlock: there is none, and `wait` is False. TimedOut: none came in `timeout_s`.
            BrokenPipe: nobody can send one any more.
            TooManyFiles, QuotaExceeded: the files that come along cannot be had; it waits until they can.
        """
        await self.settle()
        if self._kept:
            return await self._opened(self._kept.popleft())
        try:
            result = await transport.call_kept("recv", calls.Recv(self.ch, wait, timeout_s), self._keep)
        except asyncio.CancelledError:
            self._num_late += 1
            raise
        return await self._opened(result.message)

    async def request(
        self, value: object, *, files: Sequence[File] = (), writable: bool = False, timeout_s: float | None = None
    ) -> Message:
        """Send, and wait for what the receiver replies. A queue's only.

        Raises:
            BrokenPipe: who received it closed the channel, or ended, without a reply; or nobody can receive it.
            TimedOut: after `timeout_s`; the receiver then hears so.
        """
        args = calls.Request(self.ch, _packed(value), _fds(files, writable), timeout_s)
        return await _opened((await transport.call_kept("request", args, _close_files)).message, _close_files_of)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """The next message; the loop ends when nobody can send one any more."""
        try:
            return await self.recv()
        except BrokenPipe:
            raise StopAsyncIteration from None

    async def settle(self) -> None:
        """Wait for what cancelled receives still bring: a later one must not overtake it."""
        while self._num_late:
            self._late_news.clear()
            await self._late_news.wait()

    @property
    def has_kept(self) -> bool:
        """A message is here already: `recv` gives it without asking."""
        return bool(self._kept)

    async def unlink(self) -> None:
        """Take the channel's name away; who has it open goes on."""
        await channel_unlink(self.name)

    async def close(self) -> None:
        """Nothing more is sent or received through it. Closing twice is no error."""
        if self._transport is not None:
            self._drop_kept()
            self._transport = None
            await transport.call("channel_close", calls.ChannelArgs(self.ch))

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def __del__(self) -> None:
        if self._transport is not None and in_loop():
            self._drop_kept()
            self._transport.post("channel_close", calls.ChannelArgs(self.ch), tid=0)

    def __repr__(self) -> str:
        return f"<channel {self.name or 'without a name'}, {self.ch}>"

    def _keep(self, late: calls.RecvResult | None) -> None:
        self._num_late -= 1
        self._late_news.set()
        if self._transport is None:
            _close_files(late)
        elif late is not None:
            self._kept.append(late.message)

    def _drop_kept(self) -> None:
        assert self._transport is not None
        for fd in (fd for message in self._kept for fd in message.fds):
            self._transport.post("close", calls.FdArgs(fd), tid=0)
        self._kept.clear()

    async def _opened(self, got: types.Message) -> Message:
        return await _opened(got, self._kept.appendleft)


class Room:
    """That a channel can be sent to without waiting: `channel.room`, for `select`."""

    def __init__(self, channel: Channel) -> None:
        self.ch = channel.ch

    def __repr__(self) -> str:
        return f"<room in channel {self.ch}>"


class ChannelOpening:
    """A channel on its way: `ch = await opening`, or `async with opening as ch`, which closes it."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Channel]]) -> None:
        self._make = make
        self._channel: Channel | None = None

    def __await__(self) -> Generator[Any, None, Channel]:
        return self._make().__await__()

    async def __aenter__(self) -> Channel:
        self._channel = await self._make()
        return self._channel

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()


def channel(
    name: str = "",
    *,
    create: bool = False,
    exclusive: bool = False,
    access: Access = "rw",
    mode: int = 0o600,
    kind: Literal["queue", "topic"] = "queue",
    capacity: int = 64,
    overflow: Literal["block", "drop_oldest", "drop_new"] = "block",
) -> ChannelOpening:
    """Open the channel `name` ("namespace/name"; a bare name is in the caller's own namespace), or make one.

    It must exist, unless `create` (make it if missing) or `exclusive` (make it, it must not exist). Without a name it is a new one,
    for the threads of this process. `access`: receive, send or both; `mode`: who else may, r to receive and w to send, less the
    umask. kind: `queue` (each message to one receiver) or `topic` (each to all who have it open to receive). `capacity`: messages
    that wait; `overflow`: what a topic does when one listener's queue is full.

    Raises:
        NoSuchFile, FileExists, AccessDenied, NameTooLong: of the name.
        TooManyFiles, QuotaExceeded: too many channels.
    """
    flags = (OpenFlags.CREAT if create or exclusive else 0) | (OpenFlags.EXCL if exclusive else 0)
    args = calls.ChannelOpen(name, int(flags), access, mode, kind, capacity, overflow)

    async def make() -> Channel:
        def close(late: calls.ChannelResult | None) -> None:
            if late is not None:
                transport.post("channel_close", calls.ChannelArgs(late.ch))

        return Channel((await transport.call_kept("channel_open", args, close)).ch, name)

    return ChannelOpening(make)


async def channels(prefix: str = "") -> list[ChannelStat]:
    """Channels with a name that the caller may receive from or send to."""
    return list((await transport.call("channels", calls.Channels(prefix))).channels)


async def channel_unlink(name: str) -> None:
    """Take a channel's name away; who has it open goes on. NoSuchFile, AccessDenied."""
    await transport.call("channel_unlink", calls.ChannelName(name))


def _packed(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else to_json(value).encode()


def _fds(files: Sequence[File], writable: bool) -> tuple[SendFd, ...]:
    return tuple(SendFd(file.fd, writable) for file in files)


async def _opened(got: types.Message, give_back: Callable[[types.Message], None]) -> Message:
    """The message with its files as handles; cancelled meanwhile it goes to `give_back`."""
    try:
        stats = [(await transport.call("stat", calls.Stat(fd))).file for fd in got.fds]
    except BaseException:
        give_back(got)
        raise
    return Message(got, [File(calls.FdResult(fd, stat.ino, stat.length)) for fd, stat in zip(got.fds, stats, strict=True)])


def _close_files(late: calls.RecvResult | None) -> None:
    if late is not None:
        _close_files_of(late.message)


def _close_files_of(message: types.Message) -> None:
    for fd in message.fds:
        transport.post("close", calls.FdArgs(fd))
