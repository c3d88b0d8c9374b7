"""The page table over a fake pool: each invariant after each step, and content against plain lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import count
from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.page_table import NEVER_CACHED, Lent, PagedFile, PageTable

PAGE = 4
NUM_PAGES = 24


@dataclass(eq=False)
class FakeBlock:
    block_id: int
    ref_cnt: int = 0
    block_hash: Any = None
    cells: list[Any] = field(default_factory=lambda: [None] * PAGE)  # what the device would hold


class FakePool:
    """vLLM's BlockPool in twenty lines; a block that is handed out loses its hash and its content."""

    def __init__(self, num_blocks: int) -> None:
        self.free = [FakeBlock(i) for i in range(num_blocks)]

    def get_new_blocks(self, num_blocks: int) -> list[FakeBlock]:
        if num_blocks > len(self.free):
            raise ValueError("no free blocks")
        taken, self.free = self.free[:num_blocks], self.free[num_blocks:]
        for b in taken:
            assert b.ref_cnt == 0
            b.ref_cnt, b.block_hash, b.cells = 1, None, [None] * PAGE
        return taken

    def free_blocks(self, ordered_blocks: Iterable[FakeBlock]) -> None:
        for b in ordered_blocks:
            assert b.ref_cnt > 0, "freed twice"
            b.ref_cnt -= 1
            if b.ref_cnt == 0:
                self.free.append(b)

    def touch(self, blocks: Sequence[FakeBlock]) -> None:
        for b in blocks:
            assert b.ref_cnt > 0
            b.ref_cnt += 1

    def get_num_free_blocks(self) -> int:
        return len(self.free)


def make(num_pages: int = NUM_PAGES) -> tuple[PageTable, FakePool]:
    pool = FakePool(num_pages)
    return PageTable(pool, PAGE, num_pages), pool


def positions(f: PagedFile) -> list[int]:
    out = []
    for (at, delta), end in zip(f.runs, [*[r[0] for r in f.runs[1:]], len(f.tokens)], strict=True):
        out += [i + delta for i in range(at, end)]
    return out


