"""Limits of a process with all below it, and of principals: what is counted, what is refused, how it ends."""

from typing import Any

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, SECOND, World
from vllm_symphony import errors
from vllm_symphony.abi.record import PrincipalRecord, Restored
from vllm_symphony.abi.types import ExitStatus, Pid, ResourceLimits
from vllm_symphony.kernel.effect import CancelJob, GenerateJob, Launch, Signalled, StoreWrite


def limited(w: World, **limits: Any) -> int:
    """A program with these limits; the server's defaults are out of the way."""
    return w.program(limits=ResourceLimits(**limits))


def signals(w: World, pid: int) -> list[str]:
    return [s.signal for s in w.sent(Signalled) if s.pid == pid]


def status(w: World, pid: int) -> ExitStatus:
    found: ExitStatus = w("ps", pid=pid).processes[0].exit
    return found


def used(w: World, pid: int, what: str) -> Any:
    return getattr(w("getrlimit", pid=pid).used, what)


# ---- tokens


def test_tokens_of_a_program_and_its_children_are_counted_together(w: World) -> None:
    parent = limited(w, tokens=10)
    child = w.program(parent=parent)
    w.file([1] * 4, by=parent)
    fd = w.file([1] * 4, by=child)

    with pytest.raises(errors.QuotaExceeded, match=r"tokens: 8 of 10 used by process \d+ and what it spawned") as refused:
        w("append", by=child, fd=fd, tokens=[1, 2, 3])

    assert refused.value.values == {"resource": "tokens", "limit": 10, "used": 8}
    assert w("append", by=child, fd=fd, tokens=[1, 2]).length == 6
    assert w.tokens(fd, by=child) == [1, 1, 1, 1, 1, 2], "what was refused has left no trace"


def test_a_childs_own_limit_counts_it_alone(w: World) -> None:
    parent = limited(w, tokens=100)
    child = w.program(parent=parent, limits=ResourceLimits(tokens=3))
    w.file([1] * 50, by=parent)

    assert w("getrlimit", by=child).limits.tokens == 3
    with pytest.raises(errors.QuotaExceeded):
        w.file([1] * 4, by=child)


def test_what_a_child_may_use_is_what_those_above_leave(w: World) -> None:
    parent = limited(w, tokens=100)
    child = w.program(parent=parent, limits=ResourceLimits(tokens=50))
    w.file([1] * 5, by=child)
    w.file([1] * 60, by=parent)

    limits = w("getrlimit", by=child)

    assert (limits.limits.tokens, limits.used.tokens) == (40, 5), "35 are left of the parent's"


def test_tokens_of_forwards_in_flight_are_kept_free(w: World) -> None:
    pid = limited(w, tokens=10)
    fd, other = w.file([1, 2], by=pid), w.file([3, 4], by=pid)
    first = w.start("forward", by=pid, fd=fd, tokens=[5, 6, 7])

    with pytest.raises(errors.QuotaExceeded):
        w("forward", by=pid, fd=other, tokens=[5, 6, 7, 8])
    assert signals(w, pid) == [] and used(w, pid, "tokens") == 4
    w.fail()
    assert w.replies[pid, first].reason == "EINTR"

    w.start("forward", by=pid, fd=other, tokens=[5, 6, 7, 8])
    w.step()
    assert used(w, pid, "tokens") == 8, "what failed was not used"


def test_a_generate_is_cut_to_what_is_left(w: World) -> None:
    pid = limited(w, tokens=10)
    fd = w.file([1] * 6, by=pid)

    call = w.start("generate", by=pid, fd=fd, max_tokens=50)
    assert w.sent(GenerateJob)[-1].max_tokens == 4
    w.deliver([7, 8, 9, 7])
    w.step()

    assert w.result(call, pid).reason == "quota"
    with pytest.raises(errors.QuotaExceeded, match="tokens: 10 of 10 used"):
        w("generate", by=pid, fd=fd, max_tokens=1)


