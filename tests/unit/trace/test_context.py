"""W3C trace contexts: what is one, and what is passed over."""

import pytest

from vllm_symphony.trace.context import TraceContext, parse, well_formed

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_context_is_read():
    assert parse(GOOD) == TraceContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, True)
    assert parse(GOOD[:-1] + "0") == TraceContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, False)
    assert well_formed(f" {GOOD}\n") == GOOD


def test_a_later_version_may_have_more_behind_it():
    assert parse("cc" + GOOD[2:] + "-what-comes") is not None


@pytest.mark.parametrize(
    "text",
    [
        "", "none", GOOD[:-1], GOOD + "0", GOOD.upper(), "ff" + GOOD[2:], GOOD + "-more",
        GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        GOOD.replace("00f067aa0ba902b7", "0" * 16), GOOD.replace("-", "_"), "cc" + GOOD[2:] + "-" + "x" * 300, "00-g" + GOOD[4:],
    ],
)  # fmt: skip
def test_what_is_malformed_is_none(text):
    assert parse(text) is None
    assert well_formed(text) == ""
