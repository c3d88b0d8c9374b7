"""VTC's published bound, on random traces; then what follows of it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.kernel.sched.counter import CountingDevice
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import DECODE_WEIGHT, PROMPT_WEIGHT
from vllm_symphony.kernel.sched.vtc import EqualShares

MAX_PROMPT, MAX_DECODE, ROOM = 30, 12, 120
SIZES = st.tuples(st.integers(1, MAX_PROMPT), st.integers(1, MAX_DECODE))


def unfairness(room: int, rows: int) -> float:
    """U of theorem 4.4: the longest prompt, or all that those that run may decode."""
    return max(PROMPT_WEIGHT * MAX_PROMPT, DECODE_WEIGHT * min(room, rows * MAX_DECODE))


def keep_asking(device: CountingDevice, pid: int, sizes: list[tuple[int, int]]) -> None:
    """As a client that always has something that waits."""
    waiting = sum(work.pid == pid and work.began_at is None for work in device.works.values())
    for prompt, decode in sizes[: max(0, 4 - waiting)]:
        device.ask(pid, prompt, decode)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 4), st.integers(1, 12))
def test_of_programs_that_wait_all_along_none_gets_more_than_the_published_bound_above_another(data, num, rows) -> None:
    device = CountingDevice(RunQueue(rows, EqualShares()), room=ROOM)
    sizes = {pid: data.draw(st.lists(SIZES, min_size=4, max_size=4)) for pid in range(1, num + 1)}
    late = data.draw(st.integers(0, 30))
    for pid in sizes:
        device.program(pid)

    start = dict.fromkeys(sizes, 0.0)
    for at in range(late + 200):
        for pid in sizes:
            if pid == 1 or at >= late:
                keep_asking(device, pid, sizes[pid])
        if at == late:
            start = dict(device.got)
        device.step()
        got = [device.got[pid] - start.get(pid, 0) for pid in sizes]

        assert at < late or max(got) - min(got) <= 2 * unfairness(ROOM, rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 4))
def test_who_rests_saves_up_no_credit(rested, rows) -> None:
    device = CountingDevice(RunQueue(rows, EqualShares()))
    device.program(1)
    device.program(2)
    for _ in range(rested):
        keep_asking(device, 1, [(1, 3)] * 4)
        device.step()

    before = device.got[1]
    for _ in range(100):
        for pid in (1, 2):
            keep_asking(device, pid, [(1, 3)] * 4)
        device.step()

    assert abs(device.got[2] - (device.got[1] - before)) <= 2 * DECODE_WEIGHT * rows * 4


def test_a_prompt_is_charged_when_it_begins_so_that_one_look_serves_both() -> None:
    device = CountingDevice(RunQueue(4, EqualShares()))
    for pid in (1, 2):
        device.program(pid)
        for _ in range(4):
            device.ask(pid, 10, 1)

    device.look()

    assert [work.pid for work in device.began] == [1, 2, 1, 2]


def test_what_was_not_computed_is_given_back() -> None:
    queue = RunQueue(4, policy := EqualShares())
    device = CountingDevice(queue)
    device.program(1)
    work = device.ask(1, 10, 1)
    device.ask(1, 1, 1)
    device.look()
    (program,) = {call.program for call in queue.calls}

    assert policy.counters[program] == 11
    device.cancel(work.call)

    assert policy.counters[program] == 1