def test_generates_that_share_what_is_left_end_with_what_they_have(w: World) -> None:
    pid = limited(w, tokens=8)
    first = w.start("generate", by=pid, fd=w.file([1, 2], by=pid), max_tokens=50)
    second = w.start("generate", by=pid, fd=w.file([3, 4], by=pid), max_tokens=50)
    jobs = list(w.jobs)

    w.deliver([7, 8, 7, 8])

    assert {cancel.job for cancel in w.sent(CancelJob)} == set(jobs)
    w.reap()
    assert w.result(first, pid).reason == "quota" and w.result(first, pid).length == 6
    assert w.replies[pid, second].reason == "EDQUOT", "it has nothing to give"
    assert used(w, pid, "tokens") == 8


def test_draws_count_as_tokens(w: World) -> None:
    pid = limited(w, tokens=4)
    fd = w.file([1, 2], by=pid)

    with pytest.raises(errors.QuotaExceeded):
        w("sample", by=pid, fd=fd, n=3)
    call = w.start("sample", by=pid, fd=fd, n=2)
    w.step(tokens=(5, 6))

    assert w.result(call, pid) and used(w, pid, "tokens") == 4


def test_who_asks_when_nothing_is_left_has_its_grace_and_ends_with_limit(w: World) -> None:
    pid = limited(w, tokens=2)
    fd = w.file([1, 2], by=pid)
    with pytest.raises(errors.QuotaExceeded):
        w("append", by=pid, fd=fd, tokens=[3])

    w("link", by=pid, fd=fd, path="/kept")
    w.pass_time(4.9)
    assert signals(w, pid) == [], "it may keep what it has"
    w.pass_time(0.2)
    assert signals(w, pid) == ["TERM"]
    w.pass_time(5)
    assert signals(w, pid) == ["TERM", "KILL"]
    w.exited(pid, 137)

    assert status(w, pid) == ExitStatus(124, "limit", error="tokens: 2 of 2 used")
    w("unlink", path="/kept")


def test_a_request_that_is_too_large_does_not_end_the_program(w: World) -> None:
    pid = limited(w, tokens=3)
    fd = w.file([1, 2], by=pid)
    with pytest.raises(errors.QuotaExceeded):
        w("append", by=pid, fd=fd, tokens=[3, 4])

    w.pass_time(60)

    assert signals(w, pid) == [] and w("append", by=pid, fd=fd, tokens=[3]).length == 3


def test_a_program_that_ends_well_in_its_grace_has_ended_well(w: World) -> None:
    pid = limited(w, tokens=2)
    w.file([1, 2], by=pid)
    with pytest.raises(errors.QuotaExceeded):
        w.file([3], by=pid)

    w("exit", by=pid, code=0, value='"all that I had"')
    w.exited(pid, 0)

    assert status(w, pid) == ExitStatus(0, "exit", '"all that I had"')


def test_a_program_that_fails_over_it_ends_with_limit(w: World) -> None:
    pid = limited(w, tokens=2)
    with pytest.raises(errors.QuotaExceeded):
        w("open", by=pid, tokens=[3, 4, 5])
    w.file([1, 2], by=pid)
    with pytest.raises(errors.QuotaExceeded):
        w("open", by=pid, tokens=[3])

    w("exit", by=pid, code=1, reason="exception", error="EDQUOT")
    w.exited(pid, 1)

    assert status(w, pid).code == 124 and status(w, pid).reason == "limit"


# ---- time


def test_the_end_of_its_time_interrupts_what_waits_and_ends_the_tree(w: World) -> None:
    parent = limited(w, wall_s=10)
    child = w.program(parent=parent)
    fd = w.file([1, 2], by=parent)
    calls = [(parent, w.start("sleep", by=parent, seconds=60.0)), (child, w.start("sleep", by=child, seconds=60.0))]
    forward = w.start("forward", by=parent, fd=fd, tokens=[3])
    waits = w.start("wait", by=parent)

    w.pass_time(10)
    w.reap()

    for pid, call in (*calls, (parent, forward), (parent, waits)):
        assert w.replies[pid, call].reason == "EDQUOT" and w.replies[pid, call].values["resource"] == "wall_s"
    with pytest.raises(errors.QuotaExceeded, match="wall_s: 10 of 10 used"):
        w("sleep", by=child, seconds=1.0)
    assert w("getpid", by=child).pid == child, "what answers at once still does"
    w.pass_time(5)
    assert signals(w, parent) == signals(w, child) == ["TERM"]
    w.exited(child, 1)
    assert status(w, child).error == "wall_s: 10 of 10 used"


