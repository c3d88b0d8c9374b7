"""One real engine per test session, driven by effects (tests/engine/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine.driver import Driver
from tests.engine.warm import warm_up
from tests.tiny import TINY, Guest, engine_env, tiny_args

__all__ = ["TINY", "engine_env", "tiny_args"]


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """The fork server of engines of their own stays until the end."""
    warm_up()


@pytest.fixture(scope="session")
def engine(own_engine: Any) -> Driver:
    return Driver(Guest(own_engine))


@pytest.fixture
def dev(engine: Driver) -> Iterator[Driver]:
    """The session's engine; after the test it holds nothing."""
    assert engine.died is None, engine.died
    yield engine
    assert engine.died is None, engine.died
    try:
        engine.assert_nothing_left()
    except AssertionError:
        engine.clear()  # or every later test would fail too
        raise
