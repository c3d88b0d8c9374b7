"""The reactor's socket side, with a scripted kernel: peers that are slow, gone, hostile, or many."""

import os
import resource
import select
import socket
import stat
import struct
import threading
import time

import pytest

from tests.unit.engine.reactor_rig import WAIT_S, Client, EchoDevice, Footprint, ScriptedKernel
from vllm_symphony.abi.calls import FdArgs, Forward, Hello, NoArgs, Read, Sleep
from vllm_symphony.abi.codec import call_frame
from vllm_symphony.abi.types import Credentials
from vllm_symphony.engine import connection
from vllm_symphony.engine.reactor import Reactor
from vllm_symphony.errors import FileExists, InvalidArgument, NameTooLong, NoSuchCall, NotOwner, NotSupported


@pytest.fixture
def kernel():
    return ScriptedKernel()


@pytest.fixture
def device():
    return EchoDevice()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s" / "symphony.sock")


@pytest.fixture
def reactor(kernel, device, path):
    footprint = Footprint()
    reactor = Reactor(kernel, device, socket_path=path, principal="ann")
    reactor.start()
    yield reactor
    reactor.stop()
    reactor.stop()
    footprint.check()
    assert not os.path.exists(path)


@pytest.fixture
def client(reactor, path):
    c = Client(path)
    yield c
    c.close()


def gone(kernel, pid):
    kernel.wait_for(lambda d: ("disconnected", pid) in d)


def test_a_client_says_hello_and_calls(client, kernel, reactor):
    assert client.ask("getpid", NoArgs()).pid == client.pid
    assert client.ask("forward", Forward(fd=3, tokens=b"\0\0\0\0")).length == 1
    assert ("connect", client.pid, "client", "ann") in kernel.diary

    client.close()
    gone(kernel, client.pid)
    reactor.check_idle()


def test_the_socket_is_for_its_owner_only(reactor, path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_a_second_server_is_refused_and_the_first_one_stays(client, reactor, path):
    with pytest.raises(FileExists, match="already answers"):
        Reactor(ScriptedKernel(), EchoDevice(), socket_path=path, principal="ann").start()

    assert client.ask("getpid", NoArgs()).pid == client.pid


def test_a_crashed_servers_socket_is_replaced_but_no_other_file(kernel, tmp_path):
    stale, plain = tmp_path / "stale", tmp_path / "plain"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(stale))
    plain.write_text("precious")

    reactor = Reactor(kernel, EchoDevice(), socket_path=str(stale), principal="ann")
    reactor.start()
    Client(str(stale)).close()
    reactor.stop()

    for path, error in ((str(plain), FileExists), (str(tmp_path / ("x" * 120)), NameTooLong)):
        refused = Reactor(ScriptedKernel(), EchoDevice(), socket_path=path, principal="ann")
        with pytest.raises(error):
            refused.start()
        refused.stop()
    assert plain.read_text() == "precious"


@pytest.mark.parametrize(
    ("op", "args", "says"),
    [
        ("getpid", NoArgs(), "first call is hello"),
        ("hello", Hello(99, 0), "ABI 99"),
        ("hello", Hello(1, 0, "program"), "client or edge"),
        ("hello", Hello(1, 0, "root"), "client or edge"),
    ],
)
def test_a_bad_hello_is_told_why_and_cut_off(reactor, path, op, args, says):
    c = Client(path, role=None)

    with pytest.raises((InvalidArgument, NotSupported), match=says):
        c.ask(op, args)

    assert c.answer() is None
    c.close()
    reactor.check_idle()


def test_wrong_calls_are_answered_and_the_connection_lives(client, kernel):
    with pytest.raises(InvalidArgument, match="unknown field"):
        client.ask("forward", {"fd": 1, "tokenz": b""})
    with pytest.raises(InvalidArgument, match="expected `int`"):
        client.ask("close", {"fd": "three"})
    with pytest.raises(NoSuchCall, match="frobnicate"):
        client.ask("frobnicate", {})
    with pytest.raises(NotOwner):
        client.ask("getpid", NoArgs(), cred=Credentials("bob"))

    assert client.ask("getpid", NoArgs()).pid == client.pid
    assert len([x for x in kernel.diary if x[0] == "reject"]) == 4


