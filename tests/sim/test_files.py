"""Files on a whole simulated machine against a dict model: what is read, computed and drawn follows from (token, position) lists.

The cache is so small that files are evicted or demoted, jobs wait and are preempted; several calls are in flight at once. The
model knows nothing of pages: each distribution is computed anew from its list, so a page that was shared, copied, moved or freed
wrongly is seen. Edited and pinned files cannot be given up: with them there may be no room, and then the files are as before.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.counts import count
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Span, pack_tokens, unpack_floats, unpack_tokens
from vllm_symphony.engine.sim import Cost, SimModel
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import FileBusy, Interrupted, NotSupported, OutOfPages, QuotaExceeded
from vllm_symphony.testing import Machine

PAGE = 4
MODEL = SimModel()
tokens = st.lists(st.integers(32, 126), min_size=1, max_size=11)
pick = st.integers(0, 1 << 20)
Entries = list[tuple[int, int]]  # token, position


def row_after(entries: Entries) -> Any:
    return MODEL.row(entries[-3:])


def following(entries: Entries) -> int:
    return entries[-1][1] + 1 if entries else 0


@dataclass(eq=False)
class Work:
    fd: int
    future: Any
    new: Entries = field(default_factory=list)  # of a forward
    num_tokens: int = 0  # of a generate


class Files(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.num_pages = 0
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.files: dict[int, Entries] = {}
        self.works: dict[int, Work] = {}
        self.edited = False  # or pinned: some pages may be taken from nobody
        self.pinned: set[int] = set()
        self.edits: list[tuple[Any, Entries]] = []  # in flight, and what they will make

    @initialize(num_pages=st.sampled_from([6, 9, 14]), host_pages=st.sampled_from([0, 3, 40]), has_disk=st.booleans())
    def begin(self, num_pages: int, host_pages: int, has_disk: bool) -> None:
        self.num_pages = num_pages
        self.edited = False
        if has_disk:
            self.folder = tempfile.TemporaryDirectory()
        directory = Path(self.folder.name) if self.folder is not None else None
        tiers = TierLimits(host_pages * 8 * PAGE, 1 << 20, directory)
        cost = Cost(max_tokens=7, max_rows=4, moved_bytes_s=3e4)
        self.m = Machine(seed=3, num_pages=num_pages, page_size=PAGE, max_positions=60, cost=cost, tiers=tiers)

    def now(self, op: str, args: object) -> Any:
        """A control call: its answer is there at once."""
        return self.m.client.call(op, args).result()

    def choose(self, n: int, *, idle: bool = True) -> int | None:
        fds = [fd for fd in self.files if not (idle and fd in self.works)]
        return fds[n % len(fds)] if fds else None

    @precondition(lambda self: len(self.files) < 8)
    @rule(new=tokens)
    def create(self, new: list[int]) -> None:
        fd = self.now("open", calls.Open(tokens=pack_tokens(new))).fd
        self.files[fd] = [(t, i) for i, t in enumerate(new)]

    @precondition(lambda self: len(self.files) < 8)
    @rule(n=pick)
    def fork(self, n: int) -> None:
        if (fd := self.choose(n, idle=False)) is None:
            return
        fork = self.now("fork", calls.FdArgs(fd))
        if fd in self.works and self.works[fd].num_tokens:
            self.files[fork.fd] = self.read(fork.fd)  # what had been delivered by then
            assert self.files[fork.fd][: len(self.files[fd])] == self.files[fd]
        else:
            self.files[fork.fd] = list(self.files[fd])

    @rule(n=pick, new=tokens, gap=st.sampled_from([0, 0, 3]))
    def append(self, n: int, new: list[int], gap: int) -> None:
        fd = self.choose(n)
        if fd is None or following(self.files[fd]) + gap + len(new) > 60:
            return
        start = following(self.files[fd]) + gap
        future = self.m.client.call("append", calls.Append(fd, pack_tokens(new), start))
        if (error := future.exception()) is not None:
            assert isinstance(error, QuotaExceeded) and fd in self.pinned, error  # a pinned file may not grow without end
            return
        self.files[fd] += [(t, start + i) for i, t in enumerate(new)]

    @rule(n=pick, advice=st.sampled_from(["willneed", "dontneed"]), tier=st.sampled_from(["host", "disk"]), wait=st.booleans())
    def advise(self, n: int, advice: str, tier: str, wait: bool) -> None:
        if (fd := self.choose(n)) is None:
            return
        future = self.m.client.call("advise", calls.Advise(fd, None, advice, tier, wait))
        self.m.call("sleep", calls.Sleep(0.001))
        if not future.done():
            future.cancel()
        elif (error := future.exception()) is not None:
            assert isinstance(error, OutOfPages | FileBusy | NotSupported | Interrupted), error

    @rule(n=pick, pinned=st.booleans())
    def pin(self, n: int, pinned: bool) -> None:
        if (fd := self.choose(n)) is None:
            return
        future = self.m.client.call("pin", calls.Pin(fd, None, pinned))
        assert isinstance(future.exception(), QuotaExceeded | None)
        self.edited = True
        if not pinned:
            self.pinned.discard(fd)
        elif future.exception() is None:
            self.pinned.add(fd)

    @precondition(lambda self: len(self.files) + len(self.edits) < 8)
    @rule(n=pick, ends=st.lists(pick, min_size=2, max_size=6), compact=st.booleans())
    def extract(self, n: int, ends: list[int], compact: bool) -> None:
        fd = self.choose(n, idle=False)
        if fd is None or not self.files[fd]:
            return
        at = sorted({end % (len(self.files[fd]) + 1) for end in ends})
        spans = tuple(Span(*pair) for pair in zip(at[::2], at[1::2], strict=False))
        if not spans:
            return
        made = [entry for span in spans for entry in self.files[fd][span.start : span.stop]]
        if compact:
            made = [(token, i) for i, (token, _) in enumerate(made)]
        self.edit("extract", calls.Extract(fd, spans, "compact" if compact else "keep"), made)

    @precondition(lambda self: len(self.files) + len(self.edits) < 8)
    @rule(ns=st.lists(pick, min_size=1, max_size=3), mode=st.sampled_from(["recompute", "rotate"]))
    def concat(self, ns: list[int], mode: str) -> None:
        fds = [fd for n in ns if (fd := self.choose(n)) is not None]
        if not fds or following(self.files[fds[0]]) + sum(len(self.files[fd]) for fd in fds[1:]) > 60:
            return
        made = list(self.files[fds[0]])
        for fd in fds[1:]:
            made += [(token, following(made) + i) for i, (token, _) in enumerate(self.files[fd])]
        self.edit("concat", calls.Concat(tuple(fds), mode), made)

    def edit(self, op: str, args: object, made: Entries) -> None:
        self.edits.append((self.m.client.call(op, args), made))
        self.take_ended()

    @precondition(lambda self: self.edits)
    @rule(n=pick)
    def cancel_edit(self, n: int) -> None:
        self.edits[n % len(self.edits)][0].cancel()
        self.m.call("sleep", calls.Sleep(0.01))
        self.take_ended()

    @rule(n=pick, length=pick)
    def truncate(self, n: int, length: int) -> None:
        if (fd := self.choose(n)) is None:
            return
        length %= len(self.files[fd]) + 1
        self.now("truncate", calls.Truncate(fd, length))
        del self.files[fd][length:]

    @rule(n=pick, new=tokens | st.just([]), gap=st.sampled_from([0, 0, 2]))
    def forward(self, n: int, new: list[int], gap: int) -> None:
        fd = self.choose(n)
        if fd is None or not (new or self.files[fd]) or following(self.files[fd]) + gap + len(new) > 60:
            return
        start = following(self.files[fd]) + gap if new else None
        outputs = "all" if new else "last"
        future = self.m.client.call("forward", calls.Forward(fd, pack_tokens(new), start, outputs, top_k=3, keep=outputs))
        self.works[fd] = Work(fd, future, [(t, (start or 0) + i) for i, t in enumerate(new)])

    @rule(n=pick, num_tokens=st.integers(1, 12))
    def generate(self, n: int, num_tokens: int) -> None:
        fd = self.choose(n)
        if fd is None or not self.files[fd] or following(self.files[fd]) + num_tokens > 60:
            return
        self.works[fd] = Work(
            fd, self.m.client.call("generate", calls.Generate(fd, num_tokens, ignore_eos=True)), num_tokens=num_tokens
        )

    @rule(num_tokens=st.integers(4, 12))
    def generate_on_all(self, num_tokens: int) -> None:
        for n in range(len(self.files)):
            self.generate(n, num_tokens)

    @rule(n=pick, position=pick)
    def logits(self, n: int, position: int) -> None:
        fd = self.choose(n)
        if fd is None or not self.files[fd]:
            return
        position %= len(self.files[fd])
        got = unpack_floats(self.m.call("logits", calls.Logits(fd, position)).logits)
        assert got == row_after(self.files[fd][: position + 1]).tolist()
        self.take_ended()

    @precondition(lambda self: self.works)
    @rule(n=pick)
    def cancel(self, n: int) -> None:
        work = list(self.works.values())[n % len(self.works)]
        work.future.cancel()
        self.settle()

    @precondition(lambda self: self.works)
    @rule()
    def settle(self) -> None:
        """Let all that is in flight end."""
        for work in list(self.works.values()):
            while self.now("stat", calls.Stat(work.fd)).file.busy:
                self.m.call("sleep", calls.Sleep(0.01))
        self.m.call("sleep", calls.Sleep(0.01))
        self.take_ended()

    @precondition(lambda self: self.works or self.edits)
    @rule()
    def let_a_moment_pass(self) -> None:
        self.m.call("sleep", calls.Sleep(0.004))
        self.take_ended()

    @rule(n=pick)
    def close(self, n: int) -> None:
        if (fd := self.choose(n)) is not None:
            self.now("close", calls.FdArgs(fd))
            del self.files[fd]
            self.pinned.discard(fd)

    def take_ended(self) -> None:
        for fd in [fd for fd, work in self.works.items() if work.future.done()]:
            self.take(self.works.pop(fd))
        ended = [edit for edit in self.edits if edit[0].done()]
        self.edits = [edit for edit in self.edits if edit not in ended]
        for future, made in ended:
            error = Interrupted("cancelled") if future.cancelled() else future.exception()
            assert isinstance(error, Interrupted | OutOfPages | None), error
            if error is None:
                self.files[future.result().fd] = made
                self.edited = True

    def take(self, work: Work) -> None:
        entries = self.files[work.fd]
        error = Interrupted("cancelled") if work.future.cancelled() else work.future.exception()
        if error is not None:
            assert isinstance(error, Interrupted | OutOfPages) or (isinstance(error, QuotaExceeded) and work.fd in self.pinned), (
                error
            )
            if isinstance(error, OutOfPages) and not self.edited:
                assert len(entries) + len(work.new) + work.num_tokens > self.num_pages * PAGE, error
            if work.num_tokens or isinstance(error, Interrupted):
                self.accept(work, self.read(work.fd))
            return
        if not work.num_tokens:
            self.check_forward(work, work.future.result())
            return
        result = work.future.result()
        assert len(unpack_tokens(result.tokens)) == work.num_tokens
        self.accept(work, self.read(work.fd))

    def check_forward(self, work: Work, result: Any) -> None:
        entries = self.files[work.fd]
        base = len(entries)
        entries += work.new
        assert result.length == len(entries)
        ends = range(base + 1, len(entries) + 1) if work.new else [base]
        for end, d in zip(ends, result.distributions, strict=True):
            row = row_after(entries[:end])
            assert d.position == end - 1
            assert unpack_tokens(d.ids) == (-row).argsort(kind="stable")[:3].tolist()

    def accept(self, work: Work, now: Entries) -> None:
        """After a cancel the device may just have been done: a forward is there whole or not at all, a generate is greedy's."""
        entries = self.files[work.fd]
        if work.new or not work.num_tokens:
            assert now in (entries, entries + work.new)
            self.files[work.fd] = now
            return
        assert len(entries) <= len(now) <= len(entries) + work.num_tokens
        while len(entries) < len(now):
            entries.append((int(row_after(entries).argmax()), following(entries)))
        assert entries == now

    def read(self, fd: int) -> Entries:
        got = self.now("read", calls.Read(fd))
        return list(zip(unpack_tokens(got.tokens), unpack_tokens(got.positions), strict=True))

    @invariant()
    def what_can_be_read_is_what_the_model_says(self) -> None:
        self.m.check()
        for fd, entries in self.files.items():
            if fd not in self.works:
                assert self.read(fd) == entries

    def teardown(self) -> None:
        self.m.close()
        assert self.m.kernel.idle()
        assert not self.m.core.table.files and self.m.core.counters()["pages_held"] == 0
        if self.folder is not None:
            self.folder.cleanup()


TestFiles = Files.TestCase
TestFiles.settings = settings(
    max_examples=count(60, 3000), stateful_step_count=count(40, 80), deadline=None, suppress_health_check=list(HealthCheck)
)
TestFiles.pytestmark = [pytest.mark.timeout(1800)]
