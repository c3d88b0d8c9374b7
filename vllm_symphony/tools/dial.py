"""Connections to addresses that were checked (tools/dial.py).

    url --check_url--> host --resolve, once--> addresses --check_address, each--> connect to that address
                         \\-----------------------------------------------------> Host header, TLS name, certificate

A name is looked up here and nowhere after: the socket is connected to the number that was checked, so an answer that changes a
moment later changes nothing. One wrong address among several refuses all, for an honest name has none. A connection serves one
request and one principal. Proxies of the environment are not used, there are no unix sockets, and no HTTP/2.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpcore2
import httpx2

from vllm_symphony.errors import AccessDenied, BrokenPipe
from vllm_symphony.tools.origin import Allowed, check_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
MAX_ADDRESSES = 4  # that are tried
_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, by the system's resolver. Raises BrokenPipe."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise BrokenPipe(f"no address for {host}: {e.strerror if isinstance(e, OSError) else e}", host=host) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """httpcore's network, with our eyes on each address."""

    def __init__(self, allow: Sequence[Allowed], resolve: Resolve) -> None:
        self._allow = allow
        self._resolve = resolve
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            with anyio.fail_after(timeout):
                addresses = await self._resolve(host.removesuffix("."), port)
                for address in addresses:
                    check_address(address, host.removesuffix("."), port, self._allow)
                return await self._first(addresses[:MAX_ADDRESSES], host, port)
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"no connection to {host}:{port} in {timeout:g} s") from None

    async def connect_unix_socket(self, path: str, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        raise AccessDenied("tools do not connect to unix sockets")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def _first(self, addresses: Sequence[str], host: str, port: int) -> httpcore2.AsyncNetworkStream:
        """The first that answers."""
        error: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port)
            except httpcore2.ConnectError as e:
                error = httpcore2.ConnectError(f"{host}:{port}: {e or 'refused'}")
        raise error


class Dialer(httpx2.AsyncBaseTransport):
    """httpx's transport over checked connections; errors are httpcore's."""

    def __init__(self, allow: Sequence[Allowed], tls: ssl.SSLContext, resolve: Resolve = system_resolve) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls, max_connections=None, max_keepalive_connections=0, network_backend=CheckedBackend(allow, resolve)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        response = await self._pool.handle_async_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx2.Response(response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions)

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._response.aiter_stream():
            yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Certificates are checked against the system's authorities, or against those of `ca_file` alone."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    if ca_file is None and not context.get_ca_certs():
        for path in _CA_FILES:
            if Path(path).is_file():
                context.load_verify_locations(path)
                break
    return context
