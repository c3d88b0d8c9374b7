"""Sessions behind a reactor: connections that come, go, take over and hang; with the kernel, and a device that answers as told."""

import socket
import time
from contextlib import closing

import pytest

from tests.conformance.host import eventually
from tests.unit.engine.reactor_rig import MODEL, WAIT_S, Client, EchoDevice, Footprint
from tests.wire.remote import Remote
from vllm_symphony.abi.calls import (
    Append,
    Cancel,
    Emit,
    Forward,
    Hello,
    Kill,
    Mkdir,
    NoArgs,
    Open,
    PathArgs,
    Ps,
    Random,
    Sleep,
    Spawn,
    Watch,
)
from vllm_symphony.abi.codec import call_frame, read_answer, read_part
from vllm_symphony.abi.frame import CHUNK, FrameReader
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Credentials, Distribution, OpenFlags, pack_tokens
from vllm_symphony.engine import peers, session
from vllm_symphony.engine.reactor import Reactor
from vllm_symphony.errors import BrokenPipe, InvalidArgument, NoSuchProcess, NotOwner, TimedOut, WouldBlock
from vllm_symphony.kernel.kernel import Kernel

MIB = 1 << 20
ANONYMOUS = int(OpenFlags.RDWR | OpenFlags.TMPFILE)
SLEEPER = Spawn("from vllm_symphony import lip\n\nasync def main():\n    await lip.sleep(600)\n", name="p.py")
ME = Credentials("ann", scopes=("run",))


class Rig:
    def __init__(self, path):
        self.path = path
        self.kernel = Kernel(MODEL, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns())
        self.device = EchoDevice()
        self.reactor = Reactor(self.kernel, self.device, socket_path=path, principal="ann")
        self.reactor.start()

    def until_kept(self, remote, num_bytes):
        """So many bytes of answers wait for the session's client."""
        sessions = self.reactor._peers._sessions
        eventually(lambda: self.reactor.run_in_reactor(lambda _: sessions[remote.pid].out_bytes) > num_bytes, "no answers")

    def settle(self):
        """All has ended; then the kernel's invariants hold and nothing is left."""
        eventually(lambda: self.reactor.run_in_reactor(lambda k: k.idle()), lambda: str(self.kernel.counters()))
        eventually(lambda: not self.reactor.run_in_reactor(lambda _: self.reactor._peers.num_connected()), "a connection is left")
        self.reactor.run_in_reactor(lambda k: k.check())
        self.reactor.check_idle()


@pytest.fixture
def rig(tmp_path):
    footprint = Footprint()
    rig = Rig(str(tmp_path / "s"))
    yield rig
    try:
        assert rig.reactor.is_alive(), rig.reactor.failure
        rig.settle()
    finally:
        rig.reactor.stop()
    footprint.check()


@pytest.fixture
def remote(rig):
    remote = Remote(rig.path)
    yield remote
    remote.close()


def opened(remote):
    return remote.ask("open", Open(flags=ANONYMOUS)).fd


def raw(rig):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WAIT_S)
    sock.connect(rig.path)
    return closing(sock)


def test_a_session_goes_on_where_its_connection_broke(rig, remote):
    fd = opened(remote)
    call_id = remote.call("append", Append(fd, pack_tokens([1, 2])))
    remote.send(remote.frame(call_id))
    remote.cut()

    remote.resume()
    remote.settle()

    assert remote.answers[call_id].length == 2
    assert remote.ask("append", Append(fd, pack_tokens([3]))).length == 3


def test_more_answers_than_a_connection_may_hold_are_taken_by_the_next_one(rig, remote):
    rig.device.row = Distribution(0, bytes(6 * MIB), b"", 0.0, 0.0)
    fds = [opened(remote) for _ in range(4)]
    call_ids = [remote.call("forward", Forward(fd, pack_tokens([1]))) for fd in fds]
    remote.send(b"".join(map(remote.frame, call_ids)))  # in one turn: once an answer waits, more calls are refused
    rig.until_kept(remote, 24 * MIB)
    remote.cut()

    remote.resume()
    remote.settle()

    assert all(len(remote.answers[i].distributions[0].ids) == 6 * MIB for i in call_ids)
    remote.ask("ping")


def test_what_a_watch_has_to_tell_waits_until_the_client_takes_what_came_before(rig, remote):
    watching = remote.call("watch", Watch("/"))
    remote.send(remote.frame(watching))
    rig.device.row = Distribution(0, bytes(5 * MIB), b"", 0.0, 0.0)
    computing = remote.call("forward", Forward(opened(remote), pack_tokens([1])))
    remote.send(remote.frame(computing))
    rig.until_kept(remote, 5 * MIB)

    friend = Client(rig.path)
    friend.ask("mkdir", Mkdir("/a"))
    friend.ask("rmdir", PathArgs("/a"))
    friend.sock.close()
    while computing in remote.unanswered:
        remote.hear()
    remote.ask("ping")  # and with it the word that all came
    told = []
    while len(told) < 2:
        remote.hear()
        told = [e.kind for part in remote.parts[watching] for e in read_part("watch", part).events]

    assert told == ["create", "delete"]
    remote.ask("cancel", Cancel(watching))


