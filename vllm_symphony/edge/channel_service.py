"""ChannelService (edge/channel_service.py). What each RPC means stands in protos/symphony/v1/channel.proto.

    Send      channel_open w -> send or request -> channel_close
    Receive   channel_open r -> "it listens" -> recv -> recv -> ... -> channel_close

The kernel sends and receives by handles only, so the edge opens them in its own process, each for the principal that asks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from vllm_symphony.abi.calls import ChannelArgs, ChannelOpen, Recv, Request
from vllm_symphony.abi.calls import Send as SendCall
from vllm_symphony.abi.types import Credentials, OpenFlags
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.looking import Looks
from vllm_symphony.edge.one_call import one_call
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.proto.message import read_as, to_message
from vllm_symphony.proto.v1 import channel_pb2 as pb
from vllm_symphony.proto.v1.channel_pb2_grpc import ChannelServiceServicer


class ChannelService(ChannelServiceServicer):
    """Channels by their names."""

    def __init__(self, kernel: KernelLink, looks: Looks) -> None:
        self._kernel = kernel
        self._looks = looks

    async def ListChannels(self, request: pb.ListChannelsRequest, context: Any) -> pb.ListChannelsResponse:  # noqa: N802
        return await one_call(self._kernel, "channels", request, context, pb.ListChannelsResponse())

    async def CreateChannel(self, request: pb.CreateChannelRequest, context: Any) -> pb.CreateChannelResponse:  # noqa: N802
        new = read_as(ChannelOpen, request, flags=int(OpenFlags.CREAT | OpenFlags.EXCL))
        async with self._opened(new, caller(context)):
            return pb.CreateChannelResponse()

    async def UnlinkChannel(self, request: pb.UnlinkChannelRequest, context: Any) -> pb.UnlinkChannelResponse:  # noqa: N802
        return await one_call(self._kernel, "channel_unlink", request, context, pb.UnlinkChannelResponse())

    async def Send(self, request: pb.SendRequest, context: Any) -> pb.SendResponse:  # noqa: N802
        cred = caller(context)
        timeout_s = request.timeout_s if request.HasField("timeout_s") else None
        async with self._opened(ChannelOpen(_name(request), access="w"), cred) as ch:
            if request.reply:
                answer = await self._kernel.call("request", Request(ch, request.data, timeout_s=timeout_s), cred)
                return pb.SendResponse(reply=to_message(answer.message, pb.Message()))
            sending = SendCall(ch, request.data, wait=not request.no_wait, timeout_s=timeout_s)
            sent = await self._kernel.call("send", sending, cred)
            return pb.SendResponse(seq=sent.seq, num_receivers=sent.num_receivers)

    async def Receive(self, request: pb.ReceiveRequest, context: Any) -> AsyncGenerator[pb.ReceiveResponse, None]:  # noqa: N802
        async with aclosing(self._looks.over(self._received(request, caller(context)))) as responses:
            async for response in responses:
                yield response

    async def _received(self, request: pb.ReceiveRequest, cred: Credentials) -> AsyncGenerator[pb.ReceiveResponse, None]:
        timeout_s = request.timeout_s if request.HasField("timeout_s") else None
        async with self._opened(ChannelOpen(_name(request), access="r"), cred) as ch:
            yield pb.ReceiveResponse()
            left = request.count or -1
            while left:
                received = await self._kernel.call("recv", Recv(ch, timeout_s=timeout_s), cred)
                yield pb.ReceiveResponse(message=to_message(received.message, pb.Message()))
                left -= 1

    @asynccontextmanager
    async def _opened(self, args: ChannelOpen, cred: Credentials) -> AsyncIterator[int]:
        opened = await self._kernel.call("channel_open", args, cred)
        try:
            yield opened.ch
        finally:
            self._kernel.post("channel_close", ChannelArgs(opened.ch), cred)


def _name(request: Any) -> str:
    """What must be there: without a name the kernel would make a channel that nobody else can reach."""
    if not request.name:
        raise InvalidArgument("which channel? its name is empty")
    return str(request.name)
