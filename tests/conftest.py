"""For all tests: the seed in the header, one worker for the engine, nothing left behind."""

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: spinning threads make steps ten times slower
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # saves a compilation at the first forward
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from tests.certificates import certificates as certificates
from tests.commanded import fresh_server as fresh_server
from tests.commanded import sim_server as sim_server
from tests.counts import FULL, SEED
from tests.leaks import Allowed, left_behind, look
from tests.reasons import unlisted

TESTS = Path(__file__).parent
KINDS = frozenset({"threads", "fds", "children"})


def pytest_report_header() -> str:
    return f"symphony: counts {'full' if FULL else 'reduced'}, SYMPHONY_SEED={SEED}"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/engine is marked `engine`, and all such tests run in one worker: one engine per session. Those on the
    session's HTTP server run in another one."""
    for item in items:
        if "server_b" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("engine_b"))
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(600))
            continue
        if TESTS / "engine" in item.path.parents:
            item.add_marker("engine")
        if item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.xdist_group("engine"))
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(300))


def pytest_collection_finish() -> None:
    """What is imported by now stays: a collection, which many tests ask for, would look through it for half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of the tests' trained model."""
    return TESTS / "models" / "tiny"


@pytest.fixture(scope="session")
def own_engine() -> Iterator[Any]:
    """The session's one vLLM engine (tests/tiny.py `SharedHost`)."""
    from tests.tiny import SharedHost

    shared = SharedHost()
    gc.collect()
    gc.freeze()
    yield shared
    shared.stop()


@pytest.fixture(scope="session")
def server_b(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The session's one `symphony serve --http` (tests/dropin/server.py). SYMPHONY_SERVER_B: the folder of one that runs."""
    from tests.dropin.server import TOOL_FLAGS, found, serve

    if folder := os.environ.get("SYMPHONY_SERVER_B"):
        yield found(Path(folder))
        return
    limit = ("--call-limit", "greedy=2")  # of a principal in tests/doors
    served = serve(tmp_path_factory.mktemp("b"), *TOOL_FLAGS, "--enable-prompt-tokens-details", ours=limit)
    try:
        served.wait_ready()
        yield served
        assert served.stop() == 0, served.said()[-3000:]
    finally:
        served.kill()


@pytest.fixture(scope="session")
def leaks_allowed() -> Allowed:
    """What stays for good, by design. A folder's conftest may override this and say why."""
    return Allowed()


@pytest.fixture(autouse=True)
def leaks(request: pytest.FixtureRequest, leaks_allowed: Allowed) -> Iterator[None]:
    """No test leaves a process, thread or fd. Session fixtures are made before the first look and so don't count."""
    kept: set[str] = {kind for mark in request.node.iter_markers("keeps") for kind in mark.args}
    before = look()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = left_behind(before, leaks_allowed, KINDS - kept)
    if found:
        pytest.fail("the test left behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def reasons() -> Iterator[None]:
    """No kernel answers an error that the call table does not list."""
    with unlisted() as found:
        yield
    if found:
        pytest.fail("errors that abi/table.py does not list:\n  " + "\n  ".join(dict.fromkeys(found)), pytrace=False)
