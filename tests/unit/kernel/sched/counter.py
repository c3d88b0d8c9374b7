"""A device that counts steps, for tests of the run queue: rows and room for KV, and nothing else.

A step gives every running call its whole prompt or one decoded token. A call takes its room when it begins, as vLLM's cache would
be asked for all that it will hold; nobody passes another that finds none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vllm_symphony.abi.types import Pid
from vllm_symphony.kernel.effect import Owner, ProcessBegan
from vllm_symphony.kernel.sched.policy import Policy
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import Runnable, Service

Programs = list[tuple[int, list[int]]]  # when each comes, and the steps of its calls, one after the other


@dataclass(eq=False)
class Work:
    """What a call asks for, and what it has."""

    prompt: int
    decode: int
    pid: int
    asked_at: int
    call: Runnable | None = None
    prefilled: bool = False
    decoded: int = 0
    began_at: int | None = None

    @property
    def room(self) -> int:
        return self.prompt + self.decode

    @property
    def held(self) -> int:
        return self.prompt * self.prefilled + self.decoded


@dataclass
class CountingDevice:
    queue: RunQueue
    room: int = 1 << 30
    passes: bool = False  # whether those behind one that finds no room may begin
    flat: bool = False  # every step of a call costs one, as if it took the whole device
    now: int = 0
    works: dict[Runnable, Work] = field(default_factory=dict)
    running: list[Runnable] = field(default_factory=list)
    began: list[Work] = field(default_factory=list)  # in order
    ended: list[Work] = field(default_factory=list)
    got: Counter[int] = field(default_factory=Counter)  # weighted tokens, by pid
    num_idle_rows: int = 0

    def program(self, pid: int, principal: str = "", name: str = "", priority: int = 0, parent: int | None = None) -> None:
        self.queue.began(ProcessBegan(Pid(pid), parent and Pid(parent), principal, name or f"p{pid}", priority), self.now)

    def end(self, pid: int) -> None:
        self.queue.ended(Pid(pid), self.now)

    def ask(self, pid: int, prompt: int, decode: int, principal: str = "") -> Work:
        work = Work(prompt, decode, pid, self.now)
        work.call = self.queue.add(Owner(pid=Pid(pid), principal=principal, program=f"p{pid}"), prompt, self.now)
        self.works[work.call] = work
        return work

    @property
    def free(self) -> int:
        return self.room - sum(self.works[call].room for call in self.works if self.works[call].began_at is not None)

    def look(self) -> None:
        """Fill the rows."""
        queue = self.queue
        queue.age(self.now)
        while len(self.running) >= queue.rows and (rival := queue.rival(self.running)) is not None:
            call = queue.take(self.now)
            self.running.remove(rival)
            queue.put_back(rival, self.now)
            assert call is not None
            if not self._begin(call):
                queue.put_back(call, self.now)
                queue.claim(rival, self.now)
                self.running.append(rival)
                break
        missed = []
        while len(self.running) < queue.rows and (self.passes or not missed) and (call := queue.take(self.now)) is not None:
            if not self._begin(call):
                missed.append(call)
        for call in missed:
            queue.put_back(call, self.now)
        queue.check()

    def _begin(self, call: Runnable) -> bool:
        work = self.works[call]
        if work.began_at is None:
            if work.room > self.free:
                return False
            work.began_at = self.now
            self.began.append(work)
        self.running.append(call)
        return True

    def step(self) -> None:
        self.look()
        self.num_idle_rows += bool(self.queue.num_waiting) * (self.queue.rows - len(self.running))
        self.now += 1
        for call in list(self.running):
            work = self.works[call]
            prefill = 0 if work.prefilled else work.prompt
            decode = 1 - bool(prefill)
            work.prefilled = True
            work.decoded += decode
            service = Service(prefill, decode, 1 if self.flat else work.held)
            self.queue.charge(call, service, self.now)
            self.got[work.pid] += service.tokens
            if work.decoded >= work.decode:
                self.running.remove(call)
                del self.works[call]
                self.queue.remove(call, self.now)
                self.ended.append(work)

    def cancel(self, call: Runnable) -> None:
        """Whatever it does."""
        if call in self.running:
            self.running.remove(call)
        del self.works[call]
        self.queue.remove(call, self.now)

    def drain(self, steps: int = 1_000_000) -> None:
        while self.works and steps:
            self.step()
            steps -= 1
        assert not self.works


def ends_of(programs: Programs, policy: Policy) -> list[int]:
    """When each is done with one row, as the policy orders them."""
    device = CountingDevice(RunQueue(1, policy), flat=True)
    left = [list(calls) for _, calls in programs]
    ends = [-1] * len(programs)
    while min(ends) < 0:
        for pid, (at, _) in enumerate(programs, 1):
            if at == device.now:
                device.program(pid)
                device.ask(pid, 0, left[pid - 1].pop(0))
        num = len(device.ended)
        device.step()
        for work in device.ended[num:]:
            if calls := left[work.pid - 1]:
                device.ask(work.pid, 0, calls.pop(0))
            else:
                ends[work.pid - 1] = device.now
                device.end(work.pid)
    return ends
