"""All files, and the effects that keep the device in step (kernel/fs/table.py).

    names: "/kb/doc1" --> Inode 7 <-- fd 3 of pid 12         each change of identity here is one effect to the device,
                           Inode 8 <-- a job that runs       in order; jobs themselves are the calls' business

Invariants (`check`): names and inodes agree; a file exists exactly as long as a name, an fd or a job holds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import FileExists, NoSuchFile, QuotaExceeded
from vllm_symphony.kernel.effect import AppendTokens, CreateFile, DropFile, Effect, ForkFile, TruncateFile
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.fs.inode import Inode


class FileTable:
    """Inodes and names. Callers have checked rights and arguments; `emit` takes the device effects."""

    __slots__ = ("_emit", "_next_ino", "inodes", "limit", "names")

    def __init__(self, limit: int, emit: Callable[[Effect], None]) -> None:
        self.inodes: dict[Ino, Inode] = {}
        self.names: dict[str, Inode] = {}
        self.limit = limit
        self._next_ino = 1
        self._emit = emit

    def lookup(self, path: str) -> Inode:
        """The file of that name. Raises NoSuchFile."""
        inode = self.names.get(path)
        if inode is None:
            raise NoSuchFile(f"no such file: {path} ({len(self.names)} files have a name)", path=path)
        return inode

    def create(self, tokens: list[int], owner: str, mode: int, now_ns: int) -> Inode:
        """A new file that nobody holds yet. Raises QuotaExceeded."""
        inode = self._new(owner, mode, now_ns)
        inode.extend(tokens, 0, now_ns)
        self._emit(CreateFile(inode.ino, tokens, inode.domain))
        return inode

    def clone(self, source: OpenFile, owner: str, now_ns: int) -> Inode:
        """A new file with what `source` holds now, and its sampling state. Raises QuotaExceeded."""
        inode = self._new(owner, 0o600, now_ns)
        inode.copy_head(source.inode)
        inode.sampling = source.sampling.copy()
        self._emit(ForkFile(source.inode.ino, inode.ino, inode.length))
        return inode

    def extend(self, inode: Inode, tokens: list[int], start: int, now_ns: int) -> None:
        """More tokens without KV."""
        if tokens:
            inode.extend(tokens, start, now_ns)
            self._emit(AppendTokens(inode.ino, tokens, start))

    def cut(self, inode: Inode, length: int, now_ns: int) -> None:
        """Forget tokens from `length` on."""
        if length < inode.length:
            inode.cut(length, now_ns)
            self._emit(TruncateFile(inode.ino, length))

    def bind(self, path: str, inode: Inode) -> None:
        """Give it a (further) name. Raises FileExists."""
        if path in self.names:
            raise FileExists(f"the name is taken: {path}", path=path)
        self.names[path] = inode
        inode.names[path] = None

    def unbind(self, path: str) -> None:
        """Take the name away; the file goes when that was the last hold on it."""
        inode = self.names.pop(path)
        del inode.names[path]
        self.release(inode)

    def rebind(self, old: str, new: str) -> None:
        """Move a name over another one, at once. Two names of one file stay both, as in POSIX."""
        inode, victim = self.names[old], self.names.get(new)
        if victim is inode:
            return
        if victim is not None:
            self.unbind(new)
        del self.names[old], inode.names[old]
        self.bind(new, inode)

    def release(self, inode: Inode) -> None:
        """Drop the file if nobody holds it any more."""
        if inode.is_dead:
            del self.inodes[inode.ino]
            self._emit(DropFile(inode.ino))

    def _new(self, owner: str, mode: int, now_ns: int) -> Inode:
        if len(self.inodes) >= self.limit:
            raise QuotaExceeded(f"there are {self.limit} files, the most the server holds", limit=self.limit)
        inode = Inode(Ino(self._next_ino), owner, mode, owner, now_ns)
        self._next_ino += 1
        self.inodes[inode.ino] = inode
        return inode

    def check(self, max_positions: int) -> None:
        """The invariants above, and each inode's own."""
        for inode in self.inodes.values():
            inode.check(max_positions)
        assert Counter(inode.ino for inode in self.names.values()) == {i.ino: len(i.names) for i in self.inodes.values() if i.names}
        assert all(path in inode.names and self.inodes[inode.ino] is inode for path, inode in self.names.items())
