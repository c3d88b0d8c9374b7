"""Batch policies: what all of them keep, and what k-or-t and rate do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_symphony.errors import InvalidArgument, NotSupported
from vllm_symphony.kernel.sched import batch, catalogue
from vllm_symphony.kernel.sched.batch.k_or_t import KOrT
from vllm_symphony.kernel.sched.batch.policy import Look
from vllm_symphony.kernel.sched.batch.rate import Rate

LOOK = Look(now_s=1.0, queued=1, expected=16, streams=0.0, step_s=0.01, began_s=1.0, last_s=1.0)
steps = st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 1.0)), max_size=20)
arrivals = st.lists(st.tuples(st.integers(1, 8), st.floats(1e-6, 1.0)), max_size=20)
LONGEST_S = {"immediate": 0.0, "cohort": 1.0, "k-or-t": 0.01, "rate": 0.05}  # cohort: the step


@given(st.sampled_from(sorted(batch.POLICIES)), steps, arrivals, st.integers(0, 64), st.integers(0, 64), st.integers(0, 64))
def test_a_hold_has_an_end_however_programs_behave(name, steps, arrivals, queued, expected, streams):
    policy, now_s, step_s = batch.make(name), 0.0, 0.01
    for rows, step_s in steps:
        policy.stepped(rows, step_s)
    for num, gap_s in arrivals:
        now_s += gap_s
        policy.came(num, now_s)
    first = look = Look(now_s, queued, expected, float(streams), step_s, now_s, now_s)

    if policy.begins(look):
        for _ in range(1000):  # something comes all the time, but nobody who is waited for
            until_s = policy.until_s(look)
            if until_s <= look.now_s:
                break
            now_s = look.now_s + (until_s - look.now_s) * 0.75 + 1e-6
            look = replace(look, now_s=now_s, last_s=now_s)
        policy.ended(first, look, disturbed=False)

    assert look.now_s - first.now_s <= LONGEST_S[name] + 1e-5


@given(st.sampled_from(sorted(batch.POLICIES)), st.integers(0, 64))
def test_a_device_with_which_nobody_computes_and_nobody_waits_is_not_held(name, expected):
    assert not batch.make(name).begins(replace(LOOK, queued=0, expected=expected))


def test_k_calls_begin_at_once_and_fewer_after_t():
    policy = KOrT(k=4, t_s=0.01)

    assert policy.begins(replace(LOOK, queued=3)) and not policy.begins(replace(LOOK, queued=4))
    assert policy.until_s(replace(LOOK, queued=3, now_s=1.004, last_s=1.004)) == pytest.approx(1.01)
    assert policy.until_s(replace(LOOK, queued=4, now_s=1.004)) == 1.004


def test_the_best_batch_by_rate_is_the_argmin_of_its_formula():
    policy, rate = Rate(), 1000.0
    for i in range(400):
        policy.came(1, i / rate)
    for rows in (1, 8, 64, 8, 1):
        policy.stepped(rows, 0.005 + 0.0001 * rows)

    def delay_s(n: int) -> float:
        step_s = 0.005 + 0.0001 * n
        if rate * step_s >= n:
            return float("inf")
        return (n - 1) / (2 * rate) + n / (2 * rate * (n - rate * step_s)) + step_s

    assert policy.step_s(32) == pytest.approx(0.005 + 0.0001 * 32)
    assert policy.best() == min(range(1, 257), key=delay_s)
    assert policy.best() > 5


def test_while_nothing_is_known_nothing_is_held_by_rate():
    assert not Rate().begins(LOOK)


def test_a_policy_for_the_simulator_is_refused_by_a_server_and_says_which_there_are():
    with pytest.raises(NotSupported, match=r"k-or-t is for `symphony simulate` only; here there are immediate, cohort"):
        catalogue.demand(catalogue.BATCH, "k-or-t", {})

    assert catalogue.parsed(catalogue.BATCH, "k-or-t:k=8", simulated=True).parameters == (("k", 8.0),)


@pytest.mark.parametrize(("name", "parameters"), [("best", {}), ("cohort", {"k": 1.0}), ("k-or-t", {"k": 0.0})])
def test_a_policy_that_is_not_there_or_a_parameter_that_it_has_not_is_refused(name, parameters):
    with pytest.raises(InvalidArgument):
        batch.make(name, parameters)
