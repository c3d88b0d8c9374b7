"""What the reactor's tests stand on: a kernel that does as it is told, a device that answers at once, and a blocking client."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from vllm_symphony.abi.calls import Done, ForwardResult, Hello, PidResult, ReadResult
from vllm_symphony.abi.codec import call_frame, error_of, read_answer, read_part, read_result
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Distribution, ModelInfo
from vllm_symphony.errors import Interrupted
from vllm_symphony.kernel.effect import (
    CancelJob,
    Capacity,
    FeedInput,
    ForwardDone,
    ForwardJob,
    JobFailed,
    Launch,
    Owner,
    Reply,
    ReplyError,
    Residency,
    Signalled,
)
from vllm_symphony.kernel.sched.view import QueueView

WAIT_S = 60.0
MODEL = ModelInfo("scripted", 512, 1024, 16, 64, 20, (0,))
ROW = Distribution(0, b"\0" * 80, b"\0" * 80, 0.0, 0.0)


class EchoDevice:
    """Answers each forward from a thread of its own; while `hold` is set it answers nothing but a cancel."""

    model = MODEL

    def __init__(self, row: Distribution = ROW) -> None:
        self.row = row
        self.hold = False
        self._held: set[int] = set()
        self.batches: list[list[Any]] = []
        self.on_death: Callable[[BaseException], None] = lambda e: None
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, on_completions: Any, on_death: Any) -> None:
        self.on_death = on_death
        self._thread = threading.Thread(target=self._main, args=(on_completions,), name="echo-device")
        self._thread.start()

    def submit(self, effects: Sequence[Any]) -> None:
        self._inbox.put(list(effects))

    def stop(self) -> None:
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join()
            self._thread = None

    def job_state(self, job: int) -> tuple[str, str]:
        return "batch", ""

    def residency(self, ino: int) -> Residency:
        return Residency()

    def capacity(self) -> Capacity:
        return Capacity()

    def queue_view(self) -> QueueView:
        return QueueView()

    def counters(self) -> dict[str, float]:
        return {}

    def samples(self) -> tuple[()]:
        return ()

    def _main(self, on_completions: Any) -> None:
        while (batch := self._inbox.get()) is not None:
            self.batches.append(batch)
            done: list[Any] = []
            for e in batch:
                if isinstance(e, ForwardJob) and self.hold:
                    self._held.add(e.job)
                elif isinstance(e, ForwardJob):
                    done.append(ForwardDone(e.job, (self.row,) * len(e.outputs)))
                elif isinstance(e, CancelJob) and e.job in self._held:
                    self._held.remove(e.job)
                    done.append(JobFailed(e.job, Interrupted("cancelled")))
            if done:
                on_completions(done)


class ScriptedKernel:
    """The kernel's entries, with a handful of calls and a diary. `wait_for` lets a test wait for what it writes there."""

    def __init__(self) -> None:
        self.effects: list[Any] = []
        self.diary: list[tuple[Any, ...]] = []
        self.alive: set[int] = set()
        self.deadline_ns: int | None = None
        self.big = b""  # what `read` answers
        self._jobs: dict[int, tuple[int, int]] = {}
        self._last = 0
        self._changed = threading.Condition()

    def note(self, *what: Any) -> None:
        with self._changed:
            self.diary.append(what)
            self._changed.notify_all()

    def wait_for(self, found: Callable[[list[tuple[Any, ...]]], Any]) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: found(self.diary), WAIT_S), f"waited in vain; diary: {self.diary[-20:]}"
            return found(self.diary)

    def wait_exit(self, pid: int) -> tuple[Any, ...]:
        return self.wait_for(lambda d: next((x for x in d if x[0] == "exited" and x[1] == pid), None))

    def text(self, pid: int, kind: str) -> str:
        return "".join(x[3] for x in self.diary if x[0] == "output" and x[1] == pid and x[2] == kind)

    def exit_call(self, pid: int) -> Any:
        return next((x[3] for x in self.diary if x[0] == "call" and x[1] == pid and x[2] == "exit"), None)

    def new_pid(self) -> int:
        self._last += 1
        self.alive.add(self._last)
        return self._last

    def launch(self, source: str, args: str = "{}", entry: str = "main", name: str = "prog.py", seed: int = 7, **more: Any) -> int:
        pid = self.new_pid()
        self.effects.append(Launch(pid, source, entry, args, name, seed, **more))
        return pid

    def feed(self, pid: int, data: bytes, eof: bool = False) -> None:
        self.effects.append(FeedInput(pid, data, eof))

    def signal(self, pid: int, signal: str) -> None:
        self.effects.append(Signalled(pid, signal))

    # ---- the interface

    def connect(
        self, cred: Any, role: str, now_ns: int, *, lease_s: float = 0.0, name: str = "", minor: int = 0, traceparent: str = ""
    ) -> int:
        pid = self.new_pid()
        self.note("connect", pid, role, cred.principal)
        return pid

    def call(
        self,
        pid: int,
        call_id: int,
        tid: int,
        op: str,
        args: Any,
        now_ns: int,
        cred: Any = None,
        *,
        session: int = 0,
        request_id: str = "",
    ) -> None:
        self.note("call", pid, op, args, tid, cred)
        if op == "forward":
            self._last += 1
            self._jobs[self._last] = (pid, call_id)
            self.effects.append(ForwardJob(self._last, 1, [1], 0, (-1,), 20, (), 1.0, False, Owner()))
        elif op == "read":
            self.effects.append(Reply(pid, call_id, ReadResult(self.big, b"", 0)))
        elif op == "getpid":
            self.effects.append(Reply(pid, call_id, PidResult(pid)))
        elif op != "sleep":
            self.effects.append(Reply(pid, call_id, Done()))

    def reject(self, pid: int, call_id: int, tid: int, op: str, error: Any, now_ns: int) -> None:
        self.note("reject", pid, op, error)
        self.effects.append(ReplyError(pid, call_id, error))

    def started(self, pid: int, os_pid: int, now_ns: int) -> None:
        self.note("started", pid, os_pid)

    def output(self, pid: int, kind: str, text: str, now_ns: int) -> None:
        self.note("output", pid, kind, text)

    def used(self, pid: int, cpu_s: float, memory_bytes: int, now_ns: int) -> None:
        self.note("used", pid, cpu_s, memory_bytes)

    def exited(self, pid: int, code: int, cpu_s: float, now_ns: int, error: Any = None, reason: str = "") -> None:
        self.alive.discard(pid)
        self.note("exited", pid, code, cpu_s, error, reason)

    def disconnected(self, pid: int, now_ns: int) -> None:
        self.alive.discard(pid)
        self.note("disconnected", pid)

    def complete(self, completions: Any, now_ns: int) -> None:
        for done in completions:
            pid, call_id = self._jobs.pop(done.job)
            self.effects.append(Reply(pid, call_id, ForwardResult(1, done.distributions)))

    def device_lost(self, message: str, now_ns: int) -> None:
        self.note("device_lost", message)

    def tick(self, now_ns: int) -> None:
        self.deadline_ns = None
        self.note("tick", now_ns)

    def next_deadline_ns(self) -> int | None:
        return self.deadline_ns

    def check(self) -> None: ...

    def idle(self) -> bool:
        return not self.alive

    def counters(self) -> dict[str, int]:
        return {}


