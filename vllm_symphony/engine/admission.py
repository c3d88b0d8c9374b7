"""Who comes into the next step while files are in play (engine/admission.py).

    running --> pages? --> rows --------------------> vLLM's `running`      not now: parked, with blocks and progress kept
    held -----> ready? --> pages? --> rows, tokens -> the gates' open part   not now: held

Pages go by age (room.py), rows and tokens by weight (share.py). Inside a side: plain requests in vLLM's order, programs in the run
queue's (order.py), which also says who gives its row to whom.

Pages, too, are the sides' by their weights when they are short: a side that holds less than its part of them is *favoured*, which
makes all of it older than the other. So it takes from idle files whatever their age and its calls go first, until it has its part.
A side of which nothing has moved for STALE_S is favoured as well: it might wait for ever for those who need nothing. What is held
changes slowly, so the sides do not take turns in undoing each other's work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.request import Request, RequestStatus

from vllm_symphony.engine.job import FileJob
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.room import STALE_S, Room
from vllm_symphony.engine.share import Pair, Row, cut
from vllm_symphony.errors import OutOfPages, SymphonyError

if TYPE_CHECKING:
    from vllm_symphony.engine.device import FileDevice
    from vllm_symphony.engine.scheduler import SymphonyMixin

FEW = 8  # calls that are looked at beside those that there are rows for ...
MISSES = 64  # ... and when many of them had no room
FOR_PAGES, FOR_A_ROW = "pages", "row"  # why a request is parked
MAY_BEGIN = (RequestStatus.WAITING, RequestStatus.PREEMPTED)
FAVOUR = 1e12  # seconds: older than everything
PLAIN, PROGRAMS = False, True  # the sides


def is_ending(r: Request) -> bool:
    """Asynchronous scheduling: a step in flight is its last, by vLLM's own reckoning, and it does not come into this one."""
    in_flight = r.num_output_placeholders
    return in_flight > 0 and r.num_computed_tokens + 2 - in_flight >= r.num_prompt_tokens + r.max_tokens


