from typing import Any

from tests.unit.trace.opened import check
from tests.unit.trace.records import T0, call, step
from vllm_symphony.trace.timeline import ENGINE, timeline


def tracks(events: list[dict[str, Any]]) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}


def test_a_call_is_a_slice_of_its_threads_track():
    events = check(timeline([call(1, start=5, end=25), call(2, tid=3, start=5, end=9, result="ENOSPC")], [], {12: "prog"}))

    first, second = (e for e in events if e["ph"] == "X")
    names = tracks(events)
    assert (first["name"], first["cat"], first["ts"], first["dur"]) == ("forward", "model", 0, 20)
    assert first["args"] == {"args": "fd=3 n=1", "result": "ok", "seq": 1}
    assert second["args"]["result"] == "ENOSPC"
    assert (names[12, first["tid"]], names[12, second["tid"]]) == ("main", "thread 3")
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["engine", "prog (12)"]


def test_arrows_lead_from_a_call_to_its_first_and_its_last_step():
    steps = [step(n, 10 * n, 10 * n + 9) for n in range(1, 6)]

    events = check(timeline([call(1, start=12, end=45, step_first=2, step_last=4)], steps, {}))

    into = {e["ts"] for e in events if e["ph"] == "f"}
    shown = {e["name"]: e["ts"] for e in events if e["ph"] == "X" and e["pid"] == ENGINE}
    assert into == {shown["step 2"], shown["step 4"]}
    assert list(shown) == ["step 1", "step 2", "step 3", "step 4"], "step 5 began when the calls had ended"


def test_a_call_of_one_step_has_one_arrow_and_one_whose_step_is_not_known_none():
    events = check(
        timeline([call(1, start=0, end=9, step_first=1, step_last=1), call(2, step_first=7, step_last=7)], [step(1, 2, 4)], {})
    )

    assert [e["ph"] for e in events if e["ph"] in "sf"] == ["s", "f"]


def test_calls_that_a_thread_makes_at_once_lie_beside_each_other():
    calls = [call(1, start=0, end=10), call(2, start=5, end=20), call(3, start=10, end=12), call(4, start=11, end=13)]

    events = check(timeline(calls, [], {}))

    assert {name for (pid, _), name in tracks(events).items() if pid == 12} == {"main", "main, at once (2)", "main, at once (3)"}


def test_tracks_are_numbered_through_all_processes_and_none_is_zero():
    events = check(timeline([call(1, pid=12), call(2, pid=13), call(3, pid=13, tid=1)], [], {13: "b"}))

    numbers = [tid for _, tid in tracks(events)]
    assert len(set(numbers)) == len(numbers) == 4
    assert 0 not in numbers


def test_the_trace_says_when_it_began_and_what_is_missing():
    trace = timeline([call(1, start=3)], [step(1, 1, 5)], {}, missing=1234)

    assert trace["otherData"] == {"made_by": "symphony", "start_ns": str(T0 + 1000), "missing_calls": "1234"}


def test_a_trace_of_nothing_can_be_opened():
    assert all(e["ph"] == "M" for e in check(timeline([], [], {})))
