"""Locks of open files, with leases (kernel/fs/lock.py).

    inode --lock--> FileLock   holds   {open file: shared, open file: shared}      or one exclusive
                               upgrade a holder that wants it exclusive             served first: it is in everybody's way
                               queue   exclusive, shared, shared, ...               granted in the order of asking
                               lost    open files whose lease ran out: their next write is ESTALE, once

A lock is an open file's, with its dups, as in flock(2); it ends with the last fd, by "unlock", or when its lease has run out. It
is granted when no other open file writes any more, so that what was begun before is over when the holder begins. Unlike flock(2) it
is not advisory: meanwhile writes through other open files are EBUSY. An unlocked file has no FileLock and pays nothing. Two holders
that both want to upgrade would wait for each other for ever: the second is refused. A call that waits for the lock of an open file
that has come to share it meanwhile, through a dup, upgrades from then on; one whose open file has lost it keeps its place in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import LeaseResult
from vllm_symphony.errors import FileBusy, Interrupted, StaleFile, WouldBlock
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.timer import Timer, after

if TYPE_CHECKING:
    from vllm_symphony.kernel.fs.fd import OpenFile
    from vllm_symphony.kernel.fs.inode import Inode
    from vllm_symphony.kernel.machine import Machine

SHARED, EXCLUSIVE, UNLOCK = "shared", "exclusive", "unlock"


class Hold:
    """A lock that an open file has, until `timer` fires."""

    __slots__ = ("kind", "timer")

    def __init__(self, kind: str, timer: Timer) -> None:
        self.kind = kind
        self.timer = timer


class LockWait(Pending):
    """A call that waits for a lock through `fd`. `flush`: it may be its turn."""

    __slots__ = ("fd", "holder", "kind", "lease_s", "lock")

    def __init__(self, call: Call, lock: FileLock, holder: OpenFile, fd: int, kind: str, lease_s: float) -> None:
        super().__init__(call)
        self.lock = lock
        self.holder = holder
        self.fd = fd
        self.kind = kind
        self.lease_s = lease_s

    def drop(self, m: Machine) -> None:
        super().drop(m)
        self.lock.leave(self)

    def closed(self, m: Machine, fd: int, now_ns: int) -> None:
        if fd == self.fd:
            self.interrupt(m, Interrupted(f"fd {fd} was closed", fd=fd), now_ns)

    def flush(self, m: Machine, now_ns: int) -> None:
        call, lock = self.call, self.lock
        if call is None or not lock.admits(self.holder, self.kind):
            return
        lock.give(self.holder, self.kind, self.lease_s, now_ns)
        self.drop(m)
        m.finish(call, LeaseResult(self.lease_s), now_ns)


class FileLock:
    """Who holds one file locked, and who waits for it. An inode has it as long as it says anything."""

    __slots__ = ("_m", "holds", "inode", "lost", "queue", "upgrade")

    def __init__(self, m: Machine, inode: Inode) -> None:
        self._m = m
        self.inode = inode
        self.holds: dict[OpenFile, Hold] = {}
        self.upgrade: LockWait | None = None
        self.queue: dict[LockWait, None] = {}  # in the order of asking
        self.lost: dict[OpenFile, None] = {}

    @property
    def kind(self) -> str:
        """How the file is locked: "", shared or exclusive."""
        return next(iter(self.holds.values())).kind if self.holds else ""

    @property
    def has_waiters(self) -> bool:
        return self.upgrade is not None or bool(self.queue)

    def upgrades(self, holder: OpenFile, kind: str) -> bool:
        """Whether it asks for more than it has."""
        hold = self.holds.get(holder)
        return hold is not None and hold.kind == SHARED and kind == EXCLUSIVE

    def admits(self, holder: OpenFile, kind: str) -> bool:
        """Nobody else is in the way: no lock that excludes this one, no write that is still on its way."""
        for other, hold in self.holds.items():
            if other is not holder and EXCLUSIVE in (kind, hold.kind):
                return False
        return not self._is_written_beside(holder)

    def _is_written_beside(self, holder: OpenFile) -> bool:
        job = self._m.jobs[self.inode.writer] if self.inode.writer is not None else None
        if job is None:
            return False
        file = job.process.fds.files.get(job.fd)
        return file is None or file.holder is not holder

    def take(self, holder: OpenFile, kind: str, lease_s: float, now_ns: int) -> bool:
        """Lock it, or renew the lease of what is held, unless somebody is in the way or came before."""
        if (holder not in self.holds and self.has_waiters) or not self.admits(holder, kind):
            return False
        self.give(holder, kind, lease_s, now_ns)
        return True

    def give(self, holder: OpenFile, kind: str, lease_s: float, now_ns: int) -> None:
        """It has the lock now, for `lease_s`; the way is free."""
        old = self.holds.get(holder)
        if old is not None:
            self._m.timers.cancel(old.timer)
        self.holds[holder] = Hold(kind, self._m.timers.at(after(now_ns, lease_s), lambda _: self._expire(holder)))
        if old is None or old.kind != kind:
            self._let_upgrade(holder, now_ns)
            self._changed(kind)
        if old is not None and old.kind != kind:
            self.stir()  # one that became shared lets others in

    def _let_upgrade(self, holder: OpenFile, now_ns: int) -> None:
        """What it waits for in the queue may be more than it has, now: a first call goes first, others are refused."""
        for wait in [wait for wait in self.queue if wait.holder is holder and self.upgrades(holder, wait.kind)]:
            if self.upgrade is None:
                del self.queue[wait]
                self.upgrade = wait
            else:
                wait.interrupt(self._m, self._second_upgrade(wait.fd), now_ns)

    def _second_upgrade(self, fd: int) -> WouldBlock:
        return WouldBlock(f"another call waits to lock ino {self.inode.ino} {EXCLUSIVE} instead of {SHARED}: unlock fd {fd}", fd=fd)

    def wait(self, wait: LockWait) -> None:
        """Stand in the queue. A holder that asks for more goes first. Raises WouldBlock when another one does already."""
        if self.upgrades(wait.holder, wait.kind):
            if self.upgrade is not None:
                raise self._second_upgrade(wait.fd)
            self.upgrade = wait
        else:
            self.queue[wait] = None

    def leave(self, wait: LockWait) -> None:
        """It waits no more; whoever stood behind may be next."""
        if self.upgrade is wait:
            self.upgrade = None
        else:
            self.queue.pop(wait, None)
        self.stir()

    def unlock(self, holder: OpenFile) -> None:
        """Let go of what it holds; harmless when that is nothing."""
        hold = self.holds.pop(holder, None)
        if hold is not None:
            self._m.timers.cancel(hold.timer)
            self._upgrade_no_more(holder)
            self._changed(UNLOCK)
        self.stir()

    def forget(self, holder: OpenFile) -> None:
        """Its last fd is closed."""
        self.lost.pop(holder, None)
        self.unlock(holder)

    def _expire(self, holder: OpenFile) -> None:
        del self.holds[holder]
        self.lost[holder] = None
        self._upgrade_no_more(holder)
        self._changed("expired")
        self.stir()

    def _upgrade_no_more(self, holder: OpenFile) -> None:
        """It holds nothing any more: what it waited for is in nobody's way, and still first."""
        if self.upgrade is not None and self.upgrade.holder is holder:
            self.queue = {self.upgrade: None, **self.queue}
            self.upgrade = None

    def stir(self) -> None:
        """Something changed: who waits is looked at when this entry of the kernel ends. Goes when there is nothing to say."""
        first = self.upgrade or next(iter(self.queue), None)
        if first is not None:
            self._m.mark(first)
        elif not self.holds and not self.lost and self.inode.lock is self:
            self.inode.lock = None

    def renew(self, holder: OpenFile, lease_s: float, now_ns: int) -> None:
        """Begin the lease of what it holds anew."""
        self.give(holder, self.holds[holder].kind, lease_s, now_ns)

    def demand_write(self, holder: OpenFile | None, now_ns: int) -> None:
        """Check that `holder` (None: an open file to come) may change the file.

        Raises:
            StaleFile: its lease had run out; said once.
            FileBusy: another open file has it locked.
        """
        ino = self.inode.ino
        if holder in self.lost:
            del self.lost[holder]
            self.stir()
            raise StaleFile(f"the lease on the lock of ino {ino} ran out: others may have changed the file", ino=ino)
        others = [hold for other, hold in self.holds.items() if other is not holder]
        if others:
            left_s = max(hold.timer.when_ns - now_ns for hold in others) / 1e9
            raise FileBusy(
                f"ino {ino} is locked ({others[0].kind}) by another open file; the lease ends in {left_s:.1f} s",
                ino=ino,
                retry_after_s=left_s,
            )

    def _changed(self, detail: str) -> None:
        self._m.files.changed(self.inode, "lock", detail=detail)

    def check(self) -> None:
        """Locks exclude each other; holders are open; leases run; who waits waits for a call, and is not first without reason."""
        assert self.inode.lock is self and (self.holds or self.lost or self.has_waiters)
        kinds = [hold.kind for hold in self.holds.values()]
        assert EXCLUSIVE not in kinds or len(kinds) == 1
        assert all(hold.timer.live for hold in self.holds.values())
        assert all(file.num_fds and file.inode is self.inode for file in (*self.holds, *self.lost))
        waits = [*([self.upgrade] if self.upgrade else []), *self.queue]
        assert all(wait.call is not None and wait.call.pending is wait and wait.holder.num_fds for wait in waits)
        assert all(self.upgrades(wait.holder, wait.kind) == (wait is self.upgrade) for wait in waits), (
            "an upgrade waits behind others"
        )
        assert not waits or not self.admits(waits[0].holder, waits[0].kind), "the first could have the lock"
