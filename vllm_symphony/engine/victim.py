"""Who gives up pages, and how (engine/victim.py): a policy, asked by engine/room.py within its wound-wait rules.

    copies of all its pages exist below   -> its pages go at once
    room in host memory                   -> demoted there
    exact                                 -> its pages go; its tokens rebuild them
    edited, room on disk                  -> demoted there
    edited, no room anywhere              -> it keeps them (but those behind its fixed part)

Pinned files never give. A policy of another kind implements `Victims`; it decides, it does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from vllm_symphony.engine.page_table import PagedFile


class Below(Protocol):
    """What the tiers say of a file (engine/tier.py)."""

    def num_missing(self, f: PagedFile) -> int:
        """Pages on the device that have no copy below."""

    def num_loose(self, f: PagedFile) -> int:
        """Pages on the device that it can lose as it is."""

    def host_takes(self, f: PagedFile, num_pages: int) -> bool: ...

    def disk_takes(self, f: PagedFile, num_pages: int) -> bool: ...


class Victims(Protocol):
    """`order`: who gives first. `way`: "drop" | "host" | "disk", or None: it gives nothing."""

    def order(self, files: Iterable[PagedFile]) -> list[PagedFile]: ...

    def way(self, f: PagedFile, below: Below) -> str | None: ...


class LeastRecentlyUsed:
    """The file that was not used for longest gives first."""

    def order(self, files: Iterable[PagedFile]) -> list[PagedFile]:
        return sorted(files, key=lambda f: f.last_used)

    def way(self, f: PagedFile, below: Below) -> str | None:
        if f.pinned or f.held:
            return None
        missing = below.num_missing(f)
        if not missing:
            return "drop"
        if below.host_takes(f, missing):
            return "host"
        if not f.edited:
            return "drop"
        if below.disk_takes(f, missing):
            return "disk"
        return "drop" if below.num_loose(f) else None
