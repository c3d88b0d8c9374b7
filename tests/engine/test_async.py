"""The same answers from asynchronous scheduling, which GPUs use: two steps in flight (asynchronous.py)."""

from __future__ import annotations

import pytest

from tests.engine.apart import names, outcomes

MODULE = "tests.engine.asynchronous"


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    return outcomes(MODULE)


@pytest.mark.parametrize("case", names(MODULE), ids=lambda c: c.removeprefix("case_"))
def test_asynchronously(results, case):
    if (trouble := results[case]) is not None:
        pytest.fail(trouble, pytrace=False)
