"""The programs that run at this server, as the reactor holds them (engine/programs.py).

    Launch --socketpair, pipes--> fork server of its image --> STARTED --> USED ... --> EXITED
                                                                    |
       program frame, calls, output, input <-- our ends <-----------+-- until all have ended, or DRAIN_NS later
                                                                    v
                                                              Kernel.exited, once

A program ends for the kernel only when what it said and printed before its end has been heard. One that closes its socket but lives
on can call nothing any more; it is killed after `ORPHAN_NS`. Of a launch's limits those of one process are kept here and by the
system: memory, CPU time, tasks, files, and how many control calls a second are read.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Protocol

from vllm_symphony.abi.codec import Program, program_frame
from vllm_symphony.abi.launch import Cause, Rlimits, Used
from vllm_symphony.abi.types import PYTHON, TRUSTED, WASM, Pid, ResourceLimits, Signal
from vllm_symphony.engine.connection import Connection
from vllm_symphony.engine.fork_server import ForkServer
from vllm_symphony.engine.input import InputPipe
from vllm_symphony.engine.output import Allowance, OutputPipe
from vllm_symphony.engine.pace import Pace
from vllm_symphony.engine.poll import Alarm, Poll
from vllm_symphony.engine.trusted import Trusted
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import FeedInput, Launch

DRAIN_NS = 200_000_000
ORPHAN_NS = 1_000_000_000
KILLED = 137
BAD_PROGRAM = 2
IMAGES = (PYTHON, WASM)
_UNCONFINABLE = "programs cannot be confined here: symphony doctor says what is missing, symphony serve --unconfined does without"
_REASONS = {Cause.NONE: "", Cause.DENIED: "denied", Cause.MEMORY: "limit", Cause.CPU: "limit"}

log = logging.getLogger(__name__)


class Host(Protocol):
    """What programs need of the reactor."""

    def connect_program(self, pid: Pid, sock: socket.socket) -> Connection: ...
    def program_started(self, pid: Pid, os_pid: int) -> None: ...
    def program_used(self, pid: Pid, cpu_s: float, memory_bytes: int) -> None: ...
    def program_printed(self, pid: Pid, kind: str, text: str) -> None: ...
    def program_exited(self, pid: Pid, code: int, cpu_s: float, error: str | None, reason: str) -> None:
        """Everything of it is closed. `reason`: `limit`, `denied`, or nothing when only the code says it."""


@dataclass(slots=True)
class RunningProgram:
    """Our ends of one program."""

    pid: Pid
    image: str
    rlimits: Rlimits
    connection: Connection
    pipes: list[OutputPipe] = field(default_factory=list)
    input: InputPipe | None = None
    exit: tuple[int, float, Cause] | None = None  # code, CPU seconds, what ended it
    alarm: Alarm | None = None  # of the drain, or of the kill of one that closed its socket


class Programs:
    """Launches, feeds and buries them. Belongs to the reactor's thread; observes the fork servers."""

    def __init__(self, poll: Poll, host: Host, output_bytes_per_s: int, *, confined: bool = True) -> None:
        self._poll = poll
        self._host = host
        self._output_bytes_per_s = output_bytes_per_s
        self._servers: dict[str, ForkServer | Trusted] = {
            TRUSTED: Trusted(poll, self),
            **{image: ForkServer(poll, self, image, confined=confined) for image in IMAGES},
        }
        self._running: dict[Pid, RunningProgram] = {}

    def start(self) -> None:
        """Warm the fork server up that most programs need; others start with their first program."""
        self._servers[IMAGES[0]].start()

    def launch(self, effect: Launch) -> None:
        """Start a program. If the system has no room for it, it ends at once, with the reason."""
        pid, rlimits = effect.pid, rlimits_of(effect.limits)
        try:
            frame = program_frame(
                Program(effect.source, effect.entry, effect.args, effect.name, effect.seed, effect.code, rlimits.memory_bytes)
            )
        except SymphonyError as e:  # a source of 16 MiB
            self._host.program_exited(pid, BAD_PROGRAM, 0.0, e.message, "")
            return
        missing = _missing(effect.runtime)
        if missing is not None:
            self._host.program_exited(pid, BAD_PROGRAM, 0.0, missing, "program")
            return
        try:
            ours, theirs = _files(effect.stdin)
            self._servers[effect.runtime].launch(pid, theirs, rlimits)
        except OSError as e:
            self._host.program_exited(pid, KILLED, 0.0, f"cannot start a process: {e}", "")
            return
        program = self._adopt(effect, rlimits, ours)
        program.connection.queue(frame)

    def feed(self, effect: FeedInput) -> None:
        """Write to its input; what the pipe has no room for waits here."""
        program = self._running.get(effect.pid)
        if program is not None and program.input is not None:
            program.input.write(effect.data, effect.eof)

    def input_bytes(self, pid: Pid) -> int | None:
        """Of its input that wait here; None when it has none, or nobody reads it any more."""
        program = self._running.get(pid)
        if program is None or program.input is None or program.input.closed:
            return None
        return program.input.waiting_bytes

    def signal(self, pid: Pid, signal: str) -> None:
        """KILL, STOP or CONT: to its process."""
        program = self._running.get(pid)
        if program is not None:
            server = self._servers[program.image]
            {Signal.KILL: server.kill, Signal.STOP: server.hold, Signal.CONT: server.go_on}[Signal(signal)](pid)

    def kill(self, pid: Pid) -> None:
        self.signal(pid, Signal.KILL)

    def kill_all(self) -> None:
        for pid in self._running:
            self.kill(pid)

    def level(self) -> str:
        """Of confinement: A, B or C; nothing while the fork server warms up."""
        return self._servers[IMAGES[0]].level

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

    def readiness(self) -> dict[str, bool]:
        """Of each runtime, whether its fork server runs and is warm; trusted programs need none."""
        return {image: bool(server.level) for image, server in self._servers.items() if isinstance(server, ForkServer)}

    def num_servers(self) -> int:
        """Fork servers that run."""
        return sum(server.is_running for server in self._servers.values())

    def close(self) -> None:
        """End the fork servers and whatever still runs. Idempotent."""
        for image, server in self._servers.items():
            server.close()
            self.on_lost(image)

    # ---- from the fork server

    def on_started(self, pid: Pid, os_pid: int) -> None:
        self._host.program_started(pid, os_pid)

    def on_used(self, used: Used) -> None:
        if used.pid in self._running:
            self._host.program_used(Pid(used.pid), used.cpu_s, used.memory_bytes)

    def on_exited(self, pid: Pid, code: int, cpu_s: float, cause: Cause) -> None:
        program = self._running.get(pid)
        if program is None:
            return
        program.exit = (code, cpu_s, cause)
        if program.alarm is not None:
            program.alarm.cancel()
        program.alarm = self._poll.alarm(time.monotonic_ns() + DRAIN_NS, lambda: self._bury(program, None))
        self._bury_if_silent(program)

    def on_failed(self, pid: Pid, error: OSError) -> None:
        program = self._running.get(pid)
        if program is not None:
            why = _UNCONFINABLE if error.errno == errno.EPERM else f"cannot start a process: {error}"
            self._bury(program, why)

    def on_lost(self, image: str) -> None:
        for program in list(self._running.values()):
            if program.image == image:
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
        if program.input is not None:
            program.input.close()
        program.connection.close()
        code, cpu_s, cause = program.exit or (KILLED, 0.0, Cause.NONE)
        log.info("program %d ended with exit code %d, %.3f s of CPU", program.pid, code, cpu_s, extra={"pid": program.pid})
        self._host.program_exited(program.pid, code, cpu_s, error or _says(cause, program.rlimits), _REASONS[cause])

    def _adopt(self, effect: Launch, rlimits: Rlimits, ours: Sequence[int]) -> RunningProgram:
        """Our ends of a program that is being started."""
        pid, now_ns = effect.pid, time.monotonic_ns()
        link, stdout, stderr, *stdin = ours
        connection = self._host.connect_program(pid, socket.socket(fileno=link))
        program = self._running[pid] = RunningProgram(pid, effect.runtime, rlimits, connection)
        if effect.limits.calls_per_s is not None:
            connection.pace = Pace(effect.limits.calls_per_s, now_ns)
        allowance = Allowance(self._output_bytes_per_s, now_ns)
        for fd, kind in ((stdout, "stdout"), (stderr, "stderr")):
            program.pipes.append(OutputPipe(fd, self._poll, allowance, self._on_text(pid, kind), self._on_end(program)))
        if stdin:
            program.input = InputPipe(stdin[0], self._poll)
        return program

    def _on_text(self, pid: Pid, kind: str) -> Callable[[str], None]:
        return lambda text: self._host.program_printed(pid, kind, text)

    def _on_end(self, program: RunningProgram) -> Callable[[], None]:
        return lambda: self._bury_if_silent(program)


