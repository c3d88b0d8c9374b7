"""Server-sent events: what the page is told without asking (web/live/stream.py).

    strace (its own socket) --> Window --.
    ps, statfs, info        --> Glances --+--> event: glance | news | events | end

The reader of the kernel's stream never waits for the browser: a slow page gets fewer, fuller frames. A stream ends when its page
goes or takes nothing for `SEND_S`, when the server stops, the kernel is lost, or the token is good no longer (the door's part).
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from vllm_symphony.abi.calls import Attach, Strace
from vllm_symphony.abi.types import Credentials, ProcessEvent
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.errors import BrokenPipe, SymphonyError
from vllm_symphony.web.error import error_body
from vllm_symphony.web.live.glance import Glances
from vllm_symphony.web.live.page import GUARDS
from vllm_symphony.web.live.window import Window

TICK_S = 0.25  # between two frames of news
GLANCE_S = 1.0
SEND_S = 30.0  # who takes nothing for so long is gone
HISTORY = 2000  # calls before the page was opened
MAX_LINE_CHARS = 4000
MAX_EVENTS = 400  # of a process's output in one frame
_HEADERS = {**GUARDS, "Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]

IsStopping = Callable[[], bool]


class Say(Protocol):
    """Sends a piece of the answer. Raises TimeoutError, OSError: nobody takes it."""

    async def __call__(self, body: bytes, *, more: bool = True) -> None: ...


class EventStream(ABC):
    """An ASGI response. A kind of stream says what it follows and which frames are due."""

    def __init__(self, is_stopping: IsStopping) -> None:
        self._is_stopping = is_stopping
        self._error: SymphonyError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(body: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(SEND_S):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": _RAW_HEADERS})
        if await self._talk(receive, say):
            with suppress(TimeoutError, OSError):
                await say(event("end", error_body(self._error) if self._error else {}), more=False)

    async def _talk(self, receive: Receive, say: Say) -> bool:
        """Say what there is until one side ends it; True: we do."""
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(self._followed())
            leaving = tasks.create_task(_until_gone(receive))
            try:
                while not leaving.done():
                    is_over = following.done() or self._is_stopping()
                    await self._say_all(say)
                    if is_over or self._error:
                        return True
                    await asyncio.wait((following, leaving), timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
            except (TimeoutError, OSError):
                pass  # nobody reads any more
            finally:
                following.cancel()
                leaving.cancel()
        return False

    async def _say_all(self, say: Say) -> None:
        try:
            async with aclosing(self.frames()) as frames:
                async for frame in frames:
                    await say(frame)
        except SymphonyError as e:
            self._error = e

    async def _followed(self) -> None:
        """The kernel's error ends the stream, with a last word."""
        try:
            await self.follow()
        except SymphonyError as e:
            self._error = e

    @abstractmethod
    async def follow(self) -> None:
        """Take what comes from the kernel, until it ends."""

    @abstractmethod
    def frames(self) -> AsyncGenerator[bytes, None]:
        """What is due now."""


class MachineStream(EventStream):
    """The whole page: a glance a second, steps and calls as they come."""

    def __init__(self, link: KernelLink, glances: Glances, cred: Credentials, is_stopping: IsStopping) -> None:
        super().__init__(is_stopping)
        self._link, self._glances, self._cred = link, glances, cred
        self._window = Window(time.time_ns())
        self._known = asyncio.Event()  # the first glance says from where to follow
        self._from_seq = 1
        self._glanced_s = 0.0

    async def follow(self) -> None:
        """The event log with the engine's steps; where the kernel cut us off it goes on behind the gap."""
        await self._known.wait()
        last_step = 0
        while True:
            args = Strace(follow=True, steps=True, from_seq=self._from_seq)
            try:
                async with aclosing(self._link.stream("strace", args, self._cred)) as parts:
                    async for part in parts:
                        steps = tuple(s for s in part.steps if s.step > last_step)
                        last_step = steps[-1].step if steps else last_step
                        self._from_seq = part.records[-1].seq + 1 if part.records else self._from_seq
                        self._window.put(type(part)(part.records, steps, part.missing))
                return
            except BrokenPipe:
                continue

    async def frames(self) -> AsyncGenerator[bytes, None]:
        now_s = time.monotonic()
        if not self._known.is_set() or now_s - self._glanced_s >= GLANCE_S:
            glance = await self._glances.at(self._cred)
            self._window.programs = frozenset(p["pid"] for p in glance["processes"])
            if not self._known.is_set():
                self._from_seq = max(1, glance["kernel"].get("calls_ended", 0) - HISTORY)
                self._known.set()
            self._glanced_s = now_s
            yield event("glance", glance)
        if not self._window.is_empty:
            yield event("news", self._window.take())


class OutputStream(EventStream):
    """What one process prints, from event `from_seq` on, until it ends."""

    def __init__(self, link: KernelLink, cred: Credentials, pid: int, from_seq: int, is_stopping: IsStopping) -> None:
        super().__init__(is_stopping)
        self._link, self._cred, self._pid = link, cred, pid
        self._next_seq = from_seq
        self._lines: list[dict[str, Any]] = []
        self._room = asyncio.Event()

    async def follow(self) -> None:
        while True:
            args = Attach(self._pid, self._next_seq)
            try:
                async with aclosing(self._link.stream("attach", args, self._cred)) as parts:
                    async for part in parts:
                        self._lines += [output_line(e) for e in part.events]
                        self._next_seq = part.events[-1].seq + 1
                        while len(self._lines) >= MAX_EVENTS:  # the kernel keeps what we do not take, and tells of gaps
                            self._room.clear()
                            await self._room.wait()
                return
            except BrokenPipe:
                continue

    async def frames(self) -> AsyncGenerator[bytes, None]:
        while self._lines:
            lines, self._lines = self._lines, []
            self._room.set()
            for start in range(0, len(lines), MAX_EVENTS):
                yield event("events", lines[start : start + MAX_EVENTS])


def output_line(e: ProcessEvent) -> dict[str, Any]:
    """A piece of output as the page shows it; a very long line in it is cut."""
    text = e.text if len(e.text) <= MAX_LINE_CHARS else "\n".join(map(_cut, e.text.split("\n")))
    return {"seq": e.seq, "t_ms": e.t_ns / 1e6, "kind": e.kind, "text": text}


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARS else f"{line[:MAX_LINE_CHARS]}… ({len(line):,} characters)"


def event(kind: str, data: object) -> bytes:
    """A frame of the stream. JSON text holds no line ends, so nothing in `data` can end it."""
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
