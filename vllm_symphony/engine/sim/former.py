"""Who computes in this step (engine/sim/former.py): the engine's rules (admission.py) in a simple form.

    running --rivals?--> pages? --> tokens -----------+--> batch        gave way: waits, with its pages
    waiting --the queue's order--> pages? --> tokens -+                 no pages: passed by, up to MISSES of them

The order is the run queue's (kernel/sched/queue.py), pages go by age (room.py). When nothing at all can move the youngest that is
parked is preempted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_symphony.engine.sim.job import SimJob
from vllm_symphony.errors import OutOfPages, SymphonyError
from vllm_symphony.kernel.sched.predict import Predictor
from vllm_symphony.kernel.sched.queue import RunQueue
from vllm_symphony.kernel.sched.runnable import Runnable, Service

if TYPE_CHECKING:
    from vllm_symphony.engine.sim.core import SimCore

MISSES = 64  # so many calls without room are looked at while others compute
Batch = list[tuple[SimJob, int]]


class Former:
    """`parked`: those that could not go on in this look."""

    def __init__(self, core: SimCore, predictor: Predictor) -> None:
        self.core = core
        self.queue = RunQueue(core.cost.max_rows, predictor=predictor)
        self.num_parked = self.num_yielded = self.num_failed_room = 0
        self._job_of: dict[Runnable, SimJob] = {}
        self._running: dict[SimJob, Runnable] = {}
        self._born: dict[SimJob, float] = {}  # of those that wait and have no pages yet, their files'
        self.parked: list[SimJob] = []
        self._batch: Batch = []
        self._tokens = 0  # of the step that are left

    # ---- what happens

    def add(self, job: SimJob) -> None:
        """It wants to compute."""
        job.call = self.queue.add(job.effect.owner, self._prompt(job), self.core.clock())
        self._job_of[job.call] = job
        self._born[job] = job.file.born

    def remove(self, job: SimJob) -> None:
        """It has ended."""
        assert job.call is not None
        self.queue.remove(job.call, self.core.clock())
        del self._job_of[job.call]
        self._running.pop(job, None)
        self._born.pop(job, None)

    def charge(self, job: SimJob, num_tokens: int) -> None:
        """It is about to compute so many tokens, in one step or, when all of them are new ones, in as many."""
        assert job.call is not None
        pending = len(job.file.tokens) - job.computed
        prefill, decode = (0, num_tokens) if pending == 1 else (num_tokens, 0)
        steps = max(1, decode)
        held = steps * job.computed + (steps * (steps + 1) // 2 if decode else prefill)
        self.queue.charge(job.call, Service(prefill, decode, held), self.core.clock())

    def preempted(self, job: SimJob) -> None:
        """It has no pages any more."""
        assert job.call is not None
        job.call.prompt = self._prompt(job)
        if self._running.pop(job, None) is not None:
            self.queue.put_back(job.call, self.core.clock())
        self._born[job] = job.file.born

    def _prompt(self, job: SimJob) -> int:
        """Tokens that it computes before its first answer; none if that takes one step of one token."""
        pending = len(job.file.tokens) - (job.computed if job.lent else min(job.file.frontier, job.lowest))
        return pending if pending > 1 else 0

    # ---- the look

    def form(self) -> Batch:
        """The next batch: jobs, and how many tokens they compute."""
        core = self.core
        while core.jobs:
            self.queue.age(core.clock())
            aside = set(self.parked)
            self._batch, self.parked, self._tokens = [], [], core.cost.max_tokens
            winners, losers = self._give_way(aside)
            self._go_on(sorted(self._running, key=self._place))
            self._begin(winners)
            left = [job for job in losers if job not in self._running]
            self._go_on(left[: self.queue.rows - len(self._batch)])
            self.num_yielded += sum(job not in self._running for job in left)
            self.num_parked += len(self.parked)
            if self._batch or not core.jobs or not self._force_room():
                return self._batch
        return []

    def _give_way(self, aside: set[SimJob]) -> tuple[list[Runnable], list[SimJob]]:
        """Take rows from those that must yield; who is to have them, and who had them. Those `aside`, for want of pages in the last
        look, have none to give."""
        queue, now_s = self.queue, self.core.clock()
        winners: list[Runnable] = []
        losers: list[SimJob] = []
        seated = [call for job, call in self._running.items() if job not in aside]
        while len(seated) + len(winners) >= queue.rows and (loser := queue.rival(seated)) is not None:
            winner = queue.take(now_s)
            assert winner is not None
            winners.append(winner)
            seated.remove(loser)
            losers.append(self._job_of[loser])
            self._stop(losers[-1])
        for job in sorted(self._running, key=self._place)[queue.rows :]:  # some had stood aside for want of pages
            losers.append(job)
            self._stop(job)
        return winners, losers

    def _stop(self, job: SimJob) -> None:
        """It waits from here on, with its pages."""
        self.queue.put_back(self._running.pop(job), self.core.clock())

    def _go_on(self, jobs: list[SimJob]) -> None:
        """With those that have pages: tokens in the queue's order, who decodes first; the pages that they need by age."""
        granted: Batch = []
        pending = {job: len(job.file.tokens) - job.computed for job in jobs}
        for job in sorted(jobs, key=lambda job: pending[job] > 1):
            if n := min(pending[job], self._tokens):
                granted.append((job, n))
                self._tokens -= n
        for job, n in sorted(granted, key=lambda grant: grant[0].file.born):
            if not self._compute(job, n):
                self._tokens += n

    def _begin(self, winners: list[Runnable]) -> None:
        """Fill the rows that are left, in the queue's order."""
        core, queue, now_s = self.core, self.queue, self.core.clock()
        core.room.claims.look(self._born, core.surgery.claims, rows=queue.rows - len(self._batch))
        missed: list[Runnable] = []
        while self._tokens > 0 and len(self._batch) < queue.rows:
            call = winners.pop(0) if winners else queue.take(now_s)
            if call is None:
                break
            job = self._job_of[call]
            try:
                has_room = self._has_room(job)
            except SymphonyError as error:  # its pages are damaged
                core.fail(job, error)
                continue
            if not has_room:
                missed.append(call)
                if len(missed) >= MISSES and self._batch:
                    break  # else those behind it may pass
        for call in (*winners, *missed):
            queue.put_back(call, now_s)

    def _has_room(self, job: SimJob) -> bool:
        """Put one that was taken into the batch, if there are pages."""
        core, f = self.core, job.file
        if not job.lent:
            is_below = core.tiers.is_below(f, job.lowest)
            if is_below and f.move is not None:
                core.room.claims.take_row()
                core.tiers.load(f)
                return False
            if is_below and core.tiers.is_fetched(f):
                core.room.claims.take_row()
                return False
            if not self._find_room(job, is_below):
                return False
            if is_below:
                core.tiers.load(f)
                return False
            core.room.claims.take_row()
            core.start(job)
            del self._born[job]
        n = min(len(f.tokens) - job.computed, self._tokens)
        if not self._compute(job, n):
            return False
        self._tokens -= n
        return True

    def _compute(self, job: SimJob, n: int) -> bool:
        """Take the pages for so many tokens; else it is parked."""
        core = self.core
        assert job.call is not None
        need = max(0, core.table.pages(job.computed + n) - len(job.blocks))
        self._reclaim(need, job)
        if need > core.pool.get_num_free_blocks():
            self.parked.append(job)
            return False
        job.blocks += core.pool.get_new_blocks(need)
        if not job.call.is_running:
            self.queue.claim(job.call, core.clock())
        self._running[job] = job.call
        self._batch.append((job, n))
        return True

    def _place(self, job: SimJob) -> tuple[object, ...]:
        return self.queue.place(self._running[job])

    # ---- pages

    def _find_room(self, job: SimJob, is_below: bool) -> bool:
        core, born = self.core, job.file.born
        claims, need = core.room.claims, core.pages_needed(job)
        aside = claims.aside(born, is_below) if need else 0
        is_short = aside is None or need > core.pool.get_num_free_blocks() - aside
        if aside is None or ((is_short or is_below) and not claims.take_row()):
            return False
        self._reclaim(need + aside, job)
        need = core.pages_needed(job)  # less than before, where a page is shared no more
        if not need or need <= core.pool.get_num_free_blocks() - aside:
            claims.met(job)
            return True
        claims.missed(job, need, from_all=core.tiers.busy)
        return False

    def _reclaim(self, need: int, job: SimJob) -> None:
        core = self.core
        free = core.pool.get_num_free_blocks()
        if need > free:
            core.room.reclaim(need - free, job.file.born, job.file)

    def _force_room(self) -> bool:
        """Nothing can move: preempt the youngest parked job, or end the oldest one that cannot be helped. True: look again."""
        core = self.core
        oldest = min(core.jobs.values(), key=_age)
        if core.tiers.busy:
            return False
        need = 1 if oldest.lent else core.pages_needed(oldest)
        if core.room.relieve(need - core.pool.get_num_free_blocks(), oldest.file):
            return True
        victims = [job for job in self.parked if job is not oldest]
        if victims:
            core.preempt(max(victims, key=_age))
            return True
        if (stale_in := core.room.next_stale()) is not None:
            core.wake_at = core.clock() + stale_in
            return False
        self.num_failed_room += 1
        num_tokens, total = len(oldest.file.tokens), core.table.num_pages
        need = core.table.pages(num_tokens)
        core.fail(oldest, OutOfPages(f"{num_tokens} tokens need {need} pages of {total}, and nothing more can be freed"))
        return True

    def check(self) -> None:
        """The queue and the device speak of the same calls."""
        self.queue.check()
        assert set(self.queue.calls) == set(self._job_of)
        assert set(self.core.jobs.values()) == set(self._job_of.values())
        assert set(self._running.values()) == {call for call in self.queue.calls if call.is_running}
        assert set(self._born) == {job for job in self.core.jobs.values() if not job.lent}


def _age(job: SimJob) -> float:
    return job.file.born
