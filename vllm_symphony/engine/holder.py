"""Files that have pages on the device, in the two orders in which they are asked to give them (engine/holder.py).

    by birth   youngest first: an older job takes from younger files
    by time    whose time is over, by the memory policy, first: anybody takes from these

Both are kept sorted, so that a job that looks for pages looks at those that can give and at no others: O(log n) where nobody can. A
time is asked of the policy when a file becomes idle, when its thread begins or ends to wait, and again when it has come; in between
it may have become shorter (costs change), which is then seen that much later.
Invariant (`check`): a file is here exactly as long as it has blocks; it has a time if it had no job when that was asked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_symphony.engine.page_table import PagedFile

WINDOW = 64  # files whose time is over that the policy ranks at once
Key = tuple[float, int]


class Holders:
    """`yields_s`: the policy's word of a file, by the clock."""

    def __init__(self) -> None:
        self.yields_s: Callable[[PagedFile], float] = lambda f: f.last_used
        self._births: dict[PagedFile, Key] = {}
        self._by_birth: list[tuple[float, int, PagedFile]] = []
        self._times: dict[PagedFile, Key] = {}
        self._by_time: list[tuple[float, int, PagedFile]] = []
        self._serial = 0  # of ages that are alike, the first comes first

    def __contains__(self, f: PagedFile) -> bool:
        return f in self._births

    def enter(self, f: PagedFile) -> None:
        """It has pages."""
        if f not in self._births:
            self._serial += 1
            self._births[f] = f.born, self._serial
            insort(self._by_birth, (f.born, self._serial, f))
        self.rekey(f)

    def leave(self, f: PagedFile) -> None:
        """It has none any more, or they are a job's."""
        if (key := self._births.pop(f, None)) is not None:
            del self._by_birth[bisect_left(self._by_birth, key)]
            self._untime(f)

    def rekey(self, f: PagedFile) -> None:
        """Ask again how long it keeps its pages from anybody's job."""
        self._untime(f)
        if f in self._births and f.job is None:
            self._serial += 1
            key = self._times[f] = self.yields_s(f), self._serial
            insort(self._by_time, (*key, f))

    def rekey_all(self) -> None:
        """By another policy."""
        for f in self._births:
            self.rekey(f)

    def _untime(self, f: PagedFile) -> None:
        if (key := self._times.pop(f, None)) is not None:
            del self._by_time[bisect_left(self._by_time, key)]

    # ---- who may give

    def over(self, now_s: float) -> Iterator[list[PagedFile]]:
        """Idle files whose time is over, in windows, those first for whom it was first."""
        due = [f for _, _, f in self._by_time[: bisect_right(self._by_time, now_s, key=lambda entry: entry[0])]]
        for first in range(0, len(due), WINDOW):
            yield [f for f in due[first : first + WINDOW] if _is_idle(f) and self._is_over(f, now_s)]

    def _is_over(self, f: PagedFile, now_s: float) -> bool:
        if f not in self._times:
            return False  # it gave meanwhile
        self.rekey(f)
        return self._times[f][0] <= now_s

    def younger(self, born: float) -> Iterator[PagedFile]:
        """Files born later, idle or waited for by a job that has not begun; youngest first."""
        first = bisect_right(self._by_birth, (born, inf))
        return (f for _, _, f in reversed(self._by_birth[first:]) if not (f.held or f.pinned) and f.born > born)

    def idle(self) -> list[PagedFile]:
        """All that are."""
        return [f for _, _, f in self._by_time if _is_idle(f)]

    def check(self, files: Iterable[PagedFile]) -> None:
        """Who has blocks is here, and in order."""
        assert set(self._births) == {f for f in files if f.blocks}
        assert [(*key, f) for f, key in sorted(self._births.items(), key=lambda item: item[1])] == self._by_birth
        assert [(*key, f) for f, key in sorted(self._times.items(), key=lambda item: item[1])] == self._by_time
        assert self._times.keys() <= self._births.keys()
        assert all(f in self._times for f in self._births if f.job is None and f.resting is None)


def _is_idle(f: PagedFile) -> bool:
    return f.job is None and not (f.held or f.pinned)
