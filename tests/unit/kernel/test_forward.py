import pytest

from tests.unit.kernel.world import SECOND, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import Forward
from vllm_symphony.abi.types import OpenFlags, pack_tokens
from vllm_symphony.kernel.effect import CancelJob, DropFile, ForkFile, ForwardDone, ForwardJob, JobId

NAN, INF = float("nan"), float("inf")


def test_forward_appends_when_the_device_is_done(w: World) -> None:
    fd = w.file([1, 2])

    call = w.start("forward", fd=fd, tokens=[3, 4])
    assert (w.is_open(call), w.tokens(fd)) == (True, [1, 2])
    w.step()

    assert w.result(call).length == 4
    assert len(w.result(call).distributions) == 1
    assert w.tokens(fd) == [1, 2, 3, 4]


def test_forward_tells_the_device_indices_and_start(w: World) -> None:
    fd = w.file([1, 2])
    cases = [
        ({"tokens": [3, 4]}, (1,), (1,)),
        ({"tokens": [3, 4], "outputs": "all", "keep": "all"}, (0, 1), (0, 1)),
        ({"tokens": [3, 4, 5], "outputs": "", "indices": [0, 2], "keep": "none"}, (0, 2), ()),
        ({"tokens": [3], "outputs": "", "keep": "none"}, (), ()),
        ({}, (-1,), (-1,)),
    ]
    for args, outputs, keep in cases:
        w.start("forward", fd=fd, **args)

        job = w.job()
        assert (job.outputs, job.keep, job.start) == (outputs, keep, w("stat", fd=fd).file.length)
        w.step()


def test_forward_without_tokens_works_on_a_shared_file(w: World) -> None:
    w("open", path="/a", tokens=[1], flags=OpenFlags.CREAT)
    fd = w("open", path="/a").fd

    call = w.start("forward", fd=fd)
    w.step()

    assert w.result(call).length == 1


def test_a_second_look_at_a_shared_file_works_on_a_fork_of_its_own(w: World) -> None:
    writer = w("open", path="/a", tokens=[1], flags=OpenFlags.CREAT | OpenFlags.RDWR).fd
    readers = [w("open", path="/a").fd for _ in range(2)]

    looks = [w.start("forward", fd=fd) for fd in readers]
    jobs = list(w.kernel.jobs.values())

    assert len({job.inode.ino for job in jobs}) == 2
    with pytest.raises(errors.FileBusy):
        w("forward", fd=writer, tokens=[2])
    w.step()
    w.step()
    assert [w.result(look).length for look in looks] == [1, 1]
    assert len(w.kernel.files.inodes) == 1
    w.kernel.check()


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"tokens": [100]}, errors.InvalidArgument),
        ({"tokens": b"abc"}, errors.InvalidArgument),
        ({"tokens": [1], "start": 1}, errors.InvalidArgument),
        ({"tokens": [1], "start": -1}, errors.InvalidArgument),
        ({"tokens": [1], "start": 64}, errors.ContextTooLong),
        ({"tokens": [1] * 63}, errors.ContextTooLong),
        ({"tokens": [1], "top_k": -1}, errors.InvalidArgument),
        ({"tokens": [1], "top_k": 1_000_000}, errors.InvalidArgument),
        ({"tokens": [1], "outputs": "first"}, errors.InvalidArgument),
        ({"tokens": [1], "keep": "first"}, errors.InvalidArgument),
        ({"tokens": [1], "indices": [0]}, errors.InvalidArgument),
        ({"tokens": [1, 1], "outputs": "", "indices": [1, 0]}, errors.InvalidArgument),
        ({"tokens": [1, 1], "outputs": "", "indices": [1, 1]}, errors.InvalidArgument),
        ({"tokens": [1, 1], "outputs": "", "indices": [2]}, errors.InvalidArgument),
        ({"tokens": [1, 1], "outputs": "", "indices": b"a"}, errors.InvalidArgument),
        ({"outputs": "all"}, errors.InvalidArgument),
        ({"tokens": [1], "temperature": 0.0}, errors.InvalidArgument),
        ({"tokens": [1], "temperature": NAN}, errors.InvalidArgument),
        ({"tokens": [1], "temperature": INF}, errors.InvalidArgument),
        ({"tokens": [1], "timeout_s": 0.0}, errors.InvalidArgument),
        ({"tokens": [1], "timeout_s": NAN}, errors.InvalidArgument),
        ({"tokens": [1], "timeout_s": INF}, errors.InvalidArgument),
        ({"tokens": [1], "at": 1}, errors.StaleFile),
        ({"tokens": [1], "fd": 99}, errors.BadFile),
    ],
)
def test_forward_refuses_and_changes_nothing(w: World, args: dict, error: type[Exception]) -> None:
    fd = w.file([1, 2])

    with pytest.raises(error):
        w("forward", **{"fd": fd, **args})

    assert w.sent(ForwardJob) == []
    assert not w("stat", fd=fd).file.busy


def test_forward_without_tokens_on_an_empty_file_is_einval(w: World) -> None:
    fd = w("open", flags=OpenFlags.TMPFILE).fd

    with pytest.raises(errors.InvalidArgument):
        w("forward", fd=fd)


def test_a_second_writer_is_ebusy_and_may_retry(w: World) -> None:
    fd = w.file()
    first = w.start("forward", fd=fd, tokens=[1])

    for op, args in (("forward", {"tokens": [2]}), ("forward", {}), ("generate", {})):
        with pytest.raises(errors.FileBusy) as caught:
            w(op, fd=fd, **args)
        assert caught.value.retryable
    w.step()

    assert w.result(first).length == 6
    assert w.is_open(w.start("forward", fd=fd, tokens=[2]))


