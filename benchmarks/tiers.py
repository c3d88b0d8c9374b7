"""What the tiers move (benchmarks/tiers.py): demote, restore, read back from disk, and what neighbours notice of it.

device --advise dontneed--> host, disk --advise willneed--> device      bytes/s against a plain copy, a plain write and read
sync, device and host emptied, page cache dropped --> cold restore      against reading the same bytes raw, and against a prefill
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.programs import source
from benchmarks.report import Report
from benchmarks.rig import Rig, say
from benchmarks.stats import median, paired, spread
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import OpenFlags, pack_tokens

if TYPE_CHECKING:
    from benchmarks.session import Session

NEIGHBOURS = 8
MOVED_BYTES = 1 << 30


class KeptFile:
    """A computed file in a directory that keeps pages."""

    def __init__(self, rig: Rig, tokens: list[int]) -> None:
        self.path = "/kept/long"
        self.tokens = tokens
        self._session = session = rig.session
        session.call("mkdir", calls.Mkdir("/kept"))
        session.call("chattr", calls.Chattr(path="/kept", durable="pages"))
        opened = session.call("open", calls.Open(self.path, pack_tokens(tokens), int(OpenFlags.RDWR | OpenFlags.CREAT)))
        self.fd, self.ino = int(opened.fd), opened.ino
        session.call("forward", calls.Forward(self.fd, top_k=1, keep="none"))

    def remove(self) -> None:
        self._session.remove(self.path, self.fd)
        self._session.call("rmdir", calls.PathArgs("/kept"))


def measure_tiers(rig: Rig, report: Report, file: KeptFile, prefill_s: float, is_quick: bool) -> None:
    """Adds rows and figures. `prefill_s`: what plain vLLM takes to compute the file."""
    num_bytes = rig.host.residency(file.ino).device_pages * rig.host.model.page_bytes
    repeats = 3 if is_quick else 9
    _swap(rig, report, file.fd, "host", num_bytes, repeats)
    _swap(rig, report, file.fd, "disk", num_bytes, repeats)
    _cold(rig, report, file.fd, num_bytes, prefill_s, repeats)
    _neighbours(rig, report, file.fd, num_bytes, is_quick)


def _swap(rig: Rig, report: Report, fd: int, tier: str, num_bytes: int, repeats: int) -> None:
    """There and back, against the plain thing."""
    say(f"{num_bytes / 1e6:.0f} MB to {tier} and back")
    session = rig.session
    data = np.ones(num_bytes, np.uint8)
    other = np.zeros_like(data)
    path = rig.pages / "plain"

    def ours() -> float:
        demote(session, fd, tier)
        began = time.perf_counter()
        promote(session, fd)
        back = time.perf_counter() - began
        rig.forget_copies(fd)
        began = time.perf_counter()
        demote(session, fd, tier)
        there = time.perf_counter() - began
        promote(session, fd)
        return 2 * num_bytes / (there + back)

    def plain_copy() -> float:
        began = time.perf_counter()
        np.copyto(other, data)
        np.copyto(data, other)
        return 2 * num_bytes / (time.perf_counter() - began)

    def plain_file() -> float:
        began = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            file.write(data.data)
            os.fsync(file.fileno())
        with path.open("rb", buffering=0) as file:
            file.readinto(other.data)
        took = time.perf_counter() - began
        path.unlink()
        return 2 * num_bytes / took

    pairs = paired(ours, plain_copy if tier == "host" else plain_file, repeats)
    report.figures[f"swap_{tier}_share"] = pairs.ratio
    report.samples[f"swap_{tier}_bytes_s"], report.baseline_samples[f"swap_{tier}_bytes_s"] = pairs.a, pairs.b
    rate, plain = median(pairs.a) / 1e9, median(pairs.b) / 1e9
    report.compare(f"{num_bytes / 1e6:.0f} MB to {tier} and back", "GB/s", rate, plain, pairs.ratio, spread(pairs.a))


def _cold(rig: Rig, report: Report, fd: int, num_bytes: int, prefill_s: float, repeats: int) -> None:
    """From disk with nothing of it in memory, checksums and all, against reading the same bytes."""
    say("cold restore")
    session = rig.session
    buffer = bytearray(num_bytes)

    def drop_cache() -> list[Path]:
        segments = sorted(rig.pages.glob("*.seg"))
        for segment in segments:
            with segment.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return segments

    def restore() -> float:
        demote(session, fd, "disk")
        drop_cache()
        began = time.perf_counter()
        promote(session, fd)
        return time.perf_counter() - began

    def raw() -> float:
        segments = drop_cache()
        left = memoryview(buffer)
        began = time.perf_counter()
        for segment in segments:
            with suppress(FileNotFoundError), segment.open("rb", buffering=0) as file:
                while left and (got := file.readinto(left)):
                    left = left[got:]
        return time.perf_counter() - began

    session.call("sync", calls.Sync(fd))
    pairs = paired(restore, raw, repeats)
    report.figures["restore_over_raw_read"] = pairs.ratio
    report.figures["restore_speedup"] = prefill_s / median(pairs.a)
    report.samples["restore_s"], report.baseline_samples["restore_s"] = pairs.a, pairs.b
    ms, raw_ms = median(pairs.a) * 1e3, median(pairs.b) * 1e3
    report.compare("cold restore, against a raw read", "ms", ms, raw_ms, pairs.ratio, spread(pairs.a))
    report.compare("cold restore, against a prefill", "ms", ms, prefill_s * 1e3, ms / prefill_s / 1e3)


def _neighbours(rig: Rig, report: Report, fd: int, num_bytes: int, is_quick: bool) -> None:
    """The rate at which programs decode, while pages move beside them and while not."""
    say(f"{NEIGHBOURS} neighbours while {MOVED_BYTES / 1e9:.1f} GB move")
    session = rig.session
    children = [session.spawn(source("stream"), f"neighbour-{i}", prompt=rig.prompt(64)) for i in range(NEIGHBOURS)]

    def tokens() -> float:
        return rig.counters()["rows"]

    def quiet() -> float:
        began, before = time.monotonic(), tokens()
        time.sleep(1.0 if is_quick else 3.0)
        return (tokens() - before) / (time.monotonic() - began)

    def moving() -> float:
        began, before, moved = time.monotonic(), tokens(), 0
        while moved < (MOVED_BYTES >> 2 if is_quick else MOVED_BYTES):
            demote(session, fd, "host")
            promote(session, fd)
            moved += 2 * num_bytes
        return (tokens() - before) / (time.monotonic() - began)

    session.pump(lambda: all(c.emitted for c in children))
    pairs = paired(moving, quiet, 2 if is_quick else 5)
    session.kill(*children)
    report.figures["swap_neighbour_ratio"] = pairs.ratio
    report.samples["neighbour_rows_s"], report.baseline_samples["neighbour_rows_s"] = pairs.a, pairs.b
    what = f"{NEIGHBOURS} neighbours while {MOVED_BYTES / 1e9:.1f} GB move"
    report.compare(what, "tokens/s", median(pairs.a), median(pairs.b), pairs.ratio, spread(pairs.b))


def demote(session: Session, fd: int, tier: str) -> None:
    session.call("advise", calls.Advise(fd, advice="dontneed", tier=tier, wait=True))


def promote(session: Session, fd: int) -> None:
    session.call("advise", calls.Advise(fd, advice="willneed", wait=True))
