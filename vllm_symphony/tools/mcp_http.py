"""An MCP server behind a url (tools/mcp_http.py).

    mcp package --request--> allow-list --> + secrets --> Dialer, checked addresses
                <-- at most so many bytes of an answer, not encoded

The same rules as of tools/http.py. The mcp package follows redirects inside of the url's origin only; those come by here too.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore2
import httpx2
from mcp.client.streamable_http import streamable_http_client

from vllm_symphony.errors import BrokenPipe
from vllm_symphony.tools.config import McpServer
from vllm_symphony.tools.dial import Dialer, Resolve
from vllm_symphony.tools.mcp_stdio import Streams
from vllm_symphony.tools.origin import check_url, host_of, port_of
from vllm_symphony.tools.secret import Vault

MAX_ANSWER_BYTES = 16 << 20
MAX_EVENT_BYTES = 4 << 20
CONNECT_TIMEOUT_S = 10.0


class Carrier(httpx2.AsyncBaseTransport):
    """What the mcp package sends, with our rules."""

    def __init__(self, server: McpServer, principal: str, vault: Vault, dialer: Dialer) -> None:
        self._server, self._principal, self._vault, self._dialer = server, principal, vault, dialer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises SymphonyError."""
        check_url(request.url, self._server.allow)
        request.headers["accept-encoding"] = "identity"
        request.headers.update(self._vault.headers(self._server.name, self._principal, request.url))
        if query := self._vault.query(self._server.name, self._principal, request.url):
            request = httpx2.Request(
                request.method, request.url.copy_merge_params(query), headers=request.headers, stream=request.stream,
                extensions=request.extensions,
            )  # fmt: skip
        where = f"{host_of(request.url)}:{port_of(request.url)}"
        try:
            response = await self._dialer.handle_async_request(request)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as e:
            raise BrokenPipe(f"the MCP server {self._server.name} at {where} cannot be reached: {str(e)[:200]}") from None
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise BrokenPipe(f"the MCP server {self._server.name} encodes its answers, which nobody asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        bounded = _Bounded(response.stream, self._server.name)
        return httpx2.Response(response.status_code, headers=response.headers, stream=bounded, extensions=response.extensions)

    async def aclose(self) -> None:
        await self._dialer.aclose()


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, server: str) -> None:
        self._inner, self._server = inner, server

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER_BYTES
        async for piece in self._inner:
            left -= len(piece)
            if left < 0:
                raise BrokenPipe(f"the MCP server {self._server} answered with more than {MAX_ANSWER_BYTES} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def connected(
    server: McpServer, principal: str, vault: Vault, tls: ssl.SSLContext, resolve: Resolve
) -> AsyncIterator[Streams]:
    """A transport of the mcp package."""
    assert server.url is not None
    timeout = httpx2.Timeout(server.bounds.timeout_s, connect=CONNECT_TIMEOUT_S)
    carrier = Carrier(server, principal, vault, Dialer(server.allow, tls, resolve))
    async with (
        httpx2.AsyncClient(transport=carrier, trust_env=False, follow_redirects=False, timeout=timeout) as client,
        streamable_http_client(server.url, http_client=client, max_sse_event_size=MAX_EVENT_BYTES) as streams,
    ):
        yield streams