def _missing(runtime: str) -> str | None:
    """What this server lacks to run such programs."""
    if runtime == WASM and find_spec("wasmtime") is None:
        return "this server runs no WebAssembly: the package wasmtime is not installed"
    return None


def rlimits_of(limits: ResourceLimits) -> Rlimits:
    """What the system keeps of a program's limits; the defaults for those that were left open."""
    default = Rlimits()
    return Rlimits(
        limits.memory_bytes if limits.memory_bytes is not None else default.memory_bytes,
        limits.cpu_s if limits.cpu_s is not None else default.cpu_s,
        limits.tasks if limits.tasks is not None else default.tasks,
        limits.fds if limits.fds is not None else default.fds,
    )


def _says(cause: Cause, rlimits: Rlimits) -> str | None:
    match cause:
        case Cause.DENIED:
            return "it made a system call that programs may not make"
        case Cause.MEMORY:
            return f"memory_bytes: more than {rlimits.memory_bytes:,}"
        case Cause.CPU:
            return f"cpu_s: {rlimits.cpu_s:g} of {rlimits.cpu_s:g} used"
    return None


def _files(has_stdin: bool) -> tuple[list[int], list[int]]:
    """A program's socket, stdout, stderr and maybe stdin: our ends and its own. Raises OSError."""
    ours, theirs = [], []
    try:
        left, right = socket.socketpair()
        ours.append(left.detach())
        theirs.append(right.detach())
        for is_input in (False, False, True)[: 3 if has_stdin else 2]:
            reading, writing = os.pipe()
            ours.append(writing if is_input else reading)
            theirs.append(reading if is_input else writing)
    except OSError:
        for fd in (*ours, *theirs):
            os.close(fd)
        raise
    return ours, theirs
