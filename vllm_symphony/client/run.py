"""A program that runs for us (client/run.py).

    run = client.run("tot.py", depth=3)     nothing has happened yet
    async for event in run: ...             it starts; events as they come
    result = await run.result()             drains what is left

Leaving early (`aclose`, a cancelled task, the end of the client's block) ends the program with TERM: a run is the caller's, until
`detach`. A connection that broke is made again and the events go on; a client that dies without a word, or that cannot reach the
server any more, leaves the program running, and `Client.attach` finds it again. `Client.spawn` is for programs that outlive it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import ExitStatus, ProcessEvent
from vllm_symphony.client import display
from vllm_symphony.client.call import ServerUnreachable
from vllm_symphony.client.display import Process
from vllm_symphony.client.progress import showing_progress
from vllm_symphony.errors import BadProgram, SymphonyError

if TYPE_CHECKING:
    from vllm_symphony.client.client import Client

GOODBYE_S = 5.0  # for the TERM of a run that is left
LAST_EVENTS = 20  # what a notebook shows of a run


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: Python text, the function to call in it, and the name that lists show."""

    source: str
    entry: str = "main"
    name: str = ""

    @staticmethod
    def of(program: str | os.PathLike[str] | Program) -> Program:
        """A program itself, its text (anything with a line break), or the path of its file.

        Raises:
            BadProgram: the file cannot be read, or is not UTF-8.
        """
        if isinstance(program, Program):
            return program
        if isinstance(program, str) and "\n" in program:
            return Program(program)
        path = Path(program)
        try:
            return Program(path.read_text(encoding="utf-8"), name=path.stem)
        except OSError as e:
            raise BadProgram(f"cannot read {path}: {e.strerror}", path=str(path)) from None
        except UnicodeDecodeError as e:
            raise BadProgram(f"{path} is not UTF-8 at byte {e.start}", path=str(path)) from None


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a program ended, and the process as it was then."""

    exit: ExitStatus
    process: Process

    @property
    def value(self) -> Any:
        """What the entry returned; None when it did not."""
        return None if self.exit.value is None else json.loads(self.exit.value)


class Run:
    """One program's events and result. One reader; `async for` again goes on where the last one stopped."""

    def __init__(self, client: Client, start: Callable[[], Awaitable[int]], name: str, from_seq: int = 1) -> None:
        """`start` spawns the program and gives its pid; the first event shown is number `from_seq`."""
        self.pid: int | None = None  # known once it was started
        self.name = name
        self._client = client
        self._start = start
        self._from_seq = from_seq
        self._events = self._read()
        self._last: deque[ProcessEvent] = deque(maxlen=LAST_EVENTS)
        self._result: RunResult | None = None
        self._is_ours = True  # to end: not detached, lost, or ended already

    def __aiter__(self) -> AsyncIterator[ProcessEvent]:
        return self

    async def __anext__(self) -> ProcessEvent:
        """The next event, over as many connections as it takes.

        Raises: what `Client.spawn` and `Client.attach` raise. ServerUnreachable with a `pid` known: the program goes on.
        """
        event = await anext(self._events)
        self._last.append(event)
        return event

    async def result(self, *, progress: bool | None = None) -> RunResult:
        """Read on to the end, dropping events. `progress`: show on the terminal or in the notebook how it goes, from two seconds on
        (None: if SYMPHONY_PROGRESS is set). Raises as iterating does.
        """
        async with showing_progress(self._client, self, progress):
            async for _ in self:
                pass
        assert self._result is not None, "a run that ended without a result has raised"
        return self._result

    def detach(self) -> int | None:
        """Let the program go on when this client leaves; gives its pid, None when it was not started."""
        self._is_ours = False
        return self.pid

    async def aclose(self) -> None:
        """Stop reading; a program that still runs gets TERM, unless it was detached."""
        await self._end()
        with suppress(RuntimeError):  # another task reads
            await self._events.aclose()

    async def _read(self) -> AsyncGenerator[ProcessEvent, None]:
        try:
            self.pid = await self._started()
            async with aclosing(self._client.attach(self.pid, from_seq=self._from_seq)) as events:
                async for event in events:
                    yield event
            self._result = await self._client.wait(self.pid)
            self._is_ours = False
        except ServerUnreachable:
            self._is_ours = False  # nobody is there to end it
            raise
        finally:
            await self._end()

    async def _started(self) -> int:
        """Its pid. Who is cancelled while it starts must know it too, or nobody could end it."""
        starting = asyncio.ensure_future(self._start())
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with suppress(SymphonyError, ConnectionError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    self.pid = await starting
            raise

    async def _end(self) -> None:
        """TERM, once, if it is ours and runs."""
        is_ours, self._is_ours = self._is_ours, False
        if is_ours and self.pid is not None:
            with suppress(SymphonyError, ConnectionError):  # it may just have ended
                await self._client.kill(self.pid, timeout_s=GOODBYE_S)

    def __str__(self) -> str:
        return display.run_text(self.pid, self.name, self._result, self._last)

    def _repr_html_(self) -> str:
        return display.run_html(self.pid, self.name, self._result, self._last)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self._repr_html_()}
