"""An MCP server as a process (tools/mcp_stdio.py).

    session --messages--> lines on stdin                 the server's environment: what the operator declared, its secrets, no more
            <-- lines on stdout, bounded and paced       its folder: a new one, gone with it
            tail of stderr, for the error                its user: one that nobody else has, where we are root

The server may be anybody's code. A line has a limit; lines that answer nothing have a rate, above which the server is ended: else
it would cost us a core. It runs below tools/launch.py, so that nothing of it is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import mcp_types
from mcp.shared.message import SessionMessage

from vllm_symphony.errors import BrokenPipe, InvalidArgument
from vllm_symphony.tools.config import McpServer

FIRST_UID = 1_901_000_000  # one for each server and principal; programs have others
MAX_LINE_BYTES = 4 << 20
NOISE_BURST, NOISE_PER_S = 1000.0, 200.0  # lines that answer nothing; each 16 KiB counts as one more
NOISE_BYTES = 16 << 10
TAIL_BYTES = 4 << 10
LEAVE_S = 1.0  # to end by itself when its input closes
_LAUNCHER = str(Path(__file__).with_name("launch.py"))
Streams = tuple[Any, Any]  # to read and to write, of a transport of the mcp package
_PATH = "/usr/local/bin:/usr/bin:/bin"


def user_of(server: McpServer, slot: int) -> int:
    """The uid that it runs as; -1: ours. Raises InvalidArgument."""
    if server.user in (None, "own"):
        return FIRST_UID + slot if os.geteuid() == 0 else -1
    if server.user == "server":
        return -1
    try:
        return pwd.getpwnam(server.user or "").pw_uid
    except KeyError:
        raise InvalidArgument(f"[mcp.{server.name}] user: there is no user {server.user!r}") from None


class Noise:
    """A bucket for what nobody asked for."""

    def __init__(self, now_s: float) -> None:
        self._left, self._at_s = NOISE_BURST, now_s

    def take(self, num_bytes: int, now_s: float) -> bool:
        """One more line; False when it was too much."""
        self._left = min(NOISE_BURST, self._left + (now_s - self._at_s) * NOISE_PER_S) - 1 - num_bytes / NOISE_BYTES
        self._at_s = now_s
        return self._left >= 0


class StdioServer:
    """One process. `connected` is a transport of the mcp package; `cause` is why it ended, once it has."""

    def __init__(self, server: McpServer, variables: Mapping[str, str], slot: int) -> None:
        self._server = server
        self._variables = variables
        self._slot = slot
        self._tail = bytearray()
        self.cause = ""
        self.pid: int | None = None
        self.ended = asyncio.Event()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Streams]:
        """Raises BrokenPipe, InvalidArgument when it cannot be started."""
        uid = user_of(self._server, self._slot)
        folder = tempfile.mkdtemp(prefix="symphony-mcp-")
        try:
            if uid >= 0:
                os.chown(folder, uid, uid)
            process = await self._start(uid, folder)
            try:
                async with self._streams(process) as streams:
                    yield streams
            finally:
                await _end(process)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the launcher's to do, unless it did not start

    async def _start(self, uid: int, folder: str) -> asyncio.subprocess.Process:
        server = self._server
        own = [folder, *([server.cwd] if server.cwd is not None else []), *(server.writable or ())]
        spec = {
            "uid": uid, "folder": folder, "cwd": server.cwd or folder, "command": server.command,
            "writable": own if server.writable is not None else None,
        }  # fmt: skip
        environment = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder, **server.environment, **self._variables}
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", _LAUNCHER, json.dumps(spec),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env=environment, limit=MAX_LINE_BYTES, start_new_session=True, cwd="/",
            )  # fmt: skip
        except OSError as e:
            raise BrokenPipe(f"the MCP server {server.name} cannot be started: {e.strerror}") from None
        self.pid = process.pid
        return process

    @asynccontextmanager
    async def _streams(self, process: asyncio.subprocess.Process) -> AsyncIterator[Streams]:
        to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
        async with from_server, to_server, asyncio.TaskGroup() as tasks:
            jobs = [
                tasks.create_task(self._read(process, to_session)),
                tasks.create_task(self._write(process, from_session)),
                tasks.create_task(self._keep_tail(process)),
            ]
            try:
                yield from_server, to_server
            finally:
                for job in jobs:
                    job.cancel()

    async def _read(
        self, process: asyncio.subprocess.Process, to_session: anyio.abc.ObjectSendStream[SessionMessage | Exception]
    ) -> None:
        """Lines to the session, one at a time: a slow session slows the server. At its end the session hears of it."""
        assert process.stdout is not None
        clock = asyncio.get_running_loop().time
        noise = Noise(clock())
        async with to_session:
            while not self.cause:
                try:
                    line = await process.stdout.readline()
                except ValueError:
                    self.cause = f"wrote a line of more than {MAX_LINE_BYTES} bytes"
                    break
                if not line:
                    break
                message = _parsed(line)
                if not isinstance(message, mcp_types.JSONRPCResponse | mcp_types.JSONRPCError) and not noise.take(
                    len(line), clock()
                ):
                    self.cause = "flooded us with lines that answer nothing"
                    break
                if message is not None:
                    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                        await to_session.send(SessionMessage(message))
            if not self.cause:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_S):
                        await process.wait()
                self.cause = f"ended ({_how(process.returncode)}){self._last_words()}"
            self.ended.set()

    async def _write(
        self, process: asyncio.subprocess.Process, from_session: anyio.abc.ObjectReceiveStream[SessionMessage]
    ) -> None:
        assert process.stdin is not None
        async with from_session:
            async for message in from_session:
                process.stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                with suppress(ConnectionError):  # it is gone: `_read` says so
                    await process.stdin.drain()

    async def _keep_tail(self, process: asyncio.subprocess.Process) -> None:
        """All of stderr is read, its last words are kept."""
        assert process.stderr is not None
        while piece := await process.stderr.read(1 << 16):
            self._tail += piece
            del self._tail[:-TAIL_BYTES]

    def _last_words(self) -> str:
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """Close its input, wait a moment, then have the launcher end all of it. Not stopped by a cancel: nothing may be left."""
    with anyio.CancelScope(shield=True):
        pipes = process._transport  # type: ignore[attr-defined]  # nothing public closes an output that nobody reads
        for fd in (0, 1, 2):  # an open one that is not read to its end would keep `wait` waiting
            if (pipe := pipes.get_pipe_transport(fd)) is not None:
                pipe.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await process.wait()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            await process.wait()


def _parsed(line: bytes) -> mcp_types.JSONRPCMessage | None:
    """None for what is no message; a server that prints to its stdout is common."""
    try:
        return mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        return None


def _how(code: int | None) -> str:
    if code is None:
        return "its output closed"
    return f"exit code {code}" if code <= 128 else f"signal {code - 128}"