class Admission:
    """Fills vLLM's `running` and opens the gates, for one step at a time."""

    def __init__(self, scheduler: SymphonyMixin, device: FileDevice) -> None:
        self.scheduler = scheduler
        self.device = device
        self.room = Room(device.table, device.tiers, device.clock, device.retire_all)
        self.cuts: dict[Request, int] = {}  # in this step these compute no more tokens than that
        self.num_parked = self.num_yielded = self.num_failed_room = self.num_given_up = 0
        self._line: list[FileJob] = []  # calls that may have a row in this look, in the run queue's order
        self._width = FEW
        self._favoured: bool | None = None
        self._stuck_since: dict[bool, float] = {}
        self._clock_offset = time.time() - time.monotonic()
        config = scheduler.scheduler_config
        self._may_cut = config.enable_chunked_prefill and not scheduler.need_mamba_block_aligned_split
        self._step_tokens = 1 + scheduler.num_spec_tokens

    def admit(self) -> None:
        s, order = self.scheduler, self.device.order
        self.cuts = {}
        if not self.device.jobs and (not s.num_held() or len(s.running) >= self._rows) and self._is_roomy(s.running):
            return  # idle files beside plain requests that run
        looks_far = False
        while True:
            order.settle(job for job in self._jobs(s.running) if order.runs(job))
            held = self._held(looks_far)
            free = self._keep_running(held)
            began = self._begin(held, free)
            if s.running or began or not (s.parked or s.num_held()):
                break
            if not looks_far and len(held) < s.num_held():
                looks_far = True  # none of the first can begin, and the device has nothing else to do
            elif not self._force_room():
                break
        order.settle(self._jobs((*s.running, *began)))
        if self._may_cut and self.device.jobs:
            self.cuts = self._cut(began)
        if s.parked or s.num_held():
            self._look_for_stuck(began)
        else:
            self._stuck_since.clear()

    @property
    def _rows(self) -> int:
        """How many a step holds."""
        return int(self.scheduler.max_num_active_reqs - self.scheduler.num_waiting_for_streaming_input)

    def _held(self, looks_far: bool) -> list[Request]:
        """Those that might begin now: plain requests in order of arrival, then calls in the run queue's order. Long queues are not
        looked through in each step: as many as there are rows are enough, unless `looks_far`. But vLLM may pass over plain requests
        for its own reasons."""
        s, rows = self.scheduler, self._rows
        gates = (s.kv_holding_waiting, s.waiting)
        passes_over = s.policy == SchedulingPolicy.PRIORITY or s.lora_config or s.connector is not None
        held: list[Request] = []
        for gate in gates:
            num = 0
            for r in gate.plain:
                if num >= rows and not (passes_over or looks_far):
                    break
                held.append(r)
                num += r.status in MAY_BEGIN
        self._line = self._first_calls(len(held), looks_far)
        return held + [job.request for job in self._line if any(job.request in gate.calls for gate in gates)]

    def _first_calls(self, num_plain: int, looks_far: bool) -> list[FileJob]:
        """As many as there may be rows for, and a few that may have no room: more of these when rows were left in the last look.
        None of a principal that may have no more at once."""
        s, order, rows = self.scheduler, self.device.order, self._rows
        num = self.num_calls_held
        if not num and len(s.running) + num_plain <= rows and not order.has_caps:
            return []
        if not looks_far:
            free, owed = rows - len(s.running), math.ceil(s.share.part * rows) - order.num_running
            num = min(num, max(free, owed, 0) + self._width)
        num_aside = sum(not order.runs(job) for job in self._jobs(s.running))  # were parked, or at rest
        return order.first(num + num_aside)

    @property
    def num_calls_held(self) -> int:
        return len(self.scheduler.waiting.calls) + len(self.scheduler.kv_holding_waiting.calls)

    def _jobs(self, requests: Iterable[Request]) -> list[FileJob]:
        jobs = self.device.jobs
        return [jobs[r.request_id] for r in requests if r.request_id in jobs]

    def make_room(self, num_pages: int, born: float, keep: PagedFile | None) -> None:
        """Free that many pages as for a job of a file born then, if it can be done."""
        self.room.reclaim(num_pages, born, keep)

    # ---- pages

    def _keep_running(self, held: list[Request]) -> int:
        """Park what has no pages for its next step; returns how many are free for others."""
        s, table = self.scheduler, self.device.table
        free: int = table.pool.get_num_free_blocks()
        most = self._most_pages(s.running)
        self._favoured = None
        if free - most >= sum(table.pages(r.num_tokens) for r in held):
            return free - most  # nobody can be short
        self._favoured = self._favoured_side(free, held)
        keep: list[Request] = []
        for r in sorted(s.running, key=self._age):
            need = self._need_running(r)
            if need > free:
                free += self.room.reclaim(need - free, self._takes_from(r), None)
            if need <= free:
                free -= need
                keep.append(r)
            else:
                s.parked[r] = FOR_PAGES
                self.num_parked += 1
        s.running[:] = keep
        return free

    def _most_pages(self, running: list[Request]) -> int:
        """No step of these takes more pages: it has so many tokens, each row begins a page, and prompts are read whole."""
        s, table = self.scheduler, self.device.table
        reading = sum(table.pages(r.num_tokens) for r in s._inflight_prefills) if s._inflight_prefills else 0
        return int(reading + 2 * len(running) + s.max_num_scheduled_tokens // table.page_size)

    def _is_roomy(self, running: list[Request]) -> bool:
        """All can go on: there are rows, and no lack of pages."""
        return len(running) <= self._rows and self._most_pages(running) <= self.device.table.pool.get_num_free_blocks()

    def _favoured_side(self, free: int, held: list[Request]) -> bool | None:
        """The side that takes precedence in the hunt for pages; None: age decides."""
        s, jobs, table = self.scheduler, self.device.jobs, self.device.table
        now = self.device.clock()
        for side, since in self._stuck_since.items():
            if now - since > STALE_S:
                return side
        active = (*s.running, *s.parked)
        plain = [r for r in active if r.request_id not in jobs]
        if not plain and all(r.request_id in jobs for r in held):
            return None
        share = s.share.part * table.num_pages
        pages = {id(b) for r in plain for b in self._blocks(r)}  # a prefix that several have counts once
        of_programs = table.num_pages - free - len(pages)
        if len(pages) < table.num_pages - share and of_programs > share:
            return PLAIN
        return PROGRAMS if jobs and of_programs < share else None

    def _takes_from(self, r: Request) -> float:
        """Files born later than this give their pages for it."""
        is_program = r.request_id in self.device.jobs
        if is_program or self._favoured is None:
            return self._raw_age(r)
        return -math.inf if self._favoured is PLAIN else math.inf

    def _find_room(self, r: Request, is_below: bool, free: int) -> tuple[int | None, int]:
        """How many pages it takes, None: it must wait; and how many are free now."""
        claims, age = self.room.claims, self._age(r)
        need = self._need_waiting(r)
        aside = claims.aside(age, is_below) if need else 0
        is_short = aside is None or need > free - aside
        if aside is None or ((is_short or is_below) and not claims.take_row()):
            return None, free
        if is_short:
            job = self.device.jobs.get(r.request_id)
            free += self.room.reclaim(need + aside - free, self._takes_from(r), job.file if job is not None else None)
            need = self._need_waiting(r)  # also where nothing became free: a page that nobody shares any more needs no copy
        if need and need > free - aside:
            waited_long = time.time() - r.arrival_time > STALE_S
            claims.missed(r, need, from_all=self.device.tiers.busy or waited_long)
            return None, free
        claims.met(r)
        return need, free

    def _force_room(self) -> bool:
        """Nothing can move: preempt the youngest parked job, or end the oldest one that cannot be helped. True: look again."""
        s, device = self.scheduler, self.device
        if device.tiers.busy:
            return False  # what moves makes room, or is waited for
        waiting = [*s.parked, *s.kv_holding_waiting, *s.waiting]
        ready = [r for r in waiting if r.status != RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR]
        if not ready:
            return False
        oldest = min(ready, key=self._age)
        if self._relieve(oldest) or self._preempt_youngest(oldest):
            s.unpark()
            return True
        if (stale_in := self.room.next_stale()) is not None:
            s.wake_in(stale_in)
            return False
        job = device.jobs.get(oldest.request_id)
        if job is None:
            return False  # a plain request larger than the cache: vLLM's own rules
        self.num_failed_room += 1
        s.unpark()
        need, total = device.table.pages(oldest.num_tokens), device.table.num_pages
        device.fail(job, OutOfPages(f"{oldest.num_tokens} tokens need {need} pages of {total}, and nothing more can be freed"))
        return True

    def _relieve(self, r: Request) -> bool:
        """Have idle files give their pages for it."""
        job = self.device.jobs.get(r.request_id)
        need = self._need_running(r) if r in self.scheduler.parked else self._need_waiting(r)
        free = self.device.table.pool.get_num_free_blocks()
        return self.room.relieve(need - free, job.file if job is not None else None)

    def _preempt_youngest(self, spared: Request) -> bool:
        """Give up the pages of the youngest request that is parked for want of more. True if there was one."""
        s = self.scheduler
        victims = [r for r, why in s.parked.items() if why is FOR_PAGES and r is not spared]
        if not victims:
            return False
        victim = max(victims, key=self._age)
        del s.parked[victim]
        self.num_given_up += 1
        s._preempt_request(victim, time.monotonic())
        return True

    def _look_for_stuck(self, began: list[Request]) -> None:
        """A side that waits while only the other moves is favoured soon; if that does not help, a parked request gives way."""
        s, jobs, now = self.scheduler, self.device.jobs, self.device.clock()
        moving = {r.request_id in jobs for r in (*s.running, *began)}
        gates = (s.kv_holding_waiting, s.waiting)
        wanting = {r.request_id in jobs for r in s.parked}
        wanting |= {side for gate in gates for side, held in ((PLAIN, gate.plain), (PROGRAMS, gate.calls)) if held}
        for side in (PLAIN, PROGRAMS):
            if side in moving or side not in wanting:
                self._stuck_since.pop(side, None)
            elif now - self._stuck_since.setdefault(side, now) > 2 * STALE_S and not self.device.tiers.busy:
                self._stuck_since[side] = now - STALE_S
                mine = [r for r in (*s.parked, *s.waiting, *s.kv_holding_waiting) if (r.request_id in jobs) is side]
                self._preempt_youngest(min(mine, key=self._age))

    # ---- who begins

    def _begin(self, held: list[Request], free: int) -> list[Request]:
        """Open the gates to those that have pages and a row."""
        s, device = self.scheduler, self.device
        rows = self._rows
        ready = self._ready(held)
        is_short = len(s.running) + len(ready) > rows or device.order.has_caps
        yielded = self._divide_rows(ready, rows) if is_short else []
        claims = self.room.claims
        claims.look({r: self._age(r) for r in ready}, device.surgery.claims, rows=rows - len(s.running))
        began: list[Request] = []
        for r in ready:
            if len(s.running) + len(began) >= rows:
                break
            job = device.jobs.get(r.request_id)
            is_below = job is not None and not job.lent and device.tiers.is_below(job.file, job.lowest)
            if job is not None and is_below and job.file.move is not None:
                claims.take_row()
                device.tiers.load(job.file)
                continue
            if job is not None and is_below and device.tiers.is_fetched(job.file):
                claims.take_row()
                continue
            need, free = self._find_room(r, is_below, free)
            if need is None:
                continue  # those behind it may pass, for a while
            if job is not None and is_below:
                free -= device.tiers.load(job.file)
                continue
            self._open(r)
            free -= need
            began.append(r)
            claims.take_row()
        left = max(0, rows - len(s.running) - len(began))  # of those whom pages kept from beginning
        self._width = min(MISSES, 2 * self._width) if left and len(held) < s.num_held() + len(began) else FEW
        back = [r for r in yielded if not self._is_capped(r)][:left]
        s.running += back
        away = [r for r in yielded if r not in back] if back else yielded
        s.parked.update(dict.fromkeys(away, FOR_A_ROW))
        self.num_yielded += len(away)
        return began

    def _is_capped(self, r: Request) -> bool:
        job = self.device.jobs.get(r.request_id)
        return job is not None and self.device.order.is_capped(job)

    def _ready(self, held: list[Request]) -> list[Request]:
        """Those that could begin: whose grammars are compiled. Plain requests in vLLM's order, and where a program would be by its
        arrival the first by the run queue. Those whose pages are damaged end here, and what waits only for these."""
        s, device = self.scheduler, self.device
        not_ready = set()
        for r in held:
            job = device.jobs.get(r.request_id)
            if job is None:
                continue
            try:
                if not device.grammars.ready(job):
                    not_ready.add(r)
                elif not job.lent:
                    device.tiers.is_below(job.file, job.lowest)
            except SymphonyError as error:
                device.fail(job, error)
        still_held = (r for r in held if s.waiting.holds(r) or s.kv_holding_waiting.holds(r))
        ready = [r for r in still_held if r not in not_ready]
        ours = iter([r for r in ready if r.request_id in device.jobs])
        return [next(ours) if r.request_id in device.jobs else r for r in sorted(ready, key=self._arrival)]

    def _divide_rows(self, ready: list[Request], rows: int) -> list[Request]:
        """There are more requests than rows, or perhaps than a principal may have at once: put those first in `ready` that may
        begin, take out of `running` those that must give way, and return these."""
        s, jobs, order = self.scheduler, self.device.jobs, self.device.order
        ending = [r for r in s.running if is_ending(r)]  # they want no row
        running = sorted((r for r in s.running if r not in ending), key=self._arrival)
        plain = [r for r in (*running, *ready) if r.request_id not in jobs]
        programs = self._jobs((*running, *ready))
        num = s.share.rows.divide(rows, Pair(len(plain), len(programs)))
        order.settle(job for job in self._jobs(running) if order.runs(job))
        there = set(programs)
        waiting = [job for job in self._line if job in there and not order.runs(job)]
        chosen = {*plain[: num.plain], *(job.request for job in order.choose(num.programs, waiting))}
        ready[:] = sorted((r for r in ready if r in chosen or not self._is_capped(r)), key=lambda r: r not in chosen)
        s.running[:] = [r for r in s.running if r in chosen]
        return [*(r for r in running if r not in chosen), *ending]

    def _open(self, r: Request) -> None:
        """To vLLM's next step, with its file's pages."""
        s = self.scheduler
        gate = s.waiting if s.waiting.holds(r) else s.kv_holding_waiting
        if (job := self.device.jobs.get(r.request_id)) is not None:
            self.device.tiers.disturb(job.file)
            if self.device.lending.start(job) and gate is s.waiting:
                gate.take(r)
                gate = s.kv_holding_waiting
                gate.hold(r)
        gate.admit(r)

    def unstart(self) -> None:
        """Jobs that vLLM did not take after all (no token left in the step's budget) wait with their pages in their files."""
        s = self.scheduler
        for r in (*s.kv_holding_waiting.open, *s.waiting.open):
            self._take_back(r)

    def _take_back(self, r: Request) -> None:
        """The file has the pages that were lent to an admitted job."""
        s = self.scheduler
        job = self.device.jobs.get(r.request_id)
        if job is None or not job.lent:
            return
        self.device.lending.unstart(job)
        if r in s.kv_holding_waiting.open:
            s.kv_holding_waiting.open.remove(r)
            s.waiting.open.append(r)

    # ---- tokens

    def _cut(self, began: list[Request]) -> dict[Request, int]:
        """Who must do with less than it could compute, because the step has no more tokens. Who gets none does not begin."""
        s, jobs = self.scheduler, self.device.jobs
        budget = s.max_num_scheduled_tokens
        want = {r: r.num_tokens_with_spec + r.num_output_placeholders - r.num_computed_tokens for r in (*s.running, *began)}
        if sum(want.values()) <= budget:
            s.share.tokens.owed = 0.0
            return {}
        for r in began:
            if r.request_id not in jobs and not r.num_computed_tokens:
                want[r] -= s.kv_cache_manager.get_computed_blocks(r)[1]
        plain = sorted((r for r in s.running if r.request_id not in jobs), key=self._arrival)
        ours = [job.request for job in self.device.order.placed(self._jobs(s.running))]
        order = [*plain, *ours, *began]
        rows = [Row(r, r.request_id in jobs, want[r]) for r in order if not r.has_encoder_inputs]
        budget -= sum(want[r] for r in order if r.has_encoder_inputs)
        cuts = cut(s.share.tokens, max(0, budget), rows, self._step_tokens)
        for r in reversed(began):
            if cuts.get(r) == 0:
                self._take_back(r)
                (s.waiting if r in s.waiting.open else s.kv_holding_waiting).put_back(r)
        return cuts

    # ---- arithmetic

    def _blocks(self, r: Request) -> list[object]:
        managers = self.scheduler.kv_cache_manager.coordinator.single_type_managers
        blocks: list[object] = managers[0].req_to_blocks.get(r.request_id, [])
        return blocks

    def _need_waiting(self, r: Request) -> int:
        job = self.device.jobs.get(r.request_id)
        if job is None:
            return self.device.table.pages(r.num_tokens) - len(self._blocks(r))
        return self.device.lending.pages_needed(job)

    def _need_running(self, r: Request) -> int:
        upto = r.num_tokens_with_spec + r.num_output_placeholders
        return max(0, -(-upto // self.scheduler.block_size) - len(self._blocks(r)))

    def _raw_age(self, r: Request) -> float:
        """When the file was made, or the plain request arrived, on one clock; smaller is older."""
        if (job := self.device.jobs.get(r.request_id)) is not None:
            return job.file.born
        return r.arrival_time - self._clock_offset

    def _age(self, r: Request) -> float:
        """The same in the hunt for pages: the favoured side is older than the other."""
        age = self._raw_age(r)
        return age - FAVOUR if (r.request_id in self.device.jobs) is self._favoured else age

    def _arrival(self, r: Request) -> tuple[float, float]:
        """vLLM's priority of a plain request, where that counts; then arrival."""
        if r.request_id in self.device.jobs:
            return 0.0, r.arrival_time
        by_priority = self.scheduler.policy == SchedulingPolicy.PRIORITY
        return float(r.priority) if by_priority else 0.0, r.arrival_time
