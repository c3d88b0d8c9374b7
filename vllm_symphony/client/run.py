"""A program that runs for us (client/run.py).

    run = client.run("tot.py", depth=3)     nothing has happened yet
    async for event in run: ...             it starts; events as they come
    result = await run.result()             drains what is left

    client.run("ops/triage@1.2", task=...)          installed;  or a path, .py or .wasm, or a text, or a module's bytes
    client.run("filter.wasm", stdin=b"...")         its standard input, fed beside the events; `stdin=True`: by `run.feed`

Leaving early (`aclose`, a cancelled task, the end of the client's block) ends the program with TERM: a run is the caller's, until
`detach`. A connection that broke is made again and the events go on; a client that dies without a word, or that cannot reach the
server any more, leaves the program running, and `Client.attach` finds it again. `Client.spawn` is for programs that outlive it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import WASM_MAGIC, ExitStatus, ProcessEvent, Signal
from vllm_symphony.client import display
from vllm_symphony.client.call import ServerUnreachable
from vllm_symphony.client.display import Process
from vllm_symphony.client.feeding import Stdin, feed_all
from vllm_symphony.client.progress import showing_progress
from vllm_symphony.errors import BadProgram, InvalidArgument, SymphonyError

if TYPE_CHECKING:
    from vllm_symphony.client.client import Client

GOODBYE_S = 5.0  # for the TERM of a run that is left
LAST_EVENTS = 20  # what a notebook shows of a run
_INSTALLED = re.compile(r"(?:\w[\w.@+-]*/)?\w[\w.-]*(?:@[\w.+-]+)?")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: Python text, or a WebAssembly module (`code`), or one that is installed (`installed`: owner/name@version).

    entry     the function to call
    name      what lists show
    runtime   "" = by what is given: `python` or `wasm`; `trusted`: in the server's own process, where its operator allows that
    args      of the entry, under those that `run` is given: for names that are keywords of `run` itself
    """

    source: str = ""
    entry: str = "main"
    name: str = ""
    code: bytes = b""
    installed: str = ""
    runtime: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(program: str | bytes | os.PathLike[str] | Program) -> Program:
        """A program itself, its text (anything with a line break), a module, the path of either's file; or the name of an installed
        one: with an `@`, or where no file has that path.

        Raises:
            BadProgram: the file cannot be read, or is not UTF-8.
        """
        if isinstance(program, Program):
            return program
        if isinstance(program, bytes):
            return Program(code=program)
        if isinstance(program, str) and "\n" in program:
            return Program(program)
        if isinstance(program, str) and is_installed(program):
            return Program(installed=program, name=program.rpartition("/")[2].partition("@")[0])
        path = Path(program)
        try:
            content = path.read_bytes()
            if content.startswith(WASM_MAGIC) or path.suffix == ".wasm":
                return Program(code=content, name=path.stem)
            return Program(content.decode(), name=path.stem)
        except OSError as e:
            raise BadProgram(f"cannot read {path}: {e.strerror}", path=str(path)) from None
        except UnicodeDecodeError as e:
            raise BadProgram(f"{path} is not UTF-8 at byte {e.start}", path=str(path)) from None


def is_installed(text: str) -> bool:
    """It names a program of the registry, and no file."""
    if not _INSTALLED.fullmatch(text) or Path(text).suffix in (".py", ".wasm"):
        return False
    return "@" in text.rpartition("/")[2] or not Path(text).exists()


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

    def __init__(
        self, client: Client, start: Callable[[], Awaitable[int]], name: str, from_seq: int = 1, stdin: Stdin = None
    ) -> None:
        """`start` spawns the program and gives its pid; the first event shown is number `from_seq`; `stdin` is fed beside them."""
        self.pid: int | None = None  # known once it was started
        self.name = name
        self._client = client
        self._start = start
        self._from_seq = from_seq
        self._stdin = stdin
        self._feeding = asyncio.Lock()
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

    async def feed(self, data: bytes | str = b"", *, eof: bool = False) -> None:
        """Write to its standard input, and with `eof` close it; waits while it has too much unread. It must have been run with
        `stdin`.

        Raises:
            InvalidArgument: it was not started yet.
            BrokenPipe: it has no input, or has closed it.
            NoSuchProcess: it has ended.
        """
        async with self._feeding:
            await self._client.feed(self._started_pid(), data, eof=eof)

    async def stop(self) -> None:
        """Hold its code and its calls until `cont`."""
        await self._client.kill(self._started_pid(), Signal.STOP)

    async def cont(self) -> None:
        """Let it go on."""
        await self._client.kill(self._started_pid(), Signal.CONT)

    def _started_pid(self) -> int:
        if self.pid is None:
            raise InvalidArgument(f"{self.name or 'the program'} was not started yet: read its first event")
        return self.pid

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
        feeding: asyncio.Task[None] | None = None
        try:
            self.pid = await self._started()
            if self._stdin is not None and not isinstance(self._stdin, bool):
                feeding = asyncio.create_task(self._feed(), name=f"stdin of {self.pid}")
            async with aclosing(self._client.attach(self.pid, from_seq=self._from_seq)) as events:
                async for event in events:
                    yield event
            self._result = await self._client.wait(self.pid)
            self._is_ours = False
            if feeding is not None and feeding.done():
                feeding.result()
        except ServerUnreachable:
            self._is_ours = False  # nobody is there to end it
            raise
        finally:
            if feeding is not None and not feeding.done():
                feeding.cancel()
                await asyncio.wait([feeding])
            await self._end()

    async def _feed(self) -> None:
        """All of `stdin`, beside the reading; where that fails the program is ended, and its reader told why."""
        assert self._stdin is not None and not isinstance(self._stdin, bool)
        try:
            await feed_all(lambda data, eof: self.feed(data, eof=eof), self._stdin)
        except ServerUnreachable:
            pass  # who reads finds out too
        except Exception:
            await self._end()
            raise

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
