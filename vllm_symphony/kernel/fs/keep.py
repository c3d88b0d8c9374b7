"""What of the tree outlives the server (kernel/fs/keep.py): changes go to the store, and come back when a server starts.

    changed(node) --> dirty --end of the kernel's entry--> one StoreWrite with a record of each      restore <-- what the store has

    kept        a directory below directories that are all kept somewhere (`durable` is not "none"), and a file with a name in one
    record      all of a node but its tokens before `Inode.kept`, which the store has as they are

A file that a job writes is recorded when that job ends, not token by token; names and attributes at once. Numbers of processes and
files go on from a ceiling that was stored before any below it was used, so that none is used twice. Without a state directory there
is no keeper at work, and nothing of this costs anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_symphony.abi.record import ROOT_INO, NodeRecord, PrincipalRecord, QuotaRecord, Restored, SavedPage
from vllm_symphony.abi.types import Ino, unpack_tokens
from vllm_symphony.kernel.effect import CreateFile, StoreWrite
from vllm_symphony.kernel.fs.directory import FIXED, Directory
from vllm_symphony.kernel.fs.inode import EXACT, Inode
from vllm_symphony.kernel.fs.node import Node

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine

RESERVE = 4096  # numbers that one record of the ceiling is good for
_INOS, _PIDS = "inos", "pids"
_SILENT = ("lock", "tier")  # changes that no record speaks of


class Keeper:
    """Keeps the store in step with the tree. `on`: there is a store that outlives us."""

    def __init__(self, m: Machine) -> None:
        self._m = m
        self.on = False
        self.dirty: list[Node] = []
        self.used: dict[Ino, int] = {}  # the last job that wrote it, by its number
        self._growing: dict[Ino, Inode] = {}  # a job writes them; recorded when it ends
        self._stored: set[Ino] = set()  # the store has a record of them, or will have soon
        self._keeping: set[Ino] = set()  # directories whose content is kept
        self._pages: dict[Ino, tuple[SavedPage, ...]] = {}  # as the store has them
        self._quotas: dict[str, QuotaRecord] = {}
        self.principals: dict[str, PrincipalRecord] = {}  # whose limits, or what is used of them, changed
        self._ceilings = {_INOS: 0, _PIDS: 0}

    # ---- what is kept

    def keeps_in(self, directory: Directory) -> bool:
        """Whether what is in the directory outlives the server."""
        is_there = directory.ino in self._m.files.directories
        return self.on and is_there and self._m.files.durable_in(directory) != "none"

    def keeps(self, node: Node) -> bool:
        """Whether the node outlives the server."""
        return self.on and (node.ino == ROOT_INO or any(self.keeps_in(directory) for directory, _ in node.names))

    # ---- changes

    def changed(self, node: Node, kind: str, path: str, new_path: str, detail: str) -> None:
        """The funnel of all changes (`FileTable.on_change`)."""
        if kind in _SILENT:
            return
        if kind == "delete" and not node.names:
            self.used.pop(node.ino, None)
        if kind == "modify" and isinstance(node, Inode) and node.writer is not None:
            self._growing[node.ino] = node
        else:
            self.mark(node)

    def mark(self, node: Node) -> None:
        """Record it at the end of this entry."""
        if not node.dirty:
            node.dirty = True
            self.dirty.append(node)

    def _limited(self, quota: QuotaRecord) -> None:
        """A principal's limits have changed (`Account.on_change`)."""
        self._quotas[quota.principal] = quota

    def settle(self, inode: Inode) -> None:
        """The job that wrote it has ended: what was computed is no longer stale, what it wrote is recorded."""
        if not self.on:
            return
        if inode.names:
            self.used[inode.ino] = self._m.num_jobs
        if inode.stale and inode.fidelity == EXACT:
            inode.stale = False
        if self._growing.pop(inode.ino, None) is not None:
            self.mark(inode)

    def flush(self) -> None:
        """Tell the store, at the end of an entry of the kernel."""
        nodes: list[NodeRecord] = []
        removed: list[Ino] = []
        for node in self.dirty:  # grows, where a directory's content is kept from now on, or no longer
            node.dirty = False
            if self.keeps(node):
                nodes.append(self.record(node))
                self._stored.add(node.ino)
            else:
                if node.ino in self._stored:
                    removed.append(node.ino)
                    self._forget(node)
                if isinstance(node, Inode):
                    node.saved = ()  # the store removes what no record refers to
            if isinstance(node, Directory) and self.keeps_in(node) != (node.ino in self._keeping):
                self._keeping ^= {node.ino}
                for inside in node.entries.values():
                    self.mark(inside)
        self.dirty.clear()
        quotas = tuple(self._quotas.values())
        self._quotas.clear()
        principals = tuple(self.principals.values()) if self.on else ()
        self.principals.clear()
        counters = self._reserve()
        if nodes or removed or quotas or counters or principals:
            self._m.emit(StoreWrite(tuple(nodes), tuple(removed), quotas, counters, principals))

    def close(self) -> None:
        """The server stops: the next one goes on from the numbers as they are."""
        if self.on:
            self._m.emit(StoreWrite(counters=((_INOS, self._m.files.next_ino), (_PIDS, self._m.num_pids))))

    def _forget(self, node: Node) -> None:
        self._stored.discard(node.ino)
        self._pages.pop(node.ino, None)
        if isinstance(node, Inode):
            node.kept = node.indexed_ns = 0
            self._growing.pop(node.ino, None)

    @property
    def is_due(self) -> bool:
        """Whether `flush` has something to tell."""
        m = self._m
        return bool(self.dirty or self._quotas or self.principals) or (
            self.on and (m.files.next_ino >= self._ceilings[_INOS] or m.num_pids >= self._ceilings[_PIDS])
        )

    def _reserve(self) -> tuple[tuple[str, int], ...]:
        """Ceilings that are to be stored before they are reached."""
        used = {_INOS: self._m.files.next_ino, _PIDS: self._m.num_pids}
        low = {name: number + RESERVE for name, number in used.items() if number >= self._ceilings[name]}
        if not self.on or not low:
            return ()
        # what was promised is twice as far: the record reaches the disk long before the numbers do
        self._ceilings.update({name: number - RESERVE // 2 for name, number in low.items()})
        return tuple(low.items())

    def whole(self, inode: Inode, *, with_pages: bool) -> NodeRecord:
        """The file as it is now, with all its tokens: to be packed."""
        return replace(self._file_record(inode, (), 0), pages=inode.saved if with_pages else ())

    def record(self, node: Node) -> NodeRecord:
        """The node as it is now, its tokens from where the store has them on."""
        names = tuple((directory.ino, name) for directory, name in node.names if self.keeps_in(directory))
        if not isinstance(node, Inode):
            assert isinstance(node, Directory)
            shift = self._m.offset_ns
            return NodeRecord(
                node.ino, node.kind, node.owner, node.group, node.mode, "", node.created_ns + shift, node.modified_ns + shift,
                names, xattrs=dict(node.xattrs), durable=node.durable, ttl_s=node.ttl_s,
            )  # fmt: skip
        kept, node.kept = node.kept, node.length
        record = self._file_record(node, names, kept)
        if node.saved is not self._pages.get(node.ino, ()):
            self._pages[node.ino] = node.saved
            record = replace(record, pages=node.saved)
        return record

    def _file_record(self, node: Inode, names: tuple[tuple[Ino, str], ...], kept: int) -> NodeRecord:
        shift = self._m.offset_ns
        return NodeRecord(
            node.ino, node.kind, node.owner, node.group, node.mode, node.domain, node.created_ns + shift, node.modified_ns + shift,
            names, length=node.length, kept=kept, tokens=node.tokens[kept:].tobytes(), runs=tuple(node.runs),
            fidelity=node.fidelity, recipe=node.recipe or b"", xattrs=dict(node.xattrs),
            expires_ns=None if node.expires_ns is None else node.expires_ns + shift, fingerprint=node.fingerprint,
        )  # fmt: skip

    # ---- the next server

    def restore(self, restored: Restored, now_ns: int) -> None:
        """Build the tree that the store has, before the first call. What has expired meanwhile is not built, and removed."""
        m = self._m
        self.on = True
        m.files.on_change.append(self.changed)
        for quota in restored.quotas:
            m.account.set_quota(quota)
        m.account.on_change.append(self._limited)
        m.files.next_ino = max(m.files.next_ino, restored.counters.get(_INOS, 0), *(node.ino + 1 for node in restored.nodes))
        m.num_pids = max(m.num_pids, restored.counters.get(_PIDS, 0))
        self._stored.update(node.ino for node in restored.nodes)
        gone: list[Ino] = []
        for record in restored.nodes:
            expired = record.expires_ns is not None and record.expires_ns - m.offset_ns <= now_ns
            names = [(m.files.directories.get(parent), name) for parent, name in record.names]
            if expired or (record.ino != ROOT_INO and not any(names)):
                gone.append(record.ino)
                continue
            node = self._directory(record) if record.kind == "dir" else self._file(record, restored.indexed.get(record.ino, 0))
            self._dress(node, record)
            m.files.adopt(node, [(parent, name) for parent, name in names if parent is not None])
        self._stored.difference_update(gone)
        self._keeping.update(ino for ino, directory in m.files.directories.items() if self.keeps_in(directory))
        for ino in FIXED:
            if ino not in self._stored:
                self.mark(m.files.directories[ino])
        if gone:
            m.emit(StoreWrite(removed=tuple(gone)))
        self.flush()

    def _dress(self, node: Node, record: NodeRecord) -> None:
        shift = self._m.offset_ns
        if node.owner != record.owner:
            self._m.account.move(node, record.owner)
        node.group, node.mode = record.group, record.mode
        node.created_ns, node.modified_ns = record.created_ns - shift, record.modified_ns - shift
        node.xattrs = dict(record.xattrs)
        if record.expires_ns is not None:
            node.expires_ns = record.expires_ns - shift

    def _directory(self, record: NodeRecord) -> Directory:
        directory = self._m.files.directories.get(record.ino)
        if directory is None:
            directory = Directory(record.ino, record.owner, record.group, record.mode, 0)
        directory.durable, directory.ttl_s = record.durable, record.ttl_s
        return directory

    def _file(self, record: NodeRecord, indexed_ns: int) -> Inode:
        inode = Inode(record.ino, record.owner, record.group, record.mode, record.domain, 0)
        self.fill(inode, record)
        inode.kept = inode.length
        inode.indexed_ns = indexed_ns
        self._pages[record.ino] = inode.saved
        return inode

    def fill(self, inode: Inode, record: NodeRecord) -> None:
        """Give a new file what the record holds, and the device its word of it. Its pages are used if they are this model's."""
        m = self._m
        inode.tokens.frombytes(record.tokens)
        inode.runs = list(record.runs)
        if inode.runs:
            at, position = inode.runs[-1]
            inode.next_position = position + inode.length - at
        inode.fidelity, inode.recipe = record.fidelity, None if record.fidelity == EXACT else record.recipe
        inode.saved, inode.fingerprint = record.pages or (), record.fingerprint
        is_ours = bool(inode.saved) and record.fingerprint == m.model.fingerprint
        edited = inode.fidelity != EXACT
        inode.stale = bool(inode.saved and not is_ours) or (edited and not is_ours and inode.length > 0)
        usable = inode.saved if is_ours else ()
        inode.frontier = sum(page.num_tokens for page in usable)
        m.emit(CreateFile(
            inode.ino, unpack_tokens(record.tokens), inode.domain, record.runs or ((0, 0),), usable, edited and not inode.stale,
        ))  # fmt: skip
