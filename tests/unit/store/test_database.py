"""The store's records: what was written is what is read, by transaction, and what fails is not half there."""

from __future__ import annotations

import dataclasses
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.store.records import ROOT, directory, file, page
from vllm_symphony.abi.record import NodeRecord, QuotaRecord
from vllm_symphony.abi.types import Ino, pack_tokens
from vllm_symphony.errors import DataCorrupt, OutOfPages, ReadOnly
from vllm_symphony.store.database import CHUNK_TOKENS, Database
from vllm_symphony.store.pending import Pending


def write(db: Database, *nodes: NodeRecord, sync: bool = False, **more: object) -> set[str]:
    pending = Pending()
    pending.add(nodes, **more)  # type: ignore[arg-type]
    return db.write(pending, sync=sync)


def nodes(db: Database) -> dict[int, NodeRecord]:
    db.check()
    return {node.ino: node for node in db.load().nodes}


@pytest.fixture
def db(tmp_path: Path):
    database = Database(tmp_path / "store.db")
    write(database, ROOT)
    yield database
    database.close()


def test_what_was_written_is_read_by_the_next_server(tmp_path: Path):
    first = Database(tmp_path / "store.db")
    kb = directory(4, "kb", durable="pages", ttl_s=5.0, xattrs={"user.a": "b"})
    book = file(
        5, "book", [1, 2, 3], parent=4, runs=((0, 0), (2, 9)), fidelity="pruned", recipe=b"how", xattrs={"user.x": "y"},
        expires_ns=99, pages=(page("s.seg", 0, 2), page("s.seg", 1, 1)), fingerprint="f00d",
    )  # fmt: skip
    write(first, ROOT, kb, book, quotas=[QuotaRecord("ann", files=3)], counters=[("pid", 70)])
    first.close()

    with closing(Database(tmp_path / "store.db")) as second:
        restored = second.load()

    assert [node.ino for node in restored.nodes] == [1, 4, 5]
    assert dataclasses.replace(restored.nodes[1], pages=None) == kb and restored.nodes[2] == book
    assert restored.quotas == (QuotaRecord("ann", files=3),) and restored.counters == {"pid": 70}


def test_a_file_that_grows_rewrites_its_last_chunk_only(db: Database):
    tokens = list(range(3 * CHUNK_TOKENS))
    write(db, file(5, "f", tokens))
    before = db._db.total_changes

    tokens.append(7)
    write(db, file(5, "f", tokens, kept=len(tokens) - 1))
    tokens.append(8)
    write(db, file(5, "f", tokens, kept=len(tokens) - 1))

    assert nodes(db)[5].tokens == pack_tokens(tokens)
    assert db._db.execute("SELECT COUNT(*) FROM tokens").fetchone() == (4,)
    assert db._db.total_changes - before < 20


def test_a_file_that_was_cut_keeps_what_stands_before(db: Database):
    tokens = list(range(2 * CHUNK_TOKENS + 5))
    write(db, file(5, "f", tokens))

    write(db, file(5, "f", tokens[: CHUNK_TOKENS + 1], kept=CHUNK_TOKENS + 1))

    assert nodes(db)[5].tokens == pack_tokens(tokens[: CHUNK_TOKENS + 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 1500)), max_size=12), st.integers(1, 4))
def test_any_cuts_and_growths_merged_or_not_leave_the_files_tokens(steps: list[tuple[int, int]], batch: int):
    database, pending, tokens, fresh = Database(None), Pending(), list[int](), 0
    pending.add([ROOT, file(5, "f", [])])
    for i, (cut, grow) in enumerate(steps):
        kept = min(cut, len(tokens))
        tokens = tokens[:kept] + list(range(fresh, fresh + grow))
        fresh += grow
        pending.add([file(5, "f", tokens, kept=kept)])
        if i % batch == 0:
            database.write(pending, sync=False)
            pending.clear()

    database.write(pending, sync=True)

    assert nodes(database)[5].tokens == pack_tokens(tokens)


def test_names_move_and_are_replaced_in_one_transaction(db: Database):
    write(db, file(5, "a", [1]), file(6, "b", [2]))

    write(db, file(5, "b", [1], kept=1), removed=[Ino(6)])

    assert {node.names for node in nodes(db).values() if node.kind == "file"} == {((1, "b"),)}


