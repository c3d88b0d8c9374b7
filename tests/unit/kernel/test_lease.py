"""Sessions: how long they live without a connection, who may take one up again, and what goes with them."""

import json
from collections.abc import Iterator

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, SECOND, World
from vllm_symphony.abi.calls import MAX_LEASE_S, Attach, Cancel, Exit, Forward, NoArgs, Random, Sleep
from vllm_symphony.errors import InvalidArgument, NoSuchProcess, WouldBlock
from vllm_symphony.kernel import effect as e


def opened(w: World, lease_s: float = 10.0, cred=ME) -> int:
    pid = w.kernel.connect(cred, "client", w.now_ns, lease_s=lease_s)
    w.drain()
    return pid


def outside(w: World, edge: int, session: int, op: str, args: object, cred=ME) -> int:
    """An edge's call for the session; its id."""
    w.num_calls += 1
    w.kernel.call(edge, w.num_calls, 0, op, args, w.now_ns, cred, session=session)
    w.drain()
    return w.num_calls


def is_open(w: World, pid: int) -> bool:
    return not w.kernel.processes[pid].has_ended


@pytest.fixture(autouse=True)
def sessions_end(w: World) -> Iterator[None]:
    yield
    for pid in [p.pid for p in w.kernel.processes.values() if p.kind == "session" and not p.has_ended]:
        w.kernel.end_session(pid, "the test is over", w.now_ns)
    w.drain()


@pytest.fixture
def edge(w: World) -> int:
    return w.kernel.connect(ME, "edge", 0)


@pytest.mark.parametrize("lease_s", [-1.0, float("nan"), float("inf"), MAX_LEASE_S * 1.001, 1e300])
def test_a_lease_out_of_its_range_is_refused_and_leaves_nothing(w: World, lease_s: float):
    before = w.kernel.counters()

    with pytest.raises(InvalidArgument, match="lease_s"):
        w.kernel.connect(ME, "client", 0, lease_s=lease_s)

    assert w.kernel.counters() == before


def test_a_connected_session_lives_however_long_it_takes(w: World):
    pid = opened(w, 1.0)

    w.pass_time(10_000.0)

    assert is_open(w, pid)


def test_without_a_connection_it_ends_when_the_lease_does_and_not_before(w: World):
    pid = opened(w, 10.0)
    fd = w.file([1, 2], by=pid)
    w.disconnect(pid)

    w.pass_time(9.999)
    assert is_open(w, pid) and w.tokens(fd, by=pid) == [1, 2]
    w.pass_time(0.001)

    process = w.kernel.processes[pid]
    assert process.exit is not None and (process.exit.code, process.exit.reason) == (129, "lease")
    assert w.sent(e.Hangup)[-1].pid == pid
    assert w.files == {}


def test_who_comes_back_stops_the_lease(w: World):
    pid = opened(w, 10.0)
    w.disconnect(pid)
    w.pass_time(9.0)

    w.kernel.resume(pid, ME)
    w.pass_time(100.0)
    assert is_open(w, pid)

    w.disconnect(pid)
    w.pass_time(10.0)
    assert not is_open(w, pid)


def test_another_principal_cannot_take_it_up_and_the_admin_can(w: World):
    pid = opened(w)
    w.disconnect(pid)

    with pytest.raises(NoSuchProcess):
        w.kernel.resume(pid, OTHER)
    assert not w.kernel.processes[pid].connected
    w.kernel.resume(pid, ADMIN)

    assert w.kernel.processes[pid].connected


def test_what_is_no_session_and_what_has_ended_cannot_be_taken_up(w: World):
    pid = opened(w)
    w.kernel.end_session(pid, "enough", 0)
    w.drain()

    for other in (pid, w.pid, 999, -1):
        with pytest.raises(NoSuchProcess):
            w.kernel.resume(other, ME)


def test_each_call_from_outside_begins_the_lease_anew(w: World, edge: int):
    pid = opened(w, 10.0)
    w.disconnect(pid)

    for _ in range(5):
        w.pass_time(9.0)
        w.result(outside(w, edge, pid, "random", Random(1)), edge)
    w.pass_time(9.0)
    assert w.result(outside(w, edge, pid, "keep_alive", NoArgs()), edge).lease_s == 10.0
    w.pass_time(9.999)
    assert is_open(w, pid)
    w.pass_time(0.001)

    assert not is_open(w, pid)


def test_a_call_from_outside_that_takes_longer_than_the_lease_is_answered(w: World, edge: int):
    pid = opened(w, 2.0)
    w.disconnect(pid)

    call = outside(w, edge, pid, "sleep", Sleep(60.0))
    for _ in range(61):
        w.pass_time(1.0)
    w.result(call, edge)
    w.pass_time(2.0)

    assert not is_open(w, pid)


def test_a_call_from_outside_hears_that_the_session_has_ended(w: World, edge: int):
    pid = opened(w)
    fd = w.file([1], by=pid)
    sleeper = outside(w, edge, pid, "sleep", Sleep(60.0))
    worker = outside(w, edge, pid, "forward", Forward(fd, b"\1\0\0\0"))

    w.result(outside(w, edge, pid, "exit", Exit(0)), edge)
    w.reap()

    assert {w.replies[edge, call].reason for call in (sleeper, worker)} == {"ESRCH"}


