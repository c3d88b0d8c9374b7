"""The programs that run at this server, as the reactor holds them (engine/programs.py).

    Launch --socketpair, two pipes--> fork server --> STARTED --> ... --> EXITED
                                                                    |
       program frame, calls, output <-- our three ends <------------+-- until all three have ended, or DRAIN_NS later
                                                                    v
                                                              Kernel.exited, once

A program ends for the kernel only when what it said and printed before its end has been heard. One that closes its socket but lives
on can call nothing any more; it is killed after `ORPHAN_NS`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vllm_symphony.abi.codec import Program, program_frame
from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.connection import Connection
from vllm_symphony.engine.fork_server import ForkServer
from vllm_symphony.engine.output import Allowance, OutputPipe
from vllm_symphony.engine.poll import Alarm, Poll
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import Launch

DRAIN_NS = 200_000_000
ORPHAN_NS = 1_000_000_000
KILLED = 137
BAD_PROGRAM = 2


class Host(Protocol):
    """What programs need of the reactor."""

    def connect_program(self, pid: Pid, sock: socket.socket) -> Connection: ...
    def program_started(self, pid: Pid, os_pid: int) -> None: ...
    def program_printed(self, pid: Pid, kind: str, text: str) -> None: ...
    def program_exited(self, pid: Pid, code: int, cpu_s: float, error: str | None) -> None:
        """Everything of it is closed."""


@dataclass(slots=True)
class RunningProgram:
    """Our ends of one program."""

    pid: Pid
    connection: Connection
    pipes: list[OutputPipe] = field(default_factory=list)
    exit: tuple[int, float] | None = None  # code, CPU seconds
    alarm: Alarm | None = None  # of the drain, or of the kill of one that closed its socket


class Programs:
    """Launches, feeds and buries them. Belongs to the reactor's thread; observes the fork server."""

    def __init__(self, poll: Poll, host: Host, output_bytes_per_s: int) -> None:
        self._poll = poll
        self._host = host
        self._output_bytes_per_s = output_bytes_per_s
        self._fork_server = ForkServer(poll, self)
        self._running: dict[Pid, RunningProgram] = {}

    def start(self) -> None:
        """Warm the fork server up."""
        self._fork_server.start()

    def launch(self, effect: Launch) -> None:
        """Start a program. If the system has no room for it, it ends at once, with the reason."""
        pid = effect.pid
        try:
            frame = program_frame(Program(effect.source, effect.entry, effect.args, effect.name, effect.seed))
        except SymphonyError as e:  # a source of 16 MiB
            self._host.program_exited(pid, BAD_PROGRAM, 0.0, e.message)
            return
        ours, theirs = [], []
        try:
            left, right = socket.socketpair()
            ours.append(left.detach())
            theirs.append(right.detach())
            for _ in range(2):
                reading, writing = os.pipe()
                ours.append(reading)
                theirs.append(writing)
            self._fork_server.launch(pid, theirs)
        except OSError as e:
            for fd in ours:
                os.close(fd)
            if len(theirs) < 3:
                for fd in theirs:
                    os.close(fd)
            self._host.program_exited(pid, KILLED, 0.0, f"cannot start a process: {e}")
            return
        program = RunningProgram(pid, self._host.connect_program(pid, socket.socket(fileno=ours[0])))
        self._running[pid] = program
        allowance = Allowance(self._output_bytes_per_s, time.monotonic_ns())
        for fd, kind in zip(ours[1:], ("stdout", "stderr"), strict=True):
            program.pipes.append(OutputPipe(fd, self._poll, allowance, self._on_text(pid, kind), self._on_end(program)))
        program.connection.queue(frame)

    def kill(self, pid: Pid) -> None:
        self._fork_server.kill(pid)

    def kill_all(self) -> None:
        for pid in self._running:
            self._fork_server.kill(pid)

    def drain(self, pid: Pid) -> None:
        """Hear what the program printed so far, so that it comes before what it says next."""
        program = self._running.get(pid)
        if program is not None:
            now_ns = time.monotonic_ns()
            for pipe in program.pipes:
                pipe.drain(now_ns)

    def socket_closed(self, pid: Pid) -> None:
        """The program closed its socket, or broke the protocol: that connection is closed."""
        program = self._running.get(pid)
        if program is None:
            return
        if program.exit is None and program.alarm is None:
            program.alarm = self._poll.alarm(time.monotonic_ns() + ORPHAN_NS, lambda: self.kill(pid))
        self._bury_if_silent(program)

    def num_running(self) -> int:
        return len(self._running)

    def close(self) -> None:
        """End the fork server and whatever still runs. Idempotent."""
        self._fork_server.close()
        self.on_lost()

    # ---- from the fork server

    def on_started(self, pid: Pid, os_pid: int) -> None:
        self._host.program_started(pid, os_pid)

    def on_exited(self, pid: Pid, code: int, cpu_s: float) -> None:
        program = self._running.get(pid)
        if program is None:
            return
        program.exit = (code, cpu_s)
        if program.alarm is not None:
            program.alarm.cancel()
        program.alarm = self._poll.alarm(time.monotonic_ns() + DRAIN_NS, lambda: self._bury(program, None))
        self._bury_if_silent(program)

    def on_failed(self, pid: Pid, error: OSError) -> None:
        program = self._running.get(pid)
        if program is not None:
            self._bury(program, f"cannot start a process: {error}")

    def on_lost(self) -> None:
        for program in list(self._running.values()):
            self._bury(program, None)

    # ---- the end

    def _bury_if_silent(self, program: RunningProgram) -> None:
        if program.exit is not None and program.connection.closed and all(p.closed for p in program.pipes):
            self._bury(program, None)

    def _bury(self, program: RunningProgram, error: str | None) -> None:
        if self._running.pop(program.pid, None) is None:
            return
        if program.alarm is not None:
            program.alarm.cancel()
        for pipe in program.pipes:
            pipe.finish()
        program.connection.close()
        code, cpu_s = program.exit or (KILLED, 0.0)
        self._host.program_exited(program.pid, code, cpu_s, error)

    def _on_text(self, pid: Pid, kind: str) -> Callable[[str], None]:
        return lambda text: self._host.program_printed(pid, kind, text)

    def _on_end(self, program: RunningProgram) -> Callable[[], None]:
        return lambda: self._bury_if_silent(program)
