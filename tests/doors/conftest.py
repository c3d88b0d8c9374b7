import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
import pytest

from tests.commanded import ROOT, environment
from tests.doors.bystander import bystander
from tests.doors.census import Census, kernel_of, settled, taken
from tests.wire.conftest import Served, until_serving
from vllm_symphony.edge.rate import limit_of
from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.proto.v1.system_pb2 import GetInfoRequest, PingRequest
from vllm_symphony.proto.v1.system_pb2_grpc import SystemServiceStub

SCRIPT = str(Path(__file__).with_name("door_server.py"))
FLAGS = ("--rate-limit", "hasty=2/s:4", "--call-limit", "greedy=2")


@dataclass
class Grpc:
    """The gRPC door of one server: its loopback port, and the socket for who looks after it."""

    served: Served
    port: int
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, principal: str, *scopes: str, rate: str | None = None, expires_s: float | None = None) -> str:
        """A new one."""
        name = f"{principal}-{len(self.tokens)}"
        limit = limit_of(rate) if rate else None
        token, text = make(name, principal, now_s=time.time(), scopes=scopes, rate=limit, expires_s=expires_s)
        TokenFile(self.served.run_dir / "state").add(token)
        self.tokens[name] = text
        return text

    def num_connections(self) -> int:
        """How many of its loopback port the server holds, also such as the other end has closed."""
        return sum(c.laddr.port == self.port and c.pid == self.served.process.pid for c in psutil.net_connections("tcp"))

    def revoke(self, text: str) -> None:
        TokenFile(self.served.run_dir / "state").revoke(next(name for name, t in self.tokens.items() if t == text))


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grpc]:
    """One server on the simulator for all rows."""
    run_dir = tmp_path_factory.mktemp("door")
    with (run_dir / "serve.log").open("wb") as log:
        command = [sys.executable, SCRIPT, "serve", "--device", "sim", "--listen", "127.0.0.1:0", "--log-level", "info", *FLAGS]
        process = subprocess.Popen(command, env=environment(run_dir), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)
    served = Served(run_dir, process)
    with grpc.insecure_channel(served.address) as channel:
        until_serving(channel, served)
    address = (run_dir / "token").read_text().splitlines()[-1]
    yield Grpc(served, int(address.rpartition(":")[2]))
    process.terminate()
    assert process.wait(30) == 0, served.said()[-2000:]
    assert "Traceback" not in served.said(), served.said()[-4000:]


@pytest.fixture
def calm(door: Grpc) -> Iterator[None]:
    """A bystander is served all the time; when the test is over, nothing is left in any process of the server."""
    with grpc.insecure_channel(door.served.address) as channel:
        stub, process = SystemServiceStub(channel), psutil.Process(door.served.process.pid)
        stub.Ping(PingRequest(), timeout=30)

        def look() -> Census:
            return taken(process, lambda: kernel_of(stub.GetInfo(GetInfoRequest(), timeout=30).detail))

        before = look()
        with bystander(lambda: stub.Ping(PingRequest(), timeout=30)):
            yield
        gc.collect()  # a channel's connection ends with it
        assert door.served.process.poll() is None
        settled(before, look, spare=4)
