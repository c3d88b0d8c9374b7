"""Policies, weights and caps are changed while hundreds of calls wait: each of them ends, with what it would have said anyway."""

from __future__ import annotations

import itertools

import pytest

from vllm_symphony import lip
from vllm_symphony.abi.calls import NoArgs, Setsched, Setweight
from vllm_symphony.engine.sim.core import Cost
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.testing import Machine

NUM, ROWS = 300, 8
BUSY_S = 1.0  # for so long many wait, whoever decides
COST = Cost(step_s=0.01, row_s=0.0, token_s=0.0, max_rows=ROWS)
SERVED = [(level, name) for level, known in catalogue.LEVELS.items() for name in known if name not in catalogue.SIMULATED]


async def asker(number: int) -> list[int]:
    """Two calls of a length that is its own, over a prompt that is its own."""
    async with lip.open(tokens=[40 + number % 60, 41 + number // 60] * (1 + number % 5)) as f:
        first = await f.generate(max_tokens=1 + number % 7, ignore_eos=True)
        second = await f.generate(max_tokens=1 + number % 3, ignore_eos=True)
        return [*first.tokens, *second.tokens]


def answers(m: Machine, changes: list[object]) -> list[list[int]]:
    """What all say, when this is asked of the kernel one by one while they wait."""
    runs = [m.start(asker, number) for number in range(NUM)]
    m.run_until_blocked()
    for change in changes:
        m.call("setsched" if isinstance(change, Setsched) else "setweight", change)
        m.check()
        assert m.call("getsched", NoArgs()).num_queued > ROWS, "the change came while many waited"
        m.advance(BUSY_S / len(changes))
    m.run()
    m.check()
    return [run.value for run in runs]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    with Machine(cost=COST) as m:
        return answers(m, [])


def test_no_call_is_lost_when_each_policy_takes_over_from_each_other(expected: list[list[int]]):
    processes = [name for level, name in SERVED if level == catalogue.PROCESS]
    pairs = [name for pair in itertools.permutations(processes, 2) for name in pair]

    with Machine(cost=COST) as m:
        assert answers(m, [Setsched("process", name) for name in pairs]) == expected
        assert m.call("getsched", NoArgs()).num_queued == 0


@pytest.mark.parametrize("level", [level for level in catalogue.LEVELS if level != catalogue.PROCESS])
def test_no_call_is_lost_when_the_other_levels_change(level: str, expected: list[list[int]]):
    names = [name for of, name in SERVED if of == level] * 4

    with Machine(cost=COST) as m:
        assert answers(m, [Setsched(level, name) for name in names]) == expected


def test_no_call_is_lost_when_weights_and_caps_change(expected: list[list[int]]):
    changes = [Setweight("ann", weight, cap) for weight, cap in ((2.0, 1), (0.5, ROWS), (1.0, 2), (3.0, -1)) * 4]

    with Machine(cost=COST) as m:
        assert answers(m, changes) == expected


def test_a_cap_that_is_lowered_lets_those_that_compute_end_and_then_holds():
    with Machine(cost=COST) as m:
        for number in range(NUM):
            m.start(asker, number)
        m.advance(0.05)
        assert m.call("getsched", NoArgs()).num_running == ROWS

        m.call("setweight", Setweight("ann", cap=2))
        m.advance(0.5)

        (ann,) = m.call("getsched", NoArgs()).principals
        assert (ann.num_running, ann.cap) == (2, 2)
        m.call("setweight", Setweight("ann", cap=-1))
        m.run()
