"""Extract and concat, on the engine's thread or in the simulator (engine/edit.py).

    source   [p0][p1][p2][p3]       fork of it, computed as far as it is needed; the source may change or go meanwhile
                |       \\
    dst      [p0][ copied slots ]    leading full pages whose tokens stay where they are are shared; the rest is copied, keys turned

Who finds no room waits as a job does (room.py), as long as anybody will give pages, and holds none meanwhile; when nobody can any
more it is ENOSPC.

The last token's KV is not copied: who asks what follows it runs it over what is there (page_table.py, `fixed`). Until all forks are
computed an edit holds them, so that none is given up while another is computed. An edit that ends early, however it does, leaves
nothing: no file, no page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.errors import Interrupted, NotSupported, OutOfPages, SymphonyError
from vllm_symphony.kernel.effect import ConcatJob, EditDone, ExtractJob, Owner, StepSpan

Indices = NDArray[np.int64]
RETRY_S = 1.0


class Bench(Protocol):
    """What an edit needs of its device."""

    table: PageTable

    def fork_for_edit(self, src: Ino, length: int) -> PagedFile:
        """A fork that only this edit knows, as old as its source."""

    def compute(self, f: PagedFile, owner: Owner, on_done: Callable[[SymphonyError | None, StepSpan], None]) -> None:
        """Compute what is pending of a fork. May call back before it returns."""

    def stop_computing(self, f: PagedFile) -> None:
        """Fail that computation with Interrupted, if it runs."""

    def make_room(self, num_pages: int, born: float) -> bool:
        """Free that many pages, as for a job of a file born then, if it can be done. True: wait, others
        will let go of more (`try_again`)."""

    def copy_slots(self, src: Indices, dst: Indices, delta: Indices | None) -> None:
        """Copy KV from slots (page x page size + place) to slots, keys moved by `delta` positions."""

    def drop_fork(self, f: PagedFile) -> None:
        """The fork is not needed any more."""

    def now(self) -> float:
        """The clock of files' ages."""

    def edit_ended(self, job: JobId, completion: EditDone | SymphonyError, span: StepSpan) -> None:
        """Tell the kernel."""


@dataclass(slots=True)
class Part:
    """Tokens of one fork that go into the new file, in order, and where to. `need`: how many of its tokens must have KV."""

    fork: PagedFile
    indices: Indices
    positions: Indices
    need: int


@dataclass(slots=True, eq=False)
class Edit:
    """One job. `computing`: forks that are not ready."""

    job: JobId
    dst: Ino
    domain: str
    owner: Owner
    parts: list[Part] = field(default_factory=list)
    computing: int = 0
    error: SymphonyError | None = None
    span: StepSpan = StepSpan()

    @property
    def born(self) -> float:
        """As old as the oldest of its sources."""
        return min(part.fork.born for part in self.parts)


