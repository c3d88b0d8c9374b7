"""How the cost of shared pages is split, against lists of page objects."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import count
from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.share import Shares

PAGE = 4
pick = st.integers(0, 1 << 20)


class Files:
    """Files and their sharing, as FileTable drives it."""

    def __init__(self) -> None:
        self.shares = Shares(PAGE)
        self.inodes: dict[Ino, Inode] = {}

    def file(self, num_tokens: int = 0, owner: str = "me") -> Inode:
        inode = Inode(Ino(len(self.inodes) + 1), owner, owner, 0o600, owner, 0)
        self.inodes[inode.ino] = inode
        self.grow(inode, num_tokens)
        return inode

    def grow(self, inode: Inode, num_tokens: int) -> None:
        inode.extend([0] * num_tokens, inode.next_position, 0)
        inode.frontier = inode.length
        self.shares.grew(inode)

    def fork(self, source: Inode, owner: str = "me") -> Inode:
        copy = self.file(owner=owner)
        copy.copy_head(source)
        self.shares.fork(source, copy)
        return copy

    def cut(self, inode: Inode, length: int) -> None:
        self.shares.cut(inode, length)
        inode.cut(length, 0)

    def drop(self, inode: Inode) -> None:
        self.shares.drop(inode)
        self.inodes[inode.ino] = Inode(inode.ino, "", "", 0, "", 0)  # its number is not used again

    def charge(self, inode: Inode) -> float:
        return self.shares.charge(inode, inode.num_pages(PAGE))


@pytest.fixture
def f() -> Files:
    return Files()


def test_a_file_alone_costs_its_pages(f: Files) -> None:
    assert f.charge(f.file(9)) == 3


def test_a_fork_shares_all_pages_until_one_writes(f: Files) -> None:
    a = f.file(10)
    b = f.fork(a)
    assert f.charge(a) == f.charge(b) == 1.5

    f.grow(a, 1)

    assert (f.charge(a), f.charge(b)) == (2, 2)  # two whole pages shared, a last one each


def test_a_full_last_page_stays_shared_when_the_file_grows(f: Files) -> None:
    a = f.file(8)
    b = f.fork(a)

    f.grow(a, 1)

    assert (f.charge(a), f.charge(b)) == (2, 1)


def test_a_fork_of_a_file_that_is_written_has_a_last_page_of_its_own(f: Files) -> None:
    a = f.file(10)
    a.writer = JobId(1)

    b = f.fork(a)

    assert f.charge(a) == f.charge(b) == 2


def test_a_hundred_forks_of_one_file_cost_its_pages_once(f: Files) -> None:
    a = f.file(4000)
    forks = [f.fork(a) for _ in range(99)]

    assert sum(map(f.charge, [a, *forks])) == pytest.approx(1000)
    for fork in forks:
        f.drop(fork)
    assert f.charge(a) == 1000


def test_what_a_file_will_cost_counts_the_page_that_it_must_copy(f: Files) -> None:
    a = f.file(10)
    f.fork(a)

    assert f.shares.has_shared_tail(a)
    assert f.shares.charge(a, 3, num_tokens=11) == 2
    assert f.shares.charge(a, 4, num_tokens=13) == 3


def test_leading_pages_cost_their_part_alone(f: Files) -> None:
    a = f.file(16)
    f.fork(a)

    assert [f.shares.charge(a, n) for n in range(6)] == [0, 0.5, 1, 1.5, 2, 3]


class Split(RuleBasedStateMachine):
    """The model: each file has a list of pages; who has a page in its list pays for it."""

    def __init__(self) -> None:
        super().__init__()
        self.f = Files()
        self.pages: dict[Ino, list[object]] = {}
        self.live: list[Inode] = []

    def holders(self) -> Counter[int]:
        return Counter(id(page) for pages in self.pages.values() for page in pages)

    def choose(self, n: int) -> Inode:
        return self.live[n % len(self.live)]

    @precondition(lambda self: len(self.live) < 7)
    @rule(num_tokens=st.integers(0, 21))
    def create(self, num_tokens: int) -> None:
        inode = self.f.file(num_tokens)
        self.live.append(inode)
        self.pages[inode.ino] = [object() for _ in range(inode.num_pages(PAGE))]

    @precondition(lambda self: self.live)
    @rule(n=pick, num_tokens=st.integers(1, 9))
    def grow(self, n: int, num_tokens: int) -> None:
        inode = self.choose(n)
        pages = self.pages[inode.ino]
        if inode.length % PAGE and self.holders()[id(pages[-1])] > 1:
            pages[-1] = object()
        self.f.grow(inode, num_tokens)
        pages += [object() for _ in range(inode.num_pages(PAGE) - len(pages))]

    @precondition(lambda self: 0 < len(self.live) < 7)
    @rule(n=pick, writing=st.booleans())
    def fork(self, n: int, writing: bool) -> None:
        source = self.choose(n)
        source.writer = JobId(1) if writing else None
        copy = self.f.fork(source)
        source.writer = None
        self.live.append(copy)
        pages = list(self.pages[source.ino])
        if writing and source.length % PAGE:
            pages[-1] = object()
        self.pages[copy.ino] = pages

    @precondition(lambda self: self.live)
    @rule(n=pick, at=pick)
    def cut(self, n: int, at: int) -> None:
        inode = self.choose(n)
        self.f.cut(inode, at % (inode.length + 1))
        del self.pages[inode.ino][inode.num_pages(PAGE) :]

    @precondition(lambda self: self.live)
    @rule(n=pick)
    def drop(self, n: int) -> None:
        inode = self.choose(n)
        self.live.remove(inode)
        self.f.drop(inode)
        del self.pages[inode.ino]

    @invariant()
    def each_page_is_split_evenly(self) -> None:
        self.f.shares.check(self.f.inodes)
        holders = self.holders()
        for inode in self.live:
            costs = [1 / holders[id(page)] for page in self.pages[inode.ino]]
            for num_pages in range(len(costs) + 1):
                assert self.f.shares.charge(inode, num_pages) == pytest.approx(sum(costs[:num_pages]))
            if inode.length % PAGE:
                assert self.f.shares.has_shared_tail(inode) == (costs[-1] < 1)


Split.TestCase.settings = settings(max_examples=count(60, 2000), stateful_step_count=40, deadline=None)
TestSplit = Split.TestCase
