"""What each principal holds, and how much it may (kernel/fs/account.py).

    owner "ann"   files and directories, pages on the device, pinned pages      refused here: EDQUOT, and the file is as before
                  bytes in host memory and on disk, kept rows                   left out by the device (LimitDomain)

A page that n files share costs the owner of each 1/n (kernel/fs/share.py); which pages are on the device only the engine knows, so
what is held is exact when somebody asks, and too dear to ask for at each token. Therefore a call that makes pages adds what it may
need at most to an upper bound of its file's owner; only when that passes the quota all is counted, and the bound begins anew. What
running calls may still make counts as held. A principal without a quota costs nothing.

Pins have a limit without any quota: half of the device's pages for all together, so that there is room to work in; a quota of
pinned pages replaces it.
Invariants (`check`): every file and directory is here under its owner; pinned files are those that say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from vllm_symphony.abi.record import QuotaRecord
from vllm_symphony.abi.types import Ino, Quota
from vllm_symphony.errors import QuotaExceeded
from vllm_symphony.kernel.effect import LimitDomain
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.node import Node
from vllm_symphony.kernel.fs.share import Shares

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine

DIGITS = 6  # of a page: thirds add up to whole pages again


class Account:
    """Who owns what, and the limits. `on_change` hears of each limit that was set."""

    __slots__ = ("_bounds", "_m", "_owned", "on_change", "pinned", "quotas", "shares")

    def __init__(self, m: Machine) -> None:
        self._m = m
        self.shares = Shares(m.model.page_size)
        self.quotas: dict[str, QuotaRecord] = {}
        self.pinned: dict[Ino, Inode] = {}
        self.on_change: list[Callable[[QuotaRecord], None]] = []
        self._owned: dict[str, dict[Ino, Node]] = {}
        self._bounds: dict[str, float] = {}  # of device pages, for those with a limit of them

    # ---- who owns what

    def enter(self, node: Node) -> None:
        """A new file or directory. Its owner's limit was asked for (`demand_file`)."""
        self._owned.setdefault(node.owner, {})[node.ino] = node

    def fork(self, source: Inode, copy: Inode) -> None:
        """`copy`, which has entered, shares the pages of `source`."""
        self.shares.fork(source, copy)
        if copy.owner in self._bounds:
            self._bounds[copy.owner] += self.charge(copy)

    def leave(self, node: Node) -> None:
        """It is gone."""
        self._remove(node)
        if isinstance(node, Inode):
            self._part(node)
            self.shares.drop(node)
            self.pinned.pop(node.ino, None)

    def _remove(self, node: Node) -> None:
        owned = self._owned[node.owner]
        del owned[node.ino]
        if not owned:
            del self._owned[node.owner]

    def cut(self, inode: Inode, length: int) -> None:
        """It is about to forget tokens."""
        self._part(inode)
        self.shares.cut(inode, length)

    def chown(self, node: Node, owner: str) -> None:
        """It goes to another owner. Raises QuotaExceeded."""
        if owner != node.owner:
            self.demand_file(owner)
            self.move(node, owner)

    def rebuilt(self, inode: Inode) -> None:
        """It has pages that its owner was not asked for."""
        self.shares.grew(inode)
        self._bounds.pop(inode.owner, None)

    def move(self, node: Node, owner: str) -> None:
        """It goes to another owner, whatever that one has."""
        self._bounds.clear()
        self._remove(node)
        node.owner = owner
        self.enter(node)

    def _part(self, inode: Inode) -> None:
        """What it shares with files of other owners will cost them more."""
        if self._bounds and (sharing := self.shares.get(inode)) is not None and sharing.is_mixed:
            self._bounds.clear()

    # ---- what it costs

    def charge(self, inode: Inode) -> float:
        """Pages that a file costs its owner, wherever they are."""
        return self.shares.charge(inode, self.shares.pages_for(inode.frontier))

    def _on_device(self, inode: Inode) -> int:
        """Its pages there. The engine may not have heard of the last truncation, nor of a fork: that has what its source has. One
        that it knows may have fewer, though the source has them: it was demoted, or it was edited and cut."""
        residency = self._m.residency
        where = residency(inode.ino)
        num_pages = where.device_pages
        if not where.known and (relative := self.shares.relative(inode)) is not None:
            num_pages = min(residency(relative[0].ino).device_pages, relative[1])
        return min(num_pages, self.shares.pages_for(inode.frontier))

    def _held(self, principal: str, without: Inode | None = None) -> float:
        """Device pages of all its files, with what running calls may still make of them."""
        planned: dict[Ino, int] = {}
        for job in self._m.jobs.values():
            planned[job.inode.ino] = max(job.planned, planned.get(job.inode.ino, 0))
        total = 0.0
        for node in self._owned.get(principal, {}).values():
            if isinstance(node, Inode) and node is not without:
                total += self._need(node, planned.get(node.ino, 0))
        return round(total, DIGITS)

    def _need(self, inode: Inode, num_tokens: int) -> float:
        """What its pages on the device cost, and with `num_tokens` will cost when it has so many, its owner's other files too."""
        num_pages = max(self._on_device(inode), self.shares.pages_for(num_tokens))
        return self.shares.charge(inode, num_pages, num_tokens) + self.shares.left_behind(inode, num_tokens)

    def usage(self, principal: str) -> Quota:
        """Its limits, and what it holds."""
        m, page_bytes = self._m, self._m.model.page_bytes
        record = self.quotas.get(principal, QuotaRecord(principal))
        host = disk = 0.0
        for node in self._owned.get(principal, {}).values():
            if isinstance(node, Inode):
                where = m.residency(node.ino)
                host += self.shares.charge(node, where.host_pages)
                disk += self.shares.charge(node, where.disk_pages)
        return Quota(
            **asdict(record),
            used_device_pages=self._held(principal),
            used_host_bytes=round(host * page_bytes),
            used_disk_bytes=round(disk * page_bytes),
            used_files=len(self._owned.get(principal, {})),
            used_rows=dict(m.capacity().rows).get(principal, 0),
            used_pinned_pages=self._pinned(principal),
        )

    # ---- limits

    def set_quota(self, record: QuotaRecord) -> None:
        """These are a principal's limits from now on; what it holds beyond them stays."""
        principal = record.principal
        old = self.quotas.pop(principal, QuotaRecord(principal))
        if record != QuotaRecord(principal):
            self.quotas[principal] = record
        self._bounds.pop(principal, None)
        if (old.host_bytes, old.disk_bytes, old.rows) != (record.host_bytes, record.disk_bytes, record.rows):
            self._m.emit(LimitDomain(principal, record.host_bytes, record.disk_bytes, record.rows))
        for tell in self.on_change:
            tell(record)

    def records(self) -> tuple[QuotaRecord, ...]:
        """All limits that are set."""
        return tuple(self.quotas.values())

    def demand_file(self, owner: str, num_files: int = 1) -> None:
        """Raises QuotaExceeded when the owner may not have so many more files and directories."""
        quota = self.quotas.get(owner)
        if quota is not None and quota.files is not None and (used := len(self._owned.get(owner, {}))) + num_files > quota.files:
            raise QuotaExceeded(
                f"{owner} has {used} files and directories, its quota is {quota.files}: unlink some, or have it raised",
                principal=owner,
                what="files",
                limit=quota.files,
                used=used,
            )

    def demand_pages(self, inode: Inode, num_tokens: int, least: int | None = None) -> int:
        """How many of `num_tokens` more tokens the file may get, at least `least` (None: all of them). What needs no more pages
        than the file has may always be done.

        Raises:
            QuotaExceeded: not so many.
        """
        self.demand_growth(inode, num_tokens)
        length = inode.length
        return self._grant(inode, length + (num_tokens if least is None else least), length + num_tokens) - length

    def demand_computed(self, inode: Inode, num_tokens: int) -> None:
        """Raises QuotaExceeded when so many of its first tokens may not be computed. What is there may always be used."""
        self._grant(inode, num_tokens, num_tokens)

    def _grant(self, inode: Inode, least: int, most: int) -> int:
        """How many of its tokens may be computed; at least `least`, or QuotaExceeded."""
        copies_tail = bool(self._bounds) and most > inode.frontier and self.shares.has_shared_tail(inode)
        if copies_tail:
            self._part(inode)
        quota = self.quotas.get(inode.owner)
        if quota is None or quota.device_pages is None:
            return most
        owner, limit = inode.owner, quota.device_pages
        growth = max(0, self.shares.pages_for(most) - self._on_device(inode)) + copies_tail
        bound = self._bounds.get(owner)
        if bound is not None and bound + growth <= limit:
            self._bounds[owner] = bound + growth
            return most
        planned = max((job.planned for job in self._m.jobs.values() if job.inode is inode), default=0)
        others, held, need = self._held(owner, inode), self._need(inode, planned), self._need(inode, max(least, planned))
        room = round(limit - others - need, DIGITS)
        if room < 0 and round(need - held, DIGITS) > 0:
            raise self._too_many_pages(owner, limit, others + held, least)
        num_pages = self.shares.pages_for(max(least, planned)) + max(0, int(room))
        most = min(most, num_pages * self._m.model.page_size)
        self._bounds[owner] = others + self._need(inode, max(most, planned))
        return most

    def make(self, source: Inode, made: Inode, num_stay: int) -> None:
        """`made`, which has entered, is being made by an edit. Of its tokens the first `num_stay` are as in `source`: of these it
        shares the whole pages, the others are its own.

        Raises:
            QuotaExceeded: its owner may not have them.
        """
        num_pages = min(num_stay, source.frontier, made.length - 1) // self._m.model.page_size
        made.frontier = num_pages * self._m.model.page_size
        self.shares.share(source, made, num_pages)
        owner, quota = made.owner, self.quotas.get(made.owner)
        if quota is not None and quota.device_pages is not None:
            others, need = self._held(owner, made), self._need(made, made.length)
            if round(others + need, DIGITS) > quota.device_pages:
                raise self._too_many_pages(owner, quota.device_pages, others, made.length)
            self._bounds.pop(owner, None)

    def _too_many_pages(self, owner: str, limit: int, used: float, num_tokens: int) -> QuotaExceeded:
        need = self.shares.pages_for(num_tokens)
        return QuotaExceeded(
            f"{owner} has {used:.1f} pages on the device, with what its calls may need, and its quota is {limit}: the {need} of "
            f"this file do not fit; unlink or demote files, or have the quota raised",
            principal=owner,
            what="device_pages",
            limit=limit,
            used=round(used, 3),
        )

    # ---- pins

    def pin(self, inode: Inode) -> None:
        """Its pages are to stay on the device. Raises QuotaExceeded."""
        if not inode.pinned:
            self._demand_pinned(inode, inode.length)
            inode.pinned = True
            self.pinned[inode.ino] = inode

    def unpin(self, inode: Inode) -> None:
        """They need not any more; harmless when they need not now."""
        inode.pinned = False
        self.pinned.pop(inode.ino, None)

    def demand_growth(self, inode: Inode, num_tokens: int) -> None:
        """Raises QuotaExceeded when it is pinned and may not get so many more tokens, computed or not."""
        if inode.pinned:
            self._demand_pinned(inode, inode.length + num_tokens)

    def _demand_pinned(self, inode: Inode, num_tokens: int) -> None:
        """Raises QuotaExceeded when a pinned file may not have so many tokens."""
        num_pages = self.shares.pages_for(num_tokens)
        if inode.pinned and num_pages == self.shares.pages_for(inode.length):
            return
        quota, owner = self.quotas.get(inode.owner), inode.owner
        if quota is not None and quota.pinned_pages is not None:
            limit, used, whose = quota.pinned_pages, self._pinned(owner, inode), owner
        else:
            limit, used, whose = self._m.model.num_pages // 2, self._pinned(None, inode), "all principals together"
        need = self.shares.charge(inode, num_pages, num_tokens)
        if round(used + need, DIGITS) > limit:
            raise QuotaExceeded(
                f"{used:.1f} pages are pinned by {whose}, the limit is {limit}, and ino {inode.ino} needs {need:.1f}: unpin files, "
                f"or have the quota of {owner} raised",
                principal=owner,
                what="pinned_pages",
                limit=limit,
                used=round(used, 3),
            )

    def _pinned(self, principal: str | None, without: Inode | None = None) -> float:
        """Pages that pinned files have or will have when they are computed; principal None: of all."""
        total = sum(
            self.shares.charge(inode, self.shares.pages_for(inode.length))
            for inode in self.pinned.values()
            if inode is not without and principal in (None, inode.owner)
        )
        return round(total, DIGITS)

    def check(self, nodes: dict[Ino, Node]) -> None:
        """The invariants above."""
        owned = {ino: node for of_one in self._owned.values() for ino, node in of_one.items()}
        assert owned == nodes and all(self._owned.values())
        assert all(node.owner == owner for owner, of_one in self._owned.items() for node in of_one.values())
        inodes = {ino: node for ino, node in nodes.items() if isinstance(node, Inode)}
        assert self.pinned == {ino: inode for ino, inode in inodes.items() if inode.pinned}
        assert self._bounds.keys() <= {p for p, quota in self.quotas.items() if quota.device_pages is not None}
        self.shares.check(inodes)