def test_time_ends_when_the_last_of_its_tree_has_ended(w: World) -> None:
    parent = limited(w, wall_s=100)
    child = w.program(parent=parent, detach=True)
    w.exited(parent)
    w.pass_time(99)
    assert signals(w, child) == []

    w.pass_time(1)
    w.pass_time(5)

    assert signals(w, child) == ["TERM"], "what was detached is still of the tree"
    w.exited(child)
    assert w.kernel.counters()["timers"] == 0


def test_the_time_of_a_connection_is_watched_for_the_programs_that_it_starts(w: World) -> None:
    client = w.kernel.connect(ME, "client", 0)
    w("setrlimit", by=client, limits=ResourceLimits(wall_s=10.0))
    w.pass_time(4)
    pid = w.program(parent=client)
    call = w.start("sleep", by=pid, seconds=60.0)

    w.pass_time(6)

    assert w.replies[pid, call].values["resource"] == "wall_s"


def test_processor_time_of_the_tree_ends_it(w: World) -> None:
    parent = limited(w, cpu_s=3)
    child = w.program(parent=parent)
    call = w.start("sleep", by=parent, seconds=60.0)
    w.kernel.used(Pid(child), 2.0, 1 << 20, w.now_ns)
    w.kernel.used(Pid(parent), 0.5, 1 << 20, w.now_ns)
    w.drain()
    assert w.is_open(call, parent)

    w.kernel.used(Pid(child), 2.5, 1 << 20, w.now_ns)
    w.drain()

    assert w.replies[parent, call].values == {"resource": "cpu_s", "limit": 3, "used": 3.0}
    w.pass_time(5)
    assert signals(w, child) == signals(w, parent) == ["TERM"]
    assert w("getrusage", pid=parent).children.cpu_s == 2.5


def test_device_time_ends_jobs_and_refuses_more(w: World) -> None:
    pid = limited(w, device_s=0.25)
    first, second = w.file([1, 2], by=pid), w.file([3, 4], by=pid)
    w.start("forward", by=pid, fd=first, tokens=[5])
    running = w.start("generate", by=pid, fd=second, max_tokens=9)

    w.step()
    w.reap()

    assert w.replies[pid, running].values["resource"] == "device_s"
    with pytest.raises(errors.QuotaExceeded, match=r"device_s: 0.25 of 0.25 used"):
        w("forward", by=pid, fd=first, tokens=[6])
    assert w("append", by=pid, fd=first, tokens=[6]).length == 4
    w.pass_time(5)
    assert signals(w, pid) == ["TERM"]


# ---- counts


def test_a_tree_has_so_many_programs_at_once(w: World) -> None:
    parent = limited(w, processes=3)
    child = w.program(parent=parent)
    grandchild = w.program(parent=child)

    with pytest.raises(errors.QuotaExceeded, match="processes: 3 of 3 used"):
        w("spawn", by=parent, source="x")
    w.exited(grandchild)

    assert w.program(parent=parent)
    assert signals(w, parent) == []


def test_a_tree_is_so_many_generations_deep(w: World) -> None:
    parent = limited(w, depth=1)
    child = w.program(parent=parent)

    with pytest.raises(errors.QuotaExceeded) as refused:
        w("spawn", by=child, source="x")

    assert refused.value.values == {"resource": "depth", "limit": 1, "used": 1}
    assert w("getrlimit", by=parent).limits.depth == 1 and w("getrlimit", by=child).limits.depth == 0


