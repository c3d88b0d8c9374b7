"""The worker's side of moves (engine/mover.py): carries out `Orders`, some pages at a time.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vllm_symphony.engine.move import Moved, Orders, Source, Write
from vllm_symphony.errors import DataCorrupt, Interrupted, SymphonyError
from vllm_symphony.store.segment import SPILL, SegmentReader, SegmentWriter, hold, locate, publish

RUN = 4  # pages that are copied at once: few locks of the interpreter, and still in the processor's cache when they are summed


class PageIo(Protocol):
    """The caches of one worker. `pages`: uint8 [n, page_bytes], a multiple of 8; of blocks `block`, `block` + 1, ..."""

    page_bytes: int

    def out(self, block: int, pages: np.ndarray) -> None: ...

    def bring(self, pages: np.ndarray, block: int) -> None: ...


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
        self._staging = np.empty((RUN, io.page_bytes), np.uint8)
        self.cancelled: set[int] = set()

    def rename(self, fingerprint: str) -> None:
        """Pages are of another model from now on. Nothing moves meanwhile."""
        self._fingerprint = fingerprint

    def carry_out(self, orders: Orders) -> Moved:
        """All of it, or an error and no segment of it left."""
        written: list[Path] = []
        try:
            for block, slot, n in runs(orders.out):
                self._demand(orders)
                self._out(block, slot, n)
            for write in orders.write:
                self._write(orders, write, written)
            for held in orders.publish:
                self._demand(orders)
                publish(self._folder(), held)
            for slot, block, n in runs(orders.bring):
                self._demand(orders)
                self._io.bring(self._checked(slot, n), block)
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

    def _pages(self, slot: int, n: int) -> np.ndarray:
        if self._arena is None:
            self._arena = self._make_arena(self._num_slots, self._io.page_bytes)
        pages: np.ndarray = self._arena[slot : slot + n]
        return pages

    def _out(self, block: int, slot: int, n: int) -> None:
        pages = self._pages(slot, n)
        self._io.out(block, pages)
        self._sums.update(zip(range(slot, slot + n), _sums(pages), strict=True))

    def _checked(self, slot: int, n: int = 1) -> np.ndarray:
        pages = self._pages(slot, n)
        for i, found in enumerate(_sums(pages), slot):
            if found != self._sums[i]:
                raise DataCorrupt(f"a page in host memory has changed (slot {i} of the arena)", slot=i)
        return pages

    # ---- disk

    def _write(self, orders: Orders, write: Write, written: list[Path]) -> None:
        folder = self._folder()
        writer = SegmentWriter(folder, write.name, self._fingerprint, self._io.page_bytes, len(write.pages))
        try:
            for source in write.pages:
                self._demand(orders)
                writer.add(self._source(source)[0].data, source.num_tokens)
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
        page = self._staging[:1]
        self._io.out(source.block, page)
        return page

    def _read(self, orders: Orders) -> None:
        pages: dict[str, list[tuple[int, int]]] = {}
        for segment, slot, block in orders.read:
            pages.setdefault(segment, []).append((slot, block))
        for segment, wanted in pages.items():
            with SegmentReader(locate(self._folder(), segment)) as reader:
                self._demand_ours(reader)
                reader.expect([slot for slot, _ in wanted])
                for slot, block, n in runs(wanted):
                    self._demand(orders)
                    for i in range(n):
                        reader.read(slot + i, self._staging[i].data)
                    self._io.bring(self._staging[:n], block)

    def _demand_ours(self, reader: SegmentReader) -> None:
        fingerprint, name = reader.header.fingerprint, reader.path.name
        if fingerprint != self._fingerprint:
            raise DataCorrupt(f"segment {name} is of {fingerprint!r}, this engine is {self._fingerprint!r}", segment=name)


def runs(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(from, to, n): pairs whose both numbers go up by one together, at most `RUN` at once."""
    start, n = (0, 0), 0
    for a, b in pairs:
        if n and n < RUN and (a, b) == (start[0] + n, start[1] + n):
            n += 1
            continue
        if n:
            yield *start, n
        start, n = (a, b), 1
    if n:
        yield *start, n


def _sums(pages: np.ndarray) -> list[int]:
    sums: list[int] = np.add.reduce(pages.view(np.uint64), axis=1).tolist()
    return sums


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

    def rename(self, fingerprint: str) -> None:
        """As PageMover's."""
        self._mover.rename(fingerprint)

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
