"""Kept rows: whole logits that stay on the device for `sample` and `logits` (engine/rows.py).

    file A  rows {57: 12}  --fork--> file B  rows {57: 12}      one row, two references
                     |
    workers  row 12 [vocab]                                    the engine thread knows ids, the workers hold tensors

A cache: beyond its budget the oldest rows go, and one that is missing is computed again from the file's prefix. Ids are never used
twice. What the workers should drop rides on the next step's plan, or is said by RPC when no step is coming.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.row_quota import RowQuota
from vllm_symphony.errors import DataCorrupt

ROW_BUDGET_BYTES = 256 << 20


class KeptRows:
    def __init__(self, table: PageTable, rpc: Callable[..., list[Any]], vocab_size: int) -> None:
        self._table = table
        self._rpc = rpc
        self._capacity = max(8, ROW_BUDGET_BYTES // (4 * vocab_size))
        self._live: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._refs: Counter[int] = Counter()
        self.quota = RowQuota()
        self._to_drop: list[int] = []
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._live)

    def new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def find(self, f: PagedFile, index: int) -> int | None:
        """Id of the live row at that index of the file."""
        row_id = f.rows.get(index)
        return row_id if row_id is not None and row_id in self._live else None

    def keep(self, f: PagedFile, index: int, row_id: int) -> None:
        """The file knows a row that a step has kept on the workers."""
        old = f.rows.get(index)
        if old is not None:
            self._table.dropped_rows.append(old)
        f.rows[index] = row_id
        self._refs[row_id] += 1
        self._live[row_id] = None
        self._go(self.quota.add(row_id, f.domain))
        while len(self._live) > self._capacity:
            oldest = self._live.popitem(last=False)[0]
            self.quota.remove((oldest,))
            self._to_drop.append(oldest)

    def limit(self, domain: str, num_rows: int | None) -> None:
        """What files of the domain may keep; beyond it the oldest go."""
        self._go(self.quota.limit(domain, num_rows))

    def _go(self, row_ids: Iterable[int]) -> None:
        for row_id in row_ids:
            del self._live[row_id]
            self._to_drop.append(row_id)

    def share(self, row_ids: Iterable[int]) -> None:
        """A fork knows them too."""
        self._refs.update(row_ids)

    def forget(self, row_ids: Iterable[int]) -> None:
        """Steps kept them and no file will know them."""
        self._to_drop += row_ids

    def sweep(self) -> None:
        """Let go of rows whose last file forgot them."""
        for row_id in self._table.dropped_rows:
            self._refs[row_id] -= 1
            if self._refs[row_id] <= 0:
                del self._refs[row_id]
                if row_id in self._live:
                    self.quota.remove((row_id,))
                    self._go((row_id,))
        self._table.dropped_rows.clear()

    @property
    def are_dropped(self) -> bool:
        """There is something to tell the workers."""
        return bool(self._to_drop)

    def take_drops(self) -> list[int]:
        """What the workers should drop; the caller tells them."""
        drops, self._to_drop = self._to_drop, []
        return drops

    def drop_now(self) -> None:
        """Tell the workers at once: no step is coming to carry the message."""
        if self._to_drop:
            self._rpc("symphony_drop_rows", args=(self.take_drops(),))

    def ask(self, method: str, row_id: int, *args: Any) -> Any:
        """Call the workers about a live row; the one that holds it answers."""
        answer = next((a for a in self._rpc(method, args=(row_id, *args)) if a is not None), None)
        if answer is None:
            raise DataCorrupt(f"row {row_id} is on no worker")
        return answer

    def check_empty(self) -> None:
        """Nothing is kept, here and on the workers. For tests."""
        self.drop_now()
        assert not self._live and not self._refs, (self._live, self._refs)
        assert set(self._rpc("symphony_num_rows")) == {0}
