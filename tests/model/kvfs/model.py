"""The whole model, and what it is run with (tests/model/kvfs/model.py)."""

from __future__ import annotations

from typing import Any

from tests.model.kvfs.locking import Hold, Wait
from tests.model.kvfs.tree import File, Process
from tests.model.kvfs.watching import Watcher, Watching
from vllm_symphony.abi.types import Credentials
from vllm_symphony.kernel.limits import Limits

PAGE_SIZE, MAX_POSITIONS = 4, 40
LIMITS = Limits(files=70, fds=12, ended=4)
ADMIN = Credentials("root", scopes=("admin", "run"))
PRINCIPALS = {
    "ann": Credentials("ann", ("staff",), ("run",)),
    "bob": Credentials("bob", ("staff", "docs"), ("run",)),
    "eve": Credentials("eve", (), ("run",)),
    "root": ADMIN,
}


class Model(Watching):
    def __init__(self, num_pages: int) -> None:
        super().__init__(LIMITS.files, LIMITS.fds, PAGE_SIZE, MAX_POSITIONS, num_pages)

    # ---- processes

    def connect(self, pid: int, kind: str, cred: Credentials, lease_s: float) -> Process:
        process = Process(pid, kind, cred, lease_s=lease_s)
        self.processes.append(process)
        return process

    def suspend(self, process: Process) -> None:
        """Its connection is lost: the lease begins."""
        process.connected = False
        self.touched(process)

    def touched(self, process: Process) -> None:
        """Somebody called for it."""
        if not process.connected and not process.ended:
            self.set_alarm(process, self.now + int(process.lease_s * 1e9))

    def resume(self, process: Process) -> None:
        process.connected = True
        self.set_alarm(process, None)

    def end(self, process: Process) -> None:
        self.set_alarm(process, None)
        for watcher in [watcher for watcher in self.watches if watcher.process is process]:
            self.stop_watching(watcher, "EINTR")
        for wait in [wait for lock in self.locks.values() for wait in lock.queue if wait.process is process]:
            self.stop_waiting(wait, "EINTR")
        super().end(process)
        self.processes.remove(process)
        if process.kind == "session":
            self.zombies = [*self.zombies, process][-LIMITS.ended :]

    def cancel(self, what: Any) -> None:
        """End a call in flight."""
        if isinstance(what, Watcher):
            self.stop_watching(what, "EINTR")
        elif isinstance(what, Wait):
            self.stop_waiting(what, "EINTR")
        else:
            what.cancelled = what.cancelled or "EINTR"

    # ---- the clock

    def advance(self, now: int) -> None:
        """Let the alarms ring that are due."""
        while True:
            due = [(when, number, what) for what, (when, number) in self.alarms.items() if when <= now]
            if not due:
                break
            self.now, _, what = min(due, key=lambda alarm: alarm[:2])
            del self.alarms[what]
            self.ring(what)
        self.now = now

    def ring(self, what: Any) -> None:
        if isinstance(what, File):
            self.expired(what)
        elif isinstance(what, Process):
            self.end(what)
        elif isinstance(what, Hold):
            self.lease_ran_out(what)
        elif isinstance(what, Wait):
            self.stop_waiting(what, "ETIMEDOUT")
        self.grant()
