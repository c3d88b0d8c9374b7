"""Calls on channels (kernel/syscall/channel.py)."""

from __future__ import annotations

from vllm_symphony.abi.calls import (
    ChannelArgs,
    ChannelName,
    ChannelOpen,
    ChannelResult,
    Channels,
    ChannelsResult,
    Done,
    Poll,
    PollResult,
    Recv,
    RecvResult,
    Request,
    Respond,
    Send,
    SendResult,
)
from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine


def channel_open(m: Machine, call: Call, a: ChannelOpen) -> ChannelResult:
    raise NotSupported("channel_open is being built")


def channel_close(m: Machine, call: Call, a: ChannelArgs) -> Done:
    raise NotSupported("channel_close is being built")


def channel_unlink(m: Machine, call: Call, a: ChannelName) -> Done:
    raise NotSupported("channel_unlink is being built")


def channels(m: Machine, call: Call, a: Channels) -> ChannelsResult:
    raise NotSupported("channels is being built")


def send(m: Machine, call: Call, a: Send) -> SendResult:
    raise NotSupported("send is being built")


def recv(m: Machine, call: Call, a: Recv) -> RecvResult:
    raise NotSupported("recv is being built")


def request(m: Machine, call: Call, a: Request) -> RecvResult:
    raise NotSupported("request is being built")


def respond(m: Machine, call: Call, a: Respond) -> Done:
    raise NotSupported("respond is being built")


def poll(m: Machine, call: Call, a: Poll) -> PollResult:
    raise NotSupported("poll is being built")
