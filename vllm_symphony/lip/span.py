"""Which tokens of a file `extract` takes (lip/span.py): slices, ranges and pairs, as Python counts them.

file.extract([slice(0, 4), slice(-100, None)], positions="compact")        an attention sink, and the last hundred
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vllm_symphony.abi.types import Span
from vllm_symphony.errors import InvalidArgument

OneSpan = slice | range | Span | tuple[int, int]
Spans = slice | range | Span | Iterable[OneSpan]
Positions = Literal["keep", "compact"]


def spans_of(spans: Spans, length: int) -> tuple[Span, ...]:
    """The spans as the call takes them. In slices and pairs a negative index counts from the end, `length`, and slices are clipped
    to it.

    Raises:
        InvalidArgument: there is none, or one is empty, passes the end, or does not stand behind the one before it.
    """
    given = (spans,) if isinstance(spans, slice | range | Span) else tuple(spans)
    made = tuple(_span(one, length) for one in given)
    if not made:
        raise InvalidArgument("extract needs at least one span")
    before = 0
    for span in made:
        if not before <= span.start < span.stop <= length:
            raise InvalidArgument(
                f"spans must be ascending, apart, not empty and in 0..{length}: [{span.start}, {span.stop}) is not",
                start=span.start, stop=span.stop, length=length,
            )  # fmt: skip
        before = span.stop
    return made


def _span(one: OneSpan, length: int) -> Span:
    if isinstance(one, Span):
        return one
    if isinstance(one, tuple):
        start, stop = one
        return Span(start + length if start < 0 else start, stop + length if stop < 0 else stop)
    if one.step not in (None, 1):
        raise InvalidArgument(f"a span has all tokens from its start to its stop: no step of {one.step}")
    return Span(one.start, one.stop) if isinstance(one, range) else Span(*one.indices(length)[:2])
