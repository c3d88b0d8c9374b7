"""Two sides and a step that is too small for both: parts, what is left over, what is owed."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vllm_symphony.engine.share import Ledger, Pair, Row, Share, cut
from vllm_symphony.errors import InvalidArgument

WEIGHT = st.floats(0.05, 20)
CAPACITY = st.integers(1, 64)
STEPS = st.lists(st.tuples(CAPACITY, st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=200)


@given(WEIGHT, WEIGHT, st.lists(CAPACITY, min_size=1, max_size=300))
def test_while_both_want_more_each_has_its_weights_part_up_to_one_step(plain, programs, capacities):
    ledger = Share(plain, programs).rows
    total = got = 0

    for capacity in capacities:
        got += ledger.divide(capacity, Pair(1000, 1000)).programs
        total += capacity

        assert abs(got - total * programs / (plain + programs)) <= max(capacities)


@given(WEIGHT, WEIGHT, st.integers(1, 64), st.integers(20, 400))
def test_over_many_steps_neither_side_is_a_tenth_under_its_part(plain, programs, capacity, steps):
    share = Share(plain, programs)
    got = [share.rows.divide(capacity, Pair(1000, 1000)) for _ in range(steps)]
    total = steps * capacity
    assume(total * min(share.part, 1 - share.part) >= 10)  # else a tenth of a part is less than one row

    assert sum(g.programs for g in got) >= 0.9 * share.part * total
    assert sum(g.plain for g in got) >= 0.9 * (1 - share.part) * total


@given(WEIGHT, WEIGHT, STEPS)
def test_all_is_given_out_or_all_wants_are_met_and_nobody_gets_more_than_it_wants(plain, programs, steps):
    ledger = Share(plain, programs).rows

    for capacity, *wants in steps:
        got = ledger.divide(capacity, Pair(*wants))

        assert sum(got) == min(capacity, sum(wants))
        assert all(0 <= g <= w for g, w in zip(got, wants, strict=True))


@given(WEIGHT, WEIGHT, STEPS)
def test_the_same_wants_are_answered_the_same(plain, programs, steps):
    first, second = Share(plain, programs).rows, Share(plain, programs).rows

    for capacity, *wants in steps:
        assert first.divide(capacity, Pair(*wants)) == second.divide(capacity, Pair(*wants))


@given(WEIGHT, WEIGHT, STEPS)
def test_a_side_that_had_all_it_wanted_is_owed_nothing(plain, programs, steps):
    ledger = Share(plain, programs).rows

    for capacity, *wants in steps:
        got = ledger.divide(capacity, Pair(*wants))

        assert abs(ledger.owed) <= capacity
        if got.plain == wants[0] or got.programs == wants[1]:
            assert ledger.owed == 0


@given(st.floats(0.05, 1), st.floats(1, 20))
def test_the_lighter_side_is_never_kept_waiting_for_ever(light, heavy):
    ledger = Share(heavy, light).rows
    longest = waited = 0

    for _ in range(1000):
        waited = 0 if ledger.divide(1, Pair(9, 9)).programs else waited + 1
        longest = max(longest, waited)

    assert longest <= (light + heavy) / light + 1


def test_equal_weights_halve_and_what_one_leaves_the_other_takes():
    ledger = Ledger(0.5)

    assert ledger.divide(32, Pair(40, 40)) == Pair(16, 16)
    assert ledger.divide(32, Pair(40, 4)) == Pair(28, 4)
    assert ledger.divide(32, Pair(0, 40)) == Pair(0, 32)
    assert ledger.divide(32, Pair(10, 12)) == Pair(10, 12)


def test_a_weight_of_three_takes_three_quarters():
    assert Share(1, 3).rows.divide(32, Pair(99, 99)) == Pair(8, 24)


ROWS = st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=40)


@given(WEIGHT, WEIGHT, st.integers(64, 512), ROWS)
def test_cut_rows_fit_into_the_step_and_fill_it(plain, programs, budget, rows):
    rows = [Row(i, *row) for i, row in enumerate(rows)]

    cuts = cut(Share(plain, programs).tokens, budget, rows)

    computed = {row.who: cuts.get(row.who, row.num_tokens) for row in rows}
    assert sum(computed.values()) == min(budget, sum(row.num_tokens for row in rows))
    assert all(cuts[row.who] < row.num_tokens for row in rows if row.who in cuts)
    assert all(row.who not in cuts for row in rows if row.num_tokens == 1)


def test_a_long_prompt_of_one_side_leaves_the_others_prompt_its_half_and_cuts_no_stream():
    rows = [
        Row("reader", False, 5000),
        Row("stream", False, 1),
        Row("call", True, 1),
        Row("page", True, 5000),
        Row("later", True, 9),
    ]

    cuts = cut(Ledger(0.5), 102, rows)

    assert cuts == {"reader": 50, "page": 50, "later": 0}


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_a_number_above_0(weight):
    with pytest.raises(InvalidArgument, match="weight of programs must be a number above 0"):
        Share(1, weight)
