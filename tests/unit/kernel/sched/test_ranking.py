"""A priority queue with changing keys, against a sorted list."""

from hypothesis import given
from hypothesis import strategies as st

from vllm_symphony.kernel.sched.ranking import Ranking

OPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 4)), max_size=300)


@given(OPS)
def test_the_first_is_the_smallest_whatever_was_set_and_discarded(ops) -> None:
    ranking: Ranking[str] = Ranking()
    model: dict[str, int] = {}
    for item, key in ops:
        if key is None:
            ranking.discard(item)
            model.pop(item, None)
        else:
            ranking.set(item, (key,))
            model[item] = key

        ranking.check()
        first = ranking.first()
        assert len(ranking) == len(model)
        assert first is None if not model else model[first] == min(model.values())


def test_equal_keys_come_in_the_order_in_which_they_were_set() -> None:
    ranking: Ranking[str] = Ranking()
    for item in "cab":
        ranking.set(item, (0.0,))
    ranking.set("c", (0.0,))  # where it was

    order = []
    while (item := ranking.first()) is not None:
        order.append(item)
        ranking.discard(item)

    assert order == ["c", "a", "b"]


def test_old_keys_are_thrown_away_before_they_are_most_of_it() -> None:
    ranking: Ranking[int] = Ranking()
    ranking.set(1, (0.0,))
    for key in range(10_000):
        ranking.set(2, (key + 1.0,))

    assert len(ranking._heap) < 100
