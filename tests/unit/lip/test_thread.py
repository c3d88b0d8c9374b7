"""Threads: ids, results, and errors without noise."""

import asyncio

import pytest

from tests.unit.lip.toy import ToyTransport, play
from vllm_symphony import lip


async def length_of(text):
    async with lip.open(text=text) as f:
        return f.length


async def fail(error):
    await lip.getpid()
    raise error


def test_results_are_there_after_the_block():
    async def main():
        async with lip.group() as g:
            threads = [g.start(length_of, "x" * n) for n in (3, 1, 2)]
            with pytest.raises(lip.InvalidArgument, match="still runs"):
                _ = threads[0].result
            assert await threads[1] == 1
        return [t.result for t in threads]

    assert play(main) == [3, 1, 2]


def test_each_thread_calls_under_its_own_tid_and_ends_once():
    toy = ToyTransport()

    async def main():
        async with lip.group() as g:
            g.start(length_of, "a")
            g.start(length_of, "b")
        await lip.getpid()

    play(main, toy)

    assert {tid for op, tid, _ in toy.log if op == "open"} == {1, 2}
    assert [(tid, a.tid, a.name) for op, tid, a in toy.log if op == "thread_start"] == [(0, 1, "length_of"), (0, 2, "length_of")]
    assert sorted((tid, a.tid) for op, tid, a in toy.log if op == "thread_end") == [(1, 1), (2, 2)]
    assert toy.log[-1][:2] == ("getpid", 0)


def test_a_thread_that_never_ran_ends_too():
    toy = ToyTransport()

    async def main():
        async with lip.group() as g:
            g.start(length_of, "a").cancel()

    play(main, toy)

    assert toy.ops() == ["thread_start", "thread_end"]


def test_one_failure_is_raised_as_it_is_and_ends_the_others():
    toy = ToyTransport()
    toy.hold.add("sleep")

    async def main():
        async with lip.group() as g:
            g.start(lip.sleep, 1000)
            g.start(fail, lip.NoSuchFile("no such file: /x"))

    with pytest.raises(lip.NoSuchFile, match="/x"):
        play(main, toy)
    assert toy.cancelled == ["sleep"]


def test_the_blocks_own_error_is_raised_as_it_is():
    async def main():
        async with lip.group() as g:
            g.start(lip.sleep, 1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        play(main)


def test_several_failures_at_once_are_a_group():
    async def main():
        async with lip.group() as g:
            g.start(fail, KeyError("a"))
            g.start(fail, ValueError("b"))

    with pytest.raises(ExceptionGroup) as caught:
        play(main)
    assert {type(e) for e in caught.value.exceptions} == {KeyError, ValueError}


def test_groups_nest_and_a_single_error_stays_itself():
    async def inner():
        async with lip.group() as g:
            g.start(fail, lip.OutOfPages("full"))

    async def main():
        async with lip.group() as g:
            g.start(inner)

    with pytest.raises(lip.OutOfPages):
        play(main)


def test_cancelling_the_program_cancels_its_threads():
    toy = ToyTransport()
    toy.hold.add("sleep")

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), lip.group() as g:
                g.start(lip.sleep, 1000)

    play(main, toy)

    assert toy.cancelled == ["sleep"]


def test_unseeded_draws_do_not_depend_on_how_threads_interleave():
    async def draw_some(num_yields):
        async with lip.open(text="q") as f:
            tokens = []
            for _ in range(8):
                d = await f.forward()
                for _ in range(num_yields):
                    await asyncio.sleep(0)
                tokens.append(await d.sample(temperature=2.0, top_k=20))
            return tokens

    async def main(a, b):
        async with lip.group() as g:
            threads = [g.start(draw_some, a), g.start(draw_some, b)]
        return [t.result for t in threads]

    assert play(lambda: main(0, 5)) == play(lambda: main(5, 0))
