"""The reactor's one blocking point: times that are far away, and alarms that were cancelled."""

import time

import pytest

from vllm_symphony.engine import poll as module
from vllm_symphony.engine.poll import Poll


@pytest.fixture
def poll():
    poll = Poll()
    yield poll
    poll.close()


def test_a_time_beyond_what_epoll_can_count_is_waited_for_in_pieces(poll, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.001)

    poll.turn(time.monotonic_ns() + 10**20)


def test_an_alarm_beyond_it_does_not_ring_early(poll, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.001)
    rung = []
    alarm = poll.alarm(time.monotonic_ns() + 10**20, lambda: rung.append(1))

    poll.turn(None)

    assert rung == [] and poll.num_alarms() == 1
    alarm.cancel()


def test_cancelled_alarms_take_no_room_for_long(poll):
    kept = [poll.alarm(10**30 + n, lambda: None) for n in range(10)]
    for n in range(10_000):
        poll.alarm(10**29 + n, lambda: None).cancel()

    assert len(poll._alarms) < 200
    assert poll.num_alarms() == len(kept)


def test_alarms_ring_in_order_after_the_cancelled_ones_were_thrown_out(poll):
    rung = []
    for n in reversed(range(100)):
        poll.alarm(n, lambda n=n: rung.append(n))
        poll.alarm(n, lambda: rung.append("cancelled")).cancel()

    poll.turn(0)

    assert rung == list(range(100))
