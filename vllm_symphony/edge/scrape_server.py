"""A small HTTP server for scrapes (edge/scrape_server.py): a thread a request, one path, one answer.

prometheus_client has one too, but with TLS it shakes hands before it takes the next connection: a client that says nothing would
keep all others out. Here the handshake is the request's own, and whoever says nothing for `PATIENCE_S` is hung up on.
"""

from __future__ import annotations

import socket
import ssl
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from vllm_symphony.edge.figures import with_colons

PATIENCE_S = 10.0
PATH = "/metrics"


class ScrapeServer(ThreadingMixIn, WSGIServer):
    """`serve_forever` on a thread of its own; `shutdown`, `server_close` from another."""

    daemon_threads = True
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(PATIENCE_S)
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        try:
            super().finish_request(request, client_address)
        finally:
            if self.tls is not None:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who hangs up in the middle, or speaks no HTTP, is no news."""


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """The access log is for calls."""


def scrape_server(host: str, port: int, registry: CollectorRegistry, tls: ssl.SSLContext | None) -> ScrapeServer:
    """Listen there. Raises OSError."""
    answer = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"].rstrip("/") not in (PATH, ""):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"metrics are at /metrics\n"]
        environ["HTTP_ACCEPT"] = with_colons(environ.get("HTTP_ACCEPT", ""))
        return answer(environ, start_response)

    kind = _Six if ":" in host else ScrapeServer
    server = make_server(host, port, app, server_class=kind, handler_class=_Quiet)
    server.tls = tls
    return server


class _Six(ScrapeServer):
    address_family = socket.AF_INET6
