"""The run queue: every call that wants the device, and who is next (kernel/sched/queue.py).

    principals   by counter (fair.py): weighted service, so 1,000 programs of one get no more than one of another
        programs     by the policy's key
            calls        by rank

`take` gives the first that may begin, which counts as running from then on; the device tries to make room for it, and puts it
back if there is none. Its prompt is charged at once, else one look could give all rows to who has had least; what is not computed
of it is given back. All is O(log n) of the calls that wait; `rival` and `place` look at those that run only.

Where rows are short a running call gives way in two cases only (`rival`): its policy says so (a spent quantum, a lower level), or
its principal has more than its part of the rows and has had QUANTUM more than the one that waits. The first is an order that only
service changes; after the second neither holds the other way round. So nobody takes turns in undoing the other's work.
A principal's *cap* is the most of its calls that run at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm_symphony.abi.types import Pid
from vllm_symphony.kernel.effect import Owner, ProcessBegan, ProcessEnded, Rests, Resumes, SetPolicy, Weigh
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.kernel.sched.fair import Counters
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.predict import Predictor
from vllm_symphony.kernel.sched.program import Program
from vllm_symphony.kernel.sched.ranking import Ranking
from vllm_symphony.kernel.sched.runnable import PROMPT_WEIGHT, Runnable, Service

QUANTUM = 256.0  # weighted tokens that a principal may be ahead before it gives up rows


@dataclass(slots=True, eq=False)
class Principal:
    """Whose programs they are, `number` in the order of their first calls. `programs`: those with calls that wait; `tokens`:
    weighted, so far."""

    name: str
    number: int
    weight: float = 1.0
    cap: int | None = None
    programs: Ranking[Program] = field(default_factory=Ranking)
    num_running: int = 0
    tokens: float = 0.0
    is_counted: bool = False  # its weight is in the sum of those that want something


class RunQueue:
    def __init__(self, rows: int, policy: Policy | None = None, predictor: Predictor | None = None) -> None:
        """`rows`: the most calls in a step."""
        self.rows = rows
        self.predictor = predictor or Predictor()
        self.policy = policy or catalogue.policy_of(catalogue.DEFAULT, {}, self.predictor)
        self.principals: dict[str, Principal] = {}
        self.programs: dict[Pid, Program] = {}  # by the pids of their processes
        self.calls: dict[Runnable, None] = {}  # that wait or run, in order of arrival
        self.num_running = 0
        self.has_caps = False
        self._counters: Counters[str] = Counters()
        self._ready: Ranking[str] = Ranking()  # principals with calls that may begin
        self._weight = 0.0  # of principals that want something
        self._num_calls = self._num_programs = 0

    @property
    def num_waiting(self) -> int:
        return len(self.calls) - self.num_running

    # ---- who is there

    def hear(self, e: ProcessBegan | ProcessEnded | Rests | Resumes | Weigh | SetPolicy, now_s: float) -> None:
        """What the kernel tells of programs, as far as it is about their order."""
        match e:
            case ProcessBegan():
                self.began(e, now_s)
            case ProcessEnded(pid):
                self.ended(pid, now_s)
            case Weigh(principal, weight, cap):
                self.weigh(principal, weight, cap)
            case SetPolicy(catalogue.PROCESS, name, parameters):
                self.use(catalogue.policy_of(name, dict(parameters), self.predictor), now_s)

    def began(self, e: ProcessBegan, now_s: float) -> None:
        """A process has begun: a program, or a part of its starter's."""
        program = self.programs.get(e.parent) if e.parent is not None else None
        if program is None:
            program = self._new_program(e.principal, e.program, e.priority, now_s)
        program.pids.add(e.pid)
        self.programs[e.pid] = program

    def ended(self, pid: Pid, now_s: float) -> None:
        """It makes no calls any more. Harmless for a pid that nobody knows."""
        program = self.programs.pop(pid, None)
        if program is not None:
            program.pids.discard(pid)
            self._settle(program, now_s)

    def weigh(self, name: str, weight: float, cap: int | None) -> None:
        """From here on a principal has this part, and at most so many calls at once."""
        principal = self._principal(name)
        if principal.is_counted:
            self._weight += weight - principal.weight
        principal.weight, principal.cap = weight, cap
        self.has_caps = any(p.cap is not None for p in self.principals.values())
        self._counters.weigh(name, weight)
        self._place(principal)

    def use(self, policy: Policy, now_s: float) -> None:
        """From here on this policy decides; it is told of all that is there, as if it came now."""
        self.policy = policy
        for call in self.calls:
            policy.called(call, now_s)
            if not call.is_running:
                call.program.waiting.set(call, call.rank)
        for program in dict.fromkeys(call.program for call in self.calls):
            if program.waiting:
                policy.entered(program, rested=True)
            self._rank(program)

    # ---- calls

    def add(self, owner: Owner, prompt: int, now_s: float) -> Runnable:
        """A call wants the device. `prompt`: tokens to compute before its first answer."""
        program = self.programs.get(owner.pid)
        if program is None:
            program = self._new_program(owner.principal, owner.program, owner.priority, now_s)
        self._num_calls += 1
        call = Runnable(self._num_calls, owner, program, prompt, now_s, since_s=now_s)
        program.num_calls += 1
        self.calls[call] = None
        self.policy.called(call, now_s)
        self._wait(call, rested=True)
        return call

    def first(self) -> Runnable | None:
        """Who would be taken."""
        name = self._ready.first()
        program = self.principals[name].programs.first() if name is not None else None
        return program.waiting.first() if program is not None else None

    def take(self, now_s: float) -> Runnable | None:
        """The first that may begin; it runs from here on. None: none may."""
        call = self.first()
        if call is not None:
            self.claim(call, now_s)
        return call

    def look(self, num: int, now_s: float) -> list[Runnable]:
        """The first `num` that may begin, in order; they wait as before."""
        found: list[Runnable] = []
        while len(found) < num and (call := self.take(now_s)) is not None:
            found.append(call)
        for call in found:
            self.put_back(call, now_s)
        return found

    def claim(self, call: Runnable, now_s: float) -> None:
        """This one runs from here on, whatever its place."""
        assert not call.is_running
        self._unwait(call)
        call.turn(now_s)
        self._run(call.program, 1)
        call.prepaid = PROMPT_WEIGHT * call.prompt
        self._pay(call, call.prepaid)

    def put_back(self, call: Runnable, now_s: float) -> None:
        """It waits again: there is no room for it, or it gives way. A device that has forgotten what was computed of it says so in
        `call.prompt` before."""
        assert call.is_running
        self._pay(call, -call.prepaid)
        call.prepaid = 0.0
        call.turn(now_s)
        self._run(call.program, -1)
        self.policy.returned(call, now_s)
        self._wait(call, rested=False)

    def charge(self, call: Runnable, service: Service, now_s: float) -> None:
        """A step has computed this for it."""
        covered = min(call.prepaid, PROMPT_WEIGHT * service.prefill)
        call.prepaid -= covered
        call.prompt = max(0, call.prompt - service.prefill)
        call.tokens += service.tokens
        call.decoded += service.decode
        call.program.tokens += service.tokens
        self.principals[call.program.principal].tokens += service.tokens
        call.program.cost += service.held
        if self.policy.served(call, service, now_s):
            self._rank(call.program)
        self._pay(call, service.tokens - covered)

    def remove(self, call: Runnable, now_s: float) -> None:
        """It has ended, or was cancelled."""
        program = call.program
        if call.is_running:
            self._pay(call, -call.prepaid)
            call.turn(now_s)
            self._run(program, -1)
        else:
            self._unwait(call)
            self._place(self.principals[program.principal])
        del self.calls[call]
        if self.policy.done(call, now_s):
            self._rank(program)
        if call.decoded:
            self.predictor.called((program.principal, program.name), call.decoded)
        self._settle(program, now_s)

    # ---- as time passes

    def age(self, now_s: float) -> None:
        """Before each look: who has waited for too long comes first."""
        for call in self.policy.aged(now_s):
            if call in self.calls and not call.is_running:
                call.program.waiting.set(call, call.rank)
                self._rank(call.program)

    def rival(self, running: Iterable[Runnable]) -> Runnable | None:
        """Which of these makes place for the first that waits, when there are no more rows; None: none does."""
        first = self.first()
        if first is None:
            return None
        mine, running = self.principals[first.program.principal], list(running)
        own = [call for call in running if call.program.principal == mine.name and self.policy.yields(call, first)]
        if own:
            return max(own, key=self.place)
        if mine.num_running >= self._part(mine):
            return None
        return max((call for call in running if self._is_above(call, self._counters[mine.name])), key=self.place, default=None)

    def place(self, call: Runnable) -> tuple[Any, ...]:
        """Of a call among those that run; smaller goes first."""
        principal = self.principals[call.program.principal]
        return (self._counters[principal.name], principal.number, self.policy.key(call.program, call), call.rank)

    def check(self) -> None:
        """What is counted is there."""
        self._ready.check()
        running = [call for call in self.calls if call.is_running]
        assert len(running) == self.num_running
        for principal in self.principals.values():
            principal.programs.check()
            assert principal.num_running == sum(call.program.principal == principal.name for call in running)
            assert principal.is_counted == bool(principal.programs or principal.num_running)
            assert (principal.name in self._ready) == bool(principal.programs and not _is_full(principal))
            for program in principal.programs:
                program.waiting.check()
                assert len(program.waiting) and all(call in self.calls and not call.is_running for call in program.waiting)
        for call in self.calls:
            assert call.is_running or call in call.program.waiting
            assert call.is_running or not call.prepaid
        counted = sum(p.weight for p in self.principals.values() if p.is_counted)
        assert abs(self._weight - counted) < 1e-6 * max(1.0, counted)

    # ---- inside

    def _new_program(self, principal: str, name: str, priority: int, now_s: float) -> Program:
        self._principal(principal)
        self._num_programs += 1
        return Program(self._num_programs, principal, name, priority, now_s)

    def _principal(self, name: str) -> Principal:
        if name not in self.principals:
            self.principals[name] = Principal(name, len(self.principals))
        return self.principals[name]

    def _settle(self, program: Program, now_s: float) -> None:
        """If nothing of it is left, learn from it and forget it."""
        if program.is_over:
            if program.num_calls:
                name = program.principal, program.name
                self.predictor.ended(name, program.num_calls, program.cost, program.tokens)
            self.policy.left(program, now_s)

    def _wait(self, call: Runnable, *, rested: bool) -> None:
        program = call.program
        program.waiting.set(call, call.rank)
        if len(program.waiting) == 1:
            self.policy.entered(program, rested=rested)
        self._rank(program)
        self._place(self.principals[program.principal], rested=rested)

    def _unwait(self, call: Runnable) -> None:
        program = call.program
        program.waiting.discard(call)
        if not program.waiting:
            self.policy.emptied(program)
        self._rank(program)

    def _run(self, program: Program, more: int) -> None:
        principal = self.principals[program.principal]
        program.num_running += more
        principal.num_running += more
        self.num_running += more
        self._place(principal)

    def _pay(self, call: Runnable, amount: float) -> None:
        if not amount:
            return
        principal = self.principals[call.program.principal]
        self._counters.pay(principal.name, amount)
        self._place(principal)
        if self.policy.paid(call, amount):
            self._rank(call.program)

    def _rank(self, program: Program) -> None:
        """Its place among its principal's."""
        principal, first = self.principals[program.principal], program.waiting.first()
        if first is None:
            principal.programs.discard(program)
        else:
            principal.programs.set(program, self.policy.key(program, first))

    def _place(self, principal: Principal, *, rested: bool = True) -> None:
        """A principal's, and whether it wants anything. At its cap it does not wait: nobody is lifted to where it stands."""
        wants = bool(principal.programs or principal.num_running)
        if wants is not principal.is_counted:
            principal.is_counted = wants
            self._weight += principal.weight if wants else -principal.weight
        if principal.programs and not _is_full(principal):
            self._counters.enter(principal.name, rested=rested)
            self._ready.set(principal.name, (self._counters[principal.name], principal.number))
        else:
            self._counters.leave(principal.name)
            self._ready.discard(principal.name)

    def _part(self, principal: Principal) -> float:
        """Of the rows, by weight among those that want something."""
        return self.rows * principal.weight / self._weight

    def _is_above(self, call: Runnable, counter: float) -> bool:
        """Its principal has more than its part of the rows, and has had QUANTUM more than one with this counter."""
        principal = self.principals[call.program.principal]
        return principal.num_running > self._part(principal) and self._counters[principal.name] - counter > QUANTUM


def _is_full(principal: Principal) -> bool:
    return principal.cap is not None and principal.num_running >= principal.cap
