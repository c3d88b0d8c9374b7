"""The store's host: what fails is told to who waits, and nothing is lost."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.unit.store.records import ROOT, file, page
from vllm_symphony.abi.record import NodeRecord
from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.storage import Storage, StorageCore
from vllm_symphony.errors import DataCorrupt, InvalidArgument, NotSupported, OutOfPages, ReadOnly
from vllm_symphony.kernel.effect import (
    CheckDone,
    FindDone,
    ImportDone,
    JobFailed,
    SpoolDone,
    StoreCheck,
    StoreDone,
    StoreExport,
    StoreFind,
    StoreGc,
    StoreImport,
    StoreSync,
    StoreWrite,
)  # fmt: skip
from vllm_symphony.store.segment import SPILL, write_segment
from vllm_symphony.store.state import StateDirectory

JOB = JobId(1)


def opened(path: Path) -> StorageCore:
    return StorageCore(StateDirectory(path), fingerprint="f00d", page_bytes=100)


@pytest.fixture
def core(tmp_path: Path):
    core = opened(tmp_path / "fs")
    core.apply([StoreWrite((ROOT,))])
    yield core
    core.close()


def segment(core: StorageCore, name: str, num_pages: int = 2) -> Path:
    assert core.directory is not None
    write_segment(core.directory.pages, name, "f00d", [(bytes([i]) * 100, 16) for i in range(num_pages)])
    return core.directory.pages / name


def saved(ino: int, name: str, *segments: str) -> NodeRecord:
    return file(ino, name, list(range(32)), pages=tuple(page(s, slot) for s in segments for slot in (0, 1)), fingerprint="f00d")


def inos(core: StorageCore) -> list[int]:
    assert core._database is not None
    return [node.ino for node in core._database.load().nodes]


def full(core: StorageCore, yes: bool) -> None:
    """Let the disk be full, or have room again."""
    assert core._database is not None
    db = core._database._db
    db.execute(f"PRAGMA max_page_count = {db.execute('PRAGMA page_count').fetchone()[0] if yes else 1 << 30}")


def test_writes_of_a_batch_are_one_transaction_and_syncs_hear_of_it(core: StorageCore):
    out = core.apply(
        [StoreWrite((file(5, "a", [1]),)), StoreSync(JobId(7)), StoreWrite((file(5, "a", [1, 2], kept=1),)), StoreSync(JOB)]
    )

    assert [done.job for done in out] == [7, 1] and all(isinstance(done, StoreDone) for done in out)
    assert core.counters().items() >= {"waiting": 0, "syncs": 2, "failed_writes": 0}.items()


def test_what_a_full_disk_refused_is_told_kept_and_written_later(core: StorageCore, caplog: pytest.LogCaptureFixture):
    full(core, True)
    with caplog.at_level(logging.WARNING):
        (failed,) = core.apply([StoreWrite((file(5, "a", list(range(50_000))),)), StoreSync(JOB)])
        core.apply([StoreWrite((file(5, "b", list(range(50_001)), kept=50_000),))])

    assert isinstance(failed, JobFailed) and isinstance(failed.error, OutOfPages)
    assert core.has_pending and core.counters()["waiting"] == 1 and inos(core) == [1]
    assert sum("cannot be written" in record.message for record in caplog.records) == 1, "once, not with each try"

    full(core, False)
    with caplog.at_level(logging.WARNING):
        core.retry()

    assert not core.has_pending and inos(core) == [1, 5]
    assert "can be written again" in caplog.text
    assert core._database is not None
    assert core._database.load().nodes[1].length == 50_001


def test_a_read_only_directory_is_told_to_who_syncs(core: StorageCore):
    assert core._database is not None
    core._database._db.execute("PRAGMA query_only = ON")

    (failed,) = core.apply([StoreWrite((file(5, "a", [1]),)), StoreSync(JOB)])

    assert isinstance(failed, JobFailed) and isinstance(failed.error, ReadOnly)
    core._database._db.execute("PRAGMA query_only = OFF")
    assert core.apply([StoreSync(JOB)]) == [StoreDone(JOB)] and inos(core) == [1, 5]


def test_another_process_that_writes_the_database_is_waited_for_and_named(core: StorageCore):
    assert core.directory is not None
    other = sqlite3.connect(core.directory.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    (failed,) = core.apply([StoreSync(JOB)])

    assert isinstance(failed, JobFailed) and failed.error.reason == "EAGAIN" and "somebody else" in failed.error.message
    other.execute("ROLLBACK")
    other.close()
    assert core.apply([StoreSync(JOB)]) == [StoreDone(JOB)]


def test_the_last_file_that_leaves_a_segment_removes_it(core: StorageCore):
    path = segment(core, "a.seg")
    core.apply([StoreWrite((saved(5, "a", "a.seg"), saved(6, "b", "a.seg")))])

    core.apply([StoreWrite(removed=(Ino(5),))])
    assert path.exists()
    core.apply([StoreWrite(removed=(Ino(6),))])
    assert not path.exists()


def test_a_segment_that_was_removed_while_another_file_was_saved_comes_back_by_the_devices_name(core: StorageCore):
    path = segment(core, "a.seg")
    path.with_name(SPILL + "a.seg").hardlink_to(path)
    core.apply([StoreWrite((saved(5, "a", "a.seg"),))])

    core.apply([StoreWrite(removed=(Ino(5),))])
    assert not path.exists()
    core.apply([StoreWrite((saved(6, "b", "a.seg"),)), StoreSync(JOB)])

    assert path.exists()


def test_segments_that_nobody_refers_to_are_gone_after_a_start_and_a_gc(core: StorageCore):
    path, kept = segment(core, "a.seg"), segment(core, "b.seg")
    core.apply([StoreWrite((saved(5, "a", "b.seg"),))])

    (found,) = core.apply([StoreGc(JOB, dry_run=True)])
    assert isinstance(found, CheckDone) and [f.detail for f in found.findings] == ["a.seg"] and path.exists()
    (done,) = core.apply([StoreGc(JOB, dry_run=False)])

    assert isinstance(done, CheckDone) and done.findings == found.findings and done.findings[0].num_bytes > 200
    assert not path.exists() and kept.exists()
    segment(core, "c.seg")
    core.load()
    assert sorted(p.name for p in path.parent.iterdir()) == ["b.seg"]


def test_a_flipped_bit_is_found_and_its_segment_put_aside(core: StorageCore):
    path, sound = segment(core, "a.seg"), segment(core, "b.seg")
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)
    pages = ((Ino(5), (page("a.seg", 0), page("a.seg", 1))), (Ino(6), (page("b.seg", 0),)), (Ino(7), (page("c.seg", 0),)))

    (done,) = core.apply([StoreCheck(JOB, pages)])

    assert isinstance(done, CheckDone) and done.num_pages == 4
    assert [(f.ino, f.kind) for f in done.findings] == [(5, "corrupt"), (7, "missing")]
    assert "a.seg" in done.findings[0].detail and "checksum" in done.findings[0].detail
    assert not path.exists() and sound.exists() and core.directory is not None
    assert [p.name for p in core.directory.quarantine.iterdir()] == ["a.seg"]


def test_a_file_goes_out_and_comes_in_with_its_pages(core: StorageCore):
    segment(core, "a.seg")
    node = saved(5, "a", "a.seg")
    core.apply([StoreWrite((node,))])

    (packed,) = core.apply([StoreExport(JOB, node)])
    assert isinstance(packed, SpoolDone)
    (done,) = core.apply([StoreImport(JOB, packed.spool, trust=False)])

    assert isinstance(done, ImportDone) and done.trusted and done.node.tokens == node.tokens
    assert done.node.pages is not None and core.directory is not None
    (new,) = {p.segment for p in done.node.pages}
    core.apply([StoreSync(JOB), StoreGc(JOB, dry_run=False)])
    assert (core.directory.pages / new).exists(), "until a record refers to it"
    assert not list(core.directory.spool.iterdir())


@pytest.mark.parametrize(("trust", "taken"), [(False, False), (True, True)])
def test_pages_that_another_server_signed_are_taken_only_on_trust(core: StorageCore, tmp_path: Path, trust: bool, taken: bool):
    other = opened(tmp_path / "other")
    segment(other, "a.seg")
    (packed,) = other.apply([StoreExport(JOB, saved(5, "a", "a.seg"))])
    assert isinstance(packed, SpoolDone) and other.directory is not None and core.directory is not None
    (core.directory.spool / "x.kv").write_bytes((other.directory.spool / packed.spool).read_bytes())
    other.close()

    (done,) = core.apply([StoreImport(JOB, "x.kv", trust)])

    assert isinstance(done, ImportDone) and done.trusted is taken and bool(done.node.pages) is taken
    assert done.node.length == 32


def test_a_recipe_that_is_not_trusted_is_left_out(core: StorageCore, tmp_path: Path):
    other = opened(tmp_path / "other")
    (packed,) = other.apply([StoreExport(JOB, file(5, "a", [1], fidelity="pruned", recipe=b"make it so"))])
    assert isinstance(packed, SpoolDone) and other.directory is not None and core.directory is not None
    (core.directory.spool / "x.kv").write_bytes((other.directory.spool / packed.spool).read_bytes())
    other.close()

    (done,) = core.apply([StoreImport(JOB, "x.kv", False)])

    assert isinstance(done, ImportDone) and done.node.recipe == b"" and done.node.fidelity == "pruned"


@pytest.mark.parametrize("name", ["../store.db", "/etc/passwd", "", ".", "a/b", "x" * 80])
def test_a_spool_name_leads_nowhere_else(core: StorageCore, name: str):
    (failed,) = core.apply([StoreImport(JOB, name, True)])

    assert isinstance(failed, JobFailed) and isinstance(failed.error, InvalidArgument)


def test_in_memory_only_the_index_works():
    core = StorageCore(None)

    out = core.apply([
        StoreWrite((ROOT,)), StoreSync(JOB), StoreGc(JOB, True), StoreFind(JOB, "7", (Ino(5), Ino(6)), ((Ino(5), 1, [7, 8]),), 10)
    ])  # fmt: skip

    assert [type(done) for done in out] == [JobFailed, JobFailed, FindDone]
    assert all(isinstance(done.error, NotSupported) for done in out[:2] if isinstance(done, JobFailed))
    assert out[2] == FindDone(JOB, ((Ino(5), "[7] 8"),), 1) and core.load().nodes == ()
    core.close()


class Heard:
    """Completions, from the store's thread."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._more = threading.Condition()

    def __call__(self, completions: Any) -> None:
        with self._more:
            self.all += completions
            self._more.notify_all()

    def wait_for(self, number: int) -> list[Any]:
        with self._more:
            assert self._more.wait_for(lambda: len(self.all) >= number, 60)
            return self.all


