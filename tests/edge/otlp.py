"""A collector: OTLP by gRPC and by HTTP, on real sockets, that keeps what it is sent."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


class Collected:
    """Spans so far."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.gate: threading.Event | None = None  # while it is not set nothing is answered
        self._changed = threading.Condition()

    def take(self, request: ExportTraceServiceRequest) -> None:
        if self.gate is not None:
            self.gate.wait(60)
        with self._changed:
            for group in request.resource_spans:
                self.resources.append({a.key: a.value.string_value for a in group.resource.attributes})
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
            self._changed.notify_all()

    def wait_for(self, found: Callable[[list[Any]], Any]) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: found(self.spans), 60), [s.name for s in self.spans]
            return found(self.spans)


class _Service(TraceServiceServicer):
    def __init__(self, collected: Collected) -> None:
        self._collected = collected

    def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:
        self._collected.take(request)
        return ExportTraceServiceResponse()


@contextmanager
def by_grpc() -> Iterator[tuple[str, Collected]]:
    collected = Collected()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(_Service(collected), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}", collected
    finally:
        if collected.gate is not None:
            collected.gate.set()
        server.stop(None).wait(60)


@contextmanager
def by_http() -> Iterator[tuple[str, Collected]]:
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(self.headers.get("content-encoding", ""), bytes)(body)
            is_ours = self.path == "/v1/traces"
            if is_ours:
                collected.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200 if is_ours else 404)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", collected
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
