"""Costs as they are measured: a line through the steps, means of the moves, and first guesses until then."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_symphony.kernel.sched.memory.cost import STEP_S, TOKEN_S, Costs, Measured

calm = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def test_before_anything_happened_the_guesses_hold():
    costs = Measured(2048).costs()

    assert (costs.step_s, costs.token_s) == (STEP_S, TOKEN_S)


@calm
@given(st.floats(1e-4, 0.1), st.floats(1e-5, 1e-2), st.lists(st.integers(1, 2048), min_size=50, max_size=100))
def test_steps_on_a_line_give_that_line(step_s, token_s, sizes):
    measured = Measured(2048)
    for n in (*sizes, 1, 2048):
        measured.stepped(n, step_s + token_s * n)

    costs = measured.costs()
    for n in (1, 256, 2048):
        assert costs.compute_s(n) == pytest.approx(step_s + token_s * n, rel=0.05, abs=1e-3)


@calm
@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(0, 10)), max_size=50))
def test_no_cost_is_ever_negative(steps):
    measured = Measured(2048)
    for n, seconds in steps:
        measured.stepped(n, seconds)

    costs = measured.costs()
    assert costs.step_s >= -1e-12 and costs.token_s >= 0


def test_a_move_costs_something_whatever_its_size_and_something_for_each_page():
    measured = Measured(2048)
    for num_pages in (1, 4, 16) * 60:
        measured.moved("host", num_pages, 0.01 + 0.001 * num_pages)
        measured.moved("disk", num_pages, 0.02 + 0.1 * num_pages)
    measured.moved("host", 0, 9.0)

    costs = measured.costs()
    for num_pages in (1, 10, 100):
        assert costs.move_s("host", num_pages) == pytest.approx(0.01 + 0.001 * num_pages, rel=0.05)
        assert costs.move_s("disk", num_pages) == pytest.approx(0.02 + 0.1 * num_pages, rel=0.05)
    assert costs.move_s("host", 0) == costs.move_s("disk", 0) == 0


def test_a_long_prompt_is_computed_in_chunks_of_a_step():
    costs = Costs(step_s=1.0, token_s=0.01, step_tokens=100)

    assert costs.compute_s(250) == pytest.approx(3 + 2.5)
