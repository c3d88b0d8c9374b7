"""The model's locks of open files (tests/model/kvfs/locking.py).

Granted in the order of asking, an upgrade first, as soon as nobody is in the way; a lease that runs out is an alarm. A call becomes
an upgrade when its open file comes to share the lock meanwhile, through a dup.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.model.kvfs.computing import Computing
from tests.model.kvfs.tree import File, Holder, OpenFile, Process, Refused, demand
from vllm_symphony.abi.types import Credentials

SECOND = 1_000_000_000


@dataclass(eq=False)
class Hold:
    file: File
    holder: Holder
    kind: str


@dataclass(eq=False)
class Wait:
    """A call that stands in the queue of a file."""

    process: Process
    fd: int
    file: File
    holder: Holder
    kind: str
    lease_s: float


@dataclass(eq=False)
class Lock:
    holds: list[Hold] = field(default_factory=list)
    queue: list[Wait] = field(default_factory=list)
    lost: set[Holder] = field(default_factory=set)  # their next write is refused, once

    def hold_of(self, holder: Holder) -> Hold | None:
        return next((hold for hold in self.holds if hold.holder is holder), None)


class Locking(Computing):
    def __init__(self, *limits: int) -> None:
        super().__init__(*limits)
        self.locks: dict[File, Lock] = {}
        self.answers: list[tuple[Any, Any]] = []  # calls that waited, and what they get

    def flock(
        self, process: Process, cred: Credentials, fd: int, kind: str = "exclusive", lease_s: float = 30.0, wait: bool = True,
        timeout_s: float | None = None,
    ) -> Any:  # fmt: skip
        demand(kind in ("shared", "exclusive", "unlock") and 0 < lease_s <= 86_400, "EINVAL")
        demand(timeout_s is None or timeout_s > 0, "EINVAL")
        opened = process.get(fd, cred)
        demand(opened.writable or kind != "exclusive", "EBADF")
        file, holder = opened.file, opened.holder
        lock = self.locks.setdefault(file, Lock())
        if kind == "unlock":
            self._unlock(file, holder)
            return {"lease_s": 0.0}
        asked = Wait(process, fd, file, holder, kind, lease_s)
        held = lock.hold_of(holder)
        if (held is not None or not lock.queue) and self._admits(asked):
            self._give(asked)
            return {"lease_s": lease_s}
        demand(wait, "EAGAIN")
        if held is not None and held.kind == "shared" and kind == "exclusive":
            demand(not any(self._upgrades(other) for other in lock.queue), "EAGAIN")
            self.set_alarm(held, self.now + int(lease_s * SECOND))
            lock.queue.insert(0, asked)
        else:
            lock.queue.append(asked)
        if timeout_s is not None:
            self.set_alarm(asked, self.now + int(timeout_s * SECOND))
        return asked

    def _upgrades(self, wait: Wait) -> bool:
        held = self.locks[wait.file].hold_of(wait.holder)
        return held is not None and held.kind == "shared" and wait.kind == "exclusive"

    def _admits(self, wait: Wait) -> bool:
        for hold in self.locks[wait.file].holds:
            if hold.holder is not wait.holder and "exclusive" in (hold.kind, wait.kind):
                return False
        writer = wait.file.writer
        if writer is None:
            return True
        through = writer.process.fds.get(writer.fd)
        return through is not None and through.holder is wait.holder

    def _give(self, wait: Wait) -> None:
        lock = self.locks[wait.file]
        held = lock.hold_of(wait.holder)
        if held is None:
            held = Hold(wait.file, wait.holder, "")
            lock.holds.append(held)
        if held.kind != wait.kind:
            held.kind = wait.kind
            if wait.kind == "shared":
                self._let_upgrade(lock)
            self.changed("lock", wait.file, wait.kind)
        self.set_alarm(held, self.now + int(wait.lease_s * SECOND))

    def _let_upgrade(self, lock: Lock) -> None:
        """Who waits for more than its open file has by now: the first goes first, another is refused."""
        for number, wait in enumerate([wait for wait in lock.queue if self._upgrades(wait)]):
            if number:
                self.stop_waiting(wait, "EAGAIN")
            else:
                lock.queue.remove(wait)
                lock.queue.insert(0, wait)

    def _unlock(self, file: File, holder: Holder, detail: str = "unlock") -> None:
        held = self.locks[file].hold_of(holder)
        if held is not None:
            self.locks[file].holds.remove(held)
            self.set_alarm(held, None)
            self.changed("lock", file, detail)

    def lease_ran_out(self, hold: Hold) -> None:
        self._unlock(hold.file, hold.holder, "expired")
        self.locks[hold.file].lost.add(hold.holder)

    def stop_waiting(self, wait: Wait, reason: str) -> None:
        self.locks[wait.file].queue.remove(wait)
        self.set_alarm(wait, None)
        self.answers.append((wait, Refused(reason)))

    def grant(self) -> None:
        """Whoever is first in a queue and has nobody in the way gets the lock."""
        for lock in self.locks.values():
            while lock.queue and self._admits(lock.queue[0]):
                wait = lock.queue.pop(0)
                self.set_alarm(wait, None)
                self._give(wait)
                self.answers.append((wait, {"lease_s": wait.lease_s}))

    def let_go(self, process: Process, fd: int) -> None:
        holder, file = process.fds[fd].holder, process.fds[fd].file
        for wait in [wait for lock in self.locks.values() for wait in lock.queue]:
            if wait.process is process and wait.fd == fd:
                self.stop_waiting(wait, "EINTR")
        super().let_go(process, fd)
        if not holder.num_fds and file in self.locks:
            self._unlock(file, holder)
            self.locks[file].lost.discard(holder)

    def demand_write(self, file: File, opened: OpenFile | None) -> None:
        lock = self.locks.get(file, Lock())
        if opened is not None and opened.holder in lock.lost:
            lock.lost.remove(opened.holder)
            raise Refused("ESTALE")
        demand(all(opened is not None and hold.holder is opened.holder for hold in lock.holds), "EBUSY")

    def locked(self, file: File) -> str:
        holds = self.locks.get(file, Lock()).holds
        return holds[0].kind if holds else ""
