"""Having files on disk (kernel/saving.py): their pages by the device, their records by the store.

    Save       one file's computed pages, by a SaveJob, beside whatever else happens to the file
    Upkeep     several of them, some at a time; then the records; then one StoreSync       `sync`, and the end of the server

What was saved is the inode's (`saved`, `fingerprint`) from the device's answer on, as far as the file still begins with what it
held when the device was asked. A save that ends early leaves the file, and what was saved of it before, as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.record import cut_pages
from vllm_symphony.abi.types import JobId
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import CancelJob, JobFailed, Owner, SaveDone, SaveJob, StoreDone, StoreEffect, StoreSync
from vllm_symphony.kernel.fs.inode import EXACT, Inode
from vllm_symphony.kernel.job import surprise

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine

MAX_SAVES = 16  # at once, of one call

Saved = Callable[["Machine", SymphonyError | None, int, int], None]  # why it failed, bytes that were written, when


def is_saved(m: Machine, inode: Inode) -> bool:
    """Whether the store's pages are all that was computed."""
    covered = sum(page.num_tokens for page in inode.saved) if inode.fingerprint == m.model.fingerprint else 0
    return covered >= inode.frontier


class Save(Pending):
    """The pages of one file on their way to the disk."""

    __slots__ = ("fidelity", "id", "inode", "on_done", "runs", "tokens", "why")

    def __init__(self, m: Machine, inode: Inode, on_done: Saved) -> None:
        """Begin."""
        self.call = None
        self.timer = None
        self.inode = inode
        self.on_done = on_done
        self.why: SymphonyError | None = None
        self.tokens, self.runs, self.fidelity = inode.tokens[:], inode.runs[:], inode.fidelity
        m.num_jobs += 1
        self.id = JobId(m.num_jobs)
        m.works[self.id] = self
        m.emit(SaveJob(self.id, inode.ino, Owner()))

    def interrupt(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """End it early; `on_done` hears `error`."""
        if m.lost is not None:
            self._end(m, error, 0, now_ns)
        elif self.why is None:
            self.why = error
            m.emit(CancelJob(self.id))

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        if isinstance(completion, SaveDone):
            inode = self.inode
            inode.saved, inode.fingerprint = cut_pages(completion.pages, self._common()), m.model.fingerprint
            m.keep.mark(inode)
            self._end(m, None, completion.num_bytes, now_ns)
        elif isinstance(completion, JobFailed):
            self._end(m, self.why or completion.error, 0, now_ns)
        else:
            self._end(m, surprise(completion), 0, now_ns)

    def _common(self) -> int:
        """How many tokens the file still has in common with what was saved: none if it was edited and no longer is."""
        tokens, runs = self.inode.tokens, self.inode.runs
        if self.fidelity != self.inode.fidelity:
            return 0
        length = min(len(tokens), len(self.tokens))
        if tokens[:length] != self.tokens[:length]:
            length = next(i for i in range(length) if tokens[i] != self.tokens[i])
        same = [ours for ours, theirs in zip(runs, self.runs, strict=False) if ours == theirs]
        jumps = [at for at, _ in (*runs[len(same) :], *self.runs[len(same) :])]
        return min([length, *jumps])

    def _end(self, m: Machine, error: SymphonyError | None, num_bytes: int, now_ns: int) -> None:
        m.works.pop(self.id, None)
        self.on_done(m, error, num_bytes, now_ns)


class Upkeep(Pending):
    """Work for a call (or for the server itself) that waits for store and device in turns."""

    __slots__ = ("asks", "saves")

    def __init__(self, call: Call | None) -> None:
        self.call = call
        self.timer = None
        self.asks: dict[JobId, Callable[[Machine, Any, int], None]] = {}
        self.saves: dict[JobId, Save] = {}

    def ask(self, m: Machine, effect: Callable[[JobId], StoreEffect], then: Callable[[Machine, Any, int], None]) -> None:
        """Ask the store; `then` takes its answer. A failure ends the call."""
        m.num_jobs += 1
        job = JobId(m.num_jobs)
        m.works[job] = self
        self.asks[job] = then
        m.emit(effect(job))

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        then = self.asks.pop(completion.job)
        del m.works[completion.job]
        if isinstance(completion, JobFailed):
            self.fail(m, completion.error, now_ns)
            return
        try:
            then(m, completion, now_ns)
        except SymphonyError as error:
            self.fail(m, error, now_ns)

    def save(self, m: Machine, inode: Inode, then: Saved) -> None:
        """Have the device save a file."""

        def done(m: Machine, error: SymphonyError | None, num_bytes: int, now_ns: int) -> None:
            self.saves.pop(save.id, None)
            then(m, error, num_bytes, now_ns)

        save = Save(m, inode, done)
        self.saves[save.id] = save

    def fail(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """Nobody gets more than the first error."""
        self.interrupt(m, error, now_ns)

    def drop(self, m: Machine) -> None:
        """Whoever asked is gone: what can be stopped is, what comes is not heard."""
        super().drop(m)
        for job in self.asks:
            m.works.pop(job, None)
        self.asks.clear()
        for save in list(self.saves.values()):
            save.on_done = lambda m, error, num_bytes, now_ns: None
            save.interrupt(m, GONE, 0)
        self.saves.clear()


GONE = SymphonyError("nobody waits for it")


class SyncAll(Upkeep):
    """Save files, then have all records on disk. `on_done` hears of the end once."""

    __slots__ = ("first_error", "num_bytes", "on_done", "waiting")

    def __init__(self, call: Call | None, files: Iterable[Inode], on_done: Saved) -> None:
        """`files` need saving."""
        super().__init__(call)
        self.waiting = list(files)[::-1]
        self.num_bytes = 0
        self.first_error: SymphonyError | None = None
        self.on_done = on_done

    def begin(self, m: Machine) -> None:
        self._go_on(m)

    def _go_on(self, m: Machine) -> None:
        while self.waiting and len(self.saves) < MAX_SAVES:
            inode = self.waiting.pop()
            if inode.names:  # else it was unlinked meanwhile
                self.save(m, inode, partial(self._saved, inode=inode))
        if not self.saves and not self.waiting:
            m.keep.flush()
            self.ask(m, StoreSync, self._synced)

    def _saved(self, m: Machine, error: SymphonyError | None, num_bytes: int, now_ns: int, *, inode: Inode) -> None:
        if inode.names:  # else nobody misses it
            self.first_error = self.first_error or error
        self.num_bytes += num_bytes
        if m.lost is None:
            self._go_on(m)
        elif error is not None:
            self.fail(m, error, now_ns)

    def _synced(self, m: Machine, done: Any, now_ns: int) -> None:
        if not isinstance(done, StoreDone):
            raise surprise(done)
        if done.excess_bytes:
            give_up_cold(m, done.excess_bytes, dry_run=False)
        self.on_done(m, self.first_error, self.num_bytes, now_ns)

    def fail(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        if self.call is not None:
            super().fail(m, error, now_ns)
        else:
            self.drop(m)
            self.on_done(m, error, 0, now_ns)


def to_save(m: Machine, inode: Inode) -> bool:
    """Whether its directory keeps pages, and some are not saved."""
    return m.files.durable(inode) == "pages" and not (inode.stale and inode.fidelity != EXACT) and not is_saved(m, inode)


def give_up_cold(m: Machine, num_bytes: int, *, dry_run: bool) -> list[tuple[Inode, int]]:
    """Give up saved pages of exact files, those that were not used for the longest time first, until so many bytes came free. Gives
    which, and the bytes of each."""
    given: list[tuple[Inode, int]] = []
    files = [inode for inode in m.files.inodes.values() if inode.saved and inode.fidelity == EXACT and not inode.pinned]
    for inode in sorted(files, key=lambda inode: (m.keep.used.get(inode.ino, 0), inode.modified_ns)):
        if num_bytes <= 0:
            break
        size = len(inode.saved) * m.model.page_bytes
        given.append((inode, size))
        num_bytes -= size
        if not dry_run:
            inode.saved = ()
            m.keep.mark(inode)
    return given
