"""Carrying pages: what a move is made of, and what becomes of it (engine/carrier.py); tier.py says which and when.

    demote, save   sources --> copies to fill, orders ... end --> the file, and those that share its pages, know the copies
    load           copies  --> blocks to fill, orders ... end --> the file has blocks again

Until a move ends it refers to the blocks and copies that it reads or fills. However it ends, they are let go of once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vllm_symphony.abi.record import SavedPage
from vllm_symphony.engine.meter import EngineMeter
from vllm_symphony.engine.move import Move, Moved, Mover, Orders, Source, Write
from vllm_symphony.engine.page_copy import Copies, PageCopy
from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.errors import Interrupted, SymphonyError
from vllm_symphony.kernel.effect import Completion, JobFailed, MoveDone, MoveJob, SaveDone, SaveJob
from vllm_symphony.kernel.sched.memory.cost import Measured
from vllm_symphony.store.segment import SPILL, SUFFIX, hold, pages_per_segment


def _place(c: PageCopy) -> tuple[str, int]:
    """Where it would be read from."""
    if c.slot is not None:
        return "", c.slot
    assert c.saved is not None
    return c.saved.segment, c.saved.slot


class Carrier:
    """All moves in flight. `errors`: why the next job on an edited file cannot begin."""

    def __init__(
        self,
        table: PageTable,
        mover: Mover,
        num_slots: int,
        num_disk_pages: int,
        directory: Path | None,
        *,
        clock: Callable[[], float],
        tell: Callable[[Completion], None],
        retire: Callable[[PagedFile], None],
        boot: str,
        meter: EngineMeter,
        measured: Measured,
    ) -> None:
        self.table = table
        self.mover = mover
        self._directory = directory
        self._clock = clock
        self._tell = tell
        self._retire = retire
        self._meter = meter
        self._measured = measured
        self._segment_names = (f"{boot}-{n:x}{SUFFIX}" for n in range(1 << 62))
        self._page_bytes = max(1, mover.page_bytes)
        self.copies = table.copies = Copies(num_slots, num_disk_pages, self._remove)
        self.moves: dict[int, Move] = {}
        self.errors: dict[PagedFile, SymphonyError] = {}
        self.disk_refused_s = -1e9  # by the clock: when it was full, or failed
        self._held: dict[str, str] = {}  # the store's name of a segment -> the engine's
        self.num_moves = 0
        self.num_demoted = self.num_loaded = self.num_corrupt = 0

    def take_ended(self) -> bool:
        """What became of moves since; True if there was anything."""
        ended = self.mover.ended() if self.moves else ()
        for moved in ended:
            self._end(self.moves.pop(moved.move), moved)
        return bool(ended)

    def hold(self, segment: str) -> str:
        """The engine's name of a segment of the store."""
        if segment not in self._held:
            assert self._directory is not None
            self._held[segment] = hold(self._directory, segment)
        return self._held[segment]

    def _remove(self, segment: str) -> None:
        """The last copy in it is gone."""
        self._held.pop(segment.removeprefix(SPILL), None)
        if segment.startswith(SPILL) and self._directory is not None:
            (self._directory / segment).unlink(missing_ok=True)

    def uncovered(self, f: PagedFile, upto: int) -> Iterator[int]:
        """Pages of the first `upto` tokens that no copy of the file covers."""
        size = self.table.page_size
        return (i for i in range(self.table.pages(upto)) if f.below < min(upto, (i + 1) * size))

    def load(self, f: PagedFile, job: MoveJob | None) -> Move:
        first = f.frontier // self.table.page_size
        m = self._new(f, "device", f.below, job)
        m.first, m.copies = first, f.copies[first:]
        # any block may take any page: neighbours below become neighbours here, which is fewer and larger copies
        pages = sorted(range(len(m.copies)), key=lambda i: _place(m.copies[i]))
        blocks = sorted(self.table.pool.get_new_blocks(len(pages)), key=lambda b: b.block_id)
        taken = dict(zip(pages, blocks, strict=True))
        m.blocks = {first + i: taken[i] for i in range(len(pages))}
        self.copies.share(m.copies)
        bring, read = [], []
        for i, b in taken.items():
            c = m.copies[i]
            if c.slot is not None:
                bring.append((c.slot, b.block_id))
            else:
                assert c.saved is not None
                read.append((c.saved.segment, c.saved.slot, b.block_id))
        self._go(m, Orders(m.id, bring=tuple(bring), read=tuple(read)))
        return m

    def _loaded(self, m: Move, f: PagedFile) -> None:
        f.last_used = self._clock()
        self.table.put(f, m.first, list(m.blocks.values()), m.upto)
        m.blocks = {}
        self.num_loaded += m.num_moved
        source = f.source()
        if source is not None and source.move is None and source.job is None and source.resting is None:
            self.table.rejoin(source, f)  # for those that are forked from it next, and those that wait for theirs

    def demote(self, f: PagedFile, tier: str, job: MoveJob | None) -> None:
        """The room below is there."""
        m = self._new(f, tier, f.computed, job)
        m.gives = True
        sources = self.sources(f, m.upto, tier)
        if tier == "host":
            orders = Orders(m.id, out=self._into_host(m, f, sources))
        else:
            orders = Orders(m.id, write=self._into_segments(m, f, sources, SPILL))
        self.num_demoted += m.num_moved
        self._go(m, orders)

    def save(self, f: PagedFile, job: SaveJob) -> None:
        m = self._new(f, "save", f.computed, job)
        write = self._into_segments(m, f, self.sources(f, m.upto, "disk"), "")
        held = {c.saved.segment for c in m.copies if c.saved is not None}
        self._go(m, Orders(m.id, write=write, publish=tuple(sorted(s for s in held if s.startswith(SPILL)))))

    def sources(self, f: PagedFile, upto: int, tier: str) -> dict[int, Source]:
        """Pages that must be carried so that all of the first `upto` tokens are on the tier, and where they are now. In place of
        host memory disk will do: what is there need not be copied again."""
        size, sources = self.table.page_size, {}
        uncovered = set(self.uncovered(f, upto))
        for i in range(self.table.pages(upto)):
            num_tokens = min(size, upto - i * size)
            if i in uncovered:
                sources[i] = Source(num_tokens, block=f.blocks[i].block_id)
            elif tier == "disk" and f.copies[i].saved is None:
                sources[i] = Source(num_tokens, slot=f.copies[i].slot)
        return sources

    def _copy_of(self, m: Move, f: PagedFile, i: int, source: Source) -> PageCopy:
        """The copy to fill: a new one for a page on the device, else the one that there is."""
        if source.block is None:
            self.copies.share((f.copies[i],))
            return f.copies[i]
        self.table.pool.touch((f.blocks[i],))
        m.blocks[i] = f.blocks[i]
        return PageCopy(source.num_tokens, f.domain)

    def _all_copies(self, m: Move, f: PagedFile, sources: dict[int, Source]) -> None:
        for i in range(self.table.pages(m.upto)):
            if i in sources:
                m.copies.append(self._copy_of(m, f, i, sources[i]))
            else:
                self.copies.share((f.copies[i],))
                m.copies.append(f.copies[i])
        m.num_moved = len(sources)

    def _into_host(self, m: Move, f: PagedFile, sources: dict[int, Source]) -> tuple[tuple[int, int], ...]:
        self._all_copies(m, f, sources)
        pages = sorted(sources, key=lambda i: m.blocks[i].block_id)
        return tuple((m.blocks[i].block_id, self.copies.take_slot(m.copies[i])) for i in pages)

    def _into_segments(self, m: Move, f: PagedFile, sources: dict[int, Source], prefix: str) -> tuple[Write, ...]:
        self._all_copies(m, f, sources)
        pages, per = list(sources.items()), pages_per_segment(self._page_bytes)
        writes = []
        for at in range(0, len(pages), per):
            part, name = pages[at : at + per], next(self._segment_names)
            writes.append(Write(prefix + name, tuple(source for _, source in part)))
            for slot, (i, source) in enumerate(part):
                m.saved[i] = SavedPage(SPILL + name, slot, source.num_tokens)
        return tuple(writes)

    def _new(self, f: PagedFile, goal: str, upto: int, job: MoveJob | SaveJob | None) -> Move:
        self.num_moves += 1
        return Move(self.num_moves, f, goal, upto, job=job)

    def _go(self, m: Move, orders: Orders) -> None:
        assert m.file is not None
        m.file.move = self.moves[m.id] = m
        m.num_moved = len(orders.out) + len(orders.bring) + len(orders.read) + sum(len(w.pages) for w in orders.write)
        m.began_s = self._clock()
        for c in m.copies:
            c.busy += 1
        if m.num_moved or orders.publish:
            self.mover.begin(orders)
        else:
            del self.moves[m.id]
            self._end(m, Moved(m.id))

    def stop(self, m: Move) -> None:
        m.cancelled, m.gives = True, False
        self.mover.cancel(m.id)

    def _end(self, m: Move, moved: Moved) -> None:
        f, error = m.file, moved.error
        for c in m.copies:
            c.busy -= 1
        if f is not None:
            f.move = None
        if error is None:
            took_s = self._clock() - m.began_s
            self._meter.moved(m, self._page_bytes, took_s)
            on_disk = m.goal in ("disk", "save") or any(c.slot is None for c in m.copies)
            self._measured.moved("disk" if on_disk else "host", m.num_moved, took_s)
            self._place(m)
            if f is not None:
                self._arrived(m, f)
        elif f is not None:
            self._failed(m, f, error)
        if m.job is not None:
            self._answer(m, m.job, error if f is not None else Interrupted("the file was closed"))
        self.table.pool.free_blocks(reversed(m.blocks.values()))
        self.copies.release(m.copies)

    def _place(self, m: Move) -> None:
        """The copies are where they were ordered to be. A page that another move, of a file that shares it, has put on disk
        meanwhile is one too many: it goes last, for a segment goes with the last page that is known of it."""
        surplus = []
        for i, saved in m.saved.items():
            c = m.copies[i]
            if c.saved is not None:
                c = PageCopy(saved.num_tokens, c.domain)
                surplus.append(c)
            self.copies.put_on_disk(c, saved)
            self._held.setdefault(saved.segment.removeprefix(SPILL), saved.segment)
        self.copies.release(surplus)

    def _arrived(self, m: Move, f: PagedFile) -> None:
        if m.goal == "device":
            if not m.cancelled:
                self._loaded(m, f)
            return
        self._install(m, f)
        if m.goal == "disk" and m.gives:
            for c in f.copies:
                if c.saved is not None and not c.busy:
                    self.copies.leave_host(c)
        if m.gives and f.blocks and not (f.held or f.pinned):
            self.table.evict(f)

    def _install(self, m: Move, f: PagedFile) -> None:
        """The file, and those that share its full pages, know the copies."""
        size, upto = self.table.page_size, m.upto
        if f.below > upto:  # it got more from another move meanwhile
            return
        new = m.copies[: self.table.pages(upto)]
        self.copies.share(new)
        self.copies.release(f.copies[: len(new)])
        f.copies[: len(new)] = new
        f.below = upto
        for g in [g for g in self.table.files.values() if g is not f and m.blocks and g.tokens[:size] == f.tokens[:size]]:
            self._retire(g)
            self._install_shared(m, g)

    def _install_shared(self, m: Move, g: PagedFile) -> None:
        """As far as its full pages are those that were copied, and it has copies of all before."""
        size = self.table.page_size
        for i in range(len(g.copies), min(len(g.blocks), m.upto // size)):
            if m.blocks.get(i) is not g.blocks[i] or g.below != i * size or g.frontier < (i + 1) * size:
                break
            self.copies.share((m.copies[i],))
            g.copies.append(m.copies[i])
            g.below += size

    def _failed(self, m: Move, f: PagedFile, error: SymphonyError) -> None:
        if isinstance(error, Interrupted):
            return
        if m.goal == "disk":
            self.disk_refused_s = self._clock()
        bad = [m.first + i for i, c in enumerate(m.copies) if self._is_blamed(c, error)]
        if m.goal == "device" or bad:
            self.num_corrupt += 1
            if not f.edited:
                self.table.forget_copies(f, min(bad, default=0) * self.table.page_size)
            elif m.job is None:
                self.errors[f] = error

    @staticmethod
    def _is_blamed(c: PageCopy, error: SymphonyError) -> bool:
        segment, slot = error.values.get("segment"), error.values.get("slot")
        if segment is None:
            return c.slot is not None and c.slot == slot
        return c.saved is not None and c.saved.segment == segment and slot in (None, c.saved.slot)

    def _answer(self, m: Move, job: MoveJob | SaveJob, error: SymphonyError | None) -> None:
        if m.cancelled and error is None:
            error = Interrupted("cancelled")
        num_bytes = m.num_moved * self._page_bytes
        if error is not None:
            self._tell(JobFailed(job.job, error))
        elif isinstance(job, MoveJob):
            self._tell(MoveDone(job.job, m.num_moved, num_bytes))
        else:
            n, size = m.upto, self.table.page_size
            pages = [self._public(c, min(size, n - i * size)) for i, c in enumerate(m.copies[: self.table.pages(n)])]
            self._tell(SaveDone(job.job, tuple(pages), n, num_bytes))

    @staticmethod
    def _public(c: PageCopy, num_tokens: int) -> SavedPage:
        assert c.saved is not None
        return SavedPage(c.saved.segment.removeprefix(SPILL), c.saved.slot, num_tokens)
