import json

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, SECOND, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import Emit, Sleep, ThreadEnd, ThreadStart
from vllm_symphony.abi.types import ProcessState
from vllm_symphony.kernel.effect import DropFile, Launch, Signalled


def signals(w: World, pid: int) -> list[str]:
    return [s.signal for s in w.sent(Signalled) if s.pid == pid]


def status(w: World, pid: int):
    return w("ps", pid=pid).processes[0].exit


def test_spawn_launches_a_child(w: World) -> None:
    pid = w("spawn", source="code", entry="main", args='{"n": 1}').pid

    launch = w.sent(Launch)[0]
    assert (launch.pid, launch.source, launch.args, launch.name) == (pid, "code", '{"n": 1}', "main")
    stat = w("ps", pid=pid).processes[0]
    assert (stat.state, stat.parent, stat.principal) == (ProcessState.STARTING, w.pid, "me")
    w.kernel.started(pid, 1, 0)
    assert w("ps", pid=pid).processes[0].state == ProcessState.RUNNING


def test_a_program_spawns_itself_without_a_source(w: World) -> None:
    parent = w.program(source="mine")

    child = w("spawn", by=parent, entry="worker").pid

    assert w.sent(Launch)[1].source == "mine"
    assert w("getpid", by=child).pid == child


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"source": "x", "entry": "a b"},
        {"source": "x", "entry": ""},
        {"source": "x", "args": "{"},
        {"source": "x", "args": "[]"},
    ],
)
def test_spawn_refuses_bad_arguments(w: World, args: dict) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("spawn", **args)


def test_too_many_programs_are_eagain() -> None:
    w = World(processes=1)
    w.program()

    with pytest.raises(errors.WouldBlock):
        w("spawn", source="x")


def test_an_edge_spawns_parentless_programs_that_survive_it(w: World) -> None:
    edge = w.kernel.connect(ADMIN, "edge", 0)
    call = w.start("spawn", by=edge, cred=ME, source="x")
    pid = w.result(call, edge).pid

    w.disconnect(edge)

    stat = w("ps", pid=pid).processes[0]
    assert (stat.parent, stat.principal, signals(w, pid)) == (None, "me", [])


def test_only_an_edge_acts_for_others(w: World) -> None:
    call = w.start("spawn", cred=OTHER, source="x")

    assert w("ps", pid=w.result(call).pid).processes[0].principal == "me"


def test_wait_reaps_an_ended_child(w: World) -> None:
    pid = w.program()
    call = w.start("wait", pid=pid)
    assert w.is_open(call)

    w("exit", by=pid, code=0, value="42")
    w.exited(pid)

    result = w.result(call)
    assert (result.pid, result.exit.code, result.exit.value, result.usage.usage.cpu_s) == (pid, 0, "42", 0.5)
    for op in ("wait", "ps", "kill"):
        with pytest.raises((errors.NoChild, errors.NoSuchProcess)):
            w(op, pid=pid)


def test_wait_for_any_gives_the_first_that_ended(w: World) -> None:
    first, second = w.program(), w.program()
    w.exited(second)
    w.now_ns = SECOND
    w.exited(first)

    assert [w("wait").pid, w("wait").pid] == [second, first]
    with pytest.raises(errors.NoChild):
        w("wait")


def test_two_waits_share_children_and_the_loser_gets_echild(w: World) -> None:
    pid = w.program()
    by_pid, by_any = w.start("wait", pid=pid), w.start("wait")

    w.exited(pid)

    assert w.result(by_pid).pid == pid
    with pytest.raises(errors.NoChild):
        w.result(by_any)


def test_wait_ends_with_its_time_or_a_cancel(w: World) -> None:
    pid = w.program()
    timed, cancelled = w.start("wait", timeout_s=1.0), w.start("wait", pid=pid)

    w.pass_time(1)
    w("cancel", target=cancelled)

    with pytest.raises(errors.TimedOut):
        w.result(timed)
    with pytest.raises(errors.Interrupted):
        w.result(cancelled)
    with pytest.raises(errors.NoChild):
        w("wait", pid=w.pid)


def test_term_is_sent_once_and_kill_follows_the_grace(w: World) -> None:
    pid = w.program()

    w("kill", pid=pid)
    w("kill", pid=pid)
    assert signals(w, pid) == ["TERM"]
    w.pass_time(5)

    assert signals(w, pid) == ["TERM", "KILL"]
    w.exited(pid, 137)
    assert (status(w, pid).code, status(w, pid).reason) == (137, "signal")
    assert w.kernel.next_deadline_ns() is None


