"""What a host counts beside its kernel: engine, tiers, store, fork servers (engine/meter.py).

    engine thread   EngineMeter: steps, rows, waits, moves            numbers and histograms, added to in the step
    reactor thread  host_samples: reads them with `counters`, `capacity`, what the store and the fork servers say

Reads are of whole numbers and of copies, which the interpreter's lock keeps whole: nothing waits for a step, and a figure may be a
step old.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vllm_symphony import __version__
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, MetricSample
from vllm_symphony.trace import metrics
from vllm_symphony.trace.metric import Counts, Histogram, Metric

if TYPE_CHECKING:
    from vllm_symphony.engine.move import Move
    from vllm_symphony.engine.page_table import PagedFile
    from vllm_symphony.engine.programs import Programs
    from vllm_symphony.kernel.effect import Capacity, Device, Store

MAX_LOOKED_AT = 20_000  # files whose tiers are looked up for one scrape: some milliseconds; of more, a part is looked at
_COUNTERS: Mapping[Metric, str] = {
    metrics.EVICTED: "evicted", metrics.PARKED: "parked", metrics.PREEMPTED: "preempted", metrics.YIELDED: "yielded",
    metrics.OUT_OF_ROOM: "out_of_room", metrics.COHORT_WAITS: "waits", metrics.COHORT_SECONDS: "waited_s",
    metrics.STEPS: "engine_steps", metrics.FOUND_TOKENS: "found_tokens", metrics.ROWS_KEPT: "rows_kept", metrics.MOVES: "moves",
    metrics.RESTORE_ERRORS: "pages_corrupt", metrics.FETCHED: "fetched_files",
}  # fmt: skip
_JOBS = {"running": "running", "parked": "parked_now", "waiting": "held_now"}
_STORE = {
    metrics.STORE_SECONDS: "write_s", metrics.STORE_BYTES: "bytes", metrics.STORE_SYNCS: "syncs", metrics.STORE_WAITING: "waiting",
}  # fmt: skip


class EngineMeter:
    """Counts of one engine since it started. Written by the thread that steps."""

    def __init__(self) -> None:
        self.step_seconds = Histogram(metrics.STEP_SECONDS)
        self.queue_seconds = Histogram(metrics.QUEUE_SECONDS)
        self.rows = Counts(metrics.ROWS)
        self.tokens = Counts(metrics.STEP_TOKENS)
        self.moved_pages = Counts(metrics.MOVED_PAGES)
        self.moved_bytes = Counts(metrics.MOVED_BYTES)
        self.move_seconds = Counts(metrics.MOVE_SECONDS)

    def count(self, kind: str, num_rows: int, num_tokens: int) -> None:
        """Rows and tokens of a step."""
        if num_rows:
            self.rows.add(kind, by=num_rows)
            self.tokens.add(kind, by=num_tokens)

    def served(self) -> dict[str, float]:
        """What each side has had of the steps."""
        sides = ("plain", "programs")
        rows = {f"rows_{side}": self.rows.get((side,), 0.0) for side in sides}
        return rows | {f"tokens_{side}": self.tokens.get((side,), 0.0) for side in sides}

    def moved(self, move: Move, page_bytes: int, seconds: float) -> None:
        """Pages have arrived."""
        way = "in" if move.goal == "device" else "out"
        self.moved_pages.add(way, by=move.num_moved)
        self.moved_bytes.add(way, by=move.num_moved * page_bytes)
        self.move_seconds.add(way, by=seconds)

    def samples(self) -> Iterator[MetricSample]:
        for part in (
            self.step_seconds,
            self.queue_seconds,
            self.rows,
            self.tokens,
            self.moved_pages,
            self.moved_bytes,
            self.move_seconds,
        ):
            yield from part.samples()


def engine_samples(
    meter: EngineMeter, counters: Mapping[str, float], capacity: Capacity, files: Iterable[PagedFile], page_bytes: int
) -> Iterator[MetricSample]:
    """All that a device knows of itself."""
    yield from meter.samples()
    for metric, name in _COUNTERS.items():
        yield metric.sample(counters.get(name, 0))
    for state, name in _JOBS.items():
        yield metrics.JOBS.sample(counters.get(name, 0), state)
    for quantity in metrics.QUANTITY:
        yield metrics.PREDICTED.sample(counters.get(f"predicted_{quantity}", 0), quantity)
        yield metrics.PREDICTION_OFF.sample(counters.get(f"prediction_off_{quantity}", 0), quantity)
    below = {"host": capacity.host_bytes, "disk": capacity.disk_bytes}
    used = {"host": capacity.host_bytes_used, "disk": capacity.disk_bytes_used}
    yield metrics.PAGES.sample(counters.get("pages_held", 0), "device")
    yield metrics.PAGES_TOTAL.sample(counters.get("pages_total", 0), "device")
    for tier in metrics.BELOW:
        yield metrics.PAGES.sample(counters.get(f"{tier}_pages", 0), tier)
        yield metrics.PAGES_TOTAL.sample(below[tier] // max(1, page_bytes), tier)
        yield metrics.TIER_BYTES.sample(used[tier], tier)
        yield metrics.TIER_CAPACITY.sample(below[tier], tier)
    yield from _files(files)


def _files(files: Iterable[PagedFile]) -> Iterator[MetricSample]:
    """How many files have pages on which tier."""
    found = dict.fromkeys(metrics.TIER, 0)
    for f in list(files)[:MAX_LOOKED_AT]:
        found["device"] += bool(f.blocks)
        copies = f.copies[:]
        found["host"] += any(c.slot is not None for c in copies)
        found["disk"] += any(c.saved is not None for c in copies)
    for tier, count in found.items():
        yield metrics.FILES.sample(count, tier)


def host_samples(device: Device, store: Store | None, programs: Programs) -> Iterator[MetricSample]:
    """All that a host knows. On the reactor's thread."""
    yield build()
    yield from device.samples()
    for runtime, is_ready in programs.readiness().items():
        yield metrics.POOL_READY.sample(is_ready, runtime)
    counters: Mapping[str, Any] = store.counters() if store is not None else {}
    for outcome, name in (("ok", "writes"), ("failed", "failed_writes")):
        yield metrics.STORE_WRITES.sample(counters.get(name, 0), outcome)
    for metric, name in _STORE.items():
        yield metric.sample(counters.get(name, 0))


def build() -> MetricSample:
    """The versions of what runs here, without importing what does not."""
    found = {"version": __version__, "abi": f"{ABI_MAJOR}.{ABI_MINOR}", "python": sys.version.split()[0]}
    for name in ("vllm", "torch"):
        if (module := sys.modules.get(name)) is not None:
            found[name] = str(getattr(module, "__version__", "?"))
    return metrics.BUILD.sample(1, *(found.get(label, "") for label in metrics.BUILD.labels))
