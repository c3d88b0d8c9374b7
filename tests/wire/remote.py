"""A session's client that keeps what exactly-once asks of it, and whose connection breaks wherever a test likes.

    calls      ascending ids; kept until they are answered, sent again when the server has not seen them
    answers    numbered; the highest number is said when it connects again, and as `ack` now and then

It blocks, and does nothing by itself: `send`, `hear`, `cut`, `resume` are the test's.
"""

from __future__ import annotations

import socket
from typing import Any

from vllm_symphony.abi.calls import CallError, Exit, Hello, NoArgs
from vllm_symphony.abi.codec import call_frame, error_of, read_answer, read_outcome, read_result
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.errors import SymphonyError

WAIT_S = 60.0
RECEIVE_BYTES = 1 << 16


class Remote:
    """One session. `answers`: what was heard of each call; `unanswered`: what must be sent again if it was not seen."""

    def __init__(self, path: str, *, lease_s: float = 600.0, name: str = "remote") -> None:
        self.path = path
        self.received = 0
        self.answers: dict[int, Any] = {}
        self.unanswered: dict[int, tuple[str, Any]] = {}
        self.parts: dict[int, list[Any]] = {}
        self.signals: list[str] = []
        self.num_cuts = 0
        self._last_id = 0
        self._sock: socket.socket | None = None
        self._reader = FrameReader()
        hello = self._hello(Hello(ABI_MAJOR, ABI_MINOR, lease_s=lease_s, name=name))
        self.pid, self.token = hello.pid, hello.resume

    @property
    def is_connected(self) -> bool:
        return self._sock is not None

    def call(self, op: str, args: object) -> int:
        """Number a call and keep it; nothing is sent."""
        self._last_id += 1
        self.unanswered[self._last_id] = (op, args)
        return self._last_id

    def frame(self, call_id: int, *, ack: bool = True) -> bytes:
        op, args = self.unanswered[call_id]
        return call_frame(call_id, op, args, ack=self.received if ack else 0)

    def send(self, data: bytes) -> None:
        assert self._sock is not None
        self._sock.sendall(data)

    def hear(self, most_bytes: int = RECEIVE_BYTES) -> bool:
        """Take what comes next, at most so many bytes; False at the end of the connection."""
        assert self._sock is not None
        try:
            data = self._sock.recv(most_bytes)
        except ConnectionError:
            data = b""
        for body in self._reader.feed(data):
            self._take(body)
        return bool(data)

    def ask(self, op: str, args: object = NoArgs()) -> Any:
        """A call on a whole connection, from end to end."""
        call_id = self.call(op, args)
        self.send(self.frame(call_id))
        while call_id not in self.answers:
            assert self.hear(), f"cut while waiting for {op}"
        answer = self.answers[call_id]
        if isinstance(answer, CallError):
            raise error_of(answer)
        return answer

    def cut(self) -> None:
        """The connection breaks; what was not read of it is lost."""
        assert self._sock is not None
        self._sock.close()
        self._sock = None
        self.num_cuts += 1

    def leave_half_open(self) -> socket.socket:
        """The connection is forgotten here, and stays open there; the caller closes it."""
        assert self._sock is not None
        left, self._sock = self._sock, None
        self.num_cuts += 1
        return left

    def resume(self) -> None:
        """Connect again, and send what the server has not seen. Raises the server's refusal."""
        hello = self._hello(Hello(ABI_MAJOR, ABI_MINOR, pid=self.pid, resume=self.token, received=self.received))
        for call_id in list(self.unanswered):
            if call_id > hello.last_call:
                self.send(self.frame(call_id))

    def settle(self) -> None:
        """Until all calls are answered, however often it takes."""
        if not self.is_connected:
            self.resume()
        while self.unanswered:
            if not self.hear():
                self.cut()
                self.resume()

    def close(self) -> None:
        """The program ends, and its session with it."""
        if not self.is_connected:
            self.resume()
        call_id = self.call("exit", Exit(0))
        self.send(self.frame(call_id))
        while self.hear():
            pass
        assert call_id in self.answers, "exit was not answered"
        self.cut()

    def _hello(self, hello: Hello) -> Any:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(WAIT_S)
        self._sock.connect(self.path)
        self._reader = FrameReader()
        self._sock.sendall(call_frame(0, "hello", hello))
        data = b""
        bodies: list[bytes] = []
        while not bodies:
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                self._drop()
                raise ConnectionError("no answer to the hello")
            bodies = self._reader.feed(data)
        first = read_answer(bodies[0])
        if first.err is not None:
            self._drop()
            raise error_of(first.err)
        for body in bodies[1:]:
            self._take(body)
        return read_result("hello", first.ok)

    def _drop(self) -> None:
        assert self._sock is not None
        self._sock.close()
        self._sock = None

    def _take(self, body: bytes) -> None:
        answer = read_answer(body)
        if not answer.seq:
            assert answer.err is not None and not answer.id, answer
            self.last_words: SymphonyError = error_of(answer.err)
            return
        assert answer.seq == self.received + 1, f"answer {answer.seq} after {self.received}"
        self.received = answer.seq
        if answer.signal is not None:
            self.signals.append(answer.signal)
        elif answer.part:
            self.parts.setdefault(answer.id, []).append(answer.part)
        else:
            assert answer.id not in self.answers, f"call {answer.id} was answered twice"
            self.answers[answer.id] = read_outcome(answer)
            del self.unanswered[answer.id]
