"""Servers on this machine that misbehave as a test wants, and tools that call them."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.tools import driver
from vllm_symphony.tools.config import Config, load
from vllm_symphony.tools.dial import Resolve, system_resolve, tls_context
from vllm_symphony.tools.driver import Call
from vllm_symphony.tools.http import HttpDriver
from vllm_symphony.tools.secret import Vault

KEY = "s3cret/value+1"


class Request:
    """What a server heard."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ")
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        self.body = body


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Its port, what it heard, how often it was connected to."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.heard: list[Request] = []
        self.num_connections = 0
        self.arrived, self.left = asyncio.Event(), asyncio.Event()
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.num_connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            request = Request(head[:-4], b"")
            request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
            self.heard.append(request)
            self.arrived.set()
            await self._answer(request, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self.tasks.discard(task)
            self.left.set()
            writer.close()


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> Any:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for task in server.tasks:
            task.cancel()
        if server.tasks:
            await asyncio.wait(server.tasks)


def says(body: bytes | str, status: str = "200 OK", **headers: str) -> Answer:
    """Always this."""
    data = body.encode() if isinstance(body, str) else body

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(data, status, **headers))

    return answer


def response(data: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = {"content-type": "text/plain", "content-length": str(len(data)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data


def config(folder: Path, text: str) -> Config:
    path = folder / "tools.toml"
    path.write_text(text)
    return load(path)


class Tools:
    """The HTTP driver over a file, with a resolver that the test may fake."""

    def __init__(self, folder: Path, text: str, resolve: Resolve = system_resolve, **environment: str) -> None:
        self.config = config(folder, text)
        self.vault = Vault(self.config, environment)
        self.driver = HttpDriver(self.config.http, self.vault, tls_context(self.config.ca_file), resolve)

    async def __call__(self, name: str, *, principal: str = "me", within_s: float = 5.0, **arguments: Any) -> ToolResult:
        tool = await self.driver.find(principal, name)
        assert tool is not None
        deadline_s = asyncio.get_running_loop().time() + within_s
        return await driver.run(tool, Call(principal, arguments, deadline_s), sleep=lambda _: asyncio.sleep(0))


def run(what: Coroutine[Any, Any, Any]) -> Any:
    """In a loop of its own; no task is left."""

    async def whole() -> Any:
        result = await what
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            await asyncio.wait((task,), timeout=2)
        assert all(task.done() for task in left), [str(task.get_coro()) for task in left if not task.done()]
        return result

    return asyncio.run(whole())


def toml(value: object) -> str:
    """A JSON value is an inline TOML one, but for its colons."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)
