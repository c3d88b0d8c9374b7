"""One HTTP connection of `symphony serve --http` (web/connection.py): uvicorn's, with an end to its patience.

    connected ... headers     HEADERS_S, at most MAX_HEADER_BYTES
    body                      body.py
    an answer that nobody takes   WRITE_S
    a peer that has vanished      the system asks it (TCP keep-alive), and hangs up within a minute
    connections               MAX_CONNECTIONS, and half of them for one address

uvicorn itself waits for ever in all of these, and its httptools parser takes headers of any size. With TLS the common name of the
client's certificate goes along with the request, for the door. Under vLLM's own launch line the server is vLLM's: there only what
body.py and door.py do holds (docs/security.md).
Source: uvicorn/protocols/http/httptools_impl.py (0.3x to 0.5x).
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

NAME = "symphony.common_name"  # in a scope's extensions: of the certificate that the client has shown
MAX_HEADER_BYTES = 64 << 10
MAX_CONNECTIONS = 4096
HEADERS_S = 20.0
WRITE_S = 60.0
_PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000))


class Room:
    """Who is connected, by address."""

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        self.most = most
        self._of: Counter[str] = Counter()

    def take(self, address: str) -> bool:
        """Whether there was a place."""
        if self._of.total() >= self.most or self._of[address] >= max(1, self.most // 2):
            return False
        self._of[address] += 1
        return True

    def give(self, address: str) -> None:
        """The place is free again."""
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]


class Connection(HttpToolsProtocol):
    """uvicorn makes one for each connection."""

    room = Room()
    headers_s, write_s = HEADERS_S, WRITE_S
    _address: str | None = None  # whose place it has
    _name: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _num_header_bytes = 0
    _has_headers = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.room.take(address):
            transport.abort()
            return
        self._address = address
        self._name = common_name(transport.get_extra_info("peercert"))
        _probe(transport.get_extra_info("socket"))
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        if self._address is None:
            return
        super().data_received(data)
        if not self._has_headers and not self.transport.is_closing():
            self._num_header_bytes += len(data)
            if self._num_header_bytes > MAX_HEADER_BYTES:
                self.send_400_response(f"The headers are larger than {MAX_HEADER_BYTES} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._has_headers:  # of the request before this
            self._expect_headers()
        if self._name is not None:
            self.scope["extensions"] = {NAME: {"name": self._name}}

    def on_headers_complete(self) -> None:
        self._has_headers = True
        self._stop_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._timer is not None:  # the next request has begun: from here on it is its client that we wait for
            self._stop_timer()
            self._timer = self.loop.call_later(self.headers_s, self._give_up)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def handle_websocket_upgrade(self) -> None:
        """Another protocol goes on with it, which has limits of its own."""
        self._leave()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._stop_timer()
        self._has_headers, self._num_header_bytes = False, 0
        self._timer = self.loop.call_later(self.headers_s, self._give_up)

    def _give_up(self) -> None:
        if self.flow.read_paused:  # it is we who do not read: a request of this connection is being answered
            self._timer = self.loop.call_later(self.headers_s, self._give_up)
        else:
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._stop_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self._address is not None:
            self.room.give(self._address)
            self._address = None


def common_name(certificate: Any) -> str | None:
    """Of a verified certificate, as Python's ssl shows it; None without one, or where it has none or several."""
    if not certificate:
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names[0] if len(names) == 1 else None


def _probe(connected: Any) -> None:
    """Have the system find out when the peer is gone."""
    if connected is None:
        return
    with suppress(OSError):  # a unix socket knows none of this
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES:
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
