"""Queues by attained service (kernel/sched/levels.py): the machine under plas.py and atlas.py.

    level 0   < quantum          FCFS      a new call enters at what its program has attained
    level 1   < 2 quantum        FCFS      one that runs moves down when it has attained more, and gives its row to higher levels
    level 2   < 4 quantum        FCFS
    ...

Programs that need little are done before those that need much are known to; nothing is predicted. Inside a level calls come in the
order in which they entered it, so that those of a level are not all half done.

Who starves is *forgiven*: once (W_p + W_c) / (T_p + T_c) >= patience, of the waiting and running times of its program's ended
calls and its own, the call enters level 0 anew and its own counters begin at nothing. That moment is reckoned when the call begins
to wait and kept in a heap, so nobody is scanned for; what its program has run meanwhile is seen when it comes.
Bound: a call waits for at most patience x (T_p + T_c) until it is forgiven, then only for calls that were in level 0 before it.
Source: Luo et al., "Autellix" (arXiv 2502.13965), section 4.2 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

from vllm_symphony.kernel.sched.parameter import Parameter
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.program import Program
from vllm_symphony.kernel.sched.runnable import Runnable, Service

NUM_LEVELS = 32


@dataclass(slots=True)
class Attained:
    """Of a program: weighted tokens as the policy counts them, and the times of its calls that have ended."""

    tokens: float = 0.0
    waited_s: float = 0.0
    ran_s: float = 0.0


@dataclass(slots=True)
class Place:
    """Of a call: what its program had attained when it came, what it has, and when it will have starved (by `heap`, if it waits).
    The times are those it had when it was forgiven, the tokens those that do not count since."""

    inherited: float
    level: int = 0
    forgiven: float = 0.0
    waited_s: float = 0.0
    ran_s: float = 0.0
    is_watched: bool = False


class Levels(Policy):
    parameters = {  # noqa: RUF012
        "quantum": Parameter(256.0, 1.0, "weighted tokens of the first level; each further level is twice as deep"),
        "patience": Parameter(16.0, 1.0, "a call that has waited for so many times as long as its program has run goes first"),
    }

    def __init__(self, quantum: float = 256.0, patience: float = 16.0) -> None:
        self.quantum, self.patience = quantum, patience
        self.attained: dict[Program, Attained] = {}
        self.places: dict[Runnable, Place] = {}
        self._starving: list[tuple[float, int, Runnable]] = []
        self._entries = 0
        self.num_forgiven = 0

    def add_up(self, attained: Attained, place: Place, tokens: float) -> None:
        """A call has ended with so many tokens."""
        raise NotImplementedError

    def level(self, tokens: float) -> int:
        return min(NUM_LEVELS, math.frexp(tokens / self.quantum)[1]) if tokens >= self.quantum else 0

    # ---- what happens

    def called(self, call: Runnable, now_s: float) -> None:
        attained = self.attained.setdefault(call.program, Attained())
        place = self.places[call] = Place(attained.tokens)
        self._enter(call, place, self.level(place.inherited))
        self.returned(call, now_s)

    def returned(self, call: Runnable, now_s: float) -> None:
        place = self.places[call]
        if place.level and not place.is_watched:
            place.is_watched = True
            heappush(self._starving, (now_s + self._left_s(call, place, now_s), call.number, call))

    def served(self, call: Runnable, service: Service, now_s: float) -> bool:
        place = self.places[call]
        level = self.level(place.inherited + call.tokens - place.forgiven)
        if level <= place.level:
            return False
        self._enter(call, place, level)
        return True

    def done(self, call: Runnable, now_s: float) -> bool:
        place, attained = self.places.pop(call), self.attained[call.program]
        self.add_up(attained, place, call.tokens)
        attained.waited_s += call.waited(now_s) - place.waited_s
        attained.ran_s += call.ran_s - place.ran_s
        return False

    def left(self, program: Program, now_s: float) -> None:
        self.attained.pop(program, None)

    def aged(self, now_s: float) -> Iterable[Runnable]:
        forgiven = []
        while self._starving and self._starving[0][0] <= now_s:
            _, _, call = heappop(self._starving)
            place = self.places.get(call)
            if place is None:
                continue
            place.is_watched = False
            if call.is_running or not place.level:
                continue
            if self._left_s(call, place, now_s) > 0:
                self.returned(call, now_s)  # its program has run since
                continue
            place.forgiven = place.inherited + call.tokens
            place.waited_s, place.ran_s = call.waited(now_s), call.ran_s
            self._enter(call, place, 0)
            self.num_forgiven += 1
            forgiven.append(call)
        return forgiven

    def yields(self, running: Runnable, waiting: Runnable) -> bool:
        return self.places[running].level > self.places[waiting].level

    def _enter(self, call: Runnable, place: Place, level: int) -> None:
        self._entries += 1
        place.level = level
        call.rank = (level, self._entries)

    def _left_s(self, call: Runnable, place: Place, now_s: float) -> float:
        """Seconds of waiting until it starves."""
        attained = self.attained[call.program]
        waited = attained.waited_s + call.waited(now_s) - place.waited_s
        return self.patience * (attained.ran_s + call.ran_s - place.ran_s) - waited
