"""Who is connected, and what they may say (engine/peers.py).

    connect -> same user? -> stranger --hello--> client or edge (a pid of the kernel) --calls--> Kernel.call
    program (its socket was made by us; no hello needed) --------------------------------calls--> Kernel.call
                                                     <-- replies, parts, signals -- effects

A peer whose frames cannot be trusted any more is told why (error with id 0) and closed; wrong arguments are an answer like others.
A stranger has `PATIENCE_NS` to say hello, and the connection of a session that has ended as long to take its last answers.
Whoever gets here is the server's own user (engine/listener.py): a client acts for it, or for whom its hello names, an edge for whom
each call names. A client with a lease is a session (engine/session.py): its connections come and go.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import Hello, HelloResult
from vllm_symphony.abi.codec import Call, error_frame, part_frame, read_args, read_call, reply_frame, signal_frame
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, FEATURES, Credentials, Pid
from vllm_symphony.engine.connection import Connection
from vllm_symphony.engine.listener import Listener
from vllm_symphony.engine.poll import Alarm, Poll
from vllm_symphony.engine.programs import Programs
from vllm_symphony.engine.session import Session
from vllm_symphony.errors import (
    BrokenPipe,
    InvalidArgument,
    NoSuchProcess,
    NotOwner,
    NotSupported,
    SymphonyError,
    TimedOut,
    WouldBlock,
)  # fmt: skip
from vllm_symphony.kernel.effect import Hangup, Part, Reply, ReplyError

if TYPE_CHECKING:
    from vllm_symphony.kernel.kernel import Kernel

BULK_FRAME_BYTES = 1 << 16  # a refused frame above this ends the connection, but an edge's: refusing it often would cost too much
PATIENCE_NS = 10_000_000_000
CLIENT, EDGE, PROGRAM, SESSION = "client", "edge", "program", "session"
_ACCEPT_RETRY_NS = 100_000_000
_PACED_BY_THE_DEVICE = frozenset(op for op, spec in CALLS.items() if spec.kind == "model")
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
        self._connections: dict[Pid, Connection] = {}  # sessions are not among them
        self._sessions: dict[Pid, Session] = {}
        self._strangers: dict[Connection, int] = {}  # that have not said hello, or are leaving: until when, the oldest first
        self._patience: Alarm | None = None  # set while there are strangers
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

    def unread_bytes(self, pid: Pid) -> int:
        """Answers that a connection has not taken; of a session, that its client has not acknowledged."""
        if (session := self._sessions.get(pid)) is not None:
            return session.out_bytes
        connection = self._connections.get(pid)
        return connection.out_bytes if connection is not None else 0

    def num_connected(self) -> int:
        return len(self._everyone())

    def dismiss(self, error: SymphonyError) -> None:
        """No new peers; say goodbye to all but programs."""
        if self._listener is not None:
            self._poll.forget(self._listener.socket.fileno())
            self._listener.close()
        for connection in self._everyone():
            if connection.role != PROGRAM:
                self.lost(connection, error)
        for session in list(self._sessions.values()):
            self._kernel.end_session(session.pid, error.message, time.monotonic_ns())
            self._carry_out()

    def close(self) -> None:
        """Close what is left, without a word to the kernel. Idempotent."""
        for connection in self._everyone():
            connection.close()
        self._strangers.clear()
        self._connections.clear()
        self._sessions.clear()
        if self._listener is not None:
            self._listener.close()

    def check_idle(self) -> None:
        assert not self._connections, f"connections: {list(self._connections)}"
        assert not self._strangers, f"{len(self._strangers)} strangers"
        assert not self._sessions, f"sessions: {list(self._sessions)}"
        assert not self._unfinished and not self._dirty

    # ---- effects

    def reply(self, effect: Reply) -> None:
        self._answer(effect.pid, effect.call_id, lambda seq: reply_frame(effect.call_id, effect.result, seq))

    def reply_error(self, effect: ReplyError) -> None:
        self._answer(effect.pid, effect.call_id, lambda seq: error_frame(effect.call_id, effect.error, seq))

    def part(self, effect: Part) -> None:
        self._answer(effect.pid, effect.call_id, lambda seq: part_frame(effect.call_id, effect.part, seq), is_part=True)

    def signal(self, pid: Pid, signal: str) -> None:
        """Push a signal frame."""
        if (session := self._sessions.get(pid)) is not None:
            session.send(lambda seq: signal_frame(signal, seq))
        elif (connection := self._connections.get(pid)) is not None:
            connection.queue(signal_frame(signal))

    def hangup(self, effect: Hangup) -> None:
        """A session has ended; who is connected to it gets what was sent, and the reason."""
        session = self._sessions.pop(effect.pid, None)
        if session is not None and session.connection is not None:
            connection, session.connection = session.connection, None
            self._dismiss(connection, NoSuchProcess(f"session {effect.pid} has ended: {effect.reason}", pid=effect.pid))

    def _answer(self, pid: Pid, call_id: int, make: Callable[[int], bytes], *, is_part: bool = False) -> None:
        """Encode, and send to whoever made the call; what cannot be encoded (larger than a frame, for one) is an error's answer."""
        if not call_id:
            return
        session = self._sessions.get(pid)
        if session is None:
            connection = self._connections.get(pid)
            if connection is not None:
                connection.queue(_encoded(call_id, make, 0), call_id)
            return
        send = session.send_part if is_part else session.send_answer
        send(call_id, lambda seq: _encoded(call_id, make, seq))
        if session.is_lost:
            self._kernel.end_session(pid, f"{session.out_bytes} bytes of answers were not taken", time.monotonic_ns())
            self._carry_out()

    # ---- programs

    def connect_program(self, pid: Pid, sock: socket.socket) -> Connection:
        connection = self._connections[pid] = Connection(sock, self._poll, self, pid, PROGRAM)
        connection.takes_chunks = True
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
        if connection.pace is not None and call.op not in _PACED_BY_THE_DEVICE:
            connection.pace.spend()
        kernel, now_ns = self._kernel, time.monotonic_ns()
        session = self._sessions.get(pid) if connection.role == SESSION else None
        if session is not None:
            try:
                session.acknowledged(call.ack)
                session.saw(call.id)
            except InvalidArgument as e:
                session.connection = None
                self._dismiss(connection, e)
                kernel.disconnected(pid, now_ns)
                self._carry_out()
                return
        try:
            args = read_args(call)
            if session is not None and session.is_full:
                raise WouldBlock(f"{session.out_bytes} bytes of answers are not acknowledged", retry_after_s=0.1)
            if call.cred is not None or call.session:
                self._demand_edge(connection, call)
        except SymphonyError as e:
            kernel.reject(pid, call.id, call.tid, call.op, e, now_ns)
            self._carry_out()
            if len(body) > BULK_FRAME_BYTES and connection.role != EDGE:
                connection.flush()
                self.lost(connection, None)
            return
        if call.op in _PRINTS_FIRST:
            self._programs.drain(pid)
        kernel.call(pid, call.id, call.tid, call.op, args, now_ns, call.cred, session=Pid(call.session), request_id=call.request_id)
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
        self._let_go(connection)
        pid = connection.pid
        if pid is None:
            return
        if connection.role == PROGRAM:
            if error is not None:
                self._programs.kill(pid)
            self._programs.socket_closed(pid)
            return
        session = self._sessions.get(pid)
        if connection.role != SESSION:
            del self._connections[pid]
        elif session is None or session.connection is not connection:  # it has ended, or another connection took it over
            return
        else:
            session.connection = None
        self._kernel.disconnected(pid, time.monotonic_ns())
        self._carry_out()

    def _dismiss(self, connection: Connection, why: SymphonyError) -> None:
        """It no longer is its session's, and has a while to read why."""
        connection.pid = None
        self._expect(connection)
        connection.finish(error_frame(0, why))

    def _everyone(self) -> list[Connection]:
        held = [session.connection for session in self._sessions.values() if session.connection is not None]
        return [*self._strangers, *self._connections.values(), *held]

    def _demand_edge(self, connection: Connection, call: Call) -> None:
        """Only an edge acts for others; and for a session only with its token."""
        if connection.role != EDGE:
            raise NotOwner(f"role {connection.role} cannot act for others; only the edge may send `cred` and `session`")
        if call.session:
            self._session_of(call.session, call.resume)

    # ---- strangers

    def _expect(self, connection: Connection) -> None:
        """It has `PATIENCE_NS` from now."""
        until_ns = self._strangers[connection] = time.monotonic_ns() + PATIENCE_NS
        if self._patience is None:
            self._patience = self._poll.alarm(until_ns, self._lose_patience)

    def _let_go(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        if not self._strangers and self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _lose_patience(self) -> None:
        now_ns, self._patience = time.monotonic_ns(), None
        for connection in [c for c, until_ns in self._strangers.items() if until_ns <= now_ns]:
            self.lost(connection, TimedOut(f"no hello came within {PATIENCE_NS / 1e9:g} s"))
        if self._strangers and self._patience is None:
            self._patience = self._poll.alarm(next(iter(self._strangers.values())), self._lose_patience)

    # ---- hello

    def _hello(self, connection: Connection, call: Call) -> None:
        try:
            if call.op != "hello":
                raise InvalidArgument(f"the first call is hello, not {call.op}")
            hello: Hello = read_args(call)
            if hello.abi_major != ABI_MAJOR:
                theirs = f"{hello.abi_major}.{hello.abi_minor}"
                raise NotSupported(f"the caller speaks ABI {theirs}, this server {ABI_MAJOR}.{ABI_MINOR}", abi_major=ABI_MAJOR)
            if connection.pid is not None:
                connection.queue(reply_frame(call.id, HelloResult(ABI_MAJOR, ABI_MINOR, connection.pid, FEATURES)))
                return
            pid, session = self._enter(connection, call.cred or self._cred, hello)
        except SymphonyError as e:
            connection.queue(error_frame(call.id, e))
            connection.flush()
            self.lost(connection, None)
            return
        connection.pid = pid
        connection.role = hello.role if session is None else SESSION
        connection.takes_chunks = "chunks" in hello.features and session is None  # a session's answers come in order
        self._let_go(connection)
        answer = HelloResult(ABI_MAJOR, ABI_MINOR, pid, FEATURES)
        if session is None:
            self._connections[pid] = connection
            connection.queue(reply_frame(call.id, answer))
        else:
            lease_s = self._kernel.processes[pid].lease_s
            answer = replace(answer, resume=session.resume, lease_s=lease_s, last_call=session.last_call)
            connection.queue(reply_frame(call.id, answer))
            session.connect(connection, hello.received)
        self._carry_out()

    def _enter(self, connection: Connection, cred: Credentials, hello: Hello) -> tuple[Pid, Session | None]:
        """Make the peer known: a new client, edge or session; or the new connection of a session."""
        if hello.role not in (CLIENT, EDGE):
            raise InvalidArgument(f"role is client or edge, not {hello.role}")
        if hello.pid:
            session = self._session_of(hello.pid, hello.resume)
            session.demand_kept(hello.received)
            self._kernel.resume(session.pid, cred)
            if (old := session.connection) is not None:  # it may be half open
                session.connection = None
                self._dismiss(old, BrokenPipe("another connection took the session over", pid=hello.pid))
            return session.pid, session
        lease_s = hello.lease_s if hello.role == CLIENT else 0.0
        now_ns = time.monotonic_ns()
        pid = self._kernel.connect(
            cred, hello.role, now_ns, lease_s=lease_s, name=hello.name, minor=hello.abi_minor, traceparent=hello.traceparent
        )
        if not lease_s:
            return pid, None
        session = self._sessions[pid] = Session(pid, secrets.token_urlsafe(24))
        return pid, session

    def _session_of(self, pid: int, resume: str) -> Session:
        """The open session, if the token is its own."""
        session = self._sessions.get(Pid(pid))
        if session is None or not secrets.compare_digest(session.resume.encode(), resume.encode()):
            raise NoSuchProcess(f"no open session: {pid}", pid=pid)
        return session

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
            self._expect(Connection(sock, self._poll, self))

    def _accept_again(self) -> None:
        if self._listener is not None and self._listener.socket.fileno() >= 0:
            self._poll.watch(self._listener.socket.fileno(), self._accept)


def _encoded(call_id: int, make: Callable[[int], bytes], seq: int) -> bytes:
    try:
        return make(seq)
    except SymphonyError as e:
        return error_frame(call_id, e, seq)
