"""The least work left goes first, within fair sharing (kernel/sched/shortest.py): the default.

    overdue: with 1 / stretch of its part it would be done     in the order in which they came to be so
    the others                                                by what is left of their predicted work, least first

Least left first has the least mean completion there is (Schrage, 1968), but a long program may wait for ever. So each has a time by
which it would be done if all shared the device equally and it got 1 / `stretch` of its part; who is not done then goes before all
that have not come to theirs. With a stretch of 1 long programs are overdue so often that the mean loses about a tenth.

    work     weighted tokens, predicted from programs of that name (predict.py) and corrected: who has had more than was predicted
             is expected to need what those needed that came as far; when a name is known twice as well, all of it are seen anew
    V        virtual time: what each of the N programs that want something would have got by now, if they shared equally
    F        V at its first call + stretch x its work; the time in which it wants nothing does not count, so nobody saves up

Calls that run keep their rows: one that gives way waits with its pages, which others then lack; that cost more than it gained.
Bound: from F on none goes before a program but those whose F is smaller, and the calls that run.
Source: fair sharing's end as a deadline is that of Friedman and Henderson, "Fairness and efficiency in web server protocols"
(SIGMETRICS 2003), with programs for flows as in Justitia (arXiv 2510.17015).
Rejected: the order of F alone (justitia.py). Where programs are of like size it serves them as they came, and its mean is no better
than VTC's. Work in KV times steps: right where pages are short, but rows and prompts are what is short on the devices measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from vllm_symphony.kernel.sched.parameter import Parameter
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.program import Program
from vllm_symphony.kernel.sched.ranking import Key, Ranking
from vllm_symphony.kernel.sched.runnable import Runnable, Service

STRETCH = 2.0
STEP = 1.25  # a correction adds at least a quarter
NAMES = 1024  # whose ended programs are counted, beside those that are there


class Works(Protocol):
    """The weighted tokens of a program of this name (principal, program) that has had `so_far`. predict.py's."""

    def work(self, name: tuple[str, str], so_far: float = 0.0) -> float: ...


@dataclass(slots=True)
class Plan:
    """Of a program. `begun`: V at its first call, and what V advanced since while it wanted nothing; `rests`: V since then."""

    begun: float
    work: float
    stretch: float
    rests: float | None = None

    @property
    def finish(self) -> float:
        """F."""
        return self.begun + self.stretch * self.work


class ShortestLeft(Policy):
    name = "shortest"
    help = "programs with the least predicted work left; before them those that are long overdue by fair sharing"
    parameters = {"stretch": Parameter(STRETCH, 1.0, "times as long as under fair sharing, then a program goes first")}  # noqa: RUF012

    def __init__(self, works: Works, stretch: float = STRETCH) -> None:
        self.works, self.stretch = works, stretch
        self.virtual = 0.0
        self.plans: dict[Program, Plan] = {}
        self._sharing: Ranking[Program] = Ranking()  # want something, and have not come to F
        self._named: defaultdict[tuple[str, str], dict[Program, None]] = defaultdict(dict)
        self._num_ended: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._changed: dict[Program, None] = {}

    # ---- what happens

    def called(self, call: Runnable, now_s: float) -> None:
        call.rank = (call.number,)
        program = call.program
        plan = self.plans.get(program)
        if plan is None:
            plan = self.plans[program] = Plan(self.virtual, max(self._predicted(program), program.tokens), self.stretch)
            self._named[_name(program)][program] = None
        elif plan.rests is not None:
            plan.begun += self.virtual - plan.rests
            plan.rests = None
        else:
            return
        self._share(program, plan)

    def served(self, call: Runnable, service: Service, now_s: float) -> bool:
        self._advance(service.tokens)
        program, plan = call.program, self.plans[call.program]
        if program.tokens > plan.work:
            plan.work = max(self._predicted(program), STEP * program.tokens)
            self._share(program, plan)
        return bool(program.waiting)

    def done(self, call: Runnable, now_s: float) -> bool:
        program = call.program
        if not (program.waiting or program.num_running):
            self.plans[program].rests = self.virtual
            self._sharing.discard(program)
        return False

    def left(self, program: Program, now_s: float) -> None:
        if self.plans.pop(program, None) is None:
            return
        name = _name(program)
        self._sharing.discard(program)
        self._changed.pop(program, None)
        del self._named[name][program]
        self._num_ended[name] += 1
        if self._num_ended[name].bit_count() == 1:
            self._look_anew(name)
        if not self._named[name]:
            del self._named[name]
            if len(self._num_ended) > 2 * len(self._named) + NAMES:
                self._num_ended.clear()

    def aged(self, now_s: float) -> Iterable[Runnable]:
        changed, self._changed = self._changed, {}
        return [first for program in changed if (first := program.waiting.first()) is not None]

    # ---- what follows

    def key(self, program: Program, first: Runnable) -> Key:
        plan = self.plans[program]
        if plan.finish <= self.virtual:
            return (0, plan.finish, program.number)
        return (1, max(0.0, plan.work - program.tokens), program.number)

    # ---- inside

    def _predicted(self, program: Program) -> float:
        return self.works.work(_name(program), program.tokens)

    def _look_anew(self, name: tuple[str, str]) -> None:
        """More is known of programs of this name."""
        for program in self._named[name]:
            plan = self.plans[program]
            plan.work = max(self._predicted(program), program.tokens)
            if plan.rests is None:
                self._share(program, plan)
            self._changed[program] = None

    def _share(self, program: Program, plan: Plan) -> None:
        if plan.finish > self.virtual:
            self._sharing.set(program, (plan.finish,))
        else:
            self._sharing.discard(program)

    def _advance(self, served: float) -> None:
        """The device has done so much: fair sharing would have divided it, up to each one's end."""
        while (first := self._sharing.first()) is not None:
            (finish,), num = self._sharing.key(first), len(self._sharing)
            if served < num * (finish - self.virtual):
                self.virtual += served / num
                return
            served -= num * max(0.0, finish - self.virtual)
            self.virtual = max(self.virtual, finish)
            self._sharing.discard(first)
            self._changed[first] = None


def _name(program: Program) -> tuple[str, str]:
    return program.principal, program.name
