"""Nodes, names, tokens and attributes in SQLite (store/database.py).

    tokens of file 7:   (7, 0, 4 KiB) (7, 1024, 4 KiB) (7, 2048, 120 B)     a file that grows rewrites its last chunk only

One writer, WAL. A transaction is synced when somebody waits for it (`synchronous` FULL: fsync of the log, all before with it), else
not: after a crash of the machine the last ones may be missing, none is half there. Foreign keys are on, and names point at
directories that exist, or the transaction fails.
Source: sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_symphony.abi.record import ROOT_INO, NodeRecord, QuotaRecord, Restored, SavedPage
from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import DataCorrupt, OutOfPages, ReadOnly, SymphonyError, WouldBlock
from vllm_symphony.store import program, schema, setting
from vllm_symphony.store.pending import Pending
from vllm_symphony.store.point import reach
from vllm_symphony.store.state import unusable

CHUNK_TOKENS = 1024
_SYNCED = "synced"  # a counter: changed where there is nothing else to commit

_COLUMNS = (
    "ino", "kind", "owner", "grp", "mode", "domain", "created_ns", "modified_ns", "length", "runs", "fidelity", "recipe",
    "expires_ns", "durable", "ttl_s",
)  # fmt: skip
_PUT = (
    f"INSERT INTO nodes ({', '.join(_COLUMNS)}, fingerprint) VALUES ({', '.join('?' * len(_COLUMNS))}, '') ON CONFLICT (ino) "
    f"DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in _COLUMNS[1:])}"
)


class Database:
    """The store's records. From one thread at a time."""

    def __init__(self, path: Path | None) -> None:
        """Open or make it; None: in memory.

        Raises:
            NotSupported: a newer server made it.
            DataCorrupt: it is damaged.
            OutOfPages, ReadOnly: it cannot be made or written.
        """
        self.path = path
        if path is not None:
            _make_private(path)
        try:
            self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=1.0)
        except sqlite3.Error as error:
            raise typed(error, path) from error
        try:
            self._db.execute("PRAGMA foreign_keys = ON")
            schema.prepare(self._db, path)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._num_synced = self._counters().pop(_SYNCED, 0)
        except sqlite3.Error as error:
            self._db.close()
            raise typed(error, path) from error
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    # ---- writing

    def write(self, pending: Pending, *, sync: bool) -> set[str]:
        """Write it all, in one transaction; with `sync` it is on disk, with all before it, when this returns. Gives the segments
        that nothing refers to any more.

        Raises:
            OutOfPages, ReadOnly, DataCorrupt, WouldBlock: nothing of it is written.
        """
        db = self._db
        try:
            db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            reach("store.begun")
            touched = self._write(pending)
            if sync:
                self._num_synced += 1
                db.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (_SYNCED, self._num_synced))
            unused = {name for name in touched if db.execute("SELECT 1 FROM pages WHERE segment = ?", (name,)).fetchone() is None}
            reach("store.written")
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise typed(error, self.path) from error
            raise
        reach("store.committed")
        return unused

    def _write(self, pending: Pending) -> set[str]:
        """All rows of it. Gives the segments that lost a page."""
        db, touched = self._db, set[str]()
        for ino in pending.removed:
            touched.update(row[0] for row in db.execute("SELECT DISTINCT segment FROM pages WHERE ino = ?", (ino,)))
            db.execute("DELETE FROM names WHERE dir = ?", (ino,))
            db.execute("DELETE FROM nodes WHERE ino = ?", (ino,))
        nodes = list(pending.nodes.values())
        db.executemany("DELETE FROM names WHERE ino = ?", ((node.ino,) for node in nodes))
        for node in nodes:
            self._put(node)
            if node.pages is not None:
                touched.update(row[0] for row in db.execute("SELECT DISTINCT segment FROM pages WHERE ino = ?", (node.ino,)))
                db.execute("DELETE FROM pages WHERE ino = ?", (node.ino,))
                rows = ((node.ino, i, p.segment, p.slot, p.num_tokens) for i, p in enumerate(node.pages))
                db.executemany("INSERT INTO pages VALUES (?, ?, ?, ?, ?)", rows)
                db.execute("UPDATE nodes SET fingerprint = ? WHERE ino = ?", (node.fingerprint, node.ino))
        db.executemany(
            "INSERT INTO names (dir, name, ino, place) VALUES (?, ?, ?, ?)",
            ((directory, name, node.ino, i) for node in nodes for i, (directory, name) in enumerate(node.names)),
        )
        db.executemany(
            "INSERT OR REPLACE INTO quotas VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (q.principal, q.device_pages, q.host_bytes, q.disk_bytes, q.files, q.rows, q.pinned_pages)
                for q in pending.quotas.values()
            ),
        )
        db.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?)", pending.counters.items())
        program.put_principals(db, pending.principals.values())
        if pending.uninstalled:
            program.remove(db, pending.uninstalled)
        program.put(db, pending.programs.values())
        setting.put(db, pending.weights.values(), pending.policies.values())
        return touched

    def _put(self, n: NodeRecord) -> None:
        db = self._db
        db.execute(_PUT, (
            n.ino, n.kind, n.owner, n.group, n.mode, n.domain, n.created_ns, n.modified_ns, n.length, json.dumps(n.runs),
            n.fidelity, n.recipe, n.expires_ns, n.durable, n.ttl_s,
        ))  # fmt: skip
        db.execute("DELETE FROM xattrs WHERE ino = ?", (n.ino,))
        db.executemany("INSERT INTO xattrs VALUES (?, ?, ?)", ((n.ino, name, value) for name, value in n.xattrs.items()))
        self._put_tokens(n.ino, n.kept, n.tokens, n.length)

    def _put_tokens(self, ino: Ino, kept: int, packed: bytes, length: int) -> None:
        """Cut what is stored at `kept` and go on with `packed`, filling the last chunk first."""
        db = self._db
        last = db.execute("SELECT start, data FROM tokens WHERE ino = ? ORDER BY start DESC LIMIT 1", (ino,)).fetchone()
        stored = last[0] + len(last[1]) // 4 if last else 0
        if stored < kept or kept + len(packed) // 4 != length:
            raise DataCorrupt(f"file {ino}: tokens {kept}..{kept + len(packed) // 4} of {length} follow {stored} that are stored")
        if stored == kept and not packed:
            return
        db.execute("DELETE FROM tokens WHERE ino = ? AND start >= ?", (ino, kept))
        last = db.execute("SELECT start, data FROM tokens WHERE ino = ? ORDER BY start DESC LIMIT 1", (ino,)).fetchone()
        start = kept
        if last is not None and kept - last[0] < CHUNK_TOKENS:
            start, packed = last[0], last[1][: 4 * (kept - last[0])] + packed
        step = 4 * CHUNK_TOKENS
        chunks = ((ino, start + at // 4, packed[at : at + step]) for at in range(0, len(packed), step))
        db.executemany("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", chunks)

    # ---- reading

    def load(self) -> Restored:
        """All of it, directories before what is in them. Raises DataCorrupt."""
        try:
            nodes = {node.ino: node for node in self._nodes()}
            quotas = tuple(QuotaRecord(*row) for row in self._db.execute("SELECT * FROM quotas"))
            counters = self._counters()
            principals, programs = tuple(program.load_principals(self._db)), tuple(program.load(self._db))
            weights, policies = tuple(setting.load_weights(self._db)), tuple(setting.load_policies(self._db))
        except sqlite3.Error as error:
            raise typed(error, self.path) from error
        except (ValueError, TypeError) as error:
            raise DataCorrupt(f"{self.path}: a program's, a principal's or a policy's record is none: {error}") from error
        counters.pop(_SYNCED, None)
        inside: dict[Ino, list[Ino]] = {}
        for node in nodes.values():
            for directory, _ in node.names:
                inside.setdefault(directory, []).append(node.ino)
        ordered: dict[Ino, None] = {}
        waiting = deque([ROOT_INO])
        while waiting:
            ino = waiting.popleft()
            if ino in nodes and ino not in ordered:
                ordered[ino] = None
                waiting.extend(inside.get(ino, ()))
        parents_first = sorted((nodes[ino] for ino in ordered), key=lambda node: node.kind != "dir")  # a file may have several
        return Restored(
            tuple(parents_first), quotas, counters, principals=principals, programs=programs, weights=weights, policies=policies
        )

    def _nodes(self) -> Iterator[NodeRecord]:
        db = self._db
        names = _by_ino(db.execute("SELECT ino, dir, name FROM names ORDER BY ino, place"))
        xattrs = _by_ino(db.execute("SELECT ino, name, value FROM xattrs"))
        pages = _by_ino(db.execute("SELECT ino, segment, slot, num_tokens FROM pages ORDER BY ino, page"))
        tokens = _by_ino(db.execute("SELECT ino, data FROM tokens ORDER BY ino, start"))
        for row in db.execute(f"SELECT {', '.join(_COLUMNS)}, fingerprint FROM nodes"):
            ino, length = Ino(row[0]), row[8]
            packed = b"".join(data for (data,) in tokens.get(ino, ()))
            if len(packed) != 4 * length:
                raise DataCorrupt(f"{self.path}: file {ino} has {len(packed) // 4} tokens where {length} were written", ino=ino)
            yield NodeRecord(
                ino, row[1], row[2], row[3], row[4], row[5], row[6], row[7],
                names=tuple((Ino(directory), name) for directory, name in names.get(ino, ())), length=length, tokens=packed,
                runs=tuple((at, position) for at, position in json.loads(row[9])), fidelity=row[10], recipe=row[11],
                xattrs=dict(xattrs.get(ino, ())), expires_ns=row[12], durable=row[13], ttl_s=row[14],
                pages=tuple(SavedPage(*page) for page in pages.get(ino, ())), fingerprint=row[15],
            )  # fmt: skip

    def segments(self) -> set[str]:
        """That some node refers to."""
        return {row[0] for row in self._db.execute("SELECT DISTINCT segment FROM pages")}

    def is_used(self, segment: str) -> bool:
        return self._db.execute("SELECT 1 FROM pages WHERE segment = ?", (segment,)).fetchone() is not None

    def counts(self) -> dict[str, float]:
        """For `info`."""
        return {f"store_{table}": self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("nodes", "pages")}

    def _counters(self) -> dict[str, int]:
        return dict(self._db.execute("SELECT name, value FROM counters").fetchall())

    def check(self) -> None:
        """The invariants that SQL does not hold by itself. Raises AssertionError."""
        db = self._db
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert [row[0] for row in db.execute("PRAGMA integrity_check")] == ["ok"]
        list(self._nodes())
        kept = "SELECT COUNT(*) FROM contents WHERE sha256 NOT IN (SELECT sha256 FROM programs)"
        assert db.execute(kept).fetchone() == (0,), "a content that no program has"


def _by_ino(rows: sqlite3.Cursor) -> dict[int, list[tuple[Any, ...]]]:
    """Rows by their first column, without it."""
    grouped: dict[int, list[tuple[Any, ...]]] = {}
    for ino, *rest in rows:
        grouped.setdefault(ino, []).append(tuple(rest))
    return grouped


def _make_private(path: Path) -> None:
    """SQLite gives the files beside it the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise unusable(path, error) from error


def typed(error: sqlite3.Error, path: Path | None) -> SymphonyError:
    """What a failure of SQLite means to who waits for the write."""
    name = getattr(error, "sqlite_errorname", "")
    text = f"cannot use {path}: {error}"
    if name.startswith("SQLITE_FULL"):
        return OutOfPages(f"the disk is full: {text}")
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_CANTOPEN")):
        return ReadOnly(text)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return WouldBlock(f"somebody else has it open for writing: {text}")
    return DataCorrupt(text)
