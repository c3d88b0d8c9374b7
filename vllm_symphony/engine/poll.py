"""Waiting for files and for times: the reactor's one blocking point (engine/poll.py).

    watch(fd, on_ready)  --\
                             turn(): epoll_wait, then the callbacks of what is ready, then the alarms that are due
    alarm(t_ns, action)  --/

`select.epoll` is used directly: `selectors` builds two objects per event, which costs more than a small call. Level-triggered, so a
callback may read as little as it likes. Events of one turn are handled even if an earlier one of them closed and reopened the same
number: callbacks must take "nothing there" (BlockingIOError) calmly.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
MAX_WAIT_S = 3600.0  # epoll counts milliseconds in 32 bits; who waits longer looks again
OnReady = Callable[[int], None]  # gets the epoll mask; hang-up and error may come with any interest


class Alarm:
    """An action at a time; `cancel` makes it void."""

    __slots__ = ("action", "t_ns")

    def __init__(self, t_ns: int, action: Callable[[], None]) -> None:
        self.t_ns = t_ns
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None

    def __lt__(self, other: Alarm) -> bool:
        return self.t_ns < other.t_ns


class Poll:
    """Belongs to one thread. Watches files that others own: who closes one says `forget` first."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._on_ready: dict[int, OnReady] = {}
        self._alarms: list[Alarm] = []
        self._crowd = 64

    def watch(self, fd: int, on_ready: OnReady, interest: int = READABLE) -> None:
        self._epoll.register(fd, interest)
        self._on_ready[fd] = on_ready

    def change(self, fd: int, interest: int) -> None:
        self._epoll.modify(fd, interest)

    def forget(self, fd: int) -> None:
        """No more callbacks for it. Idempotent."""
        if self._on_ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def alarm(self, t_ns: int, action: Callable[[], None]) -> Alarm:
        """Call `action` in the first turn at or after `t_ns` (monotonic)."""
        alarm = Alarm(t_ns, action)
        heapq.heappush(self._alarms, alarm)
        if len(self._alarms) > self._crowd:  # cancelled ones stay until they surface: not too many
            self._alarms[:] = [a for a in self._alarms if a.action is not None]
            heapq.heapify(self._alarms)
            self._crowd = 64 + 2 * len(self._alarms)
        return alarm

    def turn(self, until_ns: int | None) -> None:
        """Wait until something is ready, an alarm is due or `until_ns` has come (0: do not wait), and handle it."""
        alarms = self._alarms
        while alarms and alarms[0].action is None:
            heapq.heappop(alarms)
        if alarms and (until_ns is None or alarms[0].t_ns < until_ns):
            until_ns = alarms[0].t_ns
        timeout_s = None if until_ns is None else min(max(0, until_ns - time.monotonic_ns()) / 1e9, MAX_WAIT_S)
        for fd, mask in self._epoll.poll(timeout_s):
            on_ready = self._on_ready.get(fd)
            if on_ready is not None:
                on_ready(mask)
        if alarms:
            self._ring_alarms(time.monotonic_ns())

    def num_watched(self) -> int:
        return len(self._on_ready)

    def num_alarms(self) -> int:
        return sum(a.action is not None for a in self._alarms)

    def close(self) -> None:
        self._epoll.close()

    def _ring_alarms(self, now_ns: int) -> None:
        alarms = self._alarms
        while alarms and (alarms[0].action is None or alarms[0].t_ns <= now_ns):
            action = heapq.heappop(alarms).action
            if action is not None:
                action()
