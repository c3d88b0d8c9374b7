"""Background load: programs that generate for ever (benchmarks/streams.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.apart import Failed
from benchmarks.programs import source
from benchmarks.rig import Rig

NUM_STREAMS = 8


@contextmanager
def streams(rig: Rig, n: int = NUM_STREAMS) -> Iterator[None]:
    """`n` programs that stream; inside, all of them decode."""
    session, text = rig.session, source("stream")
    children = [session.spawn(text, "stream", prompt=rig.prompt(8)) for _ in range(n)]
    session.pump(lambda: all(c.emitted or c.exit for c in children))
    try:
        yield
        session.pump(lambda: True)
        if any(c.exit for c in children):
            raise Failed(f"a stream ended: {[c.exit for c in children if c.exit]}")
    finally:
        session.kill(*children)
