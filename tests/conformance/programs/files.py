"""Calls on files that never wait for the model."""

from vllm_symphony import lip

TOKENS = list(range(40, 90))


async def fails(error, call):
    """The call raises this error; gives it back."""
    try:
        await call
    except error as e:
        return e
    raise AssertionError(f"no {error.__name__} was raised")


async def an_anonymous_file_holds_its_tokens():
    async with lip.open(tokens=TOKENS) as f:
        assert f.length == len(TOKENS) and f.path is None
        assert await f.read() == TOKENS
        assert await f.read(10, 5) == TOKENS[10:15]
        assert await f.read(48, 100) == TOKENS[48:] and await f.read(1000) == []
        stat = await f.stat()
        assert (stat.length, stat.path, stat.nlink, stat.num_open, stat.busy) == (len(TOKENS), None, 0, 1, False)


async def an_empty_file_grows_by_append():
    async with lip.open() as f:
        assert f.length == 0
        assert await f.append(TOKENS) == 50
        assert await f.append([]) == 50
        assert await f.append(7, at=50) == 51
        assert await f.read() == [*TOKENS, 7]


async def a_named_file_is_found_under_its_name_until_unlinked():
    async with lip.open("/c-a", tokens=TOKENS, exclusive=True) as f:
        assert [s.path for s in await lip.ls("/c-")] == ["/c-a"]
        async with lip.open("/c-a") as again:
            assert again.ino == f.ino and again.length == 50
            await fails(lip.BadFile, again.append([1]))
        assert (await lip.stat("/c-a")).nlink == 1
    assert (await lip.stat("/c-a")).num_open == 0
    await lip.unlink("/c-a")
    assert await lip.ls("/c-") == []
    await fails(lip.NoSuchFile, lip.stat("/c-a"))


async def an_unlinked_file_lives_while_it_is_open():
    async with lip.open("/c-a", tokens=TOKENS) as f:
        await lip.unlink("/c-a")
        assert await f.read() == TOKENS
        await f.link("/c-b")
    async with lip.open("/c-b") as f:
        assert await f.read() == TOKENS
    await lip.unlink("/c-b")


async def open_flags_mean_what_posix_says():
    await fails(lip.NoSuchFile, lip.open("/c-none"))
    async with lip.open("/c-a", create=True) as f:
        await f.append(TOKENS)
    async with lip.open("/c-a", create=True) as f:
        assert f.length == 50
    await fails(lip.FileExists, lip.open("/c-a", exclusive=True))
    await fails(lip.FileExists, lip.open("/c-a", tokens=TOKENS))
    async with lip.open("/c-a", truncate=True) as f:
        assert f.length == 0
    await lip.unlink("/c-a")


async def rename_moves_a_name_over_another():
    async with lip.open("/c-a", tokens=[50, 51]), lip.open("/c-b", tokens=[60]) as victim:
        await lip.rename("/c-a", "/c-b")
        assert [s.path for s in await lip.ls("/c-")] == ["/c-b"]
        assert await victim.read() == [60]
        assert (await victim.stat()).nlink == 0
    async with lip.open("/c-b") as moved:
        assert await moved.read() == [50, 51]
    await lip.unlink("/c-b")
    await fails(lip.NoSuchFile, lip.rename("/c-b", "/c-c"))


async def two_names_are_one_file():
    async with lip.open("/c-a", tokens=[50]) as f:
        await f.link("/c-b")
        await fails(lip.FileExists, f.link("/c-b"))
        await f.append(51)
        assert (await lip.stat("/c-b")).length == 2
        assert {s.ino for s in await lip.ls("/c-")} == {f.ino}
    await lip.unlink("/c-a")
    async with lip.open("/c-b") as f:
        assert await f.read() == [50, 51]
    await lip.unlink("/c-b")


async def a_fork_is_a_file_of_its_own():
    async with lip.open(tokens=TOKENS) as f, f.fork() as fork:
        assert fork.ino != f.ino and await fork.read() == TOKENS
        await fork.append(3)
        await f.truncate(10)
        assert await fork.read() == [*TOKENS, 3]
        assert await f.read() == TOKENS[:10]


async def truncate_cuts_and_positions_follow():
    async with lip.open(tokens=TOKENS) as f:
        await f.truncate(20, at=50)
        await f.append([1, 2], start=30)
        await f.append(3)
        result = await lip.transport.call("read", read(f, 18))
        assert result.positions == packed([18, 19, 30, 31, 32])
        await f.truncate(21)
        assert await f.append(4) == 22
        result = await lip.transport.call("read", read(f, 19))
        assert result.positions == packed([19, 30, 31])
        await f.truncate(0)
        assert await f.read() == []


async def a_second_fd_sees_the_same_file():
    from vllm_symphony.abi.calls import Append, FdArgs

    async with lip.open(tokens=TOKENS) as f:
        second = await lip.transport.call("dup", FdArgs(f.fd))
        assert (second.ino, second.length) == (f.ino, 50) and second.fd != f.fd
        await lip.transport.call("append", Append(second.fd, packed([9])))
        assert (await f.stat()).length == 51 and (await f.stat()).num_open == 2
        await lip.transport.call("close", FdArgs(second.fd))
        assert (await f.stat()).num_open == 1


async def files_that_are_left_open_end_with_the_process():
    for _ in range(3):
        f = await lip.open(tokens=TOKENS)
        await f.forward()
    raise SystemExit(0)


def read(f, offset):
    from vllm_symphony.abi.calls import Read

    return Read(f.fd, None, offset, None)


def packed(values):
    from vllm_symphony.abi.types import pack_tokens

    return pack_tokens(values)
