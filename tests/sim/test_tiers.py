"""A working set of four times the cache on the simulator: with tiers below it all goes on, and without room it is ENOSPC."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vllm_symphony import lip
from vllm_symphony.abi.types import Span
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.testing import Machine

PAGE = 16
PAGE_BYTES = 8 * PAGE


async def extract_when_there_is_room(f: lip.File, spans: list[Span]) -> lip.File:
    """Several edits at once may hold what the others need: they are told to try again."""
    while True:
        try:
            return await f.extract(spans)
        except lip.OutOfPages as error:
            await lip.sleep(error.retry_after_s + await lip.random())


async def edited_in_turns(n: int, rounds: int) -> list[int]:
    """Six edited pages, asked now and then."""
    tokens = [40 + (n * 7 + i) % 60 for i in range(6 * PAGE + 8)]
    async with lip.open(tokens=tokens) as f:
        await f.forward()
        async with await extract_when_there_is_room(f, [Span(0, 40), Span(48, len(tokens))]) as cut:
            await f.close()
            said = []
            for _ in range(rounds):
                said.append((await cut.forward()).top1)
                await lip.sleep(1.5)
            return said


async def pinned_in_turns(n: int, rounds: int) -> list[int]:
    async with lip.open(tokens=[50 + n, *range(60, 60 + PAGE)]) as f:
        await f.forward()
        await f.pin()
        said = []
        for _ in range(rounds):
            said.append((await f.forward()).top1)
            await lip.sleep(1.0)
        return said


def run(num_pages: int, tiers: TierLimits, programs: int = 8) -> tuple[list[list[int]], dict[str, float]]:
    with Machine(num_pages=num_pages, page_size=PAGE, tiers=tiers) as m:
        runs = [m.start(edited_in_turns, i, 4) for i in range(programs)] + [m.start(pinned_in_turns, i, 4) for i in range(2)]
        m.run()
        m.check()
        return [r.value for r in runs], m.core.counters()


@pytest.mark.parametrize(("host_pages", "has_disk"), [(100, False), (0, True), (10, True)])
def test_a_working_set_of_four_times_the_cache_with_pinned_and_edited_files_goes_on(tmp_path, host_pages, has_disk):
    wanted, _ = run(1000, TierLimits())

    said, counters = run(16, TierLimits(host_pages * PAGE_BYTES, 1 << 20, tmp_path if has_disk else None))

    assert said == wanted
    assert counters["pages_loaded"] > 16 and counters["out_of_room"] == 0, counters
    assert list(tmp_path.iterdir()) == []  # all files are closed: nothing of them is left on disk


def test_without_room_below_it_is_enospc_and_the_others_go_on():
    async def main() -> tuple[list[str], list[int]]:
        cuts, errors = [], []
        for i in range(4):
            async with lip.open(tokens=[40 + (i + j) % 60 for j in range(6 * PAGE)]) as f:
                try:
                    cuts.append(await f.extract([Span(0, 40), Span(48, 6 * PAGE)]))
                except lip.OutOfPages as error:
                    errors.append(error.reason)
        lengths = [cut.length for cut in cuts]
        for cut in cuts:
            await cut.forward()
            await cut.close()
        return errors, lengths

    with Machine(num_pages=16, page_size=PAGE) as m:
        program = m.start(main)
        m.run()
        m.check()
        errors, lengths = program.value

    assert errors == ["ENOSPC"] * len(errors) and errors and lengths
    assert lengths == [88] * len(lengths)


def test_pages_of_an_exact_file_that_are_short_of_room_below_are_computed_again(tmp_path: Path):
    async def main() -> list[int]:
        files = [lip.open(tokens=[40 + i, *range(50, 50 + 4 * PAGE)]) for i in range(8)]
        opened = [await f for f in files]
        first = [(await f.forward()).top1 for f in opened]
        await lip.sleep(2)
        again = [(await f.forward()).top1 for f in opened]
        for f in opened:
            await f.close()
        assert first == again
        return first

    with Machine(num_pages=12, page_size=PAGE, tiers=TierLimits(7 * PAGE_BYTES)) as m:
        program = m.start(main)
        m.run()
        m.check()
        assert program.value
        assert m.core.counters()["pages_demoted"]


def test_a_younger_job_loads_no_pages_while_an_older_one_waits_for_room():
    async def main() -> None:
        idle = await lip.open(tokens=range(40, 40 + 8 * PAGE - 1))
        older = await lip.open(tokens=[41, *range(40, 40 + 12 * PAGE - 2)])
        younger = await lip.open(tokens=range(42, 42 + 4 * PAGE - 1))
        await younger.forward()
        await younger.advise("dontneed", wait=True)
        await idle.forward()  # older than both, and just used: it gives its 8 of 16 pages when it is stale, no earlier
        await asyncio.gather(older.forward(), younger.forward(42))

    with Machine(num_pages=16, page_size=PAGE, tiers=TierLimits(100 * PAGE_BYTES)) as m:
        program = m.start(main)
        m.run()
        m.check()
        counters = m.core.counters()

    assert program.error is None
    assert counters["pages_loaded"] <= 8 and counters["out_of_room"] == 0, counters


def test_an_edit_waits_for_pages_that_an_idle_file_gives_when_it_is_stale():
    async def main() -> int:
        idle = await lip.open(tokens=range(40, 40 + 7 * PAGE - 1))
        source = await lip.open(tokens=range(41, 41 + 6 * PAGE - 1))
        await source.forward()
        await idle.forward()
        cut = await source.extract([Span(0, 40), Span(48, 6 * PAGE - 1)])
        return cut.length

    with Machine(num_pages=16, page_size=PAGE) as m:
        m.core.victims.choose("lru", {})
        began = m.now_s
        program = m.start(main)
        m.run()
        m.check()

        assert program.value == 6 * PAGE - 9
        assert m.now_s - began > 1.0  # the idle file is older, and gave nothing before
