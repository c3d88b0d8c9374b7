"""The tool host: the process that calls tools (tools/host.py).

    python -m vllm_symphony.tools.host FD FILE

    reactor --Start--> FairQueue --> one task: schema, time limit, tries --> driver
            <--Done, Failed--                                                  http.py mcp.py python.py

It has secrets and connections and nothing of the machine: no model, no file, no other program's call. It ends when the socket
closes, and all that it started with it; if it is killed, the launchers of MCP servers hear of it (tools/launch.py) and end those.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.errors import DataCorrupt, Interrupted, InvalidArgument, NoSuchFile, SymphonyError, TimedOut
from vllm_symphony.tools import driver, wire
from vllm_symphony.tools.config import Config, load
from vllm_symphony.tools.dial import tls_context
from vllm_symphony.tools.driver import Call, Driver, Tool
from vllm_symphony.tools.queue import FairQueue
from vllm_symphony.tools.schema import check_arguments
from vllm_symphony.tools.secret import Vault

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
READY_S = 10.0  # for MCP servers to say what they have; those that need longer are told later
CLOSE_S = 5.0  # for MCP servers to end; then this process does, and their launchers end them
MAX_RESULT_BYTES = 4 << 20  # of one frame, whatever a driver gave
_READ = 1 << 18
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

log = logging.getLogger(__name__)


class Host:
    """Jobs in, results out. One event loop."""

    def __init__(self, config: Config, drivers: Sequence[Driver], vault: Vault, writer: asyncio.StreamWriter) -> None:
        self._drivers = drivers
        self._vault = vault
        self._writer = writer
        self._queue: FairQueue[wire.Start] = FairQueue(
            config.max_calls, config.max_calls_per_principal, config.max_queued_per_principal
        )
        self._waiting: dict[int, tuple[wire.Start, float]] = {}  # job -> it, and when it came
        self._tasks: dict[int, asyncio.Task[ToolResult]] = {}
        self._principals: set[str] = set()  # who has a table of his own

    def hear(self, message: wire.ToHost) -> None:
        """Take what the reactor says."""
        match message:
            case wire.Start():
                self._waiting[message.job] = message, asyncio.get_running_loop().time()
                try:
                    self._queue.put(message.principal, message)
                except SymphonyError as error:
                    self._end(message.job, wire.Failed.of(message.job, error))
                self._advance()
            case wire.Cancel(job):
                task, waiting = self._tasks.get(job), self._waiting.get(job)
                if task is not None:
                    task.cancel()
                elif waiting is not None and self._queue.remove(waiting[0].principal, waiting[0]):
                    self._end(job, wire.Failed.of(job, Interrupted("cancelled before it began")))
            case wire.Ping(number):
                self._send(wire.Pong(number))

    def tell(self, principal: str) -> None:
        """A principal's tools have changed: tell the reactor all that he has now. "": those of everybody."""
        if principal:
            self._principals.add(principal)
        for who in (principal,) if principal else ("", *sorted(self._principals)):
            tools = [tool.info for source in self._drivers for tool in source.tools(who)]
            self._send(wire.Table(who, tuple(tools)))

    async def close(self) -> None:
        """End what is in flight, and the drivers."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(source.close() for source in self._drivers), return_exceptions=True)

    def _advance(self) -> None:
        while (following := self._queue.take()) is not None:
            principal, start = following
            task = self._tasks[start.job] = asyncio.get_running_loop().create_task(self._call(principal, start))
            task.add_done_callback(partial(self._worked, principal, start))

    def _worked(self, principal: str, start: wire.Start, task: asyncio.Task[ToolResult]) -> None:
        """The boundary of one job: exactly one answer leaves it, also when it was cancelled before it began."""
        job, answer = start.job, None
        error = Interrupted("cancelled") if task.cancelled() else task.exception()
        if error is None:
            answer = self._answer(job, task.result())
        elif isinstance(error, SymphonyError):
            answer = wire.Failed.of(job, _scrubbed(error, self._vault))
        else:  # a driver's bug must not take the others' calls along
            log.error("tool %s: the driver failed", start.name, exc_info=error)
            answer = wire.Failed.of(job, DataCorrupt(f"the driver of {start.name} failed: {type(error).__name__}"))
        del self._tasks[job]
        self._queue.done(principal)
        self._end(job, answer)
        self._advance()

    async def _call(self, principal: str, start: wire.Start) -> ToolResult:
        came_s = self._waiting[start.job][1]
        limit_s = start.timeout_s
        try:
            async with asyncio.timeout_at(None if limit_s is None else came_s + limit_s) as whole:
                tool = await self._find(principal, start.name)
                limit_s = min(tool.bounds.timeout_s, limit_s if limit_s is not None else tool.bounds.timeout_s)
                whole.reschedule(came_s + limit_s)
                arguments = _arguments(start.args)
                check_arguments(tool.schema, arguments)
                return await driver.run(tool, Call(principal, arguments, came_s + limit_s))
        except TimeoutError:
            raise TimedOut(f"{start.name} was not done in {limit_s:g} s", timeout_s=limit_s or 0.0) from None

    async def _find(self, principal: str, name: str) -> Tool:
        for source in self._drivers:
            tool = await source.find(principal, name)
            if tool is not None:
                return tool
        raise NoSuchFile(f"no such tool: {name}", name=name)

    def _answer(self, job: int, result: ToolResult) -> wire.Done | wire.Failed:
        size = len(result.content) + len(result.json or "")
        if size > MAX_RESULT_BYTES:
            return wire.Failed.of(job, DataCorrupt(f"a result of {size} characters passed the driver's bounds", size=size))
        return wire.Done(job, result)

    def _end(self, job: int, answer: wire.Done | wire.Failed) -> None:
        del self._waiting[job]
        self._send(answer)

    def _send(self, message: wire.FromHost) -> None:
        self._writer.write(wire.pack(message))


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(f"args is no JSON: {e}") from None


def _scrubbed(error: SymphonyError, vault: Vault) -> SymphonyError:
    values = {key: vault.scrub(value) if isinstance(value, str) else value for key, value in error.values.items()}
    return type(error)(vault.scrub(error.message), retry_after_s=error.retry_after_s, **values)


class _Scrubbed(logging.Formatter):
    """What libraries and plugins log, tracebacks too, without secrets."""

    def __init__(self, vault: Vault) -> None:
        super().__init__(_LOG_FORMAT)
        self._vault = vault

    def format(self, record: logging.LogRecord) -> str:
        return self._vault.scrub(super().format(record))


async def serve(config: Config, sock: socket.socket, environment: dict[str, str]) -> None:
    """Until the other side closes."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        vault = Vault(config, environment)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_Scrubbed(vault))
        drivers = _drivers(config, vault)
    except (SymphonyError, OSError) as e:
        writer.write(wire.pack(wire.Broken(str(e))))
        await writer.drain()
        writer.close()
        return
    host = Host(config, drivers, vault, writer)
    try:
        async with asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(_start(host, drivers, writer))
            inbox = wire.Inbox(in_host=True)
            while data := await reader.read(_READ):
                for message in inbox.feed(data):
                    host.hear(message)  # type: ignore[arg-type]
                await writer.drain()  # who does not read is not read from
            starting.cancel()
    finally:
        try:
            async with asyncio.timeout(CLOSE_S):
                await host.close()
        finally:
            writer.close()


