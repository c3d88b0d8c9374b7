"""Page table: which vLLM blocks hold a file's tokens (engine/page_table.py).

    file A  [b0][b1][b2]
    file B  [b0][b1][b3]      after fork + one write: b0, b1 are shared

    tokens  |<-- frontier: KV is in the blocks -->|<-- pending: computed by the next job -->|
            |<-- fixed -->|                              of an edited file: KV that does not follow from the tokens

The last token of a file is never among the fixed ones: who asks what follows it runs it through the model again, over what stands
before it. So an edited file, too, gives one answer however it is asked.
vLLM's BlockPool counts the references and is the sole truth; this table says which of them are ours. While a job runs on a file its
blocks belong to the job's request (`lend`), and come back when it ends (`take_back`).
Invariants (`check`):
  1. for each block, our slots that point at it, with those of requests and pending copies, are the pool's ref_cnt
  2. a block that is shared or hashed is copied before it is written
  3. len(blocks) == ceil(frontier / page_size) on a file that is not lent
  4. fixed tokens have KV, here or below, and lose it to truncation only
  5. the first `below` tokens have copies of their pages below the device (page_copy.py), whatever the device has of them
The pool is duck-typed (get_new_blocks, free_blocks, touch, get_num_free_blocks), so the simulator runs the same code.
Source: fork and copy-on-write as in 4.4BSD, ch. 5; vllm/v1/core/block_pool.py and single_type_kv_cache_manager.py (0.32).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol

from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.holder import Holders
from vllm_symphony.engine.page_copy import Copies, PageCopy

NEVER_CACHED = 1 << 60  # in place of "blocks hashed so far": vLLM's cache_blocks() then has nothing to do


class Pool(Protocol):
    """vLLM's BlockPool, as much of it as is used here."""

    def get_new_blocks(self, num_blocks: int) -> list[Any]: ...
    def free_blocks(self, ordered_blocks: Iterable[Any]) -> None: ...
    def touch(self, blocks: Sequence[Any]) -> None: ...
    def get_num_free_blocks(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Lent:
    """A file's pages while a request has them: its blocks, how many tokens surely have KV in them, its block hashes."""

    blocks: Sequence[Any]
    computed: int
    hashes: Sequence[Any]


@dataclass(slots=True, eq=False, weakref_slot=True)
class PagedFile:
    """A file as the engine sees it: tokens, positions, and where their KV is."""

    ino: Ino
    tokens: list[int]
    domain: str
    born: float  # engine clock, seconds: the older file is served first when pages are short
    runs: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])  # (index, delta): position = index + delta from index on
    blocks: list[Any] = field(default_factory=list)
    frontier: int = 0
    num_cached: int = 0  # leading blocks that are in the prefix cache
    hashes: list[Any] = field(default_factory=list)  # vLLM's block hashes of the full blocks
    job: JobId | None = None
    resting: Any = None  # the job whose request holds the blocks although it is done (engine/device.py)
    last_used: float = 0.0
    num_uses: int = 0  # jobs and forks so far
    rows: dict[int, int] = field(default_factory=dict)  # index of a token -> id of its kept row
    private: bool = False  # gaps, edited, or of another domain: never found or published by hash, as long as it has pages
    fixed: int = 0  # leading tokens whose KV cannot be computed again: never given up
    held: bool = False  # somebody is about to read its pages: they stay
    copies: list[PageCopy] = field(default_factory=list)  # of its leading pages, below the device ...
    below: int = 0  # ... good for so many tokens
    pinned: bool = False  # its pages stay on the device
    move: Any = None  # of its pages, in flight (engine/tier.py)
    source: Callable[[], PagedFile | None] = lambda: None  # which it was forked from, while that is there

    @property
    def has_gaps(self) -> bool:
        """The KV is no function of the tokens alone."""
        return len(self.runs) > 1 or self.runs[0] != (0, 0)

    @property
    def edited(self) -> bool:
        """Its KV came from extract or concat: it cannot be computed from the tokens."""
        return self.fixed > 0

    @property
    def has_pages(self) -> bool:
        """Its own, here or below; not those that a request has."""
        return bool(self.blocks or self.copies)

    @property
    def computed(self) -> int:
        """Leading tokens that have KV, on the device or below."""
        return max(self.frontier, self.below)

    @property
    def next_position(self) -> int:
        return len(self.tokens) + self.runs[-1][1]

    def used(self, now: float) -> None:
        """By a job, or by a fork, which reads its pages."""
        self.last_used = now
        self.num_uses += 1

    def extend(self, tokens: Sequence[int], start: int) -> None:
        """Append tokens without KV, the first at position `start`."""
        delta = start - len(self.tokens)
        if delta != self.runs[-1][1]:
            if self.runs[-1][0] == len(self.tokens):
                self.runs.pop()
            self.runs.append((len(self.tokens), delta))
            self.private = self.has_gaps or self.edited or (self.private and self.has_pages)
        self.tokens.extend(tokens)

    def cut(self, length: int) -> None:
        """Forget tokens and positions from `length` on (not the blocks)."""
        del self.tokens[length:]
        while len(self.runs) > 1 and self.runs[-1][0] >= length:
            self.runs.pop()


