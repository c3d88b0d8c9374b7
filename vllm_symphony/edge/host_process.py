"""The kernel host as a child process (edge/host_process.py).

    argv     COMMAND --socket KERNEL_SOCK --status-fd N [host flags] -- [MODEL] [vLLM flags]
    status   JSON lines on fd N:  {"phase": "loading model"}   {"ready": {...}}   {"error": "...", "exit": 2}
    SIGTERM  stops it, exit code 0; it ignores SIGINT; it stops by itself when we die

It leads a process group of its own: a terminal's Ctrl-C reaches only us, and when it died what is left of its group is ended too.

Where vLLM's own launch line runs the kernel, that server starts *us* (`AdoptedHost`): we say on stdout what the kernel is to be
told, its status lines come by stdin, and when stdin ends so do we.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import IO, Any

MAX_STATUS_LINE_BYTES = 1 << 20


async def _messages(lines: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    while line := await lines.readline():
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


class HostProcess:
    """One child. Made by `start`; `stop` or `kill` must follow."""

    def __init__(self, process: asyncio.subprocess.Process, status: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self._process = process
        self._status = status
        self._transport = transport

    @classmethod
    async def start(cls, command: Sequence[str], output: IO[bytes] | None) -> HostProcess:
        """Start it; `{status_fd}` in the command is replaced. Its stdout and stderr go to `output`, None = our stderr.

        Raises: OSError when it cannot be started.
        """
        loop = asyncio.get_running_loop()
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        reader = asyncio.StreamReader(MAX_STATUS_LINE_BYTES)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", 0))
        try:
            process = await asyncio.create_subprocess_exec(
                *(word.replace("{status_fd}", str(write_fd)) for word in command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output or 2,
                stderr=output or 2,
                pass_fds=(write_fd,),
                process_group=0,  # Ctrl-C is for us; in our session, for priorities count within one only (autogroup)
            )
        except BaseException:
            transport.close()
            raise
        finally:
            os.close(write_fd)
        return cls(process, reader, transport)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ours(self) -> bool:
        """Its end is an accident, unless we asked for it."""
        return True

    async def status(self) -> AsyncIterator[dict[str, Any]]:
        """What it says, until it ends. Lines that are no JSON object are dropped."""
        async for message in _messages(self._status):
            yield message

    async def wait(self) -> int:
        """Its exit code, -n for signal n; when this returns, its whole group is gone."""
        code = await self._process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._transport.close()
        return code

    async def stop(self, grace_s: float) -> int:
        """Ask it to end, and make it end after `grace_s`; its exit code."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):  # not Process.terminate: it may reap, and then asyncio's watcher has no exit code
                os.kill(self.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                return await self.wait()
        self.kill()
        return await self.wait()

    def kill(self) -> None:
        """End it and its group at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class AdoptedHost:
    """A kernel host that was there before us. The same surface as HostProcess; it is not ours to end."""

    def __init__(self, status: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self._status = status
        self._transport = transport
        self._ended = asyncio.Event()

    @classmethod
    async def meet(cls, told: dict[str, Any]) -> AdoptedHost:
        """Say to who started us what the kernel is to be told."""
        reader = asyncio.StreamReader(MAX_STATUS_LINE_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb", 0))
        os.write(1, json.dumps(told).encode() + b"\n")
        return cls(reader, transport)

    @property
    def is_ours(self) -> bool:
        return False

    async def status(self) -> AsyncIterator[dict[str, Any]]:
        try:
            async for message in _messages(self._status):
                yield message
        finally:  # nobody may listen any more: the kernel is often gone before stdin ends
            self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        self._transport.close()
        return 0

    async def stop(self, grace_s: float) -> int:
        self.kill()
        return 0

    def kill(self) -> None:
        self._ended.set()
