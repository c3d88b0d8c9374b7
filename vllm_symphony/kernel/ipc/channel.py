"""A channel: who may send and receive, what waits, who waits (kernel/ipc/channel.py).

    queue    senders ----> [5 4 3] ----> receivers            each message to one of them, in the order in which they asked
    topic    senders -+--> [5 4]   ----> subscriber a         each to all handles that may receive, in a queue of its own,
                      +--> [5 4 3] ----> subscriber b         from the moment on at which that was opened

Order: what one thread sends arrives in that order, for senders that wait for room stand in line and nobody passes them. A topic
that blocks waits until every subscriber has room; one that drops never waits, and each queue counts what it lost.
Without a name nobody can come: when the last that may receive is gone, senders hear EPIPE and what waits is dropped; when the last
that may send is gone, receivers hear EPIPE after the last message. With a name messages wait for whoever comes, also when their
sender has ended.
Invariants (`check`): nobody waits for what is there: no receiver at a queue that has messages (unless its process was sent STOP),
no sender at one that has room.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import ChannelStat, Credentials
from vllm_symphony.errors import BrokenPipe, SymphonyError
from vllm_symphony.kernel.fs.node import MAY_READ, MAY_WRITE, is_in
from vllm_symphony.kernel.ipc.handle import Handle
from vllm_symphony.kernel.ipc.letter import Letter

if TYPE_CHECKING:
    from vllm_symphony.kernel.ipc.wait import LetterWait, PollWait, RecvWait
    from vllm_symphony.kernel.machine import Machine

QUEUE, TOPIC = "queue", "topic"
BLOCK, DROP_OLDEST, DROP_NEW = "block", "drop_oldest", "drop_new"


class Queue:
    """Messages in order, each with how many before it were dropped; and the calls that wait for one."""

    __slots__ = ("letters", "missing", "receivers", "size_bytes")

    def __init__(self) -> None:
        self.letters: deque[tuple[Letter, int]] = deque()
        self.missing = 0  # dropped after the last one
        self.receivers: dict[RecvWait, None] = {}
        self.size_bytes = 0

    @property
    def next_receiver(self) -> RecvWait | None:
        """Whose turn it is; a process that was sent STOP keeps its place, but others do not wait for it."""
        return next((wait for wait in self.receivers if wait.is_awake), None)

    def put(self, letter: Letter) -> None:
        """At the end; it holds the letter from now on."""
        letter.num_holds += 1
        self.letters.append((letter, self.missing))
        self.missing = 0
        self.size_bytes += len(letter.data)

    def take(self, m: Machine) -> None:
        """Let go of the first."""
        letter, _ = self.letters.popleft()
        self.size_bytes -= len(letter.data)
        letter.release(m)

    def drop_first(self, m: Machine) -> None:
        """Lose the first; the next one tells."""
        missing = self.letters[0][1] + 1
        self.take(m)
        if self.letters:
            letter, others = self.letters[0]
            self.letters[0] = (letter, others + missing)
        else:
            self.missing += missing

    def withdraw(self, m: Machine, letter: Letter) -> None:
        """Its sender wants it back; it is in here."""
        self.letters = deque(pair for pair in self.letters if pair[0] is not letter)
        self.size_bytes -= len(letter.data)
        letter.release(m)

    def clear(self, m: Machine) -> None:
        """Nobody will receive what is in here."""
        while self.letters:
            self.take(m)


class Channel:
    """One channel. `name` is "namespace/name", "" when it has none (any more)."""

    __slots__ = (
        "capacity", "group", "handles", "kind", "m", "mode", "name", "overflow", "owner", "pollers", "queues", "senders", "seq",
    )  # fmt: skip

    def __init__(self, m: Machine, name: str, owner: str, mode: int, kind: str, capacity: int, overflow: str) -> None:
        self.m = m
        self.name = name
        self.owner = self.group = owner
        self.mode = mode
        self.kind = kind
        self.capacity = capacity
        self.overflow = overflow
        self.seq = 0  # of the last message
        self.handles: dict[Handle, None] = {}
        self.queues: dict[Handle | None, Queue] = {None: Queue()} if kind == QUEUE else {}
        self.senders: dict[LetterWait, None] = {}  # that wait for room
        self.pollers: dict[PollWait, None] = {}

    # ---- who may

    def allows(self, cred: Credentials, right: int) -> bool:
        """Whether the caller may receive (MAY_READ) or send (MAY_WRITE), or one of both, by the mode."""
        bits = self.mode >> 6 if cred.principal == self.owner else self.mode >> 3 if is_in(cred, self.group) else self.mode
        return bool(bits & right) or cred.is_admin

    def visible_to(self, cred: Credentials) -> bool:
        """The owner sees it, and who may receive or send."""
        return cred.principal == self.owner or self.allows(cred, MAY_READ | MAY_WRITE)

    @property
    def has_receivers(self) -> bool:
        """Somebody can receive what is sent now: it is open for it, or has a name by which one may come."""
        return bool(self.name) or any(handle.may_receive for handle in self.handles)

    @property
    def has_senders(self) -> bool:
        return bool(self.name) or any(handle.may_send for handle in self.handles)

    def demand_receivers(self) -> None:
        """Raises BrokenPipe when what is sent can reach nobody."""
        if not self.has_receivers:
            raise BrokenPipe("nobody can receive from this channel any more: it has no name, and who could has closed it")

    def demand_senders(self) -> None:
        """Raises BrokenPipe when nothing will come."""
        if not self.has_senders:
            raise BrokenPipe("nobody can send to this channel any more: it has no name, and who could has closed it")

    # ---- what is in it

    def has_room(self, size_bytes: int) -> bool:
        """A message of this size need not wait."""
        return self.overflow != BLOCK or all(self._fits(queue, size_bytes) for queue in self.queues.values())

    def _fits(self, queue: Queue, size_bytes: int) -> bool:
        return len(queue.letters) < self.capacity and queue.size_bytes + size_bytes <= self.m.limits.queue_bytes

    def takes(self, size_bytes: int) -> bool:
        """A message of this size can be sent now: there is room, and nobody waits for it."""
        return not self.senders and self.has_room(size_bytes)

    def post(self, letter: Letter) -> int:
        """Put it into all queues; how many took it. Its sender's hold ends."""
        self.seq += 1
        letter.seq = self.seq
        num_took = 0
        for queue in self.queues.values():
            if self.overflow == DROP_OLDEST:
                while not self._fits(queue, len(letter.data)):
                    queue.drop_first(self.m)
            elif self.overflow == DROP_NEW and not self._fits(queue, len(letter.data)):
                queue.missing += 1
                continue
            queue.put(letter)
            num_took += 1
        letter.release(self.m)
        return num_took

    def serve(self, now_ns: int) -> None:
        """Give what is there to who waits for it, until nobody is left who could have something."""
        while True:
            for queue in self.queues.values():
                self._deliver(queue, now_ns)
            first = next(iter(self.senders), None)
            if first is None or not self.has_room(len(first.letter.data)):
                break
            first.go(self.m, now_ns)
        self.m.mark(*self.pollers)

    def _deliver(self, queue: Queue, now_ns: int) -> None:
        while queue.letters and (wait := queue.next_receiver) is not None:
            try:
                wait.take(self.m, now_ns)
            except SymphonyError as error:  # the message stays, for the next one
                wait.interrupt(self.m, error, now_ns)

    # ---- who comes and goes

    def open(self, handle: Handle) -> None:
        """One more has it open; a topic's subscriber gets what is sent from now on."""
        self.handles[handle] = None
        if handle.may_receive:
            key = handle if self.kind == TOPIC else None
            handle.queue = self.queues.setdefault(key, Queue())

    def close(self, handle: Handle, now_ns: int) -> None:
        """It is not open there any more; its calls on it have ended. What it received and has not answered is refused."""
        del self.handles[handle]
        for request in list(handle.requests.values()):
            request.interrupt(
                self.m, BrokenPipe("who received the request closed the channel, or ended, without an answer"), now_ns
            )
        queue = self.queues.pop(handle, None)
        if queue is not None:
            queue.clear(self.m)
        self.settle(now_ns)

    def settle(self, now_ns: int) -> None:
        """Somebody closed it, or its name is gone: who waits in vain hears so, the others go on."""
        if not self.has_receivers:
            for queue in self.queues.values():
                for asker in [letter.asker for letter, _ in queue.letters if letter.asker is not None]:
                    asker.interrupt(self.m, BrokenPipe("nobody can receive the request any more"), now_ns)
                queue.clear(self.m)
            for sender in list(self.senders):
                sender.interrupt(self.m, BrokenPipe("the last who could receive has closed the channel"), now_ns)
        if not self.has_senders:
            for queue in self.queues.values():
                for receiver in list(queue.receivers):
                    receiver.interrupt(self.m, BrokenPipe("the last who could send has closed the channel"), now_ns)
        self.serve(now_ns)

    def stir(self) -> None:
        """A call that waited here is gone: the next may have a turn, when this entry of the kernel ends."""
        first = next(iter(self.senders), None)
        if first is not None:
            self.m.mark(first)
        self.m.mark(*self.pollers)

    # ---- looking

    @property
    def num_letters(self) -> int:
        """That wait, in all queues."""
        return sum(len(queue.letters) for queue in self.queues.values())

    def stat(self) -> ChannelStat:
        """As `channels` shows it."""
        return ChannelStat(
            name=self.name,
            owner=self.owner,
            group=self.group,
            mode=self.mode,
            kind=self.kind,
            overflow=self.overflow,
            capacity=self.capacity,
            queued=max((len(queue.letters) for queue in self.queues.values()), default=0),
            receivers=sum(handle.may_receive for handle in self.handles),
            senders=sum(handle.may_send for handle in self.handles),
        )

    def check(self) -> None:
        """The invariants above; what is open is open in its process."""
        limits = self.m.limits
        assert self.name or self.handles, "a channel that nobody can reach"
        for queue in self.queues.values():
            assert not (queue.letters and queue.next_receiver), "a receiver waits for what is there"
            assert not queue.receivers or self.has_senders, "a receiver waits for nobody"
            assert queue.size_bytes == sum(len(letter.data) for letter, _ in queue.letters) <= limits.queue_bytes
            assert len(queue.letters) <= self.capacity
            assert all(wait.call is not None and wait.call.pending is wait for wait in queue.receivers)
            seqs = [letter.seq for letter, _ in queue.letters]
            assert seqs == sorted(set(seqs)) and all(seq <= self.seq for seq in seqs)
        for wait in (*self.senders, *self.pollers):
            assert wait.call is not None and wait.call.pending is wait
        first = next(iter(self.senders), None)
        assert first is None or (self.has_receivers and not self.has_room(len(first.letter.data))), (
            "a sender waits though there is room"
        )
        for handle in self.handles:
            assert handle.process.handles.handles[handle.ch] is handle and handle.channel is self and not handle.process.has_ended
            assert (handle.queue is not None) == handle.may_receive
            assert all(self.m.channels.requests[token] is request for token, request in handle.requests.items())
        if self.kind == TOPIC:
            assert self.queues.keys() == {handle for handle in self.handles if handle.may_receive}
