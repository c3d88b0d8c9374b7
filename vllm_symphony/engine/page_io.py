"""Whole pages in and out of the workers' caches (engine/page_io.py), for engine/mover.py.

    engine thread                        worker
    EngineMover --symphony_move, RPC--> MoverThread --> CachePages (the caches as bytes of blocks) <--> arena, segments
                <--symphony_moved-----      (in order with the steps)

A page is what vLLM's own block copy takes for one: the block's share of each cache's memory, each memory once. On a CPU these are
plain views; on a GPU a page is gathered on the device and goes through pinned memory on a stream of its own, behind what was
launched before the move was ordered: that path is written, not proven. While something moves, a bell wakes the engine thread so
that it asks. Source: vllm/v1/worker/utils.py `copy_kv_cache_blocks_inplace` (0.32).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vllm_symphony.engine.move import Moved, Orders
from vllm_symphony.engine.mover import MoverThread, PageMover
from vllm_symphony.engine.tier import TierLimits

POLL_S = 0.001


def planes(caches: Sequence[torch.Tensor], num_blocks: int) -> list[torch.Tensor]:
    """The memory of the caches as views whose first dimension is the block; what layers share is there once."""
    out: list[torch.Tensor] = []
    seen: set[int] = set()
    for cache in caches:
        storage = cache.untyped_storage()
        stride = cache.stride(0) * cache.element_size() * (len(cache) // num_blocks)
        whole = storage.nbytes() == num_blocks * stride
        key = storage.data_ptr() if whole else cache.data_ptr()
        if key in seen:
            continue
        seen.add(key)
        if whole:
            flat = torch.empty(0, dtype=torch.uint8, device=cache.device)
            flat.set_(storage)
            out.append(flat.view(num_blocks, -1))
        elif cache.is_contiguous():
            out.append(cache.view(num_blocks, -1).view(torch.uint8))
        else:
            out.append(cache.unflatten(0, (num_blocks, len(cache) // num_blocks)))
    return out


class CachePages:
    """A `PageIo` (engine/mover.py) over one worker's caches."""

    def __init__(self, caches: Sequence[torch.Tensor], num_blocks: int) -> None:
        self._planes = planes(caches, num_blocks)
        sizes = [p[0].numel() * p.element_size() for p in self._planes]
        self._ends = np.cumsum(sizes).tolist()
        self.page_bytes = -(-sum(sizes) // 8) * 8
        self.on_cpu = all(p.device.type == "cpu" for p in self._planes)
        self._arrays = [p.numpy() for p in self._planes] if self.on_cpu and all(p.ndim == 2 for p in self._planes) else []
        self._stream = None if self.on_cpu else torch.cuda.Stream(self._planes[0].device)
        self._staging = None if self.on_cpu else torch.empty(self.page_bytes, dtype=torch.uint8, device=self._planes[0].device)

    def arena(self, num_slots: int, page_bytes: int) -> np.ndarray:
        memory = torch.empty((num_slots, page_bytes), dtype=torch.uint8, pin_memory=not self.on_cpu)
        array: np.ndarray = memory.numpy()
        return array

    def mark(self) -> Callable[[], None] | None:
        """What the copy thread must call first: it waits for what the steps have launched until now."""
        stream = self._stream
        if stream is None:
            return None
        event = torch.cuda.current_stream(self._planes[0].device).record_event()

        def wait() -> None:
            stream.wait_event(event)

        return wait

    def out(self, block: int, pages: np.ndarray) -> None:
        if not self._arrays:
            for i, page in enumerate(pages):
                self._through_staging(torch.from_numpy(page), block + i, out=True)
            return
        start = 0
        for array, end in zip(self._arrays, self._ends, strict=True):
            pages[:, start:end] = array[block : block + len(pages)]
            start = end

    def bring(self, pages: np.ndarray, block: int) -> None:
        if not self._arrays:
            for i, page in enumerate(pages):
                self._through_staging(torch.from_numpy(page), block + i, out=False)
            return
        start = 0
        for array, end in zip(self._arrays, self._ends, strict=True):
            array[block : block + len(pages)] = pages[:, start:end]
            start = end

    def _through_staging(self, page: torch.Tensor, block: int, out: bool) -> None:
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            staging = page if self._staging is None else self._staging
            if not out and staging is not page:
                staging.copy_(page, non_blocking=True)
            start = 0
            for plane, end in zip(self._planes, self._ends, strict=True):
                part = staging[start:end].view(plane.dtype).view(plane.shape[1:])
                part.copy_(plane[block]) if out else plane[block].copy_(part)
                start = end
            if out and staging is not page:
                page.copy_(staging, non_blocking=True)
            if self._stream is not None:
                self._stream.synchronize()


def make_mover(pages: CachePages, num_slots: int, directory: str | None, fingerprint: str) -> MoverThread:
    """The worker's copy thread."""
    path = Path(directory) if directory is not None else None
    return MoverThread(PageMover(pages, num_slots, path, fingerprint, pages.arena))


class EngineMover:
    """A `Mover` over all workers, on the engine thread. `wake` is called from a thread of ours, while something moves."""

    def __init__(
        self, rpc: Callable[..., list[Any]], limits: TierLimits, num_pages: int, fingerprint: str, wake: Callable[[], None]
    ) -> None:
        self._rpc = rpc
        self._wake = wake
        sizes: list[int] = rpc("symphony_page_bytes")
        self.page_bytes = sum(sizes)
        self._num_workers = len(sizes)
        limits = limits.for_cache(num_pages * self.page_bytes)
        # several workers' segments would need several names; their files are not saved, and demoted to host memory only
        self.limits = limits if self._num_workers == 1 else replace(limits, directory=None)
        num_slots = (limits.host_bytes or 0) // max(1, self.page_bytes)
        directory = str(self.limits.directory) if self.limits.directory is not None else None
        rpc("symphony_tiers", args=(num_slots, directory, fingerprint))
        self._reports: dict[int, list[Moved]] = {}
        self._last_poll_s = 0.0
        self._busy = threading.Event()
        self._bell: threading.Thread | None = None

    def begin(self, orders: Orders) -> None:
        self._reports[orders.move] = []
        self._rpc("symphony_move", args=(orders,))
        if self._bell is None:
            self._bell = threading.Thread(target=self._ring, name="symphony-mover-bell", daemon=True)
            self._bell.start()
        self._busy.set()

    def cancel(self, move: int) -> None:
        self._rpc("symphony_cancel_move", args=(move,))

    def ended(self) -> Sequence[Moved]:
        now = time.monotonic()
        if now - self._last_poll_s < POLL_S:
            return ()
        self._last_poll_s = now
        out = []
        for moved in (m for reports in self._rpc("symphony_moved") for m in reports):
            reports = self._reports[moved.move]
            reports.append(moved)
            if len(reports) == self._num_workers:
                del self._reports[moved.move]
                out.append(next((m for m in reports if m.error is not None), moved))
        if not self._reports:
            self._busy.clear()
        return out

    def _ring(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(POLL_S)
            self._wake()


class NoMover:
    """For an engine whose files keep no pages."""

    page_bytes = 0
    limits = TierLimits()

    def begin(self, orders: Orders) -> None:
        raise AssertionError(f"nothing can be moved: {orders}")

    def cancel(self, move: int) -> None:
        """There is none."""

    def ended(self) -> Sequence[Moved]:
        return ()
