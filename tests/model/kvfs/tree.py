"""What the model is made of: directories and files as plain Python values (tests/model/kvfs/tree.py).

    Folder.entries   name -> Folder | File          names of a file are found by looking everywhere, never stored
    File.entries     [(token, position), ...]       File.pages   [Page, ...]: what its computed part lies in; forks have the same

Slow and simple on purpose: whatever can be asked of the real thing is answered here by a walk over everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vllm_symphony.abi.types import Credentials

READ, WRITE, PASS = 4, 2, 1
STRENGTH = ("none", "tokens", "pages")
LINEAGE = ("exact", "pruned", "approximate")


class Refused(Exception):
    """The model says that the call must fail, with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def demand(condition: object, reason: str) -> None:
    if not condition:
        raise Refused(reason)


@dataclass(eq=False)
class Node:
    owner: str
    group: str
    mode: int
    created: int
    modified: int
    ino: int = 0  # as the kernel says
    xattrs: dict[str, str] = field(default_factory=dict)

    def allows(self, cred: Credentials, bits: int) -> bool:
        """One of the bits, by the first class that the caller is in."""
        if cred.is_admin:
            return True
        if cred.principal == self.owner:
            return bool(self.mode >> 6 & bits)
        if self.group == cred.principal or self.group in cred.groups:
            return bool(self.mode >> 3 & bits)
        return bool(self.mode & bits)

    def is_of(self, cred: Credentials) -> bool:
        return cred.is_admin or cred.principal == self.owner


@dataclass(eq=False)
class Folder(Node):
    entries: dict[str, Node] = field(default_factory=dict)
    durable: str = ""
    ttl_s: float = 0.0
    is_fixed: bool = False

    def visible_to(self, cred: Credentials) -> bool:
        return self.is_of(cred) or self.allows(cred, READ | PASS)


class Page:
    """A page's worth of keys and values; files that have the same object share it."""


@dataclass(eq=False)
class File(Node):
    entries: list[tuple[int, int]] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    frontier: int = 0  # computed tokens
    domain: str = ""
    fidelity: str = "exact"
    expires: int | None = None
    longest: int = 0  # it was when it was cut
    writer: Any = None  # a Work in flight
    readers: int = 0
    pinned: bool = False
    saved: bool = False  # its first computed pages are on disk
    stale: bool = False  # it was edited, and its pages are gone

    def visible_to(self, cred: Credentials) -> bool:
        return self.is_of(cred) or self.allows(cred, READ)

    @property
    def length(self) -> int:
        return len(self.entries)

    @property
    def following(self) -> int:
        return self.entries[-1][1] + 1 if self.entries else 0

    @property
    def is_busy(self) -> bool:
        return self.writer is not None or self.readers > 0

    def add(self, tokens: list[int], start: int) -> None:
        self.entries += [(token, start + i) for i, token in enumerate(tokens)]

    def compute(self, upto: int, page_size: int, is_shared: Any) -> None:
        """Its first `upto` tokens have keys and values now; a page that others have too is not written into."""
        if upto > self.frontier:
            if self.frontier % page_size and is_shared(self.pages[-1]):
                self.pages[-1] = Page()
            self.pages += [Page() for _ in range(-(-upto // page_size) - len(self.pages))]
            self.frontier = upto

    def cut(self, length: int, page_size: int) -> None:
        self.longest = max(self.longest, self.length)
        del self.entries[length:]
        self.frontier = min(self.frontier, length)
        del self.pages[-(-self.frontier // page_size) :]
        if not length or (length == 1 and self.fidelity != "exact"):
            self.fidelity, self.stale, self.saved = "exact", False, False  # nothing is left of what was edited


@dataclass(eq=False)
class Holder:
    """One open: all its dups."""

    num_fds: int = 0


@dataclass(eq=False)
class OpenFile:
    file: File
    writable: bool
    principal: str
    holder: Holder = field(default_factory=Holder)


@dataclass(eq=False)
class Process:
    """`kind`: client, session or edge."""

    pid: int
    kind: str
    cred: Credentials
    umask: int = 0o022
    fds: dict[int, OpenFile] = field(default_factory=dict)
    next_fd: int = 3
    lease_s: float = 0.0
    connected: bool = True
    ended: bool = False

    def add(self, file: OpenFile) -> int:
        fd, self.next_fd = self.next_fd, self.next_fd + 1
        self.fds[fd] = file
        file.holder.num_fds += 1
        return fd

    def get(self, fd: int, cred: Credentials) -> OpenFile:
        file = self.fds.get(fd)
        demand(file is not None and (cred.is_admin or file.principal == cred.principal), "EBADF")
        assert file is not None
        return file

    def get_writable(self, fd: int, cred: Credentials) -> OpenFile:
        file = self.get(fd, cred)
        demand(file.writable, "EBADF")
        return file


@dataclass(eq=False)
class View(Node):
    """Something below /proc: all processes, one (`process`), its fds, or a text."""

    kind: str = "dir"
    process: Process | None = None
    is_fds: bool = False

    def visible_to(self, cred: Credentials) -> bool:
        return True


def below(folder: Folder, path: str) -> Iterator[tuple[str, Node]]:
    """All that is in it, however deep, a folder before what it holds."""
    for name in sorted(folder.entries):
        node = folder.entries[name]
        yield f"{path}/{name}", node
        if isinstance(node, Folder):
            yield from below(node, f"{path}/{name}")
