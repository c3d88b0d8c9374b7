"""Who is connected, and what they may say (engine/peers.py).

    connect -> same user? -> stranger --hello--> client or edge (a pid of the kernel) --calls--> Kernel.call
    program (its socket was made by us; no hello needed) --------------------------------calls--> Kernel.call
                                                     <-- replies, parts, signals -- effects

A peer whose frames cannot be trusted any more is told why (error with id 0) and closed; wrong arguments are an answer like others.
For now each client acts for the one local principal, and only an edge may name another.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import Hello, HelloResult
from vllm_symphony.abi.codec import Call, error_frame, part_frame, read_args, read_call, reply_frame, signal_frame
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Credentials, Pid
from vllm_symphony.engine.connection import Connection
from vllm_symphony.engine.listener import Listener
from vllm_symphony.engine.poll import Poll
from vllm_symphony.engine.programs import Programs
from vllm_symphony.errors import InvalidArgument, NotOwner, SymphonyError
from vllm_symphony.kernel.effect import Part, Reply, ReplyError

if TYPE_CHECKING:
    from vllm_symphony.kernel.kernel import Kernel

BULK_FRAME_BYTES = 1 << 16  # a refused frame above this ends the connection: refusing it again and again would cost too much
PROGRAM = "program"
_ACCEPT_RETRY_NS = 100_000_000
_PRINTS_FIRST = frozenset(("emit", "exit"))  # calls that must come after what the program printed before them

log = logging.getLogger(__name__)


class Peers:
    """All connections and the socket that they come by. Belongs to the reactor's thread; owns the listener and the connections."""

    def __init__(self, kernel: Kernel, poll: Poll, programs: Programs, cred: Credentials, carry_out: Callable[[], None]) -> None:
        """`carry_out` is called after each entry into the kernel."""
        self._kernel = kernel
        self._poll = poll
        self._programs = programs
        self._cred = cred
        self._carry_out = carry_out
        self._listener: Listener | None = None
        self._connections: dict[Pid, Connection] = {}
        self._strangers: dict[Connection, None] = {}  # that have not said hello
        self._unfinished: deque[Connection] = deque()
        self._dirty: list[Connection] = []

    # ---- for the loop

    def listen(self, path: str) -> None:
        """Raises what `Listener` raises."""
        self._listener = Listener(path)
        self._poll.watch(self._listener.socket.fileno(), self._accept)

    @property
    def are_unfinished(self) -> bool:
        """Calls wait for another turn, so the loop should not sleep."""
        return bool(self._unfinished)

    def work(self) -> None:
        """Hand out one turn's share of the calls that wait."""
        for _ in range(len(self._unfinished)):
            self._unfinished.popleft().work()

    def flush(self) -> None:
        """Send what this turn has left for each of them."""
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.flush()

    def num_connected(self) -> int:
        return len(self._connections) + len(self._strangers)

    def dismiss(self, error: SymphonyError) -> None:
        """No new peers; say goodbye to all but programs."""
        if self._listener is not None:
            self._poll.forget(self._listener.socket.fileno())
            self._listener.close()
        for connection in [*self._strangers, *self._connections.values()]:
            if connection.role != PROGRAM:
                self.lost(connection, error)

    def close(self) -> None:
        """Close what is left, without a word to the kernel. Idempotent."""
        for connection in [*self._strangers, *self._connections.values()]:
            connection.close()
        self._strangers.clear()
        self._connections.clear()
        if self._listener is not None:
            self._listener.close()

    def check_idle(self) -> None:
        assert not self._connections, f"connections: {list(self._connections)}"
        assert not self._strangers, f"{len(self._strangers)} strangers"
        assert not self._unfinished and not self._dirty

    # ---- effects

    def reply(self, effect: Reply) -> None:
        connection = self._connections.get(effect.pid)
        if connection is not None and effect.call_id:
            try:
                connection.queue(reply_frame(effect.call_id, effect.result))
            except SymphonyError as e:  # larger than a frame, for one
                connection.queue(error_frame(effect.call_id, e))

    def reply_error(self, effect: ReplyError) -> None:
        connection = self._connections.get(effect.pid)
        if connection is not None and effect.call_id:
            connection.queue(error_frame(effect.call_id, effect.error))

    def part(self, effect: Part) -> None:
        connection = self._connections.get(effect.pid)
        if connection is not None and effect.call_id:
            try:
                connection.queue(part_frame(effect.call_id, effect.part))
            except SymphonyError as e:
                connection.queue(error_frame(effect.call_id, e))

    def signal(self, pid: Pid, signal: str) -> None:
        """Push a signal frame."""
        connection = self._connections.get(pid)
        if connection is not None:
            connection.queue(signal_frame(signal))

    # ---- programs

    def connect_program(self, pid: Pid, sock: socket.socket) -> Connection:
        connection = self._connections[pid] = Connection(sock, self._poll, self, pid, PROGRAM)
        return connection

    def forget_program(self, pid: Pid) -> None:
        """It has ended; its connection is closed."""
        self._connections.pop(pid, None)

    # ---- from connections (engine/connection.py Owner)

    def take_call(self, connection: Connection, body: bytes) -> None:
        try:
            call = read_call(body)
        except InvalidArgument as e:
            self.lost(connection, e)
            return
        pid = connection.pid
        if pid is None or call.op == "hello":
            self._hello(connection, call)
            return
        kernel, now_ns = self._kernel, time.monotonic_ns()
        try:
            args = read_args(call)
            if call.cred is not None and connection.role != "edge":
                raise NotOwner(f"role {connection.role} cannot act for others; only the edge may send `cred`")
        except SymphonyError as e:
            kernel.reject(pid, call.id, call.tid, call.op, e, now_ns)
            self._carry_out()
            if len(body) > BULK_FRAME_BYTES:
                connection.flush()
                self.lost(connection, None)
            return
        if call.op in _PRINTS_FIRST:
            self._programs.drain(pid)
        kernel.call(pid, call.id, call.tid, call.op, args, now_ns, call.cred)
        self._carry_out()

    def unfinished(self, connection: Connection) -> None:
        self._unfinished.append(connection)

    def dirty(self, connection: Connection) -> None:
        self._dirty.append(connection)

    def lost(self, connection: Connection, error: SymphonyError | None) -> None:
        if connection.closed:
            return
        if error is not None:
            connection.close_saying(error_frame(0, error))
        else:
            connection.close()
        self._strangers.pop(connection, None)
        pid = connection.pid
        if pid is None:
            return
        if connection.role == PROGRAM:
            if error is not None:
                self._programs.kill(pid)
            self._programs.socket_closed(pid)
        else:
            del self._connections[pid]
            self._kernel.disconnected(pid, time.monotonic_ns())
            self._carry_out()

    def _hello(self, connection: Connection, call: Call) -> None:
        try:
            pid = self._admit(connection, call)
        except SymphonyError as e:
            connection.queue(error_frame(call.id, e))
            connection.flush()
            self.lost(connection, None)
        else:
            connection.queue(reply_frame(call.id, HelloResult(ABI_MAJOR, ABI_MINOR, pid)))

    def _admit(self, connection: Connection, call: Call) -> Pid:
        """Check a hello; make the peer known to the kernel unless it is already."""
        if call.op != "hello":
            raise InvalidArgument(f"the first call is hello, not {call.op}")
        hello: Hello = read_args(call)
        if hello.abi_major != ABI_MAJOR:
            raise InvalidArgument(f"the caller speaks ABI {hello.abi_major}, this server {ABI_MAJOR}.{ABI_MINOR}")
        if connection.pid is not None:
            return connection.pid
        if hello.role not in ("client", "edge"):
            raise InvalidArgument(f"role is client or edge, not {hello.role}")
        connection.role = hello.role
        connection.pid = self._kernel.connect(self._cred, hello.role, time.monotonic_ns())
        del self._strangers[connection]
        self._connections[connection.pid] = connection
        self._carry_out()
        return connection.pid

    def _accept(self, mask: int) -> None:
        assert self._listener is not None
        try:
            sock = self._listener.accept()
        except OSError as e:
            log.warning("cannot accept a connection now: %s", e)
            self._poll.forget(self._listener.socket.fileno())
            self._poll.alarm(time.monotonic_ns() + _ACCEPT_RETRY_NS, self._accept_again)
            return
        if sock is not None:
            self._strangers[Connection(sock, self._poll, self)] = None

    def _accept_again(self) -> None:
        if self._listener is not None and self._listener.socket.fileno() >= 0:
            self._poll.watch(self._listener.socket.fileno(), self._accept)
