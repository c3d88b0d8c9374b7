"""A priority queue whose keys change (kernel/sched/ranking.py).

    set(b, 2)      heap  (1, a) (3, b)* (2, b) (4, c)      *: an old key of b; it is passed over when it comes to the top

Setting, removing and looking at the first are O(log n), amortised: each old key is popped once, and when they are most of the heap
it is made anew. Items with equal keys come in the order in which they were set, so the same calls give the same order.
Rejected: a sorted list (its removal is O(sqrt n) and a dependency), a heap with back references (swaps in Python cost more than the
old keys do).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

Key = tuple[float, ...]
Item = TypeVar("Item", bound=Hashable)
SLACK = 64


class Ranking(Generic[Item]):
    def __init__(self) -> None:
        self._entries: dict[Item, tuple[Key, int]] = {}
        self._heap: list[tuple[Key, int, Item]] = []
        self._serial = 0

    def set(self, item: Item, key: Key) -> None:
        """Put it there, or move it."""
        entry = self._entries.get(item)
        if entry is not None and entry[0] == key:
            return
        self._serial += 1
        self._entries[item] = key, self._serial
        heappush(self._heap, (key, self._serial, item))
        if len(self._heap) > 2 * len(self._entries) + SLACK:
            self._heap = [(key, serial, item) for item, (key, serial) in self._entries.items()]
            heapify(self._heap)

    def discard(self, item: Item) -> None:
        self._entries.pop(item, None)

    def first(self) -> Item | None:
        """Of the smallest key; None of an empty one."""
        heap = self._heap
        while heap:
            _, serial, item = heap[0]
            entry = self._entries.get(item)
            if entry is not None and entry[1] == serial:
                return item
            heappop(heap)
        return None

    def key(self, item: Item) -> Key:
        return self._entries[item][0]

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Item]:
        """In no order that means anything."""
        return iter(self._entries)

    def check(self) -> None:
        """Every item is in the heap under its key, and the first is the smallest."""
        alive = {(item, serial) for _, serial, item in self._heap}
        assert all((item, serial) in alive for item, (_, serial) in self._entries.items())
        if self._entries:
            first = self.first()
            assert first is not None and self.key(first) == min(key for key, _ in self._entries.values())
