"""The model's open files, tokens and calls in flight (tests/model/kvfs/computing.py).

    call --checks--> Refused | result | Work --the device says when--> tokens join the file

What the device says is only *when* something is done; what comes out follows from the list of (token, position) pairs here, so a
page that was shared, moved, copied or restored wrongly gives another token than `greedy` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.model.kvfs.proc import Proc
from tests.model.kvfs.tree import READ, WRITE, File, OpenFile, Page, Process, Refused, View, demand
from vllm_symphony.abi.types import Credentials
from vllm_symphony.engine.sim import SimModel

RDWR, CREAT, EXCL, TRUNC, TMPFILE = 1, 2, 4, 8, 16
WEIGHTS = SimModel()


def greedy(entries: list[tuple[int, int]]) -> int:
    """The best token after these."""
    return int(np.argmax(WEIGHTS.row(entries[-3:])))


@dataclass(eq=False)
class Work:
    """A call that waits for the device. `cancelled`: with which reason it ends if the device had not done it yet."""

    op: str
    process: Process
    fd: int
    file: File
    tokens: list[int] = field(default_factory=list)
    start: int = 0
    position: int = 0
    drawn: list[int] = field(default_factory=list)
    cancelled: str = ""
    is_cut: bool = False  # a quota leaves it fewer tokens than it asked for
    sources: tuple[int, ...] = ()  # lengths of what an edit is made of
    planned: int = 0  # tokens of the file that may be computed with it

    @property
    def writes(self) -> bool:
        return self.op in ("forward", "generate", "edit")


class Computing(Proc):
    def __init__(self, max_files: int, max_fds: int, page_size: int, max_positions: int, num_pages: int) -> None:
        super().__init__(max_files)
        self.max_fds = max_fds
        self.page_size = page_size
        self.max_positions = max_positions
        self.num_pages = num_pages
        self.processes: list[Process] = []
        self.zombies: list[Process] = []
        self.works: dict[int, Work] = {}  # by job

    def opened(self) -> Iterator[File]:
        for process in self.processes:
            for opened in process.fds.values():
                yield opened.file

    def working(self) -> Iterator[File]:
        for work in self.works.values():
            yield work.file

    # ---- pages

    def compute(self, file: File, upto: int) -> None:
        """Tokens before `upto` have keys and values now."""
        shared = Counter(page for other in self.files() for page in other.pages)
        file.compute(upto, self.page_size, lambda page: shared[page] > 1)

    def cut(self, file: File, length: int) -> None:
        if length < file.length:
            file.cut(length, self.page_size)
            file.modified = self.now
            self.changed("modify", file)

    def extend(self, file: File, tokens: list[int], start: int) -> None:
        if tokens:
            file.add(tokens, start)
            file.modified = self.now
            self.changed("modify", file)

    def clone(self, source: File, cred: Credentials) -> File:
        """What a fork is: the same tokens, and the same pages as far as nobody goes on writing into them."""
        self.demand_room(cred.principal)
        file = File(cred.principal, cred.principal, 0o600, self.now, self.now, entries=list(source.entries))
        file.fidelity, file.frontier = source.fidelity, source.frontier
        whole = source.frontier // self.page_size if source.writer is not None else len(source.pages)
        file.pages = source.pages[:whole] + [Page() for _ in source.pages[whole:]]
        return file

    # ---- open and close

    def open(
        self, process: Process, cred: Credentials, path: str | None = None, tokens: list[int] | None = None, flags: int = 0,
        mode: int = 0o600, require: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        demand(0 <= flags < 32 and 0 <= mode <= 0o777 and require in ("", "exact"), "EINVAL")
        self.demand_tokens(tokens or [])
        demand(len(process.fds) < self.max_fds, "EMFILE")
        if path is None:
            demand((tokens is not None or flags & TMPFILE) and not flags & (CREAT | EXCL | TRUNC), "EINVAL")
            return self._fd(process, cred, self._new(cred, tokens or [], mode & ~process.umask, cred.principal), True)
        demand(not flags & TMPFILE and (flags & CREAT or not flags & EXCL) and (flags & RDWR or not flags & TRUNC), "EINVAL")
        file = self._found(process, cred, path, tokens, flags)
        if file is not None:
            return self._open_existing(process, cred, file, tokens, flags, require)
        place = self.place(cred, path)
        self.demand_free(place, cred)
        file = self._new(cred, tokens or [], mode & ~process.umask, self.group_for(place[0], cred))
        self.bind(place, file)
        return self._fd(process, cred, file, bool(flags & RDWR))

    def _found(self, process: Process, cred: Credentials, path: str, tokens: list[int] | None, flags: int) -> File | None:
        """The file at the path; None: it is to be made."""
        if flags & CREAT:
            folder, name = self.place(cred, path)
            node = folder.entries.get(name)
            demand(node is None or not flags & EXCL, "EEXIST")
            demand(node is None or isinstance(node, File), "EISDIR")
            return node  # type: ignore[return-value]
        try:
            node = self.lookup(process, cred, path)
        except Refused as refused:
            demand(refused.reason != "ENOENT" or tokens is None, "EINVAL")
            raise
        demand(not isinstance(node, View) or node.kind == "dir", "EINVAL")
        demand(isinstance(node, File), "EISDIR")
        demand(node.allows(cred, READ), "EACCES")
        return node  # type: ignore[return-value]

    def _open_existing(
        self, process: Process, cred: Credentials, file: File, tokens: list[int] | None, flags: int, require: str
    ) -> dict[str, Any]:
        demand(not flags & CREAT or not (flags & EXCL or tokens is not None), "EEXIST")
        demand(tokens is None, "EINVAL")
        demand(file.allows(cred, READ), "EACCES")
        demand(file.allows(cred, WRITE) or not flags & RDWR, "EACCES")
        demand(require != "exact" or file.fidelity == "exact", "EINVAL")
        if flags & TRUNC:
            demand(not file.is_busy, "EBUSY")
            self.demand_write(file, None)
            self.cut(file, 0)
        return self._fd(process, cred, file, bool(flags & RDWR))

    def _new(self, cred: Credentials, tokens: list[int], mode: int, group: str) -> File:
        self.demand_room(cred.principal)
        file = File(cred.principal, group, mode, self.now, self.now)
        file.add(tokens, 0)
        return file

    def _fd(self, process: Process, cred: Credentials, file: File, writable: bool) -> dict[str, Any]:
        return {"fd": process.add(OpenFile(file, writable, cred.principal)), "length": file.length}

    def close(self, process: Process, cred: Credentials, fd: int) -> None:
        process.get(fd, cred)
        self.let_go(process, fd)

    def let_go(self, process: Process, fd: int) -> None:
        """Calls of the process that run through the fd are told to end."""
        for work in self.works.values():
            if work.process is process and work.fd == fd:
                work.cancelled = work.cancelled or "EINTR"
        opened = process.fds.pop(fd)
        opened.holder.num_fds -= 1

    def end(self, process: Process) -> None:
        """All that it holds goes."""
        process.ended = True
        for work in self.works.values():
            if work.process is process:
                work.cancelled = work.cancelled or "EINTR"
        for fd in list(process.fds):
            self.let_go(process, fd)

    def dup(self, process: Process, cred: Credentials, fd: int) -> dict[str, Any]:
        opened = process.get(fd, cred)
        demand(len(process.fds) < self.max_fds, "EMFILE")
        again = process.add(OpenFile(opened.file, opened.writable, opened.principal, opened.holder))
        return {"fd": again, "length": opened.file.length}

    def fork(self, process: Process, cred: Credentials, fd: int) -> dict[str, Any]:
        opened = process.get(fd, cred)
        demand(len(process.fds) < self.max_fds, "EMFILE")
        self.demand_fresh(opened.file)
        return self._fd(process, cred, self.clone(opened.file, cred), True)

    def link(self, process: Process, cred: Credentials, fd: int, path: str, replace: bool = False) -> None:
        file = process.get(fd, cred).file
        place = self.place(cred, path)
        demand(file.is_of(cred), "EPERM")
        victim = place[0].entries.get(place[1])
        if victim is None or not replace:
            self.demand_free(place, cred)
        elif victim is file:
            return
        else:
            demand(isinstance(victim, File), "EISDIR")
            self.demand_removal(place, cred)
            self.unbind(place, "replaced")
        self.bind(place, file)

    # ---- tokens

    def demand_tokens(self, tokens: list[int]) -> None:
        demand(len(tokens) <= self.max_positions, "EFBIG")
        demand(all(token < WEIGHTS.vocab_size for token in tokens), "EINVAL")

    def demand_start(self, file: File, start: int | None, num_tokens: int) -> int:
        start = file.following if start is None else start
        demand(start >= file.following, "EINVAL")
        demand(start + num_tokens <= self.max_positions, "EFBIG")
        return start

    def demand_fresh(self, file: File) -> None:
        """It was edited, and its pages are gone."""

    def demand_growth(self, file: File, num_tokens: int) -> None:
        """It is pinned, and there is no room for more pages of it."""

    def demand_write(self, file: File, opened: OpenFile | None) -> None:
        """No lock of another open file is in the way."""

    def demand_pages(self, file: File, num_tokens: int, least: int | None = None) -> int:
        """How many more tokens it may have, by the quota of its owner."""
        return num_tokens

    def demand_computed(self, file: File, num_tokens: int) -> None:
        """The quota of its owner has room for so many of its first tokens."""

    def truncate(self, process: Process, cred: Credentials, fd: int, length: int, at: int | None = None) -> None:
        opened = process.get_writable(fd, cred)
        file = opened.file
        demand(at in (None, file.length), "ESTALE")
        demand(0 <= length <= file.length, "EINVAL")
        demand(not file.is_busy, "EBUSY")
        self.demand_write(file, opened)
        self.cut(file, length)

    def append(
        self, process: Process, cred: Credentials, fd: int, tokens: list[int], start: int | None = None, at: int | None = None
    ) -> dict[str, Any]:
        opened = process.get_writable(fd, cred)
        file = opened.file
        demand(at in (None, file.length), "ESTALE")
        self.demand_tokens(tokens)
        start = self.demand_start(file, start, len(tokens))
        demand(not file.is_busy, "EBUSY")
        self.demand_write(file, opened)
        self.demand_growth(file, file.length + len(tokens))
        self.extend(file, tokens, start)
        return {"length": file.length}

    def read(
        self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None, offset: int = 0,
        count: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        file = self.target(process, cred, fd, path)
        if isinstance(file, View) and file.kind == "proc":
            return {"length": 0, "has_text": True}
        demand(isinstance(file, File), "EISDIR")
        assert isinstance(file, File)
        demand(fd is not None or file.allows(cred, READ), "EACCES")
        demand(offset >= 0 and (count is None or count >= 0), "EINVAL")
        part = file.entries[offset:] if count is None else file.entries[offset : offset + count]
        return {"tokens": [token for token, _ in part], "positions": [position for _, position in part], "length": file.length}

    # ---- the device's work

    def forward(
        self, process: Process, cred: Credentials, fd: int, tokens: list[int], start: int | None = None, at: int | None = None,
        **_: Any,
    ) -> Work:  # fmt: skip
        opened = process.get(fd, cred)
        file = opened.file
        self.demand_tokens(tokens)
        demand(not tokens or opened.writable, "EBADF")
        demand(at in (None, file.length), "ESTALE")
        demand(tokens or file.entries, "EINVAL")
        start = self.demand_start(file, start, len(tokens))
        self.demand_fresh(file)
        if file.writer is not None:
            demand(not tokens and file.writer.op == "forward" and not file.writer.tokens, "EBUSY")
            file = self.clone(file, cred)
        else:
            if tokens:
                self.demand_write(file, opened)
            self.demand_pages(file, len(tokens))
        file.writer = Work("forward", process, fd, file, tokens, start, planned=file.length + len(tokens))
        return file.writer

    def generate(self, process: Process, cred: Credentials, fd: int, max_tokens: int, at: int | None = None, **_: Any) -> Work:
        opened = process.get_writable(fd, cred)
        file = opened.file
        demand(at in (None, file.length), "ESTALE")
        demand(max_tokens >= 1 and file.entries, "EINVAL")
        demand(file.following < self.max_positions, "EFBIG")
        self.demand_fresh(file)
        demand(file.writer is None, "EBUSY")
        self.demand_write(file, opened)
        wanted = min(max_tokens, self.max_positions - file.following)
        most = self.demand_pages(file, wanted, least=1)
        file.writer = Work("generate", process, fd, file, planned=file.length + most, is_cut=most < wanted)
        return file.writer

    def sample(self, process: Process, cred: Credentials, fd: int, position: int | None = None) -> Work:
        file = process.get(fd, cred).file
        demand(file.entries, "EINVAL")
        position = file.length - 1 if position is None else position
        demand(not file.length <= position < file.longest, "ESTALE")
        demand(0 <= position < file.length, "EINVAL")
        self.demand_fresh(file)
        self.demand_computed(file, position + 1)
        file.readers += 1
        return Work("sample", process, fd, file, position=position, planned=position + 1)

    def drew(self, work: Work, tokens: list[int]) -> None:
        """The device generated these."""
        for token in tokens:
            assert token == greedy(work.file.entries), f"generated {token} after {work.file.entries}"
            self.extend(work.file, [token], work.file.following)
        self.compute(work.file, work.file.length - 1)
        work.drawn += tokens

    def done(self, job: int) -> dict[str, Any]:
        """The device is done with it; what the caller gets."""
        work = self.works.pop(job)
        file = work.file
        self.release(work)
        if work.op == "edit":
            return self.edited(work)
        if work.op == "forward":
            self.extend(file, work.tokens, work.start)
            self.compute(file, file.length)
            return {"length": file.length, "top": greedy(file.entries)}
        if work.op == "generate":
            return {"length": file.length, "tokens": work.drawn, "reason": "quota" if work.is_cut else "length"}
        return {"tokens": [greedy(file.entries[: work.position + 1])]}

    def edited(self, work: Work) -> dict[str, Any]:
        raise NotImplementedError

    def failed(self, job: int, reason: str) -> str:
        """The device gave it up; the reason that the caller gets. The file is as before, but for what was generated."""
        work = self.works.pop(job)
        self.release(work)
        assert work.cancelled or self.is_too_much(work, reason), f"{work.op} failed with {reason}, and nobody had cancelled it"
        return work.cancelled or reason

    def is_too_much(self, work: Work, reason: str) -> bool:
        """Whether what is pinned, with all that runs, takes more than all pages. An edit needs its sources beside what it makes."""
        needed = {file: len(file.pages) for file in self.files() if file.pinned}
        for other in (*self.works.values(), work):
            most = sum(-(-num // self.page_size) for num in (other.planned or other.file.length, *other.sources))
            needed[other.file] = max(most, needed.get(other.file, 0))
        return reason == "ENOSPC" and sum(needed.values()) > self.num_pages

    def release(self, work: Work) -> None:
        if work.writes:
            work.file.writer = None
        else:
            work.file.readers -= 1
