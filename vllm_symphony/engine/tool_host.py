"""The reactor's end of the tool host (engine/tool_host.py).

    ToolJob, CancelTool --frames--> python -m vllm_symphony.tools.host --Done, Failed, Table--> completions, the kernel's table

The host is a process of its own (tools/host.py): secrets, connections and the operator's code stay out of the kernel's. Every job
that was handed over ends with one completion, whatever happens there: if it dies, or takes no messages any more, what was in
flight ends with EPIPE and another one is started, after a while that doubles. Nothing here waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import JobId, ToolInfo
from vllm_symphony.engine.beside import start_connected
from vllm_symphony.engine.poll import READABLE, WRITABLE, Alarm, Poll
from vllm_symphony.errors import BrokenPipe, InvalidArgument, SymphonyError, WouldBlock
from vllm_symphony.kernel.effect import CancelTool, Completion, JobFailed, ToolDone, ToolJob
from vllm_symphony.tools import wire

if TYPE_CHECKING:
    from vllm_symphony.tools.config import Config

START_S = 60.0  # to be ready: plugin files are imported, MCP servers asked what they have
PULSE_S, SILENCE_S = 5.0, 20.0  # while jobs are in flight it is asked whether it lives
CLOSE_S = 7.0
FIRST_REST_S, MAX_REST_S = 0.25, 30.0
MAX_UNSENT_BYTES = 64 << 20
_READ = 1 << 18

log = logging.getLogger(__name__)


class ToolHost:
    """Owns the process and the socket to it. Belongs to the reactor's thread, but for `wait_ready`."""

    def __init__(
        self,
        poll: Poll,
        deliver: Callable[[Sequence[Completion]], None],
        config: Config,
    ) -> None:
        self._poll = poll
        self._deliver = deliver
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._inbox = wire.Inbox(in_host=False)
        self._unsent = bytearray()
        self._in_flight: set[int] = set()
        self._tables: dict[str, tuple[ToolInfo, ...]] = {}
        self._alarm: Alarm | None = None
        self._heard_ns = self._started_ns = 0
        self._is_ready = False
        self._num_deaths = 0
        self._broken = ""
        self._settled = threading.Event()

    # ---- for any thread

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Until the host has told its tools. Raises InvalidArgument with what the operator must mend."""
        if not self._settled.wait(timeout_s):
            raise InvalidArgument(f"the tool host was not ready in {timeout_s:g} s", file=str(self._config.path))
        if self._broken:
            raise InvalidArgument(self._broken, file=str(self._config.path))

    # ---- for the reactor

    def start(self) -> None:
        """Start the process; does not wait. Does nothing if it runs. Raises OSError."""
        if self._socket is not None:
            return
        words, variables = [str(self._config.path)], {**self._config.environment, **self._config.values}
        self._process, ours = start_connected("vllm_symphony.tools.host", words, socket.SOCK_STREAM, variables)
        self._socket, self._inbox = ours, wire.Inbox(in_host=False)
        self._started_ns = self._heard_ns = time.monotonic_ns()
        self._poll.watch(ours.fileno(), self._on_ready)
        self._set_alarm(self._started_ns + int(START_S * 1e9), self._late)

    def table(self, principal: str) -> Sequence[ToolInfo]:
        """The tools that there are for a principal, as last told."""
        own = self._tables.get(principal)
        return own if own is not None else self._tables.get("", ())

    def submit(self, job: ToolJob) -> None:
        """Hand it over; it completes later in any case."""
        if self._socket is None or len(self._unsent) > MAX_UNSENT_BYTES:
            gone = BrokenPipe("the tool host has died and is not there again yet", retry_after_s=MAX_REST_S)
            full = WouldBlock(f"{len(self._unsent)} bytes wait for the tool host", limit=MAX_UNSENT_BYTES)
            self._deliver([JobFailed(job.job, gone if self._socket is None else full)])
            return
        self._in_flight.add(job.job)
        if len(self._in_flight) == 1 and self._is_ready:
            self._heard_ns = time.monotonic_ns()
            self._set_alarm(self._heard_ns + int(PULSE_S * 1e9), self._pulse)
        self._send(wire.Start(job.job, job.principal, job.name, job.args, job.timeout_s))

    def cancel(self, effect: CancelTool) -> None:
        """Harmless when it has ended."""
        if effect.job in self._in_flight:
            self._send(wire.Cancel(effect.job))

    def num_in_flight(self) -> int:
        return len(self._in_flight)

    def os_pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the process and all that it started; waits for it. Idempotent."""
        process, self._process = self._process, None
        self._drop_socket()
        self._set_alarm(0, None)
        if process is not None:
            _end(process)
        self._fail_all(BrokenPipe("the server is shutting down"))

    # ---- the socket

    def _send(self, message: wire.ToHost) -> None:
        self._unsent += wire.pack(message)
        self._flush()

    def _flush(self) -> None:
        sock = self._socket
        if sock is None:
            return
        try:
            while self._unsent:
                del self._unsent[: sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            return  # it is gone: `_on_ready` hears of it next
        self._poll.change(sock.fileno(), READABLE | WRITABLE if self._unsent else READABLE)

    def _on_ready(self, mask: int) -> None:
        sock = self._socket
        if sock is None:
            return
        if mask & WRITABLE:
            self._flush()
        try:
            data = sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            messages = self._inbox.feed(data)
        except InvalidArgument as e:
            self._gone(f"said what is no message: {e.message}")
            return
        self._heard_ns = time.monotonic_ns()
        done = [completion for message in messages if (completion := self._take(message)) is not None]
        if done:
            self._deliver(done)
        if not data:
            self._gone("")

    def _take(self, message: wire.ToHost | wire.FromHost) -> Completion | None:
        match message:
            case wire.Done(job, result) if job in self._in_flight:
                self._in_flight.discard(job)
                return ToolDone(JobId(job), result)
            case wire.Failed(job) if job in self._in_flight:
                self._in_flight.discard(job)
                return JobFailed(JobId(job), message.error())
            case wire.Table(principal, tools):
                self._tables[principal] = tools
            case wire.Ready():
                self._is_ready = True
                self._settled.set()
                self._set_alarm(0, None)
                if self._in_flight:
                    self._pulse()
            case wire.Broken(text):
                log.error("the tool host cannot start: %s", text)
                self._broken = text
                self._settled.set()
        return None

    # ---- its life

    def _late(self) -> None:
        self._gone(f"was not ready in {START_S:g} s")

    def _pulse(self) -> None:
        """Jobs are in flight: is it alive?"""
        if not self._in_flight:
            return
        now_ns = time.monotonic_ns()
        if now_ns - self._heard_ns > SILENCE_S * 1e9:
            self._gone(f"did not answer for {SILENCE_S:g} s")
            return
        self._send(wire.Ping(now_ns))
        self._set_alarm(now_ns + int(PULSE_S * 1e9), self._pulse)

    def _gone(self, why: str) -> None:
        """It died, or must; what it had to do fails, and another one comes."""
        process, self._process = self._process, None
        self._is_ready = False
        self._drop_socket()
        if process is not None:
            process.kill()
            code = process.wait()
            why = why or (f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}")
        if not self._broken:
            log.warning("the tool host %s; %d calls were in flight", why, len(self._in_flight))
        lived_s = (time.monotonic_ns() - self._started_ns) / 1e9
        self._num_deaths = 1 if lived_s > MAX_REST_S else self._num_deaths + 1
        rest_s = min(FIRST_REST_S * 2 ** (self._num_deaths - 1), MAX_REST_S)
        self._set_alarm(time.monotonic_ns() + int(rest_s * 1e9), self._again)
        self._fail_all(BrokenPipe(f"the tool host {why}", retry_after_s=rest_s))

    def _again(self) -> None:
        self._set_alarm(0, None)
        if self._broken and not self._tables:
            return  # it never ran, and the operator was told
        self._broken = ""
        try:
            self.start()
        except OSError as e:
            self._gone(f"cannot be started: {e.strerror}")

    def _fail_all(self, error: SymphonyError) -> None:
        jobs, self._in_flight = sorted(self._in_flight), set()
        if jobs:
            self._deliver([JobFailed(JobId(job), error) for job in jobs])

    def _drop_socket(self) -> None:
        sock, self._socket = self._socket, None
        self._unsent.clear()
        if sock is not None:
            self._poll.forget(sock.fileno())
            sock.close()

    def _set_alarm(self, t_ns: int, action: Callable[[], None] | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._poll.alarm(t_ns, action) if action is not None else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its socket is closed: it ends what it started, and itself."""
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