class PageTable:
    """All files of one engine, over its block pool. Owned by the engine thread."""

    def __init__(self, pool: Pool, page_size: int, num_pages: int) -> None:
        self.pool = pool
        self.page_size = page_size
        self.num_pages = num_pages
        self.files: dict[Ino, PagedFile] = {}
        self.copies = Copies()
        self.holders = Holders()
        self.dropped_rows: list[int] = []  # row ids whose file forgot them; the device takes this list

    # ---- identity

    def create(self, ino: Ino, tokens: list[int], domain: str, now: float) -> PagedFile:
        """A file without KV. Owns `tokens`."""
        assert ino not in self.files
        f = self.files[ino] = PagedFile(ino, tokens, domain, born=now, last_used=now)
        return f

    def fork(
        self, src: PagedFile, dst: Ino, length: int, now: float, lent: Lent | None = None, domain: str | None = None
    ) -> PagedFile:
        """`dst` shares the computed part of `src`'s first `length` tokens; O(num_pages), no device work.

        While a job runs on `src` (`lent`) only full pages are shared, since the job goes on writing into the tail; and the page
        that ends the fixed part, where it writes behind them. In another `domain` nothing is published (None: the source's).
        """
        f = self.create(dst, src.tokens[:length], src.domain if domain is None else domain, now)
        src.used(now)
        f.runs = [r for r in src.runs if r[0] < length] or [src.runs[0]]
        f.fixed = _fixed(src.fixed, length)
        if lent is None:
            f.frontier = min(length if length > src.fixed else f.fixed, src.frontier)
            full = f.frontier // self.page_size
            f.blocks = src.blocks[: self.pages(f.frontier)]
            f.hashes = src.hashes[:full]
            f.num_cached = min(src.num_cached, full)
        else:
            full = min(length, lent.computed) // self.page_size
            f.frontier = max(full * self.page_size, f.fixed)
            f.blocks = list(lent.blocks[: self.pages(f.frontier)])
            f.hashes = list(lent.hashes[:full])
            f.num_cached = 0 if src.private else sum(b.block_hash is not None for b in f.blocks)
        f.below = min(length if length > src.fixed else f.fixed, src.below)
        f.copies = src.copies[: self.pages(f.below)]
        self.copies.share(f.copies)
        f.private = (src.private or f.domain != src.domain) and (f.has_pages or f.has_gaps or f.edited)
        if f.private:
            f.num_cached, f.hashes = 0, []
        self.pool.touch(f.blocks)
        self._settle(f)
        f.rows = {i: row for i, row in src.rows.items() if i < length}
        f.source = weakref.ref(src)
        return f

    def build(
        self, dst: Ino, tokens: list[int], runs: list[tuple[int, int]], domain: str, now: float, shared: list[Any], new: list[Any]
    ) -> PagedFile:
        """An edited file: all tokens but the last are fixed, in the blocks `shared` (referenced here) and then `new` (owned)."""
        f = self.create(dst, tokens, domain, now)
        f.runs, f.private = runs, True
        self.pool.touch(shared)
        f.blocks = shared + new
        f.frontier = f.fixed = len(tokens) - 1
        assert len(f.blocks) == self.pages(f.fixed)
        self._settle(f)
        return f

    def adopt(self, f: PagedFile, blocks: Sequence[Any]) -> None:
        """A file without pages shares these, full ones with the KV of its first tokens."""
        assert not f.has_pages
        self.pool.touch(blocks)
        f.blocks = list(blocks)
        f.frontier = len(blocks) * self.page_size
        self._settle(f)

    def truncate(self, f: PagedFile, length: int) -> None:
        """Forget tokens from `length` on and free the pages behind them."""
        assert f.job is None
        f.cut(length)
        self.forget_rows(f, length)
        upto = length if length > f.fixed else _fixed(f.fixed, length)
        f.fixed = _fixed(f.fixed, length)
        self.forget_copies(f, upto)
        if f.move is not None:
            f.move.upto = min(f.move.upto, upto)
        if upto < f.frontier:
            self._trim(f, upto)

    def drop(self, f: PagedFile) -> None:
        """The file is gone: free its pages."""
        assert f.job is None
        self.forget_rows(f, 0)
        f.fixed = 0
        self.forget_copies(f, 0)
        self._trim(f, 0)
        del self.files[f.ino]

    def evict(self, f: PagedFile) -> int:
        """Give up an idle file's pages but those of its fixed part, unless that has copies; its tokens stay, and what has no copy
        is computed again when needed.

        Returns how many blocks became free.
        """
        assert f.job is None or f.blocks
        before = self.pool.get_num_free_blocks()
        self._trim(f, self._floor(f))
        return self.pool.get_num_free_blocks() - before

    def droppable(self, f: PagedFile) -> int:
        """Pages that `evict` takes off the file."""
        return 0 if f.held or f.pinned else max(0, len(f.blocks) - self.pages(self._floor(f)))

    def _floor(self, f: PagedFile) -> int:
        return 0 if f.below >= f.fixed else f.fixed

    def forget_copies(self, f: PagedFile, length: int) -> None:
        """The copies of what lies behind `length` are of no use to the file any more."""
        if length < f.below:
            keep = self.pages(length)
            self.copies.release(f.copies[keep:])
            del f.copies[keep:]
            f.below = length

    def put(self, f: PagedFile, first: int, blocks: list[Any], upto: int) -> None:
        """Pages came back: `blocks` (owned) are the file's pages from `first` on, good for its first `upto` tokens."""
        self.pool.free_blocks(reversed(f.blocks[first:]))
        f.blocks[first:] = blocks
        f.num_cached = min(f.num_cached, first)
        del f.hashes[first:]
        f.frontier = len(f.blocks) * self.page_size
        self._trim(f, upto)

    def rejoin(self, f: PagedFile, g: PagedFile) -> bool:
        """Full pages that `f` has below only and `g` here are both's again, where they have the same copies. True if any are."""
        first = len(f.blocks)
        if f.frontier != first * self.page_size:
            return False
        shared = zip(f.copies[first:], g.copies[first:], g.blocks[first : g.frontier // self.page_size], strict=False)
        blocks = [b for _, _, b in takewhile(lambda page: page[0] is page[1] and page[0].num_tokens == self.page_size, shared)]
        if not blocks:
            return False
        self.pool.touch(blocks)
        self.put(f, first, blocks, min(f.below, (first + len(blocks)) * self.page_size))
        return True

    def _trim(self, f: PagedFile, length: int) -> None:
        keep = self.pages(length)
        self.pool.free_blocks(reversed(f.blocks[keep:]))
        del f.blocks[keep:]
        f.frontier = length
        full = length // self.page_size
        del f.hashes[full:]
        f.num_cached = min(f.num_cached, full)
        if not f.has_pages:
            f.private = f.has_gaps or f.edited
        self._settle(f)

    def _settle(self, f: PagedFile) -> None:
        """It has got blocks, or given some up."""
        if f.blocks:
            self.holders.enter(f)
        else:
            self.holders.leave(f)

    def forget_rows(self, f: PagedFile, length: int = 0) -> None:
        gone = [i for i in f.rows if i >= length]
        self.dropped_rows += [f.rows.pop(i) for i in gone]

    # ---- lending to a request

    def lend(self, f: PagedFile, computed: int, retained: list[tuple[Any, Any]]) -> list[Any]:
        """Hand the blocks of the first `computed` tokens to a request, the tail made writable.

        A tail that is shared or hashed is copied: the pair (source, copy) is appended to `retained` with one reference on each,
        which whoever runs the copy gives back after it. The caller has made sure that `pages_to_lend` blocks are free.
        """
        if computed < f.frontier:
            self._trim(f, computed)
        if self._tail_needs_copy(f, computed):
            tail = computed // self.page_size
            src = f.blocks[tail]
            dst = self.pool.get_new_blocks(1)[0]
            dst.ref_cnt += 1
            f.blocks[tail] = dst
            retained.append((src, dst))
        blocks, f.blocks = f.blocks, []
        self.holders.leave(f)
        return blocks

    def take_back(self, f: PagedFile, blocks: list[Any], computed: int, num_cached: int, hashes: list[Any]) -> None:
        """A request gives back what it borrowed and grew: `computed` tokens have KV in `blocks`; surplus blocks are freed."""
        f.blocks = blocks
        f.frontier = len(blocks) * self.page_size
        f.num_cached = 0 if num_cached >= NEVER_CACHED else num_cached
        f.hashes = hashes
        self._trim(f, computed)

    def _tail_needs_copy(self, f: PagedFile, computed: int) -> bool:
        if computed % self.page_size == 0:
            return False
        block = f.blocks[computed // self.page_size]
        return bool(block.ref_cnt > 1 or block.block_hash is not None)

    # ---- arithmetic

    def pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def pages_to_lend(self, f: PagedFile, computed: int, num_tokens: int) -> int:
        """Free blocks that a job needs to start at `computed` and hold `num_tokens` tokens, beside those that trimming gives up."""
        kept = self.pages(computed)
        trimmed = sum(1 for b in f.blocks[kept:] if b.ref_cnt == 1)
        return max(0, self.pages(num_tokens) - kept + self._tail_needs_copy(f, computed) - trimmed)

    # ---- truth

    def check(self, lent: Iterable[Sequence[Any]] = (), retained: Iterable[tuple[Any, Any]] = ()) -> None:
        """Prove the invariants; `lent` are the block lists of all requests, `retained` the copies that have not run."""
        self.holders.check(self.files.values())
        refs: Counter[int] = Counter()
        blocks: dict[int, Any] = {}

        def count(bs: Iterable[Any]) -> None:
            for b in bs:
                if not getattr(b, "is_null", False):
                    refs[b.block_id] += 1
                    blocks[b.block_id] = b

        for f in self.files.values():
            count(f.blocks)
            if f.blocks or (f.job is None and f.resting is None):
                assert len(f.blocks) == self.pages(f.frontier), (f.ino, len(f.blocks), f.frontier)
                assert f.frontier <= len(f.tokens), (f.ino, f.frontier, len(f.tokens))
            assert f.private or not (f.has_gaps or f.edited)
            assert f.fixed <= max(0, len(f.tokens) - 1), (f.ino, f.fixed, len(f.tokens))
            assert len(f.copies) == self.pages(f.below) and f.below <= len(f.tokens), (f.ino, len(f.copies), f.below)
            for i, c in enumerate(f.copies):
                assert c.num_tokens >= min(self.page_size, f.below - i * self.page_size), (f.ino, i, c)
            assert f.fixed <= f.computed or f.job is not None or f.resting is not None, (f.ino, f.fixed, f.frontier)
            assert f.runs[0][0] == 0 and all(a[0] < b[0] and a[1] < b[1] for a, b in zip(f.runs, f.runs[1:], strict=False)), f.runs
        for bs in lent:
            count(bs)
        for src, dst in retained:
            count((src, dst))
        for i, n in refs.items():
            assert blocks[i].ref_cnt == n, f"block {i}: {n} references of ours, ref_cnt {blocks[i].ref_cnt}"
        assert len(refs) + self.pool.get_num_free_blocks() == self.num_pages, (
            f"{len(refs)} blocks held + {self.pool.get_num_free_blocks()} free of {self.num_pages}: a page leaked"
        )


def _fixed(fixed: int, length: int) -> int:
    """What stays fixed of a file that is cut to `length`: not its last token."""
    return min(fixed, max(0, length - 1))
