"""A bound on waiting for each policy that orders by something else than fairness (vtc's and justitia's have files of their own)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.kernel.sched.counter import CountingDevice
from vllm_symphony.kernel.sched.atlas import CriticalPath
from vllm_symphony.kernel.sched.fcfs import FirstCome
from vllm_symphony.kernel.sched.levels import Levels
from vllm_symphony.kernel.sched.plas import AttainedService
from vllm_symphony.kernel.sched.priority import ByPriority
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import Runnable

ASK = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 12))  # program, prompt, decode
TRACES = st.lists(st.one_of(ASK, ASK, ASK, st.integers(1, 5)), min_size=1, max_size=60)  # or a program that is killed
ROWS = st.integers(1, 3)
relaxed = settings(max_examples=100, deadline=None)


def play(device: CountingDevice, trace: list[tuple[int, int, int] | int]):
    """Yields after each look: who had a row before, and who has one now."""
    for pid in range(1, 6):
        device.program(pid, priority=pid)
    events = iter(trace)
    while (event := next(events, None)) is not None or device.works:
        if isinstance(event, tuple):
            device.ask(*event)
        elif event is not None:
            for call in [call for call, work in device.works.items() if work.pid == event]:
                device.cancel(call)
        before = set(device.running)
        device.look()
        yield before, [call for call in device.running if call not in before]
        device.step()


@relaxed
@given(TRACES, ROWS)
def test_fcfs_begins_no_call_before_one_that_came_earlier(trace, rows) -> None:
    device = CountingDevice(RunQueue(rows, FirstCome()))

    for _ in play(device, trace):
        pass

    numbers = [work.call.number for work in device.began if work.call is not None]
    assert numbers == sorted(numbers)


@relaxed
@given(TRACES, ROWS, st.integers(0, 20))
def test_by_priority_no_call_begins_while_one_that_came_earlier_is_overdue(trace, rows, patience) -> None:
    device = CountingDevice(RunQueue(rows, ByPriority(patience)))

    for _, begins in play(device, trace):
        overdue = [call for call in device.queue.calls if not call.is_running and device.now - call.arrived_s >= patience]
        assert all(begun.number < waits.number for begun in begins for waits in overdue)


@relaxed
@given(TRACES, ROWS)
def test_by_priority_those_that_run_are_the_highest_while_nobody_is_overdue(trace, rows) -> None:
    device = CountingDevice(RunQueue(rows, ByPriority(1e9)))

    for _ in play(device, trace):
        waiting = [call.program.priority for call in device.queue.calls if not call.is_running]
        assert not waiting or min(call.program.priority for call in device.running) >= max(waiting)


@relaxed
@given(TRACES, ROWS, st.sampled_from([AttainedService, CriticalPath]), st.integers(1, 3))
def test_by_attained_service_nobody_waits_longer_than_patience_times_what_it_ran(trace, rows, kind, patience) -> None:
    policy: Levels = kind(quantum=4, patience=patience)
    device = CountingDevice(RunQueue(rows, policy))

    for _ in play(device, trace):
        for call, place in policy.places.items():
            if place.level and call.since_s < device.now and not call.is_running:
                ran = policy.attained[call.program].ran_s + call.ran_s - place.ran_s
                assert call.waited(device.now) - place.waited_s <= patience * ran


@relaxed
@given(TRACES, ROWS, st.sampled_from([AttainedService, CriticalPath]))
def test_once_forgiven_a_call_waits_only_for_those_that_had_entered_before_it(trace, rows, kind) -> None:
    policy: Levels = kind(quantum=4, patience=1)
    device = CountingDevice(RunQueue(rows, policy))

    for _, begins in play(device, trace):
        forgiven = [c for c, p in policy.places.items() if p.forgiven and not p.level and not c.is_running]
        assert all(begun.rank < waits.rank for begun in begins for waits in forgiven)


def test_a_long_program_beside_a_flood_of_short_ones_is_done() -> None:
    for policy in (AttainedService(quantum=8, patience=4), CriticalPath(quantum=8, patience=4), ByPriority(patience_s=50)):
        device = CountingDevice(RunQueue(1, policy))
        device.program(1, priority=0)
        long = device.ask(1, 10, 40)
        for pid in range(2, 2_000):
            device.program(pid, priority=9)
            device.ask(pid, 1, 1)  # takes two steps: without the long one the device would be just full
            device.step()
            device.step()
            device.end(pid)

        assert long in device.ended, policy.name


def ran(device: CountingDevice) -> list[int]:
    return [work.pid for work in device.began]


def test_by_attained_service_who_has_computed_little_goes_before_who_has_computed_much() -> None:
    device = CountingDevice(RunQueue(1, AttainedService(quantum=4)))
    for pid in (1, 2):
        device.program(pid)
    device.ask(1, 50, 1)
    device.drain()

    device.ask(1, 1, 1)
    device.ask(2, 1, 1)
    device.drain()

    assert ran(device) == [1, 2, 1]


def test_a_call_that_has_spent_its_quantum_gives_its_row_to_one_that_has_not() -> None:
    device = CountingDevice(RunQueue(1, AttainedService(quantum=8)))
    for pid in (1, 2):
        device.program(pid)
    long = device.ask(1, 1, 100)
    for _ in range(6):
        device.step()
    short = device.ask(2, 1, 1)

    for _ in range(2):
        device.step()

    assert short in device.ended and long not in device.ended


def parallel(policy: Levels) -> list[int]:
    """Program 1 has run four calls side by side, program 2 two after each other; who goes first then?"""
    device = CountingDevice(RunQueue(4, policy))
    for pid in (1, 2):
        device.program(pid)
    for _ in range(4):
        device.ask(1, 10, 1)
    device.drain()
    for _ in range(2):
        device.ask(2, 12, 1)
        device.drain()
    device.began.clear()
    device.queue.rows = 1
    for pid in (2, 1):
        device.ask(pid, 1, 1)
    device.drain()
    return ran(device)


def test_by_the_critical_path_calls_side_by_side_count_once() -> None:
    assert parallel(CriticalPath(quantum=16)) == [1, 2]
    assert parallel(AttainedService(quantum=16)) == [2, 1]


def rank_of(call: Runnable | None) -> float:
    assert call is not None
    return call.rank[0]


def test_a_lie_about_priority_orders_the_liars_own_programs_only() -> None:
    device = CountingDevice(RunQueue(1, ByPriority()))
    device.program(1, "honest", priority=0)
    device.program(2, "liar", priority=100)
    device.program(3, "liar", priority=100)
    for pid, principal in ((3, "liar"), (2, "liar"), (1, "honest")):
        for _ in range(10):
            device.ask(pid, 1, 5, principal)
    for _ in range(60):
        device.step()

    assert abs(device.got[1] - device.got[2] - device.got[3]) <= 30
