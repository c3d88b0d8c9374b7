"""Channels by name: each RPC opens a handle for its caller and gives it back, however it ends."""

import asyncio
from contextlib import aclosing

import pytest

from vllm_symphony.abi.calls import ChannelOpen, ChannelResult, Recv, RecvResult, Request, Send, SendResult
from vllm_symphony.abi.types import Credentials, Message
from vllm_symphony.edge.channel_service import ChannelService
from vllm_symphony.edge.looking import Looks
from vllm_symphony.errors import InvalidArgument, TimedOut
from vllm_symphony.proto.v1 import channel_pb2 as pb

ME = Credentials("me")


class Link:
    """Answers `channel_open` with 7, and the rest from `answers`."""

    def __init__(self, **answers):
        self.answers, self.asked, self.posted = answers, [], []

    async def call(self, op, args, cred, **beside):
        self.asked.append((op, args))
        if op == "channel_open":
            return ChannelResult(7)
        answer = self.answers[op].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def post(self, op, args, cred):
        self.posted.append((op, args.ch))


@pytest.fixture(autouse=True)
def me(monkeypatch):
    monkeypatch.setattr("vllm_symphony.edge.channel_service.caller", lambda context: ME)


def message(seq, data=b"x"):
    return RecvResult(Message(seq, data, 3, "you"))


def test_a_message_is_sent_through_a_handle_that_is_given_back():
    link = Link(send=[SendResult(5, 2)])

    response = asyncio.run(ChannelService(link, Looks()).Send(pb.SendRequest(name="a", data=b"x", no_wait=True), None))

    assert (response.seq, response.num_receivers, response.HasField("reply")) == (5, 2, False)
    assert link.asked == [("channel_open", ChannelOpen("a", access="w")), ("send", Send(7, b"x", wait=False))]
    assert link.posted == [("channel_close", 7)]


def test_a_reply_is_waited_for_and_a_handle_is_given_back_when_none_comes():
    link = Link(request=[message(9, b"yes"), TimedOut("no answer")])
    service = ChannelService(link, Looks())
    request = pb.SendRequest(name="a", data=b"x", reply=True, timeout_s=2)

    assert asyncio.run(service.Send(request, None)).reply.data == b"yes"
    with pytest.raises(TimedOut):
        asyncio.run(service.Send(request, None))

    assert link.asked[1] == ("request", Request(7, b"x", timeout_s=2.0))
    assert link.posted == [("channel_close", 7)] * 2


def test_receiving_says_that_it_listens_and_ends_after_its_count():
    link = Link(recv=[message(1), message(2)])

    async def main():
        async with aclosing(ChannelService(link, Looks()).Receive(pb.ReceiveRequest(name="a", count=2), None)) as parts:
            return [part.message.seq if part.HasField("message") else None async for part in parts]

    assert asyncio.run(main()) == [None, 1, 2]
    assert link.asked[1:] == [("recv", Recv(7))] * 2
    assert link.posted == [("channel_close", 7)]


@pytest.mark.parametrize("rpc", ["Send", "Receive"])
def test_a_channel_without_a_name_cannot_be_reached_by_one(rpc):
    link = Link()
    service = ChannelService(link, Looks())

    async def main():
        if rpc == "Send":
            await service.Send(pb.SendRequest(), None)
        else:
            await anext(service.Receive(pb.ReceiveRequest(), None))

    with pytest.raises(InvalidArgument, match="its name is empty"):
        asyncio.run(main())
    assert link.asked == []
