"""Files, forwards and samples as a program sees them, on the toy machine."""

import asyncio
import gc

import pytest

from tests.unit.lip.toy import END, ToyTransport, draw, play, row_after
from vllm_symphony import lip
from vllm_symphony.abi.types import OpenFlags, Sampler, pack_tokens


def test_open_awaits_tokens_and_makes_an_anonymous_writable_file():
    toy = ToyTransport()

    async def main():
        chat = await lip.open(tokens=lip.render_chat("hi"))
        assert chat.length == len(chat) == len("user: hi\nassistant: ")
        assert await chat.text() == "user: hi\nassistant: "
        await chat.close()
        await chat.close()

    play(main, toy)

    (args,) = [a for op, _, a in toy.log if op == "open"]
    assert args.path is None
    assert args.flags == OpenFlags.TMPFILE | OpenFlags.RDWR
    assert toy.ops().count("close") == 1


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, OpenFlags.RDONLY),
        ({"write": True}, OpenFlags.RDWR),
        ({"create": True}, OpenFlags.RDWR | OpenFlags.CREAT),
        ({"tokens": [1]}, OpenFlags.RDWR | OpenFlags.CREAT),
        ({"exclusive": True}, OpenFlags.RDWR | OpenFlags.CREAT | OpenFlags.EXCL),
        ({"truncate": True}, OpenFlags.RDWR | OpenFlags.TRUNC),
    ],
)
def test_options_of_open_are_posix_flags(options, flags):
    toy = ToyTransport()
    if not flags & OpenFlags.CREAT:
        toy.machine.names["/a"] = toy.machine.new([1, 2])

    async def main():
        async with lip.open("/a", **options):
            pass

    play(main, toy)

    assert toy.log[0][2].flags == flags


def test_open_refuses_tokens_and_text_together():
    with pytest.raises(lip.InvalidArgument):
        lip.open(tokens=[1], text="a")


def test_a_missing_file_is_its_typed_error():
    async def main():
        await lip.open("/none")

    with pytest.raises(lip.NoSuchFile, match="/none"):
        play(main)


def test_a_fork_has_the_tokens_and_a_life_of_its_own():
    async def main():
        async with lip.open(text="ab") as a, a.fork() as b, await a.fork() as c:
            await b.append("x")
            assert (await a.read(), await b.read(), await c.read()) == ([97, 98], [97, 98, 120], [97, 98])
            assert (a.length, b.length, c.length) == (2, 3, 2)

    play(main)


def test_a_file_that_is_dropped_is_closed():
    toy = ToyTransport()

    async def main():
        await lip.open(text="a")
        gc.collect()
        assert not toy.fds

    play(main, toy)


def test_an_open_that_is_cancelled_on_its_way_loses_no_fd():
    toy = ToyTransport()
    toy.hold.add("open")

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await lip.open(text="a")
        toy.release.set()
        await lip.getpid()
        await asyncio.sleep(0)

    play(main, toy)

    assert not toy.left_open
    assert "close" in toy.ops()


def test_forward_takes_a_token_tokens_or_text_and_knows_the_length():
    async def main():
        async with lip.open() as f:
            for tokens in (97, [98, 99], "d", range(101, 103)):
                await f.forward(tokens)
            assert await f.text() == "abcdef"
            assert f.length == 6
            last = await f.forward()
            assert last.position == 5
            assert last.top1 == draw(row_after((101, 102)), Sampler(), 0, 0)

    play(main)


def test_outputs_say_which_distributions_come_back():
    async def main():
        async with lip.open() as f:
            every = await f.forward("abc", outputs="all", top_k=3)
            some = await f.forward("def", outputs=[0, 2])
            assert [d.position for d in every] == [0, 1, 2]
            assert [d.position for d in some] == [3, 5]
            assert len(every[0].ids) == len(every[0].logprobs) == 3

    play(main)


def test_a_failed_forward_changes_nothing_and_tells_the_length():
    async def main():
        async with lip.open(text="abc") as f, lip.open() as empty:
            with pytest.raises(lip.InvalidArgument):
                await f.forward([1, 999])
            with pytest.raises(lip.StaleFile):
                await f.forward(1, at=7)
            with pytest.raises(lip.InvalidArgument):
                await empty.forward()
            with pytest.raises(lip.InvalidArgument, match="token ids"):
                await f.append([-1])
            assert f.length == 3 and await f.read() == [97, 98, 99]

    play(main)


def test_a_distribution_shows_its_numbers():
    async def main():
        async with lip.open(text="q") as f:
            d = await f.forward(entropy=True)
            row = await d.logits()
            assert d.top1 == d.ids[0] == max(range(len(row)), key=row.__getitem__)
            assert d.p == d.prob(d.top1) == pytest.approx(2.718281828 ** d.logprob(d.top1))
            assert d.margin == pytest.approx(d.p - d.prob(d.ids[1]))
            assert row[d.ids[3]] == pytest.approx(d.logprobs[3] + d.logsumexp, abs=1e-5)
            assert d.entropy > 0 and d.top1 in d and -1 not in d
            with pytest.raises(lip.InvalidArgument, match="larger top_k"):
                d.prob(-1)
            with pytest.raises(lip.InvalidArgument, match="entropy=True"):
                _ = (await f.forward()).entropy
            with pytest.raises(lip.InvalidArgument, match="top_k >= 2"):
                _ = (await f.forward(top_k=1)).margin

    play(main)


