from collections.abc import Iterator

import pytest

from tests.attacks.arena import SECRET, Arena, ready, start, stop
from tests.leaks import Allowed

TRIED: dict[str, str] = {}  # node -> how it ended


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.skipped:
        TRIED[report.nodeid] = report.outcome


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One server for all, so one worker."""
    for item in items:
        if "tests/attacks/" in item.path.as_posix():
            item.add_marker(pytest.mark.xdist_group("attacks"))


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """The server that is attacked."""
    arena = ready(start(tmp_path_factory.mktemp("arena"), "--listen", "127.0.0.1:0", OPERATORS_SECRET=SECRET))
    yield arena
    stop(arena)


@pytest.fixture(scope="session")
def leaks_allowed() -> Allowed:
    """The fork server holds processes ready, other ones after each program. That none is left which a program made is looked at by
    the arena."""
    return Allowed(children=("resource_tracker", "forkserver", "vllm_symphony.runtime.zygote"))
