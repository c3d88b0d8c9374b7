"""`generate`: awaited, streamed, left, cancelled; predicates and grammars on the way."""

import asyncio
import gc

import pytest

from tests.unit.lip.toy import END, ToyTransport, play
from vllm_symphony import lip
from vllm_symphony.abi.types import Predicate, unpack_tokens


def test_a_completion_tells_how_it_ended():
    async def main():
        async with lip.open(text="q") as f:
            done = await f.generate(5, ignore_eos=True, logprobs=True)
            assert (done.reason, done.stop, done.length, f.length) == ("length", None, 6, 6)
            assert len(done.tokens) == len(done.logprobs) == 5
            assert done.logprob == sum(done.logprobs) < 0
            assert str(done) == done.text == await f.text(1)
            with pytest.raises(lip.InvalidArgument, match="logprobs=True"):
                _ = (await f.generate(3)).logprob

    play(main)


def test_keywords_reach_the_call():
    toy = ToyTransport()

    async def main():
        async with lip.open(text="q") as f:
            await f.generate(
                3, lip.Sampler(top_k=5), temperature=0.5, seed=9, allowed=[97, 98], stop="x", stop_tokens=[END],
                until=lip.after(2), at=1, text=False, timeout_s=4.0,
            )  # fmt: skip

    play(main, toy)

    (args,) = [a for op, _, a in toy.log if op == "generate"]
    assert (args.sampler.top_k, args.sampler.temperature, args.sampler.seed) == (5, 0.5, 9)
    assert unpack_tokens(args.sampler.allowed) == [97, 98]
    assert (args.stop, unpack_tokens(args.stop_tokens), args.until) == (("x",), [END], Predicate("after", 2.0))
    assert (args.at, args.text, args.timeout_s, args.stream) == (1, False, 4.0, False)


def test_pieces_add_up_to_the_completion():
    async def main():
        async with lip.open(text="q") as f:
            running = f.generate(20, ignore_eos=True, logprobs=True)
            pieces = [piece async for piece in running]
            done = await running
            assert len(pieces) > 1
            assert "".join(map(str, pieces)) == done.text
            assert [t for p in pieces for t in p.tokens] == done.tokens
            assert [x for p in pieces for x in p.logprobs] == done.logprobs
            assert f.length == 21

    play(main)


def test_nothing_runs_until_it_is_awaited():
    toy = ToyTransport()

    async def main():
        async with lip.open(text="q") as f:
            with pytest.warns(RuntimeWarning, match="never awaited"):
                f.generate(5)
            assert "generate" not in toy.ops()

    play(main, toy)


def test_a_loop_that_breaks_ends_the_call():
    toy = ToyTransport()

    async def main():
        async with lip.open(text="q") as f:
            async for _ in f.generate(1000, ignore_eos=True):
                break
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert toy.cancelled == ["generate"]
            length = (await f.stat()).length
            assert 2 <= length == f.length < 100
            await f.generate(2)

    play(main, toy)


def test_cancelling_the_reader_or_the_waiter_cancels_the_call():
    async def stream(f):
        async for _ in f.generate(1000, ignore_eos=True):
            pass

    async def wait(f):
        await f.generate(1000, ignore_eos=True)

    for how in (stream, wait):
        toy = ToyTransport()
        toy.hold.add("generate")

        async def main(how=how, toy=toy):
            async with lip.open(text="q") as f, lip.group() as g:
                thread = g.start(how, f)
                await lip.getpid()
                thread.cancel()

        play(main, toy)
        assert toy.cancelled == ["generate"]


def test_a_generation_can_be_cancelled_by_hand():
    toy = ToyTransport()
    toy.hold.add("generate")

    async def main():
        async with lip.open(text="q") as f, lip.group() as g:
            running = f.generate(5)

            async def reader():
                with pytest.raises(asyncio.CancelledError):
                    await running

            g.start(reader)
            await lip.getpid()
            running.cancel()

    play(main, toy)
    assert toy.cancelled == ["generate"]


def test_an_error_while_streaming_reaches_the_reader_with_the_length():
    async def main():
        async with lip.open(text="q") as f:
            with pytest.raises(lip.StaleFile):
                async for _ in f.generate(5, at=17):
                    pass
            assert f.length == 1

    play(main)


def test_a_second_writer_is_busy():
    async def main():
        async with lip.open(text="q") as f, lip.group() as g:
            g.start(f.generate, 50, ignore_eos=True)
            await lip.getpid()
            with pytest.raises(lip.FileBusy):
                await f.forward("x")

    play(main)


def test_until_hands_back_before_the_token_is_chosen():
    async def main():
        async with lip.open(text="q") as f:
            part = await f.generate(50, until=(lip.entropy > 0) & lip.after(4), ignore_eos=True)
            assert (part.reason, len(part.tokens), part.length) == ("until", 4, 5)
            assert part.distribution.position == 4
            assert part.distribution.entropy > 0
            assert part.distribution.top1 == (await f.forward()).top1

    play(main)


def test_splits_by_until_give_what_one_call_gives():
    async def main():
        async with lip.open(text="q") as a, lip.open(text="q") as b:
            whole = await a.generate(40, temperature=0.8, seed=3, ignore_eos=True)
            tokens = []
            while len(tokens) < 40:
                part = await b.generate(40 - len(tokens), temperature=0.8, seed=3, until=lip.every(7), ignore_eos=True)
                tokens += part.tokens
            assert tokens == whole.tokens

    play(main)


def test_a_grammar_ends_complete():
    async def main():
        async with lip.open(text="q") as f:
            done = await f.generate(50, grammar=lip.choice(["yes", "no"]))
            assert (done.text, done.reason) == ("yes", "grammar")

    play(main)


def test_what_no_part_brought_is_the_last_piece():
    class Muted(ToyTransport):
        """As a session whose client fell behind: after three parts the rest of a stream is left out."""

        def call(self, op, args, *, tid, on_part=None):
            heard = []

            def three(part):
                heard.append(part)
                if len(heard) <= 3:
                    on_part(part)

            return super().call(op, args, tid=tid, on_part=on_part and three)

    async def main():
        async with lip.open(text="q") as f:
            running = f.generate(20, ignore_eos=True, logprobs=True)
            pieces = [piece async for piece in running]
            done = await running
            assert [len(p.tokens) for p in pieces] == [1, 1, 1, 17]
            assert "".join(map(str, pieces)) == done.text
            assert [t for p in pieces for t in p.tokens] == done.tokens
            assert [x for p in pieces for x in p.logprobs] == done.logprobs

    play(main, Muted())
