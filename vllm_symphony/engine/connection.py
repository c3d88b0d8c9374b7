"""One peer of the kernel: a client, the edge, or a program (engine/connection.py).

    socket -> recv (64 KiB) -> FrameReader -> backlog --a turn's share--> owner.take_call
    socket <- one send a turn <- out <- queue(frame)
                                  ^-- bulk: large frames of a peer that takes chunks, piece by piece in turns, when out is empty

Nothing here blocks, and each peer gets at most its share of a turn (`CALLS_PER_TURN` calls, or as many as make `REPLIES_PER_TURN`
bytes of replies, read or not), so a peer that is slow, stuck or flooding delays only itself:
above `HIGH_WATER_BYTES` of unread replies its calls wait, in the backlog and in the socket; one that lets `CUT_OFF_BYTES` pile up
is cut off. One that has a pace is read only as fast as that (engine/pace.py): its calls wait in the same two places.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

from vllm_symphony.abi.calls import CHUNK_BYTES
from vllm_symphony.abi.frame import FrameReader, chunked_bytes, chunks
from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.pace import Pace
from vllm_symphony.engine.poll import READABLE, WRITABLE, Alarm, Poll
from vllm_symphony.errors import InvalidArgument, SymphonyError

RECEIVE_BYTES = 1 << 16
CALLS_PER_TURN = 32
REPLIES_PER_TURN = 1 << 18
HIGH_WATER_BYTES = 1 << 20
CUT_OFF_BYTES = 16 << 20
MAX_STRANGE_BYTES = RECEIVE_BYTES  # of an unfinished frame, from a peer that has not said hello
_CHUNKS_PER_SEND = 64
_BULK_BYTES_PER_SEND = 4 * CHUNK_BYTES


class Owner(Protocol):
    """Who the connection serves. All methods are called on the reactor's thread."""

    def take_call(self, connection: Connection, body: bytes) -> None:
        """One frame of the peer."""

    def unfinished(self, connection: Connection) -> None:
        """It has more calls for the next turn: call `work` then."""

    def dirty(self, connection: Connection) -> None:
        """It has something to send: call `flush` at the end of this turn. Said once until flushed."""

    def lost(self, connection: Connection, error: SymphonyError | None) -> None:
        """The peer closed (None), or must go for this reason. The connection is not closed yet."""


