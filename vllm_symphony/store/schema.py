"""The database's schema and its versions (store/schema.py).

    no table `schema`  -> a new database, made at VERSION
    older version      -> a backup beside it (store.db.v<old>), then one step after another, in one transaction
    newer version      -> refused: ENOTSUP with both versions, nothing touched

A step, once released, is never changed; `CREATE` is what a new database looks like, and what the steps end at (a test compares).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from vllm_symphony.errors import DataCorrupt, NotSupported

VERSION = 3

CREATE = """
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
CREATE TABLE contents (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE programs (
    name TEXT NOT NULL, version TEXT NOT NULL, owner TEXT NOT NULL, sha256 TEXT NOT NULL REFERENCES contents, size INTEGER NOT NULL,
    runtime TEXT NOT NULL, entry TEXT NOT NULL, description TEXT NOT NULL, schema TEXT NOT NULL, created_ns INTEGER NOT NULL,
    mode INTEGER NOT NULL, grp TEXT NOT NULL, tools TEXT NOT NULL, paths TEXT NOT NULL, dependencies TEXT NOT NULL,
    limits TEXT NOT NULL, PRIMARY KEY (name, version)) WITHOUT ROWID;
CREATE INDEX programs_of ON programs (sha256);
CREATE TABLE principals (principal TEXT PRIMARY KEY, limits TEXT NOT NULL, used TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE weights (principal TEXT PRIMARY KEY, weight REAL NOT NULL, cap INTEGER) WITHOUT ROWID;
CREATE TABLE policies (level TEXT PRIMARY KEY, name TEXT NOT NULL, parameters TEXT NOT NULL) WITHOUT ROWID;
"""

STEPS: Mapping[int, str] = {  # from version n to n + 1
    1: """
CREATE TABLE contents (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE programs (
    name TEXT NOT NULL, version TEXT NOT NULL, owner TEXT NOT NULL, sha256 TEXT NOT NULL REFERENCES contents, size INTEGER NOT NULL,
    runtime TEXT NOT NULL, entry TEXT NOT NULL, description TEXT NOT NULL, schema TEXT NOT NULL, created_ns INTEGER NOT NULL,
    mode INTEGER NOT NULL, grp TEXT NOT NULL, tools TEXT NOT NULL, paths TEXT NOT NULL, dependencies TEXT NOT NULL,
    limits TEXT NOT NULL, PRIMARY KEY (name, version)) WITHOUT ROWID;
CREATE INDEX programs_of ON programs (sha256);
CREATE TABLE principals (principal TEXT PRIMARY KEY, limits TEXT NOT NULL, used TEXT NOT NULL) WITHOUT ROWID;
""",
    2: """
CREATE TABLE weights (principal TEXT PRIMARY KEY, weight REAL NOT NULL, cap INTEGER) WITHOUT ROWID;
CREATE TABLE policies (level TEXT PRIMARY KEY, name TEXT NOT NULL, parameters TEXT NOT NULL) WITHOUT ROWID;
""",
}


def prepare(db: sqlite3.Connection, path: Path | None) -> None:
    """Bring the database at `path` (None: in memory) to VERSION. In no transaction.

    Raises:
        NotSupported: a newer server made it.
        DataCorrupt: it is damaged, or no database of ours.
    """
    version = version_of(db, path)
    if version == VERSION:
        return
    if version is None:
        db.executescript(f"BEGIN; {CREATE} INSERT INTO schema VALUES ({VERSION}); COMMIT;")
        return
    if version > VERSION:
        raise NotSupported(
            f"{path} has schema version {version}, and this server knows versions up to {VERSION}: use the server that wrote it, "
            f"or restore a backup ({path}.v{VERSION})", version=version, known=VERSION,
        )  # fmt: skip
    missing = [n for n in range(version, VERSION) if n not in STEPS]
    if missing:
        raise NotSupported(f"{path} has schema version {version}, which is too old to migrate", version=version, known=VERSION)
    if path is not None:
        _back_up(db, path.with_name(f"{path.name}.v{version}"))
    steps = "".join(STEPS[n] for n in range(version, VERSION))
    try:
        db.executescript(f"BEGIN; {steps} UPDATE schema SET version = {VERSION}; COMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def version_of(db: sqlite3.Connection, path: Path | None) -> int | None:
    """The version that it has; None: it is empty. Raises DataCorrupt."""
    try:
        problems = [row[0] for row in db.execute("PRAGMA quick_check(1)")]
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        versions = db.execute("SELECT version FROM schema").fetchall() if "schema" in tables else []
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error
    if problems != ["ok"]:
        raise _damaged(path, problems[0].splitlines()[-1])
    if not tables:
        return None
    if len(versions) != 1 or not isinstance(versions[0][0], int):
        raise _damaged(path, "it has no schema version")
    return int(versions[0][0])


def _damaged(path: Path | None, why: str) -> DataCorrupt:
    return DataCorrupt(
        f"{path} is damaged ({why}): put a backup in its place (store.db.v*), or move it away to begin with no files; "
        "`sqlite3 store.db .recover` may save what can be read",
        path=str(path),
    )


def _back_up(db: sqlite3.Connection, path: Path) -> None:
    """Copy it whole, synced, before anything is changed."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        copy = sqlite3.connect(path)
        try:
            db.backup(copy)
        finally:
            copy.close()
        os.fsync(fd)
    finally:
        os.close(fd)
