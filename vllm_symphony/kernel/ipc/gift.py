"""Files that change hands with a message (kernel/ipc/gift.py): who pays for one without a name that another principal received.

    ann's, open at ann's and at bob's     ann pays: she has it, and may write into it
    ann has let go of it                  bob pays, from then on, if his quota has room for it; else it stays ann's

Else one principal could hold pages at another's cost for ever, or make another pay for what it writes. A file with a name keeps its
owner, as one that was opened by that name does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import QuotaExceeded
from vllm_symphony.kernel.fs.inode import Inode

if TYPE_CHECKING:
    from vllm_symphony.kernel.ipc.letter import Letter
    from vllm_symphony.kernel.machine import Machine


class Gifts:
    """Files that another principal than their owner has received and would pay for: who that is."""

    __slots__ = ("_m", "heirs")

    def __init__(self, m: Machine) -> None:
        self._m = m
        self.heirs: dict[Ino, str] = {}

    def receive(self, letter: Letter, receiver: str) -> None:
        """The letter is about to be received, and holds its files: what nobody else has changes hands.

        Raises:
            QuotaExceeded: the receiver may not have that; nothing has changed.
        """
        alive = self._m.files.inodes
        self.heirs = {ino: heir for ino, heir in self.heirs.items() if ino in alive}
        inodes, sender = [inode for inode, _ in letter.files], letter.principal
        mine = {inode.ino: inode for inode in inodes if inode.owner == sender and not inode.names}
        is_last = letter.num_holds == 1
        given = [i for i in mine.values() if is_last and not i.is_busy and i.num_open == inodes.count(i)]
        self._demand(given, receiver)
        for inode in given:
            self._move(inode, receiver)
        for ino in mine.keys() - {inode.ino for inode in given}:
            self.heirs.setdefault(ino, receiver)

    def released(self, inode: Inode) -> None:
        """Somebody has closed it: its heir has it now, if its owner has it no more."""
        heir = self.heirs.get(inode.ino)
        if heir is None or inode.names or inode.is_busy or inode.ino not in self._m.files.inodes:
            return
        holders = self._holders(inode)
        if inode.owner in holders or heir not in holders:
            return
        try:
            self._demand([inode], heir)
        except QuotaExceeded:
            return
        self._move(inode, heir)

    def _holders(self, inode: Inode) -> set[str]:
        """Principals who have it open, or on its way."""
        files = (
            file for process in self._m.processes.values() if inode.ino in process.fds.counts for file in process.fds.files.values()
        )
        letters = (letter for letter in self._m.channels.letters if any(file is inode for file, _ in letter.files))
        return {file.principal for file in files if file.inode is inode} | {letter.principal for letter in letters}

    def _move(self, inode: Inode, heir: str) -> None:
        self._m.account.unpin(inode)
        self._m.account.move(inode, heir)
        inode.group = heir
        self.heirs.pop(inode.ino, None)

    def _demand(self, inodes: Sequence[Inode], receiver: str) -> None:
        """Raises QuotaExceeded when the receiver may not have these too."""
        account = self._m.account
        if not inodes:
            return
        account.demand_file(receiver, len(inodes))
        quota = account.quotas.get(receiver)
        if quota is None or quota.device_pages is None:
            return
        used, more = account.usage(receiver).used_device_pages, sum(account.charge(inode) for inode in inodes)
        if used + more > quota.device_pages:
            raise QuotaExceeded(
                f"{receiver} has {used:.1f} pages on the device and its quota is {quota.device_pages}: the {more:.1f} that come "
                "along do not fit; unlink or demote files, or have the quota raised",
                principal=receiver,
                what="device_pages",
                limit=quota.device_pages,
                used=used,
            )
