"""Memory policies on the whole machine, under pressure: whatever the policy, all end, nothing thrashes, and pins hold.

Agents hold a file each while tools of three kinds of length work for them; together their files are 0.5 to 4 times the cache. Seeds
are in the names of the tests.
"""

from __future__ import annotations

import random

import pytest

from vllm_symphony import lip
from vllm_symphony.engine.sim.core import Cost
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.testing import Machine
from vllm_symphony.testing.run import Run

PAGE = 16
PAGE_BYTES = 8 * PAGE
TOOLS = {"calc": 0.001, "web": 0.3, "person": 6.0}
COST = Cost(moved_bytes_s=5e6)
POLICIES = ("lru", "infercept", "ttl")


async def agent(prompt: int, turns: list[tuple[str, int]]) -> int:
    """Its file is as large as in the trace, whatever was said."""
    async with lip.open(tokens=[40 + (prompt + i) % 60 for i in range(prompt)]) as f:
        for tool, num_tokens in turns:
            await f.generate(max_tokens=num_tokens, ignore_eos=True)
            await lip.call_tool(tool)
        return len(f)


async def keeper(num_tokens: int, rounds: int) -> int:
    """Its file is pinned: it asks now and then whether all of it is on the device."""
    async with lip.open(tokens=[41 + i % 50 for i in range(num_tokens)]) as f:
        await f.forward()
        await f.pin()
        here = 0
        for _ in range(rounds):
            await lip.sleep(0.5)
            here += (await f.stat()).device_pages >= num_tokens // PAGE
        return here


def trace(rng: random.Random, num: int) -> list[tuple[int, list[tuple[str, int]]]]:
    return [
        (rng.randrange(20, 200), [(rng.choice(list(TOOLS)), rng.randrange(4, 30)) for _ in range(rng.randrange(2, 7))])
        for _ in range(num)
    ]


def machine(policy: str, num_pages: int, host_pages: int) -> Machine:
    m = Machine(num_pages=num_pages, page_size=PAGE, cost=COST, tiers=TierLimits(host_pages * PAGE_BYTES))
    for name, takes_s in TOOLS.items():
        m.tool(name, "done", takes_s=takes_s)
    m.core.victims.choose(policy, {})
    return m


def start(m: Machine, programs: list[tuple[int, list[tuple[str, int]]]]) -> list[Run]:
    return [m.start(agent, prompt, turns) for prompt, turns in programs]


@pytest.mark.parametrize("pressure", [0.5, 1, 2, 4, 8, 16])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_all_end_at_any_pressure_and_moves_are_bounded_by_calls(policy, pressure, seed):
    programs = trace(random.Random(seed), 12)
    lengths = [prompt + sum(n for _, n in turns) for prompt, turns in programs]
    num_calls = sum(len(turns) for _, turns in programs)
    num_pages = max(max(lengths) // PAGE + 2, int(sum(lengths) / PAGE / pressure))

    with machine(policy, num_pages, host_pages=2 * sum(lengths) // PAGE) as m:
        runs = start(m, programs)
        m.run()
        m.check()
        counters = m.core.counters()
        moves = m.core.tiers.carrier.num_moves

    assert [r.value for r in runs] == lengths
    assert counters["out_of_room"] == 0
    # a file leaves once and comes back once for a call, and once more for a fetch ahead of it
    assert moves <= 2 * num_calls + 2 * m.core.victims.num_fetched
    assert m.core.victims.num_fetched <= 2 * num_calls
    if pressure < 1:
        assert moves == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_without_room_below_files_are_computed_again_and_all_end(policy):
    programs = trace(random.Random(7), 12)
    lengths = [prompt + sum(n for _, n in turns) for prompt, turns in programs]

    with machine(policy, sum(lengths) // PAGE // 3, host_pages=0) as m:
        runs = start(m, programs)
        m.run()
        m.check()

        assert [r.value for r in runs] == lengths
        assert m.core.counters()["out_of_room"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_pinned_files_stay_whatever_the_policy(policy):
    programs = trace(random.Random(3), 10)
    lengths = [prompt + sum(n for _, n in turns) for prompt, turns in programs]

    with machine(policy, sum(lengths) // PAGE // 3 + 8, host_pages=1000) as m:
        kept = m.start(keeper, 8 * PAGE, 12)
        start(m, programs)
        m.run()
        m.check()

    assert kept.value == 12


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_repeated_from_its_seed(policy):
    def once() -> tuple[float, dict[str, float]]:
        programs = trace(random.Random(5), 10)
        with machine(policy, 40, host_pages=200) as m:
            start(m, programs)
            m.run()
            return m.now_s, m.core.counters()

    assert once() == once()


def test_tools_that_never_return_and_killed_programs_leave_nothing_behind():
    programs = trace(random.Random(9), 10)
    with machine("infercept", 40, host_pages=200) as m:
        m.tool("person", "never", takes_s=1e6)
        runs = start(m, programs)
        m.run(until_s=60.0)
        for run in runs:
            m.kill(run)
        m.run()
        m.check_idle()

        assert m.core.fetches.due_s is None or m.core.fetches.due_s > m.now_s
