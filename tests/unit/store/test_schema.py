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


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """A state directory of this version, with a file."""
    database, pending = Database(tmp_path / "store.db"), Pending()
    pending.add([ROOT, file(5, "f", [1, 2])])
    database.write(pending, sync=True)
    database.close()
    return tmp_path / "store.db"


def shape(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name")
        return [" ".join(sql.split()) for (sql,) in rows]


def test_a_new_database_has_this_version(tmp_path: Path):
    Database(tmp_path / "store.db").close()

    with closing(sqlite3.connect(tmp_path / "store.db")) as db:
        assert schema.version_of(db, None) == schema.VERSION
    assert (tmp_path / "store.db").stat().st_mode & 0o777 == 0o600


def test_an_older_version_is_backed_up_and_migrated_step_by_step(version_1: Path, monkeypatch: pytest.MonkeyPatch):
    steps = {1: "ALTER TABLE quotas ADD COLUMN notes TEXT;", 2: "UPDATE nodes SET owner = 'bob' WHERE owner = 'ann';"}
    monkeypatch.setattr(schema, "STEPS", steps)
    monkeypatch.setattr(schema, "VERSION", 3)
    before = shape(version_1)

    database = Database(version_1)

    assert [node.owner for node in database.load().nodes] == ["root", "bob"]
    database.close()
    assert shape(version_1) != before == shape(Path(f"{version_1}.v1"))
    with closing(sqlite3.connect(version_1)) as db, closing(sqlite3.connect(f"{version_1}.v1")) as backup:
        assert db.execute("SELECT version FROM schema").fetchall() == [(3,)]
        assert backup.execute("SELECT version FROM schema").fetchall() == [(1,)]
        assert backup.execute("SELECT owner FROM nodes WHERE ino = 5").fetchall() == [("ann",)]
    assert Path(f"{version_1}.v1").stat().st_mode & 0o777 == 0o600


def test_a_migration_that_fails_leaves_the_old_version(version_1: Path, monkeypatch: pytest.MonkeyPatch):
    before = shape(version_1)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", {1: "ALTER TABLE quotas ADD COLUMN notes TEXT; UPDATE nowhere SET x = 1;"})
        patch.setattr(schema, "VERSION", 2)
        with pytest.raises(DataCorrupt, match="no such table: nowhere"):
            Database(version_1)

    assert shape(version_1) == before
    with closing(Database(version_1)) as database:
        assert len(database.load().nodes) == 2


def test_a_downgrade_is_refused_and_touches_nothing(version_1: Path):
    with closing(sqlite3.connect(version_1)) as db, db:
        db.execute("UPDATE schema SET version = 7")
    before = version_1.read_bytes()

    with pytest.raises(NotSupported, match="version 7, and this server knows versions up to 1"):
        Database(version_1)

    assert version_1.read_bytes() == before


def test_a_version_without_a_step_is_too_old(version_1: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(schema, "STEPS", {2: ""})

    with pytest.raises(NotSupported, match="too old"):
        Database(version_1)


def test_every_step_that_is_there_leads_to_the_next_version():
    assert sorted(schema.STEPS) == list(range(schema.VERSION - len(schema.STEPS), schema.VERSION))