def test_exact_draws_cost_no_call_and_others_cost_one():
    toy = ToyTransport()

    async def main():
        async with lip.open(text="q") as f:
            d = await f.forward()
            await d.sample()
            await d.sample(temperature=0.5, top_k=20, seed=1)
            assert "sample" not in toy.ops()
            await d.sample(temperature=0.5, top_k=21, seed=1)
            await d.sample(presence_penalty=1.0)
            await d.sample(grammar=lip.choice(["a"]))
            assert toy.ops().count("sample") == 3

    play(main, toy)


@pytest.mark.parametrize("top_k", [0, 1, 5, 20, 200])
def test_a_seeded_token_is_the_same_however_much_is_known(top_k):
    async def main():
        async with lip.open(text="q") as f:
            few = await f.forward(top_k=top_k)
            drawn = await few.sample(temperature=0.9, top_p=0.95, seed=5, n=40)
            assert drawn == await f.sample(temperature=0.9, top_p=0.95, seed=5, n=40)
            assert drawn[7] == await few.sample(temperature=0.9, top_p=0.95, seed=5, draw=7)
            lse = few.logsumexp
            row = await few.logits()
            assert all(t.logprob == pytest.approx(row[t] - lse, abs=1e-5) for t in set(drawn))

    play(main)


def test_unseeded_draws_differ_and_repeat_with_the_process():
    async def main():
        async with lip.open(text="q") as f:
            d = await f.forward()
            return [await d.sample(temperature=2.0, top_k=20) for _ in range(20)]

    first, again, other = play(main, ToyTransport(seed=1)), play(main, ToyTransport(seed=1)), play(main, ToyTransport(seed=2))

    assert first == again != other
    assert len(set(first)) > 3


def test_penalties_count_from_the_first_draw_also_where_that_was_local():
    async def main():
        async with lip.open(text="prompt") as f:
            d = await f.forward()
            token = await d.sample()
            async with f.fork() as g:
                d = await g.forward(token)
                return token, await d.sample(presence_penalty=100.0), await g.sample(presence_penalty=100.0)

    toy = ToyTransport()
    play(main, toy)

    samples = [a for op, _, a in toy.log if op == "sample"]
    assert [a.sampler.penalty_from for a in samples] == [6, 6]


def test_a_bad_sampler_is_refused_by_the_kernel_not_by_luck():
    async def main():
        async with lip.open(text="q") as f:
            d = await f.forward()
            for bad in ({"temperature": -1.0}, {"temperature": 1.0, "top_p": 0.0}):
                with pytest.raises(lip.InvalidArgument):
                    await d.sample(**bad)
            with pytest.raises(lip.InvalidArgument):
                await d.sample(n=0)
            with pytest.raises(TypeError, match="no such sampling keyword: temprature"):
                await d.sample(temprature=1.0)

    play(main)


def test_allowed_takes_any_ids():
    async def main():
        async with lip.open(text="q") as f:
            token = await (await f.forward()).sample(allowed={200, 201})
            assert token in (200, 201)
            assert await f.sample(Sampler(allowed=pack_tokens([END]))) == [END]

    play(main)


def test_a_row_is_gone_when_the_file_was_cut_below_it():
    async def main():
        async with lip.open(text="abcd") as f:
            d = await f.forward()
            await f.truncate(2)
            assert f.length == 2
            with pytest.raises(lip.StaleFile):
                await d.sample(presence_penalty=1.0)

    play(main)


def test_forward_many_moves_all_and_raises_the_first_error():
    async def main():
        async with lip.open(text="a") as a, lip.open(text="b") as b, lip.open() as empty:
            dists = await lip.forward_many([(a, 120), (b, "yz")])
            assert [d.position for d in dists] == [1, 2]
            assert (a.length, b.length) == (2, 3)
            with pytest.raises(lip.InvalidArgument, match="empty"):
                await lip.forward_many([(a, 120), (empty, ())])
            assert a.length == 3
            good, bad = await lip.forward_many([(a, 120), (empty, ())], return_errors=True)
            assert isinstance(bad, lip.InvalidArgument) and isinstance(good, lip.Distribution)

    play(main)


def test_names_live_on():
    async def main():
        async with lip.open(text="kept") as f:
            await f.link("/kb/a")
            with pytest.raises(lip.FileExists):
                await f.link("/kb/a")
        await lip.rename("/kb/a", "/kb/b")
        assert [s.length for s in await lip.ls("/kb")] == [4]
        assert (await lip.stat("/kb/b")).fidelity == "exact"
        async with lip.open("/kb/b") as g:
            assert (await g.stat()).length == 4
            assert "/kb/b" in repr(g)
        await lip.unlink("/kb/b")
        assert await lip.ls() == []

    play(main)


def test_text_tools_and_the_world():
    toy = ToyTransport()

    async def main():
        assert await lip.detokenize(await lip.tokenize("héllo")) == "héllo"
        assert (await lip.parse_tools("t", parser="p")) == [{"name": "t", "parser": "p"}]
        assert (await lip.model_info()).name == "toy"
        asked = await lip.detokenize(await lip.render_chat([{"role": "system", "content": "s"}], add_generation_prompt=False))
        assert asked == "system: s\n"
        before = await lip.monotonic()
        await lip.sleep(3)
        assert await lip.monotonic() == before + 3
        assert await lip.now() > 1e8
        assert 0 <= await lip.random() < 1
        lip.emit({"a": [1]})
        with pytest.raises(lip.InvalidArgument):
            lip.emit(object())

    play(main, toy)

    assert [a.value for op, _, a in toy.log if op == "emit"] == ['{"a": [1]}']


def test_outside_of_a_program_the_error_says_how_to_run_one():
    with pytest.raises(RuntimeError, match="symphony run"):
        asyncio.run(lip.getpid())
