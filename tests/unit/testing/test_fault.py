"""Faults strike where they were told to, and a run with faults repeats."""

import pytest

from vllm_symphony import lip
from vllm_symphony.testing import Machine


async def forwards(n: int = 6) -> list[str]:
    """What became of n forwards."""
    said = []
    async with lip.open(text="x") as file:
        for _ in range(n):
            try:
                await file.forward("y")
                said.append("ok")
            except lip.SymphonyError as e:
                said.append(e.reason)
    return said


def full() -> lip.OutOfPages:
    return lip.OutOfPages("no page is free")


def test_the_nth_call_fails_and_does_nothing(machine):
    fault = machine.fail("forward", full(), nth=3, times=2)

    run = machine.start(forwards)
    machine.run()

    assert run.value == ["ok", "ok", "ENOSPC", "ENOSPC", "ok", "ok"]
    assert (fault.num_struck, fault.num_seen) == (2, 6)
    assert [c.result for c in machine.calls(run, "forward")] == run.value


def test_a_fault_may_be_meant_for_one_program(machine):
    spared, struck = machine.start(forwards, 2), machine.start(forwards, 2)
    machine.fail("forward", full(), times=None, run=struck)

    machine.run()

    assert spared.value == ["ok", "ok"] and struck.value == ["ENOSPC", "ENOSPC"]


def test_faults_stack_and_each_counts_for_itself(machine):
    machine.fail("forward", full(), nth=2)
    machine.fail("forward", lip.TimedOut("too slow"), nth=4)
    machine.slow(3.0)

    run = machine.start(forwards)
    machine.run()

    assert run.value == ["ok", "ENOSPC", "ok", "ETIMEDOUT", "ok", "ok"]


def test_a_program_is_killed_in_its_nth_call(machine):
    run = machine.start(forwards)
    fault = machine.kill_at("forward", nth=4)

    machine.run()

    assert run.status.code == 137 and run.status.reason == "signal"
    assert [c.result for c in machine.calls(run, "forward")][:3] == ["ok"] * 3
    assert fault.num_seen == 4


@pytest.mark.parametrize("nth", range(1, 11))
def test_whatever_call_a_program_is_killed_in_it_leaves_nothing(machine, nth):
    run = machine.start(forwards)
    fault = machine.kill_at(nth=nth)

    machine.run()

    assert run.status.code == (137 if fault.num_struck else 0)


def test_slow_steps_take_so_much_longer():
    with Machine(step_s=1.0) as m:
        m.slow(10.0, nth=2, times=1)
        m.start(forwards, 3)
        m.run()

        assert m.now_s == 12


def test_chance_repeats_from_the_seed():
    def play(seed: int) -> list[str]:
        with Machine(seed=seed) as m:
            m.fail("forward", full(), times=None, chance=0.5)
            run = m.start(forwards, 30)
            m.run()
            return run.value

    assert play(1) == play(1) != play(2)
    assert set(play(1)) == {"ok", "ENOSPC"}
