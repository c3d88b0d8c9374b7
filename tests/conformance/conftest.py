"""Each conformance test runs on each host; after it nothing is left (tests/conformance/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.host import ServerHost, SimHost, own_host
from vllm_symphony.engine.sim import SimDevice

OWN = pytest.param("own", marks=pytest.mark.engine)
STEP_SHARE = 0.1  # of the simulator's own time: half a millisecond a step, so that a running call can be met


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHost | None]:
    """The module's server of the kind that its tests are at; None for `sim`."""
    kind, path = request.param, str(tmp_path_factory.mktemp("run") / "s")
    if kind == "sim":
        yield None
        return
    if kind == "own":
        host = own_host(request.getfixturevalue("own_engine"), path)
    else:
        host = ServerHost(kind, SimDevice(speed=STEP_SHARE), path)
    yield host
    host.stop()


@pytest.fixture
def host(server: ServerHost | None) -> Iterator[Any]:
    """A machine with `run(source, entry, **args)`."""
    if server is None:
        sim = SimHost()
        yield sim
        sim.assert_nothing_left()
        return
    server.begin()
    yield server
    server.end()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that ask for `host` run on all three; a module's `HOSTS` says otherwise."""
    if "host" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "HOSTS", ("sim", "sim-server", "own"))
        params = [OWN if kind == "own" else kind for kind in kinds]
        metafunc.parametrize("server", params, indirect=True, scope="module")
