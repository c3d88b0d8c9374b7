"""Servers that a test of the drop-in has for itself; the session's one, `server_b`, is in tests/conftest.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dropin.server import Served, serve


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Starts servers in one folder, one after the other: `own_server(*flags, by=serve, **more)`; none outlives the test."""
    folder = tmp_path_factory.mktemp("b")
    made: list[Served] = []

    def start(*flags: str, by: Any = serve, **more: Any) -> Served:
        served: Served = by(folder, *flags, **more)
        made.append(served)
        return served

    yield start
    for served in made:
        served.kill()
        served.process.wait(10)