class Connection:
    """Owns its socket. `pid` is set once the peer is known to the kernel, `pace` for one that has; the owner spends of it."""

    __slots__ = (
        "_backlog", "_bulk", "_deaf", "_dirty", "_fd", "_finishing", "_interest", "_out", "_owner", "_poll", "_reader",
        "_replied_bytes", "_rest", "_scheduled", "_sock", "closed", "cut_off_bytes", "out_bytes", "overrun", "pace", "pid", "role",
        "takes_chunks",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, poll: Poll, owner: Owner, pid: Pid | None = None, role: str = "") -> None:
        sock.setblocking(False)
        self.pid = pid
        self.role = role
        self.closed = False
        self.out_bytes = 0
        self.cut_off_bytes = CUT_OFF_BYTES
        self.overrun = False
        self.takes_chunks = False
        self.pace: Pace | None = None
        self._rest: Alarm | None = None  # set while nothing is read, because of the pace
        self._sock = sock
        self._fd = sock.fileno()
        self._poll = poll
        self._owner = owner
        self._reader = FrameReader()
        self._backlog: deque[bytes] = deque()
        self._out: deque[bytes | memoryview] = deque()
        self._bulk: dict[int, deque[Iterator[bytes]]] = {}  # by call id; the frames of one call stay in order
        self._replied_bytes = 0  # in all, also to a peer that does not hear it
        self._deaf = False
        self._finishing = False
        self._dirty = False
        self._scheduled = False
        self._interest = READABLE
        poll.watch(self._fd, self._ready)

    def queue(self, data: bytes, call_id: int = 0) -> None:
        """Send the frame `data` at the end of the turn, or in chunks under `call_id` while others pass. Past the cut-off it is
        dropped, and the connection with it."""
        self._replied_bytes += len(data)
        if self.closed or self._deaf or self._finishing:
            return
        if self.out_bytes > self.cut_off_bytes:
            self.overrun = True
        elif call_id in self._bulk:
            self._bulk[call_id].append(iter((data,)))
            self.out_bytes += len(data)
        elif len(data) > CHUNK_BYTES and call_id and self.takes_chunks:
            self._bulk[call_id] = deque((chunks(call_id, data),))
            self.out_bytes += chunked_bytes(len(data))
        else:
            self._out.append(data)
            self.out_bytes += len(data)
        if not self._dirty:
            self._dirty = True
            self._owner.dirty(self)

    def flush(self) -> None:
        """Send what the socket takes now, in one system call."""
        self._dirty = False
        out = self._out
        if self._bulk and len(out) < _CHUNKS_PER_SEND:
            self._pull()
        if self.closed or not out:
            return
        if self.overrun:
            self._owner.lost(self, InvalidArgument(f"cut off: {self.out_bytes} bytes of replies were not read"))
            return
        try:
            sent = self._sock.send(out[0]) if len(out) == 1 else self._sock.sendmsg(islice(out, _CHUNKS_PER_SEND))
        except BlockingIOError:
            sent = 0
        except OSError:
            self._stop_sending()
            return
        self._sent(sent)
        if self._finishing and not out and not self._bulk:
            with contextlib.suppress(OSError):  # it is gone already
                self._sock.shutdown(socket.SHUT_WR)
        self._set_interest()
        if self._backlog:
            self._schedule()

    def work(self) -> None:
        """Hand out one turn's share of the calls that were received, none while too many replies are unread."""
        self._scheduled = False
        share = self._replied_bytes + REPLIES_PER_TURN
        for _ in range(CALLS_PER_TURN):
            if not self._backlog or self.out_bytes > HIGH_WATER_BYTES or self.closed or self._replied_bytes > share:
                break
            if self._must_rest():
                break
            self._owner.take_call(self, self._backlog.popleft())
        self._schedule()

    def close(self) -> None:
        """Idempotent; unsent replies are dropped."""
        if self.closed:
            return
        self.closed = True
        self._drop_pace()
        self._poll.forget(self._fd)
        self._sock.close()
        self._out.clear()
        self._bulk.clear()
        self._backlog.clear()
        self.out_bytes = 0

    def finish(self, last: bytes) -> None:
        """Send what waits, one more frame and the end; the owner loses it when the peer has closed too. What it still says until
        then is thrown away: closing on it would throw away what it has not read, the last frame too."""
        self.queue(last)
        self._finishing = True
        self._backlog.clear()

    def close_saying(self, last: bytes) -> None:
        """Try to send one more frame, then close."""
        if not self.closed:
            self._out.append(last)
            with contextlib.suppress(OSError):
                self._sock.sendmsg(islice(self._out, _CHUNKS_PER_SEND))
        self.close()

    def _pull(self) -> None:
        """The next piece of each large frame, as long as little else waits to be sent."""
        waiting = sum(map(len, self._out))
        while self._bulk and waiting < _BULK_BYTES_PER_SEND:
            call_id = next(iter(self._bulk))
            frames = self._bulk.pop(call_id)
            piece = next(frames[0], None)
            if piece is None:
                frames.popleft()
            else:
                self._out.append(piece)
                waiting += len(piece)
            if frames:
                self._bulk[call_id] = frames  # behind the others

    def _schedule(self) -> None:
        """Ask for another turn if there are calls that may be handed out."""
        if self._backlog and not self._scheduled and self.out_bytes <= HIGH_WATER_BYTES and self._rest is None:
            self._scheduled = True
            self._owner.unfinished(self)

    def _ready(self, mask: int) -> None:
        if mask & WRITABLE and (self._out or self._bulk):
            self.flush()
        if mask & ~WRITABLE and not self.closed:
            if not self._interest & READABLE:  # held back, and now hung up
                self._stop_sending()
            elif not self._backlog:
                self._receive()

    def _stop_sending(self) -> None:
        """The peer reads no more; what it said before (a program's `exit`) still counts. The end of file comes after that."""
        self._deaf = True
        self._drop_pace()  # it says no more than what is here already
        self._out.clear()
        self._bulk.clear()
        self.out_bytes = 0
        self._set_interest()
        self._schedule()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._owner.lost(self, None)
            return
        if self._finishing:
            return
        try:
            frames: Sequence[bytes] = self._reader.feed(data)
        except InvalidArgument as e:
            self._owner.lost(self, e)
            return
        if self.pid is None and self._reader.held_bytes > MAX_STRANGE_BYTES:
            self._owner.lost(self, InvalidArgument(f"the first frame is larger than {MAX_STRANGE_BYTES} bytes"))
        elif len(frames) == 1:
            self._owner.take_call(self, frames[0])
            self._must_rest()
        elif frames:
            self._backlog.extend(frames)
            self.work()

    def _must_rest(self) -> bool:
        """Its pace is spent: read nothing for a while."""
        pace = self.pace
        if self._rest is not None:
            return True
        if pace is None or not pace.is_short or self.closed or not pace.is_spent(time.monotonic_ns()):
            return False
        self._rest = self._poll.alarm(pace.enough_at_ns(), self._go_on)
        self._set_interest()
        return True

    def _go_on(self) -> None:
        self._rest = None
        self._set_interest()
        self._schedule()

    def _drop_pace(self) -> None:
        self.pace = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _sent(self, num_bytes: int) -> None:
        self.out_bytes -= num_bytes
        out = self._out
        while num_bytes:
            head = out.popleft()
            if num_bytes < len(head):
                out.appendleft(memoryview(head)[num_bytes:])
                return
            num_bytes -= len(head)

    def _set_interest(self) -> None:
        wanted = 0 if self.out_bytes > HIGH_WATER_BYTES or self._rest is not None else READABLE
        if self._out or self._bulk:
            wanted |= WRITABLE
        if wanted != self._interest:
            self._interest = wanted
            self._poll.change(self._fd, wanted)
