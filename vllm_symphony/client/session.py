"""A remote program: its code runs here, its files, children and calls are at the server (client/session.py).

    async with client.session(name="tutor") as session:                    a process there, with a pid
        async with lip.open(tokens=lip.render_chat("hi")) as chat:         the library of programs, over gRPC
            print(await chat.generate(64))

Inside of the block `lip` speaks to this session. Leaving it ends the process: code 0, 1 with the error, or 130 when it was
cancelled. A broken connection is made again without the program noticing, calls happen once; the server waits `lease_s` for it.
TERM (`symphony kill`) cancels the task that entered the block, which then raises Interrupted.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import traceback
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import Any

from vllm_symphony.abi.calls import Exit
from vllm_symphony.client.channel import Access
from vllm_symphony.client.retry import Retry
from vllm_symphony.client.run import Program
from vllm_symphony.client.session_link import SessionLink
from vllm_symphony.client.session_transport import SessionTransport
from vllm_symphony.errors import BadProgram, Interrupted, NoSuchProcess, SymphonyError
from vllm_symphony.lip import transport as lip_transport

GOODBYE_S = 5.0  # for the exit to be taken; after it the lease ends the session


class Session:
    """Made by `Client.session`; use it once, in `async with`. `value` is what lists and waiters are told it returned: JSON."""

    def __init__(
        self, access: Access, retry: Retry, lease_s: float, name: str, program: str | os.PathLike[str] | Program | None
    ) -> None:
        self.value: Any = None
        self._access = access
        self._retry = retry
        self._lease_s = lease_s
        self._name = name
        self._program = program
        self._is_ending = False
        self._was_told_to_end = False

    @property
    def pid(self) -> int:
        """Its process at the server."""
        return self._link.pid

    @property
    def lease_s(self) -> float:
        """How long it outlives its connection."""
        return self._link.lease_s

    async def __aenter__(self) -> Session:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._num_cancels = task, task.cancelling()
        self._transport = SessionTransport(self._source, self._obey)
        self._link = SessionLink(self._access, self._retry, self._transport, self._name, self._lease_s)
        await self._link.open()
        self._connecting = asyncio.TaskGroup()
        await self._connecting.__aenter__()
        self._serving = self._connecting.create_task(self._link.serve(), name=f"session {self.pid}")
        self._bound: Token[lip_transport.Session] = lip_transport.bind(self._transport)
        self._tid = lip_transport.tid()
        lip_transport.set_tid(0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_ending = True
        lip_transport.set_tid(self._tid)
        lip_transport.unbind(self._bound)
        try:
            await self._say_goodbye(self._exit(error))
        finally:
            self._transport.end(NoSuchProcess(f"session {self.pid} has ended", pid=self.pid))
            self._serving.cancel()
            await self._connecting.__aexit__(None, None, None)
            await self._link.close()
        if self._was_told_to_end and self._task.uncancel() <= self._num_cancels and isinstance(error, asyncio.CancelledError):
            raise Interrupted(f"session {self.pid} was told to end (TERM)", pid=self.pid) from None

    async def _say_goodbye(self, exit_: Exit) -> None:
        with suppress(SymphonyError, TimeoutError):  # it has ended already, or nobody is there to hear it
            async with asyncio.timeout(GOODBYE_S):
                await self._transport.call("exit", exit_)
                await asyncio.wait([self._serving])  # the server hangs up

    def _exit(self, error: BaseException | None) -> Exit:
        if error is None:
            return Exit(0, value=_json(self.value))
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            return Exit((error.code or 0) & 0xFF)
        if isinstance(error, asyncio.CancelledError | KeyboardInterrupt):
            return Exit(130, error="cancelled", reason="cancelled")
        return Exit(1, error=traceback.format_exception_only(error)[-1].strip()[:1000], reason="exception")

    def _obey(self) -> None:
        if not self._is_ending:
            self._was_told_to_end = True
            self._task.cancel()

    def _source(self) -> str:
        """The program's text. Raises BadProgram when there is none."""
        if self._program is None:
            raise BadProgram("a child that runs a function of this program needs its text: client.session(program=__file__)")
        return Program.of(self._program).source


def source_of(main: Any) -> Program | None:
    """The program that a function belongs to: its module's text; None where that is not to be had (a prompt, a notebook)."""
    try:
        return Program(inspect.getsource(sys.modules[main.__module__]))
    except (AttributeError, KeyError, OSError, TypeError):
        return None


def _json(value: Any) -> str | None:
    """None for what JSON cannot say: the value stays here."""
    try:
        return None if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
