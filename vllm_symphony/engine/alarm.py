"""One alarm clock (engine/alarm.py): calls back once at the time that it was last set to, from a thread of its own.

For a host whose loop sleeps until something arrives: pages that an idle file gives when it is stale arrive without a message. The
thread is started by the first `set`, and sleeps while nothing is set.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Alarm:
    """`ring` must be safe from any thread."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._due_s: float | None = None  # monotonic
        self._stopped = False
        self._thread: threading.Thread | None = None

    def set(self, due_s: float) -> None:
        """Ring then, by the monotonic clock; what was set before is forgotten."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="symphony-alarm", daemon=True)
                self._thread.start()
            self._due_s = due_s
            self._changed.notify()

    def stop(self) -> None:
        """It rings no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._wait():
            self._ring()

    def _wait(self) -> bool:
        """Until it is due (True), or stopped."""
        with self._changed:
            while not self._stopped:
                if self._due_s is None:
                    self._changed.wait()
                elif (left_s := self._due_s - time.monotonic()) > 0:
                    self._changed.wait(left_s)
                else:
                    self._due_s = None
                    return True
            return False
