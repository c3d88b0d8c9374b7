"""Pages that come back before they are asked for: when, at most how often, and never at anybody's cost."""

from __future__ import annotations

import pytest

from tests.unit.engine.test_tier import Hands
from vllm_symphony.abi.types import Ino, Pid
from vllm_symphony.engine.fetch import Fetches
from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.room import Room
from vllm_symphony.engine.sim.pool import SimPool
from vllm_symphony.engine.tier import TierLimits, Tiers
from vllm_symphony.engine.victim import Victims
from vllm_symphony.kernel.effect import Owner, ProcessEnded, Rests, Resumes

SIZE, NUM_PAGES = 4, 32
ANN = Owner(Pid(1), 0, "ann", "agent")


class Rig:
    def __init__(self) -> None:
        self.now = 100.0
        self.table = PageTable(SimPool(NUM_PAGES), SIZE, NUM_PAGES)
        self.victims = Victims(self.table, 2048, lambda: self.now)
        self.hands = Hands()
        self.tiers = Tiers(
            self.table, self.hands, TierLimits(64 * 8), clock=lambda: self.now, tell=lambda done: None, retire=lambda f: None,
            make_room=lambda n, f: None, boot="b", victims=self.victims,
        )  # fmt: skip
        self.tight = False
        self.fetches = Fetches(self.tiers, lambda: self.tight)
        self.room = Room(self.table, self.tiers, lambda: self.now, lambda: None)

    def file(self, num_tokens: int, owner: Owner = ANN) -> PagedFile:
        f = self.table.create(Ino(len(self.table.files) + 1), list(range(num_tokens)), "", self.now)
        self.table.adopt(f, blocks := self.table.pool.get_new_blocks(self.table.pages(num_tokens)))
        self.table.pool.free_blocks(blocks)  # the file's own reference is left
        self.victims.residents.begins(f, owner)
        f.used(self.now)
        self.victims.ended(f)
        return f

    def demote(self, f: PagedFile) -> None:
        self.tiers.give(f)
        self.end()
        assert not f.blocks

    def end(self) -> None:
        self.hands.end()
        self.tiers.poll()
        self.table.check(self.tiers.lent_blocks())
        self.tiers.check()

    def learn(self, *gaps: float) -> None:
        for seconds in gaps:
            self.victims.predictor.rested(("ann", "agent"), "tool", "web", seconds)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_pages_are_there_when_the_tool_returns(rig: Rig) -> None:
    rig.learn(*[10.0] * 8)
    f = rig.file(16)
    rig.fetches.hear(Rests(Pid(1), 0, "tool", "web", 7))
    rig.demote(f)
    assert rig.fetches.due_s is not None and 109.0 < rig.fetches.due_s < 110.0

    rig.now = rig.fetches.due_s
    assert rig.fetches.advance()
    rig.end()

    assert len(f.blocks) == 4 and rig.fetches.due_s is None


def test_without_a_history_they_come_when_the_tool_has_returned(rig: Rig) -> None:
    f = rig.file(16)
    rig.fetches.hear(Rests(Pid(1), 0, "tool", "web", 7))
    rig.demote(f)
    assert rig.fetches.due_s is None

    rig.fetches.hear(Resumes(Pid(1), 0, 7))
    rig.end()

    assert len(f.blocks) == 4


def test_a_fetch_takes_free_pages_only_and_leaves_some(rig: Rig) -> None:
    f = rig.file(16)
    rig.demote(f)
    rig.file(4 * (NUM_PAGES - 5), Owner(Pid(2), 0, "bob", "chat"))
    rig.fetches.hear(Rests(Pid(1), 0, "tool", "web", 7))

    rig.fetches.hear(Resumes(Pid(1), 0, 7))

    assert not f.blocks and not rig.tiers.busy  # 5 are free, 2 stay free


def test_nothing_is_fetched_while_calls_are_short_of_pages(rig: Rig) -> None:
    f = rig.file(16)
    rig.demote(f)
    rig.tight = True
    rig.fetches.hear(Rests(Pid(1), 0, "tool", "web", 7))
    rig.fetches.hear(Resumes(Pid(1), 0, 7))

    assert not rig.tiers.busy


def test_what_goes_again_during_one_wait_is_not_fetched_again_before_its_end(rig: Rig) -> None:
    rig.learn(*[10.0] * 8)
    f = rig.file(16)
    rig.fetches.hear(Rests(Pid(1), 0, "tool", "web", 7))
    rig.demote(f)
    rig.now = 110.0
    rig.fetches.advance()
    rig.end()
    rig.tiers.give(f)

    for _ in range(10):
        rig.now += 1.0
        rig.fetches.advance()

    assert not f.blocks and rig.victims.num_fetched == 1
    rig.fetches.hear(Resumes(Pid(1), 0, 7))
    assert rig.victims.num_fetched == 2


def test_of_who_ended_or_was_answered_nothing_is_fetched(rig: Rig) -> None:
    rig.learn(*[10.0] * 8)
    f = rig.file(16)
    rig.fetches.hear(Rests(Pid(1), 0, "tool", "web", 7))
    rig.demote(f)
    rig.fetches.hear(Resumes(Pid(1), 0, 7))
    rig.tiers.give(f)
    rig.end()
    rig.tiers.give(f)
    rig.fetches.hear(ProcessEnded(Pid(1)))
    fetched = rig.victims.num_fetched

    rig.now = 200.0
    rig.fetches.advance()

    assert rig.victims.num_fetched == fetched


def test_a_flood_of_waits_leaves_one_entry_a_thread(rig: Rig) -> None:
    rig.learn(*[10.0] * 8)
    rig.file(16)
    for call in range(1000):
        rig.fetches.hear(Rests(Pid(1), 0, "tool", "web", call))
        rig.fetches.hear(Resumes(Pid(1), 0, call))

    assert len(rig.fetches._due) <= 1


def test_when_nothing_can_run_idle_files_give_once_they_were_idle_for_as_long_as_they_take_to_come_back(rig: Rig) -> None:
    rig.victims.choose("lru", {"stale_s": 20.0})
    older = rig.file(16)
    assert rig.room.reclaim(4, born=rig.now + 1.0, keep=None) == 0 and not rig.tiers.busy
    assert not rig.room.relieve(4, None)
    stale_in = rig.room.next_stale()
    assert stale_in is not None and stale_in < 1.0

    rig.now += stale_in
    assert rig.room.relieve(4, None)
    rig.end()

    assert not older.blocks
