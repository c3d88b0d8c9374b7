"""Each conformance test runs on each host; after it nothing is left (tests/conformance/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.host import HttpHost, ServerHost, SimHost, own_host
from tests.counts import FULL
from vllm_symphony.engine.sim import SimDevice

MARKS = {"own": (pytest.mark.engine,), "http": (pytest.mark.xdist_group("engine_b"), pytest.mark.timeout(600))}
STEP_SHARE = 0.1  # of the simulator's own time: half a millisecond a step, so that a running call can be met


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHost | None]:
    """The module's server of the kind that its tests are at; None for `sim`."""
    kind, path = request.param, str(tmp_path_factory.mktemp("run") / "s")
    if kind == "sim":
        yield None
        return
    if kind == "http":
        host: ServerHost = HttpHost(request.getfixturevalue("server_b"))
    elif kind == "own":
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
    """Tests that ask for `host` run on all; a module's `HOSTS` says otherwise."""
    if "host" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "HOSTS", ("sim", "sim-server", "own", "http"))
        params = [pytest.param(kind, marks=MARKS.get(kind, ())) for kind in kinds]
        metafunc.parametrize("server", params, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """At reduced counts the HTTP server does one way of killing for each state."""
    if FULL:
        return
    dropped = [item for item in items if _is_left_to_full_counts(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def _is_left_to_full_counts(item: pytest.Item) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    if params.get("server") != "http" or not {"state", "kill"} <= params.keys():
        return False
    module: Any = item.getparent(pytest.Module)
    ways, states = module.obj.HOWS, module.obj.MODEL + module.obj.OTHERS
    return bool(ways.index(params["kill"]) != states.index(params["state"]) % len(ways))
