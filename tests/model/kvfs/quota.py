"""What the model counts: shares of pages, quotas, du (tests/model/kvfs/quota.py).

Where pages are is the device's to say (`on_device`); whose they are, and how many sharers a page has, is counted over all files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.model.kvfs.locking import Locking
from tests.model.kvfs.tree import File, Folder, Page, Process, below, demand
from vllm_symphony.abi.types import Credentials

LIMITS_OF = ("device_pages", "host_bytes", "disk_bytes", "files", "rows", "pinned_pages")


class Counting(Locking):
    on_device: Callable[[File], int]

    def __init__(self, *limits: int) -> None:
        super().__init__(*limits)
        self.quotas: dict[str, dict[str, int | None]] = {}
        self._sharers: Counter[Page] | None = None

    def limit(self, principal: str, what: str) -> int | None:
        return self.quotas.get(principal, {}).get(what)

    def num_owned(self, principal: str) -> int:
        folders = [self.root, *(node for _, node in below(self.root, "") if isinstance(node, Folder))]
        return sum(node.owner == principal for node in (*folders, *self.files()))

    def demand_room(self, owner: str, num_more: int = 1) -> None:
        super().demand_room(owner, num_more)
        self.demand_owned(owner, num_more)

    def demand_owned(self, owner: str, num_more: int = 1) -> None:
        limit = self.limit(owner, "files")
        demand(limit is None or self.num_owned(owner) + num_more <= limit, "EDQUOT")

    # ---- pages

    def pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def cost(self, file: File, num_pages: int, num_tokens: int = 0) -> float:
        """Of its first pages, each split by those who have it. With more tokens than now a last page that is not full is its own,
        as are those behind."""
        sharers = Counter(page for other in self.files() for page in other.pages)
        split = file.pages[:num_pages]
        if num_tokens > file.frontier and file.frontier % self.page_size:
            split = split[: file.frontier // self.page_size]
        return sum(1 / sharers[page] for page in split) + num_pages - len(split)

    def need(self, file: File, num_tokens: int, at_most: bool = False) -> float:
        """What it costs on the device, and when it has so many tokens; `at_most`: wherever its pages are."""
        there = len(file.pages) if at_most else min(self.on_device(file), len(file.pages))
        return self.cost(file, max(there, self.pages(num_tokens)), num_tokens)

    def held(self, owner: str, without: File | None = None, at_most: bool = False) -> float:
        """With what running calls may still make."""
        mine = [file for file in self.files() if file.owner == owner and file is not without]
        return round(sum(self.need(file, self.planned(file), at_most) for file in mine), 6)

    def planned(self, file: File) -> int:
        """How many of its tokens may be computed by what runs."""
        return max((work.planned for work in self.works.values() if work.file is file), default=0)

    def demand_pages(self, file: File, num_tokens: int, least: int | None = None) -> int:
        """How many more tokens it may have."""
        self.demand_growth(file, file.length + num_tokens)
        return self._grant(file, file.length + (num_tokens if least is None else least), file.length + num_tokens) - file.length

    def demand_computed(self, file: File, num_tokens: int) -> None:
        self._grant(file, num_tokens, num_tokens)

    def _grant(self, file: File, least: int, most: int) -> int:
        """How many of its tokens may be computed."""
        limit = self.limit(file.owner, "device_pages")
        if limit is None:
            return most
        planned = self.planned(file)
        held, need = self.need(file, planned), self.need(file, max(least, planned))
        room = round(limit - self.held(file.owner, file) - need, 6)
        demand(room >= 0 or round(need - held, 6) <= 0, "EDQUOT")
        return min(most, (self.pages(max(least, planned)) + max(0, int(room))) * self.page_size)

    def demand_growth(self, file: File, num_tokens: int) -> None:
        """Raises Refused when a pinned file may not have so many."""

    # ---- calls

    def setquota(self, process: Process, cred: Credentials, principal: str, **limits: int | None) -> None:
        demand(process.kind != "session" and cred.is_admin, "EPERM")
        demand(principal, "EINVAL")
        mine = self.quotas.setdefault(principal, {})
        for what, limit in limits.items():
            if limit is not None:
                mine[what] = None if limit < 0 else limit

    def getquota(self, process: Process, cred: Credentials, principal: str = "") -> dict[str, Any]:
        principal = principal or cred.principal
        demand(principal == cred.principal or cred.is_admin, "EPERM")
        return {"quota": self.quota(principal)}

    def quota(self, principal: str) -> dict[str, Any]:
        limits = {what: self.limit(principal, what) for what in LIMITS_OF}
        held = (self.held(principal), self.held(principal, at_most=True))  # a page that a fork has lost may be there for another
        return {**limits, "used_files": self.num_owned(principal), "used_device_pages": held}

    def statfs(self, process: Process, cred: Credentials) -> dict[str, Any]:
        folders = sum(isinstance(node, Folder) and not node.is_fixed for _, node in below(self.root, ""))
        return {"fs": {"files": len(self.files()) + folders, "quota": self.quota(cred.principal)}}
