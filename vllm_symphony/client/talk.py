"""The client's end of a channel (client/talk.py): to talk with programs without being one.

    await client.send("chat", b"hello")                         to whoever receives from it
    async for message in client.recv("news"): ...               what is sent there from now on
    reply = await client.request("ops/triage", b"...")          and the answer

A name without a slash is in your own namespace. Sending is not tried again when a connection breaks: the message may have been
sent. Sessions have the whole library of channels (`lip.channel`), with files that go along, and each message once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING
from uuid import uuid4

from vllm_symphony.abi.calls import SendResult
from vllm_symphony.abi.types import ChannelStat, Message
from vllm_symphony.client.call import Caller, each, typed_errors
from vllm_symphony.proto.message import from_message, read_as
from vllm_symphony.proto.v1 import channel_pb2 as pb

if TYPE_CHECKING:
    from vllm_symphony.proto.v1.channel_pb2_grpc import ChannelServiceAsyncStub

SLACK_S = 5.0  # of a deadline, above the time-out that the server counts


class Talk:
    """What `Client` can do with channels."""

    target: str
    _caller: Caller
    _talk: ChannelServiceAsyncStub

    async def channels(self, prefix: str = "", *, timeout_s: float | None = None) -> list[ChannelStat]:
        """Named channels that you may receive from or send to, by name."""
        response = await self._caller.ask(self._talk.ListChannels, pb.ListChannelsRequest(prefix=prefix), timeout_s)
        return [from_message(channel) for channel in response.channels]

    async def create_channel(
        self,
        name: str,
        *,
        kind: str = "queue",
        mode: int = 0o600,
        capacity: int = 64,
        overflow: str = "block",
        timeout_s: float | None = None,
    ) -> None:
        """Make a channel: a `queue` or a `topic`; FileExists where the name is taken."""
        request = pb.CreateChannelRequest(name=name, kind=kind, mode=mode, capacity=capacity, overflow=overflow)
        with typed_errors(self.target):  # once: a second try would find the first one's
            await self._talk.CreateChannel(request, timeout=timeout_s)

    async def unlink_channel(self, name: str, *, timeout_s: float | None = None) -> None:
        """Take a channel's name away; who has it open goes on."""
        await self._caller.ask(self._talk.UnlinkChannel, pb.UnlinkChannelRequest(name=name, request_id=uuid4().hex), timeout_s)

    async def send(self, name: str, data: bytes | str, *, wait: bool = True, timeout_s: float | None = None) -> SendResult:
        """Send a message. Where the queue is full: wait for room, or WouldBlock without `wait`."""
        request = pb.SendRequest(name=name, data=_bytes(data), no_wait=not wait, timeout_s=timeout_s)
        return read_as(SendResult, await self._sent(request, timeout_s))

    async def request(self, name: str, data: bytes | str, *, timeout_s: float | None = None) -> Message:
        """Send a message and wait for what its receiver answers."""
        request = pb.SendRequest(name=name, data=_bytes(data), reply=True, timeout_s=timeout_s)
        reply: Message = from_message((await self._sent(request, timeout_s)).reply)
        return reply

    async def recv(self, name: str, *, count: int | None = None, timeout_s: float | None = None) -> AsyncGenerator[Message, None]:
        """Messages as they come: `count` of them, or without end. TimedOut when none came for `timeout_s`."""
        request = pb.ReceiveRequest(name=name, count=count or 0, timeout_s=timeout_s)
        async with aclosing(each(self.target, self._talk.Receive(request))) as responses:
            async for response in responses:
                if response.HasField("message"):
                    yield from_message(response.message)

    async def _sent(self, request: pb.SendRequest, timeout_s: float | None) -> pb.SendResponse:
        with typed_errors(self.target):
            return await self._talk.Send(request, timeout=None if timeout_s is None else timeout_s + SLACK_S)


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data
