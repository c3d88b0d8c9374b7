"""Least work left first, within fair sharing: who is overdue, what resting and learning do, and the mean."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.kernel.sched.counter import CountingDevice, Programs, ends_of
from tests.unit.kernel.sched.test_justitia import PROGRAMS, costs_of, fair_ends
from tests.unit.kernel.sched.test_starvation import ROWS, TRACES, play
from vllm_symphony.kernel.sched.predict import Predictor
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import DECODE_WEIGHT
from vllm_symphony.kernel.sched.shortest import ShortestLeft

relaxed = settings(max_examples=100, deadline=None)


class Known:
    """Work that is said, in decoded tokens by the program's name, times a factor."""

    def __init__(self, tokens: dict[str, float], factor: float = 1.0) -> None:
        self.tokens, self.factor = tokens, factor

    def work(self, name: tuple[str, str], so_far: float = 0.0) -> float:
        return DECODE_WEIGHT * self.tokens[name[1]] * self.factor


@relaxed
@given(TRACES, ROWS)
def test_no_program_begins_while_one_waits_that_is_overdue(trace, rows) -> None:
    policy = ShortestLeft(Predictor())
    device = CountingDevice(RunQueue(rows, policy))

    for _, begins in play(device, trace):
        plans, now = policy.plans, policy.virtual
        overdue = [plans[call.program].finish for call in device.queue.calls if not call.is_running]
        overdue = [finish for finish in overdue if finish <= now]
        for call in begins:
            if overdue and call.program in plans and plans[call.program].finish > now:
                raise AssertionError(f"{call.program.number} began before one that was due at {min(overdue)}, at {now}")


@relaxed
@given(PROGRAMS)
def test_of_programs_that_come_together_the_mean_is_never_worse_than_fair_sharing(programs: Programs) -> None:
    together = [(0, calls) for _, calls in programs]

    ends = ends_of(together, ShortestLeft(Known(costs_of(together))))

    assert sum(ends) <= sum(fair_ends(together))


@relaxed
@given(PROGRAMS, st.floats(0.01, 100.0))
def test_every_program_is_done_however_wrong_predictions_are(programs: Programs, factor: float) -> None:
    ends = ends_of(programs, ShortestLeft(Known(costs_of(programs), factor)))

    assert max(ends) <= max(at for at, _ in programs) + sum(sum(calls) for _, calls in programs)


def test_a_long_program_is_not_passed_for_ever_by_short_ones() -> None:
    policy = ShortestLeft(Known({"p1": 50.0} | {f"p{pid}": 1.0 for pid in range(2, 400)}))
    device = CountingDevice(RunQueue(1, policy), flat=True)
    device.program(1)
    device.ask(1, 0, 1)
    num_calls = 1
    for pid in range(2, 400):  # one comes in each step, and each is a step's work
        device.program(pid)
        device.ask(pid, 0, 1)
        device.step()
        if num_calls < 50 and not any(work.pid == 1 for work in device.works.values()):
            device.ask(1, 0, 1)
            num_calls += 1

    assert num_calls == 50


def test_who_rests_saves_up_nothing() -> None:
    policy = ShortestLeft(Known({"p1": 10.0, "p2": 1000.0, "p3": 5.0}))
    device = CountingDevice(RunQueue(1, policy), flat=True)
    for pid in (1, 2):
        device.program(pid)
    device.ask(1, 0, 1)
    device.ask(2, 0, 500)
    for _ in range(400):
        device.step()
    virtual = policy.virtual

    device.program(3)
    device.ask(1, 0, 9)
    device.ask(3, 0, 5)

    plans = {program.name: plan for program, plan in policy.plans.items()}
    assert plans["p1"].finish > virtual > 100
    assert next(iter(device.queue.look(3, device.now))).program.name == "p3"


def test_what_is_learned_orders_those_that_wait_already() -> None:
    device = CountingDevice(RunQueue(1, ShortestLeft(predictor := Predictor()), predictor), flat=True)
    device.program(3, name="p2")
    device.ask(3, 0, 2)
    device.step()
    device.program(1)
    device.program(2)
    device.ask(1, 0, 3)
    device.ask(2, 0, 3)
    assert [call.program.name for call in device.queue.look(2, device.now)] == ["p1", "p2"]

    device.step()
    device.end(3)
    device.queue.age(device.now)

    assert [call.program.name for call in device.queue.look(2, device.now)] == ["p2", "p1"]
