"""The worker's side of moves (engine/mover.py): carries out `Orders`, page by page.

    PageIo (the caches) <--> page of the host's arena, with a checksum       arena [num_slots, page_bytes], made at the first use
                        <--> staging page <--> segment files (store/segment.py)

A page is all of a block's bytes, layer after layer, as the backend keeps them: nothing here knows what they mean. `MoverThread`
runs it beside the steps; each copy is small and lets go of the interpreter's lock, so a step never waits for a whole move. The
checksum of a host page is the sum of its words, which finds any single wrong word: a CRC would cost more than the copy. Segments
have CRCs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vllm_symphony.engine.move import Moved, Orders, Source, Write
from vllm_symphony.errors import DataCorrupt, Interrupted, SymphonyError
from vllm_symphony.store.segment import SPILL, SegmentReader, SegmentWriter, hold, locate, publish


class PageIo(Protocol):
    """The caches of one worker. `page`: uint8 [page_bytes], a multiple of 8."""

    page_bytes: int

    def out(self, block: int, page: np.ndarray) -> None: ...

    def bring(self, page: np.ndarray, block: int) -> None: ...


class PageMover:
    """Carries out one `Orders` after the other. `arena` makes the host's memory: [num_slots, page_bytes]."""

    def __init__(
        self, io: PageIo, num_slots: int, directory: Path | None, fingerprint: str, arena: Callable[[int, int], np.ndarray]
    ) -> None:
        self._io = io
        self._num_slots = num_slots
        self._directory = directory
        self._fingerprint = fingerprint
        self._make_arena = arena
        self._arena: np.ndarray | None = None
        self._sums: dict[int, int] = {}
        self._staging = np.empty(io.page_bytes, np.uint8)
        self.cancelled: set[int] = set()

    def carry_out(self, orders: Orders) -> Moved:
        """All of it, or an error and no segment of it left."""
        written: list[Path] = []
        try:
            for block, slot in orders.out:
                self._demand(orders)
                self._out(block, slot)
            for write in orders.write:
                self._write(orders, write, written)
            for held in orders.publish:
                self._demand(orders)
                publish(self._folder(), held)
            for slot, block in orders.bring:
                self._demand(orders)
                self._bring(slot, block)
            self._read(orders)
        except SymphonyError as error:
            for path in written:
                path.unlink(missing_ok=True)
            return Moved(orders.move, error)
        finally:
            self.cancelled.discard(orders.move)
        return Moved(orders.move)

    def _demand(self, orders: Orders) -> None:
        if orders.move in self.cancelled:
            raise Interrupted("cancelled")

    def _folder(self) -> Path:
        assert self._directory is not None
        return self._directory

    # ---- host

    def _page(self, slot: int) -> np.ndarray:
        if self._arena is None:
            self._arena = self._make_arena(self._num_slots, self._io.page_bytes)
        page: np.ndarray = self._arena[slot]
        return page

    def _out(self, block: int, slot: int) -> None:
        page = self._page(slot)
        self._io.out(block, page)
        self._sums[slot] = _sum(page)

    def _checked(self, slot: int) -> np.ndarray:
        page = self._page(slot)
        if _sum(page) != self._sums[slot]:
            raise DataCorrupt(f"a page in host memory has changed (slot {slot} of the arena)", slot=slot)
        return page

    def _bring(self, slot: int, block: int) -> None:
        self._io.bring(self._checked(slot), block)

    # ---- disk

    def _write(self, orders: Orders, write: Write, written: list[Path]) -> None:
        folder = self._folder()
        writer = SegmentWriter(folder, write.name, self._fingerprint, self._io.page_bytes, len(write.pages))
        try:
            for source in write.pages:
                self._demand(orders)
                writer.add(self._source(source).data, source.num_tokens)
            writer.finish(durable=not write.name.startswith(SPILL))
        except BaseException:
            writer.abandon()
            raise
        written.append(folder / write.name)
        if not write.name.startswith(SPILL) and (held := hold(folder, write.name)) != write.name:
            written.append(folder / held)

    def _source(self, source: Source) -> np.ndarray:
        if source.slot is not None:
            return self._checked(source.slot)
        assert source.block is not None
        self._io.out(source.block, self._staging)
        return self._staging

    def _read(self, orders: Orders) -> None:
        pages: dict[str, list[tuple[int, int]]] = {}
        for segment, slot, block in orders.read:
            pages.setdefault(segment, []).append((slot, block))
        for segment, wanted in pages.items():
            with SegmentReader(locate(self._folder(), segment)) as reader:
                self._demand_ours(reader)
                reader.expect([slot for slot, _ in wanted])
                for slot, block in wanted:
                    self._demand(orders)
                    reader.read(slot, self._staging.data)
                    self._io.bring(self._staging, block)

    def _demand_ours(self, reader: SegmentReader) -> None:
        fingerprint, name = reader.header.fingerprint, reader.path.name
        if fingerprint != self._fingerprint:
            raise DataCorrupt(f"segment {name} is of {fingerprint!r}, this engine is {self._fingerprint!r}", segment=name)


def _sum(page: np.ndarray) -> int:
    return int(np.add.reduce(page.view(np.uint64)))


class MoverThread:
    """A `PageMover` on a thread of its own, as the worker's RPCs use it."""

    def __init__(self, mover: PageMover) -> None:
        self._mover = mover
        self._orders: queue.SimpleQueue[tuple[Orders, Callable[[], None] | None]] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Moved] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="symphony-mover", daemon=True).start()

    def begin(self, orders: Orders, first: Callable[[], None] | None = None) -> None:
        """`first` is called by the thread before it touches a page."""
        self._orders.put((orders, first))

    def cancel(self, move: int) -> None:
        self._mover.cancelled.add(move)

    def ended(self) -> Sequence[Moved]:
        out = []
        while not self._ended.empty():
            out.append(self._ended.get())
        return out

    def _run(self) -> None:
        while True:
            orders, first = self._orders.get()
            try:
                if first is not None:
                    first()
                moved = self._mover.carry_out(orders)
            except Exception as error:  # noqa: BLE001  the move fails; the thread goes on
                moved = Moved(orders.move, DataCorrupt(f"a move of pages failed: {type(error).__name__}: {error}"))
            self._ended.put(moved)
