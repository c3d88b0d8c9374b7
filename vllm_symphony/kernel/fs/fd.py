"""Open files of a process (kernel/fs/fd.py).

    fd 3 --> OpenFile(inode, writable)      numbers from 3 upward, never used twice in a process

POSIX gives the lowest free number; we do not: a program's tasks run at the same time, and one that still holds a closed fd must
get EBADF, not somebody else's file. An edge process acts for many principals, so its fds belong to the one that opened them.
"""

from __future__ import annotations

from vllm_symphony.abi.types import Credentials, Fd, Ino
from vllm_symphony.errors import BadFile, TooManyFiles
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.sampling import Sampling

_FIRST_FD = 3


class OpenFile:
    """What an fd stands for. A read-only one keeps its own sampling state: reading must not change a shared file. Locks belong to
    it together with its dups: to the first of them (`holder`), which counts their fds."""

    __slots__ = ("_first", "_own", "inode", "num_fds", "principal", "writable")

    def __init__(self, inode: Inode, writable: bool, principal: str) -> None:
        self.inode = inode
        self.writable = writable
        self.principal = principal
        self._own: Sampling | None = None
        self._first: OpenFile | None = None
        self.num_fds = 0

    @property
    def holder(self) -> OpenFile:
        """Whose the locks are that are taken through it."""
        return self._first or self

    def demand_write(self, now_ns: int) -> None:
        """Check that no lock is in the way. Raises FileBusy, StaleFile (kernel/fs/lock.py)."""
        if self.inode.lock is not None:
            self.inode.lock.demand_write(self.holder, now_ns)

    @property
    def sampling(self) -> Sampling:
        """The state to read and to record in."""
        if self.writable:
            return self.inode.sampling
        if self._own is None:
            self._own = self.inode.sampling.copy()
        self._own.cut(self.inode.length)
        return self._own

    def again(self) -> OpenFile:
        """A second one with the same rights (`dup`)."""
        other = OpenFile(self.inode, self.writable, self.principal)
        other._own = self._own.copy() if self._own is not None else None
        other._first = self.holder
        return other


class FdTable:
    """fd -> OpenFile of one process; counts itself in `Inode.num_open`. `counts`: fds of each file; `touched`: files that may have
    more or fewer pages since the process's page clock looked (kernel/tally.py)."""

    __slots__ = ("_next", "counts", "files", "limit", "touched")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.files: dict[int, OpenFile] = {}
        self.counts: dict[Ino, int] = {}
        self.touched: dict[Ino, Inode] = {}
        self._next = _FIRST_FD

    def __len__(self) -> int:
        return len(self.files)

    def demand_room(self) -> None:
        """Raises TooManyFiles when the table is full."""
        if len(self.files) >= self.limit:
            raise TooManyFiles(f"{self.limit} files are open, the most a process may have", limit=self.limit)

    def add(self, file: OpenFile) -> Fd:
        """Give it a number; there is room."""
        fd = Fd(self._next)
        self._next += 1
        self.files[fd] = file
        inode = file.inode
        self.touched[inode.ino] = inode
        self.counts[inode.ino] = self.counts.get(inode.ino, 0) + 1
        inode.num_open += 1
        file.holder.num_fds += 1
        return fd

    def get(self, fd: int, cred: Credentials) -> OpenFile:
        """The open file of that number, if it is the caller's.

        Raises:
            BadFile: it is not open, or was opened for another principal.
        """
        file = self.files.get(fd)
        if file is None or (file.principal != cred.principal and not cred.is_admin):
            raise BadFile(f"fd {fd} is not open ({len(self.files)} are)", fd=fd)
        return file

    def get_writable(self, fd: int, cred: Credentials) -> OpenFile:
        """The same, open for writing.

        Raises:
            BadFile: it is not open, or open for reading only.
        """
        file = self.get(fd, cred)
        if not file.writable:
            raise BadFile(f"fd {fd} is open for reading only", fd=fd)
        self.touched[file.inode.ino] = file.inode
        return file

    def remove(self, fd: int) -> Inode:
        """Forget the number; the caller drops the file if it was the last."""
        file = self.files.pop(fd)
        inode, holder = file.inode, file.holder
        self.touched[inode.ino] = inode
        if self.counts[inode.ino] == 1:
            del self.counts[inode.ino]
        else:
            self.counts[inode.ino] -= 1
        inode.num_open -= 1
        holder.num_fds -= 1
        if inode.lock is not None and not holder.num_fds:
            inode.lock.forget(holder)
        return inode

    def touch_all(self) -> None:
        """Somebody is about to look at the pages."""
        self.touched.update((file.inode.ino, file.inode) for file in self.files.values())