def test_the_thread_answers_in_order_and_writes_all_before_it_ends(tmp_path: Path):
    storage, heard = Storage(opened(tmp_path / "fs")), Heard()
    storage.submit([StoreWrite((ROOT,))])
    storage.start(heard)
    for i in range(20):
        storage.submit([StoreWrite((file(5 + i, f"f{i}", [i]),)), StoreSync(JobId(i + 1))])
    heard.wait_for(20)
    storage.submit([StoreWrite((file(99, "last", [1]),))])

    storage.stop()
    storage.stop()

    assert [done.job for done in heard.all] == list(range(1, 21))
    again = opened(tmp_path / "fs")
    assert len(again.load().nodes) == 22
    again.close()


def test_the_thread_tries_again_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vllm_symphony.engine.storage.RETRY_S", (0.01,))
    core, heard = opened(tmp_path / "fs"), Heard()
    storage = Storage(core)
    full(core, True)
    storage.start(heard)
    storage.submit([StoreWrite((ROOT, file(5, "a", list(range(50_000))))), StoreSync(JOB)])
    assert isinstance(heard.wait_for(1)[0], JobFailed)
    written = threading.Event()
    real = core._report
    monkeypatch.setattr(core, "_report", lambda error: (real(error), full(core, False), written.set()))

    assert written.wait(30)
    storage.submit([StoreSync(JOB)])

    assert heard.wait_for(2)[1] == StoreDone(JOB)
    storage.stop()


def test_a_mistake_of_ours_is_told_to_who_waits_and_the_thread_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    core, heard = opened(tmp_path / "fs"), Heard()
    storage = Storage(core)
    storage.start(heard)
    with monkeypatch.context() as patch:
        patch.setattr(core, "apply", lambda batch: 1 / 0)
        storage.submit([StoreWrite((ROOT,)), StoreSync(JOB)])
        failed = heard.wait_for(1)[0]
    storage.submit([StoreSync(JobId(2))])

    assert isinstance(failed, JobFailed) and isinstance(failed.error, DataCorrupt) and "ZeroDivisionError" in failed.error.message
    assert heard.wait_for(2)[1] == StoreDone(JobId(2))
    storage.stop()
