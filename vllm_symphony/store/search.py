"""The text index (store/search.py): SQLite FTS5, in a file of its own that may be thrown away at any time.

    texts   rowid = ino, the file's text        docs   ino -> modified_ns of the tokens that the text was made of

A query is answered in two steps, so that what the caller may not see counts for nothing: the matching *candidates* are copied into
a temporary index, and ranking (bm25), counting and snippets happen there.
Source: sqlite.org/fts5.html.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.store.database import typed

VERSION = 1
SNIPPET_WORDS = 16

log = logging.getLogger(__name__)

_CREATE = f"""
BEGIN;
CREATE TABLE docs (ino INTEGER PRIMARY KEY, modified_ns INTEGER NOT NULL);
CREATE VIRTUAL TABLE texts USING fts5 (text);
PRAGMA user_version = {VERSION};
COMMIT;
"""
_TEMPORARY = """
CREATE TEMP TABLE candidates (ino INTEGER PRIMARY KEY);
CREATE VIRTUAL TABLE temp.ranked USING fts5 (text);
"""


class SearchIndex:
    """Texts of files by ino. `decode` makes text of tokens. From one thread at a time."""

    def __init__(self, path: Path | None, decode: Callable[[list[int]], str]) -> None:
        """Open it; one that is damaged or of another version is made again, empty. None: in memory.

        Raises:
            OutOfPages, ReadOnly, DataCorrupt: it cannot be made.
        """
        self.path = path
        self._decode = decode
        try:
            self._db = self._open()
        except sqlite3.Error as error:
            raise typed(error, path) from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if self.path is None:
                raise
            log.warning("the search index %s cannot be used (%s): it is made again", self.path, error)
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path or ":memory:", isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if not version:
                db.executescript(_CREATE)
            elif version != VERSION or db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError(f"it has version {version}, or is damaged")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_TEMPORARY)
            if self.path is not None:
                self.path.chmod(0o600)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def indexed(self) -> Mapping[Ino, int]:
        """ino -> `modified_ns` of what the index knows."""
        return {Ino(ino): modified_ns for ino, modified_ns in self._db.execute("SELECT ino, modified_ns FROM docs")}

    def forget(self, inos: Iterable[Ino]) -> None:
        """These files are gone."""
        known = [(ino,) for ino in inos if self._db.execute("SELECT 1 FROM docs WHERE ino = ?", (ino,)).fetchone()]
        if known:
            self._change("DELETE FROM texts WHERE rowid = ?", "DELETE FROM docs WHERE ino = ?", known, known)

    def put(self, changed: Iterable[tuple[Ino, int, list[int]]]) -> None:
        """Index the text of these tokens in place of what was known of each ino."""
        texts, docs = [], []
        for ino, modified_ns, tokens in changed:
            texts.append((ino, self._decode(tokens)))
            docs.append((ino, modified_ns))
        if docs:
            self._change(
                "INSERT OR REPLACE INTO texts (rowid, text) VALUES (?, ?)", "INSERT OR REPLACE INTO docs VALUES (?, ?)", texts, docs
            )

    def _change(
        self, texts: str, docs: str, text_rows: Sequence[tuple[object, ...]], doc_rows: Sequence[tuple[object, ...]]
    ) -> None:
        db = self._db
        db.execute("BEGIN")
        try:
            db.executemany(texts, text_rows)
            db.executemany(docs, doc_rows)
            db.execute("COMMIT")
        except BaseException as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise typed(error, self.path) from error
            raise

    def find(self, query: str, candidates: Sequence[Ino], limit: int) -> tuple[tuple[tuple[Ino, str], ...], int]:
        """(ino, snippet) of the best `limit` matches among `candidates`, and how many match.

        Raises:
            InvalidArgument: the query does not parse.
        """
        db = self._db
        db.execute("BEGIN")
        try:
            db.executemany("INSERT OR IGNORE INTO temp.candidates VALUES (?)", ((ino,) for ino in candidates))
            db.execute(
                "INSERT INTO temp.ranked (rowid, text) SELECT rowid, text FROM texts WHERE texts MATCH ? AND rowid IN "
                "(SELECT ino FROM temp.candidates)", (query,),
            )  # fmt: skip
            hits = db.execute(
                "SELECT rowid, snippet(ranked, 0, '[', ']', '...', ?) FROM temp.ranked WHERE ranked MATCH ? ORDER BY rank, rowid "
                "LIMIT ?", (SNIPPET_WORDS, query, limit),
            ).fetchall()  # fmt: skip
            total = db.execute("SELECT COUNT(*) FROM temp.ranked").fetchone()[0]
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_ERROR":  # FTS5 refuses the query so
                raise InvalidArgument(f"text is no query of words: {error}") from error
            raise typed(error, self.path) from error
        finally:
            db.execute("ROLLBACK")
        return tuple((Ino(ino), snippet) for ino, snippet in hits), total
