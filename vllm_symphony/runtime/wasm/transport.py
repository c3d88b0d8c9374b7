"""A program's calls over its socket, for one thread that blocks (runtime/wasm/transport.py).

    guest's thread   call() -> frame -> socket ==> kernel
                       ^------- queue <- reading thread <== socket         answers; and TERM, also while the guest computes

The frames are those of runtime/transport.py. After TERM whatever waits here raises Terminated, for ever; when the socket is lost
every call raises DeviceLost.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from vllm_symphony.abi.codec import Answer, call_frame, error_of, read_answer, read_part, read_result
from vllm_symphony.abi.frame import FrameReader, pieces
from vllm_symphony.errors import DeviceLost, QuotaExceeded, SymphonyError

STACK_BYTES = 256 << 10
_RECEIVE_BYTES = 1 << 18


class Terminated(BaseException):
    """The kernel sent TERM: the program ends now."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a call that was begun: a part, or its end, which is a result or an error."""

    id: int
    part: Any = None
    result: Any = None
    error: SymphonyError | None = None


class BlockingTransport:
    """Owns `sock` and one thread from `start` to `close`."""

    def __init__(self, sock: socket.socket, reader: FrameReader | None = None, early: list[bytes] | None = None) -> None:
        """`reader` and `early`: what was already received and has not been looked at."""
        self._sock = sock
        self._reader = reader or FrameReader()
        self._early = early or []
        self._answers: SimpleQueue[Answer | None] = SimpleQueue()  # None: TERM, or lost
        self._on_term: Callable[[], Any] = lambda: None
        self._last_id = 0
        self._begun: dict[int, str] = {}  # calls whose answers come by `next`, and their ops
        self._aside: deque[Answer] = deque()  # of those, heard while a call waited for its own
        self._terminated = False
        self._lost: str | None = None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # rung by TERM
        self._thread: threading.Thread | None = None

    def start(self, on_term: Callable[[], Any]) -> None:
        """Begin to read. `on_term` is called once, on the reading thread, at the first TERM."""
        self._on_term = on_term
        self._thread = small_thread(self._read, "symphony-transport", STACK_BYTES)

    def call(self, op: str, args: object, *, tid: int = 0) -> Any:
        """Make a call, wait for its result. Parts of a stream are left out.

        Raises:
            SymphonyError: the call's, InvalidArgument when it cannot be sent, DeviceLost when the socket is gone.
            Terminated: TERM came; the call is cancelled with all others by the end of the program.
        """
        call_id = self._post(op, args, tid)
        while True:
            answer = self._hear(None)
            if answer is not None and answer.id == call_id and not answer.part:
                break
            if answer is not None and answer.id in self._begun:
                self._aside.append(answer)
        if answer.err is not None:
            raise error_of(answer.err)
        return read_result(op, answer.ok)

    def begin(self, op: str, args: object, *, tid: int = 0) -> int:
        """Make a call without waiting; give its id. What comes of it comes by `next`. Raises as `call`."""
        call_id = self._post(op, args, tid)
        self._begun[call_id] = op
        return call_id

    def next(self, timeout_s: float | None) -> Heard | None:
        """What came of a call that was begun; None when nothing did in this time, or none is left. Raises as `call`."""
        while self._begun:
            answer = self._aside.popleft() if self._aside else self._hear(timeout_s)
            if answer is None:
                return None
            op = self._begun.get(answer.id)
            if op is not None:
                return self._heard(op, answer)
        return None

    def _post(self, op: str, args: object, tid: int) -> int:
        call_id = self._last_id = self._last_id + 1
        self._send(b"".join(pieces(call_id, call_frame(call_id, op, args, tid))))
        return call_id

    def _hear(self, timeout_s: float | None) -> Answer | None:
        """The next answer to whatever; None when the time is over. Raises Terminated, DeviceLost."""
        try:
            answer = self._answers.get(timeout=timeout_s)
        except Empty:
            return None
        if answer is not None:
            return answer
        self._answers.put(None)  # for who asks again
        if self._terminated:
            raise Terminated
        raise DeviceLost(self._lost or "")

    def _heard(self, op: str, answer: Answer) -> Heard:
        if answer.part:
            return Heard(answer.id, part=read_part(op, answer.part))
        del self._begun[answer.id]
        if answer.err is not None:
            return Heard(answer.id, error=error_of(answer.err))
        return Heard(answer.id, result=read_result(op, answer.ok))

    def wait_for(self, fd: int, mask: int, timeout_s: float | None = None) -> bool:
        """Until `fd` is ready for `mask` of poll. False when the time is over. Raises Terminated."""
        poll = select.poll()
        poll.register(fd, mask)
        poll.register(self._bell, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        if self._terminated:
            raise Terminated
        return bool(ready)

    def send_last(self, op: str, args: object) -> None:
        """Send this call, waiting as long as it takes."""
        with contextlib.suppress(OSError):
            self._sock.sendall(call_frame(0, op, args))

    def close(self) -> None:
        """Stop reading, join the thread. Idempotent."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._sock.close()
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                self.wait_for(self._sock.fileno(), select.POLLOUT)
            except OSError as e:
                raise DeviceLost(self._lost or f"lost the kernel: {e}") from None

    # ---- the reading thread

    def _read(self) -> None:
        try:
            early, self._early = self._early, []
            for body in early:
                self._take(body)
            while data := self._sock.recv(_RECEIVE_BYTES):
                for body in self._reader.feed(data):
                    self._take(body)
            self._lost = "lost the kernel: it closed the connection"
        except OSError as e:
            self._lost = f"lost the kernel: {e}"
        except SymphonyError as e:
            self._lost = f"lost the kernel: {e.message}"
        self._answers.put(None)

    def _take(self, body: bytes) -> None:
        answer = read_answer(body)
        if answer.signal is None:
            self._answers.put(answer)
        elif not self._terminated:
            self._terminated = True
            self._answers.put(None)
            os.eventfd_write(self._bell, 1)
            self._on_term()


def small_thread(target: Callable[..., Any], name: str, stack_bytes: int, *args: Any) -> threading.Thread:
    """A started thread that takes no more of a limited address space than it needs; a default one takes 8 MiB.

    Raises QuotaExceeded: the process may not have another one.
    """
    thread = threading.Thread(target=target, name=name, args=args, daemon=True)
    before = threading.stack_size(stack_bytes)
    try:
        thread.start()
    except RuntimeError:
        raise QuotaExceeded("cannot start a thread: a wasm program needs 3 tasks, and 4 MiB for their stacks") from None
    finally:
        threading.stack_size(before)
    return thread
