"""Whose files are on the device, and what their threads wait for (engine/resident.py).

    job on a file --begins--> the file is its thread's --ends--> its own code runs --Rests--> it waits
                                                                        ^------------Resumes----'

What the memory policy is asked about (kernel/sched/memory/policy.py) is made here, from the page table and what the kernel tells.
The gaps between a thread's calls are learned on the way: by the tool, the sleep or the message that it waited for, else as its own
code's. A thread is known as long as it waits or a file is its; a file whose thread has ended is nobody's until the next job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.kernel.effect import Owner, Rests, Resumes
from vllm_symphony.kernel.sched.memory.policy import CODE, Resident, Rest
from vllm_symphony.kernel.sched.predict import Name, Predictor


@dataclass(slots=True, eq=False)
class Thread:
    """One that used files which are here, or are below. `rests`: by call; `code_since_s`: None while it computes or rests."""

    name: Name = ("", "")
    files: dict[PagedFile, None] = field(default_factory=dict)
    rests: dict[int, Rest] = field(default_factory=dict)
    code_since_s: float | None = None


class Residents:
    """All threads that have files. Called by the thread that steps."""

    def __init__(self, page_size: int, predictor: Predictor, clock: Callable[[], float]) -> None:
        self.predictor = predictor
        self._page_size = page_size
        self._clock = clock
        self._of: dict[Pid, dict[int, Thread]] = {}
        self._users: dict[PagedFile, tuple[Pid, int]] = {}
        self._lost: dict[PagedFile, float] = {}  # files whose job came when their pages were gone, and when that was

    # ---- what happens

    def begins(self, f: PagedFile, owner: Owner) -> None:
        """A job on the file has come."""
        if not owner.pid or f.ino < 0:
            return  # the kernel's own, or a fork for a while: they say nothing of who will want the file
        key = (owner.pid, owner.tid)
        if self._users.get(f) != key:
            self.forget(f)
            self._users[f] = key
        thread = self._of.setdefault(owner.pid, {}).setdefault(owner.tid, Thread())
        thread.name = (owner.principal, owner.program)
        thread.files[f] = None
        if f.num_uses and not f.blocks and f.resting is None:
            self._lost[f] = self._clock()
        if thread.code_since_s is not None:
            self.predictor.rested(thread.name, CODE, "", self._clock() - thread.code_since_s)
            thread.code_since_s = None

    def started(self, f: PagedFile) -> float | None:
        """Its job has all pages that it needs; how long it waited, if they were gone when it came."""
        came_s = self._lost.pop(f, None)
        return None if came_s is None else self._clock() - came_s

    def ends(self, f: PagedFile) -> None:
        """No job is on the file any more."""
        self._lost.pop(f, None)
        if (thread := self.thread_of(f)) is not None and not thread.rests:
            thread.code_since_s = self._clock()

    def rests(self, e: Rests) -> Thread | None:
        """The thread waits; None if no file is its."""
        thread = self._of.get(e.pid, {}).get(e.tid)
        if thread is not None:
            thread.rests[e.call] = Rest(e.why, e.name, self._clock())
            thread.code_since_s = None
        return thread

    def resumes(self, e: Resumes) -> Thread | None:
        """What it waited for is over; None if no file is its."""
        thread = self._of.get(e.pid, {}).get(e.tid)
        if thread is None:
            return None
        rest = thread.rests.pop(e.call, None)
        now_s = self._clock()
        if rest is not None:
            self.predictor.rested(thread.name, rest.why, rest.tool, now_s - rest.since_s)
        if not thread.rests:
            thread.code_since_s = now_s
        return thread

    def gone(self, pid: Pid) -> list[PagedFile]:
        """The process has ended: its files, which are nobody's now."""
        files = [f for thread in self._of.pop(pid, {}).values() for f in thread.files]
        for f in files:
            del self._users[f]
        return files

    def forget(self, f: PagedFile) -> None:
        """The file goes, or is another's from now on."""
        self._lost.pop(f, None)
        key = self._users.pop(f, None)
        if key is not None:
            pid, tid = key
            thread = self._of[pid][tid]
            del thread.files[f]
            if not thread.files:
                del self._of[pid][tid]
                if not self._of[pid]:
                    del self._of[pid]

    # ---- what is known

    @property
    def num_threads(self) -> int:
        return sum(map(len, self._of.values()))

    def thread_of(self, f: PagedFile) -> Thread | None:
        key = self._users.get(f)
        return None if key is None else self._of[key[0]][key[1]]

    def view(self, f: PagedFile) -> Resident:
        """As a policy sees it. O(1)."""
        thread = self.thread_of(f)
        size, upto = self._page_size, min(f.frontier, len(f.blocks) * self._page_size)
        return Resident(
            num_tokens=upto,
            num_pages=len(f.blocks),
            num_missing=0 if f.below >= upto else -(-upto // size) - f.below // size,
            exact=not f.edited,
            last_used_s=f.last_used,
            interval_s=(f.last_used - f.born) / f.num_uses if f.num_uses else 0.0,
            name=thread.name if thread is not None else ("", ""),
            rest=self._rest(thread, f) if thread is not None else None,
        )

    @staticmethod
    def _rest(thread: Thread, f: PagedFile) -> Rest:
        """The last that began of what it waits for, else its own code."""
        if thread.rests:
            return next(reversed(thread.rests.values()))
        return Rest(CODE, "", f.last_used if thread.code_since_s is None else thread.code_since_s)

    def check(self) -> None:
        """Threads and files agree, and nobody is kept for nothing."""
        owned = {f: (pid, tid) for pid, threads in self._of.items() for tid, t in threads.items() for f in t.files}
        assert owned == self._users
        assert all(t.files for threads in self._of.values() for t in threads.values())