class Client:
    """A peer that blocks. `ask` gives the typed result or raises the call's error."""

    def __init__(self, path: str, role: str | None = "client") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(path)
        self._reader = FrameReader()
        self._frames: list[bytes] = []
        self._last_id = 0
        if role is not None:
            self.pid = self.ask("hello", Hello(ABI_MAJOR, ABI_MINOR, role)).pid

    def send(self, op: str, args: object, **more: Any) -> int:
        self._last_id += 1
        self.sock.sendall(call_frame(self._last_id, op, args, **more))
        return self._last_id

    def answer(self) -> Any:
        """The next frame; None at the end of file."""
        while not self._frames:
            try:
                data = self.sock.recv(1 << 18)
            except ConnectionError:
                return None
            if not data:
                return None
            self._frames = self._reader.feed(data)
        return read_answer(self._frames.pop(0))

    def ask(self, op: str, args: object, parts: list[Any] | None = None, **more: Any) -> Any:
        call_id = self.send(op, args, **more)
        while True:
            answer = self.answer()
            assert answer is not None, "the server closed the connection"
            if answer.id != call_id:
                continue
            if answer.part:
                if parts is not None:
                    parts.append(read_part(op, answer.part))
                continue
            if answer.err is not None:
                raise error_of(answer.err)
            return read_result(op, answer.ok)

    def close(self) -> None:
        self.sock.close()


class Footprint:
    """Files and threads; `check` says that there are no more than at the start. Stricter than tests/leaks.py: all kinds of files,
    and no time to settle."""

    def __init__(self) -> None:
        self.before = self._now()

    def check(self) -> None:
        now = self._now()
        for what, (a, b) in {k: (self.before[k], now[k]) for k in now}.items():
            assert len(b) <= len(a), f"{what} left: {sorted(set(b) - set(a))}"

    def _now(self) -> dict[str, list[str]]:
        fds = []
        for name in os.listdir("/proc/self/fd"):
            try:
                fds.append(f"{name} {os.readlink('/proc/self/fd/' + name)}")
            except FileNotFoundError:
                continue
        return {"files": fds, "threads": [t.name for t in threading.enumerate()]}