def test_tool_calls_are_counted_in_the_tree(w: World) -> None:
    w.kernel.granted_tools = lambda _: ("*",)
    parent = w.program(limits=ResourceLimits(tool_calls=1), tools=("*",))
    child = w.program(parent=parent)
    w.start("call_tool", by=child, name="clock")

    with pytest.raises(errors.QuotaExceeded, match="tool_calls: 1 of 1 used"):
        w("call_tool", by=parent, name="clock")

    assert signals(w, parent) == []


# ---- what is in force


def test_a_program_at_the_top_has_the_servers_limits_where_it_says_nothing() -> None:
    w = World(program=ResourceLimits(wall_s=50.0, memory_bytes=100, processes=4))
    top = w.program(limits=ResourceLimits(tokens=7, memory_bytes=200))
    child = w.program(parent=top, limits=ResourceLimits(memory_bytes=1000, fds=9))

    mine, its = (launch.limits for launch in w.sent(Launch))

    assert mine == ResourceLimits(tokens=7, wall_s=50.0, memory_bytes=200, processes=4)
    assert (its.memory_bytes, its.fds, its.tokens, its.processes) == (200, 9, 7, 3), "never more than what is above"
    assert child


def test_limits_that_are_none_are_refused(w: World) -> None:
    for limits in (ResourceLimits(tokens=-1), ResourceLimits(wall_s=float("nan")), ResourceLimits(cpu_s=float("inf"))):
        with pytest.raises(errors.InvalidArgument):
            w("spawn", source="x", limits=limits)
        with pytest.raises(errors.InvalidArgument):
            w("setrlimit", limits=limits)


def test_limits_are_lowered_by_their_owner_and_raised_by_an_admin(w: World) -> None:
    pid = limited(w, tokens=10)
    w("setrlimit", by=pid, limits=ResourceLimits(tokens=5, depth=0))
    assert w("getrlimit", pid=pid).limits.tokens == 5

    with pytest.raises(errors.NotOwner, match="tokens is 5 and may be lowered, not raised to 6"):
        w("setrlimit", pid=pid, limits=ResourceLimits(tokens=6))
    root = w.kernel.connect(ADMIN, "client", 0)
    w("setrlimit", by=root, pid=pid, limits=ResourceLimits(tokens=60))

    assert w("getrlimit", pid=pid).limits.tokens == 60


def test_a_limit_that_is_lowered_below_what_is_used_counts_at_once(w: World) -> None:
    pid = limited(w, tokens=50)
    call = w.start("generate", by=pid, fd=w.file([1, 2, 3], by=pid), max_tokens=20)
    w.deliver([4])
    sleeper = w.start("sleep", by=pid, seconds=90.0)
    w.now_ns += 20 * SECOND

    w("setrlimit", pid=pid, limits=ResourceLimits(tokens=2))
    w.reap()
    w("setrlimit", pid=pid, limits=ResourceLimits(wall_s=10.0))
    w.pass_time(0)

    assert w.result(call, pid).reason == "quota"
    assert w.replies[pid, sleeper].values["resource"] == "wall_s"


def test_who_gets_more_in_its_grace_goes_on(w: World) -> None:
    root = w.kernel.connect(ADMIN, "client", 0)
    poor, late = limited(w, tokens=2), limited(w, wall_s=3.0)
    fd = w.file([1, 2], by=poor)
    with pytest.raises(errors.QuotaExceeded):
        w("append", by=poor, fd=fd, tokens=[3])
    w.pass_time(4)

    w("setrlimit", by=root, pid=poor, limits=ResourceLimits(tokens=3))
    w("setrlimit", by=root, pid=late, limits=ResourceLimits(tokens=9))
    w.pass_time(5)

    assert signals(w, late) == ["TERM"], "what it lacks is time"
    assert signals(w, poor) == [] and w("append", by=poor, fd=fd, tokens=[3]).length == 3


def test_nobody_prolongs_its_own_grace(w: World) -> None:
    pid = limited(w, wall_s=1.0)
    w.pass_time(1)

    for _ in range(4):
        w.pass_time(1)
        w("setrlimit", by=pid, limits=ResourceLimits(wall_s=1.0))
    w.pass_time(1)

    assert signals(w, pid) == ["TERM"]