def _drivers(config: Config, vault: Vault) -> list[Driver]:
    """Of the tables that there are; a driver's packages are not small."""
    drivers: list[Driver] = []
    if config.http:
        from vllm_symphony.tools.http import HttpDriver

        drivers.append(HttpDriver(config.http, vault, tls_context(config.ca_file)))
    if config.python:
        from vllm_symphony.tools.python import PythonDriver

        drivers.append(PythonDriver(config.python, vault, config.max_threads))
    if config.mcp:
        from vllm_symphony.tools.mcp import McpDriver

        drivers.append(McpDriver(config, vault, tls_context(config.ca_file)))
    return drivers


async def _start(host: Host, drivers: Sequence[Driver], writer: asyncio.StreamWriter) -> None:
    """Ready when all have told their tools, or soon: one slow server does not keep the others waiting."""
    starting = [asyncio.ensure_future(source.start(host.tell)) for source in drivers]
    if starting:
        await asyncio.wait(starting, timeout=READY_S)
    host.tell("")
    writer.write(wire.pack(wire.Ready()))
    await asyncio.gather(*starting)


def main() -> int:
    """Exit code 0 when the other side has closed."""
    sock, path = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_DUMPABLE, 0)  # its memory and environment are nobody's, not even of our own user's other processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock.setblocking(False)
    logging.basicConfig(level=logging.WARNING, format=_LOG_FORMAT)
    for name in ("httpx2", "httpcore2", "mcp", "client"):  # they log urls and messages, which may hold secrets
        logging.getLogger(name).setLevel(logging.CRITICAL)
    environment = dict(os.environ)
    os.environ.clear()  # nobody inherits by accident; secrets are in the vault
    os.environ.update({name: environment[name] for name in ("PATH", "LANG") if name in environment})
    try:
        loop = asyncio.new_event_loop()  # not asyncio.run, which would wait for a resolver's threads
        loop.run_until_complete(serve(load(path), sock, environment))
    except TimeoutError:
        log.warning("MCP servers did not end in %g s; their launchers end them", CLOSE_S)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a Python tool's thread may still run
