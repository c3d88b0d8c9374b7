"""The device dies under running programs: each call is ENODEV, each program ends with 70, nothing waits, nothing is left."""

from __future__ import annotations

import pytest

from tests.conformance.host import ServerHost, eventually
from tests.unit.engine.reactor_rig import Client
from vllm_symphony.abi.calls import FdArgs, Forward, NoArgs, Open, RenderChat
from vllm_symphony.abi.types import pack_tokens
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.errors import DeviceLost

PROGRAM = """
from vllm_symphony import lip

async def main(op: str):
    async with lip.open(tokens=[50, 51]) as f:
        try:
            if op == "forward":
                await f.forward([1] * 500)
            elif op == "generate":
                await f.generate(4000, ignore_eos=True)
            else:
                await lip.sleep(600)
        except lip.DeviceLost as e:
            print(e.reason)
            raise
"""


@pytest.fixture
def server(tmp_path):
    host = ServerHost("sim-server", SimDevice(speed=0.1), str(tmp_path / "s"))
    host.begin()
    yield host
    host.client.close()
    host.stop()
    host.kernel.check()
    assert host.kernel.idle(), host.kernel.counters()


def test_programs_get_enodev_and_exit_code_70(server):
    server.device.freeze()
    pids = {op: server.spawn(PROGRAM, op=op) for op in ("forward", "generate", "sleep")}
    for op, pid in pids.items():
        server.until_waiting(pid, op)

    server.device.die(RuntimeError("out of electrons"))

    for op, pid in pids.items():
        ended = server.wait(pid)
        assert (ended.status.code, ended.status.reason) == (70, "device")
        assert "out of electrons" in str(ended.status.error)
        if op != "sleep":
            assert ended.stdout == "ENODEV\n"


def test_after_it_control_calls_work_and_device_calls_are_refused(server):
    client: Client = server.client
    fd = client.ask("open", Open(tokens=pack_tokens([50]))).fd
    server.device.die(RuntimeError("out of electrons"))
    eventually(lambda: not server.device._thread.is_alive(), "the device lives")

    for op, args in (("forward", Forward(fd)), ("render_chat", RenderChat("[]"))):
        with pytest.raises(DeviceLost):
            client.ask(op, args)
    assert client.ask("fork", FdArgs(fd)).length == client.ask("fork", FdArgs(fd)).length
    assert "kernel" in client.ask("info", NoArgs()).json
