"""Calls on channels (kernel/syscall/channel.py); what a channel is: kernel/ipc/channel.py.

    channel_open channel_close channel_unlink channels send recv request respond poll

What can be done at once is answered at once; else the call stands in a line (kernel/ipc/wait.py) until its turn comes, its time is
over, or it is cancelled.
"""

from __future__ import annotations

from math import inf

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
from vllm_symphony.abi.types import OpenFlags
from vllm_symphony.errors import AccessDenied, BrokenPipe, FileExists, InvalidArgument, TimedOut, WouldBlock
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.fs.node import MAY_READ, MAY_WRITE
from vllm_symphony.kernel.ipc.channel import BLOCK, DROP_NEW, DROP_OLDEST, QUEUE, TOPIC, Channel
from vllm_symphony.kernel.ipc.handle import Handle
from vllm_symphony.kernel.ipc.letter import Letter
from vllm_symphony.kernel.ipc.wait import PollWait, RecvWait, RequestWait, SendWait, ready, receive, sent
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument
from vllm_symphony.kernel.timer import after

CREAT, EXCL = int(OpenFlags.CREAT), int(OpenFlags.EXCL)
RIGHTS = {"r": (MAY_READ,), "w": (MAY_WRITE,), "rw": (MAY_READ, MAY_WRITE)}


def channel_open(m: Machine, call: Call, a: ChannelOpen) -> ChannelResult:
    """A handle on the channel of that name, or on a new one."""
    _demand_valid(m, a)
    handles = call.process.handles
    handles.demand_room()
    name = m.channels.full_name(a.name, call.cred) if a.name else ""
    found = m.channels.named.get(name)
    if found is not None:
        if a.flags & EXCL:
            raise FileExists(f"the name is taken: {name}", name=name)
        _demand_rights(found, call, a.access)
    elif a.flags & CREAT or not name:
        if name:
            m.channels.demand_namespace(name, call.cred)
        mode = a.mode & ~call.process.umask
        found = m.channels.new(name, call.cred.principal, mode, a.kind, a.capacity, a.overflow)
    else:
        found = m.channels.find(name)
    handle = Handle(call.process, found, a.access, call.cred.principal)
    ch = handles.add(handle)
    found.open(handle)
    return ChannelResult(ch)


def _demand_valid(m: Machine, a: ChannelOpen) -> None:
    if a.flags & ~(CREAT | EXCL) or (a.flags & EXCL and not a.flags & CREAT):
        raise InvalidArgument(f"flags may be CREAT, and with it EXCL, not {a.flags}", flags=a.flags)
    if a.access not in RIGHTS:
        raise InvalidArgument(f"access must be r, w or rw, not {a.access!r}")
    if not 0 <= a.mode <= 0o777:
        raise InvalidArgument(f"mode must be in 0..0o777, not {a.mode:#o}", mode=a.mode)
    if a.kind not in (QUEUE, TOPIC):
        raise InvalidArgument(f"kind must be {QUEUE} or {TOPIC}, not {a.kind!r}")
    if not 0 < a.capacity <= m.limits.queue_messages:
        raise InvalidArgument(f"capacity must be in 1..{m.limits.queue_messages}, not {a.capacity}", capacity=a.capacity)
    allowed = (BLOCK,) if a.kind == QUEUE else (BLOCK, DROP_OLDEST, DROP_NEW)
    if a.overflow not in allowed:
        raise InvalidArgument(f"overflow of a {a.kind} must be {' or '.join(allowed)}, not {a.overflow!r}")


def _demand_rights(channel: Channel, call: Call, access: str) -> None:
    """Raises AccessDenied."""
    if not all(channel.allows(call.cred, right) for right in RIGHTS[access]):
        whose = f"mode {channel.mode:#o}, owner {channel.owner}"
        raise AccessDenied(f"{call.cred.principal} may not open {channel.name} for {access} ({whose})", name=channel.name)


def channel_close(m: Machine, call: Call, a: ChannelArgs) -> Done:
    """Forget the handle; calls of this process that wait through it end with EINTR."""
    m.channels.close(call.process.handles.get(a.ch, call.cred), call.start_ns)
    return Done()


def channel_unlink(m: Machine, call: Call, a: ChannelName) -> Done:
    """Take the name away; who has it open goes on."""
    name = m.channels.full_name(a.name, call.cred)
    channel = m.channels.find(name)
    if call.cred.principal != channel.owner:
        m.channels.demand_namespace(name, call.cred)
    m.channels.unlink(channel, call.start_ns)
    return Done()


