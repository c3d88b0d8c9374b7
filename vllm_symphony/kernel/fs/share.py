"""Pages that files have together, and what each costs (kernel/fs/share.py).

    A  |0 1 2 3 4|5 6|              trunk 0..4: A and B (and for its first two pages C) began with it
    B  |0 1 2 3 4|7|                what lies behind the trunks is the file's own
    C  |0 1|                        page 0 costs each of them 1/3, page 4 costs A and B 1/2

Forks share pages as the engine's copy-on-write does: all that is computed, also a partial last page, until one side writes into it;
that side gets a page of its own. What extract or concat makes shares the whole pages at its beginning that stay as they are. Which
blocks these are is the engine's truth; this is the split of their cost by identity. All sharing is of first pages, so a file is a
path of trunks, and a fork costs as much as there are trunks, however long the file is.
A file that never was forked is not here at all.
Invariants (`check`): the trunks of a file lie within its computed pages; who is in a trunk has a page of it.
"""

from __future__ import annotations

from bisect import bisect_left

from vllm_symphony.abi.types import Ino
from vllm_symphony.kernel.fs.inode import Inode


class Trunk:
    """A run of pages that several files have; each has some of the first ones (`parts`)."""

    __slots__ = ("_costs", "_ends", "parts")

    def __init__(self) -> None:
        self.parts: dict[Sharing, int] = {}
        self._ends: list[int] | None = None  # lengths of the parts, ascending
        self._costs: list[float] = []  # of that many first pages, to each that has them

    def put(self, sharing: Sharing, num_pages: int) -> None:
        """The file has so many of its pages now."""
        if num_pages:
            self.parts[sharing] = num_pages
        else:
            del self.parts[sharing]
        self._ends = None

    def holders(self, page: int) -> int:
        """How many files have its page of that index."""
        return sum(part > page for part in self.parts.values())

    def cost(self, num_pages: int) -> float:
        """Of its first pages, to one of the files that have them."""
        if self._ends is None:
            self._ends = sorted(self.parts.values())
            self._costs, at, total = [], 0, 0.0
            for index, end in enumerate(self._ends):
                total += (end - at) / (len(self._ends) - index)
                at = end
                self._costs.append(total)
        index = bisect_left(self._ends, num_pages)
        before, at = (self._costs[index - 1], self._ends[index - 1]) if index else (0.0, 0)
        return before + (num_pages - at) / (len(self._ends) - index) if num_pages > at else before


class Sharing:
    """Of a file that was forked, or is a fork: its trunks from its first page on. `filled`: tokens that were in its pages when
    that was last looked at."""

    __slots__ = ("filled", "inode", "trunks")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.filled = inode.frontier
        self.trunks: list[Trunk] = []

    @property
    def num_pages(self) -> int:
        """That lie in trunks."""
        return sum(trunk.parts[self] for trunk in self.trunks)

    def keep(self, num_pages: int) -> None:
        """Have no more than so many pages in trunks."""
        left = num_pages
        for index, trunk in enumerate(self.trunks):
            part = trunk.parts[self]
            if part > left:
                trunk.put(self, left)
                for later in self.trunks[index + 1 :]:
                    later.put(self, 0)
                del self.trunks[index + bool(left) :]
                return
            left -= part

    @property
    def is_mixed(self) -> bool:
        """Files of several owners have its pages."""
        owner = self.inode.owner
        return any(other.inode.owner != owner for trunk in self.trunks for other in trunk.parts)


