r"""The kernel's host: one thread that brings events in and carries effects out (engine/reactor.py).

    clients, edge --unix socket--\                          /--> Device.submit (device effects and text jobs, in order, once a turn)
    programs ------socketpairs----> decode -> Kernel -> effects --> connections (replies: one send each a turn)
    fork server, pipes, timers --/      ^                   \--> fork server (launch, kill)
                                        |
    engine thread --completions--> mailbox + eventfd (rung at most once per burst)

The kernel is touched by this thread only, so it needs no locks. There is no asyncio here: this thread shares the interpreter lock
with the engine's step, and one epoll with plain callbacks is the least Python per token. Nothing blocks but the epoll itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.calls import Hello, HelloResult
from vllm_symphony.abi.codec import Call, error_frame, part_frame, read_args, read_call, reply_frame, signal_frame
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Credentials, Pid, Signal
from vllm_symphony.engine.connection import Connection
from vllm_symphony.engine.listener import Listener
from vllm_symphony.engine.poll import Poll
from vllm_symphony.engine.programs import KILLED, Programs
from vllm_symphony.errors import DeviceLost, InvalidArgument, NotOwner, SymphonyError
from vllm_symphony.kernel.effect import Completion, Device, DeviceEffect, Launch, Part, Reply, ReplyError, Signalled, TextJob

if TYPE_CHECKING:
    from vllm_symphony.kernel.kernel import Kernel

OUTPUT_BYTES_PER_S = 1 << 20  # of one program's stdout and stderr together
BULK_FRAME_BYTES = 1 << 16  # a refused frame above this ends the connection: refusing it again and again would cost too much
STOP_GRACE_NS = 2_000_000_000  # for what is in flight when we stop
_ACCEPT_RETRY_NS = 100_000_000
_PRINTS_FIRST = frozenset(("emit", "exit"))  # calls that must come after what the program printed before them

log = logging.getLogger(__name__)


class Reactor:
    """Owns the kernel, and the device from `start` to `stop`. All public methods are for any thread."""

    def __init__(
        self,
        kernel: Kernel,
        device: Device,
        *,
        socket_path: str | None,
        principal: str,
        output_bytes_per_s: int = OUTPUT_BYTES_PER_S,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        """`principal` is whom clients act for (one local user for now). `on_death` hears once, on this or the device's thread,
        when the reactor or the device died of an error."""
        self._kernel = kernel
        self._device = device
        self._socket_path = socket_path
        self._cred = Credentials(principal, scopes=("admin",))
        self._on_death = on_death

        self._poll = Poll()
        self._listener: Listener | None = None
        self._programs = Programs(self._poll, self, output_bytes_per_s)
        self._connections: dict[Pid, Connection] = {}
        self._strangers: dict[Connection, None] = {}  # that have not said hello
        self._unfinished: deque[Connection] = deque()
        self._dirty: list[Connection] = []
        self._for_device: list[DeviceEffect | TextJob] = []
        self._carry: dict[type, Callable[[Any], None]] = {
            Reply: self._reply, ReplyError: self._reply_error, Part: self._part, Launch: self._programs.launch,
            Signalled: self._signal,
        }  # fmt: skip
        self._carrying = False

        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False
        self._mailbox: deque[Sequence[Completion]] = deque()
        self._requests: deque[tuple[Callable[[Kernel], Any], Future[Any]]] = deque()
        self._device_death: BaseException | None = None
        self._poll.watch(self._bell, self._heard_bell)

        self._thread = threading.Thread(target=self._main, name="symphony-reactor", daemon=True)
        self._lifecycle = threading.Lock()
        self._state = "new"
        self._stop_at_ns: int | None = None
        self.failure: BaseException | None = None

    # ---- for other threads

    def start(self) -> None:
        """Listen, warm the fork server up, start the device. Raises what `Listener` and `Device.start` raise."""
        with self._lifecycle:
            assert self._state == "new", f"the reactor is {self._state}"
            self._state = "running"
            try:
                if self._socket_path is not None:
                    self._listener = Listener(self._socket_path)
                    self._poll.watch(self._listener.socket.fileno(), self._accept)
                self._programs.start()
                self._device.start(self._on_completions, self._on_device_death)
            except BaseException:
                self._state = "stopped"
                self._close()
                raise
            self._thread.start()

    def stop(self) -> None:
        """End programs and connections, stop the device, remove the socket, join the thread (unless this is it). Idempotent."""
        if threading.current_thread() is self._thread:
            self._begin_to_stop()
            return
        with self._lifecycle:
            if self._state == "new":
                self._close()
            elif self._state == "running":
                self._post(lambda _: self._begin_to_stop())
                self._thread.join()
            self._state = "stopped"

    def run_in_reactor(self, fn: Callable[[Kernel], Any], timeout_s: float = 30.0) -> Any:
        """Call `fn(kernel)` on the reactor's thread; give what it gives. For tests and debugging."""
        if threading.current_thread() is self._thread:
            return fn(self._kernel)
        return self._post(fn).result(timeout_s)

    def check_idle(self) -> None:
        """No program, connection, timer or unsent effect is held. Raises AssertionError. For tests."""
        self.run_in_reactor(lambda _: self._check_idle())

    def is_alive(self) -> bool:
        return self._thread.is_alive() and self.failure is None

    def _post(self, fn: Callable[[Kernel], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._requests.append((fn, future))
        self._ring()
        if self._state == "stopped" or (self._state == "running" and self.failure is not None):
            future.cancel()
        return future

    # ---- from the device's thread

    def _on_completions(self, completions: Sequence[Completion]) -> None:
        self._mailbox.append(completions)
        self._ring()

    def _on_device_death(self, error: BaseException) -> None:
        self._device_death = error
        self._ring()
        if self._on_death is not None:
            self._on_death(error)

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):  # already closed
                os.eventfd_write(self._bell, 1)

    # ---- the loop

    def _main(self) -> None:
        try:
            while not self._may_end():
                self._turn()
        except BaseException as e:
            self.failure = e
            log.exception("the reactor died")
            if self._on_death is not None:
                self._on_death(e)
        finally:
            self._close()

    def _turn(self) -> None:
        self._poll.turn(0 if self._unfinished else self._next_wake_ns())
        for _ in range(len(self._unfinished)):
            self._unfinished.popleft().work()
        deadline_ns = self._kernel.next_deadline_ns()
        if deadline_ns is not None and deadline_ns <= time.monotonic_ns():
            self._kernel.tick(time.monotonic_ns())
            self._carry_out()
        if self._for_device:
            batch, self._for_device = self._for_device, []
            self._device.submit(batch)
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for connection in dirty:
                connection.flush()

    def _next_wake_ns(self) -> int | None:
        deadline_ns = self._kernel.next_deadline_ns()
        if self._stop_at_ns is None:
            return deadline_ns
        return self._stop_at_ns if deadline_ns is None else min(deadline_ns, self._stop_at_ns)

    def _heard_bell(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._rung = False  # before looking: what comes from here on rings again
        while self._mailbox:
            self._kernel.complete(self._mailbox.popleft(), time.monotonic_ns())
            self._carry_out()
        death, self._device_death = self._device_death, None
        if death is not None:
            self._kernel.device_lost(f"the engine died: {death}", time.monotonic_ns())
            self._carry_out()
        while self._requests:
            fn, future = self._requests.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(fn(self._kernel))
            except BaseException as e:  # noqa: BLE001  it belongs to the asker
                future.set_exception(e)
            self._carry_out()

    # ---- effects

    def _carry_out(self) -> None:
        """Carry out what the kernel asks for; process effects now, device effects at the end of the turn."""
        effects = self._kernel.effects
        if self._carrying or not effects:
            return  # an effect that led into the kernel again: the loop below goes on with what that left
        self._carrying = True
        while effects:
            batch = effects[:]
            effects.clear()
            for effect in batch:
                carry = self._carry.get(type(effect))
                if carry is not None:
                    carry(effect)
                else:
                    self._for_device.append(effect)  # type: ignore[arg-type]
        self._carrying = False

    def _reply(self, effect: Reply) -> None:
        connection = self._connections.get(effect.pid)
        if connection is not None and effect.call_id:
            try:
                connection.queue(reply_frame(effect.call_id, effect.result))
            except SymphonyError as e:
                connection.queue(error_frame(effect.call_id, e))

    def _reply_error(self, effect: ReplyError) -> None:
        connection = self._connections.get(effect.pid)
        if connection is not None and effect.call_id:
            connection.queue(error_frame(effect.call_id, effect.error))

    def _part(self, effect: Part) -> None:
        connection = self._connections.get(effect.pid)
        if connection is not None and effect.call_id:
            connection.queue(part_frame(effect.call_id, effect.part))

    def _signal(self, effect: Signalled) -> None:
        connection = self._connections.get(effect.pid)
        if effect.signal == Signal.KILL:
            if connection is None or connection.role == "program":
                self._programs.kill(effect.pid)
            else:
                self.lost(connection, None)
        elif connection is not None:
            connection.queue(signal_frame(effect.signal))

    # ---- connections (engine/connection.py Owner)

    def _accept(self, mask: int) -> None:
        listener = self._listener
        assert listener is not None
        try:
            sock = listener.accept()
        except OSError as e:
            log.warning("cannot accept a connection now: %s", e)
            self._poll.forget(listener.socket.fileno())
            self._poll.alarm(time.monotonic_ns() + _ACCEPT_RETRY_NS, self._accept_again)
            return
        if sock is not None:
            self._strangers[Connection(sock, self._poll, self)] = None

    def _accept_again(self) -> None:
        if self._listener is not None and self._stop_at_ns is None:
            self._poll.watch(self._listener.socket.fileno(), self._accept)

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
        now_ns = time.monotonic_ns()
        kernel = self._kernel
        try:
            args = read_args(call)
            if call.cred is not None and connection.role != "edge":
                raise NotOwner(f"role {connection.role} cannot act for others; only the edge may send `cred`")
        except SymphonyError as e:
            kernel.reject(pid, call.id, call.tid, call.op, e, now_ns)
            self._carry_out()
            if len(body) > BULK_FRAME_BYTES:
                connection.flush()
                self.lost(connection, None)
            return
        if call.op in _PRINTS_FIRST:
            self._programs.drain(pid)
        kernel.call(pid, call.id, call.tid, call.op, args, now_ns, call.cred)
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
        self._strangers.pop(connection, None)
        pid = connection.pid
        if pid is None:
            return
        if connection.role == "program":
            if error is not None:
                self._programs.kill(pid)
            self._programs.socket_closed(pid)
            return
        del self._connections[pid]
        self._kernel.disconnected(pid, time.monotonic_ns())
        self._carry_out()

    def _hello(self, connection: Connection, call: Call) -> None:
        try:
            if call.op != "hello":
                raise InvalidArgument(f"the first call is hello, not {call.op}")
            hello: Hello = read_args(call)
            if hello.abi_major != ABI_MAJOR:
                raise InvalidArgument(f"the caller speaks ABI {hello.abi_major}, this server {ABI_MAJOR}.{ABI_MINOR}")
            if connection.pid is None:
                if hello.role not in ("client", "edge"):
                    raise InvalidArgument(f"role is client or edge, not {hello.role}")
                connection.role = hello.role
                connection.pid = self._kernel.connect(self._cred, hello.role, time.monotonic_ns())
                del self._strangers[connection]
                self._connections[connection.pid] = connection
                self._carry_out()
        except SymphonyError as e:
            connection.queue(error_frame(call.id, e))
            connection.flush()
            self.lost(connection, None)
            return
        connection.queue(reply_frame(call.id, HelloResult(ABI_MAJOR, ABI_MINOR, connection.pid)))

    # ---- programs (engine/programs.py Host)

    def connect_program(self, pid: Pid, sock: socket.socket) -> Connection:
        connection = self._connections[pid] = Connection(sock, self._poll, self, pid, "program")
        return connection

    def program_started(self, pid: Pid, os_pid: int) -> None:
        self._kernel.started(pid, os_pid, time.monotonic_ns())
        self._carry_out()

    def program_printed(self, pid: Pid, kind: str, text: str) -> None:
        self._kernel.output(pid, kind, text, time.monotonic_ns())
        self._carry_out()

    def program_exited(self, pid: Pid, code: int, cpu_s: float, error: str | None) -> None:
        self._connections.pop(pid, None)
        self._kernel.exited(pid, code, cpu_s, time.monotonic_ns(), error=error)
        self._carry_out()

    # ---- the end

    def _begin_to_stop(self) -> None:
        """No new peers; end all there are. The loop goes on until they have ended, or the grace is over."""
        if self._stop_at_ns is not None:
            return
        self._stop_at_ns = time.monotonic_ns() + STOP_GRACE_NS
        if self._listener is not None:
            self._poll.forget(self._listener.socket.fileno())
            self._listener.close()
        for connection in [*self._strangers, *self._connections.values()]:
            if connection.role != "program":
                self.lost(connection, DeviceLost("the server is shutting down"))
        self._carry[Launch] = self._refuse_launch
        self._programs.kill_all()

    def _refuse_launch(self, effect: Launch) -> None:
        self._kernel.exited(effect.pid, KILLED, 0.0, time.monotonic_ns(), error="the server is shutting down")

    def _may_end(self) -> bool:
        if self._stop_at_ns is None:
            return False
        if time.monotonic_ns() >= self._stop_at_ns:
            return True
        return not (self._connections or self._programs.num_running() or self._for_device) and self._kernel.idle()

    def _close(self) -> None:
        """Leave nothing, whatever happened before."""
        steps: list[Callable[[], None]] = [
            *(c.close for c in (*self._strangers, *self._connections.values())),
            self._programs.close, self._device.stop, *([self._listener.close] if self._listener is not None else []),
            self._poll.close,
        ]  # fmt: skip
        for step in steps:
            try:
                step()
            except Exception:
                log.exception("while closing the reactor")
        self._strangers.clear()
        self._connections.clear()
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)
        while self._requests:
            self._requests.popleft()[1].cancel()

    def _check_idle(self) -> None:
        assert not self._connections, f"connections: {list(self._connections)}"
        assert not self._strangers, f"{len(self._strangers)} strangers"
        assert not self._programs.num_running(), f"{self._programs.num_running()} programs"
        assert not self._unfinished and not self._for_device and not self._dirty and not self._mailbox
        permanent = 2 + (self._listener is not None)  # bell, fork server
        assert self._poll.num_watched() <= permanent, f"{self._poll.num_watched()} files watched, {permanent} are ours"
        assert self._poll.num_alarms() == 0, f"{self._poll.num_alarms()} alarms"
