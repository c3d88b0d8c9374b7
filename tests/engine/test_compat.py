"""vLLM under us: the version that this is proven on, every seam that it needs, and plain requests that notice nothing."""

from __future__ import annotations

import pytest

from tests.counts import FULL
from tests.engine import plain_outputs
from tests.engine.warm import run_apart
from vllm_symphony.engine import compat
from vllm_symphony.errors import NotSupported


def test_this_vllm_has_every_seam():
    assert compat.missing_seams() == []


def test_a_seam_that_is_gone_is_named(monkeypatch):
    gone = ("vllm.v1.core.sched.scheduler", "Scheduler", "no_such_member", "a test")
    monkeypatch.setattr(compat, "SEAMS", (*compat.SEAMS, gone))
    monkeypatch.setattr(compat, "ATTRIBUTES", (*compat.ATTRIBUTES, ("vllm.v1.request", "Request", "self.no_such_attribute")))

    missing = compat.missing_seams()

    assert len(missing) == 2 and "no_such_member (a test)" in missing[0] and "no_such_attribute" in missing[1]


@pytest.mark.parametrize("found", ["0.31.3", "0.32.1", "0.33.0", "1.0"])
def test_another_vllm_is_refused_with_the_version_to_install(monkeypatch, found):
    import vllm

    monkeypatch.setattr(vllm, "__version__", found)

    with pytest.raises(NotSupported, match=r"vllm==0\.32\.0") as caught:
        compat.check_version()
    assert found in str(caught.value)


def test_a_local_build_of_the_version_is_accepted(monkeypatch):
    import vllm

    monkeypatch.setattr(vllm, "__version__", compat.VLLM_VERSION + "+cpu")

    compat.check_version()


@pytest.mark.parametrize("size", ["small", "large"] if FULL else ["small"])
def test_plain_requests_get_bit_for_bit_what_vllms_scheduler_gives(size):
    """Also with a cache so small that vLLM preempts: the same steps, tokens and log-probabilities."""
    ours, stock = (run_apart(plain_outputs.found, which, size == "small", timeout_s=120) for which in ("ours", "stock"))

    assert ours == stock
