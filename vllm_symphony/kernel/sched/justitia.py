"""Fair queueing of whole programs by their predicted costs (kernel/sched/justitia.py).

    cost     tokens of KV x steps:  sum of p d + d^2 / 2  over its calls        a short program with little context is cheap
    V        virtual time: the cost that each of N programs would have got by now if all shared the device equally
    F        V at its first call + its cost: when it would be done if they did           the smallest F goes first, with everything

So programs are done in the order in which fair sharing would finish them, each as fast as if it were nearly alone. V advances by
what the device has really held, divided by N, the programs that fair sharing would not have finished: that is the paper's
dV/dt = M/N where memory is full, and needs no M where it is not.

A prediction comes from programs of that name (predict.py) and is corrected: who has cost more than was predicted is given the new
prediction, from now on: F = max(F, V) + what is added. So nobody gains by a lie or by resting, and F changes a logarithmic number
of times. A row changes hands only to a smaller F, so after no more than one step.
Bound: with right predictions a program is done by its time under fair sharing + max C / M + one step.
Source: "Justitia" (arXiv 2510.17015), section 4, theorem 1; V as in weighted fair queueing (Parekh, Gallager, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.program import Program
from vllm_symphony.kernel.sched.ranking import Key, Ranking
from vllm_symphony.kernel.sched.runnable import Runnable, Service

STEP = 1.25  # a correction adds at least a quarter


class Costs(Protocol):
    """What a program of this name (principal, program) will cost that has cost `so_far`. predict.py's."""

    def cost(self, name: tuple[str, str], so_far: float = 0.0) -> float: ...


@dataclass(slots=True)
class Tag:
    """F, and the cost that it was made of."""

    finish: float
    cost: float


class FairFinish(Policy):
    name = "justitia"
    help = "programs in the order in which fair sharing would finish them, by predicted costs (Justitia)"

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.virtual = 0.0
        self.tags: dict[Program, Tag] = {}
        self._sharing: Ranking[Program] = Ranking()  # those that fair sharing would not have finished

    def called(self, call: Runnable, now_s: float) -> None:
        call.rank = (call.number,)
        program = call.program
        if program not in self.tags:
            cost = max(self._predicted(program), program.cost)
            self._tag(program, Tag(self.virtual + cost - program.cost, cost))

    def served(self, call: Runnable, service: Service, now_s: float) -> bool:
        self._advance(service.held)
        program = call.program
        tag = self.tags[program]
        if program.cost <= tag.cost:
            return False
        cost = max(self._predicted(program), STEP * program.cost)
        self._tag(program, Tag(max(tag.finish, self.virtual) + cost - tag.cost, cost))
        return True

    def left(self, program: Program, now_s: float) -> None:
        self.tags.pop(program, None)
        self._sharing.discard(program)

    def key(self, program: Program, first: Runnable) -> Key:
        return (self.tags[program].finish, program.number)

    def yields(self, running: Runnable, waiting: Runnable) -> bool:
        return self.tags[running.program].finish > self.tags[waiting.program].finish

    def _predicted(self, program: Program) -> float:
        return self.costs.cost((program.principal, program.name), program.cost)

    def _tag(self, program: Program, tag: Tag) -> None:
        self.tags[program] = tag
        if tag.finish > self.virtual:
            self._sharing.set(program, (tag.finish,))

    def _advance(self, held: float) -> None:
        """The device has held so much: fair sharing would have divided it, up to each one's end."""
        while (first := self._sharing.first()) is not None:
            (finish,), num = self._sharing.key(first), len(self._sharing)
            if held < num * (finish - self.virtual):
                self.virtual += held / num
                return
            held -= num * max(0.0, finish - self.virtual)
            self.virtual = max(self.virtual, finish)
            self._sharing.discard(first)
