"""Pages in host memory and on disk: what comes back is what went, under pressure, cancels and damage; nothing leaks (tiers.py)."""

from __future__ import annotations

import pytest

from tests.engine.apart import names, outcomes

MODULE = "tests.engine.tiers"


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    return outcomes(MODULE)


@pytest.mark.parametrize("case", names(MODULE), ids=lambda c: c.removeprefix("case_"))
def test_tiers(results, case):
    if (trouble := results[case]) is not None:
        pytest.fail(trouble, pytrace=False)
