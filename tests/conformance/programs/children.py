"""What a child is given, what it may use, how it is held, and how it ends."""

from vllm_symphony import lip


async def tokens_of_a_tree_are_counted_together():
    """Two children share what is left of their parent's."""
    await lip.setrlimit(lip.Limits(tokens=60))
    children = [await lip.spawn(write, 200) for _ in range(2)]
    ends = [await child.status() for child in children]
    assert [(end.code, end.reason) for end in ends] == [(124, "limit")] * 2, ends
    assert all(end.error.startswith("tokens: ") and end.error.endswith(" of 60 used") for end in ends)
    now = await lip.getrlimit()
    assert now.used.tokens == (await lip.getrusage()).children.tokens_in + (await lip.getrusage()).children.tokens_out
    assert 60 <= now.used.tokens <= 66, now  # a step or two of each until the device has heard
    assert now.limits.tokens == now.used.tokens, now
    await fails(lip.QuotaExceeded, lip.open(tokens=[1]))


async def a_childs_limits_are_its_own_and_what_is_above():
    child = await lip.spawn(look, limits=lip.Limits(tokens=50, depth=0, wall_s=100))
    limits, used = await child.wait()
    assert limits["tokens"] == 50 and limits["depth"] == 0 and used["tokens"] == 3 and 0 < limits["wall_s"] <= 100


async def the_end_of_its_time_interrupts_what_waits():
    child = await lip.spawn(sleeps, limits=lip.Limits(wall_s=0.2))
    end = await child.status()
    assert (end.code, end.reason) == (124, "limit") and end.error.startswith("wall_s: "), end


async def a_child_may_keep_what_it_has_when_nothing_is_left():
    child = await lip.spawn(keeps, limits=lip.Limits(tokens=3))
    assert await child.wait() == ["tokens", 3]


async def too_many_and_too_deep_is_refused_and_no_more():
    child = await lip.spawn(has_no_children, limits=lip.Limits(depth=0))
    assert await child.wait() == "depth"
    child = await lip.spawn(has_no_children, limits=lip.Limits(processes=1))
    assert await child.wait() == "processes"


async def processor_time_ends_a_program_that_spins():
    if not (await lip.getrlimit()).limits.cpu_s:
        return  # a machine of one interpreter, in which nobody may spin
    child = await lip.spawn(spins, limits=lip.Limits(cpu_s=0.3))
    end = await child.status()
    assert (end.code, end.reason) == (124, "limit") and end.error.startswith("cpu_s: "), end


async def a_stopped_child_goes_no_further():
    child = await lip.spawn(answers, stdin=True)
    await child.feed("one\n")
    while not (await child.usage()).usage.tokens_in:
        await lip.sleep(0.01)
    await child.stop()
    assert (await child.stat()).state == "stopped"
    await child.feed("two\n", eof=True)
    await lip.sleep(0.1)
    before = (await child.usage()).usage.tokens_in
    await lip.sleep(0.1)
    assert (await child.usage()).usage.tokens_in == before
    await child.cont()
    assert await child.wait() == ["one", "two"]


async def a_stopped_child_can_be_ended():
    child = await lip.spawn(sleeps)
    await child.stop()
    await child.kill("KILL")
    assert (await child.status()).reason == "signal"


async def input_arrives_in_order_and_ends():
    child = await lip.spawn(reads, stdin=True)
    for part in ("one\ntw", "o\n", "th"):
        await child.feed(part)
    await child.feed("ree", eof=True)
    assert await child.wait() == ["one", "two", "three"]
    assert await (await lip.spawn(reads)).wait() == [], "without, there is none"
    await fails(lip.NoSuchProcess, child.feed("too late"))
    deaf = await lip.spawn(sleeps)
    await fails(lip.BrokenPipe, deaf.feed("x"))
    await deaf.kill()
    await deaf.status()


async def an_open_file_is_handed_on():
    async with lip.open(tokens=[1, 2, 3]) as notes:
        child = await lip.spawn(adds, fds={"notes": notes})
        assert await child.wait() == [4, ["notes"]]
        assert (await notes.stat()).length == 4


async def usage_is_told_by_thread_and_of_children():
    async with lip.group() as g:
        thread = g.start(writes_and_looks, 5)
    names = {use["name"]: use["usage"]["tokens_in"] for use in thread.result}
    assert names["writes_and_looks"] == 5 and names["main"] == 0
    await (await lip.spawn(adds_nothing)).wait()
    used = await lip.getrusage()
    assert used.usage.tokens_in == 5 and used.children.tokens_in == 2


# ---- children


async def write(tokens):
    async with lip.open(tokens=[1]) as file:
        while file.length < tokens:
            await file.generate(8, ignore_eos=True, temperature=1.0, seed=7)


async def look():
    from dataclasses import asdict

    async with lip.open(tokens=[1, 2, 3]):
        now = await lip.getrlimit()
    return [asdict(now.limits), asdict(now.used)]


async def sleeps():
    await lip.sleep(600)


async def keeps():
    async with lip.open(tokens=[1, 2, 3]) as file:
        try:
            await file.append([4])
        except lip.QuotaExceeded as error:
            return [error.values["resource"], file.length]


async def has_no_children():
    try:
        await lip.spawn(sleeps)
    except lip.QuotaExceeded as error:
        return error.values["resource"]


async def spins():
    while True:
        pass


async def answers():
    heard = []
    async with lip.open(tokens=[1]) as file:
        async for line in lip.stdin:
            heard.append(line)
            await file.append([len(heard)])
    return heard


async def reads():
    return [line async for line in lip.stdin]


async def adds():
    files = await lip.inherited()
    await files["notes"].append([9])
    return [files["notes"].length, sorted(files)]


async def adds_nothing():
    async with lip.open(tokens=[1, 2]):
        pass


async def writes_and_looks(tokens):
    from dataclasses import asdict

    async with lip.open(tokens=list(range(1, tokens + 1))):
        return [asdict(thread) for thread in (await lip.getrusage()).threads]


async def fails(error, awaitable):
    try:
        await awaitable
    except error:
        return
    raise AssertionError(f"no {error.__name__}")
