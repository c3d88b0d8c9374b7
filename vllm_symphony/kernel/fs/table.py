"""All files, and what happens to them (kernel/fs/table.py): they are made, changed, named, moved, dropped.

    / --kb--> Directory 9 --doc1--> Inode 7 <-- fd 3 of pid 12       each change of a file's identity is one effect to the device,
                                    Inode 8 <-- a job that runs      in order; of directories and names the device knows nothing

Rights on directories are checked where they are changed (`link`, `remove`, `move`, `mkdir`); on the way there by the tree.

Invariants (`check`): names and nodes agree; a directory is below the root by exactly one name; a file exists exactly as long as a
name, an fd or a job holds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from vllm_symphony.abi.types import Credentials, Ino
from vllm_symphony.errors import (
    FileExists,
    InvalidArgument,
    IsDirectory,
    NoSuchFile,
    NotDirectory,
    NotEmpty,
    QuotaExceeded,
)  # fmt: skip
from vllm_symphony.kernel.effect import AppendTokens, CreateFile, DropFile, Effect, ForkFile, StoreWrite, TruncateFile
from vllm_symphony.kernel.fs.account import Account
from vllm_symphony.kernel.fs.directory import FIXED, Directory
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.node import MAY_WRITE, SETGID, Node
from vllm_symphony.kernel.fs.path import PROC, demand_within
from vllm_symphony.kernel.fs.tree import Tree
from vllm_symphony.kernel.limits import Limits
from vllm_symphony.kernel.timer import Timers, after


class FileTable(Tree):
    """The tree, its files and directories. `emit` takes the device effects; `expiries` are alarms that keep nothing busy."""

    __slots__ = ("_emit", "expiries", "inodes")

    def __init__(self, limits: Limits, emit: Callable[[Effect], None], now_ns: int, account: Account) -> None:
        super().__init__(limits, account, now_ns)
        self._emit = emit
        self.inodes: dict[Ino, Inode] = {}
        self.expiries = Timers()

    def __len__(self) -> int:
        """Files and directories, beside those that are always there."""
        return len(self.inodes) + len(self.directories) - len(FIXED)

    # ---- files

    def new(self, owner: str, mode: int, now_ns: int, group: str = "") -> Inode:
        """A file that nobody holds yet and the device does not know. Raises QuotaExceeded."""
        inode = Inode(self._next_ino(owner), owner, group or owner, mode, owner, now_ns)
        self.inodes[inode.ino] = inode
        self.account.enter(inode)
        return inode

    def create(self, tokens: list[int], owner: str, mode: int, now_ns: int, group: str = "") -> Inode:
        """A new file that nobody holds yet. Raises QuotaExceeded."""
        inode = self.new(owner, mode, now_ns, group)
        inode.extend(tokens, 0, now_ns)
        self._emit(CreateFile(inode.ino, tokens, inode.domain))
        return inode

    def clone(self, source: OpenFile, owner: str, now_ns: int) -> Inode:
        """A new file with what `source` holds now, and its sampling state. Raises QuotaExceeded."""
        inode = self.new(owner, 0o600, now_ns)
        inode.copy_head(source.inode)
        inode.sampling = source.sampling.copy()
        self.account.fork(source.inode, inode)
        self._emit(ForkFile(source.inode.ino, inode.ino, inode.length, inode.domain))
        return inode

    def extend(self, inode: Inode, tokens: list[int], start: int, now_ns: int) -> None:
        """More tokens without KV."""
        if tokens:
            inode.extend(tokens, start, now_ns)
            self._emit(AppendTokens(inode.ino, tokens, start))
            self.changed(inode, "modify")

    def cut(self, inode: Inode, length: int, now_ns: int) -> None:
        """Forget tokens from `length` on."""
        if length < inode.length:
            self.account.cut(inode, length)
            inode.cut(length, now_ns)
            self._emit(TruncateFile(inode.ino, length))
            self.changed(inode, "modify")

    def release(self, inode: Inode) -> None:
        """Drop the file if nobody holds it any more."""
        if inode.is_dead:
            self.forget(inode)
            self._emit(DropFile(inode.ino))
            if inode.indexed_ns:
                self._emit(StoreWrite(removed=(inode.ino,)))  # from the index, if from nowhere else

    def forget(self, inode: Inode) -> None:
        """It is gone, and the device does not know it."""
        self.expiries.cancel(inode.expiry)
        del self.inodes[inode.ino]
        self.account.leave(inode)

    def _next_ino(self, owner: str) -> Ino:
        """Raises QuotaExceeded when there are too many files and directories, or the owner has too many."""
        self._demand_room(owner, 1)
        return self.take_ino()

    def _demand_room(self, owner: str, num_files: int) -> None:
        limit = self._limits.files
        if len(self) + num_files > limit:
            raise QuotaExceeded(f"there are {len(self)} files and directories, the server holds {limit} at most", limit=limit)
        self.account.demand_file(owner, num_files)

    # ---- names

    def mkdir(self, parent: Directory, name: str, cred: Credentials, mode: int, now_ns: int) -> Directory:
        """A new directory; setgid and `ttl_s` are handed on. Raises AccessDenied, FileExists, QuotaExceeded."""
        self.demand_free(parent, name, cred)
        owner, group = cred.principal, parent.group_for(cred)
        directory = self._directory(self._next_ino(owner), owner, group, mode | parent.mode & SETGID, now_ns)
        directory.ttl_s = parent.ttl_s
        self._bind(parent, name, directory, now_ns)
        return directory

    def make_parents(self, path: str, cred: Credentials, mode: int, now_ns: int, num_more: int = 1) -> None:
        """Make the directories of the path that are missing: all of them, if there is room for them and `num_more`, or none. Raises
        what `lookup` and `mkdir` raise, and AccessDenied for those above the caller's paths."""
        parts = self.parts(path)[:-1]
        demand_within(cred, path)
        if parts[:1] == [PROC]:
            return
        node: Node = self.root
        for depth, name in enumerate(parts):
            try:
                node = self._step(node, name, cred, path)
            except NoSuchFile:
                assert isinstance(node, Directory)
                missing = parts[depth:]
                demand_within(cred, "/" + "/".join(parts[: depth + 1]))
                break
        else:
            return
        self.demand_free(node, missing[0], cred)
        self._demand_room(cred.principal, len(missing) + num_more)
        for name in missing:
            node = self.mkdir(node, name, cred, mode, now_ns)

    def link(self, directory: Directory, name: str, inode: Inode, cred: Credentials, now_ns: int, *, replace: bool = False) -> None:
        """Give the file a (further) name; with `replace` another file may lose it. Two names of one file stay, as in POSIX.

        Raises:
            FileExists, IsDirectory: the name is taken.
            AccessDenied, NotOwner: the caller may not change the directory, or not take the name away.
        """
        victim = directory.entries.get(name)
        if victim is None or not replace:
            self.demand_free(directory, name, cred)
        elif victim is inode:
            return
        else:
            path = self.path_in(directory, name)
            if isinstance(victim, Directory):
                raise IsDirectory(f"{path} is a directory", path=path)
            directory.demand_removal(victim, cred, path)
            self.unbind(directory, name, now_ns, "replaced")
        self._bind(directory, name, inode, now_ns)

    def remove(self, directory: Directory, name: str, cred: Credentials, now_ns: int) -> None:
        """Take a file's name, or an empty directory, away.

        Raises:
            NotEmpty: a directory that holds something.
            AccessDenied, NotOwner: the caller may not change the directory, or not take the name away.
        """
        node = directory.entries[name]
        path = self.path_in(directory, name)
        directory.demand_removal(node, cred, path)
        if isinstance(node, Directory) and node.entries:
            raise NotEmpty(f"{path} holds {len(node.entries)} names", path=path)
        self.unbind(directory, name, now_ns)

    def move(self, old: tuple[Directory, str], new: tuple[Directory, str], cred: Credentials, now_ns: int) -> None:
        """Move a name, at once, over what `new` stood for: a file over a file, a directory over an empty one.

        Raises:
            IsDirectory, NotDirectory, NotEmpty: what is there cannot be replaced.
            InvalidArgument: a directory would be inside itself, or is one that stays where it is.
            AccessDenied, NotOwner: the caller may not change one of the directories, or not take a name away.
        """
        node, victim = old[0].entries[old[1]], new[0].entries.get(new[1])
        path, new_path = self.path_in(*old), self.path_in(*new)
        old[0].demand_removal(node, cred, path)
        if victim is node:
            return
        if node.ino in FIXED:
            raise InvalidArgument(f"{path} stays where it is", path=path)
        if isinstance(node, Directory) and new[0].is_below(node):
            raise InvalidArgument(f"{new_path} is inside {path}", path=new_path)
        if victim is None:
            new[0].demand(cred, MAY_WRITE, f"the directory of {new_path}")
        else:
            self._demand_replaceable(node, victim, new_path)
            new[0].demand_removal(victim, cred, new_path)
            if victim.ino in FIXED:
                raise InvalidArgument(f"{new_path} stays where it is", path=new_path)
            self.unbind(*new, now_ns, "replaced")
        self._detach(*old)
        self._attach(*new, node)
        old[0].modified_ns = new[0].modified_ns = now_ns
        self.changed(node, "move", path, new_path)

    def demand_free(self, directory: Directory, name: str, cred: Credentials) -> None:
        """Check that the caller may give this name. Raises FileExists, AccessDenied."""
        if name in directory.entries or (directory is self.root and name == PROC):
            path = self.path_in(directory, name)
            raise FileExists(f"the name is taken: {path}", path=path)
        directory.demand(cred, MAY_WRITE, f"the directory of {self.path_in(directory, name)}")

    def unbind(self, directory: Directory, name: str, now_ns: int, detail: str = "") -> None:
        """Take the name away; what it stood for goes when that was the last hold on it."""
        path = self.path_in(directory, name)
        node = self._detach(directory, name)
        directory.modified_ns = now_ns
        if isinstance(node, Directory):
            del self.directories[node.ino]
            self.account.leave(node)
        self.changed(node, "delete", path, detail=detail)
        if isinstance(node, Inode):
            self.release(node)

    def _bind(self, directory: Directory, name: str, node: Node, now_ns: int) -> None:
        is_first = not node.names
        self._attach(directory, name, node)
        directory.modified_ns = now_ns
        if is_first and directory.ttl_s and node.expires_ns is None and isinstance(node, Inode):
            self._set_expiry(node, after(now_ns, directory.ttl_s))
        self.changed(node, "create", self.path_in(directory, name))

    def adopt(self, node: Node, names: list[tuple[Directory, str]]) -> None:
        """A node that the store kept, under its names; the device knows it."""
        if node.ino not in self.directories:
            self.account.enter(node)
        if isinstance(node, Directory):
            self.directories[node.ino] = node
        elif isinstance(node, Inode):
            self.inodes[node.ino] = node
            if node.expires_ns is not None:
                self._set_expiry(node, node.expires_ns)
        for directory, name in names:
            self._attach(directory, name, node)

    @staticmethod
    def _demand_replaceable(node: Node, victim: Node, path: str) -> None:
        if isinstance(victim, Directory):
            if not isinstance(node, Directory):
                raise IsDirectory(f"{path} is a directory", path=path)
            if victim.entries:
                raise NotEmpty(f"{path} holds {len(victim.entries)} names", path=path)
        elif isinstance(node, Directory):
            raise NotDirectory(f"{path} is a file", path=path)

    # ---- how long it lives

    def expire(self, inode: Inode, when_ns: int | None) -> None:
        """From now on its names go at that time; None: never."""
        self._set_expiry(inode, when_ns)
        self.changed(inode, "attrib")

    def _set_expiry(self, inode: Inode, when_ns: int | None) -> None:
        self.expiries.cancel(inode.expiry)
        inode.expires_ns = when_ns
        inode.expiry = None if when_ns is None else self.expiries.at(when_ns, lambda now_ns: self._expired(inode, now_ns))

    def _expired(self, inode: Inode, now_ns: int) -> None:
        """Its time has come: who has it open keeps it."""
        inode.expires_ns = inode.expiry = None
        for directory, name in list(inode.names):
            self.unbind(directory, name, now_ns, "expired")

    def check(self, max_positions: int) -> None:
        """The invariants above, and each inode's own."""
        for inode in self.inodes.values():
            inode.check(max_positions)
            assert self.inodes[inode.ino] is inode
        reached: Counter[Node] = Counter()
        for _, node in self.below(self.root):
            reached[node] += 1
        named = {node for node in (*self.inodes.values(), *self.directories.values()) if node.names}
        assert reached.keys() == named, "a name leads nowhere, or nowhere to a node that has one"
        assert all(count == len(node.names) for node, count in reached.items())
        assert all(directory.entries[name] is node for node in named for directory, name in node.names)
        directories = set(self.directories.values())
        assert named | {self.root} >= directories >= {node for node in named if isinstance(node, Directory)}
        assert not self.root.names and self.root.durable
        assert all(len(directory.names) == 1 for directory in directories - {self.root})
        assert all(node.ino < self.next_ino for node in named)
        self.expiries.check()
        live = [inode for inode in self.inodes.values() if inode.expiry is not None and inode.expiry.live]
        assert len(live) == len(self.expiries) and all(inode.expiry.when_ns == inode.expires_ns for inode in live if inode.expiry)
