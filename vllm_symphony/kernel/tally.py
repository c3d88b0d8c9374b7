"""What a process and each of its threads have used so far (kernel/tally.py).

    Tally       counts that only grow; a process has one, each of its threads has one, and one for all that it spawned
    PageClock   pages of its open files x time, added up when somebody looks or when they change

Pages are counted as the process itself last touched them: when another one makes a shared file grow, that is seen at the next call
on it. So nothing has to walk all files at each step, and no timer is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Ino, Usage

if TYPE_CHECKING:
    from vllm_symphony.kernel.fs.fd import FdTable


class Tally:
    """Counts by name, as in `Usage`."""

    __slots__ = (
        "cpu_s", "device_s", "num_calls", "num_forwards", "num_messages", "num_steps", "num_tools", "page_s", "tokens_in",
        "tokens_out", "tool_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.num_calls = self.tokens_in = self.tokens_out = self.num_forwards = self.num_steps = 0
        self.num_tools = self.num_messages = 0
        self.device_s = self.cpu_s = self.page_s = self.tool_s = 0.0

    def add(self, other: Tally) -> None:
        """Count what `other` has counted, too."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def usage(self) -> Usage:
        return Usage(**{name: getattr(self, name) for name in self.__slots__})


class Thread:
    """One thread of a process: its name, and what it has used."""

    __slots__ = ("name", "tally")

    def __init__(self, name: str) -> None:
        self.name = name
        self.tally = Tally()


class PageClock:
    """Pages times seconds of one process."""

    __slots__ = ("_pages", "_since_ns", "_total")

    def __init__(self, now_ns: int) -> None:
        self._pages: dict[Ino, int] = {}
        self._total = 0
        self._since_ns = now_ns

    def settle(self, fds: FdTable, page_size: int, now_ns: int) -> float:
        """Page-seconds since the last time; then count the files that were touched again."""
        page_s = self._total * (now_ns - self._since_ns) / 1e9
        self._since_ns = now_ns
        for ino, inode in fds.touched.items():
            pages = inode.num_pages(page_size) if ino in fds.counts else 0
            self._total += pages - self._pages.pop(ino, 0)
            if pages:
                self._pages[ino] = pages
        fds.touched.clear()
        return page_s

    def check(self, fds: FdTable) -> None:
        """It counts open files only, and adds up."""
        assert self._total == sum(self._pages.values())
        assert self._pages.keys() <= fds.counts.keys() | fds.touched.keys()
