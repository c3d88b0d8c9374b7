# ruff: noqa: PT017  programs know nothing of pytest
"""What a program gets wrong: each its typed error, and nothing has changed."""

import math

from vllm_symphony import lip
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Grammar, Predicate, Sampler

TOKENS = list(range(40, 80))


async def fails(error, call, *words):
    try:
        await call
    except error as e:
        assert all(w in str(e) for w in words), e
        return e
    raise AssertionError(f"no {error.__name__} was raised")


async def unchanged(f, tokens=TOKENS):
    stat = await f.stat()
    assert await f.read() == tokens and not stat.busy, stat


async def an_unknown_path():
    await fails(lip.NoSuchFile, lip.open("/no/such"), "/no/such")
    await fails(lip.NoSuchFile, lip.unlink("/no/such"))
    await fails(lip.NoSuchFile, lip.rename("/no/such", "/x"))
    assert await lip.ls() == []


async def a_bad_name():
    for path, error in (("relative", lip.InvalidArgument), ("", lip.InvalidArgument), ("/" + "x" * 300, lip.NameTooLong)):
        await fails(error, lip.open(path, create=True))
    assert await lip.ls("") == []


async def a_closed_or_foreign_fd():
    f = await lip.open(tokens=TOKENS)
    await f.close()
    for call in (f.read(), f.forward(), f.append([1]), f.truncate(0), f.stat(), f.sample(), f.logits(), f.link("/x")):
        await fails(lip.BadFile, call)
    for fd in (f.fd, 999, -1, 2**40):
        await fails(lip.BadFile, lip.transport.call("close", calls.FdArgs(fd)))
    async with lip.open(tokens=TOKENS) as mine:
        child = await lip.spawn(use_fd, mine.fd)
        assert await child.wait() == "EBADF"
        await unchanged(mine)


async def use_fd(fd: int):
    return (await fails(lip.BadFile, lip.transport.call("read", calls.Read(fd)))).reason


async def a_second_writer():
    async with lip.open(tokens=TOKENS) as f:
        running = f.generate(400, ignore_eos=True)
        stream = running.__aiter__()
        await stream.__anext__()
        for call in (f.forward([1]), f.generate(1), f.append([1]), f.truncate(0)):
            assert (await fails(lip.FileBusy, call)).retryable
        async with f.fork() as fork:
            await fork.forward([44])
        running.cancel()
        while (await f.stat()).busy:
            await lip.sleep(0.001)
        await f.truncate(40)
        await unchanged(f)


async def a_wrong_at():
    async with lip.open(tokens=TOKENS) as f:
        for call in (f.forward([1], at=39), f.generate(1, at=41), f.append([1], at=0), f.truncate(3, at=5)):
            error = await fails(lip.StaleFile, call)
            assert error.values["length"] == 40
        await unchanged(f)


async def token_ids_out_of_range():
    vocab = (await lip.model_info()).vocab_size
    async with lip.open(tokens=TOKENS) as f:
        for token in (vocab, 2**31, 2**32 - 1):
            await fails(lip.InvalidArgument, f.forward([44, token]))
            await fails(lip.InvalidArgument, f.append([token]))
            await fails(lip.InvalidArgument, lip.open(tokens=[token]))
            await fails(lip.InvalidArgument, f.generate(1, stop_tokens=[token]))
            await fails(lip.InvalidArgument, f.sample(allowed=[token]))
            await fails(lip.InvalidArgument, lip.detokenize([token]))
        await fails(lip.InvalidArgument, f.forward([-1]))
        await fails(lip.InvalidArgument, f.forward([2**32]))
        await fails(lip.InvalidArgument, lip.transport.call("append", calls.Append(f.fd, b"abc")))
        await unchanged(f)


async def nothing_to_look_at():
    async with lip.open() as f:
        for call in (f.forward(), f.generate(1), f.sample(), f.logits()):
            await fails(lip.InvalidArgument, call, "empty")
        await unchanged(f, [])
        await f.forward([44])


async def positions_that_go_back_or_too_far():
    limit = (await lip.model_info()).max_positions
    async with lip.open(tokens=TOKENS) as f:
        await fails(lip.InvalidArgument, f.forward([1], start=39))
        await fails(lip.InvalidArgument, f.append([1], start=0))
        await fails(lip.ContextTooLong, f.forward([1], start=limit))
        await fails(lip.ContextTooLong, f.append([1, 2], start=limit - 1))
        await fails(lip.ContextTooLong, f.forward([44] * limit))
        await fails(lip.ContextTooLong, lip.open(tokens=[44] * (limit + 1)))
        await unchanged(f)
        await f.append([44], start=limit - 1)
        await f.forward()
        await fails(lip.ContextTooLong, f.generate(1))
        await unchanged(f, [*TOKENS, 44])


async def top_k_out_of_range():
    async with lip.open(tokens=TOKENS) as f:
        most = (await lip.model_info()).max_top_k
        for top_k in (-1, most + 1, 1_000_000):
            await fails(lip.InvalidArgument, f.forward([1], top_k=top_k), str(most))
        assert len((await f.forward(top_k=most)).ids) == most
        assert (await f.forward(top_k=0)).ids == []
        await unchanged(f)


async def outputs_that_are_none():
    async with lip.open(tokens=TOKENS) as f:
        for outputs in ([2], [1, 0], [0, 0], "some"):
            await fails(lip.InvalidArgument, f.forward([44, 45], outputs=outputs))
        await fails(lip.InvalidArgument, f.forward(outputs="all"))
        await fails(lip.InvalidArgument, f.forward([44], keep="most"))
        for temperature in (0.0, -1.0, math.inf, math.nan):
            await fails(lip.InvalidArgument, f.forward([44], temperature=temperature))
        await unchanged(f)


