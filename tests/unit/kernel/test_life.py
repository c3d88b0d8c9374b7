"""`strace` with `processes`: who runs, who begins, who ends, each before its calls; whose trace they continue."""

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, World
from vllm_symphony.abi.calls import Spawn
from vllm_symphony.abi.types import ProcessRecord

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def admin(w: World) -> int:
    return w.kernel.connect(ADMIN, "client", w.now_ns)


def told(w: World, call_id: int, by: int) -> list[ProcessRecord]:
    return [record for part in w.stream(call_id, by) for record in part.processes]


def test_those_that_run_are_told_first_then_who_begins_and_who_ends(w: World, admin: int) -> None:
    here = w.program()
    call_id = w.start("strace", by=admin, follow=True, processes=True)
    later = w.program(name="later")
    w.exited(later, 1)

    found = told(w, call_id, admin)

    assert [(r.pid, r.ended_ns is None) for r in found] == [(here, True), (later, True), (later, False)]
    assert (found[-1].name, found[-1].code, found[-1].reason) == ("later", 1, "exception")
    assert [r.number for r in found] == [1, 2, 3]
    w("cancel", by=admin, target=call_id)


def test_a_process_is_told_of_before_its_calls(w: World, admin: int) -> None:
    call_id = w.start("strace", by=admin, follow=True, processes=True)
    pid = w.program()
    w("ping", by=pid)

    parts = w.stream(call_id, admin)
    begun = next(i for i, part in enumerate(parts) if any(r.pid == pid for r in part.processes))

    assert all(record.pid != pid for part in parts[:begun] for record in part.records)
    w("cancel", by=admin, target=call_id)


def test_who_did_not_ask_hears_of_no_process(w: World, admin: int) -> None:
    call_id = w.start("strace", by=admin, follow=True)
    w.program()

    assert told(w, call_id, admin) == []
    w("cancel", by=admin, target=call_id)


def test_a_principal_hears_of_its_own_processes_only(w: World, admin: int) -> None:
    other = w.kernel.connect(OTHER, "client", w.now_ns)
    call_id = w.start("strace", by=other, follow=True, processes=True)
    w.program()

    assert told(w, call_id, other) == []
    w("cancel", by=other, target=call_id)


def test_nobody_hears_once_the_stream_has_ended(w: World, admin: int) -> None:
    call_id = w.start("strace", by=admin, follow=True, processes=True)
    w("cancel", by=admin, target=call_id)

    assert w.kernel.life_watchers == []


@pytest.mark.parametrize(("said", "kept"), [(TRACE, TRACE), ("nonsense", ""), ("", "")])
def test_a_programs_trace_is_what_its_caller_named(w: World, admin: int, said: str, kept: str) -> None:
    call_id = w.start("strace", by=admin, follow=True, processes=True)
    parent = w.program(traceparent=said)
    child = w.program(parent=parent)

    found = {r.pid: r for r in told(w, call_id, admin)}

    assert (found[parent].traceparent, found[child].traceparent) == (kept, "")
    assert (found[parent].spawner, found[child].spawner) == (w.pid, parent)
    w("cancel", by=admin, target=call_id)


def test_a_session_is_told_of_with_its_trace(w: World, admin: int) -> None:
    call_id = w.start("strace", by=admin, follow=True, processes=True)
    pid = w.kernel.connect(ME, "client", w.now_ns, lease_s=60.0, name="desk", traceparent=TRACE)
    w.kernel.end_session(pid, "the test is over", w.now_ns)
    w.drain()

    found = told(w, call_id, admin)

    assert [(r.pid, r.kind, r.name, r.traceparent, r.ended_ns is None) for r in found] == [
        (pid, "session", "desk", TRACE, True), (pid, "session", "desk", TRACE, False)
    ]  # fmt: skip
    assert found[-1].reason == "lease"
    w("cancel", by=admin, target=call_id)


def test_a_retry_of_spawn_with_another_span_of_the_same_trace_happens_once(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", w.now_ns)
    pids = []
    for span in ("00f067aa0ba902b7", "00f067aa0ba902b8"):
        wanted = Spawn("async def main(): ...", traceparent=TRACE.replace("00f067aa0ba902b7", span))
        w.kernel.call(edge, 100 + len(pids), 0, "spawn", wanted, w.now_ns, ADMIN, request_id="once")
        w.drain()
        pids.append(w.result(100 + len(pids), edge).pid)

    assert pids[0] == pids[1]
    w.exited(pids[0])
