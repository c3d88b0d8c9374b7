"""Versions of the state directory: migrated after a backup, never downgraded."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.store.records import ROOT, file
from vllm_symphony.errors import DataCorrupt, NotSupported
from vllm_symphony.store import schema
from vllm_symphony.store.database import Database
from vllm_symphony.store.pending import Pending

NOW = schema.VERSION
VERSION_1 = """
CREATE TABLE schema (version INTEGER NOT NULL);
CREATE TABLE nodes (
    ino INTEGER PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL, grp TEXT NOT NULL, mode INTEGER NOT NULL,
    domain TEXT NOT NULL, created_ns INTEGER NOT NULL, modified_ns INTEGER NOT NULL, length INTEGER NOT NULL, runs TEXT NOT NULL,
    fidelity TEXT NOT NULL, recipe BLOB NOT NULL, expires_ns INTEGER, durable TEXT NOT NULL, ttl_s REAL NOT NULL,
    fingerprint TEXT NOT NULL);
CREATE TABLE names (
    dir INTEGER NOT NULL REFERENCES nodes DEFERRABLE INITIALLY DEFERRED, name TEXT NOT NULL,
    ino INTEGER NOT NULL REFERENCES nodes ON DELETE CASCADE, place INTEGER NOT NULL, PRIMARY KEY (dir, name)) WITHOUT ROWID;
CREATE INDEX names_of ON names (ino);
CREATE TABLE tokens (
    ino INTEGER NOT NULL REFERENCES nodes ON DELETE CASCADE, start INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (ino, start)) WITHOUT ROWID;
CREATE TABLE xattrs (
    ino INTEGER NOT NULL REFERENCES nodes ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (ino, name)) WITHOUT ROWID;
CREATE TABLE pages (
    ino INTEGER NOT NULL REFERENCES nodes ON DELETE CASCADE, page INTEGER NOT NULL, segment TEXT NOT NULL, slot INTEGER NOT NULL,
    num_tokens INTEGER NOT NULL, PRIMARY KEY (ino, page)) WITHOUT ROWID;
CREATE INDEX pages_in ON pages (segment);
CREATE TABLE quotas (
    principal TEXT PRIMARY KEY, device_pages INTEGER, host_bytes INTEGER, disk_bytes INTEGER, files INTEGER, rows INTEGER,
    pinned_pages INTEGER) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO schema VALUES (1);
INSERT INTO nodes VALUES (1, 'dir', 'root', 'root', 1023, '', 1, 1, 0, '[]', 'exact', x'', NULL, 'tokens', 0.0, '');
INSERT INTO nodes VALUES (5, 'file', 'ann', 'ann', 384, 'ann', 1, 1, 2, '[[0, 0]]', 'exact', x'', NULL, '', 0.0, '');
INSERT INTO names VALUES (1, 'f', 5, 0);
INSERT INTO tokens VALUES (5, 0, x'0100000002000000');
INSERT INTO quotas VALUES ('ann', NULL, NULL, NULL, 7, NULL, NULL);
"""  # as the server of that version made it; never changed


@pytest.fixture
def current(tmp_path: Path) -> Path:
    """A database of this version, with a file."""
    database, pending = Database(tmp_path / "store.db"), Pending()
    pending.add([ROOT, file(5, "f", [1, 2])])
    database.write(pending, sync=True)
    database.close()
    return tmp_path / "store.db"


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """A database of the first version, with a file and a quota."""
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
    return path


def shape(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name")
        return [" ".join(sql.split()) for (sql,) in rows]


def test_a_new_database_has_this_version(tmp_path: Path):
    Database(tmp_path / "store.db").close()

    with closing(sqlite3.connect(tmp_path / "store.db")) as db:
        assert schema.version_of(db, None) == schema.VERSION
    assert (tmp_path / "store.db").stat().st_mode & 0o777 == 0o600


def test_the_steps_lead_from_the_first_version_to_what_a_new_database_looks_like(version_1: Path, tmp_path: Path):
    before = shape(version_1)

    with closing(Database(version_1)) as database:
        restored = database.load()
        database.check()

    Database(tmp_path / "new.db").close()
    assert shape(version_1) == shape(tmp_path / "new.db") != before == shape(Path(f"{version_1}.v1"))
    assert [(node.ino, node.length) for node in restored.nodes] == [(1, 0), (5, 2)]
    assert [(quota.principal, quota.files) for quota in restored.quotas] == [("ann", 7)]
    assert restored.programs == restored.principals == ()


def test_an_older_version_is_backed_up_and_migrated_step_by_step(current: Path, monkeypatch: pytest.MonkeyPatch):
    steps = {NOW: "ALTER TABLE quotas ADD COLUMN notes TEXT;", NOW + 1: "UPDATE nodes SET owner = 'bob' WHERE owner = 'ann';"}
    monkeypatch.setattr(schema, "STEPS", steps)
    monkeypatch.setattr(schema, "VERSION", NOW + 2)
    before = shape(current)

    database = Database(current)

    assert [node.owner for node in database.load().nodes] == ["root", "bob"]
    database.close()
    assert shape(current) != before == shape(Path(f"{current}.v{NOW}"))
    with closing(sqlite3.connect(current)) as db, closing(sqlite3.connect(f"{current}.v{NOW}")) as backup:
        assert db.execute("SELECT version FROM schema").fetchall() == [(NOW + 2,)]
        assert backup.execute("SELECT version FROM schema").fetchall() == [(NOW,)]
        assert backup.execute("SELECT owner FROM nodes WHERE ino = 5").fetchall() == [("ann",)]
    assert Path(f"{current}.v{NOW}").stat().st_mode & 0o777 == 0o600


def test_a_migration_that_fails_leaves_the_old_version(current: Path, monkeypatch: pytest.MonkeyPatch):
    before = shape(current)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", {NOW: "ALTER TABLE quotas ADD COLUMN notes TEXT; UPDATE nowhere SET x = 1;"})
        patch.setattr(schema, "VERSION", NOW + 1)
        with pytest.raises(DataCorrupt, match="no such table: nowhere"):
            Database(current)

    assert shape(current) == before
    with closing(Database(current)) as database:
        assert len(database.load().nodes) == 2


def test_a_downgrade_is_refused_and_touches_nothing(current: Path):
    with closing(sqlite3.connect(current)) as db, db:
        db.execute(f"UPDATE schema SET version = {NOW + 6}")
    before = current.read_bytes()

    with pytest.raises(NotSupported, match=f"version {NOW + 6}, and this server knows versions up to {NOW}"):
        Database(current)

    assert current.read_bytes() == before


def test_a_version_without_a_step_is_too_old(current: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schema, "VERSION", NOW + 2)
    monkeypatch.setattr(schema, "STEPS", {NOW + 1: ""})

    with pytest.raises(NotSupported, match="too old"):
        Database(current)


def test_every_step_that_is_there_leads_to_the_next_version():
    assert sorted(schema.STEPS) == list(range(schema.VERSION - len(schema.STEPS), schema.VERSION))
