"""News of one frame: exact sums, bounded lists."""

from vllm_symphony.abi.calls import StracePart
from vllm_symphony.abi.types import CallRecord, StepRecord
from vllm_symphony.web.live.window import MAX_CALLS, MAX_ERRORS, MAX_PAST_STEPS, MAX_STEPS, Window

MS = 1_000_000


def call(seq: int, op: str = "generate", result: str = "ok", pid: int = 7, ms: int = 2) -> CallRecord:
    return CallRecord(seq, pid, 0, op, "fd=3", result, seq * MS, (seq + ms) * MS)


def step(number: int, ms: int = 3, num_tokens: int = 5) -> StepRecord:
    return StepRecord(number, number * 10 * MS, (number * 10 + ms) * MS, 2, num_tokens)


def test_sums_are_exact_however_many_calls_there_were():
    window = Window()

    window.put(StracePart(tuple(call(i, result="EBUSY" if i % 10 == 0 else "ok") for i in range(1, 1001))))
    told = window.take()

    assert told["ops"] == {"generate": [1000, 100, 2.0000000000000013, 0.002]}
    assert [c["seq"] for c in told["calls"]] == list(range(1001 - MAX_CALLS, 1001))
    assert [c["seq"] for c in told["errors"]] == list(range(1000, 0, -10))[:MAX_ERRORS][::-1]


def test_of_many_steps_the_newest_are_told_and_all_are_counted():
    window = Window()
    window.put(StracePart((), (step(0),)))
    window.take()

    window.put(StracePart((), tuple(step(i) for i in range(1, 2001))))
    told = window.take()

    assert [s[0] for s in told["steps"]] == list(range(2001 - MAX_STEPS, 2001))
    assert told["since"] == {"steps": 2000, "tokens": 10_000, "busy_ms": 6000.0, "calls": 0}


def test_frames_that_tell_of_the_past_hold_more():
    window = Window(since_ns=10**12)

    window.put(StracePart((), tuple(step(i) for i in range(1, 9001))))
    first = window.take()["steps"]
    window.put(StracePart((), tuple(step(i) for i in range(9001, 12_001))))

    assert len(first) == MAX_PAST_STEPS > MAX_STEPS
    assert len(window.take()["steps"]) == 3000


def test_what_was_before_is_shown_and_is_no_speed():
    window = Window(since_ns=25 * MS)

    window.put(StracePart((call(1), call(30)), (step(1), step(3))))
    told = window.take()

    assert [s[0] for s in told["steps"]] == [1, 3] and told["ops"]["generate"][0] == 2
    assert told["since"] == {"steps": 1, "tokens": 5, "busy_ms": 3.0, "calls": 1}


def test_what_only_looks_is_left_out_unless_a_program_does_it():
    window = Window()
    window.programs = frozenset({7})

    window.put(StracePart((call(1, "ps", pid=3), call(2, "strace", pid=3), call(3, "ps"), call(4, "kill", pid=3))))

    assert {op: sums[0] for op, sums in window.take()["ops"].items()} == {"ps": 1, "kill": 1}


def test_it_is_empty_once_it_was_taken():
    window = Window()
    window.put(StracePart((call(1),), (step(1),), missing=4))

    assert not window.is_empty
    assert window.take()["missing"] == 4
    assert window.is_empty and window.take()["missing"] == 0
