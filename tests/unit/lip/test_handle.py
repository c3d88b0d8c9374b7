"""What a program does with an open file beside its tokens; locks; editing."""

import asyncio

import pytest

from tests.unit.lip.canned import Canned
from tests.unit.lip.toy import play
from vllm_symphony import lip
from vllm_symphony.abi import calls as c
from vllm_symphony.abi.types import Span

DONE, LEASE = c.Done(), c.LeaseResult(30.0)
FD = 3  # the first that the toy gives


@pytest.mark.parametrize(
    ("work", "op", "args", "answer", "value"),
    [
        (lambda f: f.chmod(0o644), "chmod", c.Chmod(0o644, FD), DONE, None),
        (lambda f: f.chown("you"), "chown", c.Chown(FD, None, "you", None), DONE, None),
        (lambda f: f.setxattr("lang", "en", replace=True), "setxattr", c.Setxattr("lang", "en", FD, None, False, True), DONE, None),
        (lambda f: f.getxattr("lang"), "getxattr", c.Xattr("lang", FD), c.XattrsResult({"lang": "en"}), "en"),
        (lambda f: f.listxattr(), "listxattr", c.FileArgs(FD), c.XattrsResult({}), {}),
        (lambda f: f.removexattr("lang"), "removexattr", c.Xattr("lang", FD), DONE, None),
        (lambda f: f.chattr(expires_s=60), "chattr", c.Chattr(FD, None, None, 60, None), DONE, None),
        (lambda f: f.pin(), "pin", c.Pin(FD, None, True), DONE, None),
        (lambda f: f.pin(False), "pin", c.Pin(FD, None, False), DONE, None),
        (lambda f: f.advise(), "advise", c.Advise(FD, None, "willneed", "host", False, None), DONE, None),
        (lambda f: f.sync(timeout_s=5), "sync", c.Sync(FD, None, 5), c.SyncResult(1, 0), c.SyncResult(1, 0)),
        (lambda f: f.du(), "du", c.FileArgs(FD), c.DuResult((), 0.5, 8), c.DuResult((), 0.5, 8)),
        (lambda f: f.unlock(), "flock", c.Flock(FD, "unlock"), c.LeaseResult(0.0), None),
    ],
)
def test_a_method_makes_its_call_on_the_fd(work, op, args, answer, value):
    toy = Canned(**{op: answer})

    async def main():
        async with lip.open(tokens=[1, 2, 3]) as file:
            return await work(file)

    assert play(main, toy) == value
    assert toy.asked(op) == [args]


def test_link_replaces_when_told_to():
    toy = Canned(link=DONE)

    async def main():
        async with lip.open(tokens=[1]) as file:
            await file.link("/a", replace=True)
            return file.path

    assert play(main, toy) == "/a"
    assert toy.asked("link") == [c.Link(FD, "/a", True)]


def test_open_says_what_lineage_it_needs():
    toy = Canned()
    toy.machine.names["/a"] = toy.machine.new([1])

    async def main():
        async with lip.open("/a", require="exact"):
            pass

    play(main, toy)

    assert toy.asked("open")[0].require == "exact"


# ---- locks


def test_a_lock_is_held_in_its_block_and_can_be_renewed():
    toy = Canned(flock=LEASE)

    async def main():
        async with lip.open(tokens=[1]) as file:
            async with file.lock("shared", lease_s=10, timeout_s=5) as lock:
                assert await lock.renew(20) == 30.0
            await file.lock(wait=False)

    play(main, toy)

    assert toy.asked("flock") == [
        c.Flock(FD, "shared", 10, True, 5), c.Flock(FD, "shared", 20, True, 5), c.Flock(FD, "unlock"),
        c.Flock(FD, "exclusive", 30.0, False, None),
    ]  # fmt: skip


def test_a_file_that_is_closed_in_the_block_needs_no_unlock():
    toy = Canned(flock=LEASE)

    async def main():
        file = await lip.open(tokens=[1])
        async with file.lock():
            await file.close()

    play(main, toy)

    assert [a.kind for a in toy.asked("flock")] == ["exclusive"]


def test_who_stops_waiting_for_a_lock_gives_back_what_may_be_granted_already():
    toy = Canned(flock=LEASE)
    toy.hold.add("flock")

    async def main():
        async with lip.open(tokens=[1]) as file:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await file.lock()

    play(main, toy)

    assert toy.cancelled == ["flock"]
    assert [a.kind for a in toy.asked("flock")] == ["exclusive", "unlock"]


# ---- editing


@pytest.mark.parametrize(
    ("spans", "asked"),
    [
        (slice(0, 4), [(0, 4)]),
        ([slice(0, 2), slice(-3, None)], [(0, 2), (7, 10)]),
        ([range(1, 3), (5, 8)], [(1, 3), (5, 8)]),
        ([(0, -1)], [(0, 9)]),
        ([Span(2, 3), Span(3, 10)], [(2, 3), (3, 10)]),
        (slice(5, 99), [(5, 10)]),
    ],
)
def test_extract_takes_what_python_has_for_spans(spans, asked):
    toy = Canned(extract=c.FdResult(9, 9, 4), close=DONE)

    async def main():
        async with lip.open(tokens=range(10)) as file, file.extract(spans, positions="compact", timeout_s=5) as part:
            return part.length

    assert play(main, toy) == 4
    assert toy.asked("extract") == [c.Extract(FD, tuple(Span(*span) for span in asked), "compact", 5)]


@pytest.mark.parametrize(
    "spans",
    [[], slice(3, 3), [(4, 2)], [(0, 5), (4, 6)], [(5, 6), (0, 1)], [(0, 11)], slice(0, 9, 2), [range(9, 0, -1)], [(-11, 2)]],
)
def test_extract_refuses_spans_that_are_none(spans):
    toy = Canned()

    async def main():
        async with lip.open(tokens=range(10)) as file:
            with pytest.raises(lip.InvalidArgument):
                file.extract(spans)

    play(main, toy)

    assert toy.asked("extract") == []


def test_concat_takes_files_in_order():
    toy = Canned(concat=c.FdResult(9, 9, 5), close=DONE)

    async def main():
        async with lip.open(tokens=[1, 2]) as a, lip.open(tokens=[3, 4, 5]) as b, lip.concat([a, b], mode="rotate") as both:
            return both.length

    assert play(main, toy) == 5
    assert toy.asked("concat") == [c.Concat((FD, FD + 1), "rotate")]