def test_fork_of_a_busy_file_gives_the_delivered_length(w: World) -> None:
    fd = w.file([1, 2])
    w.start("forward", fd=fd, tokens=[3])

    copy = w("fork", fd=fd)
    w.step()

    assert (copy.length, w.tokens(copy.fd)) == (2, [1, 2])
    assert w.sent(ForkFile)[0].length == 2


def test_a_failed_forward_leaves_the_file_as_it_was(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("forward", fd=fd, tokens=[3])

    w.fail(errors.OutOfPages("no page", retry_after_s=0.5))

    with pytest.raises(errors.OutOfPages):
        w.result(call)
    assert w.tokens(fd) == [1, 2]


def test_a_cancelled_forward_answers_with_its_completion(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("forward", fd=fd, tokens=[3])

    w("cancel", target=call)
    w("cancel", target=call)
    assert w.is_open(call)
    assert len(w.sent(CancelJob)) == 1
    w.reap()

    with pytest.raises(errors.Interrupted):
        w.result(call)
    assert w.tokens(fd) == [1, 2]


def test_a_cancelled_forward_that_was_just_done_succeeds(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("forward", fd=fd, tokens=[3])

    w("cancel", target=call)
    w.step()

    assert w.result(call).length == 3


def test_a_forward_past_its_time_is_etimedout(w: World) -> None:
    fd = w.file([1, 2])
    call = w.start("forward", fd=fd, tokens=[3], timeout_s=2.0)
    assert w.kernel.next_deadline_ns() == 2 * SECOND

    w.pass_time(1.9)
    assert w.sent(CancelJob) == []
    w.pass_time(0.1)
    w.reap()

    with pytest.raises(errors.TimedOut):
        w.result(call)


def test_a_forward_in_time_leaves_no_timer(w: World) -> None:
    fd = w.file([1, 2])
    w.start("forward", fd=fd, tokens=[3], timeout_s=2.0)

    w.step()

    assert w.kernel.next_deadline_ns() is None


def test_closing_the_fd_ends_the_calls_through_it(w: World) -> None:
    fd = w.file([1, 2])
    other = w("dup", fd=fd).fd
    call = w.start("forward", fd=fd, tokens=[3])

    w("close", fd=other)
    assert w.sent(CancelJob) == []
    w("close", fd=fd)
    assert w.sent(DropFile) == []
    w.reap()

    with pytest.raises(errors.Interrupted):
        w.result(call)
    assert len(w.sent(DropFile)) == 1


def test_forward_many_answers_once_for_all(w: World) -> None:
    a, b = w.file([1]), w.file([2])
    items = tuple(Forward(fd, pack_tokens([3]), **more) for fd, more in ((a, {}), (b, {}), (a, {}), (99, {}), (b, {"top_k": -1})))

    call = w.start("forward_many", items=items)
    w.step()
    assert w.is_open(call)
    w.fail(errors.OutOfPages("no page", retry_after_s=1.0))

    result = w.result(call)
    assert [r and r.length for r in result.results] == [2, None, None, None, None]
    assert [e and e.reason for e in result.errors] == [None, "ENOSPC", "EBUSY", "EBADF", "EINVAL"]
    assert result.errors[1].retry_after_s == 1.0
    assert (w.tokens(a), w.tokens(b)) == ([1, 3], [2])


def test_forward_many_times_out_item_by_item(w: World) -> None:
    a, b = w.file([1]), w.file([2])
    call = w.start("forward_many", items=(Forward(a, pack_tokens([3]), timeout_s=1.0), Forward(b, pack_tokens([3]))))

    w.pass_time(1)
    w.reap()
    w.step()

    assert [e and e.reason for e in w.result(call).errors] == ["ETIMEDOUT", None]


def test_forward_many_is_cancelled_as_a_whole(w: World) -> None:
    files = [w.file([1]) for _ in range(3)]
    call = w.start("forward_many", items=tuple(Forward(fd, pack_tokens([3])) for fd in files))

    w("cancel", target=call)
    w.reap()

    assert [e.reason for e in w.result(call).errors] == ["EINTR"] * 3


def test_forward_many_of_nothing_and_of_too_much(w: World) -> None:
    assert w("forward_many", items=()).results == ()
    with pytest.raises(errors.InvalidArgument):
        w("forward_many", items=(Forward(3),) * 1025)
    assert [e.reason for e in w("forward_many", items=(Forward(99),)).errors] == ["EBADF"]


def test_jobs_are_ordered_by_arrival(w: World) -> None:
    for fd in (w.file(), w.file()):
        w.start("forward", fd=fd, tokens=[1])

    first, second = w.sent(ForwardJob)
    assert first.job < second.job
    w.reap()


def test_usage_counts_tokens_forwards_and_steps(w: World) -> None:
    fd = w.file([1, 2])
    w.start("forward", fd=fd, tokens=[3, 4])
    w.step()

    usage = w("ps", pid=w.pid).processes[0].usage

    assert (usage.tokens_in, usage.num_forwards, usage.num_steps, usage.device_s) == (4, 1, 2, 0.25)
    record = [r for r in w.kernel.log.since() if r.op == "forward"][-1]
    assert (record.args, record.result, record.step_first, record.step_last) == (f"fd={fd} n=2 top_k=20", "ok", 1, 2)


def test_a_completion_of_a_forgotten_job_is_passed_over(w: World) -> None:
    w.complete(ForwardDone(JobId(999), ()))
