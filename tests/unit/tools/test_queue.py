"""Fairness by principal, against a list that is searched each time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_symphony.errors import WouldBlock
from vllm_symphony.tools.queue import FairQueue


def test_principals_take_turns() -> None:
    queue: FairQueue[int] = FairQueue(most=10, most_each=10, most_waiting_each=10)
    for job in (1, 2, 3):
        queue.put("a", job)
    queue.put("b", 4)

    taken = [queue.take() for _ in range(5)]

    assert taken == [("a", 1), ("b", 4), ("a", 2), ("a", 3), None]


def test_nobody_runs_more_than_his_share_and_all_together_no_more_than_the_most() -> None:
    queue: FairQueue[int] = FairQueue(most=3, most_each=2, most_waiting_each=10)
    for job in range(4):
        queue.put("a", job)
        queue.put("b", 10 + job)

    assert [queue.take() for _ in range(4)] == [("a", 0), ("b", 10), ("a", 1), None]
    queue.done("a")
    assert queue.take() == ("b", 11)
    queue.done("b")
    assert queue.take() == ("a", 2)


def test_too_many_that_wait_are_refused_by_principal() -> None:
    queue: FairQueue[int] = FairQueue(most=1, most_each=1, most_waiting_each=2)
    for job in range(3):
        queue.put("a", job)

    with pytest.raises(WouldBlock, match="3 calls of tools wait for a"):
        queue.put("a", 3)
    queue.put("b", 0)


@given(st.lists(st.tuples(st.sampled_from(["put", "take", "done", "remove"]), st.sampled_from("abc"), st.integers(0, 5))))
def test_it_never_loses_doubles_or_exceeds(steps: list[tuple[str, str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(most=3, most_each=2, most_waiting_each=4)
    waiting: list[tuple[str, int]] = []
    running: list[str] = []
    for number, (step, who, which) in enumerate(steps):
        if step == "put":
            try:
                queue.put(who, (who, number))
                waiting.append((who, number))
            except WouldBlock:
                assert sum(w == who for w, _ in waiting) > 4
        elif step == "take":
            taken = queue.take()
            counts = Counter(running)
            may = [job for job in waiting if len(running) < 3 and counts[job[0]] < 2]
            assert (taken is not None) == bool(may)
            if taken is not None:
                assert taken[1] == next(job for job in waiting if job[0] == taken[0])
                waiting.remove(taken[1])
                running.append(taken[0])
        elif step == "done" and who in running:
            running.remove(who)
            queue.done(who)
        elif step == "remove":
            job = waiting[which] if which < len(waiting) else ("a", -1)
            assert queue.remove(job[0], job) == (job in waiting)
            if job in waiting:
                waiting.remove(job)
        assert (len(queue), queue.num_running) == (len(waiting), len(running))
