"""Predictions: bounded by what was seen, right where the past repeats, and never taught by others."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_symphony.kernel.sched import predict
from vllm_symphony.kernel.sched.predict import FIRST_GUESS, SHRINK, Predictor
from vllm_symphony.kernel.sched.recent import SIZE, Recent

calm = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=2 * SIZE)
CHAT, SEARCH = ("ann", "chat"), ("bob", "search")


@calm
@given(VALUES)
def test_a_history_holds_the_last_values_and_no_more(values):
    recent = Recent()
    for value in values:
        recent.add(value)

    assert recent.values == sorted(values[-SIZE:])


@calm
@given(VALUES, st.floats(0, 1))
def test_the_distribution_function_and_quantiles_agree(values, part):
    recent = Recent()
    for value in values:
        recent.add(value)

    at = recent.quantile(part)
    assert at is not None and recent.part_upto(at) >= part
    assert recent.quantile(part, above=max(recent.values)) is None


@calm
@given(st.lists(st.integers(0, 10_000), max_size=100), st.integers(0, 20_000))
def test_an_estimate_lies_between_what_was_seen_and_the_guess_and_beyond_what_is_done(tokens, so_far):
    predictor = Predictor()
    for num in tokens:
        predictor.called(CHAT, num)

    bounds = [*(float(t) for t in tokens), FIRST_GUESS["tokens"], 2.0 * so_far]
    assert min(bounds) - 1e-6 <= predictor.tokens(CHAT, so_far) <= max(bounds) + 1e-6
    assert predictor.tokens(CHAT, so_far) > so_far


@calm
@given(st.integers(1, 5000))
def test_the_error_vanishes_where_the_past_repeats(num_tokens):
    predictor = Predictor()
    for _ in range(SIZE):
        predictor.called(CHAT, num_tokens)

    weight = SHRINK / (SIZE + SHRINK)
    assert predictor.tokens(CHAT) == pytest.approx(num_tokens, abs=FIRST_GUESS["tokens"] * weight**2 + num_tokens * weight**2)


def test_a_new_name_gets_the_mean_of_all_and_the_first_of_all_the_constant():
    predictor = Predictor()
    assert predictor.calls(CHAT) == FIRST_GUESS["calls"]

    for _ in range(100):
        predictor.ended(SEARCH, 160, 1.0, 1.0)

    assert predictor.calls(CHAT) > 150


def test_who_outlived_all_is_expected_to_last_as_long_again():
    predictor = Predictor()
    for _ in range(20):
        predictor.rested(CHAT, "tool", "calc", 0.001)

    assert predictor.gap_s(CHAT, "tool", "calc", so_far_s=60.0) == 120.0


def test_one_principals_programs_teach_nothing_to_anothers_of_that_name_beyond_the_mean_of_all():
    predictor = Predictor()
    for _ in range(50):
        predictor.called(("ann", "chat"), 10)
    for _ in range(50):
        predictor.called(("eve", "chat"), 4000)

    assert predictor.tokens(("ann", "chat")) < 200 and predictor.tokens(("eve", "chat")) > 3500


def test_a_tool_is_known_by_the_programs_own_calls_before_everybodys():
    predictor = Predictor()
    for _ in range(10):
        predictor.rested(SEARCH, "tool", "web", 5.0)
    assert predictor.gaps(CHAT, "tool", "web", least=11) is None
    assert predictor.gaps(CHAT, "tool", "web", least=10).values == [5.0] * 10

    for _ in range(10):
        predictor.rested(CHAT, "tool", "web", 1.0)

    assert predictor.gaps(CHAT, "tool", "web", least=10).values == [1.0] * 10


@calm
@given(st.lists(st.integers(1, 30), min_size=2, max_size=20))
def test_turns_is_minus_the_correlation_of_calls_made_and_left(counts):
    predictor = Predictor()
    for n in counts:
        predictor.ended(CHAT, n, 1.0, 1.0)

    pairs = [(k, n - k) for n in counts for k in range(1, n + 1)]
    made, left = [k for k, _ in pairs], [rest for _, rest in pairs]
    if len(set(made)) > 1 and len(set(left)) > 1:
        expected = -statistics.correlation(made, left)
        assert predictor.turns() == pytest.approx(min(1.0, max(0.0, expected)), abs=1e-6)
    else:
        assert predictor.turns() == 1.0


def test_names_are_bounded_and_the_one_not_used_for_longest_is_forgotten(monkeypatch):
    monkeypatch.setattr(predict, "NAMES", 3)
    predictor = Predictor()
    for i in range(10):
        for _ in range(20):
            predictor.called(("ann", f"p{i % 5}"), 1000 * (i % 5))

    assert predictor._of["tokens"].keys() == 3


def test_the_error_of_predictions_is_counted_as_they_come_true():
    predictor = Predictor()
    predictor.called(CHAT, 100)

    error = predictor.errors["tokens"]
    assert (error.num, error.off, error.relative) == (1, 36.0, 0.36)