def test_a_program_that_ends_within_the_grace_is_not_killed(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid)

    w("exit", by=pid, code=130, reason="cancelled")
    w.exited(pid, 130)
    w.pass_time(100)

    assert signals(w, pid) == ["TERM"]
    assert status(w, pid).reason == "cancelled"


def test_killing_a_zombie_does_nothing(w: World) -> None:
    pid = w.program()
    w.exited(pid)

    w("kill", pid=pid, signal="KILL")
    w("kill", pid=pid)

    assert signals(w, pid) == []


def test_kill_refuses_what_it_cannot_signal(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    pid = w.program()

    with pytest.raises(errors.InvalidArgument):
        w("kill", pid=pid, signal="HUP")
    with pytest.raises(errors.NoSuchProcess):
        w("kill", pid=12345)
    with pytest.raises(errors.NotOwner):
        w("kill", pid=w.pid)
    with pytest.raises(errors.NoSuchProcess):
        w("kill", by=other, pid=pid)


def test_a_program_may_kill_itself(w: World) -> None:
    pid = w.program()

    w.start("kill", by=pid, pid=pid, signal="KILL")
    w.exited(pid, 137)

    assert status(w, pid).code == 137


def test_a_killed_program_makes_no_more_calls(w: World) -> None:
    pid = w.program()
    w("kill", pid=pid, signal="KILL")

    with pytest.raises(errors.Interrupted):
        w("ping", by=pid)


def test_children_end_with_their_parent_unless_detached(w: World) -> None:
    parent = w.program()
    child, free = w.program(parent=parent), w.program(parent=parent, detach=True)

    w.exited(parent)

    assert (signals(w, child), signals(w, free)) == (["TERM"], [])
    w("exit", by=child, code=130, reason="cancelled")
    w.exited(child, 130)
    assert (status(w, child).code, status(w, child).reason) == (130, "orphan")
    assert w("ps", pid=free).processes[0].parent is None


def test_an_unreaped_child_stays_visible_after_its_parent(w: World) -> None:
    parent = w.program()
    child = w.program(parent=parent)
    w.exited(child)

    w.exited(parent)

    assert status(w, child).code == 0


@pytest.mark.parametrize(
    ("code", "error", "expected"),
    [
        (0, None, (0, "exit", None)),
        (1, "KeyError: 'x'", (1, "exception", "KeyError: 'x'")),
        (2, None, (2, "program", None)),
        (137, None, (137, "signal", None)),
        (139, None, (139, "signal", None)),
        (1, errors.BadProgram("no main"), (2, "program", "no main")),
        (137, errors.DeviceLost("shutting down"), (70, "device", "shutting down")),
    ],
)
def test_a_status_is_made_from_the_os_exit(w: World, code: int, error: object, expected: tuple) -> None:
    pid = w.program()

    w.exited(pid, code, error=error)

    assert (status(w, pid).code, status(w, pid).reason, status(w, pid).error) == expected


def test_what_a_program_reported_counts_more_than_its_os_exit(w: World) -> None:
    pid = w.program()
    w("exit", by=pid, code=1, error="ValueError: x", reason="exception")

    with pytest.raises(errors.Interrupted):
        w("ping", by=pid)
    w.exited(pid, 137)

    assert (status(w, pid).code, status(w, pid).error) == (1, "ValueError: x")


def test_a_program_that_stays_after_exit_is_killed(w: World) -> None:
    pid = w.program()
    w("exit", by=pid, code=0)

    w.pass_time(5)

    assert signals(w, pid) == ["KILL"]


def test_exit_is_for_programs_with_sound_codes(w: World) -> None:
    with pytest.raises(errors.NotOwner):
        w("exit", code=0)
    for args in ({"code": 256}, {"code": -1}, {"code": 0, "reason": "mood"}):
        with pytest.raises(errors.InvalidArgument):
            w("exit", by=w.program(), **args)


def test_ended_programs_without_a_parent_are_kept_up_to_a_bound() -> None:
    w = World(ended=2)
    edge = w.kernel.connect(ME, "edge", 0)
    pids = [w.program(parent=edge) for _ in range(3)]

    for pid in pids:
        w.exited(pid)

    assert [p.pid for p in w("ps").processes] == pids[1:]
    with pytest.raises(errors.NoSuchProcess):
        w("kill", pid=pids[0])
    w.check()


def test_an_exit_closes_files_and_cancels_work(w: World) -> None:
    pid = w.program()
    fd = w.file(by=pid)
    w.start("forward", by=pid, fd=fd, tokens=[1])
    w.file(by=pid)

    w.exited(pid, 137)
    assert len(w.sent(DropFile)) == 1
    w.check()
    w.reap()

    assert len(w.sent(DropFile)) == 2


def test_work_that_was_done_when_its_process_died_counts_for_the_file(w: World) -> None:
    pid = w.program()
    fd = w.file([1], by=pid)
    w("link", by=pid, fd=fd, path="/a")
    w.start("forward", by=pid, fd=fd, tokens=[2])

    w.exited(pid, 137)
    w.step()

    assert w("stat", path="/a").file.length == 2


def test_threads_are_named_and_ended(w: World) -> None:
    w.call_with("thread_start", ThreadStart(1, "worker"))
    call = w.start("forward", tid=1, fd=w.file(), tokens=[1])

    assert w("ps", pid=w.pid).processes[0].waiting == ("forward",)
    with pytest.raises(errors.InvalidArgument):
        w.result(w.start("ping", tid=2))
    w.call_with("thread_end", ThreadEnd(1))
    w.reap()

    with pytest.raises(errors.Interrupted):
        w.result(call)
    assert w("ps", pid=w.pid).processes[0].num_threads == 1


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("thread_start", ThreadStart(0)),
        ("thread_start", ThreadStart(-1)),
        ("thread_end", ThreadEnd(0)),
        ("thread_end", ThreadEnd(9)),
    ],
)
def test_a_thread_is_new_and_not_the_main_one(w: World, op: str, args: object) -> None:
    with pytest.raises(errors.InvalidArgument):
        w.call_with(op, args)


