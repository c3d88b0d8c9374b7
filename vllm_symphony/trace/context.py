"""W3C trace context, as one line of text (trace/context.py).

    00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
    version, trace id (16 bytes), the caller's span id (8 bytes), flags (bit 0: it is sampled)

What is malformed is passed over, as the standard wants it: a wrong header must not fail a request.
Source: https://www.w3.org/TR/trace-context/ (Recommendation, 2021).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?", re.ASCII
)
MAX_LENGTH = 256  # of versions to come; this one has 55


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Whose child a process is, elsewhere."""

    trace_id: int
    span_id: int
    is_sampled: bool


def parse(text: str) -> TraceContext | None:
    """None for what is no trace context."""
    found = _FORM.fullmatch(text.strip()) if len(text) <= MAX_LENGTH else None
    if found is None or found["version"] == "ff" or (found["version"] == "00" and found["more"]):
        return None
    trace_id, span_id = int(found["trace"], 16), int(found["span"], 16)
    return TraceContext(trace_id, span_id, bool(int(found["flags"], 16) & 1)) if trace_id and span_id else None


def well_formed(text: str) -> str:
    """The text, or "" for what is no trace context."""
    return text.strip() if text and parse(text) is not None else ""
