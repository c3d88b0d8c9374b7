"""The cohort wait: a step is held a little while programs that the last one answered are about to call again (engine/cohort.py).

    step n answers 16 programs |-- they compute --| 14, 15, 16 calls are there: step n + 1
                               |<--- hold ------->|  ends also when none came for a while, or a plain request came, or it is dear

Programs that decode in lock step share a batch by this; without it they would fall into groups that take turns. What runs by itself
(plain streams, generates) is held up meanwhile. N streams and M programs do N + M rows in a step of s seconds and a hold of h, and
N + M / 2 in a step of s without one, as the programs then come in every second step. So a hold gains up to h = s M / (2 N + M).
Weights say what a row of each side is worth. With streams it begins although nobody has called yet: else the programs would miss
each second step for certain. Without them the loop sleeps until the first call anyway. Programs that think for long, or call tools,
do not come: a hold beside streams that has proven vain is left out, and tried again now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WINDOW_S = 0.002  # the wait ends when nothing has arrived for this long ...
WINDOW_OF_STEP = 0.05  # ... or for this share of a recent step, if that is longer
WORTH = 0.25  # beside streams there is no wait when fewer than this part of those expected have come in recent ones ...
RETRY = 16  # ... but every so many steps


class Cohort:
    """Who is expected, and how long a step is. `wait`: sleep that many seconds at most; True: something was taken."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.window_s = WINDOW_S
        self.wait: Callable[[float], bool] | None = None
        self.expected = 0  # file calls: those that waited when the last step ended, and one from each program that it answered
        self.step_s = 0.0
        self.came = 1.0  # part of those waited for that came, beside streams, lately
        self._num_left_out = 0
        self.num_waits = 0
        self.waited_s = 0.0
        self._clock = clock

    def took(self, seconds: float) -> None:
        """A step that computed took that long."""
        self.step_s = seconds if not self.step_s else 0.7 * self.step_s + 0.3 * seconds

    def limit_s(self, streams: float) -> float:
        """The longest hold that is worth it beside that many streams, one being worth as much as one program."""
        return self.step_s * self.expected / (2 * streams + self.expected)

    def hold(self, streams: float, queued: Callable[[], int], disturbed: Callable[[], bool]) -> None:
        """Wait until all that are expected have called, or it is not worth it any more, or `disturbed`."""
        n = queued()
        if not self.window_s or self.wait is None or n >= self.expected or not (n or streams) or disturbed():
            return
        if streams and self._is_vain():
            return
        missing = self.expected - n
        began = self._clock()
        end = began + self.limit_s(streams)
        silence = max(self.window_s, WINDOW_OF_STEP * self.step_s)
        self.num_waits += 1
        while n < self.expected and not disturbed():
            left = min(silence, end - self._clock())
            if left <= 0 or not self.wait(left):
                break
            n = queued()
        self.waited_s += self._clock() - began
        if streams and not disturbed():
            self.came += 0.2 * (1 - (self.expected - n) / missing - self.came)

    def _is_vain(self) -> bool:
        self._num_left_out = self._num_left_out + 1 if self.came < WORTH else 0
        return self._num_left_out % RETRY != 0
