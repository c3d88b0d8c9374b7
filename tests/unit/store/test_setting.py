"""Weights and policies that were set, in the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_symphony.abi.record import PolicyRecord, WeightRecord
from vllm_symphony.store.database import Database
from vllm_symphony.store.pending import Pending


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "store.db")
    yield database
    database.close()


def write(db: Database, weights: tuple[WeightRecord, ...] = (), policies: tuple[PolicyRecord, ...] = ()) -> None:
    pending = Pending()
    pending.add_settings(weights, policies)
    assert pending
    db.write(pending, sync=True)


def test_what_was_set_is_read_by_the_next_server(db: Database):
    ann, plas = WeightRecord("ann", 2.5, 3), PolicyRecord("process", "plas", {"quantum": 64.0})

    write(db, (WeightRecord("ann", 2.5), ann), (PolicyRecord("process", "vtc"), plas))

    loaded = db.load()
    assert (loaded.weights, loaded.policies) == ((ann,), (plas,))


def test_what_is_as_by_default_again_is_forgotten(db: Database):
    write(db, (WeightRecord("ann", 2.5, 3), WeightRecord("bob", cap=1)), (PolicyRecord("process", "vtc"),))

    write(db, (WeightRecord("ann"),), (PolicyRecord("process"),))

    loaded = db.load()
    assert (loaded.weights, loaded.policies) == ((WeightRecord("bob", cap=1),), ())
