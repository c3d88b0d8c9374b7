"""Plain requests and programs on an engine that is too small for both (sharing.py): parts, nobody left waiting, the same tokens."""

from __future__ import annotations

import pytest

from tests.engine.apart import names, outcomes

MODULE, ASYNC = "tests.engine.sharing", "tests.engine.sharing_async"


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    return outcomes(MODULE)


@pytest.fixture(scope="module")
def in_flight() -> dict[str, str | None]:
    return outcomes(ASYNC)


@pytest.mark.parametrize("case", names(MODULE), ids=lambda c: c.removeprefix("case_"))
def test_sharing(results, case):
    if (trouble := results[case]) is not None:
        pytest.fail(trouble, pytrace=False)


@pytest.mark.parametrize("case", names(ASYNC), ids=lambda c: c.removeprefix("case_"))
def test_sharing_asynchronously(in_flight, case):
    if (trouble := in_flight[case]) is not None:
        pytest.fail(trouble, pytrace=False)
