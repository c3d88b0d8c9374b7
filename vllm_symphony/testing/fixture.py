"""The pytest plugin (testing/fixture.py): `machine`, a fresh machine for each test, on which nothing may be left.

Its seed is SYMPHONY_SEED (default 0); a failed test shows it, with the programs that still ran and the last calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vllm_symphony.testing.machine import Machine

SEED_VARIABLE = "SYMPHONY_SEED"


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A simulated machine. At the end of a test that passed, no program runs and no file is open."""
    from vllm_symphony.testing.machine import Machine

    num_failed = request.session.testsfailed
    with Machine(seed=int(os.environ.get(SEED_VARIABLE, "0"))) as m:
        yield m
        request.node.add_report_section("teardown", "machine", f"{m.describe()}\n{SEED_VARIABLE}={m.seed} repeats it")
        if request.session.testsfailed == num_failed:
            m.check_idle()
