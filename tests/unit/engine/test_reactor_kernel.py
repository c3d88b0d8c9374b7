"""The real kernel and reactor with real program processes; only the device is made up. After each test nothing is left."""

import json
import os
import time

import pytest

from tests.unit.engine.reactor_rig import MODEL, WAIT_S, Client, EchoDevice, Footprint
from vllm_symphony.abi.calls import Attach, Cancel, Forward, Kill, NoArgs, Open, PidArgs, Ps, Random, Sleep, Spawn, Stat, Wait
from vllm_symphony.abi.types import pack_tokens
from vllm_symphony.engine.reactor import Reactor
from vllm_symphony.errors import BadFile, Interrupted
from vllm_symphony.kernel.kernel import Kernel


class Rig:
    """A running machine, and one client of it."""

    def __init__(self, path, **options):
        self.kernel = Kernel(MODEL, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns())
        self.device = EchoDevice()
        self.reactor = Reactor(self.kernel, self.device, socket_path=path, principal="ann", **options)
        self.reactor.start()
        self.path = path

    def settle(self):
        """Wait until all has ended; then the kernel's invariants hold and nothing is left."""
        deadline = time.monotonic() + WAIT_S
        while not self.reactor.run_in_reactor(lambda k: k.idle()):
            assert time.monotonic() < deadline, self.kernel.counters()
            os.sched_yield()
        self.reactor.run_in_reactor(lambda k: k.check())
        self.reactor.check_idle()


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    footprint = Footprint()
    rig = Rig(str(tmp_path_factory.mktemp("run") / "s"), output_bytes_per_s=1 << 30)
    yield rig
    rig.reactor.stop()
    footprint.check()


@pytest.fixture
def client(rig):
    rig.device.hold = False
    c = Client(rig.path)
    yield c
    c.close()
    rig.settle()


def spawn(client, source, **more):
    return client.ask("spawn", Spawn(source=source, name="prog.py", **more)).pid


def events(client, pid):
    """All events of a process until it ended."""
    parts = []
    client.ask("attach", Attach(pid), parts)
    return [e for p in parts for e in p.events]


def finish(client, pid):
    """(exit status, stdout, stderr)"""
    seen = events(client, pid)
    text = {k: "".join(e.text for e in seen if e.kind == k) for k in ("stdout", "stderr")}
    return client.ask("wait", Wait(pid)).exit, text["stdout"], text["stderr"]


PROGRAM = """
from vllm_symphony.abi.calls import Emit, FdArgs, Forward, Open
from vllm_symphony.abi.types import pack_tokens
from vllm_symphony.lip.transport import call, post

async def main(n: int = 2):
    print("begin")
    fd = (await call("open", Open(tokens=pack_tokens([1, 2, 3])))).fd
    for i in range(n):
        r = await call("forward", Forward(fd, pack_tokens([i])))
    post("emit", Emit("{}"))
    print("end")
    return r.length
"""


def test_a_program_runs_from_spawn_to_its_value(client):
    pid = spawn(client, PROGRAM, args='{"n": 3}')

    seen = events(client, pid)
    ended = client.ask("wait", Wait(pid))

    kinds = [e.kind for e in seen]
    assert kinds[0] == "started" and kinds[-1] == "exit" and kinds.index("stdout") < kinds.index("emit")
    assert "".join(e.text for e in seen if e.kind == "stdout") == "begin\nend\n"
    assert json.loads(seen[-1].text)["code"] == 0
    assert (ended.exit.code, ended.exit.value) == (0, "6")
    assert ended.usage.usage.num_forwards == 3 and ended.usage.usage.cpu_s > 0


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("def main():\n    raise KeyError('mine')  # here", 1, "line 2, in main\n    raise KeyError('mine')  # here"),
        ("def main(:", 2, "invalid syntax"),
        ("x = 1", 2, "main"),
        ("import os\ndef main(): os._exit(3)", 3, ""),
        ("import ctypes\ndef main(): ctypes.string_at(0)", 139, ""),
        ("def main(): raise SystemExit(4)", 4, ""),
    ],
)
def test_every_end_reaches_the_one_who_waits(client, source, code, says):
    status, _, stderr = finish(client, spawn(client, source))

    assert status.code == code
    assert says in stderr


