"""A client that vanished without a word, as a machine without power does: its session's lease must begin all the same."""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.commanded import ROOT, environment
from tests.conformance.host import eventually
from tests.wire.conftest import Served, until_serving
from vllm_symphony.proto.v1.process_pb2 import ListProcessesRequest
from vllm_symphony.proto.v1.process_pb2_grpc import ProcessServiceStub

SCRIPT = str(Path(__file__).with_name("half_open.py"))


@pytest.mark.timeout(120)
def test_the_lease_of_a_client_that_vanished_begins_and_ends(tmp_path: Path):
    command = [sys.executable, SCRIPT, "serve", "--device", "sim"]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment(tmp_path), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    served = Served(tmp_path, server)
    client = None
    try:
        with grpc.insecure_channel(served.address) as channel:
            until_serving(channel, served)
            client = subprocess.Popen(
                [sys.executable, SCRIPT, "client", served.address], cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE
            )
            assert client.stdout is not None
            pid = int(client.stdout.readline())
            stub = ProcessServiceStub(channel)

            def reason() -> str:
                (found,) = [p for p in stub.ListProcesses(ListProcessesRequest()).processes if p.pid == pid]
                return found.exit.reason

            eventually(lambda: reason() == "lease", lambda: f"the session ended by {reason()!r}")
    finally:
        if client is not None:
            client.kill()
            client.communicate()
        server.terminate()
        server.wait(60)
