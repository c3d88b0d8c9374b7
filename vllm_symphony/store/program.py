"""Installed programs and the limits of principals, in SQLite (store/program.py).

    programs   ops/triage 1.2 --sha256--> contents      a content is kept once, and goes with the last program that has it
               ops/triage 1.3 --sha256----^
    principals ann -> limits, used                      as JSON of the fields that are set

Hashes are not verified here: the kernel leaves out what is not what its hash says (kernel/registry.py), and keeps its name in mind.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from vllm_symphony.abi.record import PrincipalRecord, ProgramRecord
from vllm_symphony.abi.types import WASM, ProgramInfo, ResourceLimits

_PLAIN = (
    "name", "version", "owner", "sha256", "size", "runtime", "entry", "description", "schema", "created_ns", "mode", "group",
)  # fmt: skip
_PUT = "INSERT OR REPLACE INTO programs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_GET = (
    "SELECT name, version, owner, programs.sha256, size, runtime, entry, description, schema, created_ns, mode, grp, tools, paths, "
    "dependencies, limits, data FROM programs LEFT JOIN contents ON contents.sha256 = programs.sha256 ORDER BY name, version"
)


def put(db: sqlite3.Connection, programs: Iterable[ProgramRecord]) -> None:
    """Write them, each with its content."""
    for record in programs:
        p, data = record.info, record.code or record.source.encode()
        db.execute("INSERT INTO contents VALUES (?, ?) ON CONFLICT (sha256) DO UPDATE SET data = excluded.data", (p.sha256, data))
        db.execute(_PUT, (
            p.name, p.version, p.owner, p.sha256, p.size, p.runtime, p.entry, p.description, p.schema, p.created_ns, p.mode,
            p.group, json.dumps(p.tools), json.dumps(p.paths), json.dumps(p.dependencies), _packed(p.limits),
        ))  # fmt: skip


def remove(db: sqlite3.Connection, names: Iterable[tuple[str, str]]) -> None:
    """Take versions away, and the contents that nothing has any more."""
    db.executemany("DELETE FROM programs WHERE name = ? AND version = ?", names)
    db.execute("DELETE FROM contents WHERE sha256 NOT IN (SELECT sha256 FROM programs)")


def load(db: sqlite3.Connection) -> Iterator[ProgramRecord]:
    """All of them. Of a content that is missing or no text the bytes that are there: its hash says that it is another one."""
    for row in db.execute(_GET):
        tools, paths, dependencies = (json.loads(text) for text in row[12:15])
        plain: dict[str, Any] = dict(zip(_PLAIN, row, strict=False))
        limits = ResourceLimits(**json.loads(row[15]))
        info = ProgramInfo(**plain, tools=_tuple(tools), paths=_tuple(paths), dependencies=tuple(dependencies), limits=limits)
        data = row[16] or b""
        is_module = info.runtime == WASM
        yield ProgramRecord(info, "" if is_module else data.decode(errors="replace"), data if is_module else b"")


def put_principals(db: sqlite3.Connection, principals: Iterable[PrincipalRecord]) -> None:
    """Write them."""
    rows = ((p.principal, _packed(p.limits), _packed(p.used)) for p in principals)
    db.executemany("INSERT OR REPLACE INTO principals VALUES (?, ?, ?)", rows)


def load_principals(db: sqlite3.Connection) -> Iterator[PrincipalRecord]:
    """All of them."""
    for principal, limits, used in db.execute("SELECT principal, limits, used FROM principals ORDER BY principal"):
        yield PrincipalRecord(principal, ResourceLimits(**json.loads(limits)), ResourceLimits(**json.loads(used)))


def _packed(limits: ResourceLimits) -> str:
    return json.dumps({name: value for name, value in asdict(limits).items() if value is not None})


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