class Shares:
    """The sharing of all files. `num_pages` are counted from the file's first page on."""

    __slots__ = ("_page_size", "_sharing")

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._sharing: dict[Ino, Sharing] = {}

    def pages_for(self, num_tokens: int) -> int:
        """How many pages hold so many tokens."""
        return -(-num_tokens // self._page_size)

    def get(self, inode: Inode) -> Sharing | None:
        """Its sharing, up to date; None: all its pages are its own."""
        sharing = self._sharing.get(inode.ino)
        if sharing is not None:
            self._settle(sharing)
        return sharing

    def fork(self, source: Inode, copy: Inode) -> None:
        """`copy` has just been made of `source`. While a job writes the source only whole pages are shared: it goes on writing
        into the last one."""
        num_pages = copy.frontier // self._page_size if source.writer is not None else self.pages_for(copy.frontier)
        self.share(source, copy, num_pages)

    def share(self, source: Inode, copy: Inode, num_pages: int) -> None:
        """All that is computed of `copy`, a new file, are the first pages of `source`."""
        if not num_pages:
            return
        old = self.get(source) or self._sharing.setdefault(source.ino, Sharing(source))
        own = num_pages - old.num_pages
        if own > 0:
            last = old.trunks[-1] if old.trunks else None
            if last is None or len(last.parts) > 1:
                last = Trunk()
                old.trunks.append(last)
            last.put(old, last.parts.get(old, 0) + own)
        new = self._sharing[copy.ino] = Sharing(copy)
        left = num_pages
        for trunk in old.trunks:
            if not left:
                break
            part = min(left, trunk.parts[old])
            trunk.put(new, part)
            new.trunks.append(trunk)
            left -= part

    def grew(self, inode: Inode) -> None:
        """More of it is computed."""
        sharing = self._sharing.get(inode.ino)
        if sharing is not None:
            self._settle(sharing)

    def cut(self, inode: Inode, length: int) -> None:
        """It is about to forget its tokens from `length` on."""
        sharing = self.get(inode)
        if sharing is not None and length < sharing.filled:
            sharing.filled = length
            sharing.keep(self.pages_for(length))

    def drop(self, inode: Inode) -> None:
        """It is gone, and its part falls to those who shared with it."""
        sharing = self._sharing.pop(inode.ino, None)
        if sharing is not None:
            sharing.keep(0)

    def charge(self, inode: Inode, num_pages: int, num_tokens: int = 0) -> float:
        """What its first `num_pages` cost; those behind the computed ones are its own. With `num_tokens`, what they will cost when
        so many tokens are computed: the last page is no longer shared then."""
        sharing = self.get(inode)
        if sharing is None:
            return float(num_pages)
        left = num_pages
        if num_tokens > sharing.filled and sharing.filled % self._page_size:
            left = min(left, sharing.filled // self._page_size)
        cost = float(num_pages - left)
        for trunk in sharing.trunks:
            part = min(left, trunk.parts[sharing])
            cost += trunk.cost(part)
            left -= part
        return cost + left

    def left_behind(self, inode: Inode, num_tokens: int) -> float:
        """What its owner's other files will cost more when so many tokens of it are computed: it leaves the last page that they
        share."""
        sharing = self.get(inode)
        if sharing is None or num_tokens <= sharing.filled or not self.has_shared_tail(inode):
            return 0.0
        last = sharing.trunks[-1]
        page = sharing.filled // self._page_size - (sharing.num_pages - last.parts[sharing])
        holders = [other for other, part in last.parts.items() if part > page]
        num_own = sum(other is not sharing and other.inode.owner == inode.owner for other in holders)
        return num_own * (1 / (len(holders) - 1) - 1 / len(holders))

    def relative(self, inode: Inode) -> tuple[Inode, int] | None:
        """The oldest other file with its last shared pages, and how many first pages they have together."""
        sharing = self.get(inode)
        if sharing is None or not sharing.trunks:
            return None
        last = sharing.trunks[-1]
        for other, part in last.parts.items():
            if other is not sharing:
                own = last.parts[sharing]
                return other.inode, sharing.num_pages - own + min(own, part)
        return None

    def has_shared_tail(self, inode: Inode) -> bool:
        """Its last page is partial and others have it too: the next token needs a new one."""
        sharing = self.get(inode)
        if sharing is None or not sharing.filled % self._page_size:
            return False
        return self._tail_is_shared(sharing, sharing.filled // self._page_size)

    def _tail_is_shared(self, sharing: Sharing, page: int) -> bool:
        if not sharing.trunks or sharing.num_pages <= page:
            return False
        last = sharing.trunks[-1]
        return last.holders(last.parts[sharing] - 1) > 1

    def _settle(self, sharing: Sharing) -> None:
        """Notice what was computed since: who wrote into a page that others have too has one of its own now."""
        frontier = sharing.inode.frontier
        if frontier > sharing.filled:
            page, rest = divmod(sharing.filled, self._page_size)
            if rest and self._tail_is_shared(sharing, page):
                sharing.keep(page)
            sharing.filled = frontier
        elif frontier < sharing.filled:
            sharing.filled = frontier
            sharing.keep(self.pages_for(frontier))

    def check(self, inodes: dict[Ino, Inode]) -> None:
        """The invariants above; only living files are here."""
        for ino, sharing in self._sharing.items():
            assert inodes.get(ino) is sharing.inode
            assert sharing.num_pages <= self.pages_for(min(sharing.filled, sharing.inode.frontier))
            for trunk in sharing.trunks:
                assert trunk.parts[sharing] > 0
                assert all(self._sharing.get(other.inode.ino) is other and trunk in other.trunks for other in trunk.parts)
