"""Many programs that begin at the same moment (benchmarks/fleet.py).

    spawn n --> each opens its file, emits `ready`, looks for the gate
                meter; the gate's file is made --> 0.1 s later all begin --> each emits what it took --> meter --> they end

Programs are real processes of the fork server. Launch and end lie outside of the measured time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.apart import Failed
from benchmarks.plain import Timing
from benchmarks.programs import source
from benchmarks.rig import Rig
from benchmarks.session import Child, Session
from benchmarks.stats import median
from benchmarks.vllm_rig import VllmRig

LINGER_S = 0.3
_GATES = itertools.count(1)


class Fleet:
    """Programs on a rig."""

    def __init__(self, rig: Rig | VllmRig) -> None:
        self._rig = rig

    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int, how: str, top_k: int = 20) -> Timing:
        """Decode all prompts together, one program each, from the first one's beginning to the last one's end; `how` is a way of
        programs/decode.py."""
        with self._started(prompts, {"num_tokens": num_tokens, "how": how, "top_k": top_k}) as run:
            before = self._rig.meter()
            run.open_gate()
            run.until(all, 2)
            meter = self._rig.meter() - before
        took = run.results()
        seconds = max(t["ended"] for t in took) - min(t["began"] for t in took)
        return Timing(len(prompts) * num_tokens, seconds, meter, sum(t["cpu_s"] for t in took))

    def step(self, prompts: Sequence[Sequence[int]], num_tokens: int, top_k: int = 20) -> Timing:
        """Token by token, while all of them are at it: from when the last one is warm to when the first one ends.

        The tokens are the rows that the engine computed then, so that a start a little apart is no part of it.
        """
        warm_up = max(1, num_tokens // 6)
        with self._started(prompts, {"num_tokens": num_tokens, "how": "token", "top_k": top_k, "warm_up": warm_up}) as run:
            run.open_gate()
            run.until(all, 2)
            before = self._rig.meter()
            run.until(any, 3)
            meter = self._rig.meter() - before
            run.until(all, 3)
        rows = int(meter.counters["rows"])
        if not rows:
            raise Failed("the programs never ran all together: give them more tokens")
        cpu_s = sum(t["cpu_s"] for t in run.results()) / (len(prompts) * num_tokens)  # of a token
        return Timing(rows, meter.at, meter, rows * cpu_s)

    def pace(self, prompts: Sequence[Sequence[int]], num_tokens: int, late_s: float) -> float:
        """Token by token, in lock step with a program that is so late every time: tokens a second of each of the others."""
        with self._started(prompts, {"num_tokens": num_tokens, "how": "token", "top_k": 20}, late_s) as run:
            run.open_gate()
            run.until(all, 2)
        return num_tokens / median([took["ended"] - took["began"] for took in run.results()[1:]])

    @contextmanager
    def _started(self, prompts: Sequence[Sequence[int]], args: dict[str, Any], late_s: float = 0.0) -> Iterator[Run]:
        """Programs before their gate, the first of them late; at the end they have all ended."""
        session = self._rig.session
        gate, text = f"/tmp/bench-gate-{next(_GATES)}", source("decode")
        args = {**args, "gate": gate, "linger_s": LINGER_S}
        late = [late_s, *[0.0] * len(prompts)]
        children = [session.spawn(text, "decode", prompt=list(p), late_s=s, **args) for p, s in zip(prompts, late, strict=False)]
        run = Run(session, gate, children)
        run.until(all, 1)
        yield run
        session.remove(gate, run.gate_fd)
        session.wait(*run.children)


class Run:
    """Programs that were started together."""

    def __init__(self, session: Session, gate: str, children: list[Child]) -> None:
        self._session, self._gate = session, gate
        self.children = children
        self.gate_fd: int | None = None

    def open_gate(self) -> None:
        self.gate_fd = self._session.create(self._gate)

    def until(self, quorum: Callable[[Iterable[bool]], bool], num_emitted: int) -> None:
        """Until `all` or `any` of them have emitted so many values. Raises Failed when one ended before."""
        children = self.children
        self._session.pump(lambda: quorum(len(c.emitted) >= num_emitted for c in children) or any(c.exit for c in children))
        for child in children:
            if child.exit and len(child.emitted) < num_emitted:
                child.value()

    def results(self) -> list[dict[str, float]]:
        """What each emitted last."""
        for child in self.children:
            child.value()
        return [child.emitted[-1] for child in self.children]