async def a_row_that_is_gone():
    async with lip.open(tokens=TOKENS) as f:
        dist = await f.forward()
        await f.truncate(20)
        for call in (f.logits(39), f.sample(position=39), dist.logits(), f.logits(-1), f.sample(position=20)):
            await fails(lip.SymphonyError, call)
        await unchanged(f, TOKENS[:20])
        assert len(await f.logits(19)) > 100


async def samplers_out_of_range():
    bad = [
        Sampler(temperature=-0.1), Sampler(temperature=math.nan), Sampler(temperature=math.inf), Sampler(top_k=-1),
        Sampler(top_p=0.0), Sampler(top_p=1.5), Sampler(min_p=-0.1), Sampler(min_p=2.0), Sampler(presence_penalty=9.0),
        Sampler(frequency_penalty=-9.0), Sampler(repetition_penalty=0.0), Sampler(allowed=b""), Sampler(logit_bias={10**9: 1.0}),
        Sampler(logit_bias={1: math.inf}), Sampler(penalty_from=41), Sampler(penalty_from=-1),
    ]  # fmt: skip
    async with lip.open(tokens=TOKENS) as f:
        for sampler in bad:
            await fails(lip.InvalidArgument, f.sample(sampler))
            await fails(lip.InvalidArgument, f.generate(1, sampler))
        for n in (0, -1, 10**6):
            await fails(lip.InvalidArgument, f.sample(n=n))
        for n in (0, -5):
            await fails(lip.InvalidArgument, f.generate(n))
        await unchanged(f)


async def grammars_that_are_none():
    bad = [
        Grammar("regex", "[a-"), Grammar("regex", "(((("), Grammar("json", "{"), Grammar("json", '{"type": 5}'),
        Grammar("choice", "[]"), Grammar("choice", '[""]'), Grammar("choice", '"x"'), Grammar("poem", "x"), Grammar("regex", ""),
        Grammar("regex", "a" * 70_000),
    ]  # fmt: skip
    async with lip.open(tokens=TOKENS) as f:
        for grammar in bad:
            await fails((lip.InvalidArgument, lip.NotSupported), f.generate(4, grammar=grammar))
            await fails((lip.InvalidArgument, lip.NotSupported), f.sample(grammar=grammar))
        await fails(lip.InvalidArgument, f.generate(4, grammar=Grammar("regex", "[0-9]+", 99)))
        await unchanged(f)
        await f.generate(2, grammar=lip.choice(["yes"]))


async def predicates_that_are_none():
    deep = Predicate("after", 1.0)
    for _ in range(20):
        deep = Predicate("and", parts=(deep,))
    bad = [
        Predicate("mood"), Predicate("and"), Predicate("after", -1.0), Predicate("every", 0.0), Predicate("entropy", math.nan),
        Predicate("mass", 0.5), Predicate("top1_in", tokens=b"\xff\xff\xff\xff"), Predicate("or", parts=(deep,) * 100), deep,
    ]  # fmt: skip
    async with lip.open(tokens=TOKENS) as f:
        for until in bad:
            await fails(lip.InvalidArgument, f.generate(4, until=until))
        for stop in ([""], ["x" * 5000], ["x"] * 1000):
            await fails(lip.InvalidArgument, f.generate(4, stop=stop))
        for timeout_s in (0.0, -1.0, math.nan, math.inf):
            await fails(lip.InvalidArgument, f.generate(4, timeout_s=timeout_s))
            await fails(lip.InvalidArgument, f.forward([1], timeout_s=timeout_s))
        await unchanged(f)


async def processes_that_are_none():
    me = await lip.getpid()
    await fails(lip.NoSuchProcess, lip.kill(10**9))
    await fails(lip.InvalidArgument, lip.kill(me, "HUP"))
    await fails(lip.NoChild, lip.transport.call("wait", calls.Wait(10**9)))
    await fails(lip.NoChild, lip.transport.call("wait", calls.Wait()))
    await fails(lip.BadProgram, lip.spawn("def main(:"))
    await fails(lip.BadProgram, lip.spawn("x = 1"))
    await fails(lip.BadProgram, lip.spawn("def main(a): ...", b=1))
    await fails(lip.InvalidArgument, lip.transport.call("spawn", calls.Spawn("", entry="not a name")))
    await fails(lip.InvalidArgument, lip.transport.call("spawn", calls.Spawn("", args="[]")))
    await fails(lip.NotOwner, lip.transport.call("attach", calls.Attach(me)))


async def world_calls_out_of_range():
    for seconds in (-1.0, math.nan, math.inf):
        await fails(lip.InvalidArgument, lip.sleep(seconds))
    for count in (-1, 10**9):
        await fails(lip.InvalidArgument, lip.transport.call("random", calls.Random(count)))
    await fails(lip.InvalidArgument, lip.render_chat([]))
    await fails(lip.InvalidArgument, lip.transport.call("render_chat", calls.RenderChat("{")))
    try:
        lip.emit({1, 2})
    except lip.InvalidArgument:
        return
    raise AssertionError("a set was emitted")


async def a_forward_that_times_out_leaves_the_file():
    async with lip.open(tokens=TOKENS) as f:
        try:
            await f.forward([44] * 1000, timeout_s=1e-9)
        except lip.TimedOut:
            await unchanged(f)
        else:
            assert (await f.stat()).length == 1040  # it was done before anybody looked
