"""A process's output: numbered events in a bounded ring (kernel/event.py).

    seq   1 2 3 4 5 6 7 8 9          a viewer that asks from 2 gets   gap(seq=4, text="3"), 5, 6, 7, 8, 9
          . . . . [=========]

A program that prints a gigabyte costs the ring's size. What fell out is never silently missing: a `gap` event says how many were
lost, and carries the number of the last lost one, so `from_seq = seq + 1` resumes after any event.
"""

from __future__ import annotations

from collections import deque

from vllm_symphony.abi.types import Pid, ProcessEvent

_OVERHEAD = 64  # bytes that an event costs besides its text


class EventRing:
    """The last events of one process, bounded by count and bytes; the newest is always kept."""

    __slots__ = ("_bytes", "_events", "_max_bytes", "_max_events", "_pid", "next_seq")

    def __init__(self, pid: Pid, max_events: int, max_bytes: int) -> None:
        self._pid = pid
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[ProcessEvent] = deque()
        self._bytes = 0
        self.next_seq = 1

    def add(self, kind: str, text: str, t_ns: int) -> None:
        """Number one more event; the oldest make room."""
        self._events.append(ProcessEvent(self.next_seq, t_ns, kind, text, self._pid))
        self._bytes += len(text) + _OVERHEAD
        self.next_seq += 1
        while len(self._events) > 1 and (len(self._events) > self._max_events or self._bytes > self._max_bytes):
            self._bytes -= len(self._events.popleft().text) + _OVERHEAD

    def take(self, seq: int, max_events: int, max_bytes: int) -> tuple[ProcessEvent, ...]:
        """A part from number `seq` on: at most so many events and, past the first, so many bytes of text."""
        first = self.next_seq - len(self._events)
        part: list[ProcessEvent] = []
        if seq < first:
            part.append(ProcessEvent(first - 1, self._events[0].t_ns, "gap", str(first - seq), self._pid))
            seq = first
        room = max_bytes - sum(len(event.text) for event in part)
        for index in range(seq - first, len(self._events)):
            event = self._events[index]
            room -= len(event.text)
            if len(part) >= max_events or (part and room < 0):
                break
            part.append(event)
        return tuple(part)

    def check(self) -> None:
        """Numbers have no holes, and the bytes are counted right."""
        assert [e.seq for e in self._events] == list(range(self.next_seq - len(self._events), self.next_seq))
        assert self._bytes == sum(len(e.text) + _OVERHEAD for e in self._events)
