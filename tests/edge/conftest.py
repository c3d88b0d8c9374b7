import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commanded import Server


@pytest.fixture(scope="session")
def server(fresh_server) -> Server:
    """One server for the tests that leave it as it was."""
    return fresh_server()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """gRPC's poller of a finished event loop closes its sockets when it is collected; errors that a test kept delay that."""
    yield
    gc.collect()


@pytest.fixture
def program(tmp_path: Path):
    """Writes a program's file."""

    def write(text: str, name: str = "prog.py") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write
