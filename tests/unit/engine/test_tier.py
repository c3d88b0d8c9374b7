"""Who gives pages and how, how copies are counted, and whose move is whose: without a worker, moves end when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vllm_symphony.abi.record import SavedPage
from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.move import Moved, Orders
from vllm_symphony.engine.page_copy import Copies, PageCopy
from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.sim.pool import SimPool
from vllm_symphony.engine.tier import TierLimits, Tiers
from vllm_symphony.engine.victim import Victims
from vllm_symphony.errors import DataCorrupt, Interrupted, NotSupported, OutOfPages
from vllm_symphony.kernel.effect import CreateFile, JobFailed, LimitDomain, MoveDone, MoveJob, Owner, SaveDone, SaveJob

SIZE = 4
PAGE_BYTES = 8


class Below:
    """What the policy asks, as the test wants it."""

    def __init__(self, missing: int = 1, loose: int = 0, host: bool = False, disk: bool = False) -> None:
        self.missing, self.loose, self.host, self.disk = missing, loose, host, disk

    def num_missing(self, f: PagedFile) -> int:
        return self.missing

    def num_loose(self, f: PagedFile) -> int:
        return self.loose

    def host_takes(self, f: PagedFile, num_pages: int) -> bool:
        return self.host

    def disk_takes(self, f: PagedFile, num_pages: int) -> bool:
        return self.disk


def file(**more: Any) -> PagedFile:
    return PagedFile(Ino(1), list(range(9)), "", born=0.0, **more)


@pytest.mark.parametrize(
    ("f", "below", "way"),
    [
        (file(), Below(missing=0), "drop"),
        (file(), Below(host=True, disk=True), "host"),
        (file(), Below(disk=True), "drop"),
        (file(fixed=8), Below(missing=0), "drop"),
        (file(fixed=8), Below(host=True, disk=True), "host"),
        (file(fixed=8), Below(disk=True), "disk"),
        (file(fixed=8), Below(loose=1), "drop"),
        (file(fixed=8), Below(), None),
        (file(pinned=True), Below(host=True), None),
        (file(held=True), Below(host=True), None),
    ],
)
def test_a_file_gives_its_pages_in_the_cheapest_way_that_loses_nothing(f, below, way):
    victims = Victims(PageTable(SimPool(8), SIZE, 8), 2048, lambda: 0.0)
    victims.choose("lru", {})

    assert victims.way(f, below) == way


def test_the_least_recently_used_gives_first():
    files = [file(last_used=t) for t in (3.0, 1.0, 2.0)]

    victims = Victims(PageTable(SimPool(8), SIZE, 8), 2048, lambda: 0.0)
    victims.choose("lru", {})

    assert [f.last_used for f in victims.order(files)] == [1.0, 2.0, 3.0]


def test_a_copy_frees_its_places_with_its_last_reference_and_its_segment_with_the_last_copy():
    removed: list[str] = []
    copies = Copies(2, 2, removed.append)
    a, b = PageCopy(4, "ann"), PageCopy(4, "ann")
    copies.take_slot(a)
    copies.put_on_disk(a, SavedPage("s", 0, 4))
    copies.put_on_disk(b, SavedPage("s", 1, 4))
    copies.share((a,))
    copies.check([[a, b], [a]])

    copies.release((a,))
    assert copies.num_free_slots == 1 and copies.host_pages == {"ann": 1}
    copies.release((a,))
    assert copies.num_free_slots == 2 and not removed
    copies.release((b,))

    assert removed == ["s"] and copies.host_pages.total() == copies.disk_pages.total() == 0
    copies.check([])


def test_a_domain_holds_below_what_its_limit_says():
    copies = Copies(10, 10)
    copies.limits["ann"] = LimitDomain("ann", host_bytes=3 * PAGE_BYTES, disk_bytes=PAGE_BYTES)
    copies.take_slot(PageCopy(4, "ann"))

    assert copies.host_allowance("ann", PAGE_BYTES) == 2 and copies.disk_room("ann", PAGE_BYTES) == 1
    assert copies.host_allowance("bob", PAGE_BYTES) == copies.disk_room("bob", PAGE_BYTES) == 10


class Hands:
    """A `Mover` that does nothing; what ended is what the test says."""

    page_bytes = PAGE_BYTES

    def __init__(self) -> None:
        self.orders: dict[int, Orders] = {}
        self.cancelled: set[int] = set()
        self._ended: list[Moved] = []

    def begin(self, orders: Orders) -> None:
        self.orders[orders.move] = orders

    def cancel(self, move: int) -> None:
        self.cancelled.add(move)

    def ended(self) -> Sequence[Moved]:
        out, self._ended = self._ended, []
        return out

    def end(self, error: Any = None) -> None:
        """All of what was begun."""
        for move in list(self.orders):
            del self.orders[move]
            self._ended.append(Moved(move, Interrupted("cancelled") if move in self.cancelled else error))


class Rig:
    def __init__(self, num_pages: int = 8, host_pages: int = 8, directory: Path | None = None) -> None:
        self.table = PageTable(SimPool(num_pages), SIZE, num_pages)
        self.hands, self.told = Hands(), list[Any]()
        self.now = 0.0
        self.tiers = Tiers(
            self.table, self.hands, TierLimits(host_pages * PAGE_BYTES, 100 * PAGE_BYTES, directory), clock=lambda: self.now,
            tell=self.told.append, retire=lambda f: None, make_room=lambda n, f: None, boot="b",
            victims=Victims(self.table, 2048, lambda: self.now),
        )  # fmt: skip
        self.jobs = 0

    def file(self, num_tokens: int, *, fixed: int = 0, domain: str = "") -> PagedFile:
        """With KV for all of its tokens."""
        f = self.table.create(Ino(len(self.table.files) + 1), list(range(num_tokens)), domain, self.now)
        f.blocks = self.table.pool.get_new_blocks(self.table.pages(num_tokens))
        f.frontier, f.fixed, f.private = num_tokens, fixed, fixed > 0
        self.table.holders.enter(f)
        return f

    def move(self, f: PagedFile, tier: str) -> JobId:
        self.jobs += 1
        self.tiers.submit(MoveJob(JobId(self.jobs), f.ino, tier, Owner()))
        return JobId(self.jobs)

    def save(self, f: PagedFile) -> JobId:
        self.jobs += 1
        self.tiers.submit(SaveJob(JobId(self.jobs), f.ino, Owner()))
        return JobId(self.jobs)

    def end(self, error: Any = None) -> None:
        self.hands.end(error)
        self.tiers.poll()
        self.check()

    def check(self) -> None:
        self.table.check(self.tiers.lent_blocks())
        self.tiers.check()

    def free(self) -> int:
        return self.table.pool.get_num_free_blocks()


def test_pages_are_free_when_their_copies_are_made_and_not_before():
    rig = Rig()
    f = rig.file(10)

    assert rig.tiers.give(f) == (0, 3)
    assert rig.free() == 5 and rig.tiers.coming == 3
    rig.end()

    assert rig.free() == 8 and rig.tiers.coming == 0
    assert (f.frontier, f.below, f.computed) == (0, 10, 10)


def test_a_file_that_came_back_goes_again_for_nothing():
    rig = Rig()
    f = rig.file(10)
    rig.tiers.give(f)
    rig.end()
    rig.tiers.load(f)
    rig.end()

    assert f.frontier == 10 and rig.tiers.give(f) == (3, 0)
    rig.check()


def test_what_was_computed_since_is_copied_alone():
    rig = Rig()
    f = rig.file(10)
    rig.tiers.give(f)
    rig.end()
    rig.tiers.load(f)
    rig.end()
    f.extend([1, 2, 3], 10)
    f.blocks += rig.table.pool.get_new_blocks(1)
    f.frontier = 13

    rig.tiers.give(f)

    (orders,) = rig.hands.orders.values()
    assert len(orders.out) == 2  # the page that was not full, and the new one
    rig.end()
    assert f.below == 13 and rig.tiers.copies.num_free_slots == 4


def test_a_job_that_begins_keeps_what_was_about_to_leave():
    rig = Rig()
    f = rig.file(8)
    rig.tiers.give(f)

    rig.tiers.disturb(f)
    rig.end()

    assert (len(f.blocks), f.below, rig.tiers.copies.num_free_slots) == (2, 0, 8)


def test_a_cut_during_a_move_leaves_copies_of_what_stayed():
    rig = Rig()
    f = rig.file(10)
    rig.tiers.give(f)

    rig.table.truncate(f, 6)
    rig.end()

    assert (f.below, len(f.copies), rig.free()) == (6, 2, 8)
    assert rig.tiers.copies.num_free_slots == 6


def test_a_file_that_goes_takes_its_move_with_it():
    rig = Rig()
    for goal in ("host", "device"):
        f = rig.file(8)
        if goal == "device":
            rig.move(f, "host")
            rig.end()
        job = rig.move(f, goal)
        rig.tiers.forget(f)
        rig.table.drop(f)
        rig.end()

        assert isinstance(rig.told[-1], JobFailed) and rig.told[-1].job == job
        assert rig.free() == 8 and rig.tiers.copies.num_free_slots == 8


def test_forks_know_the_copies_of_pages_that_they_share():
    rig = Rig()
    a = rig.file(8)
    b = rig.table.fork(a, Ino(2), 7, 0.0)

    rig.tiers.give(a)
    rig.end()

    assert (a.below, b.below) == (8, 4)
    assert a.copies[0] is b.copies[0] and a.copies[0].refs == 2


def test_forks_of_a_file_that_is_below_come_back_to_the_same_pages():
    rig = Rig(num_pages=12)
    a = rig.file(9)
    rig.tiers.give(a)
    rig.end()
    forks = [rig.table.fork(a, Ino(n), 9, 0.0) for n in (2, 3)]
    assert not a.blocks and rig.free() == 12

    rig.tiers.load(forks[0])

    assert rig.tiers.is_below(forks[1], 9) and rig.tiers.is_fetched(forks[1])
    rig.end()
    assert a.blocks == forks[0].blocks[:2] and not rig.tiers.is_fetched(forks[1])
    assert rig.tiers.is_below(forks[1], 9), "its last page is not full: it is its own"
    assert forks[1].blocks == a.blocks and rig.free() == 12 - 3
    rig.tiers.load(forks[1])
    rig.end()
    assert forks[1].frontier == 9 and rig.free() == 12 - 4


def test_a_fork_that_was_cut_shares_what_is_still_the_same():
    rig = Rig(num_pages=12)
    a = rig.file(12)
    b = rig.table.fork(a, Ino(2), 12, 0.0)
    for f in (a, b):
        rig.move(f, "host")
        rig.end()
    rig.table.truncate(b, 6)

    rig.tiers.load(a)
    rig.end()

    assert not rig.tiers.is_below(b, 6) and b.blocks == a.blocks[:2] and b.frontier == 6
    rig.check()


def test_a_segment_stays_whose_first_page_another_move_has_put_on_disk_meanwhile(tmp_path):
    rig = Rig(directory=tmp_path)
    a = rig.file(8)
    b = rig.table.fork(a, Ino(2), 7, 0.0)
    for f in (a, b):
        rig.move(f, "host")
        rig.end()
    assert a.copies[0] is b.copies[0] and a.copies[1] is not b.copies[1]

    for f in (a, b):
        rig.move(f, "disk")
    segments = {w.name for orders in rig.hands.orders.values() for w in orders.write}
    for name in segments:
        (tmp_path / name).touch()
    rig.end()

    assert {c.saved.segment for f in (a, b) for c in f.copies} == segments
    assert all((tmp_path / name).exists() for name in segments)


def test_older_copies_of_exact_files_make_way_and_edited_ones_do_not():
    rig = Rig(host_pages=2)
    exact, edited = rig.file(8), rig.file(8, fixed=7)
    rig.tiers.give(exact)
    rig.end()
    assert exact.below == 8

    rig.now = 1.0
    edited.last_used = 1.0
    rig.tiers.give(edited)
    rig.end()
    late = rig.file(8)
    late.last_used = 2.0
    rig.tiers.give(late)

    assert (exact.below, edited.below, late.below) == (0, 8, 0)
    assert not late.blocks  # nothing had to give for it: it is computed again


def test_what_comes_back_wrong_is_forgotten_from_there_on_or_told():
    rig = Rig()
    exact, edited = rig.file(12), rig.file(8, fixed=7)
    for f in (exact, edited):
        rig.tiers.give(f)
        rig.end()
        rig.tiers.load(f)
        rig.end(DataCorrupt("wrong", slot=f.copies[1].slot))

    assert (exact.below, edited.below) == (4, 8) and rig.free() == 8
    assert rig.tiers.is_below(exact, 12)
    with pytest.raises(DataCorrupt, match="wrong"):
        rig.tiers.is_below(edited, 7)


def test_a_save_names_every_page_and_writes_each_once(tmp_path):
    rig = Rig(directory=tmp_path)
    f = rig.file(10)

    rig.save(f)
    (orders,) = rig.hands.orders.values()
    assert [len(w.pages) for w in orders.write] == [3]
    rig.end()
    rig.save(f)
    rig.end()

    first, second = rig.told
    assert isinstance(first, SaveDone) and [p.num_tokens for p in first.pages] == [4, 4, 2]
    assert second.pages == first.pages and (first.num_bytes, second.num_bytes) == (3 * PAGE_BYTES, 0)
    assert all(p.segment == orders.write[0].name for p in first.pages) and len(f.blocks) == 3


def test_a_full_disk_fails_the_job_and_is_left_alone_for_a_while(tmp_path):
    rig = Rig(directory=tmp_path, host_pages=0)
    f = rig.file(8, fixed=7)
    rig.tiers.give(f)
    rig.end(OutOfPages("the disk is full"))

    assert len(f.blocks) == 2 and not rig.tiers.can_give(f)
    rig.now = 60.0
    assert rig.tiers.can_give(f)


def test_a_job_for_a_tier_that_is_not_there_or_too_small_is_refused():
    rig = Rig(host_pages=1)
    f = rig.file(8)

    rig.move(f, "host")
    assert isinstance(rig.told[-1].error, OutOfPages)
    with pytest.raises(NotSupported, match="no state directory"):
        rig.move(f, "disk")


def test_a_waiting_job_begins_when_the_file_is_idle_and_is_cancelled_at_once():
    rig = Rig()
    f = rig.file(8)
    f.job = JobId(99)
    first, second = rig.move(f, "host"), rig.move(f, "host")

    assert not rig.hands.orders and rig.tiers.cancel(second)
    f.job = None
    rig.tiers.poll()
    rig.end()

    assert [type(t) for t in rig.told] == [JobFailed, MoveDone] and rig.told[1].job == first


def test_a_restored_file_has_its_pages_on_disk_and_positions_as_they_were(tmp_path):
    rig = Rig(directory=tmp_path)
    e = CreateFile(Ino(5), list(range(6)), "", ((0, 0), (4, 9)), (SavedPage("x.seg", 0, 4), SavedPage("x.seg", 1, 2)), True)
    f = rig.table.create(e.ino, e.tokens, e.domain, 0.0)

    rig.tiers.restore(f, e)

    assert (f.below, f.fixed, f.runs, f.next_position) == (6, 5, [(0, 0), (4, 5)], 11)
    assert rig.tiers.places(f) == (0, 2)
    rig.check()


def test_a_pinned_file_comes_back_and_gives_nothing():
    rig = Rig()
    f = rig.file(8)
    rig.tiers.give(f)
    rig.end()

    rig.tiers.pin(f, True)
    rig.end()

    assert len(f.blocks) == 2 and not rig.tiers.wanted
    assert rig.tiers.give(f) == (0, 0) and len(f.blocks) == 2


def test_a_page_that_is_here_in_part_is_replaced_by_its_copy():
    rig = Rig()
    f = rig.file(10)
    rig.tiers.give(f)
    rig.end()
    f.blocks = rig.table.pool.get_new_blocks(2)
    f.frontier = 6

    assert rig.tiers.is_below(f, 9)
    assert (f.frontier, len(f.blocks)) == (4, 1)
    assert rig.tiers.load(f) == 2
    rig.end()

    assert (f.frontier, len(f.blocks), rig.free()) == (10, 3, 5)
