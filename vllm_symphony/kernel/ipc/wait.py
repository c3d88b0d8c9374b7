"""Calls that wait at channels (kernel/ipc/wait.py).

    recv      RecvWait      in the line of its queue           until a message is there
    send      SendWait      in the line of the channel         until there is room
    request   RequestWait   in line, in the queue, received    until it is answered; ended before it was received it is withdrawn
    poll      PollWait      at each channel that it looks at   until one of them is ready

A call that ends early (cancelled, out of time, its process gone) leaves its place and whatever it held. A message is received when
the call has its answer: what a process that dies then does not read is lost with it. Who cannot afford that sends requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import PollResult, RecvResult, SendResult
from vllm_symphony.errors import Interrupted, SymphonyError
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.ipc.handle import Handle
from vllm_symphony.kernel.ipc.letter import Letter

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine


class ChannelWait(Pending):
    """A call that waits at channels, through these handles of its process."""

    __slots__ = ("handles",)

    def __init__(self, call: Call, handles: Iterable[Handle]) -> None:
        super().__init__(call)
        self.handles = tuple(handles)

    def handle_closed(self, m: Machine, handle: Handle, now_ns: int) -> None:
        """The caller closed this one."""
        if handle in self.handles:
            self.interrupt(m, Interrupted(f"channel {handle.ch} was closed", ch=handle.ch), now_ns)


class RecvWait(ChannelWait):
    """It stands in the line of the handle's queue."""

    __slots__ = ()

    def __init__(self, call: Call, handle: Handle) -> None:
        super().__init__(call, (handle,))
        assert handle.queue is not None
        handle.queue.receivers[self] = None

    def drop(self, m: Machine) -> None:
        super().drop(m)
        queue = self.handles[0].queue
        assert queue is not None
        del queue.receivers[self]

    @property
    def is_awake(self) -> bool:
        """Its process was not sent STOP."""
        return self.call is not None and not self.call.process.stopped

    def take(self, m: Machine, now_ns: int) -> None:
        """Answer with the first message. Raises what `receive` does, and has changed nothing then."""
        call, (handle,) = self.call, self.handles
        assert call is not None
        result = receive(m, call, handle)
        self.drop(m)
        m.finish(call, result, now_ns)


def receive(m: Machine, call: Call, handle: Handle) -> RecvResult:
    """Take the first message out of the handle's queue, which has one.

    Raises:
        TooManyFiles, QuotaExceeded: its files cannot be had; the message is where it was.
    """
    queue = handle.queue
    assert queue is not None
    letter, missing = queue.letters[0]
    asker = letter.asker
    token = 0 if asker is None else m.channels.next_token
    message = letter.open_for(m, call, missing=missing, token=token)
    queue.take(m)
    if asker is not None:
        asker.received(m, handle, token)
    return RecvResult(message)


class LetterWait(ChannelWait):
    """It stands in the channel's line with its letter."""

    __slots__ = ("letter",)

    def __init__(self, call: Call, handle: Handle, letter: Letter) -> None:
        super().__init__(call, (handle,))
        self.letter = letter
        handle.channel.senders[self] = None

    def flush(self, m: Machine, now_ns: int) -> None:
        self.handles[0].channel.serve(now_ns)

    def go(self, m: Machine, now_ns: int) -> None:
        """There is room, and it is the first."""


class SendWait(LetterWait):
    """It ends when its letter has gone in."""

    __slots__ = ()

    def drop(self, m: Machine) -> None:
        super().drop(m)
        channel = self.handles[0].channel
        del channel.senders[self]
        self.letter.release(m)
        channel.stir()

    def go(self, m: Machine, now_ns: int) -> None:
        call, (handle,) = self.call, self.handles
        assert call is not None
        self.letter.num_holds += 1  # `drop` lets go of one, `post` of the other
        self.drop(m)
        m.finish(call, sent(call, handle, self.letter), now_ns)


def sent(call: Call, handle: Handle, letter: Letter) -> SendResult:
    """Put the letter into the channel, which has room, and count it for its sender. Who waits is not served yet."""
    for tally in call.tallies():
        tally.num_messages += 1
    handle.channel.m.meter.messages.add()
    num_took = handle.channel.post(letter)
    return SendResult(letter.seq, num_took)


class RequestWait(LetterWait):
    """Its letter asks for an answer: in the channel's line, in its queue, or with a receiver, who knows it by `token`."""

    __slots__ = ("receiver", "token")

    def __init__(self, call: Call, handle: Handle, letter: Letter) -> None:
        super().__init__(call, handle, letter)
        letter.asker = self
        self.receiver: Handle | None = None
        self.token = 0

    @property
    def is_in_line(self) -> bool:
        """There was no room for it yet."""
        return self in self.handles[0].channel.senders

    def drop(self, m: Machine) -> None:
        super().drop(m)
        channel = self.handles[0].channel
        if self.is_in_line:
            del channel.senders[self]
            self.letter.release(m)
        elif self.receiver is not None:
            del self.receiver.requests[self.token], m.channels.requests[self.token]
            return
        else:
            channel.queues[None].withdraw(m, self.letter)
        channel.stir()

    def go(self, m: Machine, now_ns: int) -> None:
        """Its letter goes in, the call waits on."""
        call, (handle,) = self.call, self.handles
        assert call is not None
        del handle.channel.senders[self]
        sent(call, handle, self.letter)

    def received(self, m: Machine, receiver: Handle, token: int) -> None:
        """From now on its answer is the receiver's to give."""
        self.receiver, self.token = receiver, token
        receiver.requests[token] = self
        m.channels.enter_request(token, self)

    def answer(self, m: Machine, letter: Letter, now_ns: int) -> None:
        """Give the caller what was answered, or say why it cannot have it; the letter goes."""
        call = self.call
        assert call is not None
        self.drop(m)
        try:
            message = letter.open_for(m, call)
        except SymphonyError as error:
            m.fail(call, error, now_ns)
        else:
            m.finish(call, RecvResult(message), now_ns)
        letter.release(m)


class PollWait(ChannelWait):
    """It looks at channels, and takes nothing."""

    __slots__ = ("receive", "send")

    def __init__(self, call: Call, receive: tuple[Handle, ...], send: tuple[Handle, ...]) -> None:
        super().__init__(call, (*receive, *send))
        self.receive = receive
        self.send = send
        for handle in self.handles:
            handle.channel.pollers[self] = None

    def drop(self, m: Machine) -> None:
        super().drop(m)
        for handle in self.handles:
            handle.channel.pollers.pop(self, None)

    def flush(self, m: Machine, now_ns: int) -> None:
        call, result = self.call, ready(m, self.receive, self.send)
        if call is not None and (result.receive or result.send):
            self.drop(m)
            m.finish(call, result, now_ns)

    def expire(self, m: Machine, now_ns: int) -> None:
        """Its time is over."""
        call = self.call
        assert call is not None
        self.drop(m)
        m.finish(call, PollResult((), ()), now_ns)


def ready(m: Machine, receive: Iterable[Handle], send: Iterable[Handle]) -> PollResult:
    """Those at which `recv`, or `send` of a message of any size, would not wait."""
    size = m.limits.message_bytes
    return PollResult(
        tuple(h.ch for h in receive if h.queue is not None and (h.queue.letters or not h.channel.has_senders)),
        tuple(h.ch for h in send if h.channel.takes(size) or not h.channel.has_receivers),
    )
