"""An event loop whose clock leaps (testing/leap.py): when no task can go on, the next thing happens at once.

    tasks that are ready run ... nothing is ready -> select(timeout) -> leap(timeout): the clock moves to whatever comes first,
    the loop's own timer (asyncio.sleep) or an event of the machine

One thread and no real input: the order of everything is a function of the programs and the seed. Prior art: FoundationDB's
simulation, trio's MockClock with autojump.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable


class LeapSelector(selectors.SelectSelector):
    """Asks `leap` instead of waiting."""

    def __init__(self, leap: Callable[[float | None], None]) -> None:
        super().__init__()
        self._leap = leap

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._leap(timeout)
        return super().select(0)


class LeapLoop(asyncio.SelectorEventLoop):
    """Its time is `clock`'s."""

    def __init__(self, clock: Callable[[], float], leap: Callable[[float | None], None]) -> None:
        super().__init__(LeapSelector(leap))
        self._clock = clock

    def time(self) -> float:
        return self._clock()