def test_the_edge_may_speak_for_others(reactor, kernel, path):
    edge = Client(path, "edge")

    edge.ask("close", FdArgs(3), cred=Credentials("bob"))

    assert ("call", edge.pid, "close", FdArgs(3), 0, Credentials("bob")) in kernel.diary
    edge.close()


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack("<I", 100 << 20) + b"x" * (1 << 20),  # a 100 MB frame: its length is enough
        struct.pack("<I", 5) + b"\xff" * 5,
        struct.pack("<I", 0),
        struct.pack("<I", 1 << 20) + b"\x91" * (1 << 20),  # nesting
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(4096),
    ],
    ids=["huge", "no map", "empty", "nested", "http", "random"],
)
def test_garbage_ends_only_its_own_connection(reactor, kernel, client, path, garbage):
    bad = Client(path)
    try:
        bad.sock.sendall(garbage)
        bad.sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass

    gone(kernel, bad.pid)
    answers = list(iter(bad.answer, None))
    assert all(a.id == 0 and a.err.reason == "EINVAL" for a in answers)
    assert client.ask("getpid", NoArgs()).pid == client.pid
    bad.close()


def test_a_large_refused_frame_ends_the_connection(reactor, kernel, path):
    bad = Client(path)

    with pytest.raises(InvalidArgument, match="length <= 65536"):
        bad.ask("generate", {"fd": 1, "stop": [""] * 1_000_000})

    assert bad.answer() is None
    bad.close()


def test_frames_may_come_in_any_pieces(client):
    data = b"".join(call_frame(i, "getpid", NoArgs()) for i in range(100, 110))
    for i in range(0, len(data), 7):
        client.sock.sendall(data[i : i + 7])

    assert [client.answer().id for _ in range(10)] == list(range(100, 110))


def test_a_client_that_vanishes_in_a_call_is_forgotten(reactor, kernel, path):
    c = Client(path)
    c.send("sleep", Sleep(1000))
    c.send("forward", Forward(fd=1))
    c.close()

    gone(kernel, c.pid)
    kernel.wait_for(lambda d: any(x[:3] == ("call", c.pid, "sleep") for x in d))
    reactor.check_idle()


def test_a_call_without_id_gets_no_reply(client):
    client.sock.sendall(call_frame(0, "getpid", NoArgs()))

    assert client.ask("getpid", NoArgs()).pid == client.pid


def test_a_slow_reader_waits_alone_and_gets_everything(reactor, kernel, client, path):
    kernel.big = b"x" * (300 << 10)
    slow = Client(path)
    for _ in range(20):  # 6 MiB of replies, unread
        slow.send("read", Read(fd=1))
    kernel.wait_for(lambda d: any(x[:3] == ("call", slow.pid, "read") for x in d))

    assert client.ask("getpid", NoArgs()).pid == client.pid
    sizes = [len(slow.answer().ok) for _ in range(20)]

    assert min(sizes) > 300 << 10
    slow.close()


def test_above_the_high_water_mark_calls_wait_and_none_is_lost(reactor, kernel, client, path):
    kernel.big = b"x" * (64 << 10)
    slow = Client(path)
    slow.sock.sendall(b"".join(call_frame(i, "read", Read(fd=1)) for i in range(10, 410)))
    kernel.wait_for(lambda d: any(x[:3] == ("call", slow.pid, "read") for x in d))
    for _ in range(20):
        client.ask("getpid", NoArgs())

    assert sum(x[:3] == ("call", slow.pid, "read") for x in kernel.diary) < 100  # 1 MiB of replies, and what the socket holds
    assert [slow.answer().id for _ in range(400)] == list(range(10, 410))
    slow.close()