def test_who_exits_gets_all_answers_first_however_slowly_it_reads(rig):
    remote = Remote(rig.path)
    rig.device.row = Distribution(0, bytes(3 * MIB), b"", 0.0, 0.0)
    fd = opened(remote)
    call_id = remote.call("forward", Forward(fd, pack_tokens([1])))
    remote.send(remote.frame(call_id))
    rig.until_kept(remote, 3 * MIB)

    rig.reactor.run_in_reactor(lambda k: k.end_session(remote.pid, "enough", time.monotonic_ns()))
    while remote.hear(10_000):
        pass

    assert len(remote.answers[call_id].distributions[0].ids) == 3 * MIB
    assert isinstance(remote.last_words, NoSuchProcess) and "enough" in remote.last_words.message
    remote.cut()


def test_who_does_not_take_its_last_answers_is_let_go(rig, monkeypatch):
    monkeypatch.setattr(peers, "PATIENCE_NS", 50_000_000)
    remote = Remote(rig.path)
    rig.device.row = Distribution(0, bytes(3 * MIB), b"", 0.0, 0.0)
    fd = opened(remote)
    remote.send(remote.frame(remote.call("forward", Forward(fd, pack_tokens([1])))))
    rig.until_kept(remote, 3 * MIB)

    rig.reactor.run_in_reactor(lambda k: k.end_session(remote.pid, "enough", time.monotonic_ns()))

    rig.settle()
    remote.cut()


def test_a_new_connection_takes_over_and_the_old_one_is_told(rig, remote):
    fd = opened(remote)
    with closing(remote.leave_half_open()) as old:
        remote.resume()
        assert remote.ask("append", Append(fd, pack_tokens([1]))).length == 1

        (said,) = FrameReader().feed(old.recv(1 << 16))
        answer = read_answer(said)
        assert answer.err is not None and answer.err.reason == BrokenPipe.reason and not answer.id
        assert old.recv(1) == b""


@pytest.mark.parametrize("token", ["", "x", "é" * 20, "x" * 128])
def test_a_forged_token_opens_nothing_and_disturbs_nobody(rig, remote, token):
    c = Client(rig.path, role=None)

    with pytest.raises(NoSuchProcess):
        c.ask("hello", Hello(ABI_MAJOR, ABI_MINOR, pid=remote.pid, resume=token))

    assert c.answer() is None
    c.close()
    remote.ask("ping")


def test_another_principal_cannot_use_a_stolen_token(rig, remote):
    c = Client(rig.path, role=None)

    with pytest.raises(NoSuchProcess):
        c.ask("hello", Hello(ABI_MAJOR, ABI_MINOR, pid=remote.pid, resume=remote.token), cred=Credentials("bob"))

    c.close()
    remote.ask("ping")


@pytest.mark.parametrize("received", [-1, 99, 2**62])
def test_a_wrong_number_of_answers_is_refused_and_the_session_stays(rig, remote, received):
    c = Client(rig.path, role=None)

    with pytest.raises(InvalidArgument, match="received"):
        c.ask("hello", Hello(ABI_MAJOR, ABI_MINOR, pid=remote.pid, resume=remote.token, received=received))

    c.close()
    remote.ask("ping")


@pytest.mark.parametrize(
    "call", [{"call_id": 1}, {"call_id": 50, "ack": 999}], ids=["an id that was seen", "an ack from the future"]
)
def test_what_breaks_the_count_ends_the_connection_and_not_the_session(rig, remote, call):
    fd = opened(remote)
    remote.send(call_frame(call["call_id"], "append", Append(fd, pack_tokens([1])), ack=call.get("ack", 0)))
    while remote.hear():
        pass

    assert isinstance(remote.last_words, InvalidArgument)
    remote.cut()
    remote.resume()
    assert remote.ask("append", Append(fd, pack_tokens([1]))).length == 1, "the forged call was not made"


def test_who_does_not_acknowledge_is_refused_calls_until_it_does(rig, remote, monkeypatch):
    monkeypatch.setattr(session, "HIGH_WATER_BYTES", 100_000)
    call_ids = [remote.call("random", Random(1 << 16)) for _ in range(3)]
    for call_id in call_ids:
        remote.send(remote.frame(call_id, ack=False))
    while remote.unanswered:
        remote.hear()

    assert [type(remote.answers[i]).__name__ for i in call_ids] == ["BytesResult", "BytesResult", "CallError"]
    assert remote.answers[call_ids[-1]].reason == WouldBlock.reason
    remote.ask("ping")


def test_a_session_with_more_answers_than_can_be_kept_ends(rig, monkeypatch):
    monkeypatch.setattr(session, "CUT_OFF_BYTES", 100_000)
    remote = Remote(rig.path)
    for _ in range(3):
        remote.send(remote.frame(remote.call("random", Random(1 << 16)), ack=False))

    while remote.hear():
        pass
    remote.cut()

    assert isinstance(remote.last_words, NoSuchProcess) and "not taken" in remote.last_words.message
    with pytest.raises(NoSuchProcess):
        remote.resume()