def test_two_files_change_names_with_each_other(db: Database):
    write(db, file(5, "a", [1]), file(6, "b", [2]))

    write(db, file(5, "b", [1], kept=1), file(6, "a", [2], kept=1))

    assert {ino: node.names[0][1] for ino, node in nodes(db).items() if ino > 4} == {5: "b", 6: "a"}


def test_names_keep_the_order_of_linking(db: Database):
    write(db, file(5, "", [1], names=((Ino(1), "z"), (Ino(1), "a"))))

    assert nodes(db)[5].names == ((1, "z"), (1, "a"))


def test_a_file_is_read_after_all_the_directories_that_it_is_in(db: Database):
    book = file(5, "", [1], names=((Ino(1), "book"), (Ino(7), "book")))
    write(db, directory(6, "kb"), directory(7, "deep", parent=6), book)

    assert [node.ino for node in db.load().nodes] == [1, 6, 7, 5]


def test_a_file_that_is_removed_leaves_nothing_and_frees_its_segments(db: Database):
    write(db, file(5, "a", [1], xattrs={"user.k": "v"}, pages=(page("one.seg"), page("both.seg")), fingerprint="f"))
    write(db, file(6, "b", [2], pages=(page("both.seg", 1),), fingerprint="f"))

    assert write(db, removed=[Ino(5)]) == {"one.seg"}

    assert db.segments() == {"both.seg"}
    for table in ("tokens", "xattrs", "pages", "names"):
        assert db._db.execute(f"SELECT COUNT(*) FROM {table} WHERE ino = 5").fetchone() == (0,)


def test_pages_that_were_saved_again_free_the_old_segment(db: Database):
    write(db, file(5, "a", [1], pages=(page("old.seg"),), fingerprint="f"))

    assert write(db, file(5, "a", [1], kept=1)) == set()
    assert write(db, file(5, "a", [1], kept=1, pages=(page("new.seg"),), fingerprint="g")) == {"old.seg"}

    assert nodes(db)[5].fingerprint == "g" and nodes(db)[5].pages == (page("new.seg"),)


def test_a_node_that_no_directory_leads_to_is_not_loaded(db: Database):
    write(db, directory(4, "kb"), file(5, "f", [1], parent=4))
    db._db.execute("UPDATE names SET dir = 5 WHERE name = 'f'")

    assert [node.ino for node in db.load().nodes] == [1, 4]


def test_a_name_in_a_directory_that_is_not_there_fails_the_transaction(db: Database):
    with pytest.raises(DataCorrupt, match="FOREIGN KEY"):
        write(db, file(5, "f", [1], parent=77))

    assert list(nodes(db)) == [1]


def test_tokens_that_do_not_follow_what_is_stored_fail_the_transaction(db: Database):
    with pytest.raises(DataCorrupt, match=r"tokens 2\.\.3 of 3 follow 0"):
        write(db, file(5, "f", [1, 2, 3], kept=2))

    assert list(nodes(db)) == [1]


def test_a_full_disk_and_a_read_only_one_are_told_apart_and_leave_all_as_it_was(db: Database):
    db._db.execute(f"PRAGMA max_page_count = {db._db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(OutOfPages, match="disk is full"):
        write(db, file(5, "f", list(range(100_000))))
    db._db.execute("PRAGMA query_only = ON")
    with pytest.raises(ReadOnly):
        write(db, file(5, "f", [1]), sync=True)
    db._db.execute("PRAGMA query_only = OFF")

    assert list(nodes(db)) == [1]


def test_a_synced_write_is_synced_and_one_that_nobody_waits_for_is_not(db: Database):
    levels: list[int] = []
    db._db.set_trace_callback(lambda text: levels.append(text.endswith("FULL")) if text.startswith("PRAGMA synchronous") else None)

    write(db, file(5, "f", [1]))
    write(db, sync=True)

    assert levels == [False, True]


def test_a_damaged_database_is_refused_with_its_name_and_what_to_do(tmp_path: Path):
    path = tmp_path / "store.db"
    database = Database(path)
    write(database, ROOT, *(file(i, f"f{i}", list(range(500))) for i in range(5, 60)))
    database.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 6] = bytes(4096 * 3)
    path.write_bytes(data)

    with pytest.raises(DataCorrupt, match=r"store\.db is damaged .* put a backup in its place"):
        Database(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "store.db").write_bytes(b"not a database at all" * 500)

    with pytest.raises(DataCorrupt, match=r"store\.db is damaged"):
        Database(tmp_path / "store.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE nodes (x)")
    with pytest.raises(DataCorrupt, match="no schema version"):
        Database(tmp_path / "other.db")
