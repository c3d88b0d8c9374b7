"""What a call at a channel waits for, in words, for `why` (kernel/ipc/explain.py).

Who could end the wait is named, as far as the asker may see it: a process that waits for itself alone is told so.
"""

from __future__ import annotations

from vllm_symphony.abi.types import Credentials
from vllm_symphony.kernel.ipc.channel import Channel
from vllm_symphony.kernel.ipc.wait import ChannelWait, PollWait, RecvWait, RequestWait
from vllm_symphony.kernel.process import Process

_MAX_NAMES = 5


def explain(wait: ChannelWait, cred: Credentials) -> str:
    """Why the call has no answer yet. `cred`: who asks."""
    call = wait.call
    assert call is not None
    handle, own = wait.handles[0], call.process
    channel = handle.channel
    if isinstance(wait, PollWait):
        names = dict.fromkeys(_name(other.channel) for other in wait.handles)
        return f"nothing has happened to {_few(list(names))}"
    if isinstance(wait, RecvWait):
        who = _who([other.process for other in channel.handles if other.may_send], own, cred)
        return f"no message in {_name(channel)}, {who} sends to it"
    receivers = _who([other.process for other in channel.handles if other.may_receive], own, cred)
    if not isinstance(wait, RequestWait) or wait.is_in_line:
        ahead = list(channel.senders).index(wait)  # type: ignore[arg-type]
        words = f"{_name(channel)} is full ({channel.stat().queued} of {channel.capacity} messages), {receivers} receives from it"
        return f"{words}; calls before it: {ahead}" if ahead else words
    if wait.receiver is not None:
        return f"{_who([wait.receiver.process], own, cred)} has received it and not answered"
    ahead = next(at for at, (letter, _) in enumerate(channel.queues[None].letters) if letter is wait.letter)
    return f"in {_name(channel)} behind {ahead} messages, {receivers} receives from it"


def _name(channel: Channel) -> str:
    return channel.name or "a channel without a name"


def _who(processes: list[Process], own: Process, cred: Credentials) -> str:
    found = {process.pid: process for process in processes}
    if list(found.values()) == [own]:
        return "only the process itself"
    seen = [f"process {pid}" for pid, process in found.items() if process.visible_to(cred)]
    return _few([*seen, *(["another's process"] if len(seen) < len(found) else [])]) or "nobody"


def _few(names: list[str]) -> str:
    return ", ".join([*names[:_MAX_NAMES], *(["..."] if len(names) > _MAX_NAMES else [])])