def test_threads_are_bounded() -> None:
    w = World(threads=2)
    w.call_with("thread_start", ThreadStart(1))

    with pytest.raises(errors.WouldBlock):
        w.call_with("thread_start", ThreadStart(2))


def test_ps_shows_own_processes_and_admin_all(w: World) -> None:
    other, admin = w.kernel.connect(OTHER, "client", 0), w.kernel.connect(ADMIN, "client", 0)
    pid = w.program(name="best")

    assert [p.name for p in w("ps").processes] == ["best"]
    assert w("ps", by=other).processes == ()
    assert [p.pid for p in w("ps", by=admin).processes] == [pid]
    with pytest.raises(errors.NoSuchProcess):
        w("ps", by=other, pid=pid)


def test_a_lost_device_ends_calls_and_programs(w: World) -> None:
    pid = w.program()
    fd = w.file()
    calls = [w.start("forward", fd=fd, tokens=[1]), w.start("tokenize", text="a"), w.start("sample", fd=w.file())]
    sleeper = w.start("sleep", seconds=100.0)

    w.kernel.device_lost("the engine died", w.now_ns)
    w.kernel.device_lost("again", w.now_ns)
    w.drain()
    w.jobs.clear()

    for call in calls:
        with pytest.raises(errors.DeviceLost):
            w.result(call)
    for op, args in (
        ("forward", {"fd": fd, "tokens": [1]}),
        ("generate", {"fd": fd}),
        ("sample", {"fd": fd}),
        ("tokenize", {"text": "a"}),
    ):
        with pytest.raises(errors.DeviceLost):
            w(op, **args)
    assert w.is_open(sleeper)
    assert signals(w, pid) == ["TERM"]
    w("exit", by=pid, code=1, reason="exception")
    w.exited(pid, 1)
    assert (status(w, pid).code, status(w, pid).reason, status(w, pid).error) == (70, "device", "the engine died")


def test_time_is_the_hosts(w: World) -> None:
    w.now_ns = 3 * SECOND

    assert w("monotonic").seconds == 3
    assert w("now").seconds == 1003


def test_sleep_wakes_in_time(w: World) -> None:
    call, cancelled = w.start("sleep", seconds=2.0), w.start("sleep", seconds=50.0)
    w("sleep", seconds=0.0)

    w.pass_time(1)
    assert w.is_open(call)
    w("cancel", target=cancelled)
    w.pass_time(1)

    w.result(call)
    with pytest.raises(errors.Interrupted):
        w.result(cancelled)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(errors.InvalidArgument):
            w("sleep", seconds=seconds)