class Surgery:
    """All edits of a device. `refusal` and `no_rotation` say what it cannot do; empty: it can."""

    def __init__(self, bench: Bench, refusal: str = "", no_rotation: str = "") -> None:
        self.bench = bench
        self.refusal = refusal
        self.no_rotation = refusal or no_rotation
        self.edits: dict[JobId, Edit] = {}
        self._short: dict[JobId, Edit] = {}  # computed, and wait for pages

    def extract(self, e: ExtractJob) -> None:
        """Begin. Raises NotSupported, OutOfPages."""
        self._demand("compact" if e.compact else "extract", self.no_rotation if e.compact else self.refusal)
        indices = np.concatenate([np.arange(s.start, s.stop, dtype=np.int64) for s in e.spans])
        length = e.spans[-1].stop
        self._demand_fit(length)
        fork = self.bench.fork_for_edit(e.src, length)
        positions = np.arange(len(indices), dtype=np.int64) if e.compact else positions_of(fork)[indices]
        self._begin(Edit(e.job, e.dst, e.domain, e.owner, [Part(fork, indices, positions, length - 1)]))

    def concat(self, e: ConcatJob) -> None:
        """Begin. Raises NotSupported, OutOfPages."""
        self._demand("rotate", self.no_rotation)
        self._demand_fit(sum(length for _, length in e.srcs))
        edit = Edit(e.job, e.dst, e.domain, e.owner)
        following = 0
        for i, (ino, length) in enumerate(e.srcs):
            if not length:
                continue
            fork = self.bench.fork_for_edit(ino, length)
            indices = np.arange(length, dtype=np.int64)
            positions = indices + following if i else positions_of(fork)
            following = int(positions[-1]) + 1
            edit.parts.append(Part(fork, indices, positions, length))
        edit.parts[-1].need -= 1
        self._begin(edit)

    def cancel(self, job: JobId) -> None:
        """End it now; it is answered before this returns."""
        self._fail(self.edits[job], Interrupted("cancelled"))

    def _demand(self, what: str, refusal: str) -> None:
        if refusal:
            raise NotSupported(f"{what} is not possible here: {refusal}", operation=what)

    def _demand_fit(self, num_tokens: int) -> None:
        table = self.bench.table
        if (need := table.pages(num_tokens)) > table.num_pages:
            raise OutOfPages(
                f"{num_tokens} tokens need {need} pages and the cache has {table.num_pages}: serve with a larger KV cache",
                num_pages_needed=need, num_pages=table.num_pages,
            )  # fmt: skip

    def _begin(self, edit: Edit) -> None:
        self.edits[edit.job] = edit
        self._go_on(edit)

    def _go_on(self, edit: Edit) -> None:
        """Compute what is missing, or finish."""

        def done(error: SymphonyError | None, span: StepSpan) -> None:
            edit.computing -= 1
            edit.span = _joined(edit.span, span)
            if error is not None:
                self._fail(edit, error)
            elif not edit.computing and edit.error is None:
                self._go_on(edit)

        for part in edit.parts:
            part.fork.held = True
        missing = [part for part in edit.parts if part.fork.frontier < part.need]
        edit.computing = len(missing)
        for part in missing:
            if edit.error is None:
                self.bench.compute(part.fork, edit.owner, done)
        if not missing:
            try:
                self._finish(edit)
            except OutOfPages as error:
                if edit.job not in self._short:
                    self._fail(edit, error)
                    return
                for part in edit.parts:  # others may have them meanwhile
                    part.fork.held = False

    @property
    def is_waiting(self) -> bool:
        """Some edit waits for pages."""
        return bool(self._short)

    @property
    def claims(self) -> list[float]:
        """When the sources of edits that wait for pages were made: what is younger takes none."""
        return [edit.born for edit in self._short.values()]

    def is_short(self, job: JobId) -> bool:
        """This one does. From any thread."""
        return job in self._short

    def try_again(self) -> None:
        """Pages became free, or will not."""
        short, self._short = self._short, {}
        for edit in short.values():
            self._go_on(edit)

    def _finish(self, edit: Edit) -> None:
        """All is computed: make the file."""
        table = self.bench.table
        tokens = [t for part in edit.parts for t in _take(part.fork.tokens, part.indices)]
        positions = np.concatenate([part.positions for part in edit.parts])
        shared = self._shared(edit.parts[0], len(tokens) - 1)
        new = self._new_pages(edit, table.pages(len(tokens) - 1) - len(shared))
        try:
            self._copy(edit, len(tokens) - 1, len(shared), new)
        except BaseException:
            table.pool.free_blocks(new)
            raise
        f = table.build(edit.dst, tokens, runs_of(positions), edit.domain, self.bench.now(), shared, new)
        self._end(edit, EditDone(edit.job, f.frontier, edit.span))

    def _shared(self, first: Part, limit: int) -> list[Any]:
        """Full pages at the beginning whose tokens stay at their index and position."""
        size = self.bench.table.page_size
        stays = (first.indices == np.arange(len(first.indices))) & (positions_of(first.fork)[first.indices] == first.positions)
        num_stay = len(stays) if stays.all() else int(stays.argmin())
        return list(first.fork.blocks[: min(num_stay, limit) // size])

    def _new_pages(self, edit: Edit, need: int) -> list[Any]:
        pool = self.bench.table.pool
        if need > (free := pool.get_num_free_blocks()) and self.bench.make_room(need - free, edit.born):
            self._short[edit.job] = edit
        if (free := pool.get_num_free_blocks()) < need:
            raise OutOfPages(f"the new file needs {need} pages, {free} are free", retry_after_s=RETRY_S, num_pages_needed=need)
        return pool.get_new_blocks(need) if need else []

    def _copy(self, edit: Edit, num_fixed: int, num_shared: int, new: Sequence[Any]) -> None:
        size = self.bench.table.page_size
        slots = np.concatenate([_slots(part.fork.blocks, part.indices, size) for part in edit.parts])
        old = np.concatenate([positions_of(part.fork)[part.indices] for part in edit.parts])
        delta = np.concatenate([part.positions for part in edit.parts]) - old
        copied = np.arange(num_shared * size, num_fixed, dtype=np.int64)
        if not len(copied):
            return
        to = _slots(new, copied - num_shared * size, size)
        self.bench.copy_slots(slots[copied], to, delta[copied] if delta[copied].any() else None)

    def _fail(self, edit: Edit, error: SymphonyError) -> None:
        if edit.error is not None:
            return
        edit.error = error
        for part in edit.parts:
            self.bench.stop_computing(part.fork)
        self._end(edit, error)

    def _end(self, edit: Edit, completion: EditDone | SymphonyError) -> None:
        del self.edits[edit.job]
        self._short.pop(edit.job, None)
        for part in edit.parts:
            self.bench.drop_fork(part.fork)
        self.bench.edit_ended(edit.job, completion, edit.span)


def positions_of(f: PagedFile) -> Indices:
    """The position of each token."""
    positions = np.arange(len(f.tokens), dtype=np.int64)
    for (at, delta), end in zip(f.runs, [*(at for at, _ in f.runs[1:]), len(f.tokens)], strict=True):
        positions[at:end] += delta
    return positions


def runs_of(positions: Indices) -> list[tuple[int, int]]:
    """(index, delta) where positions jump."""
    delta = positions - np.arange(len(positions))
    at = [0, *(np.flatnonzero(np.diff(delta)) + 1).tolist()]
    return [(i, int(delta[i])) for i in at]


def _take(tokens: list[int], indices: Indices) -> list[int]:
    return [tokens[i] for i in indices.tolist()]


def _slots(blocks: Sequence[Any], indices: Indices, size: int) -> Indices:
    """The slot of each index; indices past the pages get the slot of none that is read."""
    ids = np.array([b.block_id for b in blocks] or [0], dtype=np.int64)
    return ids[np.minimum(indices // size, len(ids) - 1)] * size + indices % size


def _joined(a: StepSpan, b: StepSpan) -> StepSpan:
    if not (a.last and b.last):
        return b if b.last else a
    return StepSpan(min(a.first, b.first), max(a.last, b.last), a.device_s + b.device_s)