def test_who_lets_sixteen_megabytes_pile_up_is_cut_off(reactor, kernel, path):
    stuck = Client(path)
    pid = stuck.pid
    reply = b"x" * (1 << 20)
    conn = reactor.run_in_reactor(lambda k: reactor._peers._connections[pid])

    for _ in range(40):
        reactor.run_in_reactor(lambda k: conn.queue(reply))

    gone(kernel, pid)
    assert connection.CUT_OFF_BYTES == 16 << 20
    stuck.close()
    reactor.check_idle()


def test_a_flood_of_calls_does_not_starve_a_neighbour(reactor, client, path):
    flood, over = Client(path), threading.Event()

    def drown():
        data = call_frame(5, "getpid", NoArgs()) * 500
        while not over.is_set():
            flood.sock.sendall(data)
            while select.select([flood.sock], [], [], 0)[0]:
                flood.sock.recv(1 << 20)

    thread = threading.Thread(target=drown)
    thread.start()
    took = []
    for _ in range(50):
        t = time.perf_counter()
        client.ask("getpid", NoArgs())
        took.append(time.perf_counter() - t)
    over.set()
    thread.join()
    flood.close()

    assert sorted(took)[25] < 0.05


def test_device_effects_of_a_turn_travel_together_in_order(reactor, device, client):
    ids = [client.send("forward", Forward(fd=1)) for _ in range(20)]

    assert [client.answer().id for _ in ids] == ids
    jobs = [e.job for batch in device.batches for e in batch]
    assert jobs == sorted(jobs) and len(jobs) == 20


def test_out_of_files_new_peers_wait_and_are_served_later(reactor, client, path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket(socket.AF_UNIX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    try:
        waiting.connect(path)
        assert client.ask("getpid", NoArgs()).pid == client.pid
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    waiting.settimeout(WAIT_S)
    waiting.sendall(call_frame(1, "hello", Hello(1, 0)))
    assert waiting.recv(100)
    waiting.close()


def test_timers_tick_the_kernel(reactor, kernel):
    due = time.monotonic_ns() + 20_000_000
    reactor.run_in_reactor(lambda k: setattr(k, "deadline_ns", due))

    t_ns = kernel.wait_for(lambda d: next((x[1] for x in d if x[0] == "tick"), None))

    assert due <= t_ns < due + 5_000_000_000


def test_the_devices_death_reaches_the_kernel(kernel, device, path):
    heard = []
    reactor = Reactor(kernel, device, socket_path=path, principal="ann", on_death=heard.append)
    reactor.start()
    device.on_death(RuntimeError("out of memory"))

    kernel.wait_for(lambda d: ("device_lost", "the engine died: out of memory") in d)
    reactor.stop()
    assert len(heard) == 1


def test_an_error_of_the_kernel_ends_the_reactor_cleanly(kernel, device, path):
    footprint = Footprint()
    heard: list[BaseException] = []
    died = threading.Event()
    kernel.tick = lambda now_ns: 1 // 0
    reactor = Reactor(kernel, device, socket_path=path, principal="ann", on_death=lambda e: (heard.append(e), died.set()))
    reactor.start()
    c = Client(path)
    kernel.deadline_ns = 0
    c.send("sleep", Sleep(1))

    assert died.wait(WAIT_S) and isinstance(heard[0], ZeroDivisionError)
    assert c.answer() is None
    c.close()
    assert not reactor.is_alive()
    reactor.stop()
    footprint.check()


def test_stop_tells_clients_and_ends_calls_in_flight(kernel, device, path):
    reactor = Reactor(kernel, device, socket_path=path, principal="ann")
    reactor.start()
    c = Client(path)
    c.send("sleep", Sleep(1000))

    threads = [threading.Thread(target=reactor.stop) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(WAIT_S)

    assert c.answer().err.reason == "ENODEV" and c.answer() is None
    c.close()


def test_stop_before_start_leaves_nothing(kernel, device, path):
    footprint = Footprint()

    Reactor(kernel, device, socket_path=path, principal="ann").stop()

    footprint.check()
