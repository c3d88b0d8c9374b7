"""A model with sliding windows: files give what plain vLLM gives, and what would be unsound is refused (hybrid.py)."""

from __future__ import annotations

import pytest

from tests.engine.apart import names, outcomes

MODULE = "tests.engine.hybrid"


@pytest.fixture(scope="module")
def results() -> dict[str, str | None]:
    return outcomes(MODULE)


@pytest.mark.parametrize("case", names(MODULE), ids=lambda c: c.removeprefix("case_"))
def test_with_windows(results, case):
    if (trouble := results[case]) is not None:
        pytest.fail(trouble, pytrace=False)
