"""Scheduling on the whole machine: random traces with kills under every policy, programs that stop or lie, floods, and crowds.

Agents of two principals hold a file each and take turns between the device and tools; together their files are 0.5 to 16 times the
cache. Whatever happens, nobody waits for ever, the device never idles while somebody could compute, and nothing is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.counts import count
from vllm_symphony import lip
from vllm_symphony.abi.manifest import MAX_PRIORITY
from vllm_symphony.abi.types import Signal
from vllm_symphony.engine.sim.core import Cost, SimCore
from vllm_symphony.engine.sim.job import SimJob
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.kernel.sched import memory
from vllm_symphony.kernel.sched.catalogue import POLICIES
from vllm_symphony.testing import Machine
from vllm_symphony.testing.run import Run

PAGE = 16
PAGE_BYTES = 8 * PAGE
TOOLS = {"calc": 0.001, "web": 0.3, "person": 6.0}
ROWS = 4
COST = Cost(max_rows=ROWS, moved_bytes_s=5e6)
MEMORY = ("lru", "infercept", "ttl")
every_policy = pytest.mark.parametrize("policy", POLICIES)
HOLD_S = COST.of(ROWS, 200)  # a hold is no longer than the step it would save
Turns = list[tuple[str, int]]


async def agent(prompt: int, turns: Turns) -> int:
    """Its file is as large as in the trace, whatever was said."""
    async with lip.open(tokens=[40 + (prompt + i) % 60 for i in range(prompt)]) as f:
        for tool, num_tokens in turns:
            await f.generate(max_tokens=num_tokens, ignore_eos=True)
            await lip.call_tool(tool)
        return len(f)


async def writer(num_tokens: int, times: int = 1) -> float:
    """Nothing but a long answer, again and again; when the last was there."""
    for _ in range(times):
        async with lip.open(tokens=[50] * 8) as f:
            await f.generate(max_tokens=num_tokens, ignore_eos=True)
    return await lip.monotonic()


async def crowd_of_writers(num: int, num_tokens: int, times: int) -> None:
    """One program with as many threads."""
    async with lip.group() as g:
        for _ in range(num):
            g.start(writer, num_tokens, times)


async def stepper(num_tokens: int) -> float:
    """Token by token; when the last was there."""
    async with lip.open(tokens=[50] * 8) as f:
        for _ in range(num_tokens):
            await f.forward([60])
    return await lip.monotonic()


def trace(rng: random.Random, num: int) -> list[tuple[int, Turns]]:
    return [
        (rng.randrange(20, 200), [(rng.choice(list(TOOLS)), rng.randrange(4, 30)) for _ in range(rng.randrange(2, 7))])
        for _ in range(num)
    ]


def machine(
    num_pages: int = 1000, policy: str = "justitia", memory_policy: str = memory.DEFAULT, cost: Cost = COST, seed: int = 0
) -> Machine:
    m = Machine(num_pages=num_pages, page_size=PAGE, cost=cost, tiers=TierLimits(200 * PAGE_BYTES), seed=seed)
    for name, takes_s in TOOLS.items():
        m.tool(name, "done", takes_s=takes_s)
    m.kernel.set_policy("process", policy)
    m.kernel.set_policy("memory", memory_policy)
    return m


def start(m: Machine, programs: list[tuple[int, Turns]]) -> list[Run]:
    """In turns of two principals."""
    runs = []
    for i, (prompt, turns) in enumerate(programs):
        with m.acting_as(("ann", "bob")[i % 2]):
            runs.append(m.start(agent, prompt, turns))
    return runs


def length(program: tuple[int, Turns]) -> int:
    prompt, turns = program
    return prompt + sum(n for _, n in turns)


def pages_for(programs: list[tuple[int, Turns]], pressure: float) -> int:
    """Of a cache that the files are so many times as large as; the largest fits."""
    lengths = [length(program) for program in programs]
    return max(max(lengths) // PAGE + 2, int(sum(lengths) / PAGE / pressure))


def assert_nothing_left(m: Machine) -> None:
    """No call, program, page, holder or thread that the scheduler knows."""
    m.check_idle()
    queue, core = m.core.former.queue, m.core
    queue.check()
    assert not queue.calls and not queue.num_running
    assert not any(m.kernel.processes[pid].has_ended for pid in queue.programs if pid in m.kernel.processes)
    assert core.pool.get_num_free_blocks() == core.table.num_pages - sum(len(f.blocks) for f in core.table.files.values())
    core.table.holders.check(core.table.files.values())
    core.residents.check()
    assert core.residents.num_threads == 0


@dataclass
class Idle:
    """What the device did not do although it could."""

    gaps_s: list[float] = field(default_factory=list)
    num_looks: int = 0


@contextmanager
def watched(m: Machine) -> Iterator[Idle]:
    """For how long the device does nothing while a call is there that has room."""
    core, idle, begin = m.core, Idle(), m.core.begin
    since_s: float | None = None

    def look() -> float | None:
        nonlocal since_s
        seconds = begin()
        idle.num_looks += 1
        if core.is_stepping:
            if since_s is not None:
                idle.gaps_s.append(core.clock() - since_s)
            since_s = None
        elif since_s is None and any(could_compute(core, job) for job in core.jobs.values()):
            since_s = core.clock()
        return seconds

    core.begin = look  # type: ignore[method-assign]
    yield idle
    del core.begin  # type: ignore[method-assign]


def could_compute(core: SimCore, job: SimJob) -> bool:
    """Its pages are here, and those that it needs are free."""
    if core.tiers.is_below(job.file, job.lowest):
        return False
    need = max(0, core.table.pages(job.computed + 1) - len(job.blocks)) if job.lent else core.pages_needed(job)
    return need <= core.pool.get_num_free_blocks()


@every_policy
@pytest.mark.parametrize("pressure", [0.5, 2, 16])
def test_a_trace_with_kills_ends_at_any_pressure_without_idling_and_leaves_nothing(policy, pressure):
    for seed in range(count(2, 20)):
        rng = random.Random(seed)
        programs = trace(rng, 12)
        with machine(pages_for(programs, pressure), policy, rng.choice(MEMORY), seed=seed) as m, watched(m) as idle:
            m.kernel.set_policy("batch", batch := rng.choice(("immediate", "cohort")))
            for op in ("generate", "call_tool"):
                m.kill_at(op, nth=rng.randrange(1, 20))
                m.kill_at(op, chance=0.02)
            runs = start(m, programs)
            m.run()

            assert_nothing_left(m)
            assert {r.value for r in runs if r.status.code == 0} <= set(map(length, programs))
            assert m.core.counters()["out_of_room"] == 0
            held_s = HOLD_S if batch == "cohort" else 0.0
            back_s = (
                COST.of(1, max(map(length, programs))) if pressure > 1 else 0.0
            )  # of pages that an older call waits for (room.py)
            assert max(idle.gaps_s, default=0.0) <= max(held_s, back_s)


@every_policy
def test_the_same_seed_gives_the_same_order(policy):
    def once() -> list[tuple[object, ...]]:
        programs = trace(random.Random(3), 10)
        with machine(pages_for(programs, 3), policy, "ttl") as m:
            m.kill_at("generate", chance=0.05)
            start(m, programs)
            m.run()
            return [(c.pid, c.op, c.result, m.now_s) for c in m.kernel.log.since(0)]

    assert once() == once()


# ---- kills and stops in every state


def waits(core: SimCore) -> SimJob | None:
    return next((job for job in core.jobs.values() if not job.lent), None)


def runs(core: SimCore) -> SimJob | None:
    return core.batch[0][0] if core.batch else None


def is_parked(core: SimCore) -> SimJob | None:
    return next((job for job in core.former.parked if job.lent), None)


def comes_back(core: SimCore) -> SimJob | None:
    """Its pages are on their way."""
    return next((job for job in core.jobs.values() if job.file.move is not None and not job.file.move.gives), None)


def rests(core: SimCore) -> SimJob | None:
    """It waits for its tool while its pages leave."""
    return next((f for f in core.table.files.values() if f.job is None and f.move is not None and f.move.gives), None)


STATES = [waits, runs, is_parked, comes_back, rests]


def owner(m: Machine, found: object) -> int:
    if isinstance(found, SimJob):
        return found.effect.owner.pid
    (pid,) = {p.pid for p in m.kernel.processes.values() for fd in p.fds.files.values() if fd.inode.ino == found.ino}  # type: ignore[attr-defined]
    return pid


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("signal", [Signal.KILL, Signal.STOP])
def test_a_program_may_be_killed_or_stopped_in_any_state(state, signal):
    programs = trace(random.Random(11), 12)
    with machine(pages_for(programs, 6)) as m:
        started = start(m, programs)
        m.run_until(lambda: state(m.core) is not None)
        (struck,) = [run for run in started if run.pid == owner(m, state(m.core))]
        m.kill(struck, signal)
        m.check()
        others = [(run, program) for run, program in zip(started, programs, strict=True) if run is not struck]
        m.run_until(lambda: all(run.has_ended for run, _ in others))

        assert [run.value for run, _ in others] == [length(program) for _, program in others]
        assert struck.has_ended is (signal is Signal.KILL)
        m.check()
        if signal is Signal.STOP:
            m.kill(struck, Signal.CONT)
            m.run()
            assert struck.value == length(programs[started.index(struck)])
        assert_nothing_left(m)


@pytest.mark.parametrize("policy", MEMORY)
def test_files_of_stopped_programs_give_way_and_a_late_kill_leaves_nothing(policy):
    programs = [(PAGE * 8, [("calc", 8)] * 3)] * 12
    with machine(num_pages=40, memory_policy=policy) as m:
        sleepers = start(m, programs[:4])  # these fill the cache
        m.run_until(lambda: all(m.calls(run, "generate") for run in sleepers))
        for run in sleepers:
            m.kill(run, Signal.STOP)
        began_s = m.now_s
        others = start(m, programs)
        m.run_until(lambda: all(run.has_ended for run in others))

        assert m.now_s - began_s < 10
        for run in sleepers:
            m.kill(run)
        m.run()
        assert_nothing_left(m)


@every_policy
def test_lock_step_programs_are_not_stalled_by_one_that_stops(policy):
    with machine(policy=policy, cost=Cost(max_rows=16)) as m:
        alone = [m.start(stepper, 40) for _ in range(7)]
        m.run()
        took_s = m.now_s
        steppers = [m.start(stepper, 40) for _ in range(8)]
        m.run_until(lambda: len(m.calls(steppers[0], "forward")) >= 10)
        m.kill(steppers[0], Signal.STOP)
        m.run_until(lambda: all(run.has_ended for run in steppers[1:]))

        assert all(run.value for run in alone)
        assert m.now_s - took_s <= 1.1 * took_s + 0.01
        m.kill(steppers[0])
        m.run()
        assert_nothing_left(m)


# ---- lies


async def worker(num_tokens: int, times: int = 1) -> float:
    """Of this name are short programs, and one that is long."""
    return await writer(num_tokens, times)


async def long_worker(num_tokens: int, times: int) -> float:
    """Of another name: nobody takes it for a short one."""
    return await writer(num_tokens, times)


@every_policy
def test_a_program_that_passes_for_a_short_one_delays_others_by_its_part_only(policy):
    def last_of_others(liar: Callable[..., object]) -> float:
        with machine(policy=policy, cost=Cost(max_rows=1)) as m:
            for _ in range(30):
                m.start(worker, 8)
            m.run()
            began_s = m.now_s
            long = m.start(liar, 20, 30)
            others = [m.start(worker, 8, 3) for _ in range(10)]
            m.run()
            assert_nothing_left(m)
            assert max(run.value for run in others) < long.value
            return max(run.value for run in others) - began_s

    assert last_of_others(worker) <= 2 * last_of_others(long_worker)


def test_the_highest_priority_orders_its_own_principals_programs_only():
    declared = f"# /// script\n# [tool.symphony]\n# priority = {MAX_PRIORITY}\n# ///\n"
    source = declared + (
        "from vllm_symphony import lip\n\nasync def main() -> None:\n"
        "    for _ in range(6):\n"
        "        async with lip.open(tokens=[50] * 8) as f:\n            await f.generate(max_tokens=150, ignore_eos=True)\n"
    )
    with machine(4000, "priority") as m:
        for _ in range(40):
            m.start(source)
        with m.acting_as("bob"):
            m.start(crowd_of_writers, ROWS, 150, 6)
        m.run_until(lambda: "bob" in m.core.former.queue.principals and had(m, "bob") > 0)

        ann, bob = service_of(m, lambda: had(m, "bob") > 3000)

        assert bob / (ann + bob) > 0.45


# ---- shares


def had(m: Machine, principal: str) -> float:
    """Weighted tokens."""
    return m.core.former.queue.principals[principal].tokens


def service_of(m: Machine, until: Callable[[], bool]) -> tuple[float, float]:
    """What ann and bob get until then."""
    before = [had(m, who) for who in ("ann", "bob")]
    m.run_until(until)
    ann, bob = (had(m, who) - was for who, was in zip(("ann", "bob"), before, strict=True))
    return ann, bob


@every_policy
def test_one_program_beside_1000_of_another_principal_has_its_half(policy):
    with machine(4000, policy) as m:
        for _ in range(count(200, 1000)):
            m.start(writer, 200, 3)
        m.advance(0.1)
        with m.acting_as("bob"):
            single = m.start(crowd_of_writers, ROWS, 150, 6)
        m.run_until(lambda: had(m, "bob") > 0 if "bob" in m.core.former.queue.principals else False)

        ann, bob = service_of(m, lambda: had(m, "bob") > 4000)

        assert not single.has_ended
        assert bob / (ann + bob) > 0.45
        m.core.former.check()


@every_policy
def test_a_flood_of_tiny_calls_leaves_another_principal_its_half(policy):
    with machine(4000, policy) as m:
        for _ in range(40):
            m.start(stepper, 400)
        m.advance(0.1)
        with m.acting_as("bob"):
            m.start(crowd_of_writers, ROWS, 150, 6)
        m.run_until(lambda: had(m, "bob") > 0 if "bob" in m.core.former.queue.principals else False)

        ann, bob = service_of(m, lambda: had(m, "bob") > 3000)

        assert bob / (ann + bob) > 0.45
