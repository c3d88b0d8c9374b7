"""Changes of files, as a program sees them."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.lip.toy import ToyTransport, play
from vllm_symphony import lip
from vllm_symphony.abi import calls as c
from vllm_symphony.abi.types import FileEvent


def event(seq: int, kind: str = "modify") -> FileEvent:
    return FileEvent(seq, 0, kind, "/kb/a", 5)


class Watched(ToyTransport):
    """A watch gives these parts, and then waits until it is cancelled, or ends with `error`."""

    def __init__(self, *parts: c.WatchPart, error: lip.SymphonyError | None = None) -> None:
        super().__init__()
        self.parts, self.error = parts, error

    async def _answer(self, op: str, args: Any, on_part: Callable[[object], None] | None) -> Any:
        if op != "watch":
            return await super()._answer(op, args, on_part)
        for part in self.parts:
            await asyncio.sleep(0)
            on_part(part)
        if self.error:
            raise self.error
        await asyncio.Event().wait()


def test_events_come_in_order_and_what_was_lost_is_counted():
    toy = Watched(c.WatchPart(()), c.WatchPart((event(1), event(2))), c.WatchPart((event(7),), missing=4))

    async def main():
        async with lip.watch("/kb", recursive=False) as changes:
            seen = [(await anext(changes)).seq for _ in range(3)]
            return seen, changes.missing

    assert play(main, toy) == ([1, 2, 7], 4)
    assert toy.log[0][::2] == ("watch", c.Watch("/kb", False))
    assert toy.cancelled == ["watch"]


def test_a_watch_begins_with_its_block():
    toy = Watched()

    async def main():
        async with lip.watch():
            return toy.ops()

    assert play(main, toy) == ["watch"]


def test_a_loop_that_was_left_ends_the_watch():
    toy = Watched(c.WatchPart((event(1), event(2))))

    async def main():
        async for change in lip.watch("/kb"):
            assert change == event(1)
            break
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    play(main, toy)

    assert toy.cancelled == ["watch"]


def test_a_path_that_cannot_be_watched_is_an_error():
    async def main():
        async for _ in lip.watch("/none"):
            pass

    with pytest.raises(lip.NoSuchFile):
        play(main, Watched(error=lip.NoSuchFile("no such file: /none")))
