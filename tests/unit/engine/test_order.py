"""File calls in the run queue: who has the rows, as vLLM's lists change."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.order import Order
from vllm_symphony.kernel.effect import Owner, ProcessBegan, SetPolicy, Weigh
from vllm_symphony.kernel.sched.predict import Predictor

ROWS = 3


@dataclass(eq=False)
class Job:
    effect: Any
    request: Any = field(default_factory=lambda: SimpleNamespace(num_computed_tokens=10))


def order(policy: str) -> Order:
    made = Order(ROWS, 1, Predictor(), lambda: 0.0)
    made.queue.hear(SetPolicy("process", policy), 0.0)
    return made


def job(into: Order, pid: int, principal: str = "", priority: int = 0, num_tokens: int = 5) -> Any:
    if Pid(pid) not in into.queue.programs:
        into.queue.hear(ProcessBegan(Pid(pid), None, principal, f"p{pid}", priority), 0.0)
    made = Job(SimpleNamespace(owner=Owner(pid=Pid(pid), principal=principal)))
    into.add(made, num_tokens)  # type: ignore[arg-type]
    return made


def test_those_that_run_keep_their_rows_and_the_first_that_wait_get_the_others():
    rows = order("fcfs")
    a, b, c, d = (job(rows, pid) for pid in (1, 2, 3, 4))
    rows.settle([c, d])

    assert rows.choose(ROWS, rows.first(9)) == [c, d, a]
    assert rows.first(9) == [a, b]  # they run only once vLLM's lists say so
    rows.check()


def test_fewer_rows_are_for_the_first_of_those_that_run():
    rows = order("fcfs")
    a, b, c = (job(rows, pid) for pid in (1, 2, 3))
    rows.settle([a, b, c])

    assert rows.choose(2, []) == [a, b]
    assert rows.choose(0, []) == []


def test_a_higher_priority_takes_the_row_of_the_lowest():
    rows = order("priority")
    low, middle, high = (job(rows, pid, priority=pid) for pid in (1, 2, 3))
    rows.settle([low, middle])

    assert rows.choose(2, rows.first(9)) == [middle, high]
    rows.check()


def test_no_more_than_a_principals_cap_are_looked_at():
    rows = order("fcfs")
    ours = [job(rows, pid, "ann") for pid in (1, 2, 3)]
    other = job(rows, 4, "bob")

    rows.queue.hear(Weigh("ann", 1.0, 2), 0.0)

    assert rows.first(9) == [ours[0], other, ours[1]]
    assert rows.has_caps and rows.is_capped(ours[0]) and not rows.is_capped(other)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["fcfs", "priority", "vtc", "plas", "atlas", "justitia"]), st.lists(st.integers(0, 9), max_size=60))
def test_whatever_vllm_does_with_its_lists_the_queue_agrees(policy: str, events: list[int]) -> None:
    rows = order(policy)
    running: list[Any] = []
    waiting: list[Any] = []
    for at, event in enumerate(events):
        if event < 3:
            waiting.append(job(rows, event + 1, f"u{event % 2}", event, at % 7))
        elif event == 3 and running:
            rows.remove(ended := running.pop(at % len(running)))
            assert ended not in rows.first(9)
        elif event == 4 and running:
            waiting.append(running.pop())  # preempted
        elif event == 5 and waiting:
            rows.remove(waiting.pop(0))
        rows.settle([j for j in running if rows.runs(j)])
        chosen = rows.choose(ROWS, rows.first(9))
        assert len(chosen) == min(ROWS, len(running) + len(waiting))
        rows.settle(chosen)
        running, waiting = chosen, [j for j in (*running, *waiting) if j not in chosen]
        for j in running:
            rows.charge(j, 1 + at % 4)
        rows.check()
