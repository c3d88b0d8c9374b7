"""Beside test_half_open.py. `serve`: a server that looks after its peers each second; `client`: one that connects and stalls."""

import os
import signal
import sys

import grpc

from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.cli.main import main
from vllm_symphony.edge import server
from vllm_symphony.proto.v1 import session_pb2, session_pb2_grpc


def stall(address: str) -> None:
    """Connect a session, tell its pid, and be stopped as a machine that lost its power."""
    hello = session_pb2.ConnectRequest(hello=session_pb2.Hello(abi_major=ABI_MAJOR, abi_minor=ABI_MINOR, lease_s=1))

    def requests():
        yield hello
        signal.pause()

    answers = session_pb2_grpc.SessionServiceStub(grpc.insecure_channel(address)).Connect(requests())
    print(next(answers).hello.pid, flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        stall(sys.argv[2])
    else:
        often = {"grpc.keepalive_time_ms": 1000, "grpc.keepalive_timeout_ms": 1000, "grpc.http2.ping_timeout_ms": 1000}
        server._OPTIONS = tuple((name, often.get(name, value)) for name, value in server._OPTIONS)
        sys.exit(main())