def test_random_is_a_function_of_seed_and_pid() -> None:
    a, b = World(), World()

    assert a("random", count=100).data == b("random", count=40).data + b("random", count=60).data
    assert a("random").data != a("random", by=a.program()).data
    for count in (-1, 1 << 17):
        with pytest.raises(errors.InvalidArgument):
            a("random", count=count)


def test_the_admission_of_calls(w: World) -> None:
    sleeper = w.start("sleep", seconds=9.0)
    w.kernel.call(w.pid, sleeper, 0, "sleep", Sleep(9.0), 0)
    assert isinstance(w.kernel.effects[-1].error, errors.InvalidArgument)
    w.kernel.call(w.pid, -1, 0, "ping", None, 0)
    assert isinstance(w.kernel.effects[-1].error, errors.InvalidArgument)
    w.kernel.call(w.pid, 900, 0, "dance", None, 0)
    assert isinstance(w.kernel.effects[-1].error, errors.NoSuchCall)
    w.kernel.call(77, 900, 0, "ping", None, 0)
    assert isinstance(w.kernel.effects[-1].error, errors.NoSuchProcess)
    w.kernel.reject(w.pid, 901, 0, "open", errors.InvalidArgument("no such field"), 0)
    assert isinstance(w.kernel.effects[-1].error, errors.InvalidArgument)
    w.kernel.effects.clear()
    assert [r.result for r in w.kernel.log.since()] == ["EINVAL", "EINVAL", "ENOSYS", "EINVAL"]


def test_calls_in_flight_are_bounded() -> None:
    w = World(calls=1)
    w.start("sleep", seconds=9.0)

    with pytest.raises(errors.WouldBlock):
        w("ping")


def test_a_call_with_id_0_gets_no_reply(w: World) -> None:
    for args, op in ((Emit("1"), "emit"), (Emit("{"), "emit"), (Sleep(1.0), "sleep"), (Sleep(1.0), "sleep")):
        w.kernel.call(w.pid, 0, 0, op, args, w.now_ns)
    w.check()
    w.pass_time(1)

    assert w.replies == {}
    assert w.kernel.counters()["calls"] == 0


def test_info_and_model_info_describe_the_server(w: World) -> None:
    info = json.loads(w("info").json)

    assert (info["host"], info["kernel"]["processes"]) == ("test", 1)
    assert w("model_info").model.name == "fake"
    assert w("hello", abi_major=1, abi_minor=0).pid == w.pid
    with pytest.raises(errors.NotSupported):
        w("hello", abi_major=2, abi_minor=0)
    with pytest.raises(errors.InvalidArgument):
        w.kernel.connect(ME, "program", 0)


def test_a_program_keeps_the_abi_it_was_written_for_and_so_do_children_of_its_text(w: World) -> None:
    parent = w.program(abi="1.0")
    child, other = w.program(parent=parent, source=None), w.program(parent=parent)

    assert {p.pid: p.abi for p in w("ps").processes} == {parent: "1.0", child: "1.0", other: ""}
    with pytest.raises(errors.NotSupported, match=r"written for ABI 2\.0"):
        w.program(abi="2.0")
    for odd in ("1", "1.x", "." * 70):
        with pytest.raises(errors.InvalidArgument):
            w.program(abi=odd)


def test_a_program_that_prints_before_the_host_says_that_it_runs_has_started_first(w: World) -> None:
    pid = w("spawn", source="code").pid

    w.kernel.output(pid, "stdout", "early", 5)
    w.kernel.started(pid, 4711, 6)

    assert [event.kind for event in w.kernel.processes[pid].events.take(1, 9, 999)] == ["started", "stdout"]
    assert w.kernel.processes[pid].os_pid == 4711
    assert w("ps", pid=pid).processes[0].state == ProcessState.RUNNING


def test_a_program_that_calls_before_the_host_says_that_it_runs_has_started_first(w: World) -> None:
    pid = w("spawn", source="code").pid

    w("emit", by=pid, value="1")
    w.kernel.started(pid, 4711, 6)

    assert [event.kind for event in w.kernel.processes[pid].events.take(1, 9, 999)] == ["started", "emit"]
