"""A cache of 32 pages: jobs wait, park, are preempted, evicted, cancelled; every answer is what it is with room (pressure.py)."""

from __future__ import annotations

import pytest

from tests.engine.apart import names, outcomes

MODULE, EDITS = "tests.engine.pressure", "tests.engine.edit_pressure"


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    return outcomes(MODULE)


@pytest.fixture(scope="module")
def edits() -> dict[str, str | None]:
    return outcomes(EDITS)


@pytest.mark.parametrize("case", names(MODULE), ids=lambda c: c.removeprefix("case_"))
def test_under_pressure(results, case):
    if (trouble := results[case]) is not None:
        pytest.fail(trouble, pytrace=False)


@pytest.mark.parametrize("case", names(EDITS), ids=lambda c: c.removeprefix("case_"))
def test_edits_under_pressure(edits, case):
    if (trouble := edits[case]) is not None:
        pytest.fail(trouble, pytrace=False)
