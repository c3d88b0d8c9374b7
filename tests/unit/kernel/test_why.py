"""`why`, with a device that says what it is told to."""

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, SECOND, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import Forward, ThreadStart
from vllm_symphony.abi.types import Pid, ThreadWait, pack_tokens
from vllm_symphony.kernel import effect as e

TOKENS = pack_tokens([1])


def waits(w: World, pid: int, by: int | None = None) -> list[tuple[int, str, str, str]]:
    return [(t.tid, t.op, t.cause, t.detail) for t in w("why", by=by, pid=pid).threads]


def test_a_thread_without_a_call_runs_since_its_last_one(w: World) -> None:
    pid = w.program()
    w.pass_time(3)
    w("ping", by=pid)
    w.pass_time(4)

    result = w("why", pid=pid)

    assert result.threads == (ThreadWait(0, "main", "", "", 1003 * SECOND, "running"),)
    assert (result.process.pid, result.process.state) == (pid, "running")


def test_a_program_that_has_not_started_says_so(w: World) -> None:
    pid = w("spawn", source="x").pid

    assert waits(w, pid) == [(0, "", "running", "its code has not started")]


def test_each_thread_and_each_call_at_once_has_a_line(w: World) -> None:
    pid = w.program()
    w.kernel.call(Pid(pid), 900, 0, "thread_start", ThreadStart(7, "drafts"), w.now_ns)
    w.drain()
    w.start("sleep", by=pid, seconds=5.0)
    w.pass_time(1)
    w.start("sleep", by=pid, seconds=9.5)

    assert waits(w, pid) == [
        (0, "sleep", "timer", "ends in 4.0 s"), (0, "sleep", "timer", "ends in 9.5 s"), (7, "", "running", ""),
    ]  # fmt: skip
    assert w("why", pid=pid).threads[2].name == "drafts"
    assert w("why", pid=pid).threads[0].args == "seconds=5.0"


@pytest.mark.parametrize("cause", ["batch", "queue"])
def test_the_device_says_what_a_job_waits_for(w: World, cause: str) -> None:
    pid = w.program()
    fd = w.file([1, 2], by=pid)
    w.start("forward", by=pid, fd=fd, tokens=[3])
    asked: list[int] = []
    w.kernel.job_state = lambda job: asked.append(job) or (cause, "in step 7")  # type: ignore[func-returns-value]

    assert waits(w, pid) == [(0, "forward", cause, "in step 7")]
    assert asked == [w.job().job]


def test_who_waits_for_pages_to_move_waits_for_the_disk(w: World) -> None:
    pid = w.program()
    fd = w.file([1, 2], by=pid)
    w.start("advise", by=pid, fd=fd, advice="willneed", wait=True, timeout_s=9.0)

    assert waits(w, pid) == [(0, "advise", "disk", "its pages are on their way")]


def test_for_want_of_pages_it_names_who_has_them(w: World) -> None:
    small, large, mine = w.program(), w.program(), w.program()
    hidden = w.kernel.connect(OTHER, "client", 0)
    for pid, num_tokens in ((small, 4), (large, 40), (hidden, 8)):
        w.start("forward", by=pid, fd=w.file(range(num_tokens), by=pid))
        w.step()
    w.start("forward", by=mine, fd=w.file([1], by=mine))
    w.kernel.job_state = lambda _: ("pages", "needs 12 pages, 3 are free")

    (line,) = waits(w, mine)

    assert line[2:] == ("pages", f"needs 12 pages, 3 are free; held by process {large} (10), process {small} (1), others (2)")


def test_a_call_that_was_told_to_stop_says_why(w: World) -> None:
    pid = w.program()
    w.start("forward", by=pid, fd=w.file([1], by=pid), timeout_s=2.0)
    w.pass_time(3)

    assert waits(w, pid) == [(0, "forward", "batch", "told to stop: not done in 2 s")]
    w.reap()


def test_of_many_forwards_the_one_that_is_worst_off_counts(w: World) -> None:
    pid = w.program()
    fds = [w.file([1], by=pid) for _ in range(3)]
    w.start("forward_many", by=pid, items=tuple(Forward(fd, TOKENS) for fd in fds))
    w.step()
    states = dict(zip(w.jobs, [("batch", "in step 7"), ("queue", "the batch is full")], strict=True))
    w.kernel.job_state = states.__getitem__

    assert waits(w, pid) == [(0, "forward_many", "queue", "2 of 3 forwards are not done; the batch is full")]


def test_text_calls_wait_for_those_before_them(w: World) -> None:
    pid = w.program()
    w.start("tokenize", by=pid, text="a")
    w.start("tokenize", by=pid, text="b")

    assert [line[2:] for line in waits(w, pid)] == [
        ("tokenizer", "it is next, or worked on"), ("tokenizer", "text calls before it: 1"),
    ]  # fmt: skip
    while w.jobs:
        w.step()


def test_a_parent_waits_for_a_child(w: World) -> None:
    pid = w.program()
    first, second = (w.program(parent=pid, entry="worker") for _ in range(2))
    w.start("wait", by=pid, pid=second)
    w.start("wait", by=pid)

    assert [line[2:] for line in waits(w, pid)] == [
        ("child", f"process {second} (worker) is running"), ("child", f"any of 2: {first}, {second}"),
    ]  # fmt: skip


def test_a_client_that_looks_waits_for_whom_it_looks_at(w: World) -> None:
    pid = w.program()
    w.start("attach", pid=pid)
    w.start("strace", pid=pid, follow=True)

    assert [line[1:3] for line in waits(w, w.pid)] == [("attach", "child"), ("strace", "child")]


def test_a_session_that_nobody_is_connected_to_waits_for_its_client(w: World) -> None:
    session = w.kernel.connect(ME, "client", 0, lease_s=60.0)
    w.disconnect(session)
    w.pass_time(20)

    assert waits(w, session) == [(0, "", "client", "nobody is connected; its lease ends in 40.0 s")]
    w.kernel.end_session(Pid(session), "test", w.now_ns)
    w.drain()


def test_a_peer_that_does_not_take_its_answers_waits_for_its_reader(w: World) -> None:
    pid = w.program()
    w.kernel.unread_bytes = {pid: 3_000_000}.__getitem__

    assert waits(w, pid) == [(0, "", "reader", "3000000 bytes of answers are not read; its calls wait until they are")]


def test_an_ended_process_waits_for_nothing(w: World) -> None:
    pid = w.program()
    w.exited(pid, 3)

    result = w("why", pid=pid)

    assert result.threads == () and result.process.exit.code == 3


def test_what_one_may_not_see_does_not_exist(w: World) -> None:
    pid = w.program()
    other = w.kernel.connect(OTHER, "client", 0)
    root = w.kernel.connect(ADMIN, "client", 0)

    for target in (pid, 999):
        with pytest.raises(errors.NoSuchProcess):
            w("why", by=other, pid=target)
    with pytest.raises(errors.NotOwner):
        w("why", by=pid, pid=pid)
    assert waits(w, pid, by=root)


def test_a_step_is_no_answer_to_a_job(w: World) -> None:
    w.complete(e.StepRan(4, 10, 20, 1, 8))

    (step,) = w.kernel.steps
    assert (step.step, step.t_start_ns, step.num_tokens) == (4, 1000 * SECOND + 10, 8)
