"""What was set of scheduling while the server ran, in SQLite (store/setting.py).

weights    principal -> weight, cap           those that are not as by default
policies   level -> name, parameters as JSON  those that were set
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator

from vllm_symphony.abi.record import PolicyRecord, WeightRecord


def put(db: sqlite3.Connection, weights: Iterable[WeightRecord], policies: Iterable[PolicyRecord]) -> None:
    """Write them; what is as by default has no row."""
    for w in weights:
        db.execute("DELETE FROM weights WHERE principal = ?", (w.principal,))
        if w != WeightRecord(w.principal):
            db.execute("INSERT INTO weights VALUES (?, ?, ?)", (w.principal, w.weight, w.cap))
    for p in policies:
        db.execute("DELETE FROM policies WHERE level = ?", (p.level,))
        if p.name:
            db.execute("INSERT INTO policies VALUES (?, ?, ?)", (p.level, p.name, json.dumps(dict(p.parameters))))


def load_weights(db: sqlite3.Connection) -> Iterator[WeightRecord]:
    """All of them."""
    for row in db.execute("SELECT principal, weight, cap FROM weights ORDER BY principal"):
        yield WeightRecord(*row)


def load_policies(db: sqlite3.Connection) -> Iterator[PolicyRecord]:
    """All of them."""
    for level, name, parameters in db.execute("SELECT level, name, parameters FROM policies ORDER BY level"):
        yield PolicyRecord(level, name, {key: float(value) for key, value in json.loads(parameters).items()})