def test_calls_from_outside_end_with_their_edge_and_the_session_stays(w: World):
    edge = w.kernel.connect(ME, "edge", 0)
    pid = opened(w)
    outside(w, edge, pid, "sleep", Sleep(60.0))

    w.disconnect(edge)

    assert is_open(w, pid) and not w.kernel.processes[pid].calls


def test_another_principals_call_for_the_session_finds_none(w: World, edge: int):
    pid = opened(w)

    call = outside(w, edge, pid, "random", Random(1), cred=OTHER)

    assert w.replies[edge, call].reason == "ESRCH"


def test_an_edges_cancel_ends_its_own_call_of_the_session_only(w: World, edge: int):
    pid = opened(w)
    own = w.start("sleep", by=pid, seconds=60.0)
    call = outside(w, edge, pid, "sleep", Sleep(60.0))

    w.num_calls += 1
    w.kernel.call(edge, w.num_calls, 0, "cancel", Cancel(call), w.now_ns, ME)
    w.drain()

    assert w.replies[edge, call].reason == "EINTR"
    assert w.is_open(own, pid)


def test_children_and_their_children_end_with_the_reason_lease(w: World):
    pid = opened(w, 1.0)
    child = w.program(parent=pid)
    grandchild = w.program(parent=child)
    apart = w.program(parent=pid, detach=True)
    w.disconnect(pid)

    w.pass_time(1.0)
    w.exited(child, 143)
    w.exited(grandchild, 143)

    reasons = {p: w.kernel.processes[p].exit.reason for p in (pid, child, grandchild)}
    assert reasons == {pid: "lease", child: "lease", grandchild: "lease"}
    assert w.sent(e.Signalled) == [e.Signalled(child, "TERM"), e.Signalled(grandchild, "TERM")]
    assert not w.kernel.processes[apart].is_leaving


def test_children_of_a_session_that_exits_are_orphans_as_any_others(w: World):
    pid = opened(w)
    child = w.program(parent=pid)

    w("exit", by=pid, code=0)
    w.exited(child, 143)

    assert w.kernel.processes[child].exit.reason == "orphan"


def test_viewers_of_a_session_see_its_end(w: World, edge: int):
    pid = opened(w, 1.0)
    w.num_calls += 1
    w.kernel.call(edge, w.num_calls, 0, "attach", Attach(pid), w.now_ns, ME)
    w.disconnect(pid)

    w.pass_time(1.0)

    (part,) = w.stream(w.num_calls, edge)
    assert json.loads(part.events[-1].text)["reason"] == "lease"
    assert not w.is_open(w.num_calls, edge)


def test_a_clock_that_leaps_ends_what_is_due_once_and_a_wall_clock_that_steps_nothing(w: World):
    pid, later = opened(w, 10.0), opened(w, 80_000.0)
    w.disconnect(pid)
    w.disconnect(later)

    w.kernel.offset_ns -= 10**6 * SECOND  # the wall clock is set back
    w.pass_time(5.0)
    assert is_open(w, pid)
    w.kernel.offset_ns += 10**7 * SECOND
    w.pass_time(4.9)
    assert is_open(w, pid)
    w.pass_time(3600.0)  # suspended to RAM

    assert not is_open(w, pid) and is_open(w, later)
    assert [h.pid for h in w.sent(e.Hangup)] == [pid]


def test_sessions_are_bounded_and_one_that_ended_makes_room():
    w = World(sessions=2)
    first, _ = opened(w), opened(w)

    with pytest.raises(WouldBlock, match="2 sessions"):
        opened(w)
    w.kernel.end_session(first, "enough", 0)

    assert opened(w)
    w.check()


def test_no_principal_takes_all_sessions():
    w = World(sessions_each=2)
    mine = [opened(w), opened(w)]

    with pytest.raises(WouldBlock, match="2 sessions of me"):
        opened(w)

    assert is_open(w, opened(w, cred=OTHER))
    w.kernel.end_session(mine[0], "over", w.now_ns)
    assert is_open(w, opened(w))
    w.check()


def test_keep_alive_is_for_sessions(w: World):
    call = w.start("keep_alive")

    assert w.replies[w.pid, call].reason == "EINVAL"


@pytest.mark.parametrize("seconds", [1e9, 1e300, 1.7e308])
def test_a_wait_of_any_length_can_be_asked_for_and_cancelled(w: World, seconds: float):
    w.program()
    fd = w.file([1, 2])
    calls = [
        w.start("sleep", seconds=seconds),
        w.start("wait", timeout_s=seconds),
        w.start("forward", fd=fd, tokens=[3], timeout_s=seconds),
    ]

    for call in calls:
        w("cancel", target=call)
    w.reap()

    assert {w.replies[w.pid, call].reason for call in calls} == {"EINTR"}


def test_the_lease_begins_when_a_call_from_outside_ends(w: World, edge: int):
    pid = opened(w, 2.0)
    w.disconnect(pid)
    call = outside(w, edge, pid, "sleep", Sleep(3.5))

    for _ in range(7):
        w.pass_time(0.5)
    w.result(call, edge)
    w.pass_time(1.9)
    assert is_open(w, pid)
    w.pass_time(0.1)

    assert not is_open(w, pid)
