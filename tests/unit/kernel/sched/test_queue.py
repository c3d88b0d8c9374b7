"""The run queue under every policy: work conserved, shares kept, order repeatable, effort logarithmic."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.kernel.sched.counter import CountingDevice
from vllm_symphony.abi.types import Pid
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.kernel.effect import Owner, ProcessBegan
from vllm_symphony.kernel.sched.catalogue import POLICIES, PROCESS, demand, policy_of
from vllm_symphony.kernel.sched.predict import Predictor
from vllm_symphony.kernel.sched.queue import QUANTUM, RunQueue
from vllm_symphony.kernel.sched.runnable import DECODE_WEIGHT

every_policy = pytest.mark.parametrize("name", POLICIES)
relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# what happens in a tick: (program, principal, prompt, decode), or a program to cancel a call of
ASK = st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 8))
TRACES = st.lists(st.one_of(ASK, st.integers(1, 6), st.just(None)), min_size=1, max_size=60)
Trace = list[tuple[int, int, int] | int | None]


def device_of(name: str, rows: int = 3, room: int = 100, passes: bool = True) -> CountingDevice:
    predictor = Predictor()
    return CountingDevice(RunQueue(rows, policy_of(name, {}, predictor), predictor), room=room, passes=passes)


def play(device: CountingDevice, trace: Trace, after_step: Callable[[], None] = lambda: None) -> None:
    """Six programs of three principals; the third is a child of the first."""
    for pid in range(1, 7):
        device.program(pid, f"u{pid % 3}", priority=pid % 2, parent=1 if pid == 4 else None)
    for event in trace:
        if isinstance(event, tuple):
            pid, prompt, decode = event
            device.ask(pid, prompt, decode, f"u{pid % 3}")
        elif event is not None and (mine := [call for call in device.works if device.works[call].pid == event]):
            device.cancel(mine[-1])
        device.step()
        after_step()
    for pid in range(1, 7):
        device.end(pid)
    device.drain()
    after_step()


@every_policy
@relaxed
@given(trace=TRACES, rows=st.integers(1, 4))
def test_no_row_is_idle_while_a_call_waits_that_has_room(name: str, trace: Trace, rows: int) -> None:
    device = device_of(name, rows, room=1 << 20)

    play(device, trace)

    assert device.num_idle_rows == 0


@every_policy
@relaxed
@given(trace=TRACES, rows=st.integers(1, 4))
def test_everything_ends_however_short_room_is_and_nothing_is_left_behind(name: str, trace: Trace, rows: int) -> None:
    device = device_of(name, rows, room=28)
    queue = device.queue

    play(device, trace)

    assert not (queue.calls or queue.programs or queue.num_running or queue.num_waiting)
    assert all(not p.num_running and not p.programs for p in queue.principals.values())
    for left in ("attained", "places", "tags"):
        assert not getattr(queue.policy, left, None)


@every_policy
@relaxed
@given(trace=TRACES)
def test_the_same_events_give_the_same_order(name: str, trace: Trace) -> None:
    once, again = device_of(name), device_of(name)

    play(once, trace)
    play(again, trace)

    assert [(w.pid, w.began_at) for w in once.began] == [(w.pid, w.began_at) for w in again.began]


@every_policy
@relaxed
@given(trace=TRACES, other=st.sampled_from(sorted(POLICIES)), at=st.integers(0, 30))
def test_a_policy_may_be_changed_at_any_time(name: str, trace: Trace, other: str, at: int) -> None:
    device = device_of(name, room=60)
    steps = iter(range(1 << 30))

    def change() -> None:
        if next(steps) == at:
            device.queue.use(policy_of(other, {}, device.queue.predictor), device.now)
            device.queue.check()

    play(device, trace, change)

    assert not device.queue.calls


@every_policy
def test_one_principal_with_1000_programs_gets_no_more_than_one_with_1(name: str) -> None:
    device = device_of(name, rows=8, room=1 << 20)
    device.program(1, "modest")
    for pid in range(2, 1002):
        device.program(pid, "greedy")
        device.ask(pid, 4, 50, "greedy")
    for _ in range(8):
        device.ask(1, 4, 50, "modest")
    for _ in range(400):
        device.step()
        if sum(work.pid == 1 for work in device.works.values()) < 8:
            device.ask(1, 4, 50, "modest")

    modest = device.got[1]
    greedy = device.got.total() - modest

    assert abs(modest - greedy) <= 2 * QUANTUM + 8 * DECODE_WEIGHT * 50


@every_policy
def test_a_call_of_a_principal_alone_need_not_wait_for_the_end_of_anothers(name: str) -> None:
    device = device_of(name, rows=4, room=1 << 20)
    for pid in range(1, 5):
        device.program(pid, "greedy")
        device.ask(pid, 1, 100_000, "greedy")
    for _ in range(200):
        device.step()
    device.program(9, "modest")
    began = device.ask(9, 1, 1, "modest")

    for _ in range(int(QUANTUM / DECODE_WEIGHT) + 2):
        device.step()

    assert began in device.ended


@every_policy
@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_principals_have_their_parts_by_weight(name: str, weight: float) -> None:
    device = device_of(name, rows=8, room=1 << 20)
    device.queue.weigh("b", weight, None)
    for pid, principal in ((1, "a"), (2, "b")):
        device.program(pid, principal)
        for _ in range(40):
            device.ask(pid, 1, 60, principal)
    for _ in range(200):
        device.step()

    assert device.got[2] / device.got[1] == pytest.approx(weight, rel=0.2)


@every_policy
@relaxed
@given(trace=TRACES, cap=st.integers(1, 3))
def test_a_principal_has_no_more_calls_at_once_than_its_cap(name: str, trace: Trace, cap: int) -> None:
    device = device_of(name, rows=4)
    device.queue.weigh("u1", 1.0, cap)

    def check() -> None:
        assert device.queue.principals["u1"].num_running <= cap

    play(device, trace, check)


@every_policy
def test_calls_that_give_way_do_not_take_turns(name: str) -> None:
    """With nothing new, a call gives its row up once for each thing that service changes, not once a step."""
    device = device_of(name, rows=2, room=1 << 20)
    begins = []
    for pid in range(1, 9):
        device.program(pid, f"u{pid % 2}", priority=pid % 3)
        device.ask(pid, 3, 400, f"u{pid % 2}")
    before: set[object] = set()
    while device.works:
        device.step()
        begins += [call for call in device.running if call not in before]
        before = set(device.running)

    assert len(begins) <= 8 * 12  # 12 levels of 800 tokens at most, and the principals' quanta


def test_children_are_a_part_of_their_program_and_strangers_are_not() -> None:
    queue = RunQueue(4)
    queue.began(ProcessBegan(Pid(1), None, "ann", "agent"), 0.0)
    queue.began(ProcessBegan(Pid(2), Pid(1), "ann", "agent"), 0.0)
    queue.began(ProcessBegan(Pid(3), Pid(2), "ann", "agent"), 0.0)
    calls = [queue.add(Owner(pid=Pid(pid), principal="ann"), 1, 0.0) for pid in (1, 2, 3, 4, 4)]
    queue.ended(Pid(1), 0.0)

    assert len({call.program for call in calls[:3]}) == 1
    assert len({call.program for call in calls}) == 3  # each call of one that is no program is one by itself


@every_policy
def test_10_000_waiting_calls_cost_each_little_more_than_100(name: str) -> None:
    """Each call comes, runs for a few steps and goes, with so many others waiting."""

    def seconds_each(num: int) -> float:
        queue = RunQueue(16, policy_of(name, {}, predictor := Predictor()), predictor)
        device = CountingDevice(queue)
        for pid in range(num):
            device.program(pid, f"u{pid % 7}", f"p{pid % 50}")
            queue.add(Owner(pid=Pid(pid), principal=f"u{pid % 7}"), 5, 0.0)
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(100):
                queue.age(1.0)
                call = queue.take(1.0)
                assert call is not None
                queue.put_back(call, 1.0)
                queue.remove(call, 1.0)
                queue.add(call.owner, 5, 1.0)
            best = min(best, (time.perf_counter() - began) / 100)
        return best

    assert seconds_each(10_000) < 5 * seconds_each(100)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("fifo", {}), ("fcfs", {"quantum": 1}), ("plas", {"quantum": 0}), ("atlas", {"patience": float("nan")})],
)
def test_what_is_no_policy_is_refused(name: str, parameters: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        demand(PROCESS, name, parameters)
