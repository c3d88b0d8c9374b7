"""forward, forward_many, sample, logits: relations that hold for every model."""

import math

from vllm_symphony import lip

CLOSE = 1e-4
PROMPT = [*range(40, 90), 44, 45]


def close(a, b, eps=CLOSE):
    return abs(a - b) < eps


def same(a, b):
    """Two distributions are one, as far as floats go; ties may stand in another order."""
    assert all(close(x, y) for x, y in zip(a.logprobs, b.logprobs, strict=True)), (a.logprobs, b.logprobs)
    for token in set(a.ids[:-1]) & set(b.ids[:-1]):
        assert close(a.logprob(token), b.logprob(token))
    assert close(a.logsumexp, b.logsumexp, 1e-2)


async def a_forward_appends_and_gives_the_distribution_after():
    async with lip.open() as f:
        dist = await f.forward(PROMPT, top_k=5, entropy=True)
        assert f.length == len(PROMPT) and dist.position == len(PROMPT) - 1
        assert len(dist.ids) == len(set(dist.ids)) == 5
        assert dist.logprobs == sorted(dist.logprobs, reverse=True) and dist.logprobs[0] < 0
        assert dist.entropy > 0
        stat = await f.stat()
        assert stat.frontier == len(PROMPT) and stat.num_pages == -(-len(PROMPT) // (await lip.model_info()).page_size)


async def in_pieces_or_at_once_is_the_same():
    async with lip.open() as whole, lip.open() as pieces:
        want = await whole.forward(PROMPT)
        for token in PROMPT[:-10]:
            await pieces.forward(token, top_k=0)
        await pieces.forward(PROMPT[-10:-3], keep="none")
        await pieces.append(PROMPT[-3:])
        same(await pieces.forward(), want)


async def no_tokens_ask_again_for_the_last_distribution():
    async with lip.open(tokens=PROMPT) as f, f.fork() as fork:
        first = await f.forward()
        same(await f.forward(), first)
        same(await fork.forward(), first)
        assert f.length == len(PROMPT)


async def many_may_ask_a_shared_file_at_once():
    async with lip.open("/shared-prefix", tokens=[10, 20, 30, 40, 50], create=True) as writer:
        alone = await writer.forward(entropy=True)
        files = [await lip.open("/shared-prefix") for _ in range(6)]
        async with lip.group() as g:
            asked = [g.start(one_look, file) for file in files]
        for look in asked:
            close(look.result.entropy, alone.entropy)
            assert look.result.ids == alone.ids
            await look.result.sample(temperature=1.0, seed=3, allowed=alone.ids[:5])
        for file in files:
            await file.close()
        assert writer.length == 5 and await writer.read() == [10, 20, 30, 40, 50]
        await lip.unlink("/shared-prefix")


async def one_look(file):
    return await file.forward(entropy=True)


async def outputs_all_and_some_are_rows_of_the_same_forward():
    async with lip.open() as f, lip.open() as some:
        every = await f.forward(PROMPT, outputs="all")
        assert [d.position for d in every] == list(range(len(PROMPT)))
        few = await some.forward(PROMPT, outputs=[0, 17, len(PROMPT) - 1])
        assert [d.position for d in few] == [0, 17, len(PROMPT) - 1]
        for d in few:
            same(d, every[d.position])
        assert await some.forward([44], outputs=[]) == []


async def a_fork_continues_as_its_source_would():
    async with lip.open() as f:
        await f.forward(PROMPT)
        async with f.fork() as a, f.fork() as b:
            first = await a.forward([50, 51])
            other = await b.forward([60, 51])
            same(await f.forward([50, 51]), first)
            await b.truncate(len(PROMPT))
            same(await b.forward([50, 51]), first)
            assert other.ids != first.ids or not close(other.logprobs[0], first.logprobs[0])


async def truncate_inside_a_page_and_go_on():
    async with lip.open() as f, lip.open() as fresh:
        await f.forward(PROMPT)
        for length in (45, 33, 32, 31, 17, 16, 1):
            async with f.fork() as fork:
                await fork.truncate(length)
                got = await fork.forward([70, 71])
            await fresh.truncate(0)
            same(got, await fresh.forward([*PROMPT[:length], 70, 71]))


async def positions_with_gaps_change_the_distribution_but_repeat():
    async with lip.open(tokens=PROMPT) as f, f.fork() as fork, f.fork() as plain:
        gap = await f.forward([50, 51], start=len(PROMPT) + 9)
        same(await fork.forward([50, 51], start=len(PROMPT) + 9), gap)
        none = await plain.forward([50, 51])
        assert any(not close(x, y) for x, y in zip(gap.logprobs, none.logprobs, strict=True))
        async with f.fork() as again:
            await again.truncate(len(PROMPT))
            same(await again.forward([50, 51]), none)


async def temperature_gives_the_normaliser_at_it():
    async with lip.open() as f:
        dist = await f.forward(PROMPT, temperature=0.5)
        row = await dist.logits()
        assert close(dist._data.logsumexp_t, logsumexp([x / 0.5 for x in row]), 1e-2)


async def the_row_is_what_the_distribution_says():
    model = await lip.model_info()
    async with lip.open() as f:
        dist = await f.forward(PROMPT, entropy=True, top_k=30)
        row = await dist.logits()
        assert len(row) == model.vocab_size
        lse = logsumexp(row)
        assert close(dist.logsumexp, lse, 1e-2)
        for token, logprob in zip(dist.ids, dist.logprobs, strict=True):
            assert close(row[token] - lse, logprob, 1e-3)
        assert close(dist.entropy, -sum(math.exp(x - lse) * (x - lse) for x in row), 1e-2)


async def a_row_that_was_not_kept_is_computed_again():
    async with lip.open() as f:
        dists = await f.forward(PROMPT, outputs="all", keep="none")
        for position in (0, 20, len(PROMPT) - 1):
            row = await f.logits(position)
            assert max(range(len(row)), key=row.__getitem__) == dists[position].top1 or close(max(row) - logsumexp(row), 0, 99)
            lse = logsumexp(row)
            assert close(max(row) - lse, dists[position].logprobs[0], 1e-3)
        assert f.length == len(PROMPT)


async def forward_many_is_each_forward_by_itself():
    async with lip.open() as a, lip.open() as b, lip.open() as c:
        dists = await lip.forward_many([(a, PROMPT), (b, PROMPT[:7]), (c, [50])], top_k=3)
        assert [d.position for d in dists] == [len(PROMPT) - 1, 6, 0]
        async with lip.open() as alone:
            same(await alone.forward(PROMPT[:7], top_k=3), dists[1])
        results = await lip.forward_many([(a, [51]), (a, [52]), (b, [10**9])], return_errors=True)
        assert [type(r).__name__ for r in results] == ["Distribution", "FileBusy", "InvalidArgument"]
        assert (await a.stat()).length == len(PROMPT) + 1 and (await b.stat()).length == 7


async def draws_repeat_by_seed_position_and_number():
    async with lip.open() as f:
        await f.forward(PROMPT)
        draws = await f.sample(temperature=4.0, top_k=200, seed=11, n=32)
        assert await f.sample(temperature=4.0, top_k=200, seed=11, n=8, draw=8) == draws[8:16]
        assert len(set(draws)) > 1
        assert f.length == len(PROMPT)
        dist = await f.forward()
        assert [t.logprob <= 0 for t in draws] == [True] * 32
        for token in draws:
            if token in dist:
                assert close(token.logprob, dist.logprob(token))


async def a_local_draw_is_the_servers_draw():
    async with lip.open() as f:
        dist = await f.forward(PROMPT, top_k=50)
        for sampler in (
            {"temperature": 0.9, "top_k": 7},
            {"temperature": 1.0, "top_p": 0.5},
            {"temperature": 1.0},
            {"min_p": 0.2, "temperature": 1.0},
        ):
            here = await dist.sample(n=24, seed=3, **sampler)
            assert here == await f.sample(n=24, seed=3, **sampler), sampler


async def sampler_rules_bind_the_draw():
    async with lip.open() as f:
        dist = await f.forward(PROMPT, top_k=10)
        assert await f.sample() == [dist.top1]
        assert await f.sample(allowed=[dist.ids[4]]) == [dist.ids[4]]
        assert await f.sample(logit_bias={dist.ids[7]: 100.0}) == [dist.ids[7]]
        assert set(await f.sample(temperature=2.0, top_k=3, n=64, seed=1)) <= set(dist.ids[:3])
        async with f.fork() as g:
            await g.forward(dist.top1)
            top = (await g.forward()).top1
            (token,) = await g.sample(logit_bias={top: -100.0})
            assert token != top


async def a_file_can_be_opened_and_computed_by_name():
    async with lip.open("/m-book", tokens=PROMPT) as f:
        want = await f.forward()
    async with lip.open("/m-book") as book:
        same(await book.forward(), want)
        async with book.fork() as mine:
            await mine.forward([50])
    await lip.unlink("/m-book")


def logsumexp(row):
    top = max(row)
    return top + math.log(sum(math.exp(x - top) for x in row))
