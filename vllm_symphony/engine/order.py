"""File calls in the run queue, as vLLM's lists have them (engine/order.py).

    vLLM: running --settle--> the call runs         the queue's `first` --> those that admission.py looks at
          held, parked -----> the call waits        `make_way`          --> who gives its row to whom

The lists are the truth about who runs: vLLM ends, preempts and leaves out requests by its own rules, so before and after each look
the queue is told who does. What a step computes is charged when it is planned, for a request may have ended when its answer comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from vllm_symphony.kernel.sched.predict import Predictor
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import Runnable, Service

if TYPE_CHECKING:
    from vllm_symphony.engine.job import FileJob


class Order:
    """`step_tokens`: what one that decodes computes in a step."""

    def __init__(self, rows: int, step_tokens: int, predictor: Predictor, clock: Callable[[], float]) -> None:
        self.queue = RunQueue(rows, predictor=predictor)
        self.clock = clock
        self._step_tokens = step_tokens
        self._calls: dict[FileJob, Runnable] = {}
        self._jobs: dict[Runnable, FileJob] = {}
        self._on: dict[FileJob, None] = {}  # those that run

    # ---- what happens

    def add(self, job: FileJob, num_tokens: int) -> None:
        """It wants to compute; so many tokens before its first answer."""
        call = self.queue.add(job.effect.owner, num_tokens if num_tokens > self._step_tokens else 0, self.clock())
        self._calls[job] = call
        self._jobs[call] = job

    def remove(self, job: FileJob) -> None:
        """It has ended."""
        call = self._calls.pop(job)
        del self._jobs[call]
        self._on.pop(job, None)
        self.queue.remove(call, self.clock())

    def clear(self) -> None:
        """All have ended."""
        for job in list(self._calls):
            self.remove(job)

    def charge(self, job: FileJob, num_tokens: int) -> None:
        """The next step computes so many tokens for it; vLLM has counted them already."""
        decode = num_tokens if num_tokens <= self._step_tokens else 0
        service = Service(num_tokens - decode, decode, job.request.num_computed_tokens)
        self.queue.charge(self._calls[job], service, self.clock())

    def settle(self, running: Iterable[FileJob]) -> None:
        """These run, the others wait."""
        now_s, on = self.clock(), dict.fromkeys(running)
        for job in self._on:
            if job not in on:
                self.queue.put_back(self._calls[job], now_s)
        for job in on:
            if job not in self._on:
                self.queue.claim(self._calls[job], now_s)
        self._on = on

    # ---- what follows

    @property
    def num_running(self) -> int:
        return len(self._on)

    def runs(self, job: FileJob) -> bool:
        return job in self._on

    def first(self, num: int) -> list[FileJob]:
        """Of those that wait, the first that may begin."""
        return [self._jobs[call] for call in self.queue.look(num, self.clock())]

    def placed(self, running: Iterable[FileJob]) -> list[FileJob]:
        """These in the order in which they get tokens."""
        return sorted(running, key=lambda job: self.queue.place(self._calls[job]))

    @property
    def has_caps(self) -> bool:
        """Some principal may not have any number of calls at once."""
        return self.queue.has_caps

    def is_capped(self, job: FileJob) -> bool:
        return self.queue.principals[self._calls[job].program.principal].cap is not None

    def choose(self, num: int, waiting: Iterable[FileJob]) -> list[FileJob]:
        """Who has `num` rows: those that run, but for who gives way; then these, in this order."""
        queue, now_s = self.queue, self.clock()
        chosen, waiting = self.placed(self._on)[:num], list(waiting)
        self.settle(chosen)
        while waiting and len(chosen) < num:
            chosen.append(waiting.pop(0))
        while waiting and num and self._calls[waiting[0]] is queue.first():
            loser = queue.rival(self._calls[job] for job in chosen if job in self._on)
            if loser is None:
                break
            winner = waiting.pop(0)
            chosen[chosen.index(self._jobs[loser])] = winner
            del self._on[self._jobs[loser]]
            self._on[winner] = None
            queue.claim(self._calls[winner], now_s)
            queue.put_back(loser, now_s)
        return chosen

    def check(self) -> None:
        """The queue and the lists speak of the same calls."""
        self.queue.check()
        assert set(self.queue.calls) == set(self._calls.values())
        assert {self._calls[job] for job in self._on} == {call for call in self.queue.calls if call.is_running}
