"""Tiers below the device: host memory and disk (engine/tier.py).

    blocks --demote--> copies (page_copy.py) --load--> blocks          save: copies on disk that last, blocks stay

A file that was demoted has no blocks; `PagedFile.below` tells how many of its tokens its copies are good for, and a job on it
waits until they are loaded. Pages move beside the steps (move.py, mover.py); one move at a time for a file. While it lasts, the
blocks that it reads are referenced, so nobody writes into them (page_table.py copies what is shared), and those that it fills
belong to it. What ends early, by cancel, error or the end of its file, leaves no block, no slot and no segment. Of pages that
files share one copy is made. Who must give pages, and how, is the policy's (victim.py), within the rules of room.py.

A page that comes back wrong (checksum): an exact file forgets the copy and is computed again; the job on an edited one fails with
EIO, and its tokens stay readable.
Used by the engine and the simulator; only `Mover` differs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm_symphony.abi.record import SavedPage
from vllm_symphony.abi.types import JobId
from vllm_symphony.engine.move import Moved, Mover, Orders, Source, Write
from vllm_symphony.engine.page_copy import Copies, PageCopy
from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.victim import LeastRecentlyUsed, Victims
from vllm_symphony.errors import Interrupted, NotSupported, OutOfPages, SymphonyError
from vllm_symphony.kernel.effect import Completion, CreateFile, JobFailed, LimitDomain, MoveDone, MoveJob, SaveDone, SaveJob
from vllm_symphony.store.segment import SPILL, SUFFIX, hold, pages_per_segment, remove_leftovers

SHARE = 8  # one part in so many of what is free
DISK_REST_S = 5.0  # after the disk refused a demoted page


@dataclass(frozen=True, slots=True)
class TierLimits:
    """How much may lie below the device. `directory`: where page files are; without one there is no disk tier, and nothing is
    saved. `disk_bytes`: of pages on disk beyond which none is demoted there; what is saved has no limit here. None: of memory as
    much as the device's cache, of each no more than a share of what is free."""

    host_bytes: int | None = 0
    disk_bytes: int | None = 0
    directory: Path | None = None

    def for_cache(self, num_bytes: int) -> TierLimits:
        """With sizes, for a device with a cache of so many bytes."""
        host, disk = self.host_bytes, self.disk_bytes
        if host is None:
            host = min(num_bytes, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // SHARE)
        if disk is None:
            disk = free_bytes(self.directory) // SHARE
        return replace(self, host_bytes=host, disk_bytes=disk)


def free_bytes(directory: Path | None) -> int:
    """Of the disk that it is on."""
    if directory is None:
        return 0
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


@dataclass(slots=True, eq=False)
class Move:
    """Pages [first, first + len(copies)) of a file on their way. `goal`: where they shall be, or "save". `upto`: tokens of the file
    that it is about, fewer when the file is cut meanwhile. `blocks`: page -> the block read or filled. `made`: copies that are new.
    `gives`: the file gives its blocks up when it is done."""

    id: int
    file: PagedFile | None
    goal: str
    upto: int
    first: int = 0
    blocks: dict[int, Any] = field(default_factory=dict)
    copies: list[PageCopy] = field(default_factory=list)
    saved: dict[int, SavedPage] = field(default_factory=dict)  # page -> where it will be on disk
    job: MoveJob | SaveJob | None = None
    gives: bool = False
    num_moved: int = 0
    cancelled: bool = False


class Tiers:
    """What lies below the device of one engine. All calls from the thread that steps."""

    def __init__(
        self,
        table: PageTable,
        mover: Mover,
        limits: TierLimits,
        *,
        clock: Callable[[], float],
        tell: Callable[[Completion], None],
        retire: Callable[[PagedFile], None],
        make_room: Callable[[int, PagedFile], None],
        boot: str,
        victims: Victims | None = None,
    ) -> None:
        self.table = table
        self.mover = mover
        self.limits = limits
        self.clock = clock
        self.victims: Victims = victims or LeastRecentlyUsed()
        self._tell = tell
        self._retire = retire
        self._make_room = make_room
        self._segment_names = (f"{boot}-{n:x}{SUFFIX}" for n in range(1 << 62))
        self._page_bytes = max(1, mover.page_bytes)
        num_disk_pages = (limits.disk_bytes or 0) // self._page_bytes if limits.directory is not None else 0
        self.copies = table.copies = Copies((limits.host_bytes or 0) // self._page_bytes, num_disk_pages, self._remove)
        self.moves: dict[int, Move] = {}
        self.waiting: dict[JobId, MoveJob | SaveJob] = {}  # for their file to be idle, or for room
        self.wanted: dict[PagedFile, None] = {}  # pinned files that are not all here
        self.errors: dict[PagedFile, SymphonyError] = {}  # why the next job on an edited file cannot begin
        self._held: dict[str, str] = {}  # the store's name of a segment -> the engine's
        self._no_disk_until = 0.0
        self._last_move = 0
        self.num_demoted = self.num_loaded = self.num_corrupt = 0
        if limits.directory is not None:
            remove_leftovers(limits.directory)

    # ---- what the policy asks (victim.Below)

    def num_missing(self, f: PagedFile) -> int:
        return sum(1 for _ in self._uncovered(f, f.frontier))

    def num_loose(self, f: PagedFile) -> int:
        return self.table.droppable(f)

    def host_takes(self, f: PagedFile, num_pages: int) -> bool:
        """Whether there is room, or it can be made: copies that are elsewhere too go, then those of files used before."""
        if num_pages > self.copies.host_allowance(f.domain, self._page_bytes):
            return False
        if num_pages > self.copies.num_free_slots:
            self._clear_host(num_pages, f)
        return num_pages <= self.copies.num_free_slots

    def disk_takes(self, f: PagedFile, num_pages: int) -> bool:
        return self.clock() >= self._no_disk_until and num_pages <= self.copies.disk_room(f.domain, self._page_bytes)

    def _clear_host(self, num_pages: int, f: PagedFile) -> None:
        others = [g for g in self.table.files.values() if g is not f and g.copies and g.move is None]
        for g in sorted(others, key=lambda g: g.last_used):
            for c in g.copies:
                if c.saved is not None and not c.busy:
                    self.copies.leave_host(c)
            if self.copies.num_free_slots >= num_pages:
                return
        for g in sorted(others, key=lambda g: g.last_used):
            is_here = g.frontier >= g.below
            if is_here or (not g.edited and (f.edited or g.last_used < f.last_used)):
                self.table.forget_copies(g, 0)
            if self.copies.num_free_slots >= num_pages:
                return

    def _uncovered(self, f: PagedFile, upto: int) -> Iterator[int]:
        """Pages of the first `upto` tokens that no copy of the file covers."""
        size = self.table.page_size
        return (i for i in range(self.table.pages(upto)) if f.below < min(upto, (i + 1) * size))

    # ---- what makes room

    @property
    def coming(self) -> int:
        """Pages that become free when what is in flight is done."""
        leaving = [(m, m.file) for m in self.moves.values() if m.gives and m.file is not None]
        return sum(b.ref_cnt == 1 + (m.blocks.get(i) is b) for m, f in leaving for i, b in enumerate(f.blocks))

    def give(self, f: PagedFile) -> int:
        """Take an idle file's pages, or begin to. Returns how many blocks are free at once."""
        if f.move is not None:
            return 0
        way = self.victims.way(f, self)
        if way is None:
            return 0
        if way == "drop":
            return self.table.evict(f)
        self._demote(f, way, None)
        return 0

    def can_give(self, f: PagedFile) -> bool:
        return f.move is None and (not f.edited or self.victims.way(f, self) is not None)

    # ---- what the scheduler asks

    @property
    def busy(self) -> bool:
        return bool(self.moves)

    def is_below(self, f: PagedFile, lowest: int) -> bool:
        """Whether a job that computes from `lowest` on needs pages that are below. Raises what was wrong with them."""
        if (error := self.errors.pop(f, None)) is not None:
            raise error
        if f.move is not None and f.move.goal == "device":
            return True
        return f.below > f.frontier and lowest > f.frontier

    def load(self, f: PagedFile) -> int:
        """Begin to bring the pages back; the blocks are free, as the caller knows. Returns how many it took."""
        if f.move is None:
            return len(self._load(f, None).blocks)
        if f.move.goal != "device":
            self._stop(f.move)  # it is over soon
        return 0

    def disturb(self, f: PagedFile) -> None:
        """A job begins on the file: pages that were about to leave stay."""
        if f.move is not None and f.move.gives:
            self._stop(f.move)

    # ---- effects

    def submit(self, job: MoveJob | SaveJob) -> None:
        """Raises NotSupported, OutOfPages."""
        if self.limits.directory is None and (isinstance(job, SaveJob) or job.tier == "disk"):
            raise NotSupported("there is no disk tier: the server has no state directory")
        self.waiting[job.job] = job
        self.advance()

    def cancel(self, job: JobId) -> bool:
        """True if it was one of ours; it is answered, now or soon."""
        if self.waiting.pop(job, None) is not None:
            self._tell(JobFailed(job, Interrupted("cancelled")))
            return True
        for m in self.moves.values():
            if m.job is not None and m.job.job == job:
                self._stop(m)
                return True
        return False

    def pin(self, f: PagedFile, pinned: bool) -> None:
        f.pinned = pinned
        self.wanted.pop(f, None)
        if pinned:
            self.disturb(f)
            self.wanted[f] = None
            self.advance()

    def limit(self, e: LimitDomain) -> None:
        self.copies.limits[e.domain] = e

    def restore(self, f: PagedFile, e: CreateFile) -> None:
        """A file as the store had it: where its positions jump, and its pages, which lie on disk."""
        f.runs = [(index, position - index) for index, position in e.runs] or [(0, 0)]
        for page in e.saved if self.limits.directory is not None else ():
            c = PageCopy(page.num_tokens, f.domain)
            self.copies.put_on_disk(c, SavedPage(self._hold(page.segment), page.slot, page.num_tokens))
            f.copies.append(c)
            f.below += page.num_tokens
        if e.edited:
            f.fixed = max(0, min(f.below, len(f.tokens) - 1))
        f.private = f.has_gaps or f.edited

    def _hold(self, segment: str) -> str:
        if segment not in self._held:
            assert self.limits.directory is not None
            self._held[segment] = hold(self.limits.directory, segment)
        return self._held[segment]

    def _remove(self, segment: str) -> None:
        """The last copy in it is gone."""
        self._held.pop(segment.removeprefix(SPILL), None)
        if segment.startswith(SPILL) and self.limits.directory is not None:
            (self.limits.directory / segment).unlink(missing_ok=True)

    def forget(self, f: PagedFile) -> None:
        """The file is about to go."""
        self.wanted.pop(f, None)
        self.errors.pop(f, None)
        for job in [j for j in self.waiting.values() if j.ino == f.ino]:
            self.cancel(job.job)
        if f.move is not None:
            self._stop(f.move)
            f.move.file = None
            f.move = None

    def lose(self) -> None:
        """The engine is gone."""
        self.waiting.clear()
        self.wanted.clear()
        self.moves.clear()

    # ---- between steps

    def poll(self) -> bool:
        """Take what has ended, begin what waits; True if anything changed."""
        ended = self.mover.ended() if self.moves else ()
        for moved in ended:
            self._ended(self.moves.pop(moved.move), moved)
        return self.advance() or bool(ended)

    def advance(self) -> bool:
        """Begin what can be begun."""
        begun = False
        for job in list(self.waiting.values()):
            f = self.table.files.get(job.ino)
            if f is None:
                self.cancel(job.job)
                continue
            self._retire(f)
            if f.job is None and f.move is None:
                begun |= self._begin(job, f)
        for f in list(self.wanted):
            if f.job is None and f.move is None and (f.below <= f.frontier or self._bring(f, None)):
                del self.wanted[f]
                begun = True
        return begun

    def _begin(self, job: MoveJob | SaveJob, f: PagedFile) -> bool:
        try:
            if isinstance(job, SaveJob):
                self._save(f, job)
            elif job.tier != "device":
                self._demote_by_job(f, job)
            elif f.below <= f.frontier:
                self._tell(MoveDone(job.job, 0, 0))
            elif not self._bring(f, job):
                if self.coming:
                    return False
                need, free = self.table.pages(f.below), self.table.pool.get_num_free_blocks()
                raise OutOfPages(f"{need} pages are needed, {free} are free", num_pages_needed=need)
        except SymphonyError as error:
            self._tell(JobFailed(job.job, error))
        del self.waiting[job.job]
        return True

    def _demote_by_job(self, f: PagedFile, job: MoveJob) -> None:
        missing = len(self._sources(f, f.computed, job.tier))
        takes = self.host_takes if job.tier == "host" else self.disk_takes
        if missing and not takes(f, missing):
            raise OutOfPages(f"{missing} pages do not fit on {job.tier}", num_pages_needed=missing, tier=job.tier)
        self._demote(f, job.tier, job)

    # ---- to the device

    def _bring(self, f: PagedFile, job: MoveJob | None) -> bool:
        """Load, if there is room or it can be made."""
        need = self.table.pages(f.below) - f.frontier // self.table.page_size
        if need > self.table.pool.get_num_free_blocks():
            self._make_room(need, f)
        if need > self.table.pool.get_num_free_blocks():
            return False
        self._load(f, job)
        return True

    def _load(self, f: PagedFile, job: MoveJob | None) -> Move:
        first = f.frontier // self.table.page_size
        m = self._new(f, "device", f.below, job)
        m.first, m.copies = first, f.copies[first:]
        blocks = self.table.pool.get_new_blocks(len(m.copies))
        m.blocks = {first + i: b for i, b in enumerate(blocks)}
        self.copies.share(m.copies)
        bring, read = [], []
        for c, b in zip(m.copies, blocks, strict=True):
            if c.slot is not None:
                bring.append((c.slot, b.block_id))
            else:
                assert c.saved is not None
                read.append((c.saved.segment, c.saved.slot, b.block_id))
        self._go(m, Orders(m.id, bring=tuple(bring), read=tuple(read)))
        return m

    def _loaded(self, m: Move, f: PagedFile) -> None:
        self.table.put(f, m.first, list(m.blocks.values()), m.upto)
        m.blocks = {}
        f.last_used = self.clock()
        self.num_loaded += m.num_moved

    # ---- away from it

    def _demote(self, f: PagedFile, tier: str, job: MoveJob | None) -> None:
        """The room below is there."""
        m = self._new(f, tier, f.computed, job)
        m.gives = True
        sources = self._sources(f, m.upto, tier)
        if tier == "host":
            orders = Orders(m.id, out=self._into_host(m, f, sources))
        else:
            orders = Orders(m.id, write=self._into_segments(m, f, sources, SPILL))
        self.num_demoted += m.num_moved
        self._go(m, orders)

    def _save(self, f: PagedFile, job: SaveJob) -> None:
        m = self._new(f, "save", f.computed, job)
        write = self._into_segments(m, f, self._sources(f, m.upto, "disk"), "")
        held = {c.saved.segment for c in m.copies if c.saved is not None}
        self._go(m, Orders(m.id, write=write, publish=tuple(sorted(s for s in held if s.startswith(SPILL)))))

    def _sources(self, f: PagedFile, upto: int, tier: str) -> dict[int, Source]:
        """Pages that must be carried so that all of the first `upto` tokens are on the tier, and where they are now. In place of
        host memory disk will do: what is there need not be copied again."""
        size, sources = self.table.page_size, {}
        uncovered = set(self._uncovered(f, upto))
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
        return tuple((m.blocks[i].block_id, self.copies.take_slot(m.copies[i])) for i in sources)

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

    # ---- a move's life

    def _new(self, f: PagedFile, goal: str, upto: int, job: MoveJob | SaveJob | None) -> Move:
        self._last_move += 1
        return Move(self._last_move, f, goal, upto, job=job)

    def _go(self, m: Move, orders: Orders) -> None:
        assert m.file is not None
        m.file.move = self.moves[m.id] = m
        m.num_moved = len(orders.out) + len(orders.bring) + len(orders.read) + sum(len(w.pages) for w in orders.write)
        for c in m.copies:
            c.busy += 1
        if m.num_moved or orders.publish:
            self.mover.begin(orders)
        else:
            del self.moves[m.id]
            self._ended(m, Moved(m.id))

    def _stop(self, m: Move) -> None:
        m.cancelled, m.gives = True, False
        self.mover.cancel(m.id)

    def _ended(self, m: Move, moved: Moved) -> None:
        f, error = m.file, moved.error
        for c in m.copies:
            c.busy -= 1
        if f is not None:
            f.move = None
        if error is None:
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
        """The copies are where they were ordered to be."""
        for i, saved in m.saved.items():
            if m.copies[i].saved is None:
                self.copies.put_on_disk(m.copies[i], saved)
                self._held.setdefault(saved.segment.removeprefix(SPILL), saved.segment)
            else:
                self._drop_surplus(saved)

    def _drop_surplus(self, saved: SavedPage) -> None:
        """Another move of a file that shares the page has put it on disk meanwhile; its segment goes with its other pages."""
        c = PageCopy(saved.num_tokens, "")
        self.copies.put_on_disk(c, saved)
        self.copies.release((c,))

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
            self._no_disk_until = self.clock() + DISK_REST_S
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

    # ---- seeing

    def places(self, f: PagedFile) -> tuple[int, int]:
        """Pages with a copy in host memory, and on disk. Reads as `Device.residency` does."""
        copies = f.copies[:]
        return sum(c.slot is not None for c in copies), sum(c.saved is not None for c in copies)

    def room(self) -> dict[str, int]:
        """Bytes below the device, as `Capacity` names them."""
        used = self.copies.num_slots - self.copies.num_free_slots
        return {
            "host_bytes": self.copies.num_slots * self._page_bytes,
            "host_bytes_used": used * self._page_bytes,
            "disk_bytes": self.copies.num_disk_pages * self._page_bytes,
            "disk_bytes_used": self.copies.disk_pages.total() * self._page_bytes,
            "disk_bytes_free": free_bytes(self.limits.directory),
        }

    def counters(self) -> dict[str, float]:
        return {
            "pages_demoted": self.num_demoted, "pages_loaded": self.num_loaded, "pages_corrupt": self.num_corrupt,
            "moves": len(self.moves), "host_pages": self.copies.host_pages.total(), "disk_pages": self.copies.disk_pages.total(),
        }  # fmt: skip

    def lent_blocks(self) -> list[list[Any]]:
        """What moves refer to, for `PageTable.check`."""
        return [list(m.blocks.values()) for m in self.moves.values()]

    def check(self) -> None:
        self.copies.check([f.copies for f in self.table.files.values()] + [m.copies for m in self.moves.values()])
        for f in self.table.files.values():
            move: Move | None = f.move
            assert move is None or (self.moves.get(move.id) is move and move.file is f), f.ino
