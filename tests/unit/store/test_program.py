"""Installed programs and principals' limits in the database: one copy of equal contents, nothing half there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from vllm_symphony.abi.record import PrincipalRecord, ProgramRecord
from vllm_symphony.abi.types import ProgramInfo, ResourceLimits
from vllm_symphony.errors import DataCorrupt
from vllm_symphony.store.database import Database
from vllm_symphony.store.pending import Pending


def program(name: str = "ops/triage", version: str = "1.0", text: str = "x = 'ä'\n", **more: object) -> ProgramRecord:
    data = text.encode()
    info = ProgramInfo(name, version, "ops", sha256(data).hexdigest(), len(data), "python", "main", "Sorts.", "{}", 7)
    return ProgramRecord(replace(info, **more), text, b"")  # type: ignore[arg-type]


MODULE = ProgramRecord(replace(program().info, name="ops/filter", runtime="wasm", sha256="00"), "", b"\0asm\xff")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "store.db")) as database:
        yield database


def write(db: Database, *programs: ProgramRecord, uninstalled: list[tuple[str, str]] | None = None) -> None:
    pending = Pending()
    pending.add_programs(programs, uninstalled or ())
    db.write(pending, sync=False)
    db.check()


def contents(db: Database) -> list[str]:
    assert db.path is not None
    with closing(sqlite3.connect(db.path)) as raw:
        return [row[0] for row in raw.execute("SELECT sha256 FROM contents ORDER BY sha256")]


def test_what_was_installed_is_read_by_the_next_server(db: Database):
    declared = program(
        version="2", tools=("web.*",), paths=("/kb", "~/x"), dependencies=("numpy>=1",), mode=0o700, group="ops",
        limits=ResourceLimits(tokens=5, wall_s=1.5, memory_bytes=1 << 40),
    )  # fmt: skip
    nothing = program(version="3", tools=(), paths=())
    write(db, declared, MODULE, program(), nothing)
    assert db.path is not None

    with closing(Database(db.path)) as again:
        assert again.load().programs == (MODULE, program(), declared, nothing)


def test_equal_contents_are_kept_once_and_go_with_their_last_program(db: Database):
    write(db, program(), program(version="1.1"), program("ops/other"))
    (sha,) = contents(db)

    write(db, uninstalled=[("ops/triage", "1.0"), ("ops/triage", "1.1"), ("ops/never", "1")])
    assert contents(db) == [sha]
    write(db, uninstalled=[("ops/other", "1.0")])
    assert contents(db) == [] and db.load().programs == ()


def test_what_was_taken_away_and_installed_again_is_there():
    db, pending = Database(None), Pending()
    pending.add_programs([program(text="old")])
    pending.add_programs([], [("ops/triage", "1.0")])
    pending.add_programs([program(text="new")])
    pending.add_programs([program("ops/gone")])
    pending.add_programs([], [("ops/gone", "1.0")])

    db.write(pending, sync=False)

    assert [record.source for record in db.load().programs] == ["new"]
    db.check()
    pending.clear()
    assert not pending


def test_a_record_again_replaces_what_may_change(db: Database):
    write(db, program())
    write(db, program(mode=0o700))

    assert db.load().programs == (program(mode=0o700),)


@pytest.mark.parametrize("harm", ["UPDATE contents SET data = x'ff00'", "PRAGMA foreign_keys = OFF; DELETE FROM contents"])
def test_a_damaged_content_is_given_as_it_is_and_mended_by_the_next_install(db: Database, harm: str):
    write(db, program())
    assert db.path is not None
    with closing(sqlite3.connect(db.path)) as raw:
        raw.executescript(harm)

    (found,) = db.load().programs
    assert sha256(found.source.encode()).hexdigest() != found.info.sha256

    write(db, program(), uninstalled=[("ops/triage", "1.0")])
    assert db.load().programs == (program(),)


def test_a_record_that_is_none_is_told(db: Database):
    write(db, program())
    assert db.path is not None
    with closing(sqlite3.connect(db.path)) as raw, raw:
        raw.execute("UPDATE programs SET limits = '{\"toks\": 1}'")

    with pytest.raises(DataCorrupt, match="record is none"):
        db.load()


def test_limits_of_principals_are_read_by_the_next_server(db: Database):
    pending = Pending()
    limited = PrincipalRecord("ann", ResourceLimits(tokens=5, cpu_s=0.5), ResourceLimits(tokens=3))
    pending.add_principals([PrincipalRecord("ann", ResourceLimits()), PrincipalRecord("bob", ResourceLimits()), limited])
    db.write(pending, sync=True)

    assert db.load().principals == (limited, PrincipalRecord("bob", ResourceLimits()))
