import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.commanded import environment
from tests.conformance.host import ServerHost
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.proto.v1.system_pb2 import PingRequest
from vllm_symphony.proto.v1.system_pb2_grpc import SystemServiceStub

START_S = 60.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ServerHost]:
    """The machine behind its socket, over the simulator. At the end its invariants hold and nothing is left."""
    host = ServerHost("sim-server", SimDevice(num_pages=8192), str(tmp_path / "kernel.sock"))
    yield host
    try:
        assert host.reactor.is_alive(), f"the reactor died: {host.reactor.failure!r}"
        host.settle()
    finally:
        host.stop()


@dataclass
class Served:
    """`symphony serve --device sim`, in processes of its own, at the most talkative."""

    run_dir: Path
    process: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        return f"unix:{self.run_dir / 'symphony.sock'}"

    def said(self) -> str:
        """All that its processes wrote so far."""
        return "".join(path.read_text(errors="replace") for path in self.run_dir.glob("*.log"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run_dir = tmp_path_factory.mktemp("run")
    with (run_dir / "serve.log").open("wb") as log:
        command = [sys.executable, "-m", "vllm_symphony.cli.main", "serve", "--device", "sim", "--log-level", "debug"]
        process = subprocess.Popen(command, env=environment(run_dir), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    served = Served(run_dir, process)
    with grpc.insecure_channel(served.address) as channel:
        until_serving(channel, served)
    yield served
    process.terminate()
    assert process.wait(60) == 0, served.said()[-2000:]


def until_serving(channel: grpc.Channel, served: Served) -> None:
    """The server answers."""
    deadline = time.monotonic() + START_S
    while not _answers(channel):
        assert served.process.poll() is None and time.monotonic() < deadline, served.said()[-2000:]
        time.sleep(0.05)


def _answers(channel: grpc.Channel) -> bool:
    try:
        SystemServiceStub(channel).Ping(PingRequest(), wait_for_ready=True, timeout=START_S)
    except grpc.RpcError:
        return False
    return True


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """gRPC's poller of a finished event loop closes its sockets when it is collected."""
    yield
    gc.collect()
