"""Who has pages, by age and by time: the orders hold under any sequence of what can happen to files."""

from __future__ import annotations

import time

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.holder import Holders
from vllm_symphony.engine.page_table import PagedFile


def file(ino: int, born: float, last_used: float = 0.0) -> PagedFile:
    f = PagedFile(Ino(ino), [1, 2], "", born=born, last_used=last_used)
    f.blocks = [object()]
    return f


class Files(RuleBasedStateMachine):
    """A file's time is over when its `last_used` has come."""

    def __init__(self) -> None:
        super().__init__()
        self.holders = Holders()
        self.files: list[PagedFile] = []
        self.now = 0.0

    def pick(self, n: int) -> PagedFile:
        return self.files[n % len(self.files)]

    @rule(born=st.integers(0, 5), over=st.integers(0, 20))
    def create(self, born: int, over: int) -> None:
        f = file(len(self.files), float(born), float(over))
        self.files.append(f)
        self.holders.enter(f)

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99))
    def lend(self, n: int) -> None:
        f = self.pick(n)
        f.job, f.blocks = JobId(1), []
        self.holders.leave(f)

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99), over=st.integers(0, 20))
    def end(self, n: int, over: int) -> None:
        f = self.pick(n)
        f.blocks, f.job, f.last_used = [object()], None, float(over)
        self.holders.enter(f)

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99), over=st.integers(0, 20))
    def keep_longer(self, n: int, over: int) -> None:
        f = self.pick(n)
        f.last_used = max(f.last_used, float(over))  # unasked: it is found when the old time has come

    @precondition(lambda self: self.files)
    @rule(n=st.integers(0, 99), pinned=st.booleans())
    def pin(self, n: int, pinned: bool) -> None:
        self.pick(n).pinned = pinned

    @rule()
    def tick(self) -> None:
        self.now += 1.0

    @rule(born=st.integers(0, 5))
    def look(self, born: int) -> None:
        here = [f for f in self.files if f.blocks and not f.pinned]
        over = [f for window in self.holders.over(self.now) for f in window]
        younger = list(self.holders.younger(float(born)))

        assert set(over) == {f for f in here if f.job is None and f.last_used <= self.now}
        assert set(younger) == {f for f in here if f.born > born}
        assert [f.born for f in younger] == sorted((f.born for f in younger), reverse=True)

    @invariant()
    def holds(self) -> None:
        self.holders.check(self.files)


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_pinned_and_held_files_and_those_with_a_job_are_not_idle():
    holders = Holders()
    pinned, held, busy, good = (file(i, float(i)) for i in range(4))
    for f in (pinned, held, busy, good):
        holders.enter(f)
    pinned.pinned, held.held, busy.job = True, True, JobId(1)

    assert holders.idle() == [good]


def test_nobody_who_can_give_is_found_at_once_among_ten_thousand():
    holders = Holders()
    for i in range(10_000):
        holders.enter(file(i, float(i), last_used=1e9))

    began = time.perf_counter()
    for _ in range(1000):
        assert not list(holders.over(5.0)) and not list(holders.younger(1e9))

    assert (time.perf_counter() - began) / 1000 < 1e-3
