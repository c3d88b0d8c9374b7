"""pin and advise in the kernel: who may, what the device is asked, and how waiting for it ends."""

import pytest

from tests.unit.kernel.world import World
from vllm_symphony import errors
from vllm_symphony.kernel.effect import CancelJob, JobFailed, MoveDone, MoveJob, PinFile


def asked(w: World, kind: type) -> list:
    return [e for e in w.effects if isinstance(e, kind)]


@pytest.mark.parametrize(
    ("advice", "tier", "where"), [("willneed", "host", "device"), ("dontneed", "host", "host"), ("dontneed", "disk", "disk")]
)
def test_advice_asks_for_a_tier_and_answers_at_once(w: World, advice: str, tier: str, where: str) -> None:
    fd = w.file(range(10, 20))

    w("advise", fd=fd, advice=advice, tier=tier)

    (job,) = asked(w, MoveJob)
    assert job.tier == where
    w.complete(MoveDone(job.job, 1, 10))  # for nobody
    w.check()


def test_who_waits_is_answered_when_the_pages_are_there(w: World) -> None:
    fd = w.file(range(10, 20))
    call = w.start("advise", fd=fd, advice="dontneed", wait=True)
    assert w.is_open(call)

    w.complete(MoveDone(asked(w, MoveJob)[0].job, 1, 10))

    assert w.result(call) is not None
    w.check()


def test_who_waits_hears_why_the_pages_could_not_be_moved(w: World) -> None:
    fd = w.file(range(10, 20))
    call = w.start("advise", fd=fd, advice="dontneed", wait=True)

    w.complete(JobFailed(asked(w, MoveJob)[0].job, errors.OutOfPages("no room")))

    with pytest.raises(errors.OutOfPages, match="no room"):
        w.result(call)


def test_a_time_limit_cancels_the_move(w: World) -> None:
    fd = w.file(range(10, 20))
    call = w.start("advise", fd=fd, advice="dontneed", wait=True, timeout_s=2.0)

    w.pass_time(3.0)

    with pytest.raises(errors.TimedOut):
        w.result(call)
    assert [e.job for e in asked(w, CancelJob)] == [asked(w, MoveJob)[0].job]
    w.check()


def test_a_pinned_file_is_told_to_the_device_and_cannot_be_demoted(w: World) -> None:
    fd = w.file(range(10, 20))

    w("pin", fd=fd)
    assert asked(w, PinFile)[-1].pinned and w("stat", fd=fd).file.pinned
    with pytest.raises(errors.FileBusy, match="pinned"):
        w("advise", fd=fd, advice="dontneed")
    w("pin", fd=fd, pinned=False)

    assert not asked(w, PinFile)[-1].pinned
    w("advise", fd=fd, advice="dontneed")


@pytest.mark.parametrize("args", [{"advice": "maybe"}, {"tier": "tape"}, {"timeout_s": -1.0}])
def test_bad_advice_is_refused(w: World, args: dict) -> None:
    with pytest.raises(errors.InvalidArgument):
        w("advise", fd=w.file([10]), **args)
