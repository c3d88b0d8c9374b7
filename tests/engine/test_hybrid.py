"""A model with sliding windows: files give what plain vLLM gives, and what would be unsound is refused (hybrid.py, windowed.py)."""

from __future__ import annotations

from functools import cache

import pytest

from tests.engine.apart import names, outcomes

MODULES = ("tests.engine.hybrid", "tests.engine.windowed")
results = cache(outcomes)


@pytest.mark.timeout(500)
@pytest.mark.parametrize(("module", "case"), [(m, case) for m in MODULES for case in names(m)])
def test_with_windows(module, case):
    if (trouble := results(module)[case]) is not None:
        pytest.fail(trouble, pytrace=False)
