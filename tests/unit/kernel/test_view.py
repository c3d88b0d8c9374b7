import json

import pytest

from tests.unit.kernel.world import ADMIN, OTHER, World
from vllm_symphony import errors
from vllm_symphony.kernel.effect import StepRan
from vllm_symphony.trace.log import Family


def shown(w: World, call: int, by: int | None = None) -> list[tuple[int, str, str]]:
    return [(e.seq, e.kind, e.text) for part in w.stream(call, by) for e in part.events]


def prints(w: World, pid: int, *texts: str) -> None:
    for text in texts:
        w.kernel.output(pid, "stdout", text, w.now_ns)
    w.drain()


def test_attach_streams_until_the_exit(w: World) -> None:
    pid = w.program()
    prints(w, pid, "one")
    call = w.start("attach", pid=pid)
    assert shown(w, call) == [(1, "started", ""), (2, "stdout", "one")]

    w("emit", by=pid, value="[1]")
    w.exited(pid)

    assert [kind for _, kind, _ in shown(w, call)] == ["started", "stdout", "emit", "exit"]
    assert json.loads(shown(w, call)[-1][2]) == {"code": 0, "reason": "exit", "value": None, "error": None}
    assert w.result(call)


def test_attach_without_follow_gives_what_is_there(w: World) -> None:
    pid = w.program()

    call = w.start("attach", pid=pid, follow=False)

    assert w.result(call)
    assert len(shown(w, call)) == 1


def test_attach_resumes_after_any_number(w: World) -> None:
    pid = w.program()
    prints(w, pid, "a", "b", "c")

    assert shown(w, w.start("attach", pid=pid, from_seq=3, follow=False)) == [(3, "stdout", "b"), (4, "stdout", "c")]
    assert shown(w, w.start("attach", pid=pid, from_seq=99, follow=False)) == []
    late = w.start("attach", pid=pid, from_seq=6)
    prints(w, pid, "d", "e")
    assert shown(w, late) == [(6, "stdout", "e")]


def test_attach_replays_an_ended_program(w: World) -> None:
    pid = w.program()
    w.exited(pid, 1)

    call = w.start("attach", pid=pid)

    assert w.result(call)
    assert shown(w, call)[-1][1] == "exit"


def test_lost_events_are_an_explicit_gap() -> None:
    w = World(event_count=3)
    pid = w.program()
    prints(w, pid, *"abcde")

    call = w.start("attach", pid=pid)

    assert shown(w, call) == [(3, "gap", "3"), (4, "stdout", "c"), (5, "stdout", "d"), (6, "stdout", "e")]
    w.check()


def test_a_gigabyte_of_output_costs_the_rings_size() -> None:
    w = World(event_bytes=10_000, part_bytes=1000)
    pid = w.program()

    for _ in range(100):
        prints(w, pid, "x" * 50_000)

    call = w.start("attach", pid=pid)
    assert sum(len(text) for _, _, text in shown(w, call)) < 10_000
    assert all(sum(len(e.text) for e in part.events) <= 1000 for part in w.stream(call))
    w.check()


def test_parts_are_bounded(w: World) -> None:
    pid = w.program()
    prints(w, pid, *["x"] * 200)

    call = w.start("attach", pid=pid)

    assert [len(part.events) for part in w.stream(call)] == [64, 64, 64, 9]


def test_a_viewer_that_leaves_is_forgotten(w: World) -> None:
    pid = w.program()
    call = w.start("attach", pid=pid)
    client = w.kernel.connect(ADMIN, "client", 0)
    w.start("attach", by=client, pid=pid)

    w("cancel", target=call)
    w.disconnect(client)

    with pytest.raises(errors.Interrupted):
        w.result(call)
    assert w.kernel.counters()["viewers"] == 0


