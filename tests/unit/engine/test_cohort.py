"""When a step is held for programs that are about to call, and how long."""

from __future__ import annotations

import pytest

from vllm_symphony.engine.cohort import Cohort
from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.effect import SetPolicy


class Hall:
    """Calls that arrive at given times, and a clock that goes on only while somebody waits."""

    def __init__(self, expected: int, arrivals: tuple[float, ...], step_s: float = 0.01) -> None:
        self.now, self.arrivals, self.is_disturbed_at = 0.0, sorted(arrivals), float("inf")
        self.cohort = Cohort(lambda: self.now)
        self.cohort.wait = self.wait
        self.cohort.expected = expected
        self.cohort.took(expected, step_s)

    def queued(self) -> int:
        return sum(t <= self.now for t in self.arrivals)

    def wait(self, seconds: float) -> bool:
        coming = [t for t in (*self.arrivals, self.is_disturbed_at) if self.now < t <= self.now + seconds]
        self.now = min(coming, default=self.now + seconds)
        return bool(coming)

    def hold(self, streams: float) -> int:
        self.cohort.hold(streams, self.queued, lambda: self.now >= self.is_disturbed_at)
        return self.queued()


def test_it_ends_when_all_that_are_expected_have_called():
    hall = Hall(3, (0.0, 0.001, 0.0015))

    assert hall.hold(streams=0) == 3
    assert hall.now == 0.0015


def test_it_ends_when_none_has_come_for_a_while():
    hall = Hall(3, (0.0, 0.001, 0.009))

    assert hall.hold(streams=0) == 2
    assert hall.now == pytest.approx(0.003)


def test_beside_streams_it_begins_although_nobody_has_called_yet():
    hall = Hall(16, (0.001,) * 16)

    assert hall.hold(streams=16) == 16


def test_alone_nobody_is_waited_for_before_the_first_call():
    hall = Hall(16, (0.001,) * 16)

    assert hall.hold(streams=0) == 0
    assert hall.now == 0


def test_it_lasts_as_long_as_it_gains_rows_and_not_longer():
    late = Hall(16, tuple(0.0019 * i for i in range(1, 17)))

    late.hold(streams=16)

    assert late.now == pytest.approx(0.01 / 3)


def test_streams_are_not_held_up_for_programs_that_think_but_now_and_then_it_is_tried_again():
    hall = Hall(4, ())

    for _ in range(1000):
        hall.hold(streams=4)

    assert 50 < hall.cohort.num_waits < 80
    assert hall.now < 0.1 * 1000 * 0.01 / 3


def test_programs_that_stop_to_think_and_then_decode_again_are_waited_for_again():
    hall = Hall(4, ())
    for _ in range(100):
        hall.hold(streams=4)
    vain = hall.cohort.num_waits

    for _ in range(200):  # from now on each comes a millisecond after the step
        hall.arrivals = [hall.now + 0.001] * 4
        hall.hold(streams=4)

    assert hall.cohort.num_waits - vain > 100


def test_a_plain_request_ends_it():
    hall = Hall(3, (0.0, 0.0025))
    hall.is_disturbed_at = 0.0005

    assert hall.hold(streams=0) == 1
    assert hall.now == 0.0005


def test_without_a_window_there_is_no_wait():
    hall = Hall(3, (0.0, 0.001, 0.001))
    hall.cohort.choose("cohort", {"window_s": 0.0})

    assert hall.hold(streams=0) == 1
    assert hall.cohort.num_waits == 0


def test_another_policy_is_taken_from_the_next_step_on_and_one_for_the_simulator_is_refused():
    hall = Hall(3, (0.0, 0.001, 0.001))
    hall.cohort.hear(SetPolicy("memory", "lru"))
    assert hall.cohort.policy.name == "cohort"

    hall.cohort.hear(SetPolicy("batch", "immediate"))
    assert hall.hold(streams=0) == 1
    with pytest.raises(NotSupported):
        hall.cohort.hear(SetPolicy("batch", "rate"))

    assert hall.cohort.policy.name == "immediate"
