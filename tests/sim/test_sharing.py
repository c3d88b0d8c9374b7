"""Locks, quotas, costs and search of programs on a simulated machine."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_symphony import lip
from vllm_symphony.abi import calls
from vllm_symphony.testing import Machine


async def make(path: str) -> None:
    async with lip.open(path, tokens=[60], mode=0o600):
        pass


def machine(**sim: Any) -> Machine:
    """With a file /tmp/a."""
    m = Machine(**sim)
    m.start(make, "/tmp/a")
    m.run()
    return m


async def count_up(times: int) -> None:
    """Read the number in a file, think, write one more; without the lock two would write the same."""
    async with lip.open("/tmp/a", write=True) as file:
        for _ in range(times):
            async with file.lock():
                (number,) = await file.read()
                await lip.sleep(0.3)
                await file.truncate(0)
                await file.append([number + 1])


def test_programs_that_lock_do_not_lose_each_others_writes():
    with machine() as m:
        runs = [m.start(count_up, 5) for _ in range(8)]
        m.run()
        m.check_idle()

        assert [run.status.code for run in runs] == [0] * 8
        assert m.files()[0].length == 1 and m.text("/tmp/a") == chr(100)
        assert m.now_s == pytest.approx(12, abs=0.5)


async def hang(lease_s: float, seconds: float) -> list[str]:
    """Hold the lock longer than one may; why the writes after that were refused."""
    reasons = []
    async with lip.open("/tmp/a", write=True) as file:
        lock = await file.lock(lease_s=lease_s)
        await lip.sleep(seconds)
        for _ in range(2):
            try:
                await file.append([62])
            except lip.SymphonyError as error:
                reasons.append(error.reason)
        await lock.renew()
        await file.append([63])
    return reasons


async def wait_for_it() -> float:
    """Lock it when it is free, and keep it for 10 s; when that was."""
    await lip.sleep(0.1)
    async with lip.open("/tmp/a", write=True) as file, file.lock(lease_s=60):
        granted = await lip.monotonic()
        await file.generate(4, ignore_eos=True)
        await lip.sleep(10)
        return granted


def test_a_holder_that_hangs_blocks_others_for_its_lease_and_learns_of_it():
    with machine() as m:
        slow, other = m.start(hang, 2, 5), m.start(wait_for_it)
        m.run()

        assert slow.value == ["ESTALE", "EBUSY"]
        assert other.value == pytest.approx(2, abs=0.01)


def test_a_program_that_is_killed_lets_go():
    with machine() as m:
        holder, waiter = m.start(hang, 3600, 3600), m.start(wait_for_it)
        m.advance(7)
        m.kill(holder)
        m.run()

        assert waiter.value == pytest.approx(7, abs=0.01)


def test_a_hundred_forks_cost_what_they_hold_on_the_device():
    async def main() -> tuple[float, float, int]:
        async with lip.open(tokens=[60 + i % 60 for i in range(4000)]) as book:
            await book.forward()
            forks = [await book.fork() for _ in range(100)]
            for n, fork in enumerate(forks):
                await fork.forward([70 + (n + i) % 50 for i in range(64)])
            quota, fs = await lip.getquota(), await lip.statfs()
            costs = [(await file.stat()).charge for file in (book, *forks)]
            return quota.used_device_pages, sum(costs), fs.device_pages - fs.device_pages_free

    with Machine(num_pages=2000, page_size=16, max_positions=8192) as m:
        run = m.start(main)
        m.run()

    used, cost, taken = run.value
    assert used == pytest.approx(cost) == pytest.approx(250 + 100 * 4)
    assert taken <= used  # forks that say the same may share more than they know


def test_a_program_stays_within_its_quota():
    async def main() -> list[str]:
        ends = []
        async with lip.open(tokens=[60, 61, 62]) as file:
            ends.append((await file.generate(500, ignore_eos=True)).reason)
            async with file.fork() as fork:
                for write in (file.forward([70]), file.generate(1), fork.forward([70] * 20)):
                    try:
                        await write
                    except lip.QuotaExceeded as error:
                        ends.append(str(error.values["what"]))
            await file.truncate(10)
            ends.append((await file.generate(2, ignore_eos=True)).reason)
            return [*ends, str(file.length)]

    with Machine(num_pages=100, page_size=16) as m:
        m.call("setquota", calls.Setquota("ann", device_pages=4))
        run = m.start(main)
        m.run()
        m.check()

    assert run.value == ["quota", "device_pages", "device_pages", "device_pages", "length", "12"]


def test_find_ranks_by_text():
    texts = {"horn": "In fog the horn sounds.", "tide": "The tide turns.", "both": "Fog, fog, and fog again over the tide."}

    async def main() -> tuple[list[str], int, list[str], list[str]]:
        for name, text in texts.items():
            async with lip.open(f"/tmp/{name}", text=text):
                pass
        found = await lip.find("/tmp", text="fog")
        async with lip.open("/tmp/tide", write=True) as file:
            await file.append(await lip.tokenize(" A fog comes."))
        again = await lip.find("/tmp", text="fog AND turns")
        paths = [file.path for file in found.files]
        return paths, found.total, [file.path for file in again.files], list(again.snippets)

    with Machine() as m:
        run = m.start(main)
        m.run()

    assert run.value == [["/tmp/both", "/tmp/horn"], 2, ["/tmp/tide"], ["The tide [turns]. A [fog] comes."]]


async def watch(number: int) -> list[list[str]]:
    told: list[list[str]] = []
    async for event in lip.watch("/tmp"):
        told.append([event.kind, event.path])
        if len(told) == number:
            break
    return told


async def work() -> None:
    await lip.sleep(1)
    async with lip.open("/tmp/b", tokens=[60, 61], mode=0o600) as file, file.lock():
        await file.generate(2, ignore_eos=True)
    await lip.unlink("/tmp/b")


def test_a_program_watches_what_another_does():
    with machine() as m:
        watcher = m.start(watch, 6)
        m.start(work)
        m.run()

        kinds = ["create", "lock", "modify", "modify", "lock", "delete"]
        assert watcher.value == [[kind, "/tmp/b"] for kind in kinds]
