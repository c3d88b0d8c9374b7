"""Trees of programs with limits, signals, input and files that are handed on, on the simulated machine."""

import asyncio
import random

import pytest

from tests.counts import count
from vllm_symphony import lip
from vllm_symphony.abi.calls import Kill
from vllm_symphony.abi.types import ExitStatus, ResourceLimits
from vllm_symphony.testing import Machine

TINY = "async def main() -> None:\n    pass\n"


def machine(**options) -> Machine:
    return Machine(step_s=0.01, **options)


async def write(tokens: int) -> int:
    """Generate until the limit says no."""
    async with lip.open(tokens=[1, 2, 3]) as file:
        length = 0
        while length < tokens:
            length += len((await file.generate(16, ignore_eos=True)).tokens)
    return length


async def two_writers(tokens: int) -> list[str]:
    children = [await lip.spawn(write, tokens) for _ in range(2)]
    return [(await child.status()).reason for child in children]


def test_children_share_the_limit_of_their_tree():
    with machine() as m:
        run = m.start_with({"limits": ResourceLimits(tokens=100)}, two_writers, 500)
        m.run()

        assert run.value == ["limit", "limit"]
        ended = [p for p in m.ps() if p.exit is not None and p.exit.reason == "limit"]
        assert all(p.exit.error.endswith("of 100 used") for p in ended)
        m.check_idle()


async def careful() -> tuple[int, int]:
    """Write as much as there is, and no more."""
    limits = await lip.getrlimit()
    left = limits.limits.tokens - limits.used.tokens
    async with lip.open(tokens=[1]) as file:
        done = await file.generate(left + 100, ignore_eos=True)
    return left, len(done.tokens)


def test_a_program_may_look_at_what_is_left():
    with machine() as m:
        run = m.start_with({"limits": ResourceLimits(tokens=20)}, careful)
        m.run()

        assert run.value == [20, 19]
        m.check_idle()


async def sleeper() -> None:
    await lip.sleep(1000)


def test_a_program_that_is_out_of_time_ends_with_limit():
    with machine() as m:
        run = m.start_with({"limits": ResourceLimits(wall_s=5.0)}, sleeper)
        m.run()

        assert run.status == ExitStatus(124, "limit", error="wall_s: 5 of 5 used")
        assert m.now_s == pytest.approx(5.0, abs=0.1)
        m.check_idle()


async def stubborn() -> None:
    while True:
        try:
            await lip.sleep(1000)
        except lip.QuotaExceeded:
            await asyncio.sleep(1)


def test_one_that_goes_on_all_the_same_is_ended():
    with machine() as m:
        run = m.start_with({"limits": ResourceLimits(wall_s=5.0)}, stubborn)
        m.run()

        assert run.status == ExitStatus(124, "limit", error="wall_s: 5 of 5 used")
        assert m.now_s == pytest.approx(10.0, abs=0.1)
        m.check_idle()


async def counter() -> None:
    for number in range(100):
        lip.emit(number)
        await lip.sleep(1)


async def holds_it() -> list[int]:
    child = await lip.spawn(counter)
    await lip.sleep(5.5)
    await child.stop()
    state = (await child.stat()).state
    await lip.sleep(60)
    await child.cont()
    await lip.sleep(2)
    await child.kill()
    status = await child.status()
    return [state, status.reason]


def test_a_stopped_child_goes_no_further_until_it_is_continued():
    with machine() as m:
        run = m.start(holds_it)
        m.run()

        child = next(r for pid, r in m.runs.items() if pid != run.pid)
        assert run.value == ["stopped", "cancelled"]
        assert 6 <= len(child.emitted) <= 9
        m.check_idle()


def test_a_stopped_program_is_killed_and_a_term_waits_for_cont():
    with machine() as m:
        first, second = m.start(counter), m.start(counter)
        m.advance(3)
        for run in (first, second):
            m.call("kill", Kill(run.pid, "STOP"))
        m.call("kill", Kill(first.pid, "KILL"))
        m.call("kill", Kill(second.pid, "TERM"))
        m.advance(1)
        assert first.status.code == 137 and second.status is None
        m.call("kill", Kill(second.pid, "CONT"))
        m.run()

        assert second.status.reason == "cancelled"
        m.check_idle()


async def reads() -> list[str]:
    lines = [line async for line in lip.stdin]
    return [*lines, await lip.stdin.read()]


