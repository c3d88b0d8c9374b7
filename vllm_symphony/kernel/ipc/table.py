"""All channels (kernel/ipc/table.py).

    "ann/orders" --> Channel      a name lasts until it is unlinked or the server stops; what waits in it is in memory only
    ""           --> Channel      lives as long as a handle of it

Names are "namespace/name"; a namespace is a principal's, and only that one, or scope admin, makes and unlinks names in it. Who may
receive and send says the channel's mode, as of a file.
Invariants (`check`): a letter is in a queue, or a call that waits for room has it; a request that was received is with who
received it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Credentials
from vllm_symphony.errors import AccessDenied, InvalidArgument, NameTooLong, NoSuchFile, QuotaExceeded
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.ipc.channel import Channel
from vllm_symphony.kernel.ipc.gift import Gifts
from vllm_symphony.kernel.ipc.handle import Handle
from vllm_symphony.kernel.ipc.letter import Letter
from vllm_symphony.kernel.ipc.wait import ChannelWait, RequestWait

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine
    from vllm_symphony.kernel.process import Process


class Channels:
    """The channels that are there, by name; letters on their way; requests that were received, by token."""

    __slots__ = ("_bytes_of", "_m", "_of", "all", "gifts", "letters", "named", "next_token", "requests")

    def __init__(self, m: Machine) -> None:
        self._m = m
        self.named: dict[str, Channel] = {}
        self.all: dict[Channel, None] = {}
        self._of: Counter[str] = Counter()  # channels, by owner
        self.letters: dict[Letter, None] = {}
        self._bytes_of: Counter[str] = Counter()  # of letters, by who sent them
        self.requests: dict[int, RequestWait] = {}
        self.next_token = 1
        self.gifts = Gifts(m)

    # ---- names

    def full_name(self, name: str, cred: Credentials) -> str:
        """With its namespace.

        Raises:
            InvalidArgument: a part is empty, or holds what no name may.
            NameTooLong: it is too long.
        """
        namespace, slash, last = name.rpartition("/")
        namespace = namespace if slash else cred.principal
        limit = self._m.limits.name_bytes
        try:
            size = max(len(namespace.encode()), len(last.encode()))
        except UnicodeEncodeError:
            raise InvalidArgument("a channel's name must be valid unicode") from None
        if size > limit:
            raise NameTooLong(f"a name of {size} bytes, the most is {limit}", size=size, limit=limit)
        if not namespace or not last or "\0" in name:
            raise InvalidArgument(f"a channel's name is namespace/name, or a name alone, not {name!r}")
        return f"{namespace}/{last}"

    def find(self, name: str) -> Channel:
        """Raises NoSuchFile."""
        channel = self.named.get(name)
        if channel is None:
            raise NoSuchFile(f"no such channel: {name}", name=name)
        return channel

    def demand_namespace(self, name: str, cred: Credentials) -> None:
        """Raises AccessDenied where the caller makes no names."""
        namespace = name.rpartition("/")[0]
        if cred.principal != namespace and not cred.is_admin:
            raise AccessDenied(f"{cred.principal} makes no channels in the namespace of {namespace}", name=name)

    # ---- channels

    def new(self, name: str, owner: str, mode: int, kind: str, capacity: int, overflow: str) -> Channel:
        """A channel that nobody has open yet. Raises QuotaExceeded."""
        limits = self._m.limits
        for held, limit, whose in (
            (len(self.all), limits.channels, "are there"),
            (self._of[owner], limits.channels_each, f"are {owner}'s"),
        ):
            if held >= limit:
                raise QuotaExceeded(f"{held} channels {whose}, the most at once", limit=limit)
        channel = Channel(self._m, name, owner, mode, kind, capacity, overflow)
        self.all[channel] = None
        self._of[owner] += 1
        if name:
            self.named[name] = channel
        return channel

    def unlink(self, channel: Channel, now_ns: int) -> None:
        """Take its name away; who has it open goes on."""
        del self.named[channel.name]
        channel.name = ""
        channel.settle(now_ns)
        self._release(channel)

    def close(self, handle: Handle, now_ns: int) -> None:
        """Forget the handle; calls of its process that wait through it end with EINTR."""
        process, channel = handle.process, handle.channel
        for call in list(process.calls.values()):
            if isinstance(call.pending, ChannelWait):
                call.pending.handle_closed(self._m, handle, now_ns)
        del process.handles.handles[handle.ch]
        channel.close(handle, now_ns)
        self._release(channel)

    def go_on(self, process: Process, now_ns: int) -> None:
        """The process was stopped, and receives again what waits for it."""
        for handle in process.handles.handles.values():
            if handle.queue is not None and handle.queue.letters:
                handle.channel.serve(now_ns)

    def clean_up(self, process: Process, now_ns: int) -> None:
        """The process has ended, and its calls with it."""
        for handle in list(process.handles.handles.values()):
            self.close(handle, now_ns)

    def _release(self, channel: Channel) -> None:
        """Drop it if nobody can reach it any more."""
        if not channel.name and not channel.handles:
            del self.all[channel]
            self._of[channel.owner] -= 1
            if not self._of[channel.owner]:
                del self._of[channel.owner]

    # ---- letters and requests

    def enter(self, letter: Letter) -> None:
        """A new one is on its way. Raises QuotaExceeded when too much of its sender's is; an answer is there at once."""
        used, limit = self._bytes_of[letter.principal], self._m.limits.mail_bytes
        if not letter.is_answer and used + len(letter.data) > limit:
            raise QuotaExceeded(
                f"{used} bytes that {letter.principal} sent have not been received, the most is {limit}", limit=limit, used=used
            )
        self._bytes_of[letter.principal] += len(letter.data)
        self.letters[letter] = None

    def leave(self, letter: Letter) -> None:
        """It was received, or dropped."""
        del self.letters[letter]
        left = self._bytes_of[letter.principal] - len(letter.data)
        if left:
            self._bytes_of[letter.principal] = left
        else:
            del self._bytes_of[letter.principal]

    def enter_request(self, token: int, request: RequestWait) -> None:
        """It was received, and is known by this token from now on."""
        assert token == self.next_token
        self.next_token += 1
        self.requests[token] = request

    # ---- looking

    @property
    def num_handles(self) -> int:
        return sum(len(channel.handles) for channel in self.all)

    @property
    def num_messages(self) -> int:
        """That wait in a queue."""
        return sum(channel.num_letters for channel in self.all)

    def files(self) -> Iterator[Inode]:
        """Those on their way, one for each time that a letter has it."""
        return (inode for letter in self.letters for inode, _ in letter.files)

    def is_idle(self) -> bool:
        """Nobody has a channel open; those with a name may be there, with what waits in them."""
        return not any(channel.handles for channel in self.all)

    def check(self) -> None:
        """The invariants above, and each channel's own."""
        assert self.named.keys() == {channel.name for channel in self.all if channel.name}
        assert all(channel.name == name for name, channel in self.named.items())
        assert self._of == Counter(channel.owner for channel in self.all)
        handles = [handle for process in self._m.processes.values() for handle in process.handles.handles.values()]
        assert len(handles) == self.num_handles
        held: Counter[Letter] = Counter()
        for channel in self.all:
            channel.check()
            held.update(letter for queue in channel.queues.values() for letter, _ in queue.letters)
            held.update(sender.letter for sender in channel.senders)
        assert {letter: letter.num_holds for letter in self.letters} == dict(held)
        sizes: Counter[str] = Counter()
        for letter in self.letters:
            sizes[letter.principal] += len(letter.data)
            assert letter.asker is None or letter.asker.call is not None, "a request that nobody waits for"
        assert +sizes == self._bytes_of
        for token, request in self.requests.items():
            assert request.token == token and request.call is not None and request.call.pending is request
            assert request.receiver is not None and request.receiver.requests[token] is request