# ---- principals


def test_a_principals_programs_sessions_and_calls_share_its_limits(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", 0)
    w.start("setrlimit", by=edge, cred=ADMIN, principal="me", limits=ResourceLimits(tokens=10, processes=1))
    pid = w.program()
    w.file([1] * 4, by=pid)
    w.start("open", by=edge, cred=ME, tokens=[1] * 4)
    session = w.kernel.connect(ME, "client", w.now_ns, lease_s=10.0)

    with pytest.raises(errors.QuotaExceeded, match="tokens: 8 of 10 used by all programs of me"):
        w.file([1] * 3, by=session)
    with pytest.raises(errors.QuotaExceeded, match="processes: 1 of 1"):
        w("spawn", source="x")
    assert w("spawn", by=w.kernel.connect(OTHER, "client", 0), source="x"), "others have their own"
    assert w("getrlimit", principal="me").used.tokens == 8
    w.kernel.end_session(session, "over", w.now_ns)
    w.drain()


def test_only_an_admin_sets_limits_of_principals(w: World) -> None:
    with pytest.raises(errors.NotOwner):
        w("setrlimit", principal="me", limits=ResourceLimits(tokens=10))
    with pytest.raises(errors.NotOwner):
        w("getrlimit", principal="other")
    root = w.kernel.connect(ADMIN, "client", 0)
    with pytest.raises(errors.InvalidArgument, match="wall_s is a limit of processes"):
        w("setrlimit", by=root, principal="me", limits=ResourceLimits(wall_s=1.0))
    w("setrlimit", by=root, principal="me", limits=ResourceLimits(tokens=10))
    w("setrlimit", by=root, principal="me", limits=ResourceLimits(tokens=-1))

    assert w("getrlimit", principal="me").limits == ResourceLimits()


def test_what_a_principal_has_used_outlives_the_server() -> None:
    w = World()
    w.kernel.restore(Restored(principals=(PrincipalRecord("me", ResourceLimits(tokens=100), ResourceLimits(tokens=90)),)), 0)
    pid = w.program()
    with pytest.raises(errors.QuotaExceeded, match="tokens: 90 of 100"):
        w.file([1] * 11, by=pid)
    w.file([1] * 5, by=pid)

    w.exited(pid)

    last = [record for write in w.sent(StoreWrite) for record in write.principals][-1]
    assert (last.principal, last.limits.tokens, last.used.tokens) == ("me", 100, 95)


def test_principals_without_limits_cost_the_store_nothing() -> None:
    w = World()
    w.kernel.restore(Restored(), 0)
    pid = w.program()
    w.file([1] * 50, by=pid)
    w.exited(pid)

    assert not any(write.principals for write in w.sent(StoreWrite))


# ---- usage


def test_use_is_counted_by_thread_process_and_children(w: World) -> None:
    parent = limited(w)
    child = w.program(parent=parent)
    fd = w.file([1, 2, 3], by=parent)
    w.start("forward", by=parent, fd=fd, tokens=[4])
    w.step()
    w.file([1] * 7, by=child)

    usage = w("getrusage", by=parent)

    assert (usage.usage.tokens_in, usage.usage.num_forwards, usage.usage.device_s) == (4, 1, 0.25)
    assert usage.children.tokens_in == 7
    assert usage.threads[0].usage.tokens_in == 4 and usage.threads[0].name == "main"
    w.exited(child)
    w("wait", by=parent)
    assert w("getrusage", by=parent).children.tokens_in == 7


def test_pages_are_counted_by_the_time_that_they_are_open(w: World) -> None:
    pid = limited(w)
    fd = w.file(range(1, 9), by=pid)
    w.start("forward", by=pid, fd=fd, tokens=[4])
    w.step()  # 9 tokens: 3 pages
    w.now_ns += 10 * SECOND

    assert w("getrusage", pid=pid).usage.page_s == 30.0
    w("close", by=pid, fd=fd)
    w.now_ns += 10 * SECOND
    assert w("getrusage", pid=pid).usage.page_s == 30.0
