"""The store's host: StoreEffects in, completions out (engine/storage.py).

    kernel --StoreWrite--> Pending --one transaction for all that waits--> database        (nobody waits)
           --StoreSync---> ... the same transaction, synced --> StoreDone    (or why not; the records stay and are tried again)
           --StoreFind, Check, Gc, Export, Import --> index, segments, spool --> answer

`StorageCore` does it at once, on the thread that calls it: tests and machines that leap use it alone. `Storage` (the `Store` of
kernel/effect.py) gives it a thread, so that no disk is ever waited for by the kernel: the thread takes all that was submitted
meanwhile as one batch. Without a state directory records are not kept, and only the index works.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from vllm_symphony.abi.record import NodeRecord, Restored, SavedPage
from vllm_symphony.abi.types import Finding, Ino
from vllm_symphony.errors import DataCorrupt, InvalidArgument, NotSupported, SymphonyError
from vllm_symphony.kernel.effect import (
    CheckDone,
    Completion,
    FindDone,
    ImportDone,
    JobFailed,
    SpoolDone,
    StoreCheck,
    StoreDone,
    StoreEffect,
    StoreExport,
    StoreFind,
    StoreGc,
    StoreImport,
    StoreSync,
    StoreWrite,
)  # fmt: skip
from vllm_symphony.store import export
from vllm_symphony.store.database import Database
from vllm_symphony.store.pending import Pending
from vllm_symphony.store.search import SearchIndex
from vllm_symphony.store.segment import SPILL, SUFFIX, publish, verify
from vllm_symphony.store.state import StateDirectory

RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0)  # after failed writes, the last one for ever
SPOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(\.kv)?")

log = logging.getLogger(__name__)


def _size_of(node: NodeRecord) -> int:
    """Bytes of its tokens and attributes."""
    return len(node.tokens) + sum(len(name) + len(value) for name, value in node.xattrs.items())


def plain_text(tokens: list[int]) -> str:
    """Without a tokenizer: the ids as words."""
    return " ".join(map(str, tokens))


class StorageCore:
    """The store's state. Call it from one thread at a time."""

    def __init__(
        self,
        directory: StateDirectory | None,
        *,
        fingerprint: str = "",
        page_bytes: int = 0,
        decode: Callable[[list[int]], str] = plain_text,
        high_water: float = 1.0,
    ) -> None:
        """`fingerprint`, `page_bytes`: of the pages that this server can use. `high_water`: part of the disk above which pages are
        given up.

        Raises: NotSupported, DataCorrupt, OutOfPages, ReadOnly: the database cannot be used.
        """
        self.directory = directory
        self.fingerprint, self._page_bytes = fingerprint, page_bytes
        self._high_water = high_water
        self._key = directory.key() if directory is not None else b""
        self._database = Database(directory.database) if directory is not None else None
        self._index = SearchIndex(directory.index if directory is not None else None, decode)
        self._pending = Pending()
        self._imported: set[str] = set()  # segments that no record refers to yet
        self._names = (f"i{time.time_ns():x}-{n}" for n in count())
        self.failure: SymphonyError | None = None  # why records wait
        self.num_syncs = self.num_failed = self.num_writes = self.num_bytes = 0
        self.write_s = 0.0

    @property
    def has_pending(self) -> bool:
        """Some records are not written yet."""
        return bool(self._pending)

    def load(self) -> Restored:
        """What there is, once. Segments that nothing refers to are removed."""
        if self._database is None:
            return Restored()
        restored = self._database.load()
        self._remove(self._orphans())
        known = {node.ino for node in restored.nodes}
        indexed = dict(self._index.indexed())
        self._index.forget([ino for ino in indexed if ino not in known])
        return replace(restored, indexed={i: t for i, t in indexed.items() if i in known})

    def apply(self, effects: Sequence[StoreEffect]) -> list[Completion]:
        """Carry out a batch: all writes first, as one transaction, then the rest in order. Failed writes stay pending."""
        syncs = [e for e in effects if isinstance(e, StoreSync)]
        for e in effects:
            if isinstance(e, StoreWrite):
                self._take(e)
        out: list[Completion] = list(self._commit(syncs))
        for e in effects:
            if isinstance(e, StoreWrite | StoreSync):
                continue
            try:
                out.append(self._answer(e))
            except SymphonyError as error:
                out.append(JobFailed(e.job, error))
        return out

    def retry(self) -> None:
        """Try again to write what waits; harmless when nothing does."""
        self._commit([])

    def close(self) -> None:
        """Write what waits, synced, and close all. Idempotent."""
        if self._pending:
            self._commit([], sync=True)
        if self._pending:
            log.error("%d records could not be written: %s", len(self._pending.nodes), self.failure)
        self.abandon()

    def abandon(self) -> None:
        """Close all, and leave what waits unwritten. Idempotent."""
        self._pending.clear()
        if self._database is not None:
            self._database.close()
            self._database = None
        self._index.close()
        if self.directory is not None:
            self.directory.close()

    def counters(self) -> dict[str, float]:
        """For `info`. `waiting`: nodes that could not be written yet."""
        return {
            "waiting": len(self._pending.nodes) + len(self._pending.removed),
            "syncs": self.num_syncs,
            "failed_writes": self.num_failed,
            "writes": self.num_writes,
            "bytes": self.num_bytes,
            "write_s": self.write_s,
        }

    # ---- records

    def _take(self, e: StoreWrite) -> None:
        try:
            self._index.forget(e.removed)
        except SymphonyError as error:  # found by no search all the same: it is no candidate any more
            log.warning("the search index keeps %d removed files: %s", len(e.removed), error)
        if self._database is not None:
            self._pending.add(e.nodes, e.removed, e.quotas, e.counters)
            self._pending.add_principals(e.principals)
            self._pending.add_programs(e.programs, e.uninstalled)
            self._pending.add_settings(e.weights, e.policies)

    def _commit(self, syncs: Sequence[StoreSync], sync: bool = False) -> list[Completion]:
        database = self._database
        if database is None:
            return [JobFailed(e.job, NotSupported("the server has no state directory: nothing is kept")) for e in syncs]
        if not (self._pending or syncs):
            return []
        began = time.monotonic()
        try:
            named = {page.segment for node in self._pending.nodes.values() for page in node.pages or ()}
            self._publish(named)
            unused = database.write(self._pending, sync=sync or bool(syncs))
        except SymphonyError as error:
            self._report(error)
            return [JobFailed(e.job, error) for e in syncs]
        self.num_writes += 1
        self.num_bytes += sum(map(_size_of, self._pending.nodes.values()))
        self.write_s += time.monotonic() - began
        self._pending.clear()
        self._imported -= named
        if self.failure is not None:
            log.warning("the store can be written again")
            self.failure = None
        self.num_syncs += len(syncs)
        self._remove(unused)
        return [StoreDone(e.job, self._excess_bytes()) for e in syncs]

    def _publish(self, segments: Iterable[str]) -> None:
        """Segments that records are about to refer to. One that its last file has left meanwhile was removed here; the device still
        has it under its own name."""
        assert self.directory is not None
        folder = self.directory.pages
        for name in segments:
            if not (folder / name).exists() and (folder / (SPILL + name)).exists():
                publish(folder, SPILL + name)

    def _report(self, error: SymphonyError) -> None:
        self.num_failed += 1
        if self.failure is None or self.failure.message != error.message:
            log.error("the store cannot be written, %d records wait: %s", len(self._pending.nodes), error)
        self.failure = error

    # ---- the rest

    def _answer(self, e: StoreFind | StoreCheck | StoreGc | StoreExport | StoreImport) -> Completion:
        if isinstance(e, StoreFind):
            self._index.put(e.changed)
            return FindDone(e.job, *self._index.find(e.query, e.candidates, e.limit))
        directory = self.directory
        if directory is None or self._database is None:
            raise NotSupported("the server has no state directory: nothing is kept")
        if isinstance(e, StoreCheck):
            return self._check(e, directory)
        if isinstance(e, StoreGc):
            orphans = self._orphans()
            sizes = {name: self._size(directory.pages / name) for name in orphans}
            if not e.dry_run:
                self._remove(orphans)
            return CheckDone(
                e.job, tuple(Finding("orphan", "", 0, size, name) for name, size in sizes.items()), 0, self._excess_bytes()
            )
        if isinstance(e, StoreExport):
            name = f"{next(self._names)}.kv"
            self._publish(page.segment for page in e.node.pages or ())
            return SpoolDone(e.job, name, export.pack(e.node, directory.pages, directory.spool, name, self._key))
        return self._import(e, directory)

    def _check(self, e: StoreCheck, directory: StateDirectory) -> CheckDone:
        findings: list[Finding] = []
        wrong: dict[str, dict[int, str]] = {}
        num_pages = 0
        for ino, pages in e.pages:
            bad: dict[str, str] = {}
            for page in pages:
                num_pages += 1
                if page.segment not in wrong:
                    path = directory.pages / page.segment
                    wrong[page.segment] = verify(path) if path.exists() else {-1: "missing"}
                problems = wrong[page.segment]
                why = problems.get(-1) or problems.get(page.slot)
                if why is not None:
                    bad[page.segment] = why
            findings += [self._finding(ino, segment, why, pages) for segment, why in bad.items()]
        for segment, problems in wrong.items():
            path = directory.pages / segment
            if problems and path.exists():
                path.rename(directory.quarantine / segment)
                log.error("segment %s is damaged and was put aside: %s", segment, next(iter(problems.values())))
        return CheckDone(e.job, tuple(findings), num_pages)

    def _finding(self, ino: Ino, segment: str, why: str, pages: Sequence[SavedPage]) -> Finding:
        num_bytes = self._page_bytes * sum(page.segment == segment for page in pages)
        return Finding("missing" if why == "missing" else "corrupt", "", ino, num_bytes, f"segment {segment}: {why}")

    def _import(self, e: StoreImport, directory: StateDirectory) -> ImportDone:
        if not SPOOL_NAME.fullmatch(e.spool):
            raise InvalidArgument(f"no name of a spool file: {e.spool!r}", spool=e.spool)
        path = directory.spool / e.spool
        packed = export.unpack(path, self._key)
        trusted = packed.signed or e.trust
        usable = trusted and packed.node.fingerprint == self.fingerprint and packed.page_bytes == self._page_bytes
        node = packed.node if trusted else replace(packed.node, recipe=b"")  # one that was made up may say anything
        if usable and packed.page_tokens:
            node = export.take_pages(path, packed, directory.pages, (name + SUFFIX for name in self._names))
            self._imported.update(page.segment for page in node.pages or ())
        path.unlink(missing_ok=True)
        return ImportDone(e.job, node, usable and bool(packed.page_tokens))

    # ---- segments

    def _orphans(self) -> list[str]:
        """Segments that no record knows. (The device has names of its own, store/segment.py.)"""
        assert self.directory is not None and self._database is not None
        used = self._database.segments()
        used |= self._imported
        used.update(page.segment for node in self._pending.nodes.values() for page in node.pages or ())
        names = (path.name for path in self.directory.pages.iterdir() if path.name.endswith(SUFFIX))
        return sorted(name for name in names if name not in used and not name.startswith(SPILL))

    def _remove(self, names: Iterable[str]) -> None:
        assert self.directory is not None
        for name in names:
            try:
                (self.directory.pages / name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot remove segment %s: %s", name, error.strerror)

    def _excess_bytes(self) -> int:
        """What is on the disk beyond its high-water mark, whoever's it is."""
        assert self.directory is not None
        disk = os.statvfs(self.directory.path)
        return max(0, int((disk.f_blocks * (1 - self._high_water) - disk.f_bavail) * disk.f_frsize))

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0


class Storage:
    """A `Store` (kernel/effect.py): the core on a thread of its own."""

    def __init__(self, core: StorageCore) -> None:
        self.core = core
        self._changed = threading.Condition()
        self._mail: list[StoreEffect] = []
        self._stopping = False
        self._on_completions: Callable[[Sequence[Completion]], None] = lambda _: None
        self._thread: threading.Thread | None = None

    @property
    def is_lasting(self) -> bool:
        """It outlives the server."""
        return self.core.directory is not None

    def load(self) -> Restored:
        return self.core.load()

    def start(self, on_completions: Callable[[Sequence[Completion]], None]) -> None:
        self._on_completions = on_completions
        self._thread = threading.Thread(target=self._run, name="symphony-store", daemon=True)
        self._thread.start()

    def submit(self, effects: Sequence[StoreEffect]) -> None:
        with self._changed:
            self._mail += effects
            self._changed.notify()

    def reweighted(self, fingerprint: str) -> None:
        """Pages of this model can be used from now on, and no others."""
        self.core.fingerprint = fingerprint

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        else:
            self.core.apply(self._mail)
            self.core.close()

    def counters(self) -> dict[str, float]:
        return self.core.counters()

    def _apply(self, batch: Sequence[StoreEffect]) -> Sequence[Completion]:
        """The thread's boundary: whoever waits hears of a mistake of ours too."""
        try:
            return self.core.apply(batch)
        except Exception as error:
            log.exception("the store failed")
            broken = DataCorrupt(f"the store failed: {type(error).__name__}: {error}")
            return [JobFailed(e.job, broken) for e in batch if not isinstance(e, StoreWrite)]

    def _run(self) -> None:
        tries = 0
        try:
            while True:
                with self._changed:
                    wait_s = RETRY_S[min(tries, len(RETRY_S)) - 1] if tries else None
                    self._changed.wait_for(lambda: self._mail or self._stopping, wait_s)
                    batch, self._mail = self._mail, []
                    if self._stopping and not batch:
                        return
                if batch:
                    done = self._apply(batch)
                    if done:
                        self._on_completions(done)
                else:
                    self.core.retry()
                tries = tries + 1 if self.core.has_pending else 0
        finally:
            self.core.close()
