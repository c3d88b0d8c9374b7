"""The reference rule on the small real model (small.py)."""

from __future__ import annotations

import pytest

from tests.engine.apart import names, outcomes

MODULE = "tests.engine.small"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    return outcomes(MODULE, timeout_s=400)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("case", names(MODULE), ids=lambda c: c.removeprefix("case_"))
def test_on_the_small_model(results, case):
    if (trouble := results[case]) is not None:
        pytest.fail(trouble, pytrace=False)
