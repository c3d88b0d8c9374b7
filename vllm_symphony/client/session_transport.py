"""A remote program's calls, exactly once (client/session_transport.py).

    lip -> call, post -> numbered -> unsent -> connection ==> server        kept in `_unanswered` until the answer is here
         future <- by id <- dropped unless the next one <- connection <==   `received` is the number of the last one taken

It knows no gRPC: the connection (session_link.py) takes messages out of it and puts answers into it, and after a loss starts over
with what the server has not seen. Calls without a reply are numbered too and their answers dropped, so that they also happen once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllm_symphony.abi.calls import MAX_FRAME_BYTES, CallError, Cancel, Spawn
from vllm_symphony.errors import DataCorrupt, InvalidArgument, NotSupported, SymphonyError, from_reason
from vllm_symphony.proto.message import call_message, is_part, outcome_of
from vllm_symphony.proto.v1 import session_pb2 as pb

MAX_CALL_BYTES = MAX_FRAME_BYTES - 4096  # what a frame adds; a larger one would end the connection again and again
ACK_MESSAGES, ACK_BYTES = 64, 256 << 10  # taken, and not told yet: the server keeps what it does not know to be here
OnPart = Callable[[Any], None]


class _Call(asyncio.Future[Any]):
    """The answer of one call. Cancelling it cancels the call at the server."""

    def __init__(self, transport: SessionTransport, call_id: int, on_part: OnPart | None) -> None:
        super().__init__(loop=transport.loop)
        self.transport = transport
        self.call_id = call_id
        self.on_part = on_part

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self.transport.post("cancel", Cancel(self.call_id))
        return True


class SessionTransport:
    """Implements lip's `Transport`. Belongs to one event loop. `source`: the program's text, for children that run a part of it."""

    def __init__(self, source: Callable[[], str], on_term: Callable[[], object]) -> None:
        self.loop = asyncio.get_running_loop()
        self.received = 0
        self.changed = asyncio.Event()  # there is something to send
        self._source = source
        self._on_term = on_term
        self._calls: dict[int, _Call] = {}
        self._unanswered: dict[int, pb.ConnectRequest] = {}  # by id, so ascending
        self._unsent: deque[pb.ConnectRequest] = deque()
        self._last_id = 0
        self._acked = 0
        self._bytes_since_ack = 0
        self._end: SymphonyError | None = None

    # ---- lip's Transport

    def call(self, op: str, args: object, *, tid: int = 0, on_part: OnPart | None = None) -> asyncio.Future[Any]:
        """Send a call, now or when there is a connection again. The future gives its result or raises its SymphonyError.

        Raises InvalidArgument at once for arguments that cannot be sent.
        """
        if isinstance(args, Spawn) and args.source is None:
            args = replace(args, source=self._source())
        future = _Call(self, self._last_id + 1, on_part)
        if self._end is not None:
            future.set_exception(_again(self._end))
            return future
        self._send(op, args, tid)
        self._calls[future.call_id] = future
        return future

    def post(self, op: str, args: object, *, tid: int = 0) -> None:
        """Send a call whose answer nobody wants; after the session's end it does nothing."""
        if self._end is None:
            self._send(op, args, tid)

    def _send(self, op: str, args: object, tid: int) -> None:
        message = pb.ConnectRequest()
        message.call.id = self._last_id + 1
        message.call.tid = tid
        call_message(op, args, message.call)
        if (size := message.ByteSize()) > MAX_CALL_BYTES:
            raise InvalidArgument(f"{op} has {size} bytes, the most is {MAX_CALL_BYTES}", size_bytes=size)
        self._last_id += 1
        self._unanswered[self._last_id] = message
        self._unsent.append(message)
        self.changed.set()

    # ---- for the connection

    def start_over(self, last_call: int) -> None:
        """A new connection: what the server has not seen is unsent again."""
        self._unsent = deque(message for call_id, message in self._unanswered.items() if call_id > last_call)
        self._acked, self._bytes_since_ack = self.received, 0  # the hello said it
        self.changed.set()

    def next_message(self) -> pb.ConnectRequest | None:
        """What to send now; None: wait for `changed`."""
        if self._unsent:
            message = self._unsent.popleft()
        elif self.received - self._acked >= ACK_MESSAGES or self._bytes_since_ack >= ACK_BYTES:
            message = pb.ConnectRequest()
        else:
            return None
        message.ack = self._acked = self.received
        self._bytes_since_ack = 0
        return message

    def take(self, message: pb.ConnectResponse) -> None:
        """An answer, a part or a signal; once. Raises DataCorrupt when one is missing."""
        if message.seq <= self.received:
            return  # sent again after a loss
        if message.seq != self.received + 1:
            raise DataCorrupt(f"message {message.seq} came after {self.received}", seq=message.seq, received=self.received)
        self.received = message.seq
        self._bytes_since_ack += message.ByteSize()
        if self.received - self._acked >= ACK_MESSAGES or self._bytes_since_ack >= ACK_BYTES:
            self.changed.set()
        if message.WhichOneof("message") == "signal":
            on_term, self._on_term = self._on_term, lambda: None
            self.loop.call_soon(on_term)  # after who waits for an answer that came before it has seen that
        else:
            self._take_outcome(message.answer.id, outcome_of(message.answer))

    def _take_outcome(self, call_id: int, outcome: Any) -> None:
        if outcome is not None and is_part(outcome):
            call = self._calls.get(call_id)
            if call is not None and call.on_part is not None and not call.done():
                call.on_part(outcome)
            return
        self._unanswered.pop(call_id, None)
        call = self._calls.pop(call_id, None)
        if call is None or call.done():
            return
        if isinstance(outcome, CallError):
            call.set_exception(from_reason(outcome.reason, outcome.message, outcome.values, outcome.retry_after_s))
        elif outcome is None:
            call.set_exception(NotSupported("the answer is of a kind that this client does not know: it is older than the server"))
        else:
            call.set_result(outcome)

    def end(self, why: SymphonyError) -> None:
        """No more connections: calls in flight, and all later ones, raise `why`. Idempotent."""
        if self._end is not None:
            return
        self._end = why
        self._on_term = lambda: None
        self._unsent.clear()
        self._unanswered.clear()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            if not call.done():
                call.set_exception(_again(why))
                call.exception()  # its owner may be gone


def _again(error: SymphonyError) -> SymphonyError:
    """The same error for one more caller: a traceback belongs to one."""
    return type(error)(error.message, retry_after_s=error.retry_after_s, **error.values)
