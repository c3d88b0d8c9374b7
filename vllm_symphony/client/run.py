"""A program that runs for us (client/run.py).

    run = client.run("tot.py", depth=3)     nothing has happened yet
    async for event in run: ...             it starts; events as they come
    result = await run.result()             drains what is left

Leaving early (`aclose`, a cancelled task, a lost client) ends the program with TERM: a run is the caller's. `Client.spawn` is for
programs that outlive it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import ExitStatus, ProcessEvent, ProcessStat
from vllm_symphony.errors import BadProgram
from vllm_symphony.proto.message import from_message

if TYPE_CHECKING:
    from vllm_symphony.proto.v1 import process_pb2 as pb


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
    process: ProcessStat

    @property
    def value(self) -> Any:
        """What the entry returned; None when it did not."""
        return None if self.exit.value is None else json.loads(self.exit.value)


class Run:
    """One program's events and result. One reader; `async for` again goes on where the last one stopped."""

    def __init__(self, start: Callable[[], AsyncGenerator[pb.RunResponse, None]]) -> None:
        self._start = start
        self._responses: AsyncGenerator[pb.RunResponse, None] | None = None
        self._events = self._read()
        self.pid: int | None = None  # known from the first response on
        self._result: RunResult | None = None

    def __aiter__(self) -> AsyncIterator[ProcessEvent]:
        return self

    async def __anext__(self) -> ProcessEvent:
        return await anext(self._events)

    async def result(self) -> RunResult:
        """Read on to the end, dropping events. Raises: what the RPC raised."""
        async for _ in self:
            pass
        assert self._result is not None, "a run that ended without a result has raised"
        return self._result

    async def aclose(self) -> None:
        """Stop reading; a program that still runs gets TERM."""
        await self._events.aclose()
        if self._responses is not None:
            await self._responses.aclose()

    async def _read(self) -> AsyncGenerator[ProcessEvent, None]:
        self._responses = self._start()
        async for response in self._responses:
            self.pid = response.pid or self.pid
            for event in response.events:
                yield from_message(event)
            if response.HasField("exit"):
                self._result = RunResult(from_message(response.exit), from_message(response.process))
