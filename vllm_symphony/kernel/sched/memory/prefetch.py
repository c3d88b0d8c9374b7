"""When pages that went below should come back (kernel/sched/memory/prefetch.py).

    |--- the tool works ------------------------|  back: its next call finds its pages
                             |<--- load_s --->|
                             begin            `PART` of its tools of this kind are back by now

Into free pages only: what is fetched early takes nothing from anybody, and gives way for nothing, as its copies are below still.
Once a rest: so there are never more fetches than calls of tools, and none that is undone is repeated.
"""

from __future__ import annotations

from vllm_symphony.kernel.sched.memory.policy import Rest
from vllm_symphony.kernel.sched.predict import Name, Predictor

PART = 0.25
COLD = 8  # gaps of a kind before their history is believed


def begins_s(name: Name, rest: Rest, load_s: float, predictor: Predictor, now_s: float) -> float | None:
    """By the clock, when to begin; None: nothing is known, so when it is back."""
    history = predictor.gaps(name, rest.why, rest.tool, COLD)
    back_s = history.quantile(PART, above=max(0.0, now_s - rest.since_s)) if history is not None else None
    return None if back_s is None else max(now_s, rest.since_s + back_s - load_s)
