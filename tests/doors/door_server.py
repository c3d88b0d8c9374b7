"""`symphony` as it is, but the gRPC door loses patience in seconds rather than half a minute, and has room for 600 connections."""

import sys

from vllm_symphony.cli.main import main
from vllm_symphony.edge import server

SHORT = {
    "grpc.keepalive_time_ms": 4000,
    "grpc.keepalive_timeout_ms": 4000,
    "grpc.http2.ping_timeout_ms": 4000,
    "grpc.server_handshake_timeout_ms": 2000,
    "grpc.max_allowed_incoming_connections": 600,
    "grpc.max_concurrent_streams": 1000,
}

if __name__ == "__main__":
    assert SHORT.keys() <= dict(server._OPTIONS).keys()
    server._OPTIONS = tuple((name, SHORT.get(name, value)) for name, value in server._OPTIONS)
    sys.exit(main())
