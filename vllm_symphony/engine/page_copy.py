"""Copies of pages below the device (engine/page_copy.py).

    file A  copies [c0][c1][c2]          c0: host slot 5            one object for one page's content, however many files
    file B  copies [c0][c1][c3]          c1: host slot 6, disk      (forks) hold it; immutable, counted
                                         c2: disk

A copy holds the keys and values of its page's first `num_tokens`. A file says how far its copies are good (`PagedFile.below`), so
that a file which is cut and goes on differently shares what came before. `busy` are moves that read or fill the copy: it stays
where it is. What a domain may hold is counted by who made the copy. A segment whose last copy goes is removed by the engine's own
name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vllm_symphony.abi.record import SavedPage
from vllm_symphony.kernel.effect import LimitDomain


@dataclass(slots=True, eq=False)
class PageCopy:
    """`slot` of the host's arena, `saved` on disk; at least one of them once it is filled. Made with one reference."""

    num_tokens: int
    domain: str
    refs: int = 1
    slot: int | None = None
    saved: SavedPage | None = None
    busy: int = 0


class Copies:
    """The room below the device: slots of the host's arena, bytes on disk. `remove` takes away a segment that nobody needs."""

    def __init__(self, num_slots: int = 0, num_disk_pages: int = 0, remove: Callable[[str], None] = lambda segment: None) -> None:
        self.num_slots = num_slots
        self.num_disk_pages = num_disk_pages
        self._remove = remove
        self._free = list(range(num_slots - 1, -1, -1))
        self.host_pages: Counter[str] = Counter()  # of each domain
        self.disk_pages: Counter[str] = Counter()
        self.limits: dict[str, LimitDomain] = {}
        self._segments: Counter[str] = Counter()  # copies in it

    # ---- references

    def share(self, copies: Iterable[PageCopy]) -> None:
        for c in copies:
            c.refs += 1

    def release(self, copies: Sequence[PageCopy]) -> None:
        for c in reversed(copies):  # the slots are taken again in their order
            c.refs -= 1
            assert c.refs >= 0
            if not c.refs:
                self.leave_host(c)
                self.leave_disk(c)

    # ---- places

    def take_slot(self, c: PageCopy) -> int:
        c.slot = self._free.pop()
        self.host_pages[c.domain] += 1
        return c.slot

    def leave_host(self, c: PageCopy) -> None:
        if c.slot is not None:
            self._free.append(c.slot)
            self.host_pages[c.domain] -= 1
            c.slot = None

    def put_on_disk(self, c: PageCopy, saved: SavedPage) -> None:
        assert c.saved is None
        c.saved = saved
        self.disk_pages[c.domain] += 1
        self._segments[saved.segment] += 1

    def leave_disk(self, c: PageCopy) -> None:
        if c.saved is None:
            return
        segment, c.saved = c.saved.segment, None
        self.disk_pages[c.domain] -= 1
        self._segments[segment] -= 1
        if not self._segments[segment]:
            del self._segments[segment]
            self._remove(segment)

    # ---- room

    @property
    def num_free_slots(self) -> int:
        return len(self._free)

    def host_allowance(self, domain: str, page_bytes: int) -> int:
        """Pages that the domain may still put into host memory, however much of it is free."""
        limit = self.limits.get(domain)
        if limit is None or limit.host_bytes is None:
            return self.num_slots
        return max(0, limit.host_bytes // page_bytes - self.host_pages[domain])

    def disk_room(self, domain: str, page_bytes: int) -> int:
        """Pages that the domain may demote to disk now."""
        room = self.num_disk_pages - self.disk_pages.total()
        limit = self.limits.get(domain)
        if limit is not None and limit.disk_bytes is not None:
            room = min(room, limit.disk_bytes // page_bytes - self.disk_pages[domain])
        return max(0, room)

    # ---- truth

    def check(self, holders: Iterable[Iterable[PageCopy]]) -> None:
        """Prove the counts; `holders` are the lists of all files and moves."""
        refs: Counter[int] = Counter()
        copies: dict[int, PageCopy] = {}
        for held in holders:
            for c in held:
                refs[id(c)] += 1
                copies[id(c)] = c
        for key, n in refs.items():
            c = copies[key]
            assert c.refs == n, f"a copy has {c.refs} references, {n} are known"
        slots = [c.slot for c in copies.values() if c.slot is not None]
        assert sorted([*slots, *self._free]) == list(range(self.num_slots)), (len(slots), len(self._free), self.num_slots)
        assert self.host_pages.total() == len(slots)
        segments = Counter(c.saved.segment for c in copies.values() if c.saved is not None)
        assert segments == self._segments, (segments, self._segments)
