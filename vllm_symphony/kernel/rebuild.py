"""Making a file's keys and values again (kernel/rebuild.py).

    exact    one forward over its tokens
    edited   its recipe, done again on files that nobody sees; then the file takes the pages of the last of them

    ops   add 4096, take [0:4] [4000:4092], join (add 200)          files   [96] -> [96, 200] -> [296]

The file is busy meanwhile. When it ends early, nothing of it is left and the file is as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import Ino, JobId, Span, unpack_tokens
from vllm_symphony.errors import Interrupted, StaleFile, SymphonyError
from vllm_symphony.kernel.call import Pending
from vllm_symphony.kernel.effect import (
    AppendTokens,
    CancelJob,
    ConcatJob,
    CreateFile,
    DropFile,
    EditDone,
    ExtractJob,
    ForkFile,
    ForwardDone,
    ForwardJob,
    JobFailed,
    Owner,
    TruncateFile,
)  # fmt: skip
from vllm_symphony.kernel.fs.inode import EXACT, Inode
from vllm_symphony.kernel.fs.recipe import NONE, Add, Cut, Join, Ops, Take, ops_of
from vllm_symphony.kernel.job import surprise

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine

OnDone = Callable[["Machine", SymphonyError | None, int], None]  # why it failed, when
Step = Add | Cut | Take | int | None  # int: join so many of the last files to the one before them; None: begin a file


def rebuild(m: Machine, inode: Inode, on_done: OnDone) -> Rebuild:
    """Begin. `on_done` is called once, from a later entry of the kernel.

    Raises:
        FileBusy: a job runs on it.
        StaleFile: it is edited and has no recipe.
    """
    inode.demand_quiet()
    if inode.fidelity != EXACT and inode.recipe in (None, NONE):
        raise StaleFile(f"nobody knows any more how ino {inode.ino} was made: only its tokens are left", ino=inode.ino)
    work = Rebuild(inode, on_done)
    work.begin(m)
    return work


class Rebuild(Pending):
    """One of them. `files`: what is on the bench, with lengths; `steps` are still to be done, the next one last. `frontier`: of the
    file that was made last."""

    __slots__ = ("files", "frontier", "id", "inode", "on_done", "steps", "stopping")

    def __init__(self, inode: Inode, on_done: OnDone) -> None:
        self.call = None
        self.timer = None
        self.inode = inode
        self.on_done = on_done
        self.id = JobId(0)
        self.frontier = 0
        self.files: list[tuple[Ino, int]] = []
        self.steps: list[Step] = []
        self.stopping: SymphonyError | None = None

    def begin(self, m: Machine) -> None:
        """Ask for the first thing that takes time."""
        inode = self.inode
        ops = ops_of(inode, inode.length)
        assert ops is not None
        if inode.fidelity == EXACT:
            owner = self._hold(m)
            m.emit(ForwardJob(self.id, inode.ino, [], inode.next_position, (), 0, (), 1.0, False, owner))
            return
        self.steps = _flat(ops)[::-1]
        self._go_on(m, 0)

    def interrupt(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """End it early; `on_done` hears `error`."""
        if m.lost is not None:
            self._end(m, error, now_ns)
        elif self.stopping is None:
            self.stopping = error
            m.emit(CancelJob(self.id))

    def drop(self, m: Machine) -> None:
        """Whoever wanted it is gone; it is for the file's sake and goes on."""

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        """The device has done the last step, or not."""
        if isinstance(completion, JobFailed):
            del self.files[-1:]  # what the job should have made is not there
            cancelled = self.stopping is not None and isinstance(completion.error, Interrupted)
            self._end(m, self.stopping if cancelled else completion.error, now_ns)
        elif isinstance(completion, ForwardDone) and self.inode.fidelity == EXACT:
            self._has(m, self.inode.length)
            self._end(m, None, now_ns)
        elif self.stopping is not None:
            self._end(m, self.stopping, now_ns)
        elif isinstance(completion, EditDone):
            self.frontier = completion.frontier
            self._go_on(m, now_ns)
        else:
            self._end(m, surprise(completion), now_ns)

    def _go_on(self, m: Machine, now_ns: int) -> None:
        """Do what is done at once, up to the next job or the end."""
        while self.steps:
            match self.steps.pop():
                case None:
                    ino = self._new(m, 0)
                    m.emit(CreateFile(ino, [], self.inode.domain))
                case Add(tokens, runs):
                    self._add(m, tokens, runs)
                case Cut(length):
                    ino, _ = self.files.pop()
                    m.emit(TruncateFile(ino, length))
                    self.frontier = min(self.frontier, length)
                    self.files.append((ino, length))
                case Take(spans, compact):
                    self._take(m, spans, compact)
                    return
                case int(count):
                    self._join(m, count)
                    return
        self._install(m)
        self._end(m, None, now_ns)

    def _add(self, m: Machine, tokens: bytes, runs: tuple[tuple[int, int], ...]) -> None:
        ino, length = self.files.pop()
        ids = unpack_tokens(tokens)
        for (at, position), (end, _) in pairwise((*runs, (len(ids), 0))):  # none of an empty file
            m.emit(AppendTokens(ino, ids[at:end], position))
        self.files.append((ino, length + len(ids)))

    def _take(self, m: Machine, spans: tuple[tuple[int, int], ...], compact: bool) -> None:
        (src, _), owner = self.files.pop(), self._hold(m)
        dst = self._new(m, sum(stop - start for start, stop in spans))
        m.emit(ExtractJob(self.id, src, dst, tuple(Span(*s) for s in spans), compact, self.inode.domain, owner))
        m.emit(DropFile(src))  # the device works on a fork

    def _join(self, m: Machine, count: int) -> None:
        owner = self._hold(m)
        srcs = self.files[-count - 1 :]
        del self.files[-count - 1 :]
        dst = self._new(m, sum(length for _, length in srcs))
        m.emit(ConcatJob(self.id, tuple(srcs), dst, self.inode.domain, owner))
        for ino, _ in srcs:
            m.emit(DropFile(ino))

    def _install(self, m: Machine) -> None:
        """The file takes the pages of what was made."""
        ((made, length),) = self.files
        inode = self.inode
        assert length == inode.length
        m.account.cut(inode, 0)
        m.emit(DropFile(inode.ino))
        m.emit(ForkFile(made, inode.ino, length, inode.domain))
        self._has(m, self.frontier)

    def _has(self, m: Machine, frontier: int) -> None:
        """So much of the file is computed now."""
        self.inode.frontier = frontier
        m.account.rebuilt(self.inode)

    def _end(self, m: Machine, error: SymphonyError | None, now_ns: int) -> None:
        m.works.pop(self.id, None)
        inode = self.inode
        inode.writer = None
        for ino, _ in self.files:
            m.emit(DropFile(ino))
        self.files.clear()
        if error is None:
            inode.stale = False
        if not inode.num_open and not inode.names:
            m.files.release(inode)
        self.on_done(m, error, now_ns)

    def _new(self, m: Machine, length: int) -> Ino:
        ino = m.files.take_ino()
        self.files.append((ino, length))
        return ino

    def _hold(self, m: Machine) -> Owner:
        """A number for the next job, under which the file is busy."""
        m.works.pop(self.id, None)
        m.num_jobs += 1
        self.id = self.inode.writer = JobId(m.num_jobs)
        m.works[self.id] = self
        return Owner()


def _flat(ops: Ops) -> list[Step]:
    """The steps that make one file on top of those that are on the bench."""
    steps: list[Step] = [None]
    for op in ops:
        if isinstance(op, Join):
            for other in op.others:
                steps += _flat(other)
            steps.append(len(op.others))
        else:
            steps.append(op)
    return steps
