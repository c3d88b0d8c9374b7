"""STOP and CONT: calls of a stopped process are held, in order; what it waits for goes on."""

import pytest

from tests.unit.kernel.world import OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import Cancel, ThreadStart
from vllm_symphony.abi.types import Pid, ProcessState, ResourceLimits
from vllm_symphony.kernel.effect import Signalled


def signals(w: World, pid: int) -> list[str]:
    return [s.signal for s in w.sent(Signalled) if s.pid == pid]


def state(w: World, pid: int) -> str:
    shown: str = w("ps", pid=pid).processes[0].state
    return shown


def test_calls_of_a_stopped_program_are_carried_out_in_order_when_it_goes_on(w: World) -> None:
    pid = w.program()
    fd = w.file([1], by=pid)
    w("kill", pid=pid, signal="STOP")
    appends = [w.start("append", by=pid, fd=fd, tokens=[token]) for token in (2, 3, 4)]
    assert all(w.is_open(call, pid) for call in appends)
    assert state(w, pid) == ProcessState.STOPPED and signals(w, pid) == ["STOP"]

    w("kill", pid=pid, signal="CONT")

    assert [w.result(call, pid).length for call in appends] == [2, 3, 4]
    assert w.tokens(fd, by=pid) == [1, 2, 3, 4]
    assert state(w, pid) == ProcessState.RUNNING and signals(w, pid) == ["STOP", "CONT"]


def test_time_of_a_held_call_begins_when_the_program_goes_on(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="STOP")
    call = w.start("sleep", by=pid, seconds=2.0)
    w.pass_time(60)
    w("kill", pid=pid, signal="CONT")

    w.pass_time(1)
    assert w.is_open(call, pid)
    w.pass_time(1)
    assert not w.is_open(call, pid)


def test_what_a_stopped_program_waits_for_goes_on_and_is_answered(w: World) -> None:
    pid = w.program()
    fd = w.file([1, 2], by=pid)
    call = w.start("forward", by=pid, fd=fd, tokens=[3])

    w("kill", pid=pid, signal="STOP")
    w.step()

    assert w.result(call, pid).length == 3


def test_threads_that_a_stopped_program_starts_have_their_calls_in_order(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="STOP")
    w.kernel.call(Pid(pid), 0, 0, "thread_start", ThreadStart(7, "draft"), w.now_ns)
    call = w.start("ping", by=pid, tid=7)
    unknown = w.start("ping", by=pid, tid=8)

    w("kill", pid=pid, signal="CONT")

    assert w.result(call, pid) and w.replies[pid, unknown].reason == "EINVAL"


def test_a_held_call_can_be_cancelled(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="STOP")
    call = w.start("sleep", by=pid, seconds=2.0)

    w.kernel.call(Pid(pid), 0, 0, "cancel", Cancel(call), w.now_ns)
    w.drain()

    assert w.replies[pid, call].reason == "EINTR"
    w("kill", pid=pid, signal="CONT")


@pytest.mark.parametrize("op", ["sleep", "getpid"])
def test_a_stopped_program_is_killed_like_any(w: World, op: str) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="STOP")
    w.start(op, by=pid, **({"seconds": 2.0} if op == "sleep" else {}))

    w("kill", pid=pid, signal="KILL")
    w.exited(pid, 137)

    assert signals(w, pid) == ["STOP", "KILL"] and state(w, pid) == ProcessState.ZOMBIE
    assert w("ps", pid=pid).processes[0].exit.reason == "signal"


def test_term_reaches_a_stopped_program_when_it_goes_on_or_kills_it(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="STOP")
    w("kill", pid=pid, signal="TERM")
    assert state(w, pid) == ProcessState.STOPPED

    w.pass_time(5)

    assert signals(w, pid) == ["STOP", "TERM", "KILL"]


def test_a_program_that_stops_itself_is_answered_and_goes_no_further(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="STOP")
    before = w.start("ping", by=pid)
    stops = w.start("kill", by=pid, pid=pid, signal="STOP")
    after = w.start("ping", by=pid)

    w("kill", pid=pid, signal="CONT")

    assert not w.is_open(before, pid) and not w.is_open(stops, pid) and w.is_open(after, pid)
    assert state(w, pid) == ProcessState.STOPPED
    w("kill", pid=pid, signal="CONT")
    assert not w.is_open(after, pid)


def test_stop_and_cont_twice_are_one(w: World) -> None:
    pid = w.program()
    for signal in ("CONT", "STOP", "STOP", "CONT", "CONT"):
        w("kill", pid=pid, signal=signal)

    assert signals(w, pid) == ["STOP", "CONT"]


def test_a_program_may_be_stopped_before_it_has_started(w: World) -> None:
    pid = w("spawn", source="x").pid
    w("kill", pid=pid, signal="STOP")
    w.kernel.started(Pid(pid), 7, w.now_ns)
    assert state(w, pid) == ProcessState.STOPPED

    w("kill", pid=pid, signal="CONT")

    assert state(w, pid) == ProcessState.RUNNING


def test_sessions_and_connections_are_not_stopped(w: World) -> None:
    session = w.kernel.connect(w.kernel.processes[Pid(w.pid)].cred, "client", 0, lease_s=10.0)

    with pytest.raises(errors.InvalidArgument, match="a session, whose code runs at its client"):
        w("kill", pid=session, signal="STOP")
    with pytest.raises(errors.NotOwner):
        w("kill", pid=w.pid, signal="STOP")
    w.kernel.end_session(session, "over", w.now_ns)
    w.drain()


def test_others_neither_stop_nor_continue_it(w: World) -> None:
    pid = w.program()
    other = w.kernel.connect(OTHER, "client", 0)

    for signal in ("STOP", "CONT"):
        with pytest.raises(errors.NoSuchProcess):
            w("kill", by=other, pid=pid, signal=signal)


def test_why_says_that_it_is_stopped(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="STOP")
    assert [(t.op, t.cause) for t in w("why", pid=pid).threads] == [("", "stopped")]

    w.start("sleep", by=pid, seconds=1.0)

    assert [(t.op, t.cause) for t in w("why", pid=pid).threads] == [("sleep", "stopped")]


def test_a_limit_ends_a_stopped_program_too(w: World) -> None:
    pid = w.program(limits=ResourceLimits(wall_s=3.0))
    w("kill", pid=pid, signal="STOP")
    held, control = w.start("sleep", by=pid, seconds=1.0), w.start("getpid", by=pid)

    w.pass_time(3)

    assert w.replies[pid, held].reason == "EDQUOT" and w.is_open(control, pid)
    w.pass_time(5)
    w.pass_time(5)
    assert signals(w, pid) == ["STOP", "TERM", "KILL"]