def test_a_lease_that_runs_out_ends_the_session_and_its_token(rig):
    remote = Remote(rig.path, lease_s=0.05)
    opened(remote)
    remote.cut()

    rig.settle()

    with pytest.raises(NoSuchProcess):
        remote.resume()


def test_signals_are_numbered_too_and_come_after_a_break(rig, remote):
    client = Client(rig.path)
    remote.cut()
    client.ask("kill", Kill(remote.pid))
    remote.resume()
    remote.settle()
    remote.ask("ping")

    assert remote.signals == ["TERM"]
    client.close()


def test_calls_in_flight_go_on_while_nobody_is_connected(rig, remote):
    rig.device.hold = True
    fd = opened(remote)
    call_id = remote.call("forward", Forward(fd, pack_tokens([1])))
    remote.send(remote.frame(call_id))
    sleeper = remote.call("sleep", Sleep(0.001))
    remote.send(remote.frame(sleeper))
    remote.cut()
    client = Client(rig.path)
    eventually(lambda: "sleep" not in client.ask("ps", Ps(remote.pid)).processes[0].waiting, "it sleeps for ever")

    remote.resume()
    while sleeper not in remote.answers:
        remote.hear()
    assert call_id in remote.unanswered

    remote.ask("cancel", Cancel(call_id))
    remote.settle()

    assert remote.answers[call_id].reason == "EINTR"
    client.close()


# ---- an edge's link is shared


def test_an_edge_stays_connected_when_a_large_call_is_refused(rig):
    edge = Client(rig.path, "edge")
    large = bytes(200_000)

    with pytest.raises(NoSuchProcess):
        edge.ask("append", Append(3, large), cred=ME, session=99, resume="no")
    with pytest.raises(InvalidArgument):
        edge.ask("emit", Append(3, large), cred=ME)

    assert edge.ask("getpid", NoArgs(), cred=ME).pid == edge.pid
    edge.close()


def test_a_client_is_cut_off_when_a_large_call_is_refused(rig):
    client = Client(rig.path)

    with pytest.raises(InvalidArgument):
        client.ask("emit", Append(3, bytes(200_000)))

    assert client.answer() is None
    client.close()


def test_an_edge_needs_the_sessions_token_and_others_are_no_edge(rig, remote):
    edge, client = Client(rig.path, "edge"), Client(rig.path)

    assert edge.ask("getpid", NoArgs(), cred=ME, session=remote.pid, resume=remote.token).pid == remote.pid
    with pytest.raises(NoSuchProcess):
        edge.ask("getpid", NoArgs(), cred=ME, session=remote.pid, resume="forged")
    with pytest.raises(NotOwner):
        client.ask("getpid", NoArgs(), session=remote.pid, resume=remote.token)

    edge.close()
    client.close()


# ---- strangers


def test_who_never_says_hello_is_closed_after_a_while_and_told_why(rig, monkeypatch):
    monkeypatch.setattr(peers, "PATIENCE_NS", 50_000_000)
    strangers = [Client(rig.path, role=None) for _ in range(5)]
    strangers[1].sock.sendall(call_frame(1, "hello", Hello(ABI_MAJOR, ABI_MINOR))[:-1])
    friend = Client(rig.path)

    for stranger in strangers:
        answer = stranger.answer()
        assert answer.err.reason == TimedOut.reason
        assert stranger.answer() is None
        stranger.close()

    friend.ask("ping", NoArgs())
    friend.close()


def flood(sock, head, piece):
    sock.sendall(head)
    for _ in range(1000):
        sock.sendall(piece)


def test_a_stranger_cannot_make_the_server_hold_a_large_frame(rig):
    chunk = (CHUNK | 60_008).to_bytes(4, "little") + bytes(8 + 60_000)
    for head, piece in (((15 * MIB).to_bytes(4, "little"), bytes(60_000)), (b"", chunk)):
        with raw(rig) as sock, pytest.raises((BrokenPipeError, ConnectionResetError)):
            flood(sock, head, piece)


def test_five_hundred_connect_at_once_and_are_served(rig):
    clients = [Client(rig.path, role=None) for _ in range(500)]
    for client in clients:
        client.sock.sendall(call_frame(1, "hello", Hello(ABI_MAJOR, ABI_MINOR)) + call_frame(2, "getpid", NoArgs()))

    pids = set()
    for client in clients:
        assert client.answer().id == 1
        answer = client.answer()
        assert answer.id == 2
        pids.add(bytes(answer.ok))
        client.close()

    assert len(pids) == 500


def test_a_program_of_a_session_ends_with_it(rig, remote):
    pid = remote.ask("spawn", SLEEPER).pid
    client = Client(rig.path)
    eventually(lambda: "sleep" in client.ask("ps", Ps(pid)).processes[0].waiting, "it does not run")

    doomed = Remote(rig.path)
    child = doomed.ask("spawn", SLEEPER).pid
    doomed.close()

    eventually(lambda: client.ask("ps", Ps(child)).processes[0].exit is not None, "it did not end")
    assert client.ask("ps", Ps(pid)).processes[0].exit is None
    remote.ask("emit", Emit("1"))
    client.close()