def test_an_endless_loop_is_killed(client):
    pid = spawn(client, "def main():\n    print('in', flush=True)\n    while True: pass")
    while client.ask("ps", Ps(pid)).processes[0].state != "running":
        pass

    client.ask("kill", Kill(pid, "KILL"))

    assert client.ask("wait", Wait(pid)).exit.code == 137


def test_term_cancels_a_call_in_flight_at_the_device(rig, client):
    rig.device.hold = True
    pid = spawn(client, PROGRAM)
    while "forward" not in client.ask("ps", Ps(pid)).processes[0].waiting:
        pass

    client.ask("kill", Kill(pid, "TERM"))

    assert client.ask("wait", Wait(pid)).exit.code == 130


def test_a_call_is_cancelled_and_answers_eintr(client):
    call_id = client.send("sleep", Sleep(1000))
    client.send("cancel", Cancel(call_id))

    answers = {a.id: a for a in (client.answer(), client.answer())}
    assert answers[call_id].err.reason == Interrupted.reason


def test_a_sleep_ends_when_it_should(client):
    start = time.monotonic()

    client.ask("sleep", Sleep(0.05))

    assert 0.05 <= time.monotonic() - start < 5


def test_a_client_that_vanishes_takes_its_children_and_calls_along(rig, client):
    rig.device.hold = True
    other = Client(rig.path)
    spawn(other, "import asyncio\nasync def main(): await asyncio.sleep(1000)")
    fd = other.ask("open", Open(tokens=pack_tokens([1]))).fd
    other.send("forward", Forward(fd, pack_tokens([2])))
    other.send("sleep", Sleep(1000))
    other.close()  # the fixture waits until the machine is idle


def test_fds_are_a_process_own(rig, client):
    other = Client(rig.path)
    fd = client.ask("open", Open(tokens=pack_tokens([1]))).fd

    with pytest.raises(BadFile):
        other.ask("stat", Stat(fd=fd))

    other.close()


def test_the_output_of_a_talkative_program_is_bounded_in_memory(rig, client):
    pid = spawn(client, "def main():\n    line = 'x' * 1023\n    for _ in range(4 * 1024): print(line)")

    assert client.ask("wait", Wait(pid)).exit.code == 0


def test_fifty_programs_at_once(client):
    pids = [spawn(client, PROGRAM) for _ in range(50)]

    assert [client.ask("wait", Wait(pid)).exit.value for pid in pids] == ["5"] * 50


def test_the_engines_death_ends_programs_with_enodev(tmp_path):
    footprint = Footprint()
    rig = Rig(str(tmp_path / "s"))
    rig.device.hold = True
    client = Client(rig.path)
    pid = spawn(client, PROGRAM)
    while "forward" not in client.ask("ps", Ps(pid)).processes[0].waiting:
        pass

    rig.device.on_death(RuntimeError("boom"))

    ended = client.ask("wait", Wait(pid)).exit
    assert (ended.code, ended.reason) == (70, "device")
    rig.reactor.stop()
    client.close()
    footprint.check()


def test_stop_with_everything_in_flight_leaves_nothing(tmp_path):
    footprint = Footprint()
    rig = Rig(str(tmp_path / "s"))
    rig.device.hold = True
    client = Client(rig.path)
    for _ in range(5):
        spawn(client, PROGRAM)
        spawn(client, "def main():\n    while True: print('x' * 1000)")
    fd = client.ask("open", Open(tokens=pack_tokens([1]))).fd
    client.send("forward", Forward(fd, pack_tokens([2])))
    client.ask("getpid", NoArgs())

    rig.reactor.stop()

    assert rig.kernel.idle(), rig.kernel.counters()
    rig.kernel.check()
    client.close()
    footprint.check()


def test_why_tells_of_a_peer_that_does_not_take_its_answers(rig, client):
    slow = Client(rig.path)
    for _ in range(100):
        slow.send("random", Random(1 << 16))
    deadline = time.monotonic() + WAIT_S

    while (thread := client.ask("why", PidArgs(slow.pid)).threads[0]).cause != "reader":
        assert time.monotonic() < deadline, thread

    assert thread.detail.endswith("bytes of answers are not read; its calls wait until they are")
    assert [len(slow.answer().ok) > 1 << 16 for _ in range(100)] == [True] * 100
    assert client.ask("why", PidArgs(slow.pid)).threads[0].cause == "running"
    slow.close()
