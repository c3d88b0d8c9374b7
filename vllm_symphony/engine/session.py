"""A session's end of the wire: what its client does not have yet (engine/session.py).

    answers  ... 41 42 | 43 44 45 46 | 47 ...       a frame that was sent is kept until the client says `ack`;
              had them |    outbox   | to come      who connects again with received=43 gets 44, 45, 46 once more

The kernel knows a session as a process with a lease; this is the part of it that has bytes. Calls come with ascending ids, so
`last_call` alone tells which ones were seen: with the numbers of the answers that makes each call happen once and its answer
arrive once, however often the connection breaks. Bounded: above `HIGH_WATER_BYTES` parts of a stream are left out (its result has
all of it; once one is left out the rest of that stream is too, so that nobody sees a hole) and calls are refused; above
`CUT_OFF_BYTES` the session ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.connection import Connection
from vllm_symphony.errors import InvalidArgument

HIGH_WATER_BYTES = 4 << 20
CUT_OFF_BYTES = 64 << 20


class Session:
    """One session's outbox. `connection` is the one that it has now; `resume` the secret that lets another one take its place."""

    __slots__ = ("_muted", "_outbox", "connection", "last_call", "next_seq", "out_bytes", "pid", "resume")

    def __init__(self, pid: Pid, resume: str) -> None:
        self.pid = pid
        self.resume = resume
        self.connection: Connection | None = None
        self.last_call = 0
        self.next_seq = 1
        self.out_bytes = 0
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._muted: set[int] = set()  # streams that had a part left out

    @property
    def is_full(self) -> bool:
        """Its client should take answers before it calls again."""
        return self.out_bytes > HIGH_WATER_BYTES

    @property
    def is_lost(self) -> bool:
        """More than we can keep."""
        return self.out_bytes > CUT_OFF_BYTES

    def send(self, make: Callable[[int], bytes]) -> None:
        """Number a frame, keep it, and send it if somebody is there."""
        frame = make(self.next_seq)
        self._outbox.append((self.next_seq, frame))
        self.next_seq += 1
        self.out_bytes += len(frame)
        if self.connection is not None:
            self.connection.queue(frame)

    def send_part(self, call_id: int, make: Callable[[int], bytes]) -> None:
        """A part of a stream, unless its client is too far behind."""
        if self.is_full:
            self._muted.add(call_id)
        if call_id not in self._muted:
            self.send(make)

    def send_answer(self, call_id: int, make: Callable[[int], bytes]) -> None:
        """The end of a call."""
        self._muted.discard(call_id)
        self.send(make)

    def saw(self, call_id: int) -> None:
        """A call comes on the session's connection. Raises InvalidArgument when its id does not ascend: it was seen, or forged."""
        if not call_id:
            return
        if call_id <= self.last_call:
            raise InvalidArgument(
                f"call id {call_id} is not above {self.last_call}: ids of a session ascend", last_call=self.last_call
            )
        self.last_call = call_id

    def acknowledged(self, seq: int) -> None:
        """The client has all answers up to this number. Raises InvalidArgument for one that was not sent."""
        if seq >= self.next_seq:
            raise InvalidArgument(f"answer {seq} was not sent yet, the next one is {self.next_seq}", next_seq=self.next_seq)
        while self._outbox and self._outbox[0][0] <= seq:
            self.out_bytes -= len(self._outbox.popleft()[1])

    def demand_kept(self, received: int) -> None:
        """Raises InvalidArgument unless all answers after number `received` are still here."""
        first = self._outbox[0][0] if self._outbox else self.next_seq
        if not first <= received + 1 <= self.next_seq:
            raise InvalidArgument(
                f"received is {received}, but answers {first} to {self.next_seq - 1} are kept", first=first, next_seq=self.next_seq
            )

    def connect(self, connection: Connection, received: int) -> None:
        """Go on with this connection, whose hello was answered, from the answer after `received`. What it has not taken yet is the
        outbox's, so the session's bound holds and not the connection's own."""
        self.acknowledged(received)
        self.connection = connection
        connection.cut_off_bytes = 2 * CUT_OFF_BYTES
        for _, frame in self._outbox:
            connection.queue(frame)
