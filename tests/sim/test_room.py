"""More programs than the cache holds: all end, with what they would say alone, or with ENOSPC and their tokens kept."""

from __future__ import annotations

import pytest

from vllm_symphony import lip
from vllm_symphony.testing import Machine


async def write(n: int, num_tokens: int) -> list[int]:
    async with lip.open(tokens=[60 + n, 61, 62]) as f:
        return (await f.generate(num_tokens, ignore_eos=True, text=False)).tokens


async def step_by_step(n: int, num_tokens: int) -> list[int]:
    async with lip.open(tokens=[60 + n, 61, 62]) as f:
        dist = await f.forward()
        tokens = [dist.top1]
        while len(tokens) < num_tokens:
            dist = await f.forward(tokens[-1])
            tokens.append(dist.top1)
        return tokens


@pytest.mark.parametrize("program", [write, step_by_step])
def test_16_programs_that_each_need_60_percent_of_the_cache_all_finish(program):
    with Machine(num_pages=1000) as alone:
        wanted = [alone.start(program, i, 90) for i in range(16)]
        alone.run()
    with Machine(num_pages=10, page_size=16) as m:
        runs = [m.start(program, i, 90) for i in range(16)]
        m.run()
        m.check()

        assert [r.value for r in runs] == [r.value for r in wanted]
        counters = m.core.counters()

    assert counters["parked"] + counters["evicted"] > 100 and counters["out_of_room"] == 0, counters  # it was short indeed


def test_a_file_that_outgrows_the_cache_ends_with_enospc_and_keeps_its_tokens():
    async def main() -> tuple[str, int, int]:
        async with lip.open(tokens=[60, 61, 62]) as f:
            try:
                await f.generate(400, ignore_eos=True)
            except lip.OutOfPages as e:
                return e.reason, f.length, len(await f.read())
        raise AssertionError("it fitted")

    with Machine(num_pages=4, page_size=16) as m:
        run = m.start(main)
        m.run()

    reason, length, num_read = run.value
    assert reason == "ENOSPC" and 60 <= length == num_read <= 65


def test_a_fork_that_fills_the_cache_with_its_idle_source_needs_no_page_more():
    async def main() -> tuple[int, int]:
        async with lip.open(tokens=range(60, 82)) as f:  # 22 tokens: 6 pages of 4, all there are
            asked = await f.forward()
            async with f.fork() as fork:
                again = await fork.forward()  # its last page is shared until the source gives its own up
                return asked.top1, again.top1

    with Machine(num_pages=6, page_size=4) as m:
        run = m.start(main)
        m.run()
        m.check()

        assert run.value[0] == run.value[1]
        assert m.core.counters()["out_of_room"] == 0


def test_a_run_repeats_from_its_seed_and_another_seed_differs():
    async def main() -> list[float]:
        async with lip.open(text="seed") as f:
            await lip.sleep(await lip.random())
            return [*(await f.generate(20, temperature=1.0)).tokens, await lip.now()]

    def play(seed: int) -> list[list[float]]:
        with Machine(seed=seed, num_pages=12) as m:
            runs = [m.start(main) for _ in range(20)]
            m.run()
            return [r.value for r in runs]

    assert play(1) == play(1) != play(2)


def test_hours_of_virtual_time_cost_nothing(machine):
    machine.start(lip.sleep, 86_400)

    machine.run()

    assert machine.now_s == 86_400


def test_programs_that_wait_for_each_other_for_ever_are_named():
    from vllm_symphony.abi.calls import Wait

    async def main() -> None:
        await lip.spawn(REST)
        await lip.transport.call("wait", Wait())

    with Machine() as m:
        m.start(main)

        with pytest.raises(RuntimeError, match="nothing can happen any more"):
            m.run()

    assert m.kernel.idle()


REST = "import asyncio\nasync def main(): await asyncio.Event().wait()"