def channels(m: Machine, call: Call, a: Channels) -> ChannelsResult:
    """Those with a name that the caller may use, by name."""
    found = sorted(
        name for name, channel in m.channels.named.items() if name.startswith(a.prefix) and channel.visible_to(call.cred)
    )
    return ChannelsResult(tuple(m.channels.named[name].stat() for name in found))


def send(m: Machine, call: Call, a: Send) -> SendResult | None:
    """Put a message into the channel, or wait for room."""
    argument.demand_timeout(a.timeout_s)
    handle = call.process.handles.get_sender(a.ch, call.cred)
    channel = handle.channel
    channel.demand_receivers()
    if not a.wait and not channel.takes(len(a.data)):
        raise WouldBlock(f"channel {a.ch} is full: {channel.num_letters} messages wait", ch=a.ch)
    letter = Letter(m, call, a.data, a.fds)
    if channel.takes(len(a.data)):
        result = sent(call, handle, letter)
        channel.serve(call.start_ns)
        return result
    _wait(m, call, SendWait(call, handle, letter), a.timeout_s, "no room")
    return None


def recv(m: Machine, call: Call, a: Recv) -> RecvResult | None:
    """The next message, or wait for it."""
    argument.demand_timeout(a.timeout_s)
    handle = call.process.handles.get_receiver(a.ch, call.cred)
    queue, channel = handle.queue, handle.channel
    assert queue is not None
    if queue.letters:
        result = receive(m, call, handle)
        channel.serve(call.start_ns)
        return result
    channel.demand_senders()
    if not a.wait:
        raise WouldBlock(f"nothing waits in channel {a.ch}", ch=a.ch)
    _wait(m, call, RecvWait(call, handle), a.timeout_s, "no message")
    return None


def request(m: Machine, call: Call, a: Request) -> None:
    """Put a message into the channel and wait for its answer."""
    argument.demand_timeout(a.timeout_s)
    handle = call.process.handles.get_sender(a.ch, call.cred)
    channel = handle.channel
    if channel.kind == TOPIC:
        raise BrokenPipe(f"channel {a.ch} is a topic: nobody answers there", ch=a.ch)
    channel.demand_receivers()
    _wait(m, call, RequestWait(call, handle, Letter(m, call, a.data, a.fds)), a.timeout_s, "no answer")
    channel.serve(call.start_ns)


def respond(m: Machine, call: Call, a: Respond) -> Done:
    """Answer a request that was received here."""
    asked = m.channels.requests.get(a.token)
    receiver = asked.receiver if asked is not None else None
    if asked is None or receiver is None or call.process.handles.handles.get(receiver.ch) is not receiver:
        raise BrokenPipe(f"nobody waits for the answer to request {a.token}: it was answered, given up, or not received here")
    call.process.handles.get(receiver.ch, call.cred)
    letter = Letter(m, call, a.data, a.fds, is_answer=True)
    letter.seq = asked.letter.seq
    m.meter.messages.add()
    for tally in call.tallies():
        tally.num_messages += 1
    asked.answer(m, letter, call.start_ns)
    return Done()


def poll(m: Machine, call: Call, a: Poll) -> PollResult | None:
    """Which of these are ready, or wait until one is."""
    if a.timeout_s is not None and not 0 <= a.timeout_s < inf:
        raise InvalidArgument(f"timeout_s must be 0 or more and finite, not {a.timeout_s}", timeout_s=a.timeout_s)
    if len(a.receive) + len(a.send) > m.limits.handles:
        raise InvalidArgument(f"{len(a.receive) + len(a.send)} channels, the most is {m.limits.handles}", limit=m.limits.handles)
    handles = call.process.handles
    receivers = tuple(handles.get_receiver(ch, call.cred) for ch in dict.fromkeys(a.receive))
    senders = tuple(handles.get_sender(ch, call.cred) for ch in dict.fromkeys(a.send))
    if not (receivers or senders):
        raise InvalidArgument("poll needs a channel to look at: sleep waits for time alone")
    result = ready(m, receivers, senders)
    if result.receive or result.send or a.timeout_s == 0:
        return result
    wait = PollWait(call, receivers, senders)
    call.pending = wait
    if a.timeout_s is not None:
        wait.timer = m.timers.at(after(call.start_ns, a.timeout_s), lambda now_ns: wait.expire(m, now_ns))
    return None


def _wait(m: Machine, call: Call, wait: Pending, timeout_s: float | None, what: str) -> None:
    """The call's answer comes by `wait`, or TimedOut does."""
    call.pending = wait
    if timeout_s is not None:
        late = TimedOut(f"{what} in {timeout_s:g} s", timeout_s=timeout_s)
        wait.timer = m.timers.at(after(call.start_ns, timeout_s), lambda now_ns: wait.interrupt(m, late, now_ns))
