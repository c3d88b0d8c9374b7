"""One connection by itself: what it hands out, in which order, at the edges."""

import socket
import time

import pytest

from vllm_symphony.abi.frame import frame
from vllm_symphony.engine import connection as connection_module
from vllm_symphony.engine.connection import CALLS_PER_TURN, HIGH_WATER_BYTES, REPLIES_PER_TURN, Connection
from vllm_symphony.engine.pace import Pace
from vllm_symphony.engine.poll import Poll


class Owner:
    def __init__(self):
        self.calls, self.waiting, self.ends, self.touched = [], [], [], 0

    def take_call(self, connection, body):
        self.calls.append(body)

    def unfinished(self, connection):
        self.waiting.append(connection)

    def dirty(self, connection):
        self.touched += 1

    def lost(self, connection, error):
        self.ends.append(error)
        connection.close()


@pytest.fixture
def pair():
    poll, owner = Poll(), Owner()
    ours, peer = socket.socketpair()
    connection = Connection(ours, poll, owner)
    yield connection, owner, poll, peer
    connection.close()
    peer.close()
    assert poll.num_watched() == 0
    poll.close()


def test_what_the_peer_said_before_it_closed_is_heard_though_a_reply_to_it_fails(pair):
    connection, owner, poll, peer = pair
    peer.sendall(frame(b"last words"))
    peer.close()

    connection.queue(b"too late")
    connection.flush()
    assert owner.ends == []
    poll.turn(0)
    poll.turn(0)

    assert owner.calls == [b"last words"] and owner.ends == [None]


def test_it_is_heard_too_when_its_replies_had_piled_up(pair):
    connection, owner, poll, peer = pair
    connection.queue(bytes(2 * HIGH_WATER_BYTES))
    connection.flush()
    peer.sendall(frame(b"last words"))
    poll.turn(0)
    assert owner.calls == []  # held back
    peer.close()

    for _ in range(3):
        poll.turn(0)

    assert owner.calls == [b"last words"] and owner.ends == [None]


def test_a_turn_hands_out_a_share_and_asks_for_another(pair):
    connection, owner, poll, peer = pair
    peer.sendall(frame(b"x") * (CALLS_PER_TURN + 5))

    poll.turn(0)
    assert (len(owner.calls), owner.waiting) == (CALLS_PER_TURN, [connection])
    owner.waiting.pop().work()
    assert (len(owner.calls), owner.waiting) == (CALLS_PER_TURN + 5, [])


@pytest.mark.parametrize("hears", [True, False])
def test_calls_with_large_replies_make_a_smaller_share_whether_the_peer_reads_them_or_not(pair, hears):
    connection, owner, poll, peer = pair
    take = owner.take_call

    def answering(connection, body):
        take(connection, body)
        connection.queue(bytes(REPLIES_PER_TURN // 2))

    owner.take_call = answering
    peer.sendall(frame(b"x") * 10)
    if not hears:
        peer.shutdown(socket.SHUT_RD)
        connection.queue(b"?")
        connection.flush()

    poll.turn(0)

    assert (len(owner.calls), owner.waiting) == (3, [connection])


def test_replies_of_a_turn_are_announced_once_and_sent_in_order(pair):
    connection, owner, _, peer = pair

    for i in range(200):
        connection.queue(b"%03d" % i)
    while connection.out_bytes:
        connection.flush()

    assert peer.recv(1000) == b"".join(b"%03d" % i for i in range(200))
    assert owner.touched == 1


@pytest.fixture
def paced(pair, monkeypatch):
    """A connection that may make 10 calls a second, 20 at once, and its clock."""
    connection, owner, poll, peer = pair
    now = {"ns": time.monotonic_ns()}
    monkeypatch.setattr(connection_module.time, "monotonic_ns", lambda: now["ns"])
    connection.pace = Pace(10, now["ns"])

    def take_call(connection, body):
        owner.calls.append(body)
        connection.pace.spend()

    owner.take_call = take_call

    def pass_time(seconds):
        now["ns"] += int(seconds * 1e9)
        for _ in range(40):
            poll.turn(0)
            for waiting in owner.waiting[:]:
                owner.waiting.remove(waiting)
                waiting.work()

    return connection, owner, poll, peer, pass_time


def test_calls_above_the_pace_are_heard_later_and_none_is_lost(paced):
    _connection, owner, _poll, peer, pass_time = paced
    peer.sendall(b"".join(frame(b"%d" % i) for i in range(50)))

    heard = []
    for seconds in (0, 1, 1, 1):
        pass_time(seconds)
        heard.append(len(owner.calls))

    assert heard == [20, 30, 40, 50] and owner.calls == [b"%d" % i for i in range(50)]


def test_a_peer_that_sends_one_call_at_a_time_waits_like_one_that_sends_many(paced):
    _connection, owner, _poll, peer, pass_time = paced

    for i in range(30):
        peer.sendall(frame(b"%d" % i))
        pass_time(0)

    assert len(owner.calls) == 20
    pass_time(1)
    assert len(owner.calls) == 30


def test_replies_are_sent_while_calls_wait_for_the_pace(paced):
    connection, _owner, _poll, peer, pass_time = paced
    peer.sendall(frame(b"x") * 30)
    pass_time(0)

    connection.queue(b"reply")
    connection.flush()

    assert peer.recv(100) == b"reply"


def test_what_was_said_before_the_end_is_heard_without_waiting(paced):
    _connection, owner, poll, peer, pass_time = paced
    peer.sendall(frame(b"x") * 30)
    pass_time(0)
    owner.take_call = lambda connection, body: owner.calls.append(body)  # the owner spends of a pace that is there

    peer.close()
    pass_time(0)

    assert len(owner.calls) == 30 and owner.ends == [None] and poll.num_alarms() == 0
