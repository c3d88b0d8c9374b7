"""Standard input, from a pipe at file descriptor 0 and from whoever else gives bytes."""

import asyncio
import os
from collections.abc import Callable, Iterator

import pytest

from tests.unit.lip.toy import ToyTransport
from vllm_symphony import lip
from vllm_symphony.lip import transport


@pytest.fixture
def stdin() -> Iterator[Callable[[bytes], None]]:
    """File descriptor 0 is a pipe: write to it; nothing more to write closes it."""
    before = os.dup(0)
    ours, theirs = os.pipe()
    os.dup2(ours, 0)
    os.close(ours)
    is_open = True

    def write(data: bytes) -> None:
        nonlocal is_open
        if data:
            os.write(theirs, data)
        else:
            os.close(theirs)
            is_open = False

    yield write
    if is_open:
        os.close(theirs)
    os.dup2(before, 0)
    os.close(before)


def run(main: Callable[[], object], read_input: transport.ReadInput | None = None) -> object:
    async def program():
        transport.bind(ToyTransport(), read_input=read_input)
        return await main()

    return asyncio.run(program())


def test_lines_come_as_they_are_fed(stdin):
    async def main():
        waiting = asyncio.ensure_future(lip.stdin.readline())
        await asyncio.sleep(0)
        stdin(b"first li")
        assert not waiting.done()
        stdin(b"ne\nsecond\nla")
        found = [await waiting, await lip.stdin.readline()]
        stdin("st, ü".encode())
        stdin(b"")
        return [*found, await lip.stdin.readline(), await lip.stdin.readline()]

    assert run(main) == ["first line", "second", "last, ü", None]


def test_all_that_is_left_is_read_at_once(stdin):
    stdin(b"a\nb\n")
    stdin(b"c")
    stdin(b"")

    async def main():
        return [await lip.stdin.readline(), await lip.stdin.read(), await lip.stdin.read()]

    assert run(main) == ["a", "b\nc", ""]


def test_other_threads_run_while_one_waits_for_input(stdin):
    async def main():
        async with lip.group() as g:
            lines = g.start(lip.stdin.readline)
            g.start(feed)
        return lines.result

    async def feed():
        stdin(b"from beside\n")

    assert run(main) == "from beside"


def test_a_reader_that_is_cancelled_loses_nothing(stdin):
    async def main():
        waiting = asyncio.ensure_future(lip.stdin.readline())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        stdin(b"still here\n")
        return await lip.stdin.readline()

    assert run(main) == "still here"


def test_an_empty_input_has_ended(stdin):
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    async def main():
        return [line async for line in lip.stdin]

    assert run(main) == []


def test_input_may_come_from_elsewhere():
    parts = iter([b"one\ntw", b"o\n", b""])

    async def read() -> bytes:
        return next(parts)

    async def main():
        return [line async for line in lip.stdin]

    assert run(main, read) == ["one", "two"]
