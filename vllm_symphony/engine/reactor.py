r"""The kernel's host: one thread that brings events in and carries effects out (engine/reactor.py).

    clients, edge --unix socket--\                          /--> Device.submit (device effects and text jobs, in order, once a turn)
    programs ------socketpairs----> decode -> Kernel -> effects --> connections (replies: one send each a turn)
    fork server, pipes, timers --/      ^                  |\--> fork server (launch, kill)
                                        |                   \--> Store.submit (records, in order, once a turn)
    engine and store threads --completions--> mailbox + eventfd (rung at most once per burst)

The kernel is touched by this thread only, so it needs no locks. There is no asyncio here: this thread shares the interpreter lock
with the engine's step, and one epoll with plain callbacks is the least Python per token. Nothing blocks but the epoll itself.
Peers are in engine/peers.py, program processes in engine/programs.py; here are the loop, the mailbox, the effects and the end.
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
from typing import TYPE_CHECKING, Any, get_args

from vllm_symphony.abi.types import Credentials, Pid, Signal
from vllm_symphony.engine.connection import Connection
from vllm_symphony.engine.meter import host_samples
from vllm_symphony.engine.peers import Peers
from vllm_symphony.engine.poll import Poll
from vllm_symphony.engine.programs import KILLED, Programs
from vllm_symphony.engine.tool_host import ToolHost
from vllm_symphony.errors import DeviceLost, NotSupported
from vllm_symphony.kernel.effect import (
    CancelTool,
    Completion,
    Device,
    DeviceEffect,
    FeedInput,
    Hangup,
    JobFailed,
    Launch,
    Part,
    Reply,
    ReplyError,
    Signalled,
    Store,
    StoreEffect,
    StoreWrite,
    TextJob,
    ToolEffect,
    ToolJob,
)  # fmt: skip

if TYPE_CHECKING:
    from vllm_symphony.kernel.kernel import Kernel
    from vllm_symphony.tools.config import Config

OUTPUT_BYTES_PER_S = 1 << 20  # of one program's stdout and stderr together
STOP_GRACE_NS = 2_000_000_000  # for what is in flight when we stop
SAVE_GRACE_NS = 10_000_000_000  # for pages on their way to disk then
_SHUTTING_DOWN = "the server is shutting down"

log = logging.getLogger(__name__)


class Reactor:
    """Owns the kernel, and the device from `start` to `stop`. Methods of the first section are for any thread."""

    def __init__(
        self,
        kernel: Kernel,
        device: Device,
        *,
        socket_path: str | None,
        principal: str,
        store: Store | None = None,
        output_bytes_per_s: int = OUTPUT_BYTES_PER_S,
        confined: bool = True,
        tools: Config | None = None,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        """`principal` is whom clients act for (one local user for now); `store` is loaded already, and ours like
        the device. `tools`: the operator's file. `on_death` hears, on this or the device's thread, when the reactor or the device
        died of an error; it must not wait for `stop`."""
        self._kernel = kernel
        self._device = device
        self._store = store
        self._socket_path = socket_path
        self._on_death = on_death
        self.failure: BaseException | None = None

        self._poll = Poll()
        self._programs = Programs(self._poll, self, output_bytes_per_s, confined=confined)
        self._peers = Peers(kernel, self._poll, self._programs, Credentials(principal, scopes=("admin", "run")), self._carry_out)
        self._for_device: list[DeviceEffect | TextJob] = []
        self._for_store: list[StoreEffect] = []
        kernel.job_state, kernel.unread_bytes = device.job_state, self._peers.unread_bytes
        kernel.residency, kernel.capacity, kernel.queue_view = device.residency, device.capacity, device.queue_view
        kernel.input_bytes = self._programs.input_bytes
        kernel.host_samples = lambda: host_samples(device, store, self._programs)
        self.tools = ToolHost(self._poll, self._on_completions, tools) if tools is not None else None
        if tools is not None and self.tools is not None:
            kernel.tool_table, kernel.granted_tools = self.tools.table, tools.granted
        self._carrying = False
        self._carry: dict[type, Callable[[Any], None]] = {
            Reply: self._peers.reply, ReplyError: self._peers.reply_error, Part: self._peers.part,
            Launch: self._programs.launch, Signalled: self._signal, FeedInput: self._programs.feed, Hangup: self._peers.hangup,
            **dict.fromkeys(get_args(StoreEffect), self._for_store.append if store is not None else self._refuse_store),
            **dict.fromkeys(get_args(ToolEffect), self._refuse_tool),
        }  # fmt: skip

        if self.tools is not None:
            self._carry[ToolJob], self._carry[CancelTool] = self.tools.submit, self.tools.cancel

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

    # ---- for any thread

    def start(self) -> None:
        """Listen, warm the fork server up, start the device. Raises what `Listener` and `Device.start` raise."""
        with self._lifecycle:
            assert self._state == "new", f"the reactor is {self._state}"
            self._state = "running"
            try:
                if self._socket_path is not None:
                    self._peers.listen(self._socket_path)
                self._programs.start()
                if self.tools is not None:
                    self.tools.start()
                self._device.start(self._on_completions, self._on_device_death)
                if self._store is not None:
                    self._store.start(self._on_completions)
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

    def is_alive(self) -> bool:
        return self._thread.is_alive() and self.failure is None

    def run_in_reactor(self, fn: Callable[[Kernel], Any], timeout_s: float = 30.0) -> Any:
        """Call `fn(kernel)` on the reactor's thread; give what it gives. For tests and debugging.

        Raises CancelledError (of concurrent.futures) when the reactor has ended, TimeoutError.
        """
        if threading.current_thread() is self._thread:
            return fn(self._kernel)
        return self._post(fn).result(timeout_s)

    def reweighted(self, fingerprint: str) -> None:
        """The device's model has other weights, and no page of before: have the kernel and the store know it, then return."""

        def know(kernel: Kernel) -> None:
            kernel.reweighted(fingerprint)
            if self._store is not None:
                self._store.reweighted(fingerprint)

        self.run_in_reactor(know)

    def check_idle(self) -> None:
        """No program, connection, timer or unsent effect is held. Raises AssertionError. For tests."""
        self.run_in_reactor(lambda _: self._check_idle())

    def _post(self, fn: Callable[[Kernel], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._requests.append((fn, future))
        self._ring()
        if self._bell < 0:  # closed, maybe before the line above
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
            with contextlib.suppress(OSError, ValueError):  # already closed
                os.eventfd_write(self._bell, 1)

    # ---- the loop

    def _main(self) -> None:
        try:
            self._carry_out()  # what the kernel restored, and was told at the start
            self._hand_over()
            while not self._may_end():
                self._turn()
        except BaseException as e:  # the thread's boundary: tell whoever owns us
            self.failure = e
            log.exception("the reactor died")
        finally:
            self._close()
        if self.failure is not None and self._on_death is not None:
            self._on_death(self.failure)

    def _turn(self) -> None:
        peers, kernel = self._peers, self._kernel
        self._poll.turn(0 if peers.are_unfinished else self._next_wake_ns())
        peers.work()
        deadline_ns = kernel.next_deadline_ns()
        if deadline_ns is not None:
            now_ns = time.monotonic_ns()
            if deadline_ns <= now_ns:
                kernel.tick(now_ns)
                self._carry_out()
        self._hand_over()
        peers.flush()

    def _hand_over(self) -> None:
        """What this turn has for the device and the store."""
        if self._for_device:
            batch, self._for_device = self._for_device, []
            self._device.submit(batch)
        if self._for_store and self._store is not None:
            self._store.submit(self._for_store[:])
            self._for_store.clear()  # its `append` is in the table

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

    def _refuse_store(self, effect: StoreEffect) -> None:
        if not isinstance(effect, StoreWrite):
            self._on_completions([JobFailed(effect.job, NotSupported("this host has no store"))])

    def _refuse_tool(self, effect: ToolEffect) -> None:
        if isinstance(effect, ToolJob):
            self._on_completions([JobFailed(effect.job, NotSupported("this host has no tools"))])

    def _signal(self, effect: Signalled) -> None:
        if effect.signal == Signal.TERM:
            self._peers.signal(effect.pid, effect.signal)
        else:
            self._programs.signal(effect.pid, effect.signal)

    # ---- programs (engine/programs.py Host)

    def connect_program(self, pid: Pid, sock: socket.socket) -> Connection:
        return self._peers.connect_program(pid, sock)

    def program_started(self, pid: Pid, os_pid: int) -> None:
        self._kernel.started(pid, os_pid, time.monotonic_ns())
        self._carry_out()

    def program_printed(self, pid: Pid, kind: str, text: str) -> None:
        self._kernel.output(pid, kind, text, time.monotonic_ns())
        self._carry_out()

    def program_used(self, pid: Pid, cpu_s: float, memory_bytes: int) -> None:
        self._kernel.used(pid, cpu_s, memory_bytes, time.monotonic_ns())
        self._carry_out()

    def program_exited(self, pid: Pid, code: int, cpu_s: float, error: str | None, reason: str) -> None:
        self._peers.forget_program(pid)
        self._kernel.exited(pid, code, cpu_s, time.monotonic_ns(), error=error, reason=reason)
        self._carry_out()

    # ---- the end

    def _begin_to_stop(self) -> None:
        """No new peers and programs; end all there are. The loop goes on until they have ended, or the grace is over."""
        if self._stop_at_ns is None:
            now_ns = time.monotonic_ns()
            self._stop_at_ns = now_ns + STOP_GRACE_NS
            self._carry[Launch] = self._refuse_launch
            self._peers.dismiss(DeviceLost(_SHUTTING_DOWN))
            self._programs.kill_all()
            if self._store is not None and self._kernel.save(now_ns):
                self._stop_at_ns = now_ns + SAVE_GRACE_NS
            self._carry_out()

    def _refuse_launch(self, effect: Launch) -> None:
        self._kernel.exited(effect.pid, KILLED, 0.0, time.monotonic_ns(), error=_SHUTTING_DOWN)

    def _may_end(self) -> bool:
        if self._stop_at_ns is None:
            return False
        if time.monotonic_ns() >= self._stop_at_ns:
            return True
        unsent = self._for_device or self._for_store
        return not (self._peers.num_connected() or self._programs.num_running() or unsent) and self._kernel.idle()

    def _close(self) -> None:
        """Leave nothing, whatever happened before."""
        owned = (self._peers.close, self._programs.close, self._close_tools, self._close_store, self._device.stop, self._poll.close)
        for close in owned:
            try:
                close()
            except Exception:  # the others must be closed too
                log.exception("while closing the reactor")
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)
        while self._requests:
            self._requests.popleft()[1].cancel()

    def _close_tools(self) -> None:
        if self.tools is not None:
            self.tools.close()

    def _close_store(self) -> None:
        """All that the kernel has told so far is written, synced."""
        if self._store is not None:
            self._kernel.keep.close()
            self._carry_out()
            self._hand_over()
            self._store.stop()

    def _check_idle(self) -> None:
        self._peers.check_idle()
        assert not self._programs.num_running(), f"{self._programs.num_running()} programs"
        assert not self._for_device and not self._for_store and not self._mailbox
        permanent = 1 + self._programs.num_servers() + (self._socket_path is not None)  # bell, fork servers, listener
        permanent += self.tools is not None
        assert self._poll.num_watched() <= permanent, f"{self._poll.num_watched()} files watched, {permanent} are ours"
        assert self._poll.num_alarms() == 0, f"{self._poll.num_alarms()} alarms"
