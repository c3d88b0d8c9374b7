"""Moves of the simulator (engine/sim/mover.py): the engine's own page mover over pages that remember, in made-up time.

A page's bytes are the (token + 1, position) of each slot, packed: what comes back wrong changes the logits and fails
`SimCore.check`. Segments are real files where there is a state directory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vllm_symphony.engine.move import Moved, Orders
from vllm_symphony.engine.mover import PageMover
from vllm_symphony.engine.sim.pool import SimPool


class SimPages:
    """A `PageIo` (engine/mover.py)."""

    def __init__(self, pool: SimPool, page_size: int) -> None:
        self._pool = pool
        self.page_bytes = 8 * page_size

    def out(self, block: int, pages: np.ndarray) -> None:
        pages[:] = 0
        for page, source in zip(pages, self._pool.blocks[block:], strict=False):
            words = page.view(np.uint32)
            for i, (token, position) in source.slots.items():
                words[2 * i : 2 * i + 2] = token + 1, position

    def bring(self, pages: np.ndarray, block: int) -> None:
        for page, target in zip(pages, self._pool.blocks[block:], strict=False):
            words = page.view(np.uint32).tolist()
            pairs = enumerate(zip(words[::2], words[1::2], strict=True))
            target.slots = {i: (token - 1, position) for i, (token, position) in pairs if token}


class SimMover:
    """A `Mover`: each move takes its bytes' time and happens when that is over."""

    def __init__(
        self,
        pages: SimPages,
        num_slots: int,
        directory: Path | None,
        fingerprint: str,
        clock: Callable[[], float],
        bytes_per_s: float,
    ) -> None:
        self.page_bytes = pages.page_bytes
        self.mover = PageMover(pages, num_slots, directory, fingerprint, lambda n, size: np.zeros((n, size), np.uint8))
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._orders: deque[tuple[float, Orders]] = deque()

    def begin(self, orders: Orders) -> None:
        num_pages = len(orders.out) + len(orders.bring) + len(orders.read) + sum(len(w.pages) for w in orders.write)
        begins = max(self._clock(), self._orders[-1][0] if self._orders else 0.0)
        self._orders.append((begins + num_pages * self.page_bytes / self._bytes_per_s, orders))

    def cancel(self, move: int) -> None:
        self.mover.cancelled.add(move)

    def ended(self) -> Sequence[Moved]:
        out = []
        while self._orders and (self._orders[0][0] <= self._clock() or self._orders[0][1].move in self.mover.cancelled):
            out.append(self.mover.carry_out(self._orders.popleft()[1]))
        return out

    @property
    def next_end(self) -> float | None:
        """By the clock: when something has ended."""
        return self._orders[0][0] if self._orders else None
