"""The cohort policy's word: whether a step is held, and until when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_symphony.kernel.sched.batch.cohort import Cohort
from vllm_symphony.kernel.sched.batch.policy import Look

LOOK = Look(now_s=1.0, queued=1, expected=16, streams=0.0, step_s=0.01, began_s=1.0, last_s=1.0)


def test_a_hold_gains_rows_for_no_longer_than_it_costs():
    one_program, equal, one_stream = (
        Cohort().limit_s(replace(LOOK, expected=m, streams=n)) for m, n in ((1, 16), (16, 16), (16, 1))
    )

    assert one_program < equal < one_stream < 0.01


def test_streams_that_are_worth_more_are_held_up_less():
    assert Cohort().limit_s(replace(LOOK, streams=48)) < Cohort().limit_s(replace(LOOK, streams=16))


def test_it_ends_when_nothing_came_for_the_window_and_at_the_limit_at_the_latest():
    policy = Cohort(window_s=0.002)

    assert policy.until_s(LOOK) == pytest.approx(1.002)
    assert policy.until_s(replace(LOOK, now_s=1.0095, last_s=1.0095)) == pytest.approx(1.01)
    assert policy.until_s(replace(LOOK, now_s=1.005, queued=16)) == 1.005


@pytest.mark.parametrize("more", [{"queued": 16}, {"expected": 0, "queued": 0}, {"queued": 0}])
def test_nothing_is_held_for_nobody(more):
    assert not Cohort().begins(replace(LOOK, **more))


def test_a_window_of_nothing_holds_nothing():
    assert not Cohort(window_s=0.0).begins(LOOK)


def test_what_disturbs_a_hold_says_nothing_about_who_comes():
    policy, look = Cohort(), replace(LOOK, streams=4.0)

    for _ in range(100):
        policy.ended(look, look, disturbed=True)
    assert policy.part_that_came == 1.0

    policy.ended(look, look, disturbed=False)
    assert policy.part_that_came < 1.0
