"""A client of the kernel, without asyncio (benchmarks/session.py): makes calls, starts programs and hears what they say.

    session.spawn(source, args) -> Child        an `attach` stream per child brings its events
    session.pump(until)                          reads frames until something is true

One socket of role `client`, used by one thread: while it waits it costs the measured process nothing.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.apart import Failed
from vllm_symphony.abi import calls
from vllm_symphony.abi.codec import call_frame, error_of, read_answer, read_part, read_result
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, OpenFlags, ResourceLimits

TIMEOUT_S = 300.0


@dataclass
class Child:
    """A program that we started: what it emitted, what it printed, how it ended; times are `time.monotonic()` here."""

    pid: int
    spawned: float
    emitted: list[Any] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    first_print: float | None = None
    exit: Any = None
    ended: float | None = None

    def value(self) -> Any:
        """What its `main` returned. Raises Failed when it did not end well."""
        if self.exit is None or self.exit["code"] != 0:
            raise Failed(f"program {self.pid} failed: {self.exit}\n{''.join(self.printed)}")
        return json.loads(self.exit["value"])


class Session:
    """One connection to the kernel's socket. Use it in a `with`."""

    def __init__(self, path: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._reader = FrameReader()
        self._last_id = 0
        self._waiting: dict[int, str] = {}
        self._answers: dict[int, Any] = {}
        self._watched: dict[int, Child] = {}
        self.call("hello", calls.Hello(ABI_MAJOR, ABI_MINOR, "client"))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up: what it spawned ends."""
        self._sock.close()

    def call(self, op: str, args: object = calls.NoArgs()) -> Any:
        """Make a call and wait for its result; raises its SymphonyError."""
        call_id = self._send(op, args)
        self.pump(lambda: call_id in self._answers)
        answer = self._answers.pop(call_id)
        if answer.err is not None:
            raise error_of(answer.err)
        return read_result(op, answer.ok)

    def spawn(
        self,
        source: str,
        name: str = "",
        /,
        _limits: ResourceLimits | None = None,
        _tools: tuple[str, ...] | None = None,
        **args: Any,
    ) -> Child:
        """Start a program and hear its events from now on."""
        spawned = time.monotonic()
        started = calls.Spawn(source, "main", json.dumps(args), name, limits=_limits, tools=_tools)
        child = Child(self.call("spawn", started).pid, spawned)
        self._watched[self._send("attach", calls.Attach(child.pid))] = child
        return child

    def kill(self, *children: Child) -> None:
        """End programs that would run for ever, and wait until they have."""
        for child in children:
            if child.exit is None:
                self.call("kill", calls.Kill(child.pid, "KILL"))
        self.wait(*children)

    def wait(self, *children: Child) -> None:
        """Until they ended, and forget them."""
        self.pump(lambda: all(c.exit is not None for c in children))
        for child in children:
            self.call("wait", calls.Wait(child.pid))

    def create(self, path: str) -> int:
        """A named empty file; gives its fd."""
        fd: int = self.call("open", calls.Open(path, None, int(OpenFlags.RDWR | OpenFlags.CREAT | OpenFlags.EXCL))).fd
        return fd

    def remove(self, path: str, fd: int | None = None) -> None:
        if fd is not None:
            self.call("close", calls.FdArgs(fd))
        self.call("unlink", calls.PathArgs(path))

    def pump(self, until: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Take what comes until `until()`. Raises Failed when it takes too long or the kernel is gone."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if not self._read(deadline - time.monotonic()):
                raise Failed(f"nothing happened for {timeout_s:g} s; waiting: {sorted(self._waiting.values())}")

    def pump_until(self, at: float) -> None:
        """Take what comes until then, by `time.monotonic`."""
        while (left := at - time.monotonic()) > 0:
            self._read(left)

    def _read(self, timeout_s: float) -> bool:
        """Take what comes next; False: nothing did in that time."""
        if timeout_s <= 0 or not select.select([self._sock], [], [], timeout_s)[0]:
            return False
        data = self._sock.recv(1 << 18)
        if not data:
            raise Failed("the kernel closed the connection")
        for body in self._reader.feed(data):
            self._take(read_answer(body))
        return True

    def _send(self, op: str, args: object) -> int:
        self._last_id += 1
        self._waiting[self._last_id] = op
        self._sock.sendall(call_frame(self._last_id, op, args))
        return self._last_id

    def _take(self, answer: Any) -> None:
        child = self._watched.get(answer.id)
        if child is None:
            self._waiting.pop(answer.id, None)
            self._answers[answer.id] = answer
        elif answer.part:
            for event in read_part("attach", answer.part).events:
                _hear(child, event)
        else:
            self._waiting.pop(answer.id, None)
            del self._watched[answer.id]


def _hear(child: Child, event: Any) -> None:
    now = time.monotonic()
    if event.kind == "emit":
        child.emitted.append(json.loads(event.text))
    elif event.kind in ("stdout", "stderr"):
        child.printed.append(event.text)
        child.first_print = child.first_print or now
    elif event.kind == "exit":
        child.exit, child.ended = json.loads(event.text), now
