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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_symphony.abi.record import SavedPage
from vllm_symphony.abi.types import JobId
from vllm_symphony.engine.carrier import Carrier
from vllm_symphony.engine.meter import EngineMeter
from vllm_symphony.engine.move import Move, Mover
from vllm_symphony.engine.page_copy import PageCopy
from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.victim import Victims
from vllm_symphony.errors import Interrupted, NotSupported, OutOfPages, SymphonyError
from vllm_symphony.kernel.effect import Completion, CreateFile, JobFailed, LimitDomain, MoveDone, MoveJob, SaveJob

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
        meter: EngineMeter | None = None,
        victims: Victims,
    ) -> None:
        self.table = table
        self.mover = mover
        self.limits = limits
        self.clock = clock
        self.victims = victims
        self._tell = tell
        self._retire = retire
        self._make_room = make_room
        self._page_bytes = max(1, mover.page_bytes)
        num_disk_pages = (limits.disk_bytes or 0) // self._page_bytes if limits.directory is not None else 0
        self.carrier = Carrier(
            table, mover, (limits.host_bytes or 0) // self._page_bytes, num_disk_pages, limits.directory,
            clock=clock, tell=tell, retire=retire, boot=boot, meter=meter or EngineMeter(), measured=victims.measured,
        )  # fmt: skip
        self.copies, self.moves = self.carrier.copies, self.carrier.moves
        self.waiting: dict[JobId, MoveJob | SaveJob] = {}  # for their file to be idle, or for room
        self.wanted: dict[PagedFile, None] = {}  # pinned files that are not all here

    # ---- what the policy asks (victim.Below)

    def num_missing(self, f: PagedFile) -> int:
        return sum(1 for _ in self.carrier.uncovered(f, f.frontier))

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
        return self.clock() >= self.carrier.disk_refused_s + DISK_REST_S and num_pages <= self.copies.disk_room(
            f.domain, self._page_bytes
        )

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

    # ---- what makes room

    @property
    def coming(self) -> int:
        """Pages that become free when what is in flight is done."""
        return sum(self._num_leaving(m) for m in self.moves.values())

    @staticmethod
    def _num_leaving(m: Move) -> int:
        if not m.gives or m.file is None:
            return 0
        return sum(b.ref_cnt == 1 + (m.blocks.get(i) is b) for i, b in enumerate(m.file.blocks))

    def give(self, f: PagedFile) -> tuple[int, int]:
        """Take an idle file's pages, or begin to. Returns how many blocks are free at once, and how many are a little later."""
        way = self.victims.way(f, self) if f.move is None else None
        if way is None:
            return 0, 0
        if way == "drop":
            return self.table.evict(f), 0
        self.carrier.demote(f, way, None)
        return 0, self._num_leaving(f.move) if f.move is not None else 0

    def can_give(self, f: PagedFile) -> bool:
        return f.move is None and (not f.edited or self.victims.way(f, self) is not None)

    # ---- what the scheduler asks

    @property
    def busy(self) -> bool:
        return bool(self.moves)

    def is_below(self, f: PagedFile, lowest: int) -> bool:
        """Whether a job that computes from `lowest` on needs pages that are below. Raises what was wrong with them."""
        if (error := self.carrier.errors.pop(f, None)) is not None:
            raise error
        if f.move is not None and f.move.goal == "device":
            return True
        if f.below <= f.frontier or lowest <= f.frontier:
            return False
        first = f.frontier // self.table.page_size
        if f.move is None and first < len(f.blocks):  # whole pages come back: this one is replaced
            self.table.put(f, first, [], first * self.table.page_size)
        if f.move is None and (source := f.source()) is not None and self.table.rejoin(f, source):
            return not (f.below <= f.frontier or lowest <= f.frontier)
        return True

    def is_fetched(self, f: PagedFile) -> bool:
        """Whether its source's pages, of which it has the same copies, are on their way here: for itself or for another fork."""
        source = f.source()
        if source is None or not f.copies or f.blocks:
            return False
        loads = ((m.file, m.copies) for m in self.moves.values() if m.goal == "device" and not m.cancelled)
        return any(g and g is not f and source in (g, g.source()) and copies[0] is f.copies[0] for g, copies in loads)

    def load(self, f: PagedFile) -> int:
        """Begin to bring the pages back; the blocks are free, as the caller knows. Returns how many it took."""
        if f.move is None:
            return len(self.carrier.load(f, None).blocks)
        if f.move.goal != "device":
            self.carrier.stop(f.move)  # it is over soon
        return 0

    def disturb(self, f: PagedFile) -> None:
        """A job begins on the file: pages that were about to leave stay."""
        self.victims.started(f)
        if f.move is not None and f.move.gives:
            self.carrier.stop(f.move)

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
                self.carrier.stop(m)
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
            self.copies.put_on_disk(c, SavedPage(self.carrier.hold(page.segment), page.slot, page.num_tokens))
            f.copies.append(c)
            f.below += page.num_tokens
        if e.edited:
            f.fixed = max(0, min(f.below, len(f.tokens) - 1))
        f.private = f.has_gaps or f.edited

    def forget(self, f: PagedFile) -> None:
        """The file is about to go."""
        self.wanted.pop(f, None)
        self.carrier.errors.pop(f, None)
        self.victims.residents.forget(f)
        for job in [j for j in self.waiting.values() if j.ino == f.ino]:
            self.cancel(job.job)
        if f.move is not None:
            self.carrier.stop(f.move)
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
        ended = self.carrier.take_ended()
        return self.advance() or ended

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
                self.carrier.save(f, job)
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
        missing = len(self.carrier.sources(f, f.computed, job.tier))
        takes = self.host_takes if job.tier == "host" else self.disk_takes
        if missing and not takes(f, missing):
            raise OutOfPages(f"{missing} pages do not fit on {job.tier}", num_pages_needed=missing, tier=job.tier)
        self.carrier.demote(f, job.tier, job)

    # ---- to the device

    def _bring(self, f: PagedFile, job: MoveJob | None) -> bool:
        """Load, if there is room or it can be made."""
        need = self.table.pages(f.below) - f.frontier // self.table.page_size
        if need > self.table.pool.get_num_free_blocks():
            self._make_room(need, f)
        if need > self.table.pool.get_num_free_blocks():
            return False
        self.carrier.load(f, job)
        return True

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
        carrier, copies = self.carrier, self.copies
        return {
            "pages_demoted": carrier.num_demoted, "pages_loaded": carrier.num_loaded, "pages_corrupt": carrier.num_corrupt,
            "moves": len(self.moves), "moves_begun": carrier.num_moves, "host_pages": copies.host_pages.total(),
            "disk_pages": copies.disk_pages.total(), **self.victims.counters(),
        }  # fmt: skip

    def lent_blocks(self) -> list[list[Any]]:
        """What moves refer to, for `PageTable.check`."""
        return [list(m.blocks.values()) for m in self.moves.values()]

    def check(self) -> None:
        self.victims.residents.check()
        self.copies.check([f.copies for f in self.table.files.values()] + [m.copies for m in self.moves.values()])
        for f in self.table.files.values():
            move: Move | None = f.move
            assert move is None or (self.moves.get(move.id) is move and move.file is f), f.ino
