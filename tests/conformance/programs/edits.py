"""extract and concat: what a program is promised about the new file, on any machine."""

import asyncio

from vllm_symphony import lip

TOKENS = list(range(40, 120))
SPANS = [(0, 4), (30, 70)]


async def fails(error, call):
    """The call raises this error; gives it back."""
    try:
        await call
    except error as e:
        return e
    raise AssertionError(f"no {error.__name__} was raised")


def close(a, b):
    return a.ids[:3] == b.ids[:3] and abs(a.logsumexp - b.logsumexp) < 1e-3


async def an_extract_has_the_tokens_and_the_lineage_of_its_mode():
    async with lip.open(tokens=TOKENS) as f:
        want = TOKENS[0:4] + TOKENS[30:70]
        for positions, fidelity in (("keep", "pruned"), ("compact", "approximate")):
            async with f.extract(SPANS, positions=positions) as part:
                assert await part.read() == want and part.length == 44
                stat = await part.stat()
                assert (stat.fidelity, stat.path, stat.num_open) == (fidelity, None, 1)
        async with f.extract([(0, 50)]) as head:
            assert (await head.stat()).fidelity == "exact" and await head.read() == TOKENS[:50]
        assert await f.read() == TOKENS and (await f.stat()).fidelity == "exact"


async def however_an_extract_is_asked_it_answers_the_same():
    async with lip.open(tokens=TOKENS) as f, f.extract(SPANS) as part, part.fork() as straight, part.fork() as generated:
        looked = await part.forward()
        first = looked.ids[0]
        assert close(await part.forward([first]), await straight.forward([first]))
        answer = await generated.generate(2, ignore_eos=True)
        assert answer.tokens[0] == first
        assert close(await part.forward(), await straight.forward())


async def an_extract_goes_on_and_is_cut_like_any_file():
    async with lip.open(tokens=TOKENS) as f, f.extract(SPANS, positions="compact") as part:
        await part.forward(TOKENS[:5])
        before = await part.forward()
        await part.forward([50, 51, 52])
        await part.truncate(49)
        assert close(await part.forward(), before)
        await part.truncate(20)
        async with part.fork() as fork:
            assert close(await fork.forward(), await part.forward())
        await part.truncate(0)
        assert (await part.stat()).fidelity == "exact"


async def an_extract_of_a_computed_file_is_what_one_of_a_file_without_keys_is():
    async with lip.open(tokens=TOKENS) as f, lip.open(tokens=TOKENS) as computed:
        await computed.forward()
        async with f.extract(SPANS) as a, computed.extract(SPANS) as b:
            assert close(await a.forward(), await b.forward())


async def concat_by_computing_is_what_the_tokens_give():
    both = TOKENS[:30] + TOKENS[50:]
    async with lip.open(tokens=TOKENS[:30]) as a, lip.open(tokens=TOKENS[50:]) as b, lip.open(tokens=both) as plain:
        joined = await lip.concat([a, b])
        assert await joined.read() == both
        assert (await joined.stat()).fidelity == "exact"
        assert close(await joined.forward(), await plain.forward())
        await joined.close()


async def concat_by_rotation_is_approximate_and_goes_on():
    async with lip.open(tokens=TOKENS[:30]) as a, lip.open(tokens=TOKENS[50:]) as b:
        async with lip.concat([a, b], mode="rotate") as joined:
            assert await joined.read() == TOKENS[:30] + TOKENS[50:]
            assert (await joined.stat()).fidelity == "approximate"
            await joined.forward([60])
            assert joined.length == 61
        async with lip.concat([a], mode="rotate") as alone:
            assert (await alone.stat()).fidelity == "exact"


async def lineage_goes_with_the_name_and_can_be_refused():
    async with lip.open(tokens=TOKENS) as f, f.extract(SPANS) as part, part.fork() as fork:
        assert (await fork.stat()).fidelity == "pruned"
        await fork.link("/tmp/c-part")
    error = await fails(lip.InvalidArgument, lip.open("/tmp/c-part", require="exact"))
    assert "pruned" in str(error)
    async with lip.open("/tmp/c-part", require="") as again:
        assert again.length == 44
        await again.forward()
    await lip.unlink("/tmp/c-part")


async def many_parts_are_taken_at_once_while_the_file_changes():
    async with lip.open(tokens=TOKENS) as f:
        takes = [asyncio.ensure_future(take(f, i)) for i in range(8)]
        await asyncio.sleep(0)
        assert [await t for t in takes] == [TOKENS[i : i + 10] + TOKENS[40:60] for i in range(8)]


async def take(f, i):
    """A part of the file, computed."""
    async with f.extract([(i, i + 10), (40, 60)], positions="compact") as part:
        await part.forward()
        return await part.read()


async def length_of(f, spans, positions="keep"):
    """Of an extract."""
    async with f.extract(spans, positions=positions) as part:
        return part.length


async def an_edit_that_cannot_be_is_refused_and_leaves_nothing():
    async with lip.open(tokens=TOKENS) as f:
        for spans in ([], [(0, 0)], [(5, 3)], [(70, 81)], [(0, 10), (5, 20)]):
            await fails(lip.InvalidArgument, length_of(f, spans))
        await fails(lip.InvalidArgument, length_of(f, SPANS, "loose"))
        await fails(lip.InvalidArgument, lip.concat([]))
        await fails(lip.InvalidArgument, lip.concat([f], mode="glue"))
        assert await f.read() == TOKENS
