"""Files and jobs on the engine thread (engine/device.py): applies the kernel's effects, turns vLLM's steps into completions.

    kernel's effects --mail--> apply --> PageTable, FileJobs --> scheduler (which calls back: start, plan, results, ended)
    kernel <--- completions, one batch a step ---------------------'

All of it runs on the engine thread; the mailbox is the only thing that another thread touches. A job's pages are lent to its vLLM
request when it is admitted and come back in `ended`, which vLLM's own clean-up calls however the request ends.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from vllm.exceptions import VLLMError
from vllm.v1.request import RequestStatus

from vllm_symphony.abi.draw import key64
from vllm_symphony.abi.types import Distribution, Ino, JobId
from vllm_symphony.engine.admission import FOR_A_ROW
from vllm_symphony.engine.bench import EngineBench
from vllm_symphony.engine.compat import jobs_refusal
from vllm_symphony.engine.edit import Surgery
from vllm_symphony.engine.fetch import Fetches
from vllm_symphony.engine.grammar import Grammars
from vllm_symphony.engine.job import (
    FORWARD_LASTING,
    FORWARD_ONCE,
    JOB_PREFIX,
    FileJob,
    generate_params,
    give_tokens,
    make_detokenizer,
    make_request,
)  # fmt: skip
from vllm_symphony.engine.lending import Lending
from vllm_symphony.engine.meter import EngineMeter
from vllm_symphony.engine.move import Mover
from vllm_symphony.engine.order import Order
from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.plan import StepPlan, StepResult
from vllm_symphony.engine.rows import KeptRows
from vllm_symphony.engine.tier import TierLimits, Tiers
from vllm_symphony.engine.victim import Victims
from vllm_symphony.errors import DataCorrupt, DeviceLost, Interrupted, InvalidArgument, NotSupported, OutOfPages, SymphonyError
from vllm_symphony.kernel.effect import (
    AppendTokens,
    CancelJob,
    Capacity,
    Completion,
    ConcatJob,
    CreateFile,
    DeviceEffect,
    DropFile,
    ExtractJob,
    ForkFile,
    ForwardDone,
    ForwardJob,
    GenerateDone,
    GenerateJob,
    GenerateTokens,
    JobFailed,
    LimitDomain,
    MoveJob,
    PinFile,
    ProcessBegan,
    ProcessEnded,
    Residency,
    Rests,
    Resumes,
    RowDone,
    RowJob,
    SampleDone,
    SampleJob,
    SaveJob,
    SetPolicy,
    StepRan,
    StepSpan,
    TruncateFile,
    Weigh,
)  # fmt: skip

if TYPE_CHECKING:
    from vllm_symphony.engine.scheduler import SymphonyMixin

MAX_RESTING = 256
MAX_STEPS_UNTOLD = 32


def surgery_refusals(caches: str, rpc: Callable[..., list[Any]]) -> tuple[str, str]:
    """Why no slots can be copied, and why no keys can be turned: by the kind of the caches, or by any worker; "" where they can."""
    if caches:
        return caches, caches
    copies, turns = zip(*rpc("symphony_layout"), strict=True)
    return next(filter(None, copies), ""), next(filter(None, turns), "")


class FileDevice:
    """The engine thread's state of files, jobs and kept rows."""

    def __init__(
        self,
        scheduler: SymphonyMixin,
        *,
        hasher: Any,
        rpc: Callable[..., list[Any]],
        tokenizer: Any,
        end_tokens: Sequence[int],
        vocab_size: int,
        deliver: Callable[[list[Completion]], None],
        wake: Callable[[], None],
        mover: Mover,
        tiers: TierLimits,
    ) -> None:
        self.scheduler = scheduler
        self.hasher = hasher
        self.tokenizer = tokenizer
        self.end_tokens = tuple(end_tokens)
        self.deliver = deliver
        pool = scheduler.kv_cache_manager.block_pool
        managers = scheduler.kv_cache_manager.coordinator.single_type_managers
        self.table = PageTable(pool, managers[0].block_size, pool.get_num_free_blocks())
        self.lending = Lending(self.table, managers, scheduler.files_keep_pages)
        self.clock = time.monotonic
        self.meter = EngineMeter()
        self.victims = Victims(self.table, scheduler.max_num_scheduled_tokens, self.clock)
        self.residents = self.victims.residents
        self.tiers = Tiers(
            self.table, mover, tiers, clock=self.clock, tell=self._tell, retire=self.retire, make_room=self._make_room,
            boot=os.urandom(6).hex(), meter=self.meter, victims=self.victims,
        )  # fmt: skip
        self.order = Order(scheduler.max_num_active_reqs, 1 + scheduler.num_spec_tokens, self.victims.predictor, self.clock)
        self.rpc = rpc
        self.rows = KeptRows(self.table, rpc, vocab_size)
        self.fetches = Fetches(self.tiers, lambda: scheduler.room.claims.is_tight)
        self.surgery = Surgery(EngineBench(self), *surgery_refusals(scheduler.surgery_refusal, rpc))
        self.grammars = Grammars(scheduler.structured_output_manager, scheduler.vllm_config, tokenizer, wake)
        self.mail: deque[DeviceEffect] = deque()
        self.rung = False  # the host has been told of mail that is not taken yet
        self.jobs: dict[str, FileJob] = {}  # by request id
        self.resting: dict[str, FileJob] = {}  # done forwards whose request keeps the pages, by request id, oldest first
        self.finished: dict[str, FileJob] = {}  # ended in this step, not yet reported
        self.by_id: dict[JobId, FileJob | SampleJob | RowJob | ExtractJob | ConcatJob | MoveJob | SaveJob] = {}
        self._recomputing: dict[JobId, JobId] = {}  # sample or row -> the forward that computes its row again
        self.out: list[Completion] = []
        self._ran: list[Completion] = []  # steps that the kernel has not been told of
        self.step = 0
        self._serial = 0
        self._temp_id = 0
        self.num_found = 0  # tokens of file calls that vLLM's prefix cache had
        self.dead: str | None = None
        self.jobs_refusal = jobs_refusal(scheduler.vllm_config)

    # ---- mail

    def take_mail(self) -> bool:
        """Apply what the kernel has sent; True if there was any."""
        self.rung = False  # before the mailbox is emptied: what comes later rings again
        if self.grammars.news:
            self.grammars.news = False
            self.scheduler.room_was_made()
        if self.tiers.poll():
            self.released()
            self.flush()
        if self.fetches.advance():
            self.scheduler.look_then()
        if self.surgery.is_waiting:
            self.surgery.try_again()
            self.flush()
        if not self.mail:
            return False
        while self.mail:
            e = self.mail.popleft()
            try:
                self._APPLY[type(e)](self, e)
            except SymphonyError as error:
                self._fail_effect(e, error)
            except (ValueError, VLLMError) as error:  # vLLM refused the parameters
                self._fail_effect(e, InvalidArgument(str(error)))
        self.flush()
        return True

    def flush(self) -> None:
        """Hand the completions so far to the kernel."""
        if self.out or len(self._ran) >= MAX_STEPS_UNTOLD:
            batch, self._ran, self.out = self._ran + self.out, [], []
            self.deliver(batch)

    def _fail_effect(self, e: DeviceEffect, error: SymphonyError) -> None:
        job = getattr(e, "job", None)
        if job is None:
            raise error
        self.by_id.pop(job, None)
        self.out.append(JobFailed(job, error))

    # ---- files

    def _create(self, e: CreateFile) -> None:
        f = self.table.create(e.ino, e.tokens, e.domain, self.clock())
        self.tiers.restore(f, e)

    def _fork(self, e: ForkFile) -> None:
        self._fork_file(self.table.files[e.src], e.dst, e.length, e.domain)

    def _fork_file(self, src: PagedFile, dst: Ino, length: int, domain: str | None = None) -> PagedFile:
        self.retire(src)
        job = self.job_of(src)
        lent = self.lending.of(job) if job is not None and job.lent else None
        f = self.table.fork(src, dst, length, self.clock(), lent, domain)
        self.rows.share(f.rows.values())
        return f

    def temp_id(self) -> int:
        """A number for a file or a job that the kernel does not know."""
        self._temp_id -= 1
        return self._temp_id

    def temp_fork(self, src: PagedFile, length: int) -> PagedFile:
        """A fork for work that must not change the file, which may be truncated or closed meanwhile."""
        return self._fork_file(src, Ino(self.temp_id()), length)

    def _append(self, e: AppendTokens) -> None:
        f = self.table.files[e.ino]
        self.retire(f)
        f.extend(e.tokens, e.start)

    def _truncate(self, e: TruncateFile) -> None:
        f = self.table.files[e.ino]
        self.retire(f)
        self.table.truncate(f, e.length)
        self.released()

    def _drop(self, e: DropFile) -> None:
        f = self.table.files[e.ino]
        self.retire(f)
        self.tiers.forget(f)
        if f.job is not None:
            job = self.job_of(f)
            assert job is not None
            self.fail(job, Interrupted("the file was closed"))
        self.table.drop(f)
        self.released()

    def released(self) -> None:
        self.rows.sweep()
        self.scheduler.room_was_made()

    # ---- jobs

    def _forward(self, e: ForwardJob) -> None:
        self.submit_forward(e)

    def submit_forward(self, e: ForwardJob, on_done: Callable[[FileJob], None] | None = None) -> None:
        self._demand_jobs()
        f = self.table.files[e.ino]
        base = len(f.tokens)
        if f.resting is not None:
            fits = self.table.pages(base + len(e.tokens)) <= self.table.num_pages
            if e.tokens and fits and e.start == f.next_position:  # a gap makes the file private, the request is not
                self._go_on(f, e)
                return
            self.retire(f)
        if e.tokens:
            f.extend(e.tokens, e.start)
        wanted = tuple(base + o for o in e.outputs)
        lowest = min((f.computed, len(f.tokens) - 1, *wanted))
        try:
            self._fits(len(f.tokens))
        except OutOfPages:
            f.cut(base)
            raise
        params = FORWARD_LASTING if self.scheduler.requests_may_rest and on_done is None else FORWARD_ONCE
        request = make_request(self._rid(e.job), f, params, self.hasher, lookup=all(i == len(f.tokens) - 1 for i in wanted))
        job = FileJob(e, f, base, lowest, request, wanted, frozenset(base + o for o in e.keep), on_done=on_done)
        self._enqueue(job)

    # ---- rest: the next forward on the file goes on with the same request, without a new one being made

    def _go_on(self, f: PagedFile, e: ForwardJob) -> None:
        old: FileJob = f.resting
        base = len(f.tokens)
        f.extend(e.tokens, e.start)
        give_tokens(old.request, e.tokens, self.table.page_size)
        wanted = tuple(base + o for o in e.outputs)
        job = FileJob(e, f, base, base, old.request, wanted, frozenset(base + o for o in e.keep), lent=True, given=tuple(e.tokens))
        job.began_at = base
        job.arrived_s = self.clock()
        f.resting = None
        f.job = e.job
        self.residents.begins(f, e.owner)
        rid = old.request.request_id
        del self.resting[rid]
        self.jobs[rid] = job
        self.by_id[e.job] = job
        self.order.add(job, len(e.tokens))
        self.scheduler.wake(old.request)

    def rest(self, job: FileJob) -> None:
        """A forward is done; its request keeps the pages until something else needs the file, or the pages."""
        f, rid = job.file, job.request.request_id
        del self.jobs[rid]
        self.order.remove(job)
        self.by_id.pop(job.id, None)
        f.job = None
        f.resting = job
        f.used(self.clock())
        self.victims.ended(f)
        self.resting[rid] = job
        if len(self.resting) > MAX_RESTING:
            self.retire(next(iter(self.resting.values())).file)

    def retire(self, f: PagedFile) -> None:
        """End a request at rest: the pages come back to the file."""
        if f.resting is not None:
            self.scheduler.finish_requests(f.resting.request.request_id, RequestStatus.FINISHED_ABORTED)
            assert f.resting is None

    def retire_all(self) -> None:
        for job in list(self.resting.values()):
            self.retire(job.file)

    def _generate(self, e: GenerateJob) -> None:
        self._demand_jobs()
        f = self.table.files[e.ino]
        self.retire(f)
        base = len(f.tokens)
        self._fits(base + 1)
        params = generate_params(e, self.end_tokens)
        if params.structured_outputs is not None:
            self.grammars.validate(params)
        request = make_request(self._rid(e.job), f, params, self.hasher, lookup=True)
        job = FileJob(e, f, base, min(f.computed, base - 1), request)
        job.plain = e.until is None and e.sampler.seed is None and e.penalty_from == base
        job.detokenizer = make_detokenizer(e, f.tokens, self.tokenizer)
        if params.structured_outputs is not None:
            self.grammars.begin(request)
        self._enqueue(job)

    def _enqueue(self, job: FileJob) -> None:
        assert job.file.job is None, "two writers on one file"
        job.file.job = job.id
        self.residents.begins(job.file, job.effect.owner)
        job.arrived_s = self.clock()
        self.jobs[job.request.request_id] = job
        self.by_id[job.id] = job
        self.order.add(job, job.num_tokens - min(job.file.frontier, job.lowest))
        self.scheduler.add_request(job.request)

    def _demand_jobs(self) -> None:
        """Raises NotSupported where this engine computes for plain requests only."""
        if self.jobs_refusal:
            raise NotSupported(self.jobs_refusal)

    def _fits(self, num_tokens: int) -> None:
        need = self.table.pages(num_tokens)
        if need > self.table.num_pages:
            raise OutOfPages(
                f"{num_tokens} tokens need {need} pages and the cache has {self.table.num_pages}: serve with a larger KV cache",
                num_pages_needed=need,
                num_pages=self.table.num_pages,
            )

    def _rid(self, job: JobId) -> str:
        self._serial += 1
        return f"{JOB_PREFIX}{job}-{self._serial}"

    def job_of(self, f: PagedFile) -> FileJob | None:
        job = self.by_id.get(f.job) if f.job is not None else None
        return job if isinstance(job, FileJob) else None

    def _cancel(self, e: CancelJob) -> None:
        job = self.by_id.get(e.job)
        if isinstance(job, FileJob):
            self.fail(job, Interrupted("cancelled"))
        elif e.job in self.surgery.edits:
            self.surgery.cancel(e.job)
        elif isinstance(job, MoveJob | SaveJob):
            self.tiers.cancel(e.job)
        elif job is not None:  # waits for its row to be computed again
            temp = self.by_id[self._recomputing[e.job]]
            assert isinstance(temp, FileJob)
            self.fail(temp, Interrupted("cancelled"))

    def _extract(self, e: ExtractJob) -> None:
        self.by_id[e.job] = e
        self.surgery.extract(e)

    def _concat(self, e: ConcatJob) -> None:
        self.by_id[e.job] = e
        self.surgery.concat(e)

    def fail(self, job: FileJob, error: SymphonyError) -> None:
        """End a job now. vLLM's clean-up calls `ended`, which reports it."""
        job.error = error
        self.scheduler.finish_requests(job.request.request_id, RequestStatus.FINISHED_ABORTED)

    def _schedule_by(self, e: ProcessBegan | ProcessEnded | Rests | Resumes | Weigh | SetPolicy) -> None:
        """Who computes, and by which rules."""
        due_s = self.fetches.due_s
        self.fetches.hear(e)
        self.order.queue.hear(e, self.clock())
        if isinstance(e, SetPolicy):
            self.scheduler.cohort.hear(e)
        if self.fetches.due_s != due_s:
            self.scheduler.look_then()

    # ---- tiers

    def _move(self, e: MoveJob | SaveJob) -> None:
        self.by_id[e.job] = e
        self.tiers.submit(e)

    def _tell(self, done: Completion) -> None:
        self.by_id.pop(done.job, None)
        self.out.append(done)

    def _pin(self, e: PinFile) -> None:
        self.tiers.pin(self.table.files[e.ino], e.pinned)

    def _limit(self, e: LimitDomain) -> None:
        self.tiers.limit(e)
        self.rows.limit(e.domain, e.rows)

    def _make_room(self, num_pages: int, f: PagedFile) -> None:
        """For a move of `f` to the device."""
        self.scheduler.make_room(num_pages - self.table.pool.get_num_free_blocks(), f.born, f)

    # ---- rows

    def _sample(self, e: SampleJob) -> None:
        self._with_row(e, self._sample_now)

    def _row(self, e: RowJob) -> None:
        self._with_row(e, self._row_now)

    def _with_row(self, e: Any, then: Callable[[Any, PagedFile, int, StepSpan], None]) -> None:
        f = self.table.files[e.ino]
        row_id = self.rows.find(f, e.position)
        if row_id is not None:
            then(e, f, row_id, StepSpan())
            return
        self._demand_jobs()
        # compute it again, on a fork that ends there: the file itself may be truncated or closed meanwhile
        self._fits(e.position + 1)
        temp = self.temp_fork(f, e.position + 1)

        def done(job: FileJob) -> None:
            del self.by_id[e.job], self._recomputing[e.job]
            try:
                if job.error is not None:
                    raise job.error
                then(e, temp, temp.rows[e.position], job.span)
            except SymphonyError as error:
                self.out.append(JobFailed(e.job, error, job.span))
            self.table.drop(temp)
            self.released()

        again = ForwardJob(JobId(temp.ino), temp.ino, [], 0, (-1,), 0, (-1,), 1.0, False, e.owner)
        self.submit_forward(again, done)
        self.by_id[e.job] = e
        self._recomputing[e.job] = again.job

    def _sample_now(self, e: SampleJob, f: PagedFile, row_id: int, span: StepSpan) -> None:
        tokens = f.tokens[: e.position + 1]
        bitmask = None
        if e.grammar is not None:
            start = e.grammar.start if e.grammar.start is not None else e.position + 1
            bitmask = self.grammars.bitmask(e.grammar, tokens[start:], self.end_tokens)
        self._serial += 1
        seed = e.sampler.seed if e.sampler.seed is not None else key64(time.time_ns(), self._serial)
        drawn, logprobs = self.rows.ask(
            "symphony_sample", row_id, e.sampler, tokens, e.penalty_from, bitmask, seed, e.position, e.first_draw, e.n
        )
        self.out.append(SampleDone(e.job, drawn, logprobs, span))

    def _row_now(self, e: RowJob, f: PagedFile, row_id: int, span: StepSpan) -> None:
        self.out.append(RowDone(e.job, self.rows.ask("symphony_row", row_id), span))

    # ---- the scheduler's side

    def unlend(self, job: FileJob) -> None:
        """vLLM preempted the job's request."""
        self.lending.lost(job)
        self._forget_planned(job)

    def plan(self, scheduled: dict[str, int]) -> StepPlan | None:
        """The step plan for what vLLM has just scheduled (num_computed_tokens is already advanced)."""
        self.step += 1
        if not scheduled:
            return None  # the runner does not look at a step without work, and rows that it should drop would be lost
        plan = StepPlan(drop=self.rows.take_drops())
        num_rows = num_tokens = busy_tokens = 0  # of programs
        for rid, n in scheduled.items():
            job = self.jobs.get(rid)
            if job is None:
                continue
            num_rows, num_tokens = num_rows + 1, num_tokens + n
            if not job.first_step:
                job.first_step = self.step
                self.meter.queue_seconds.observe(self.clock() - job.arrived_s)
            job.last_step = self.step
            r = job.request
            busy_tokens += r.num_computed_tokens
            self.order.charge(job, n)
            if job.first_step == self.step and not job.began_at:
                self.num_found += r.num_computed_tokens - n
            row = job.plan(r.num_computed_tokens - n, n, not r.is_prefill_chunk, self.rows.new_id)
            if row is not None:
                plan.rows[rid] = row
        self.victims.busy_tokens = busy_tokens
        self.meter.count("programs", num_rows, num_tokens)
        self.meter.count("plain", len(scheduled) - num_rows, sum(scheduled.values()) - num_tokens)
        return plan if plan else None

    def take_results(self, plan: StepPlan, result: StepResult, starts: dict[str, int]) -> None:
        """Distributions of a step, before vLLM's bookkeeping. `starts`: first index that each request computed in it."""
        for j, (rid, offset) in enumerate(result.where):
            job = self.jobs.get(rid)
            if job is None:  # it ended while the step ran
                row = plan.rows[rid]
                self.rows.forget([row_id for at, row_id in row.keep if at == offset])
                if rid in result.fired:
                    self.rows.forget([row.until_row])
                continue
            index = starts[rid] + offset
            d: Distribution = job.take_row(index, result, j)
            if isinstance(job.effect, ForwardJob):
                job.rows[index] = d
            elif rid in result.fired:
                job.fired = d

    def charge(self, scheduled: dict[str, int], seconds: float) -> None:
        """Share the step's time among its requests by tokens."""
        self.meter.step_seconds.observe(seconds)
        if not self.jobs:
            return
        total = sum(scheduled.values())
        self.victims.measured.stepped(total, seconds)
        for rid, n in scheduled.items():
            job = self.jobs.get(rid)
            if job is not None:
                job.device_s += seconds * n / total

    def ran(self, step: StepRan) -> None:
        """A step is over. The kernel hears of it with the next completions: its thread is not woken for this alone."""
        self._ran.append(step)

    def sampled(self, job: FileJob, tokens: list[int], ended: bool) -> str | None:
        """Tokens that vLLM appended to a generate's request; returns a stop string that they complete."""
        if job.detokenizer is None or not tokens:
            return None
        is_end = ended and tokens[-1] in job.request.sampling_params.stop_token_ids
        return job.detokenizer.update(list(tokens), is_end)

    def progress(self, job: FileJob, tokens: list[int], logprobs: list[float], finished: bool) -> None:
        """A generate's tokens of this step: into the file and to the kernel."""
        if not tokens and not finished:
            return
        job.file.tokens.extend(tokens)
        text = job.detokenizer.get_next_output_text(finished, True) if job.detokenizer is not None else ""
        if tokens or text:
            self.out.append(GenerateTokens(job.id, list(tokens), logprobs, text))

    def job_of_request(self, rid: str) -> FileJob | None:
        return self.jobs.get(rid) or self.resting.get(rid)

    def ended(self, job: FileJob) -> None:
        """vLLM lets go of the request: take the pages back and, unless tokens are still to come (`report`), say how it ended."""
        request, f = job.request, job.file
        rid = request.request_id
        if rid in self.resting:
            del self.resting[rid]
            f.resting = None
            self.lending.give_back(job, request.num_computed_tokens)
            return
        del self.jobs[rid]
        self.order.remove(job)
        self.by_id.pop(job.id, None)
        computed = request.num_computed_tokens - request.num_output_placeholders
        if job.lent and self.lending.keeps_pages:
            self.lending.give_back(job, computed)
        elif job.lent:
            self.scheduler.free_natively(request)
        f.job = None
        f.used(self.clock())
        self.victims.ended(f)
        self.scheduler.room_was_made()
        if job.error is None:
            self.finished[rid] = job  # its last tokens come with vLLM's output of this step
        else:
            self._undo(job)
            self._report_failure(job)

    def _undo(self, job: FileJob) -> None:
        """A failed forward leaves the file as it was; a failed generate leaves what was delivered."""
        length = job.base if isinstance(job.effect, ForwardJob) else len(job.file.tokens)
        self.table.truncate(job.file, length)
        self.rows.sweep()

    def _forget_planned(self, job: FileJob) -> None:
        """Rows that steps of the job kept and no file will know."""
        self.rows.forget(job.row_ids.values())
        job.row_ids.clear()

    def _report_failure(self, job: FileJob) -> None:
        assert job.error is not None
        self._forget_planned(job)
        if job.on_done is not None:
            job.on_done(job)
        else:
            self.out.append(JobFailed(job.id, job.error, job.span))

    def report_at_rest(self, job: FileJob) -> None:
        """A forward on a lasting request has its rows; the request rests."""
        self.rest(job)
        self._report_forward(job)

    def _report_forward(self, job: FileJob) -> None:
        for index, row_id in job.row_ids.items():
            self.rows.keep(job.file, index, row_id)
        self.rows.sweep()
        if job.on_done is not None:
            job.on_done(job)
            return
        self.out.append(ForwardDone(job.id, tuple(job.rows[i] for i in job.wanted), job.span))

    def report(self, job: FileJob, status: RequestStatus, stop_reason: int | str | None) -> None:
        """The request ended by itself, its last tokens are in the file."""
        f = job.file
        if len(f.tokens) < f.frontier:
            raise AssertionError(f"file {f.ino}: {len(f.tokens)} tokens, {f.frontier} computed")
        if isinstance(job.effect, ForwardJob):
            if status != RequestStatus.FINISHED_LENGTH_CAPPED:
                job.error = DataCorrupt(f"forward ended with {status.name}")
                self._undo(job)
                self._report_failure(job)
                return
            self._report_forward(job)
            return
        if status == RequestStatus.FINISHED_ERROR:
            job.error = InvalidArgument("the grammar refused what was sampled, or did not compile")
            self._report_failure(job)
            return
        reason, stop = self._reason(job, status, stop_reason)
        if reason == "until" and job.fired is not None:
            self.rows.keep(f, job.fired.position, job.row_ids[job.fired.position])
            self.rows.sweep()
        self.out.append(GenerateDone(job.id, reason, stop, f.frontier, job.fired if reason == "until" else None, job.span))

    def _reason(self, job: FileJob, status: RequestStatus, stop_reason: int | str | None) -> tuple[str, str | None]:
        assert isinstance(job.effect, GenerateJob)
        if stop_reason == "until" and job.fired is not None:
            return "until", None
        if isinstance(stop_reason, str):
            return "stop", stop_reason
        if status == RequestStatus.FINISHED_STOPPED:
            grammar_ended = job.effect.grammar is not None and stop_reason in self.end_tokens
            return ("grammar" if grammar_ended else "stop"), str(stop_reason) if stop_reason is not None else None
        return "length", None

    # ---- end

    def lose(self, message: str) -> None:
        """The engine is gone: every job fails, every file forgets its pages."""
        self.dead = message
        error = DeviceLost(message)
        self.out += [JobFailed(job, error) for job in self.by_id if job > 0]  # the others are ours, for rows
        self.by_id.clear()
        self.tiers.lose()
        self._recomputing.clear()
        self.surgery.edits.clear()
        self.jobs.clear()
        self.order.clear()
        self.resting.clear()
        self.flush()
        self.refuse_mail()

    def refuse_mail(self) -> None:
        """After `lose`: fail the jobs in the mailbox. Any thread; each is answered once."""
        lost: list[Completion] = []
        with suppress(IndexError):
            while True:
                e = self.mail.popleft()
                if (job := getattr(e, "job", None)) is not None and not isinstance(e, CancelJob):
                    lost.append(JobFailed(job, DeviceLost(self.dead or "the engine is gone")))
        if lost:
            self.deliver(lost)

    def check(self) -> None:
        """Every page, request and row is accounted for."""
        manager = self.lending.manager
        self.table.check([*manager.req_to_blocks.values(), *self.tiers.lent_blocks()], manager._pending_cow_copies)
        self.tiers.check()
        self.order.check()
        for job in self.jobs.values():
            assert job.request.request_id in self.scheduler.requests
        for f in self.table.files.values():
            assert f.job is None or f.job in self.by_id, (f.ino, f.job)
            assert f.resting is None or (self.resting[f.resting.request.request_id] is f.resting and f.job is None), f.ino

    def job_state(self, job: JobId) -> tuple[str, str]:
        """As `Device.job_state`. Safe beside the engine thread: each look is one read of a dict, a length or an attribute, which
        the interpreter lock keeps whole, and nothing is iterated. A job that moves meanwhile is told of as it was, or as it is."""
        work = self.by_id.get(job)
        if work is None:
            return "queue", "it comes into the next step" if self.mail else ""
        if isinstance(work, ExtractJob | ConcatJob):
            if self.surgery.is_short(job):
                return "pages", f"its copy needs room, {self.table.pool.get_num_free_blocks()} are free"
            return "batch", "what it copies is computed first"
        if isinstance(work, MoveJob | SaveJob):
            return "queue", "its pages are moved"
        if not isinstance(work, FileJob):
            again = self._recomputing.get(job)
            cause, detail = self.job_state(again) if again is not None else ("batch", "")
            return cause, f"its row is computed again; {detail}" if detail else "its row is computed again"
        scheduler, request = self.scheduler, work.request
        is_parked = (why := scheduler.parked.get(request)) is not None
        if work.lent and not is_parked:
            return "batch", f"in step {work.last_step}" if work.last_step else ""
        blocks = self.lending.blocks(work) if work.lent else work.file.blocks
        if why is FOR_A_ROW:
            return "queue", "the batch is full: plain requests and programs share it by weight"
        need, free = max(0, self.table.pages(work.num_tokens) - len(blocks)), self.table.pool.get_num_free_blocks()
        if need > free:
            return "pages", f"needs {need} pages, {free} are free"
        if is_parked:
            return "pages", "older calls have taken what was free"
        if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
            return "queue", "its grammar is compiled"
        if len(scheduler.running) >= scheduler.max_num_active_reqs:
            return "queue", f"the batch is full: {len(scheduler.running)} calls run"
        return "queue", "it comes into the next step"

    def residency(self, ino: Ino) -> Residency:
        """As `Device.residency`; reads as `job_state` does."""
        f = self.table.files.get(ino)
        if f is None:
            return Residency(known=False)
        job = self.job_of(f) or f.resting
        blocks = self.lending.blocks(job) if job is not None and job.lent else f.blocks
        frontier = job.request.num_computed_tokens if job is not None and job.lent else f.frontier
        return Residency(min(max(frontier, f.below), len(f.tokens)), len(blocks), *self.tiers.places(f))

    def capacity(self) -> Capacity:
        """As `Device.capacity`."""
        free, rows = self.table.pool.get_num_free_blocks(), self.rows.quota.counts.copy()
        return Capacity(self.table.num_pages, free, **self.tiers.room(), rows=tuple(rows.items()))

    def counters(self) -> dict[str, float]:
        pool = self.table.pool
        return {
            "steps": self.step,
            "files": len(self.table.files),
            "jobs": len(self.by_id),
            "pages_total": self.table.num_pages,
            "pages_free": pool.get_num_free_blocks(),
            "pages_held": self.table.num_pages - pool.get_num_free_blocks(),
            "rows_kept": len(self.rows),
            **self.tiers.counters(),
            "found_tokens": self.num_found,
        }

    _APPLY: ClassVar[dict[type, Callable[[FileDevice, Any], None]]] = {
        CreateFile: _create,
        ForkFile: _fork,
        AppendTokens: _append,
        TruncateFile: _truncate,
        DropFile: _drop,
        ForwardJob: _forward,
        GenerateJob: _generate,
        SampleJob: _sample,
        RowJob: _row,
        ExtractJob: _extract,
        ConcatJob: _concat,
        CancelJob: _cancel,
        PinFile: _pin,
        LimitDomain: _limit,
        MoveJob: _move,
        SaveJob: _move,
        ProcessBegan: _schedule_by,
        ProcessEnded: _schedule_by,
        Rests: _schedule_by,
        Resumes: _schedule_by,
        Weigh: _schedule_by,
        SetPolicy: _schedule_by,
    }
