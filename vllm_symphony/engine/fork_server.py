"""The reactor's end of a fork server (engine/fork_server.py).

    launch, kill, hold, go_on --queue--> SOCK_SEQPACKET --> python -m vllm_symphony.runtime.zygote
    on_started, on_used, on_exited, on_failed, on_lost <--

The messages are described in abi/launch.py, the other end in runtime/zygote.py. The server is a process of its own, because one
with an engine's threads and gigabytes cannot be forked safely or quickly; there is one for each image, started when it is first
needed. If it dies, its programs die with it, and the next launch starts another one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from vllm_symphony.abi.launch import PACKET_BYTES, Cause, Record, Rlimits, Used, Verb, unpack_used
from vllm_symphony.abi.types import PYTHON, Pid
from vllm_symphony.engine.beside import start_connected
from vllm_symphony.engine.cpus import program_cpus
from vllm_symphony.engine.poll import READABLE, WRITABLE, Poll

_STOP_TIMEOUT_S = 5.0
_VARIABLES = {
    "PYTHONHASHSEED": "0",  # programs replay
    "OPENBLAS_NUM_THREADS": "1",  # numpy in the fork server must not start threads
}
_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)


class Observer(Protocol):
    """Who hears of programs' ends. A program that was launched ends with one `on_exited` or `on_failed`, or with `on_lost`."""

    def on_started(self, pid: Pid, os_pid: int) -> None: ...
    def on_used(self, used: Used) -> None: ...
    def on_exited(self, pid: Pid, code: int, cpu_s: float, cause: Cause) -> None: ...
    def on_failed(self, pid: Pid, error: OSError) -> None: ...
    def on_lost(self, image: str) -> None:
        """The fork server of that image died, and all its programs with it."""


class ForkServer:
    """Owns the server process and the socket to it. Belongs to the reactor's thread."""

    def __init__(self, poll: Poll, observer: Observer, image: str = PYTHON, *, confined: bool = True) -> None:
        self.level = ""  # of confinement: A, B or C; known once the server is warm
        self._poll = poll
        self._observer = observer
        self._image = image
        self._confined = confined
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._unsent: deque[tuple[Record, Sequence[int]]] = deque()
        self._num_alive = 0  # programs launched and not known to have ended

    @property
    def is_running(self) -> bool:
        return self._control is not None

    def start(self) -> None:
        """Start the server process; does not wait until it is warm. Does nothing if it runs. Raises OSError."""
        if self._control is not None:
            return
        words = [self._image, ",".join(map(str, program_cpus(os.sched_getaffinity(0))))]
        words += [] if self._confined else ["unconfined"]
        self._process, ours = start_connected("vllm_symphony.runtime.zygote", words, socket.SOCK_SEQPACKET, _VARIABLES)
        self._control = ours
        self._poll.watch(ours.fileno(), self._ready)

    def launch(self, pid: Pid, fds: Sequence[int], rlimits: Rlimits) -> None:
        """Start a program that gets `fds`. Takes them over: they are closed here once they are sent. Raises OSError."""
        try:
            self.start()
        except OSError:
            _close(fds)
            raise
        self._num_alive += 1
        self._send(Record(Verb.LAUNCH, pid, rlimits=rlimits), fds)

    def kill(self, pid: Pid) -> None:
        """SIGKILL to the program and its group. Nothing happens when it has ended."""
        self._ask(Verb.KILL, pid)

    def hold(self, pid: Pid) -> None:
        """SIGSTOP: its code stands still."""
        self._ask(Verb.STOP, pid)

    def go_on(self, pid: Pid) -> None:
        """SIGCONT."""
        self._ask(Verb.CONT, pid)

    def close(self) -> None:
        """End the server and all programs; waits for it. Idempotent."""
        process, self._process = self._process, None
        self._drop_control()
        if process is None:
            return
        if not self.level:
            process.kill()  # nothing to lose, and it is busy warming up
        self.level = ""
        self._num_alive = 0
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ask(self, verb: Verb, pid: Pid) -> None:
        if self._control is not None:
            self._send(Record(verb, pid), ())

    def _send(self, record: Record, fds: Sequence[int]) -> None:
        self._unsent.append((record, fds))
        if len(self._unsent) == 1:
            self._flush()

    def _flush(self) -> None:
        control, unsent = self._control, self._unsent
        assert control is not None
        while unsent:
            record, fds = unsent[0]
            try:
                if fds:
                    socket.send_fds(control, [record.pack()], list(fds))
                else:
                    control.send(record.pack())
            except OSError as e:
                if e.errno in _FULL:
                    break
                return  # it is gone: `_ready` hears of it next
            _close(fds)
            unsent.popleft()
        self._poll.change(control.fileno(), READABLE | WRITABLE if unsent else READABLE)

    def _ready(self, mask: int) -> None:
        control = self._control
        if control is None:
            return
        if mask & WRITABLE:
            self._flush()
        while True:
            try:
                packet = control.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._gone()
                return
            if packet[0] == Verb.USED:
                for used in unpack_used(packet):
                    self._observer.on_used(used)
            else:
                self._tell(Record.unpack(packet))

    def _tell(self, record: Record) -> None:
        pid = Pid(record.pid)
        match record.verb:
            case Verb.READY:
                self.level = chr(record.value)
            case Verb.STARTED:
                self._observer.on_started(pid, record.value)
            case Verb.EXITED:
                self._num_alive -= 1
                self._observer.on_exited(pid, record.value, record.cpu_s, record.cause)
            case _:
                self._num_alive -= 1
                self._observer.on_failed(pid, OSError(record.value, os.strerror(record.value)))

    def _gone(self) -> None:
        self.close()
        self._observer.on_lost(self._image)

    def _drop_control(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            self._poll.forget(control.fileno())
            control.close()
        for _, fds in self._unsent:
            _close(fds)
        self._unsent.clear()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
