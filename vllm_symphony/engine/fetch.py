"""Pages that come back before they are asked for (engine/fetch.py).

    Rests    when the tool is about to return, by its history (kernel/sched/memory/prefetch.py): begin to load
    Resumes  its thread goes on, and its next call will want its files: load now what is not here yet

Loads take free pages only, leave a part for calls that grow, and wait for those that are short of pages: so a fetch displaces
nothing and nobody. In one wait a file is fetched twice at most, before its end and at it: what had to go again in between is left.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.resident import Thread
from vllm_symphony.engine.tier import Tiers
from vllm_symphony.engine.victim import Heard
from vllm_symphony.kernel.effect import Resumes
from vllm_symphony.kernel.sched.memory import prefetch
from vllm_symphony.kernel.sched.memory.policy import Rest

RESERVE = 16  # one page in so many stays free


class Fetches:
    """`is_tight`: calls wait for pages."""

    def __init__(self, tiers: Tiers, is_tight: Callable[[], bool]) -> None:
        self.tiers = tiers
        self.table = tiers.table
        self.victims = tiers.victims
        self._is_tight = is_tight
        self._due: list[tuple[float, int, Thread]] = []  # a heap
        self._num = 0
        self._in_heap: set[Thread] = set()

    def hear(self, e: Heard) -> None:
        """What the kernel tells of programs."""
        thread = self.victims.hear(e)
        if thread is None or not self.victims.policy.fetches:
            return
        if isinstance(e, Resumes):
            self._fetch(thread)
        elif thread not in self._in_heap:
            self._plan(thread)

    @property
    def due_s(self) -> float | None:
        """By the clock: when `advance` has something to do."""
        return self._due[0][0] if self._due else None

    def advance(self) -> bool:
        """Begin what is due; True if anything was. A wait that ended meanwhile, and another that began, are looked at now."""
        now_s, num = self.victims.clock(), len(self._due)
        while self._due and self._due[0][0] <= now_s:
            due_s, _, thread = heapq.heappop(self._due)
            self._in_heap.discard(thread)
            rest = self._last(thread)
            if rest is not None and rest.since_s < due_s:
                self._fetch(thread)
            elif rest is not None:
                self._plan(thread)
        return len(self._due) < num

    @staticmethod
    def _last(thread: Thread) -> Rest | None:
        return next(reversed(thread.rests.values()), None)

    def _plan(self, thread: Thread) -> None:
        rest, now_s = self._last(thread), self.victims.clock()
        if rest is None:
            return
        num_pages = sum(self.table.pages(f.computed) for f in thread.files)
        load_s = self.victims.measured.costs().move_s("host", num_pages)
        due_s = prefetch.begins_s(thread.name, rest, load_s, self.victims.predictor, now_s)
        if due_s is not None and due_s > now_s:
            self._num += 1
            heapq.heappush(self._due, (due_s, self._num, thread))
            self._in_heap.add(thread)

    def _fetch(self, thread: Thread) -> None:
        for f in thread.files:
            if self._may_load(f):
                self.tiers.carrier.load(f, None)
                self.victims.num_fetched += 1

    def _may_load(self, f: PagedFile) -> bool:
        if f.job is not None or f.resting is not None or f.move is not None or f.below <= f.frontier:
            return False
        need = self.table.pages(f.below) - f.frontier // self.table.page_size
        spare = self.table.pool.get_num_free_blocks() - self.table.num_pages // RESERVE
        return need <= spare and not self._is_tight()
