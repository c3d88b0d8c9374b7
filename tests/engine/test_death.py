"""An exception inside the step: nobody waits for ever (death.py)."""

from __future__ import annotations

from tests.engine.apart import names, outcomes

MODULE = "tests.engine.death"


def test_an_engine_that_dies_in_a_step_fails_every_job_once():
    results = outcomes(MODULE, timeout_s=120)

    assert results == dict.fromkeys(names(MODULE))


def test_stopping_a_busy_engine_fails_what_is_in_flight():
    module = "tests.engine.stopping"

    assert outcomes(module, timeout_s=120) == dict.fromkeys(names(module))
