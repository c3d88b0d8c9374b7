"""A session's outbox: what is kept, what is sent again, what is left out, and when it is too much."""

import pytest

from vllm_symphony.engine import session as module
from vllm_symphony.engine.session import Session
from vllm_symphony.errors import InvalidArgument


class Connection:
    """Remembers what was queued."""

    def __init__(self):
        self.sent = []
        self.cut_off_bytes = 0

    def queue(self, data):
        self.sent.append(data)


def numbered(text="", size=0):
    return lambda seq: f"{seq}{text}".encode() + bytes(size)


@pytest.fixture
def session():
    return Session(7, "secret")


def connected(session, received=0):
    connection = Connection()
    session.connect(connection, received)
    return connection


def test_answers_are_numbered_from_1_and_sent_to_whoever_is_there(session):
    session.send(numbered())
    connection = connected(session)
    session.send(numbered())
    session.connection = None
    session.send(numbered())

    assert connection.sent == [b"1", b"2"]
    assert connected(session, received=1).sent == [b"2", b"3"]


def test_what_was_acknowledged_is_not_kept_and_an_ack_may_come_twice_or_late(session):
    for _ in range(5):
        session.send(numbered(size=99))

    session.acknowledged(3)
    session.acknowledged(3)
    session.acknowledged(1)
    session.acknowledged(0)

    assert session.out_bytes == 200
    assert [data[:1] for data in connected(session, received=3).sent] == [b"4", b"5"]


def test_an_ack_from_the_future_is_refused_and_changes_nothing(session):
    session.send(numbered())

    for seq in (2, 2**53 - 1):
        with pytest.raises(InvalidArgument, match="not sent yet"):
            session.acknowledged(seq)

    assert connected(session).sent == [b"1"]


@pytest.mark.parametrize("received", [-1, -(2**63), 1, 5, 2**63])
def test_received_must_be_between_what_was_acknowledged_and_what_was_sent(session, received):
    for _ in range(4):
        session.send(numbered())
    session.acknowledged(2)

    with pytest.raises(InvalidArgument, match="are kept"):
        session.demand_kept(received)

    for possible in (2, 3, 4):
        session.demand_kept(possible)


def test_an_empty_outbox_goes_on_from_its_end_only(session):
    session.demand_kept(0)
    session.send(numbered())
    session.acknowledged(1)

    session.demand_kept(1)
    for received in (0, 2):
        with pytest.raises(InvalidArgument):
            session.demand_kept(received)


def test_call_ids_ascend_and_may_leave_gaps(session):
    for call_id in (1, 2, 5, 100):
        session.saw(call_id)
    session.saw(0)

    for call_id in (100, 99, 3, 1):
        with pytest.raises(InvalidArgument, match="ascend"):
            session.saw(call_id)
    assert session.last_call == 100


def test_a_stream_that_had_a_part_left_out_has_the_rest_left_out_too(session, monkeypatch):
    monkeypatch.setattr(module, "HIGH_WATER_BYTES", 100)
    session.send_part(1, numbered("a", 60))
    session.send_part(1, numbered("b", 60))
    assert session.is_full

    session.send_part(1, numbered("left out"))
    session.acknowledged(2)
    session.send_part(1, numbered("left out too"))
    session.send_part(2, numbered("of another call"))
    session.send_answer(1, numbered("result"))
    session.send_part(1, numbered("a new call with that id"))

    sent = [data[1:].strip(b"\0") for data in connected(session, received=2).sent]
    assert sent == [b"of another call", b"result", b"a new call with that id"]


def test_answers_are_kept_however_full_it_is_until_it_is_lost(session, monkeypatch):
    monkeypatch.setattr(module, "HIGH_WATER_BYTES", 100)
    monkeypatch.setattr(module, "CUT_OFF_BYTES", 1000)

    for call_id in range(1, 10):
        session.send_answer(call_id, numbered(size=110))
        assert session.is_lost == (session.out_bytes > 1000)

    assert session.is_full and not session.is_lost
    session.send_answer(10, numbered(size=110))
    assert session.is_lost


def test_the_outbox_is_what_bounds_a_sessions_connection(session):
    assert connected(session).cut_off_bytes > module.CUT_OFF_BYTES