async def feeds() -> list[str]:
    child = await lip.spawn(reads, stdin=True)
    await child.feed("first li")
    await lip.sleep(1)
    await child.feed("ne\nsecond\nlast", eof=True)
    with pytest.raises(lip.BrokenPipe):
        await child.feed("too late")
    return await child.wait()


def test_a_child_reads_what_its_parent_feeds():
    with machine() as m:
        run = m.start(feeds)
        alone = m.start_with({"stdin": True}, reads)
        without = m.start(reads)
        m.feed(alone, "typed\n")
        m.feed(alone, eof=True)
        m.run()

        assert run.value == ["first line", "second", "last", ""]
        assert alone.value == ["typed", ""] and without.value == [""]
        m.check_idle()


async def takes_over(word: str) -> list[int]:
    files = await lip.inherited()
    async with files[word] as file:
        await file.generate(2, ignore_eos=True)
        return [file.length, await lip.getpid()]


async def hands_over() -> list[int]:
    async with lip.open(tokens=[1, 2, 3]) as file:
        child = await lip.spawn(takes_over, "draft", fds={"draft": file})
        length, pid = await child.wait()
        stat = await file.stat()
        usage = await lip.getrusage()
        return [length, stat.length, usage.children.tokens_out, pid == child.pid]


def test_a_file_is_handed_to_a_child():
    with machine() as m:
        run = m.start(hands_over)
        m.run()

        assert run.value == [5, 5, 2, True]
        m.check_idle()


async def spawns_too_deep() -> str:
    child = await lip.spawn(spawns_too_deep_again, limits=lip.Limits(depth=0))
    return await child.wait()


async def spawns_too_deep_again() -> str:
    try:
        await lip.spawn(TINY)
    except lip.QuotaExceeded as error:
        return str(error.values["resource"])
    return "it could"


def test_a_child_without_depth_spawns_none():
    with machine() as m:
        run = m.start(spawns_too_deep)
        m.run()

        assert run.value == "depth"
        m.check_idle()


async def grow(seed: int, depth: int) -> int:
    """A random life: files, generates, children with limits, signals to them."""
    rng = random.Random(seed)
    children: list[lip.Process] = []
    async with lip.open(tokens=[1]) as file:
        for number in range(rng.randint(2, 6)):
            what = rng.randrange(6)
            if what == 0:
                await file.append(list(range(1, rng.randint(2, 20))))
            elif what == 1:
                await file.generate(rng.randint(1, 30), ignore_eos=True)
            elif what == 2:
                await file.forward([2, 3])
            elif what == 3 and depth:
                tokens = rng.choice([None, 20, 60])
                limits = lip.Limits(tokens=tokens, wall_s=rng.choice([None, 0.5]), processes=rng.choice([None, 2]))
                children.append(await lip.spawn(grow, seed * 10 + number, depth - 1, limits=limits, fds={"file": file}))
            elif what == 4 and children:
                await rng.choice(children).kill(rng.choice(["STOP", "STOP", "TERM", "KILL"]))
            await lip.sleep(rng.choice([0, 0.1]))
    for child in children:
        await child.cont()
    for child in children:
        await child.status()
    return len(children)


@pytest.mark.parametrize("seed", range(count(12, 400)))
def test_random_trees_leave_nothing_and_pay_for_what_they_used(seed):
    with Machine(seed=seed, step_s=0.01) as m:
        for number in range(3):
            limits = ResourceLimits(tokens=random.Random(seed + number).choice([40, 200, None]), wall_s=60.0)
            m.start_with({"limits": limits}, grow, seed * 100 + number, 3)
        m.run()

        reasons = {run.status.reason for run in m.runs.values()}
        assert reasons <= {"exit", "limit", "signal", "cancelled", "exception", "orphan"}, reasons
        ends = (lip.QuotaExceeded, lip.NoSuchProcess, lip.Interrupted, lip.DeviceLost)  # the last two of those that are ended
        assert all(run.error is None or isinstance(run.error, ends) for run in m.runs.values())
        used = m.kernel.processes[m.root].all_below()
        m.check_idle()
        budget = m.kernel.budgets["ann"]
        assert budget.processes == budget.held == 0
        assert used.tokens_in + used.tokens_out <= budget.tokens, "what orphans used after their parent is not its own"
