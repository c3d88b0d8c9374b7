"""Where a worker holds kept rows (engine/row_pool.py).

    row id -> slot in a chunk of 64 rows [64, vocab]; freed slots are used again, chunks are kept

Rows are copied, since vLLM's sampler works in place on them; into memory that is there already, since fresh memory for a row of a
large vocabulary costs more than the copy.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

CHUNK_ROWS = 64


class RowPool:
    def __init__(self) -> None:
        self._slots: dict[int, torch.Tensor] = {}
        self._free: list[torch.Tensor] = []

    def __len__(self) -> int:
        return len(self._slots)

    def keep(self, row_id: int, row: torch.Tensor) -> None:
        """Copy `row` [vocab]."""
        if not self._free:
            self._free = list(row.new_empty((CHUNK_ROWS, row.shape[-1])).unbind())
        slot = self._free.pop()
        slot.copy_(row)
        self._slots[row_id] = slot

    def get(self, row_id: int) -> torch.Tensor | None:
        """The row [vocab], owned by the pool; None when it is not here."""
        return self._slots.get(row_id)

    def drop(self, row_ids: Iterable[int]) -> None:
        for row_id in row_ids:
            slot = self._slots.pop(row_id, None)
            if slot is not None:
                self._free.append(slot)
