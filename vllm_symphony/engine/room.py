"""Who holds pages when they are short (engine/room.py).

A file's pages can be given up: demoted to a tier below (tier.py) or, of exact files, computed again. The rule is wound-wait
(Rosenkrantz, Stearns, Lewis, "System level concurrency control for distributed database systems", 1978): an older job takes pages
from younger files, a younger one waits. So the oldest always moves, nobody waits for ever, and two programs never take turns in
undoing each other. Who gives, in this order, until the need is met; how, and who first of 1, is the policy's (victim.py):

    1. idle files whose time is over, by the memory policy (kernel/sched/memory/)
    2. idle files younger than the one in need, youngest first
    3. files of younger jobs that have not begun, youngest first
    4. only when nothing else can move: younger jobs that were parked; their requests are preempted and computed again later

When nothing at all can run, idle files give whatever their age and before their time, who the policy ranks first first (`relieve`):
a device that has work is never idle for longer than a file's pages take to come back.
Pages that are on their way below are free a little later: they are counted, and waited for. While an older job is short of
room no younger one loads pages (`Claims`): they would be taken from it at once.
A job that would not fit into the whole cache ends with ENOSPC and keeps its tokens (engine/device.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.tier import Tiers

TICK_S = 0.001  # later than a time, so that it has come
STALE_S = 1.0  # a side, or a job, of which nothing has moved for so long is helped


class WaitingJob(Protocol):
    """A job as it is seen here, the engine's or the simulator's."""

    file: PagedFile
    lent: bool


class Claims:
    """What waiting jobs keep from younger ones: so many pages of those that are free, until they have them. `look` begins a look at
    all that wait; each says what it found. No more of them load pages or have others give some than there are rows for."""

    def __init__(self) -> None:
        self._rows = 0  # that nobody has or prepares for in this look
        self._short: dict[Hashable, tuple[int, bool]] = {}  # who found no room -> how many it needs; from whoever takes a page
        self._born: Mapping[Any, float] = {}
        self._edits = math.inf  # who is younger than this takes no page

    def look(self, waiting: Mapping[Any, float], edits: Iterable[float] = (), *, rows: int) -> None:
        """These wait, with files born then, and edits of files born then, which claim all; who waits no more claims nothing. `rows`
        are free."""
        self._rows = rows
        self._short = {who: claim for who, claim in self._short.items() if who in waiting}
        self._born = waiting
        self._edits = min(edits, default=math.inf)

    def aside(self, born: float, is_below: bool) -> int | None:
        """Pages that a job of a file born then leaves free, for older ones: it would load its own, or just take some. None: all."""
        if born > self._edits:
            return None
        claims = ((who, claim) for who, claim in self._short.items() if self._born[who] < born)
        return sum(need for _, (need, from_all) in claims if is_below or from_all)

    def take_row(self) -> bool:
        """For who begins, loads, or makes room. False: there is none left."""
        self._rows -= 1
        return self._rows >= 0

    @property
    def is_tight(self) -> bool:
        """Somebody is short of pages."""
        return bool(self._short)

    def met(self, who: Hashable) -> None:
        """It has room."""
        self._short.pop(who, None)

    def missed(self, who: Hashable, need: int, from_all: bool) -> None:
        """It has none. `from_all`: also who has nothing to load leaves what it needs (pages move, and what becomes free soon is all
        its own; or it has waited for long). Others may pass it while it waits for those that run."""
        self._short[who] = need, from_all or self._short.get(who, (0, False))[1]


class Room:
    def __init__(self, table: PageTable, tiers: Tiers, clock: Callable[[], float], retire_all: Callable[[], None]) -> None:
        self.table = table
        self.tiers = tiers
        self.clock = clock
        self.retire_all = retire_all
        self.claims = Claims()
        self.num_evicted = 0

    def reclaim(self, need: int, born: float, keep: PagedFile | None) -> int:
        """Free up to `need` blocks for a job of a file born then, or begin to; returns how many are free at once. Never touches
        `keep`."""
        if need <= 0:
            return 0
        self.retire_all()  # requests at rest hold pages of idle files
        return self._take(need, self._givers(born, keep))

    def _take(self, need: int, givers: Iterable[PagedFile]) -> int:
        """Until so many are free, or about to be; how many are free at once."""
        freed, coming = 0, self.tiers.coming
        for f in givers:
            if freed + coming >= need:
                break
            now_free, later = self.tiers.give(f)
            freed += now_free
            coming += later
            self.num_evicted += bool(now_free or later)
        return freed

    def _givers(self, born: float, keep: PagedFile | None) -> Iterator[PagedFile]:
        """Who may give, in order."""
        victims, holders = self.tiers.victims, self.table.holders
        for window in holders.over(self.clock()):
            yield from victims.order(f for f in window if f is not keep)
        younger = [f for f in holders.younger(born) if f is not keep]
        yield from (f for f in younger if f.job is None)
        yield from (f for f in younger if f.job is not None)

    def relieve(self, need: int, keep: PagedFile | None) -> bool:
        """Nothing can run for want of `need` blocks: idle files give. True: some did, or their pages are on their way. (They may
        have freed none, and yet a page that was shared needs no copy any more.)"""
        now = self.clock()
        idle = [f for f in self.table.holders.idle() if f is not keep and self.tiers.victims.spared_s(f) <= now]
        held = [(f, len(f.blocks)) for f in idle]
        self._take(need, self.tiers.victims.order(idle))
        return self.tiers.coming > 0 or any(len(f.blocks) < before for f, before in held)

    def may_get(self, born: float, jobs: Iterable[WaitingJob]) -> bool:
        """Whether somebody will let go of pages that an edit of a file born then can wait for: moves, jobs that run or that are
        older and go first, idle files whose time will be over."""
        runs = any(job.lent or job.file.born <= born for job in jobs)
        return runs or self.tiers.busy or self.next_stale() is not None

    def next_stale(self) -> float | None:
        """Seconds until some idle file may give pages when nothing can run; None if there is none that could."""
        ends_s = [self.tiers.victims.spared_s(f) for f in self.table.holders.idle() if self.tiers.can_give(f)]
        return max(0.0, min(ends_s) - self.clock()) + TICK_S if ends_s else None
