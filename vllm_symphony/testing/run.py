"""One program of a machine, and what it left (testing/run.py); what each prints is kept apart by context."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from vllm_symphony.abi.types import ExitStatus, FileStat, Pid
from vllm_symphony.lip import ProgramFailed
from vllm_symphony.testing.transport import MemoryTransport

KILLED = 137
_run: ContextVar[Run] = ContextVar("symphony_testing_run")


class Input:
    """What was fed to a program and is not read yet."""

    def __init__(self) -> None:
        self._data = b""
        self._ended = False
        self._arrived = asyncio.Event()

    @property
    def num_bytes(self) -> int | None:
        """That wait; None once it is closed."""
        return None if self._ended else len(self._data)

    def feed(self, data: bytes, eof: bool) -> None:
        self._data += data
        self._ended = self._ended or eof
        self._arrived.set()

    async def read(self) -> bytes:
        """What there is, when there is something; nothing at the end."""
        while not (self._data or self._ended):
            self._arrived.clear()
            await self._arrived.wait()
        data, self._data = self._data, b""
        return data


@dataclass(eq=False)
class Run:
    """A program of the machine. `left_open`: files that its `main` had not closed when it ended; the machine closes them."""

    pid: Pid
    stdout: str = ""
    stderr: str = ""
    emitted: list[Any] = field(default_factory=list)
    status: ExitStatus | None = None
    error: BaseException | None = None
    ended_s: float = 0.0
    left_open: list[FileStat] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    transport: MemoryTransport | None = None
    input: Input | None = None  # its standard input; None: it has none
    term_waits: bool = False  # it was sent TERM while it was stopped

    async def read_input(self) -> bytes:
        """What was fed to it, once it is not stopped; nothing at the end, or if it has no input."""
        assert self.transport is not None
        data = b"" if self.input is None else await self.input.read()
        await self.transport.may_go()
        return data

    @property
    def has_ended(self) -> bool:
        return self.status is not None

    @property
    def value(self) -> Any:
        """What `main` returned. Raises what it raised, or ProgramFailed."""
        if self.error is not None:
            raise self.error
        if self.status is None or self.status.code:
            raise ProgramFailed(self.pid, self.status or ExitStatus(KILLED, "signal"))
        return None if self.status.value is None else json.loads(self.status.value)


def enter(run: Run) -> None:
    """What this task and those that it starts print is the run's."""
    _run.set(run)


class _Apart(io.TextIOBase):
    """What programs print, each to its own; the rest to where it went before."""

    def __init__(self, name: str, before: Any) -> None:
        self._name = name
        self._before = before

    def write(self, text: str) -> int:
        run = _run.get(None)
        if run is None:
            return int(self._before.write(text))
        setattr(run, self._name, getattr(run, self._name) + text)
        return len(text)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """While programs run."""
    out, err = _Apart("stdout", sys.stdout), _Apart("stderr", sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield
