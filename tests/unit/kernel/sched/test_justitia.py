"""Justitia's bound against fair sharing, computed apart; then lies, rest and corrections."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.kernel.sched.counter import CountingDevice, Programs, ends_of
from vllm_symphony.abi.types import Pid
from vllm_symphony.kernel.effect import Owner, ProcessBegan
from vllm_symphony.kernel.sched.justitia import FairFinish
from vllm_symphony.kernel.sched.predict import Predictor
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import Service

# programs: when they come, and the steps of their calls, one after the other; a step is the whole device
PROGRAMS = st.lists(st.tuples(st.integers(0, 25), st.lists(st.integers(1, 9), min_size=1, max_size=4)), min_size=1, max_size=8)


class Known:
    """Costs that are said, by the program's name, times a factor."""

    def __init__(self, costs: dict[str, float], factors: dict[str, float] | None = None) -> None:
        self.costs, self.factors = costs, factors or {}

    def cost(self, name: tuple[str, str], so_far: float = 0.0) -> float:
        return self.costs[name[1]] * self.factors.get(name[1], 1.0)


def fair_ends(programs: Programs) -> list[Fraction]:
    """When each would be done if all that are there shared the device equally."""
    left = [Fraction(sum(calls)) for _, calls in programs]
    ends = [Fraction(0)] * len(programs)
    now = Fraction(0)
    while any(left):
        there = [i for i, (at, _) in enumerate(programs) if at <= now and left[i]]
        coming = min((at for (at, _), cost in zip(programs, left, strict=True) if at > now and cost), default=None)
        if not there:
            assert coming is not None
            now = Fraction(coming)
            continue
        span = min(left[i] for i in there) * len(there)
        if coming is not None:
            span = min(span, coming - now)
        now += span
        for i in there:
            left[i] -= span / len(there)
            if not left[i]:
                ends[i] = now
    return ends


def costs_of(programs: Programs) -> dict[str, float]:
    return {f"p{pid}": float(sum(calls)) for pid, (_, calls) in enumerate(programs, 1)}


@settings(max_examples=300, deadline=None)
@given(PROGRAMS)
def test_a_program_is_done_by_its_time_under_fair_sharing_and_the_longest_and_one_step(programs: Programs) -> None:
    ends = ends_of(programs, FairFinish(Known(costs_of(programs))))

    longest = max(sum(calls) for _, calls in programs)
    assert all(end <= fair + longest + 1 for end, fair in zip(ends, fair_ends(programs), strict=True))


@settings(max_examples=150, deadline=None)
@given(PROGRAMS)
def test_of_programs_that_come_together_the_mean_is_never_worse_than_fair_sharing(programs: Programs) -> None:
    together = [(0, calls) for _, calls in programs]

    ends = ends_of(together, FairFinish(Known(costs_of(together))))

    assert sum(ends) <= sum(fair_ends(together))


@settings(max_examples=150, deadline=None)
@given(PROGRAMS, st.floats(0.01, 1.0))
def test_who_is_said_to_be_cheap_delays_the_others_by_no_more_than_it_costs(programs: Programs, factor: float) -> None:
    honest = costs_of(programs)

    ends = ends_of(programs, FairFinish(Known(honest, {"p1": factor})))

    longest = max(honest.values())
    fair = fair_ends(programs)
    assert all(end <= f + longest + honest["p1"] + 1 for end, f in zip(ends[1:], fair[1:], strict=True))


def test_who_has_rested_for_long_is_not_served_alone_for_what_it_did_not_use() -> None:
    predictor = Predictor()
    device = CountingDevice(RunQueue(1, policy := FairFinish(Known({"p1": 10.0, "p2": 10.0, "p3": 1000.0}))), flat=True)
    for pid in (1, 2, 3):
        device.program(pid)
    device.ask(1, 0, 1)
    device.ask(3, 0, 900)
    for _ in range(900):
        device.step()

    device.ask(1, 0, 200)  # it was to cost 10, long ago
    device.ask(2, 0, 10)
    num = len(device.ended)
    for _ in range(60):
        device.step()

    assert [work.pid for work in device.ended[num:]][:1] in ([2], [3])
    assert policy.virtual > 0 and predictor is not None


def test_a_correction_is_made_a_logarithmic_number_of_times() -> None:
    policy = FairFinish(Known({"p1": 1.0}))
    device = CountingDevice(RunQueue(1, policy), flat=True)
    device.program(1)
    device.ask(1, 0, 10_000)
    finishes = set()
    for _ in range(10_000):
        device.step()
        finishes |= {tag.finish for tag in policy.tags.values()}

    assert len(finishes) < 50


def test_names_are_learned_from_what_their_programs_cost() -> None:
    predictor = Predictor()
    queue = RunQueue(1, FairFinish(predictor), predictor)
    device = CountingDevice(queue)
    for pid in range(1, 41):
        device.program(pid, name="long" if pid % 2 else "short")
        device.ask(pid, 10, 50 if pid % 2 else 2)
        device.drain()
        device.end(pid)

    assert predictor.cost(("", "long")) == pytest.approx(sum(range(10, 61)), rel=0.3)
    assert predictor.cost(("", "short")) < 0.3 * predictor.cost(("", "long"))

    for pid, name in ((91, "long"), (92, "short")):
        device.program(pid, name=name)
        device.ask(pid, 10, 2)
    device.look()

    assert device.began[-1].pid == 92


@given(num=st.integers(2, 9), steps=st.lists(st.integers(1, 10_000), min_size=1, max_size=60))
def test_virtual_time_is_what_each_would_have_had_whatever_a_division_leaves(num, steps):
    policy = FairFinish(Known({str(pid): 1e9 for pid in range(1, num + 1)}))
    queue = RunQueue(num, policy)
    for pid in range(1, num + 1):
        queue.began(ProcessBegan(Pid(pid), None, "ann", str(pid), 0), 0.0)
        queue.add(Owner(Pid(pid), 0, "ann", str(pid)), 0, 0.0)
    call = queue.take(0.0)

    for held in steps:
        queue.charge(call, Service(decode=1, held=held), 0.0)

    assert policy.virtual == pytest.approx(sum(steps) / num)