def compute(table: PageTable, pool: FakePool, f: PagedFile, *, upto: int | None = None, lowest: int | None = None) -> None:
    """What a job does: borrow, run the copies, grow, write each token's KV, publish full pages, give back."""
    start = min(f.frontier, len(f.tokens) if lowest is None else lowest)
    upto = len(f.tokens) if upto is None else upto
    need = table.pages_to_lend(f, start, upto)
    free = pool.get_num_free_blocks()
    retained: list[tuple[Any, Any]] = []
    f.job = JobId(1)
    cached = NEVER_CACHED if f.private else f.num_cached
    blocks = table.lend(f, start, retained)
    table.check([blocks], retained)
    for src, dst in retained:
        dst.cells = list(src.cells)
        pool.free_blocks([src, dst])
    blocks += pool.get_new_blocks(table.pages(upto) - len(blocks))
    assert free - pool.get_num_free_blocks() <= need, "the job took more than was counted"
    where = positions(f)
    for i in range(start, upto):
        block = blocks[i // PAGE]
        assert block.ref_cnt == 1 and block.block_hash is None, "a shared or hashed page was written"
        block.cells[i % PAGE] = (f.tokens[i], where[i])
    full = upto // PAGE
    hashes = [tuple(f.tokens[: (i + 1) * PAGE]) for i in range(full)]
    if cached != NEVER_CACHED:
        for i in range(cached, full):
            assert blocks[i].block_hash is None, "published twice: vLLM's pool asserts this"
            blocks[i].block_hash = hashes[i]
        cached = full
    f.job = None
    table.take_back(f, blocks, upto, cached, hashes if not f.private else [])


def assert_holds_its_tokens(f: PagedFile) -> None:
    where = positions(f)
    for i in range(f.frontier):
        assert f.blocks[i // PAGE].cells[i % PAGE] == (f.tokens[i], where[i]), (f.ino, i)


def test_fork_shares_pages_until_the_first_write():
    table, pool = make()
    a = table.create(Ino(1), list(range(6)), "", 0.0)
    compute(table, pool, a)

    b = table.fork(a, Ino(2), 6, 1.0)
    assert pool.get_num_free_blocks() == NUM_PAGES - 2
    b.extend([100], 6)
    compute(table, pool, b)

    assert pool.get_num_free_blocks() == NUM_PAGES - 3
    assert b.blocks[0] is a.blocks[0] and b.blocks[1] is not a.blocks[1]
    assert_holds_its_tokens(a)
    assert_holds_its_tokens(b)
    table.check()


def test_a_hashed_page_is_copied_before_it_is_written_after_a_truncation():
    table, pool = make()
    a = table.create(Ino(1), list(range(8)), "", 0.0)
    compute(table, pool, a)
    published = a.blocks[1]

    table.truncate(a, 6)
    a.extend([50], 6)
    compute(table, pool, a)

    assert a.blocks[1] is not published and published.ref_cnt == 0
    assert published.cells[2:] == [(6, 6), (7, 7)], "the prefix cache would give a wrong page"
    table.check()


def test_a_file_with_a_gap_is_private_as_long_as_it_has_pages():
    table, pool = make()
    a = table.create(Ino(1), list(range(6)), "", 0.0)
    compute(table, pool, a)

    a.extend([9, 9, 9], 20)
    compute(table, pool, a)
    assert a.private and a.next_position == 23
    table.truncate(a, 6)
    assert a.private and not a.has_gaps and table.fork(a, Ino(2), 6, 0.0).private
    table.evict(a)
    assert not a.private

    compute(table, pool, a)
    assert_holds_its_tokens(a)
    table.drop(table.files[Ino(2)])
    table.check()


def test_a_fork_of_a_lent_file_shares_only_full_computed_pages():
    table, pool = make()
    a = table.create(Ino(1), list(range(11)), "", 0.0)
    compute(table, pool, a, upto=10)
    retained: list[Any] = []
    a.job = JobId(1)
    blocks = table.lend(a, 10, retained)

    b = table.fork(a, Ino(2), 11, 0.0, Lent(blocks, 10, [1, 2]))

    assert b.frontier == 8 and b.blocks == blocks[:2] and b.num_cached == 2 and b.hashes == [1, 2]
    table.check([blocks], retained)


def test_pages_to_lend_counts_the_page_that_trimming_gives_up():
    table, pool = make(3)
    a = table.create(Ino(1), list(range(9)), "", 0.0)
    compute(table, pool, a)
    assert pool.get_num_free_blocks() == 0

    assert table.pages_to_lend(a, 8, 9) == 0
    compute(table, pool, a, lowest=8)

    assert_holds_its_tokens(a)


def test_check_finds_a_leak_and_a_wrong_count():
    table, pool = make()
    a = table.create(Ino(1), list(range(6)), "", 0.0)
    compute(table, pool, a)

    pool.touch(a.blocks[:1])
    with pytest.raises(AssertionError, match="references of ours"):
        table.check()
    a.blocks[0].ref_cnt -= 1
    pool.get_new_blocks(1)
    with pytest.raises(AssertionError, match="a page leaked"):
        table.check()


class Files(RuleBasedStateMachine):
    """Random files against lists of (token, position)."""

    inos = Bundle("inos")

    def __init__(self) -> None:
        super().__init__()
        self.table, self.pool = make()
        self.model: dict[int, list[tuple[int, int]]] = {}
        self.serial = 0

    def new(self) -> Ino:
        self.serial += 1
        return Ino(self.serial)

    @rule(target=inos, tokens=st.lists(st.integers(0, 3), max_size=13))
    def create(self, tokens: list[int]) -> Ino:
        ino = self.new()
        self.table.create(ino, list(tokens), "", 0.0)
        self.model[ino] = [(t, i) for i, t in enumerate(tokens)]
        return ino

    @rule(target=inos, src=inos, data=st.data())
    def fork(self, src: Ino, data: Any) -> Ino:
        if src not in self.model:
            return src
        ino = self.new()
        n = data.draw(st.integers(0, len(self.model[src])))
        self.table.fork(self.table.files[src], ino, n, 0.0)
        self.model[ino] = self.model[src][:n]
        return ino

    @rule(ino=inos, tokens=st.lists(st.integers(0, 3), min_size=1, max_size=9), gap=st.sampled_from([0, 0, 0, 5]))
    def extend(self, ino: Ino, tokens: list[int], gap: int) -> None:
        if ino not in self.model or len(self.model[ino]) > 3 * PAGE * 3:
            return
        file = self.table.files[ino]
        start = (self.model[ino][-1][1] + 1 if self.model[ino] else 0) + gap
        file.extend(tokens, start)
        self.model[ino] += [(t, start + i) for i, t in enumerate(tokens)]
        assert file.next_position == start + len(tokens)

    @rule(ino=inos, data=st.data())
    def truncate(self, ino: Ino, data: Any) -> None:
        if ino in self.model:
            n = data.draw(st.integers(0, len(self.model[ino])))
            self.table.truncate(self.table.files[ino], n)
            del self.model[ino][n:]

    @rule(ino=inos, data=st.data())
    def run(self, ino: Ino, data: Any) -> None:
        if ino not in self.model or not self.model[ino]:
            return
        file = self.table.files[ino]
        lowest = data.draw(st.one_of(st.none(), st.integers(0, len(file.tokens) - 1)))
        upto = data.draw(st.integers(max(file.frontier, 1), len(file.tokens)))
        start = min(file.frontier, len(file.tokens) if lowest is None else lowest)
        if start < upto and self.table.pages_to_lend(file, start, upto) <= self.pool.get_num_free_blocks():
            compute(self.table, self.pool, file, upto=upto, lowest=lowest)

    @rule(ino=inos)
    def evict(self, ino: Ino) -> None:
        if ino in self.model and self.table.files[ino].blocks:
            sole = sum(block.ref_cnt == 1 for block in self.table.files[ino].blocks)
            assert self.table.evict(self.table.files[ino]) == sole

    @rule(ino=inos)
    def drop(self, ino: Ino) -> None:
        if ino in self.model:
            self.table.drop(self.table.files[ino])
            del self.model[ino]

    @precondition(lambda self: self.pool.get_num_free_blocks() < 4)
    @rule()
    def make_room(self) -> None:
        for f in list(self.table.idle_files()):
            self.table.evict(f)

    @invariant()
    def holds(self) -> None:
        self.table.check()
        assert set(self.table.files) == set(self.model)
        for ino, expected in self.model.items():
            f = self.table.files[Ino(ino)]
            assert list(zip(f.tokens, positions(f), strict=True)) == expected
            assert_holds_its_tokens(f)
            assert f.has_gaps == any(p != i for i, (_, p) in enumerate(expected)) or not expected

    def teardown(self) -> None:
        for f in list(self.table.files.values()):
            self.table.drop(f)
        assert self.pool.get_num_free_blocks() == NUM_PAGES


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=count(60, 1000), stateful_step_count=count(30, 60), deadline=None)
