"""Programs that the operator trusts, in the kernel's own process (engine/trusted.py).

    reactor's thread                     the thread `symphony-trusted`: one asyncio loop
      launch(pid, fds) --call_soon-->      task: first frame -> load -> main -> exit frame        each in a context of its own
      observer  <--mailbox + bell--        STARTED, EXITED

To the reactor it is one more fork server (engine/fork_server.py): the same fds, the same frames, the same library, the same end.
But nothing is forked: a start costs what a task costs, and nothing is confined. Such a program shares the interpreter lock with
the engine's step, the memory, `sys.modules`, `random` and the working directory. One that computes without awaiting stops all
others of its kind, slows the engine down, and cannot be ended: KILL cancels it and forgets it. So it is off by default
(`symphony serve --trusted`), and only for programs that could just as well be part of the server.
It has no standard input; CPU time and memory are not told apart, so limits of those do not hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from typing import Any

from vllm_symphony.abi.calls import Exit
from vllm_symphony.abi.codec import Program, read_answer
from vllm_symphony.abi.confinement import UNCONFINED
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.launch import Cause, Rlimits
from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.fork_server import Observer
from vllm_symphony.engine.poll import Poll
from vllm_symphony.engine.routed import PipeStream, route, routing
from vllm_symphony.runtime.program import run_in_loop
from vllm_symphony.runtime.transport import SocketTransport

KILLED, LOST = 137, 70
LEAVE_S = 1.0  # for what a program's tasks do when they are cancelled at its end
_STOP_S = 2.0  # for the thread to end; one that spins is left behind

log = logging.getLogger(__name__)
_tasks: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("symphony_tasks", default=None)


class Trusted:
    """Runs programs on a thread of their own, from the first launch to `close`. Methods are for the reactor's thread."""

    level = UNCONFINED

    def __init__(self, poll: Poll, observer: Observer) -> None:
        self._poll = poll
        self._observer = observer
        self._alive: set[Pid] = set()  # launched, and their end not told
        self._said: deque[tuple[Pid, int | None]] = deque()  # started (None), or ended with this code
        self._bell = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._mains: dict[Pid, asyncio.Task[Exit]] = {}  # of the loop's thread

    @property
    def is_running(self) -> bool:
        return self._loop is not None

    def start(self) -> None:
        """Start the thread. Does nothing if it runs."""
        if self._loop is not None:
            return
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.watch(self._bell, self._heard_bell)
        self._loop = asyncio.new_event_loop()
        self._loop.set_task_factory(_remembering)  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._main, args=(self._loop,), name="symphony-trusted", daemon=True)
        self._thread.start()

    def launch(self, pid: Pid, fds: Sequence[int], rlimits: Rlimits) -> None:
        """Start a program that gets `fds`, which are its own from now on. `rlimits` are those of processes: it has none."""
        self.start()
        assert self._loop is not None
        self._alive.add(pid)
        self._loop.call_soon_threadsafe(self._begin, self._loop, pid, list(fds))

    def kill(self, pid: Pid) -> None:
        """Cancel it, and hear no more of it. Nothing happens when it has ended."""
        if self._loop is not None and pid in self._alive:
            self._loop.call_soon_threadsafe(self._cancel, pid)
            self._say(pid, KILLED)

    def hold(self, pid: Pid) -> None:
        """Nothing to do: the kernel holds its calls, and between them it cannot be held."""

    def go_on(self, pid: Pid) -> None:
        """As `hold`."""

    def close(self) -> None:
        """End all programs and the thread; of one that spins it is left behind. Idempotent."""
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        self._alive.clear()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOP_S)
        if thread.is_alive():
            log.warning("a trusted program does not end: it computes without awaiting")
        self._poll.forget(self._bell)
        bell, self._bell = self._bell, -1
        os.close(bell)

    def _heard_bell(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        while self._said:
            pid, code = self._said.popleft()
            if pid not in self._alive:
                continue  # killed before
            if code is None:
                self._observer.on_started(pid, os.getpid())
            else:
                self._alive.remove(pid)
                self._observer.on_exited(pid, code, 0.0, Cause.NONE)

    def _say(self, pid: Pid, code: int | None) -> None:
        """For the reactor; from any thread."""
        self._said.append((pid, code))
        with contextlib.suppress(OSError):  # closed: nobody listens
            os.eventfd_write(self._bell, 1)

    # ---- the loop's thread

    def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        with routing():
            while True:
                try:
                    loop.run_forever()
                except (SystemExit, KeyboardInterrupt):  # of a task that a program made: its own affair
                    continue
                break
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    loop.run_until_complete(asyncio.wait(left, timeout=LEAVE_S))
        loop.close()

    def _begin(self, loop: asyncio.AbstractEventLoop, pid: Pid, fds: list[int]) -> None:
        loop.create_task(self._live(loop, pid, fds), name=f"program-{pid}")

    def _cancel(self, pid: Pid) -> None:
        main = self._mains.get(pid)
        if main is not None:
            main.cancel()

    async def _live(self, loop: asyncio.AbstractEventLoop, pid: Pid, fds: list[int]) -> None:
        """One program from its start to its end. Its own task, so that cancelling its main one leaves this to clean up."""
        link, stdout, stderr, *stdin = fds
        for fd in stdin:
            os.close(fd)
        sock = socket.socket(fileno=link)
        streams = {"stdout": PipeStream(stdout, loop), "stderr": PipeStream(stderr, loop)}
        code = KILLED
        try:
            self._say(pid, None)
            code = await self._run(loop, pid, sock, streams)
        finally:
            sock.close()
            for stream in streams.values():
                stream.shut()
            self._say(pid, code)

    async def _run(self, loop: asyncio.AbstractEventLoop, pid: Pid, sock: socket.socket, streams: dict[str, PipeStream]) -> int:
        reader = FrameReader()
        first = await _first_frames(loop, sock, reader)
        if not first:
            return LOST
        program = read_answer(first[0]).program
        assert program is not None, "the first frame is the program"
        transport = SocketTransport(sock, reader, first[1:])
        tasks: set[asyncio.Task[Any]] = set()
        main = self._mains[pid] = loop.create_task(_drive(program, transport, streams, tasks, f"program_{pid}"))
        try:
            await asyncio.wait([main])
        finally:
            del self._mains[pid]
        end = main.result() if not main.cancelled() else Exit(130, error="cancelled", reason="cancelled")
        await _end_tasks(tasks)
        for stream in streams.values():
            await stream.drain()
        transport.send_last("exit", end)
        transport.close()
        return end.code


async def _drive(
    program: Program, transport: SocketTransport, streams: dict[str, PipeStream], tasks: set[asyncio.Task[Any]], module: str
) -> Exit:
    """The main task, in a context of its own: output, calls and tasks of what starts from here are the program's."""
    route(streams)
    _tasks.set(tasks)
    try:
        return await run_in_loop(program, transport, module)
    finally:
        sys.modules.pop(module, None)


async def _end_tasks(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel what the program left running; who does not listen is left behind."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(list(tasks), timeout=LEAVE_S)


async def _first_frames(loop: asyncio.AbstractEventLoop, sock: socket.socket, reader: FrameReader) -> list[bytes]:
    """Those that came at once with the first; none when the reactor is gone."""
    sock.setblocking(False)
    while True:
        data = await loop.sock_recv(sock, 1 << 18)
        if not data:
            return []
        frames = reader.feed(data)
        if frames:
            return frames


def _remembering(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """A task factory that knows whose task it is, by the context of who makes it."""
    task = asyncio.Task(coro, loop=loop, **options)
    tasks = _tasks.get()
    if tasks is not None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return task
