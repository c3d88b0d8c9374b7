"""The event log: every call, once, when it ended (trace/log.py).

    seq      1 ... 4711 | 4712 ............. 104711 |
                 gone   |  the ring, newest last    |

`append` is on the path of every call: it stores a tuple in a ring and makes no text. `since` makes records of what is still there,
for readers who hold the number of the last one that they saw; what was overwritten meanwhile is missing, and their numbers show
it. Times are given in the kernel's own nanoseconds and shown in the wall clock's.
Invariant: `next_seq - first_seq <= capacity`, numbers have no holes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import TypeAlias

from vllm_symphony.abi.types import CallRecord
from vllm_symphony.trace import summary

# pid, tid, op, digest, result, t_start_ns, t_end_ns, step_first, step_last, principal, who spawned the process
Entry: TypeAlias = tuple[int, int, str, summary.Digest, str, int, int, int | None, int | None, str, int | None]


class Family:
    """A process, and with `children` all that descend from it. It grows as they are seen, each after its parent: a process makes
    its calls after the `spawn` that made it has ended, so the order of the log is such an order."""

    __slots__ = ("children", "pids")

    def __init__(self, pid: int, children: bool) -> None:
        self.pids = {pid}
        self.children = children

    def takes(self, pid: int, spawner: int | None) -> bool:
        """Whether this process belongs to it."""
        if pid in self.pids:
            return True
        if self.children and spawner in self.pids:
            self.pids.add(pid)
            return True
        return False


class EventLog:
    """A bounded ring of ended calls. One writer (the kernel's thread); readers on the same thread."""

    __slots__ = ("_ring", "capacity", "next_seq", "offset_ns")

    def __init__(self, capacity: int = 100_000, offset_ns: int = 0) -> None:
        """Keep the last `capacity` calls; `offset_ns` is added to times when they are read."""
        self.capacity = capacity
        self.offset_ns = offset_ns
        self.next_seq = 1
        self._ring: list[Entry] = []

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def first_seq(self) -> int:
        """Number of the oldest record that is still here (== `next_seq` when there is none)."""
        return self.next_seq - len(self._ring)

    def append(self, entry: Entry) -> None:
        """Take one ended call; O(1)."""
        ring = self._ring
        if len(ring) < self.capacity:
            ring.append(entry)
        else:
            ring[(self.next_seq - 1) % self.capacity] = entry
        self.next_seq += 1

    def since(
        self,
        seq: int = 1,
        *,
        until: int | None = None,
        pid: int | None = None,
        family: Family | None = None,
        principal: str | None = None,
    ) -> Iterator[CallRecord]:
        """Records from number `seq` on (to before `until`), oldest first; of one process or a family, and of one principal's, when
        given."""
        if pid is not None:
            family = Family(pid, children=False)
        for number in range(max(seq, self.first_seq), self.next_seq if until is None else min(until, self.next_seq)):
            entry = self._ring[(number - 1) % self.capacity]
            if (principal is None or entry[9] == principal) and (family is None or family.takes(entry[0], entry[10])):
                yield self._record(number, entry)

    def kept(self, family: Family | None, principal: str | None) -> Counter[int]:
        """How many calls of each process are here; of whom, as in `since`."""
        ring, first = self._ring, (self.next_seq - 1) % self.capacity if len(self) == self.capacity else 0
        kept: Counter[int] = Counter()
        for entry in chain(islice(ring, first, None), islice(ring, first)):  # oldest first, as a family wants it
            if (principal is None or entry[9] == principal) and (family is None or family.takes(entry[0], entry[10])):
                kept[entry[0]] += 1
        return kept

    def has(self, pid: int, principal: str | None) -> bool:
        """Whether a call of `pid`, owned by `principal` (None: by anyone), is still in the ring."""
        return any(e[0] == pid and (principal is None or e[9] == principal) for e in self._ring)

    def last_end_ns(self, pid: int, tid: int) -> int | None:
        """When the last call of that thread ended, in the kernel's nanoseconds; None when it is not in the ring."""
        for number in range(self.next_seq - 1, self.first_seq - 1, -1):
            entry = self._ring[(number - 1) % self.capacity]
            if entry[0] == pid and entry[1] == tid:
                return entry[6]
        return None

    def _record(self, seq: int, entry: Entry) -> CallRecord:
        pid, tid, op, digest, result, start_ns, end_ns, first, last, _, _ = entry
        shift = self.offset_ns
        return CallRecord(
            seq, pid, tid, op, summary.text(op, digest), result, start_ns + shift, end_ns + shift, step_first=first, step_last=last
        )
