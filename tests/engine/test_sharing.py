"""Plain requests and programs on an engine that is too small for both (sharing.py): parts, nobody left waiting, the same tokens."""

from __future__ import annotations

import pytest

from tests.engine.apart import names, outcomes

MODULE = "tests.engine.sharing"


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    return outcomes(MODULE)


@pytest.mark.parametrize("case", names(MODULE), ids=lambda c: c.removeprefix("case_"))
def test_sharing(results, case):
    if (trouble := results[case]) is not None:
        pytest.fail(trouble, pytrace=False)
