"""MCP over streamable HTTP, with a real server of the mcp package behind uvicorn."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from mcp.server.mcpserver import Context, MCPServer

from tests.unit.tools.local import KEY, Request, response, run, serving
from tests.unit.tools.test_mcp import tools
from vllm_symphony import errors


class Remote:
    """A real server, on a port of its own."""

    def __init__(self) -> None:
        self.server = MCPServer("remote")
        self.headers: list[dict[str, str]] = []

        @self.server.tool()
        async def whisper(context: Context) -> str:  # type: ignore[type-arg]
            """Says what key it was called with."""
            request = context.request_context.request
            assert request is not None
            return str(request.headers.get("x-key"))

        @self.server.tool()
        async def hang() -> str:
            await asyncio.sleep(3600)
            return ""


@asynccontextmanager
async def remote() -> AsyncIterator[int]:
    app = Remote().server.streamable_http_app()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


def table(port: int, more: str = "") -> str:
    return f'[mcp.remote]\nurl = "http://127.0.0.1:{port}/mcp"\nprivate = true\n{more}'


def test_a_server_behind_a_url_is_listed_and_called_with_its_secret(tmp_path: Path) -> None:
    async def main() -> None:
        async with remote() as port:
            secret = f"""
[secret.key]
env = "KEY"
tools = ["remote"]
principals = ["me"]
url = "http://127.0.0.1:{port}/mcp"
header = "X-Key"
"""
            async with tools(tmp_path, table(port) + secret, KEY=KEY) as t:
                await t.driver.start(lambda _: None)
                assert [tool.info.name for tool in t.driver.tools("me")] == ["remote_whisper", "remote_hang"]
                assert (await t("remote_whisper", principal="me")).content == "[secret key]"
                assert (await t("remote_whisper", principal="you")).content == "None"

    run(main())


def test_a_call_that_is_late_or_cancelled_leaves_the_session_to_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with remote() as port, tools(tmp_path, table(port)) as t:
            await t("remote_whisper")
            with pytest.raises(TimeoutError):
                await t("remote_hang", within_s=0.2)
            assert (await t("remote_whisper")).content == "None"

    run(main())


def test_a_private_address_is_refused_unless_it_is_declared(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(unheard) as server:
            text = table(server.port).replace("private = true\n", "")
            async with tools(tmp_path, text) as t:
                with pytest.raises(errors.AccessDenied, match="which is not public"):
                    await t("remote_whisper")
            assert server.num_connections == 0

    run(main())


async def unheard(request: Request, writer: asyncio.StreamWriter) -> None:
    raise AssertionError("nobody should call")


def test_a_server_that_cannot_be_reached_is_an_error_of_the_line(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, table(1)) as t:
            with pytest.raises(errors.BrokenPipe, match="cannot be reached"):
                await t("remote_whisper")

    run(main())


@pytest.mark.parametrize("location", ["http://169.254.169.254/mcp", "http://127.0.0.1:1/mcp", "/elsewhere"])
def test_a_redirect_out_of_the_servers_place_is_not_followed(tmp_path: Path, location: str) -> None:
    async def away(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", "307 Go", location=location))

    async def main() -> None:
        async with serving(away) as server, tools(tmp_path, table(server.port)) as t:
            with pytest.raises((errors.BrokenPipe, errors.AccessDenied)):
                await t("remote_whisper")
            assert {request.target for request in server.heard} == {"/mcp"}

    run(main())


def test_an_endless_answer_is_cut(tmp_path: Path) -> None:
    sent = 0

    async def pour(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while True:
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    async def main() -> None:
        async with serving(pour) as server, tools(tmp_path, table(server.port)) as t:
            with pytest.raises(errors.BrokenPipe, match="answered with more than"):
                await t("remote_whisper")
            assert sent < 64 << 20

    run(main())


class Forgetful:
    """A server of 2025 with sessions, which it forgets when told to."""

    def __init__(self) -> None:
        self.num_sessions = 0
        self.forgets = False

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.method != "POST":
            writer.write(response(b"", "405 No"))
            return
        message = json.loads(request.body)
        method = message["method"]
        if method == "initialize":
            self.num_sessions += 1
            self.forgets = False
        elif self.forgets and "mcp-session-id" in request.headers:
            writer.write(response(b"", "404 Not Found"))
            return
        results = {
            "initialize": {
                "protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "forgetful", "version": "1"},
            },
            "tools/list": {"tools": [{"name": "count", "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": str(self.num_sessions)}]},
        }  # fmt: skip
        answer = {"result": results[method]} if method in results else {"error": {"code": -32601, "message": "no such method"}}
        body = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), **answer}).encode() if "id" in message else b""
        headers = {"content_type": "application/json", "mcp_session_id": f"s{self.num_sessions}" if method == "initialize" else ""}
        writer.write(response(body, "200 OK" if body else "202 Accepted", **headers))


def test_a_server_that_has_forgotten_the_session_gets_a_new_one(tmp_path: Path) -> None:
    async def main() -> None:
        forgetful = Forgetful()
        async with serving(forgetful) as server, tools(tmp_path, table(server.port)) as t:
            assert (await t("remote_count")).content == "1"
            forgetful.forgets = True
            with pytest.raises(errors.BrokenPipe, match="closed the connection"):
                await t("remote_count")
            assert (await t("remote_count")).content == "2"

    run(main())


def test_a_server_that_dies_in_a_call_is_an_error_of_the_line(tmp_path: Path) -> None:
    forgetful = Forgetful()

    async def dying(request: Request, writer: asyncio.StreamWriter) -> None:
        if b"tools/call" not in request.body:
            await forgetful(request, writer)
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")

    async def main() -> None:
        async with serving(dying) as server, tools(tmp_path, table(server.port)) as t:
            with pytest.raises(errors.BrokenPipe, match="the MCP server remote"):
                await t("remote_count")

    run(main())
