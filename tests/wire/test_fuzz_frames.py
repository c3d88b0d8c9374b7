"""Anything on the kernel's socket: whoever sends it gets typed errors or is cut off with a reason; the others are served."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.host import ServerHost, eventually
from tests.counts import count
from tests.unit.engine.reactor_rig import Client
from tests.wire.fuzz import BOMBS, envelopes, streams
from vllm_symphony.abi.calls import Hello, NoArgs
from vllm_symphony.abi.codec import call_frame, read_answer
from vllm_symphony.abi.frame import FrameReader, frame
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.engine import peers
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.errors import BY_REASON

OPS = tuple(op for op in CALLS if op != "spawn")  # processes cost time, and do not read what strangers say
HELLOS = {
    "stranger": b"",
    "client": call_frame(0, "hello", Hello(ABI_MAJOR, ABI_MINOR, features=("chunks",))),
    "edge": call_frame(0, "hello", Hello(ABI_MAJOR, ABI_MINOR, "edge")),
    "session": call_frame(0, "hello", Hello(ABI_MAJOR, ABI_MINOR, lease_s=0.01)),
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHost]:
    host = ServerHost("sim-server", SimDevice(), str(tmp_path_factory.mktemp("run") / "kernel.sock"))
    yield host
    host.stop()


@pytest.fixture
def friend(machine: ServerHost) -> Iterator[Client]:
    """Somebody else, who is served all the time; at the end all is well and nothing is left."""
    friend = Client(machine.path)
    yield friend
    assert machine.reactor.is_alive(), repr(machine.reactor.failure)
    friend.ask("ping", NoArgs())
    for name in [f.path for f in friend.ask("list", CALLS["list"].args()).files]:
        friend.ask("unlink", CALLS["unlink"].args(name))
    friend.close()
    machine.settle()


def say(machine: ServerHost, data: bytes, friend: Client) -> list[bytes]:
    """Send it all, hang up, and give what was answered; the friend is served meanwhile."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20.0)
        sock.connect(machine.path)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # cut off in the middle of it
        friend.ask("ping", NoArgs())
        heard = FrameReader()
        bodies: list[bytes] = []
        try:
            while answer := sock.recv(1 << 16):
                bodies += heard.feed(answer)
        except ConnectionResetError:
            pass
    return bodies


@pytest.mark.parametrize("who", HELLOS)
@pytest.mark.timeout(900)
def test_any_bytes_get_typed_errors_or_the_end_of_the_connection(machine: ServerHost, friend: Client, who: str):
    @settings(max_examples=count(60, 5000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(streams(envelopes(OPS)), st.booleans())
    def run(data: bytes, twice: bool) -> None:
        for body in say(machine, HELLOS[who] + data + (data if twice else b""), friend):
            answer = read_answer(body)
            assert answer.err is None or answer.err.reason in BY_REASON

    run()


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_a_bomb_is_refused_with_a_reason(machine: ServerHost, friend: Client, bomb: bytes):
    for hello in ("client", "edge", "session", "stranger"):
        bodies = say(machine, HELLOS[hello] + frame(bomb), friend)

        last = read_answer(bodies[-1])
        assert last.err is not None and last.err.reason == "EINVAL", last


def test_a_peer_that_never_reads_delays_itself_only(machine: ServerHost, friend: Client):
    deaf = Client(machine.path)
    deaf.sock.setblocking(False)
    calls = call_frame(1, "random", CALLS["random"].args(1 << 13)) * 20
    sent = 0
    try:
        while sent < 1 << 28:
            sent += deaf.sock.send(calls)
            friend.ask("ping", NoArgs())
    except BlockingIOError:
        pass  # held back: neither read nor answered any more

    friend.ask("ping", NoArgs())
    held = machine.reactor.run_in_reactor(lambda _: machine.reactor._peers._connections[deaf.pid].out_bytes)
    assert held < 4 << 20
    deaf.close()


def test_strangers_that_say_nothing_hold_nothing_for_long(machine: ServerHost, friend: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers, "PATIENCE_NS", 100_000_000)
    strangers = [Client(machine.path, role=None) for _ in range(200)]
    for number, stranger in enumerate(strangers):
        stranger.sock.sendall(HELLOS["client"][: number % len(HELLOS["client"])])

    for stranger in strangers:
        answer = stranger.answer()
        assert answer.err.reason == "ETIMEDOUT"
        stranger.close()
    eventually(lambda: machine.reactor.run_in_reactor(lambda _: machine.reactor._peers.num_connected()) == 1, "strangers stay")


def test_without_fds_for_new_ones_those_who_are_there_are_served_and_the_others_later(machine: ServerHost, friend: Client):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(30)]
    spare = os.open("/dev/null", os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 5, hard))
    try:
        for sock in waiting:
            sock.settimeout(20.0)
            sock.connect(machine.path)
            sock.sendall(call_frame(1, "hello", Hello(ABI_MAJOR, ABI_MINOR)))
        for _ in range(100):
            friend.ask("ping", NoArgs())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    for sock in waiting:
        assert read_answer(FrameReader().feed(sock.recv(1 << 16))[0]).ok
        sock.close()


def test_one_turn_takes_a_bounded_share_of_a_flood(machine: ServerHost, friend: Client, record_property):
    """What the others wait for is one turn, in which each peer gets its share (engine/connection.py)."""
    longest_s = 0.0
    flood = Client(machine.path)
    flood.sock.setblocking(False)
    data = call_frame(0, "emit", CALLS["emit"].args("1")) * 2000
    for _ in range(count(50, 1000)):
        with suppress(BlockingIOError):
            flood.sock.send(data)
        began = time.perf_counter()
        friend.ask("ping", NoArgs())
        longest_s = max(longest_s, time.perf_counter() - began)

    print(f"longest ping beside a flood: {longest_s * 1e3:.1f} ms")
    record_property("longest_ping_ms", longest_s * 1e3)
    assert longest_s < 5.0, "somebody was not served"
    flood.close()
