"""Many programs that begin at the same moment (benchmarks/fleet.py).

    spawn n --> each opens its file, emits `ready`, looks for the gate
                meter; the gate's file is made --> 0.1 s later all begin --> each emits what it took --> meter --> they end

Programs are real processes of the fork server. Launch and end lie outside of the measured time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.plain import Timing
from benchmarks.programs import source
from benchmarks.rig import Rig

LINGER_S = 0.3
_GATES = itertools.count(1)


class Fleet:
    """Programs on a rig."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int, how: str, top_k: int = 20) -> Timing:
        """Decode all prompts together, one program each; `how` is a way of programs/decode.py."""
        rig, session = self._rig, self._rig.session
        gate = f"/bench/gate-{next(_GATES)}"
        text = source("decode")
        args = {"num_tokens": num_tokens, "how": how, "gate": gate, "linger_s": LINGER_S, "top_k": top_k}
        children = [session.spawn(text, "decode", prompt=list(p), **args) for p in prompts]
        session.pump(lambda: all(c.emitted or c.exit for c in children))
        before = rig.meter()
        fd = session.create(gate)
        session.pump(lambda: all(len(c.emitted) > 1 or c.exit for c in children))
        meter = rig.meter() - before
        session.remove(gate, fd)
        session.wait(*children)
        for child in children:
            child.value()
        took = [child.emitted[1] for child in children]
        seconds = max(t["ended"] for t in took) - min(t["began"] for t in took)
        return Timing(len(prompts) * num_tokens, seconds, meter, sum(t["cpu_s"] for t in took))