def test_others_processes_do_not_exist(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    pid = w.program()
    w("ping", by=pid)

    for op in ("attach", "strace"):
        for target in (pid, 999):
            with pytest.raises(errors.NoSuchProcess):
                w(op, by=other, pid=target)
    with pytest.raises(errors.NoSuchProcess):
        w("attach", pid=w.pid)
    with pytest.raises(errors.InvalidArgument):
        w("attach", pid=pid, from_seq=0)


def test_looking_is_for_clients(w: World) -> None:
    pid = w.program()

    for op, args in (("attach", {"pid": pid}), ("strace", {}), ("info", {})):
        with pytest.raises(errors.NotOwner):
            w(op, by=pid, **args)


def test_emit_takes_json_of_a_bounded_size(w: World) -> None:
    pid = w.program()

    for value in ("{", '"' + "x" * (1 << 18) + '"', "[" * 100_000):
        with pytest.raises(errors.InvalidArgument):
            w("emit", by=pid, value=value)


def test_strace_shows_each_call_once(w: World) -> None:
    fd = w.file([1, 2])
    with pytest.raises(errors.InvalidArgument):
        w("forward", fd=fd, tokens=[100])

    call = w.start("strace", pid=w.pid)

    records = [r for part in w.stream(call) for r in part.records]
    assert [(r.op, r.args, r.result) for r in records] == [
        ("open", "n=2 flags=0", "ok"),
        ("forward", f"fd={fd} n=1 top_k=20", "EINVAL"),
    ]
    assert records[0].t_start_ns == 1000_000_000_000
    assert w.result(call)


def test_strace_follows_to_the_end_of_the_process(w: World) -> None:
    pid = w.program()
    call = w.start("strace", pid=pid, follow=True)

    w("now", by=pid)
    w.start("sleep", by=pid, seconds=9.0)
    w.exited(pid)

    records = [r for part in w.stream(call) for r in part.records]
    assert [(r.op, r.result) for r in records] == [("now", "ok"), ("sleep", "EINTR")]
    assert w.result(call)


def test_strace_of_all_follows_until_cancelled(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    call = w.start("strace", follow=True)
    w("ping", by=other)
    w("ping")

    w("cancel", target=call)

    assert [r.op for part in w.stream(call) for r in part.records] == ["ping"]
    with pytest.raises(errors.Interrupted):
        w.result(call)


def test_strace_finds_a_process_that_was_reaped(w: World) -> None:
    pid = w.program()
    w("ping", by=pid)
    w.exited(pid)
    w("wait", pid=pid)

    call = w.start("strace", pid=pid, follow=True)

    assert [r.op for part in w.stream(call) for r in part.records] == ["ping"]
    assert w.result(call)


def traced(w: World, call: int, by: int | None = None) -> list[tuple[int, str]]:
    return [(r.pid, r.op) for part in w.stream(call, by) for r in part.records]


def test_strace_with_children_shows_all_that_descend_from_a_process(w: World) -> None:
    pid = w.program()
    before = w.program(parent=pid)
    call = w.start("strace", pid=pid, children=True, follow=True)
    alone = w.start("strace", pid=pid, follow=True)
    grandchild = w.program(parent=before)
    stranger = w.program()

    for each in (before, grandchild, stranger):
        w("ping", by=each)

    assert traced(w, call) == [(pid, "spawn"), (before, "spawn"), (before, "ping"), (grandchild, "ping")]
    assert traced(w, alone) == [(pid, "spawn")]
    for each in (pid, before, grandchild):
        assert w.is_open(call)
        w.exited(each)
    assert w.result(call) and w.result(alone)


def test_strace_finds_children_that_were_reaped(w: World) -> None:
    pid = w.program()
    child = w.program(parent=pid)
    grandchild = w.program(parent=child)
    w("ping", by=grandchild)
    w.exited(grandchild)
    w("wait", by=child, pid=grandchild)
    w.exited(child)
    w("wait", by=pid, pid=child)

    call = w.start("strace", pid=pid, children=True)

    assert (grandchild, "ping") in traced(w, call)
    assert {p for p, _ in traced(w, call)} == {pid, child, grandchild}


def test_strace_sends_each_engine_step_once_when_it_was_asked_for(w: World) -> None:
    w.complete(StepRan(1, 0, 5, 1, 3), StepRan(2, 5, 9, 1, 3))
    with_steps, without = w.start("strace", steps=True, follow=True), w.start("strace", follow=True)

    w.complete(StepRan(4, 10, 12, 2, 9))
    w("ping")

    assert [s.step for part in w.stream(with_steps) for s in part.steps] == [1, 2, 4]
    assert [s for part in w.stream(without) for s in part.steps] == []
    for call in (with_steps, without):
        w("cancel", target=call)


def test_strace_says_how_many_calls_of_a_process_the_log_had_no_room_for() -> None:
    w = World(log_records=6)
    pid, other = w.program(), w.program()
    for _ in range(5):
        w("ping", by=pid)
        w("ping", by=other)

    call = w.start("strace", pid=pid)

    assert [part.missing for part in w.stream(call)] == [2]
    assert traced(w, call) == [(pid, "ping")] * 3
    everything = w.start("strace", by=w.kernel.connect(ADMIN, "client", 0))
    (part,) = w.stream(everything, w.kernel.num_pids)
    assert part.missing == 7 and len(part.records) == 6  # 2 spawns, 10 pings, 1 strace


def test_strace_says_nothing_of_a_gap_that_is_not_this_process_s() -> None:
    w = World(log_records=6)
    for _ in range(20):
        w("ping")
    pid = w.program()
    w("ping", by=pid)

    assert [part.missing for part in w.stream(w.start("strace", pid=pid))] == [0]


def test_a_strace_that_goes_on_at_a_number_says_what_is_lost_before_it() -> None:
    w = World(log_records=4)
    for _ in range(10):
        w("ping")

    goes_on = w.start("strace", from_seq=3)
    in_time = w.start("strace", from_seq=10)

    assert [(part.missing, [r.seq for r in part.records]) for part in w.stream(goes_on)] == [(4, [7, 8, 9, 10])]
    assert [(part.missing, [r.seq for r in part.records]) for part in w.stream(in_time)] == [(0, [10, 11])]
    with pytest.raises(errors.InvalidArgument):
        w("strace", from_seq=0)


def test_a_long_log_is_sent_in_several_turns_and_others_are_answered_between() -> None:
    w = World(trace_records=10)
    for n in range(35):
        w("ping")
        w.complete(StepRan(n + 1, n, n + 1, 1, 1))

    call = w.start("strace", steps=True)
    assert len(traced(w, call)) == 10 and w.is_open(call)
    w("now")
    while w.is_open(call):
        w.pass_time(0.001)

    records = [r.seq for part in w.stream(call) for r in part.records]
    assert records == list(range(1, 37))
    assert [s.step for part in w.stream(call) for s in part.steps] == list(range(1, 36))
    w.disconnect()
    w.assert_empty()


def test_a_strace_that_is_cancelled_between_two_turns_leaves_nothing() -> None:
    w = World(trace_records=1)
    for _ in range(5):
        w("ping")
    call = w.start("strace")

    w("cancel", target=call)

    with pytest.raises(errors.Interrupted):
        w.result(call)
    w.disconnect()
    w.assert_empty()


def test_the_log_counts_its_calls_in_the_order_in_which_families_grow() -> None:
    w = World(log_records=7)
    pid = w.program()
    for _ in range(4):
        w("ping")
    child = w.program(parent=pid)
    for _ in range(3):
        w("ping", by=child)

    family = Family(pid, children=True)

    assert w.kernel.log.kept(family, None) == {pid: 1, child: 3}


def test_a_tick_sends_one_share_of_a_long_log() -> None:
    w = World(trace_records=10, part_events=5)
    for _ in range(35):
        w("ping")

    call = w.start("strace")
    sizes = [sum(len(part.records) for part in w.stream(call))]
    while w.is_open(call):
        w.pass_time(1.0)
        sizes.append(sum(len(part.records) for part in w.stream(call)))

    assert sizes == [10, 20, 30, 35]
