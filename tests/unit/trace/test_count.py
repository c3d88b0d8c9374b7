from tests.unit.trace.records import call
from vllm_symphony.trace.count import CallCount, Counts


def test_calls_are_counted_by_name_the_longest_in_all_first():
    counts = Counts()
    for record in (call(1, "fork", 0, 2), call(2, "forward", 0, 10), call(3, "forward", 0, 30, result="ENOSPC")):
        counts.add(record)

    assert counts.rows() == [
        CallCount("forward", 2, 1, 40e-6, 20e-6, 30e-6),
        CallCount("fork", 1, 0, 2e-6, 2e-6, 2e-6),
        CallCount("total", 3, 1, 42e-6, 14e-6, 30e-6),
    ]


def test_nothing_counted_is_a_total_of_nothing():
    assert Counts().rows() == [CallCount("total", 0, 0, 0.0, 0.0, 0.0)]
