"""What outlives the server (kernel/syscall/keep.py): sync, gc, fsck, export, import.

    sync     SaveJob of each file whose directory keeps pages --> its record --> StoreSync --> SyncResult
    fsck     StoreCheck of all saved pages --> what is damaged is forgotten --> with `rebuild` what is stale is computed again
    export   SaveJob --> StoreExport --> the name of a spool file             import   StoreImport --> CreateFile

All of them wait beside other calls (kernel/saving.py). Whose call ends early leaves what was done, which is whole as far as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm_symphony.abi.calls import (
    Export,
    ExportResult,
    Fsck,
    FsckResult,
    Gc,
    GcResult,
    Import,
    ImportResult,
    Sync,
    SyncResult,
)  # fmt: skip
from vllm_symphony.abi.record import NodeRecord
from vllm_symphony.abi.types import Finding, Ino, JobId
from vllm_symphony.errors import (
    ContextTooLong,
    DeviceLost,
    InvalidArgument,
    NotOwner,
    NotSupported,
    SymphonyError,
    TimedOut,
)  # fmt: skip
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.effect import CheckDone, ImportDone, SpoolDone, StoreCheck, StoreExport, StoreGc, StoreImport
from vllm_symphony.kernel.fs.directory import Directory
from vllm_symphony.kernel.fs.inode import EXACT, LINEAGE, Inode
from vllm_symphony.kernel.fs.node import MAY_READ
from vllm_symphony.kernel.job import surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.rebuild import Rebuild, rebuild
from vllm_symphony.kernel.saving import GONE, SyncAll, Upkeep, give_up_cold, is_saved, to_save
from vllm_symphony.kernel.syscall import argument, attr, target
from vllm_symphony.kernel.syscall.view import demand_door
from vllm_symphony.kernel.timer import after


def _demand_store(m: Machine) -> None:
    if not m.keep.on:
        raise NotSupported("the server has no state directory: nothing is kept (symphony serve --state-dir)")


def _wait(m: Machine, call: Call, work: Upkeep, timeout_s: float | None) -> None:
    """The call waits for the work, as long as it may."""
    if call.ended:
        return
    call.pending = work
    if timeout_s is not None:

        def expire(at_ns: int) -> None:
            work.interrupt(m, TimedOut(f"not done in {timeout_s:g} s", timeout_s=timeout_s), at_ns)

        work.timer = m.timers.at(after(call.start_ns, timeout_s), expire)


def _finish(m: Machine, work: Upkeep, result: Any, now_ns: int) -> None:
    call = work.call
    work.drop(m)
    if call is not None:
        m.finish(call, result, now_ns)


# ---- sync


def sync(m: Machine, call: Call, a: Sync) -> None:
    """Have it on disk; answers with SyncResult."""
    argument.demand_timeout(a.timeout_s)
    _demand_store(m)
    if a.fd is None and a.path is None:
        owned = [inode for inode in m.files.inodes.values() if inode.owner == call.cred.principal and m.keep.keeps(inode)]
        mine = [inode for inode in owned if m.files.path_of(inode, call.cred) is not None]
    else:
        mine = [_kept(m, call, a)]
    files = [inode for inode in mine if to_save(m, inode)]
    if files and m.lost is not None:
        raise DeviceLost(m.lost)

    def done(m: Machine, error: SymphonyError | None, num_bytes: int, now_ns: int) -> None:
        if error is not None:
            work.fail(m, error, now_ns)
        else:
            _finish(m, work, SyncResult(len(mine), num_bytes), now_ns)

    for inode in mine:
        m.keep.mark(inode)  # with what a running job has delivered
    work = SyncAll(call, files, done)
    work.begin(m)
    _wait(m, call, work, a.timeout_s)


def _kept(m: Machine, call: Call, a: Sync) -> Inode:
    inode, path = target.file(m, call, a.fd, a.path, MAY_READ)
    if not m.keep.keeps(inode):
        where = path or (f"fd {a.fd}" if m.files.path_of(inode) is None else m.files.path_of(inode))
        raise InvalidArgument(f"{where} is kept nowhere: it has no name, or its directory is durable=none", ino=inode.ino)
    inode.demand_fresh()
    return inode


def save_all(m: Machine, now_ns: int) -> bool:
    """At the end of the server: save what directories keep with its pages. False: there is nothing to save."""
    files = [inode for inode in m.files.inodes.values() if to_save(m, inode)] if m.keep.on and m.lost is None else []
    if files:
        SyncAll(None, files, lambda m, error, num_bytes, now_ns: None).begin(m)
    return bool(files)


# ---- gc


def gc(m: Machine, call: Call, a: Gc) -> GcResult | None:
    """Remove what has expired and what nobody refers to; answers with GcResult."""
    demand_door(call)
    argument.demand_timeout(a.timeout_s)
    now_ns = call.start_ns
    due = [i for i in m.files.inodes.values() if i.expires_ns is not None and i.expires_ns <= now_ns and i.owned_by(call.cred)]
    removed = [_finding(m, "expired", inode) for inode in due]
    if not a.dry_run:
        m.files.expiries.run(now_ns)
    if not m.keep.on or not call.cred.is_admin:
        return GcResult(tuple(removed), sum(finding.num_bytes for finding in removed))

    def collected(m: Machine, done: Any, now_ns: int) -> None:
        if not isinstance(done, CheckDone):
            raise surprise(done)
        cold = give_up_cold(m, done.excess_bytes, dry_run=a.dry_run)
        found = (*removed, *done.findings, *(_finding(m, "cold", inode, num_bytes) for inode, num_bytes in cold))
        _finish(m, work, GcResult(found, sum(finding.num_bytes for finding in found)), now_ns)

    work = Upkeep(call)
    m.keep.flush()
    work.ask(m, lambda job: StoreGc(job, a.dry_run), collected)
    _wait(m, call, work, a.timeout_s)
    return None


def _finding(m: Machine, kind: str, inode: Inode, num_bytes: int | None = None, detail: str = "") -> Finding:
    size = len(inode.saved) * m.model.page_bytes if num_bytes is None else num_bytes
    return Finding(kind, m.files.path_of(inode) or "", inode.ino, size, detail)


# ---- fsck


class Check(Upkeep):
    """An fsck on its way."""

    __slots__ = ("files", "findings", "num_pages", "rebuilding", "rebuilds", "stale")

    def __init__(self, call: Call, files: list[Inode], rebuilds: bool) -> None:
        super().__init__(call)
        self.files = files
        self.rebuilds = rebuilds
        self.findings: list[Finding] = []
        self.num_pages = 0
        self.stale: list[Inode] = []
        self.rebuilding: Rebuild | None = None

    def checked(self, m: Machine, done: Any, now_ns: int) -> None:
        """The store has compared the checksums."""
        if not isinstance(done, CheckDone):
            raise surprise(done)
        self.num_pages = done.num_pages
        for finding in done.findings:
            inode = m.files.inodes.get(Ino(finding.ino))
            if inode is not None:
                self.findings.append(_finding(m, finding.kind, inode, finding.num_bytes, finding.detail))
                _forget_pages(m, inode)
        self.stale = [inode for inode in self.files if inode.stale and inode.names][::-1]
        if not self.rebuilds:
            self.findings += [_finding(m, "stale", inode, detail=_why_stale(m, inode)) for inode in reversed(self.stale)]
            self.stale.clear()
        self.go_on(m, now_ns)

    def go_on(self, m: Machine, now_ns: int) -> None:
        """Rebuild the next stale file, or answer."""
        while self.stale and self.call is not None:
            inode = self.stale.pop()

            def done(m: Machine, error: SymphonyError | None, now_ns: int, inode: Inode = inode) -> None:
                self.rebuilding = None
                self._rebuilt(m, inode, error)
                self.go_on(m, now_ns)

            try:
                self.rebuilding = rebuild(m, inode, done)
                return
            except SymphonyError as error:
                self._rebuilt(m, inode, error)
        if self.call is not None:
            _finish(m, self, FsckResult(tuple(self.findings), len(self.files), self.num_pages), now_ns)

    def _rebuilt(self, m: Machine, inode: Inode, error: SymphonyError | None) -> None:
        if error is None:
            inode.saved = ()
            m.keep.mark(inode)
            self.findings.append(_finding(m, "rebuilt", inode, len(inode.tokens) // m.model.page_size * m.model.page_bytes))
        else:
            self.findings.append(_finding(m, "stale" if inode.fidelity == EXACT else "lost", inode, detail=error.message))

    def drop(self, m: Machine) -> None:
        super().drop(m)
        if self.rebuilding is not None:
            self.rebuilding.interrupt(m, GONE, 0)


def fsck(m: Machine, call: Call, a: Fsck) -> FsckResult | None:
    """Prove what is kept below the path; answers with FsckResult."""
    demand_door(call)
    argument.demand_timeout(a.timeout_s)
    if a.rebuild and m.lost is not None:
        raise DeviceLost(m.lost)
    node = m.files.lookup(a.path, call.cred)
    node.demand(call.cred, MAY_READ, a.path)
    below: Iterable[tuple[str, Any]] = m.files.below(node, a.path, call.cred) if isinstance(node, Directory) else [(a.path, node)]
    files = list({n.ino: n for _, n in below if isinstance(n, Inode) and n.owned_by(call.cred)}.values())
    work = Check(call, files, a.rebuild)
    pages = tuple((inode.ino, inode.saved) for inode in files if inode.saved)
    if pages:
        work.ask(m, lambda job: StoreCheck(job, pages), work.checked)
    else:
        work.checked(m, CheckDone(JobId(0), (), 0), call.start_ns)
    _wait(m, call, work, a.timeout_s)
    return None


def _forget_pages(m: Machine, inode: Inode) -> None:
    """Its pages on disk are damaged. An edited file has others only while the device has them."""
    where = m.residency(inode.ino)
    inode.saved = ()
    if inode.fidelity != EXACT and where.disk_pages:
        inode.stale = True
    m.keep.mark(inode)


def _why_stale(m: Machine, inode: Inode) -> str:
    if not inode.saved:
        return "its pages were not saved, or are damaged"
    return f"its pages are of {inode.fingerprint or '?'}, this server computes {m.model.fingerprint or '?'}"


# ---- export and import


def export(m: Machine, call: Call, a: Export) -> None:
    """Pack a file; answers with ExportResult."""
    demand_door(call)
    argument.demand_timeout(a.timeout_s)
    _demand_store(m)
    inode, _ = target.file(m, call, None, a.path, MAY_READ)
    inode.demand_free()
    if a.pages:
        inode.demand_fresh()
    work = Upkeep(call)

    def packed(m: Machine, done: Any, now_ns: int) -> None:
        if not isinstance(done, SpoolDone):
            raise surprise(done)
        _finish(m, work, ExportResult(done.spool, done.num_bytes), now_ns)

    def saved(m: Machine, error: SymphonyError | None, num_bytes: int, now_ns: int) -> None:
        if error is not None:
            work.fail(m, error, now_ns)
            return
        node = m.keep.whole(inode, with_pages=a.pages)
        work.ask(m, lambda job: StoreExport(job, node), packed)

    if a.pages and not is_saved(m, inode):
        if m.lost is not None:
            raise DeviceLost(m.lost)
        work.save(m, inode, saved)
    else:
        saved(m, None, 0, call.start_ns)
    _wait(m, call, work, a.timeout_s)


def import_(m: Machine, call: Call, a: Import) -> None:
    """Make a file of a packed one; answers with ImportResult."""
    demand_door(call)
    argument.demand_timeout(a.timeout_s)
    _demand_store(m)
    if a.trust and not call.cred.is_admin:
        raise NotOwner(f"only scope admin trusts pages that this server did not sign, not {call.cred.principal}")
    if not 0 <= a.mode <= 0o777:
        raise InvalidArgument(f"mode must be 0..0o777, not {a.mode:#o}", mode=a.mode)
    m.files.demand_free(*m.files.place(a.path, call.cred), call.cred)
    work = Upkeep(call)

    def unpacked(m: Machine, done: Any, now_ns: int) -> None:
        if not isinstance(done, ImportDone):
            raise surprise(done)
        inode = _make(m, call, a, done.node, now_ns)
        if not inode.stale:
            answer(m, None, now_ns, done.trusted)
            return
        try:
            rebuild(m, inode, lambda m, error, now_ns: answer(m, error, now_ns, False))
        except SymphonyError as error:  # its text is all there is
            answer(m, error, now_ns, False)

    def answer(m: Machine, error: SymphonyError | None, now_ns: int, trusted: bool) -> None:
        if work.call is None:
            return
        try:
            node = m.files.lookup(a.path, call.cred)
        except SymphonyError as gone:  # its name was taken away while it was rebuilt
            work.fail(m, gone, now_ns)
        else:
            _finish(m, work, ImportResult(target.shown(m, node, a.path), trusted), now_ns)

    work.ask(m, lambda job: StoreImport(job, a.spool, a.trust), unpacked)
    _wait(m, call, work, a.timeout_s)


def _make(m: Machine, call: Call, a: Import, node: NodeRecord, now_ns: int) -> Inode:
    """The new file under its name, and the device's word of it."""
    _demand_sound(m, node)
    directory, name = m.files.place(a.path, call.cred)
    m.files.demand_free(directory, name, call.cred)
    attr.demand_all(node.xattrs)
    inode = m.files.new(call.cred.principal, a.mode & ~call.process.umask, now_ns, directory.group_for(call.cred))
    inode.xattrs = dict(node.xattrs)
    m.keep.fill(inode, node)
    m.files.link(directory, name, inode, call.cred, now_ns)
    return inode


def _demand_sound(m: Machine, node: NodeRecord) -> None:
    """Check that a file of this server can have its tokens, at these positions. Raises InvalidArgument, ContextTooLong."""
    tokens = argument.tokens(node.tokens, m.model.vocab_size, context=m.model.max_positions)
    if node.fidelity not in LINEAGE:
        raise InvalidArgument(f"the packed file's lineage is {node.fidelity!r}")
    if bool(node.runs) != bool(tokens) or (node.runs and node.runs[0][0] != 0):
        raise InvalidArgument("the packed file's positions do not begin with its tokens")
    following = 0
    ends = [*(at for at, _ in node.runs[1:]), len(tokens)]
    for (at, position), end in zip(node.runs, ends, strict=False):
        if not (at < end and position >= following):
            raise InvalidArgument(f"the packed file's positions do not ascend at index {at}", index=at)
        following = position + end - at
    if following > m.model.max_positions:
        limit = m.model.max_positions
        raise ContextTooLong(f"the packed file's positions pass the model's limit of {limit}", limit=limit)
