"""Files, jobs and steps of the simulator (engine/sim/core.py): single-threaded, no clock of its own.

    submit(effects) ... begin() -> seconds that the step takes ... finish() -> the step's completions
          ^ mail waits for the next begin, as on the engine; text calls are answered at once

`begin` takes the mail, makes room (engine/room.py, the engine's own rule), admits calls and fixes the batch; `finish` computes it.
Who drives decides what a second is: a thread that sleeps (device.py), or a driver that leaps from event to event (testing/).
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from vllm_symphony.abi.draw import key64
from vllm_symphony.abi.types import Ino, JobId, MetricSample, ModelInfo, pack_floats
from vllm_symphony.engine.edit import Surgery
from vllm_symphony.engine.fetch import Fetches
from vllm_symphony.engine.meter import EngineMeter, engine_samples
from vllm_symphony.engine.page_table import Lent, PagedFile, PageTable
from vllm_symphony.engine.room import Room
from vllm_symphony.engine.row_quota import RowQuota
from vllm_symphony.engine.sim import grammar as grammars
from vllm_symphony.engine.sim.edit import SimBench
from vllm_symphony.engine.sim.former import Former
from vllm_symphony.engine.sim.holding import Holding
from vllm_symphony.engine.sim.job import SimJob, Writer
from vllm_symphony.engine.sim.model import END, Model, Row, SimModel, text_result
from vllm_symphony.engine.sim.mover import SimMover, SimPages
from vllm_symphony.engine.sim.pool import SimBlock, SimPool
from vllm_symphony.engine.sim.sampler import sample_row
from vllm_symphony.engine.tier import TierLimits, Tiers
from vllm_symphony.engine.victim import Victims
from vllm_symphony.errors import DeviceLost, Interrupted, InvalidArgument, OutOfPages, SymphonyError
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
    GenerateJob,
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
    TextDone,
    TextJob,
    TruncateFile,
    Weigh,
)  # fmt: skip

MAX_ROWS_KEPT = 4096
WEIGHTS_READ = 0.005


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step takes, and how much fits into one. The defaults are about those of a small model on a GPU."""

    step_s: float = WEIGHTS_READ
    row_s: float = 0.00005
    token_s: float = 0.00002
    max_rows: int = 256
    max_tokens: int = 2048
    moved_bytes_s: float = 1e6  # between device, host memory and disk: a page of a few tokens takes about what a token takes

    def of(self, num_rows: int, num_tokens: int) -> float:
        return self.step_s + self.row_s * num_rows + self.token_s * num_tokens


class SimCore:
    """The device's state. Call it from one thread."""

    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int,
        max_positions: int,
        clock: Callable[[], float],
        model: Model | None,
        seed: int,
        cost: Cost,
        tiers: TierLimits = TierLimits(),  # noqa: B008  frozen
    ) -> None:
        self.weights: Model = model or SimModel()
        self.meter = EngineMeter()
        self.cost = cost
        self.clock = clock
        self.pool = SimPool(num_pages)
        self.table = PageTable(self.pool, page_size, num_pages)
        pages = SimPages(self.pool, page_size)
        fingerprint = f"sim-{type(self.weights).__name__}-{getattr(self.weights, 'seed', 0)}-{page_size}"
        tiers = tiers.for_cache(num_pages * pages.page_bytes)
        self.mover = SimMover(
            pages, (tiers.host_bytes or 0) // pages.page_bytes, tiers.directory, fingerprint, clock, cost.moved_bytes_s
        )
        self.victims = Victims(self.table, cost.max_tokens, clock)
        self.residents = self.victims.residents
        self.tiers = Tiers(
            self.table, self.mover, tiers, clock=clock, tell=self._tell, retire=lambda f: None, make_room=self._make_room,
            boot=os.urandom(4).hex(), meter=self.meter, victims=self.victims,
        )  # fmt: skip
        self.room = Room(self.table, self.tiers, clock, lambda: None)
        self.fetches = Fetches(self.tiers, lambda: self.room.claims.is_tight)
        vocab_size = self.weights.vocab_size
        self.info = ModelInfo(
            name="sim", vocab_size=vocab_size, max_positions=max_positions, page_size=page_size, num_pages=num_pages,
            max_top_k=vocab_size, eos_tokens=(END,), dtype="float32", page_bytes=pages.page_bytes, fingerprint=fingerprint,
            capabilities=(
                "forward", "generate", "sample", "logits", "until", "grammar", "fork", "truncate", "positions", "extract",
                "compact", "rotate",
            ),
        )  # fmt: skip
        self.mail: deque[DeviceEffect] = deque()
        self.out: list[Completion] = []
        self.jobs: dict[JobId, SimJob] = {}  # in the order of their arrival
        self.writers: dict[JobId, Writer] = {}
        self.moving: dict[JobId, MoveJob | SaveJob] = {}
        self.asks: dict[JobId, SampleJob | RowJob] = {}  # wait for a row to be computed again
        self.batch: list[tuple[SimJob, int]] = []
        self.batch_asks: list[SampleJob | RowJob] = []
        self.step_s = 0.0
        self.equal_steps = 1  # that the batch stands for
        self.step = 0
        self._began_ns = 0
        self.wake_at: float | None = None  # by the clock: call `begin` again although nothing was submitted
        self.dead: str | None = None
        self.num_preempted = self.num_rows = 0
        self._rows: OrderedDict[int, Row] = OrderedDict()  # oldest first
        self._row_refs: Counter[int] = Counter()  # files that know the row
        self._row_quota = RowQuota()
        self._serial = 0
        self._seed = seed
        self.surgery = Surgery(SimBench(self))
        self.former = Former(self, self.victims.predictor)
        self.holding = Holding(clock)
        self._num_answered = 0  # calls of one step, in the last one

    # ---- mail

    def submit(self, effects: Sequence[DeviceEffect | TextJob]) -> None:
        for e in effects:
            if self.dead is not None:
                if (job := getattr(e, "job", None)) is not None and not isinstance(e, CancelJob):
                    self.out.append(JobFailed(job, DeviceLost(self.dead)))
            elif isinstance(e, TextJob):
                self._text(e)
            else:
                self.mail.append(e)

    def take(self) -> list[Completion]:
        """The completions so far."""
        out, self.out = self.out, []
        return out

    def _text(self, job: TextJob) -> None:
        try:
            self.out.append(TextDone(job.job, text_result(job)))
        except SymphonyError as error:
            self.out.append(JobFailed(job.job, error))
        except Exception as error:  # noqa: BLE001  as in engine/text.py: the argument was the program's
            self.out.append(JobFailed(job.job, InvalidArgument(f"{job.op}: {type(error).__name__}: {str(error)[:300]}")))

    def _take_mail(self) -> None:
        num_calls = -len(self.jobs)
        while self.mail:
            e = self.mail.popleft()
            try:
                self._APPLY[type(e)](self, e)
            except SymphonyError as error:
                self.out.append(JobFailed(e.job, error))  # type: ignore[union-attr]
        self._sweep_rows()
        if (num_calls := num_calls + len(self.jobs)) > 0:
            self.holding.policy.came(num_calls, self.clock())

    # ---- files

    def now(self) -> float:
        """The clock, made unique: no two files are of one age."""
        self._serial += 1
        return self.clock() + self._serial * 1e-9

    def _create(self, e: CreateFile) -> None:
        f = self.table.create(e.ino, list(e.tokens), e.domain, self.now())
        self.tiers.restore(f, e)

    def _fork(self, e: ForkFile) -> None:
        self.fork_file(e.src, e.dst, e.length, e.domain)

    def fork_file(self, ino: Ino, dst: Ino, length: int, domain: str | None = None) -> PagedFile:
        src = self.table.files[ino]
        job = self.jobs.get(src.job) if src.job is not None else None
        lent = Lent(job.blocks, job.computed, ()) if job is not None and job.lent else None
        f = self.table.fork(src, dst, length, self.now(), lent, domain)
        self._row_refs.update(f.rows.values())
        return f

    def _append(self, e: AppendTokens) -> None:
        self.table.files[e.ino].extend(e.tokens, e.start)

    def _truncate(self, e: TruncateFile) -> None:
        self.table.truncate(self.table.files[e.ino], e.length)

    def _drop(self, e: DropFile) -> None:
        f = self.table.files[e.ino]
        self.tiers.forget(f)
        if f.job is not None:
            self.fail(self.jobs[f.job], Interrupted("the file was closed"))
        self.table.drop(f)

    # ---- jobs

    def _forward(self, e: ForwardJob) -> None:
        self.begin_forward(e)

    def begin_forward(self, e: ForwardJob, on_done: Callable[[SimJob, SymphonyError | None], None] | None = None) -> None:
        f = self.table.files[e.ino]
        base = len(f.tokens)
        self._fits(base + len(e.tokens))
        if e.tokens:
            f.extend(e.tokens, e.start)
        wanted = tuple(base + o for o in e.outputs)
        keep = frozenset(base + o for o in e.keep)
        lowest = min((f.computed, len(f.tokens) - 1, *wanted, *keep))
        self._enqueue(SimJob(e, f, base, lowest, wanted=wanted, keep=keep, on_done=on_done))

    def _generate(self, e: GenerateJob) -> None:
        f = self.table.files[e.ino]
        base = len(f.tokens)
        self._fits(base + 1)
        job = SimJob(e, f, base, min(f.computed, base - 1))
        writer = Writer(job, self.info.eos_tokens, self._fresh_seed)
        writer.begin()
        self._enqueue(job)
        self.writers[job.id] = writer

    def _enqueue(self, job: SimJob) -> None:
        assert job.file.job is None, "two writers on one file"
        job.file.job = job.id
        self.residents.begins(job.file, job.effect.owner)
        job.arrived_s = self.clock()
        self.jobs[job.id] = job
        self.former.add(job)

    def _fits(self, num_tokens: int) -> None:
        need = self.table.pages(num_tokens)
        if need > self.table.num_pages:
            raise OutOfPages(
                f"{num_tokens} tokens need {need} pages and the cache has {self.table.num_pages}", num_pages_needed=need
            )

    def _cancel(self, e: CancelJob) -> None:
        if e.job in self.surgery.edits:
            self.surgery.cancel(e.job)
        elif e.job in self.jobs:
            self.fail(self.jobs[e.job], Interrupted("cancelled"))
        elif e.job in self.moving:
            self.tiers.cancel(e.job)
        elif self.asks.pop(e.job, None) is not None:
            self.out.append(JobFailed(e.job, Interrupted("cancelled")))

    def _extract(self, e: ExtractJob) -> None:
        self.surgery.extract(e)

    def _concat(self, e: ConcatJob) -> None:
        self.surgery.concat(e)

    def fail(self, job: SimJob, error: SymphonyError) -> None:
        """A failed forward leaves the file as it was; a failed generate what was delivered."""
        self._end(job)
        self.table.truncate(job.file, job.base if isinstance(job.effect, ForwardJob) else len(job.file.tokens))
        if job.on_done is not None:
            job.on_done(job, error)
        else:
            self.out.append(JobFailed(job.id, error, job.span))

    def _end(self, job: SimJob) -> None:
        """The pages come back to the file."""
        del self.jobs[job.id]
        self.former.remove(job)
        self.writers.pop(job.id, None)
        f = job.file
        if job.lent:
            self.table.take_back(f, job.blocks, job.computed, 0, [])
        f.job = None
        f.used(self.clock())
        self.victims.ended(f)

    def _schedule_by(self, e: ProcessBegan | ProcessEnded | Rests | Resumes | Weigh | SetPolicy) -> None:
        """Who computes, and by which rules."""
        self.fetches.hear(e)
        self.former.queue.hear(e, self.clock())
        if isinstance(e, SetPolicy):
            self.holding.hear(e)

    # ---- tiers

    def _move(self, e: MoveJob | SaveJob) -> None:
        self.moving[e.job] = e
        self.tiers.submit(e)

    def _tell(self, done: Completion) -> None:
        self.moving.pop(done.job, None)
        self.out.append(done)

    def _pin(self, e: PinFile) -> None:
        self.tiers.pin(self.table.files[e.ino], e.pinned)

    def _limit(self, e: LimitDomain) -> None:
        self.tiers.limit(e)
        for row_id in self._row_quota.limit(e.domain, e.rows):
            self._rows.pop(row_id)

    def _make_room(self, num_pages: int, f: PagedFile) -> None:
        """For a move of `f` to the device."""
        self.room.reclaim(num_pages - self.pool.get_num_free_blocks(), f.born, f)

    # ---- rows

    def _ask(self, e: SampleJob | RowJob) -> None:
        row_id = self.table.files[e.ino].rows.get(e.position)
        if row_id is not None and row_id in self._rows:
            self._answer(e, self._rows[row_id], StepSpan())
        else:
            self.asks[e.job] = e

    def _answer(self, e: SampleJob | RowJob, row: Row, span: StepSpan) -> None:
        if isinstance(e, RowJob):
            self.out.append(RowDone(e.job, pack_floats(row.tolist()), span))
            return
        tokens = self.table.files[e.ino].tokens[: e.position + 1]
        try:
            mask = None
            if e.grammar is not None:
                start = e.grammar.start if e.grammar.start is not None else e.position + 1
                mask = grammars.mask_of(grammars.state_after(e.grammar, tokens[start:]))
            seed = e.sampler.seed if e.sampler.seed is not None else self._fresh_seed()
            drawn = sample_row(row, e.sampler, tokens, e.penalty_from, mask, seed, e.position, e.first_draw, e.n)
            self.out.append(SampleDone(e.job, *drawn, span))
        except SymphonyError as error:
            self.out.append(JobFailed(e.job, error, span))

    def _keep(self, f: PagedFile, rows: dict[int, Row]) -> None:
        for index, row in rows.items():
            self._serial += 1
            if (old := f.rows.get(index)) is not None:
                self.table.dropped_rows.append(old)
            f.rows[index] = self._serial
            self._row_refs[self._serial] = 1
            self._rows[self._serial] = row
            for row_id in self._row_quota.add(self._serial, f.domain):
                self._rows.pop(row_id)
        while len(self._rows) > MAX_ROWS_KEPT:
            self._row_quota.remove((self._rows.popitem(last=False)[0],))
        rows.clear()

    def _sweep_rows(self) -> None:
        """Forget rows that no file knows."""
        for row_id in self.table.dropped_rows:
            self._row_refs[row_id] -= 1
            if not self._row_refs[row_id]:
                del self._row_refs[row_id]
                self._rows.pop(row_id, None)
                self._row_quota.remove((row_id,))
        self.table.dropped_rows.clear()

    def _fresh_seed(self) -> int:
        self._serial += 1
        return key64(self._seed, self._serial)

    def _clock_ns(self) -> int:
        return int(self.clock() * 1e9)

    # ---- the step

    @property
    def is_stepping(self) -> bool:
        return bool(self.batch or self.batch_asks)

    @property
    def has_work(self) -> bool:
        """Whether `begin` may do something."""
        return bool(
            self.mail
            or self.jobs
            or self.asks
            or self.moving
            or self.tiers.busy
            or self.tiers.wanted
            or self.surgery.edits
            or self.fetches.due_s is not None
            or self.holding.is_holding
        )

    def begin(self) -> float | None:
        """Take the mail and fix the next batch. The seconds that it takes; None: nothing can be computed (see `wake_at`)."""
        assert not self.is_stepping
        came = bool(self.mail)
        self._take_mail()
        if self.tiers.poll() or self.surgery.is_waiting:
            self.surgery.try_again()
        self.fetches.advance()
        self.wake_at = self._held_until(came)
        if self.wake_at is not None:
            return None
        self.batch = self.former.form()
        if not self.batch and self.surgery.is_waiting:  # for calls that have just been ended for want of room
            self.surgery.try_again()
            self.batch = self.former.form()
        self.victims.busy_tokens = self.table.page_size * sum(len(job.blocks) for job, _ in self.batch)
        self.batch_asks = list(islice(self.asks.values(), self.cost.max_rows))
        if not self.is_stepping:
            if self.surgery.is_waiting and (stale_in := self.room.next_stale()) is not None:
                self.wake_at = self.clock() + stale_in
            self.wake_at = min((t for t in (self.wake_at, self.mover.next_end, self.fetches.due_s) if t is not None), default=None)
            return None
        self.step += 1
        self._began_ns = self._clock_ns()
        num_tokens = sum(n for _, n in self.batch) + len(self.batch_asks)
        self.num_rows += len(self.batch) + len(self.batch_asks)
        self.step_s = self.cost.of(len(self.batch) + len(self.batch_asks), num_tokens)
        self.meter.count("programs", len(self.batch) + len(self.batch_asks), num_tokens)
        self.meter.step_seconds.observe(self.step_s)
        return self.step_s

    def _held_until(self, came: bool) -> float | None:
        """By the clock: when to look again, if the step is held."""
        queue = self.former.queue
        until_s = self.holding.until_s(queue.num_waiting + len(self.asks), queue.num_running, came=came)
        if until_s is None:
            return None
        return min(t for t in (until_s, self.mover.next_end, self.fetches.due_s) if t is not None)

    def finish(self) -> None:
        """Compute the batch."""
        batch, self.batch = self.batch, []
        asks, self.batch_asks = self.batch_asks, []
        total = sum(n for _, n in batch) + len(asks)
        self._num_answered = 0
        self.victims.measured.stepped(total // self.equal_steps, self.step_s / self.equal_steps)
        self.out.append(StepRan(self.step, self._began_ns, self._clock_ns(), len(batch) + len(asks), total))
        for e in asks:
            if self.asks.pop(e.job, None) is not None:
                span = StepSpan(self.step, self.step, self.step_s / total)
                try:
                    self._answer(e, self._row_of_file(e), span)
                except SymphonyError as error:
                    self.out.append(JobFailed(e.job, error, span))
        for job, n in batch:
            if not job.first_step:
                job.first_step = self.step
                self.meter.queue_seconds.observe(self._began_ns / 1e9 - job.arrived_s)
            job.last_step = self.step
            job.device_s += self.step_s * n / total
            self.former.charge(job, n)
            try:
                self._compute(job, n)
            except SymphonyError as error:
                self.fail(job, error)
        self._sweep_rows()
        took_s = self.clock() - self._began_ns / 1e9
        self.holding.took(len(batch) + len(asks), took_s / self.equal_steps, self.equal_steps)
        self.holding.expected = self.former.queue.num_waiting + len(self.asks) + self._num_answered

    def _compute(self, job: SimJob, n: int) -> None:
        f, size = job.file, self.table.page_size
        for index, position in zip(range(job.computed, job.computed + n), self._positions(f, job.computed), strict=False):
            block = job.blocks[index // size]
            assert block.ref_cnt == 1 or f.edited, f"block {block.block_id} is shared and written"
            block.slots[index % size] = (f.tokens[index], position)
            if index in job.wanted or index in job.keep:
                job.take_row(index, self._row(job.blocks, index))
        job.computed += n
        if job.computed < len(f.tokens):
            return
        writer = self.writers.get(job.id)
        if writer is None:
            self._end(job)
            self._keep(f, job.rows)
            if job.on_done is not None:
                job.on_done(job, None)
                return
            self._num_answered += 1
            self.out.append(ForwardDone(job.id, tuple(job.distributions[i] for i in job.wanted), job.span))
            return
        progress, done = writer.take(self._row(job.blocks, job.computed - 1))
        if progress is not None:
            self.out.append(progress)
        if done is not None:
            self._end(job)
            self._keep(f, job.rows)
            done = type(done)(done.job, done.reason, done.stop, f.frontier, done.distribution, job.span)
            self.out.append(done)

    def _row(self, blocks: Sequence[SimBlock], index: int) -> Row:
        """The row after index, from what is in the pages."""
        size = self.table.page_size
        return self.weights.row([blocks[i // size].slots[i % size] for i in range(self._first_seen(index), index + 1)])

    def _row_of_file(self, e: SampleJob | RowJob) -> Row:
        f = self.table.files[e.ino]
        first = self._first_seen(e.position)
        return self.weights.row(list(zip(f.tokens[first : e.position + 1], self._positions(f, first), strict=False)))

    def _first_seen(self, index: int) -> int:
        """The first index that the row after `index` depends on."""
        return 0 if self.weights.context is None else max(0, index + 1 - self.weights.context)

    @staticmethod
    def _positions(f: PagedFile, first: int) -> Any:
        """Positions of the file's tokens from index `first` on."""
        run = max(i for i, (at, _) in enumerate(f.runs) if at <= first)
        for index in range(first, len(f.tokens)):
            while run + 1 < len(f.runs) and f.runs[run + 1][0] <= index:
                run += 1
            yield index + f.runs[run][1]

    # ---- for who forms the batch (former.py)

    def start(self, job: SimJob) -> None:
        """The pages are lent to it, and those that are missing are taken."""
        f = job.file
        self.tiers.disturb(f)
        retained: list[tuple[SimBlock, SimBlock]] = []
        job.computed = min(f.frontier, job.lowest)
        job.blocks = self.table.lend(f, job.computed, retained)
        job.lent = True
        job.blocks += self.pool.get_new_blocks(self.table.pages(len(f.tokens)) - len(job.blocks))
        for src, dst in retained:
            dst.slots = dict(src.slots)
            self.pool.free_blocks((src, dst))

    def pages_needed(self, job: SimJob) -> int:
        f = job.file
        return self.table.pages_to_lend(f, min(f.frontier, job.lowest), len(f.tokens))

    def preempt(self, job: SimJob) -> None:
        """It starts over, with what it has sampled."""
        self.num_preempted += 1
        fixed = job.file.fixed
        self.table.take_back(job.file, job.blocks, fixed, 0, [])
        job.blocks, job.lent, job.computed, job.lowest = [], False, 0, fixed
        self.former.preempted(job)

    # ---- end, truth

    def lose(self, message: str) -> None:
        """The device is gone: every job fails, every file forgets its pages."""
        self.dead = message
        error = DeviceLost(message)
        lost = [
            *(job for job in self.jobs if job > 0),
            *self.surgery.edits,
            *self.asks,
            *self.moving,
            *(e.job for e in self.mail if hasattr(e, "job") and not isinstance(e, CancelJob)),
        ]
        self.out += [JobFailed(job, error) for job in lost]
        self.tiers.lose()
        for held in (self.jobs, self.surgery.edits, self.writers, self.asks, self.moving):
            held.clear()
        for left in (self.mail, self.batch, self.batch_asks, self._rows):
            left.clear()
        self.former = Former(self, self.victims.predictor)

    def check(self) -> None:
        """Every page is accounted for, and holds what its file says."""
        self.table.check([*(job.blocks for job in self.jobs.values() if job.lent), *self.tiers.lent_blocks()])
        self.tiers.check()
        self.former.check()
        for f in self.table.files.values():
            assert f.job is None or f.job in self.jobs, (f.ino, f.job)
            job = self.jobs[f.job] if f.job is not None else None
            blocks, computed = (job.blocks, job.computed) if job is not None and job.lent else (f.blocks, f.frontier)
            for index, position in zip(range(computed), self._positions(f, 0), strict=False):
                slot = blocks[index // self.table.page_size].slots[index % self.table.page_size]
                assert slot == (f.tokens[index], position), f"file {f.ino}, index {index}: {slot} is in the page"

    def job_state(self, job: JobId) -> tuple[str, str]:
        """As `Device.job_state`. Safe beside the thread that steps: each look is one read of a dict, a length or an attribute,
        which the interpreter lock keeps whole; the one list that is walked is never changed, only replaced."""
        if job in self.asks:
            return "batch", "its row is computed again"
        if job in self.moving:
            return "queue", "its pages are moved"
        work = self.jobs.get(job)
        if work is None:
            return "queue", "it comes into the next step" if self.mail else ""
        if any(work is other for other, _ in self.batch):
            return "batch", f"in step {self.step}"
        f, free = work.file, self.pool.get_num_free_blocks()
        blocks = len(work.blocks) if work.lent else len(f.blocks)
        need = max(0, self.table.pages(len(f.tokens)) - blocks)
        if need > free:
            return "pages", f"needs {need} pages, {free} are free"
        return "queue", f"calls in the batch: {len(self.batch)}" if self.is_stepping else "it comes into the next step"

    def residency(self, ino: Ino) -> Residency:
        """As `Device.residency`; reads as `job_state` does."""
        f = self.table.files.get(ino)
        if f is None:
            return Residency(known=False)
        job = self.jobs.get(f.job) if f.job is not None else None
        if job is not None and job.lent:
            return Residency(min(job.computed, len(f.tokens)), len(job.blocks), *self.tiers.places(f))
        return Residency(f.computed, len(f.blocks), *self.tiers.places(f))

    def capacity(self) -> Capacity:
        """As `Device.capacity`."""
        return Capacity(
            self.table.num_pages,
            self.pool.get_num_free_blocks(),
            **self.tiers.room(),
            rows=tuple(self._row_quota.counts.copy().items()),
        )

    def samples(self) -> Iterator[MetricSample]:
        files = self.table.files.values()
        return engine_samples(self.meter, self.counters(), self.capacity(), files, self.info.page_bytes)

    def counters(self) -> dict[str, float]:
        free = self.pool.get_num_free_blocks()
        return {
            "steps": self.step, "engine_steps": self.step, "rows": self.num_rows, "files": len(self.table.files),
            "jobs": len(self.jobs) + len(self.asks) + len(self.surgery.edits), "pages_total": self.table.num_pages,
            "pages_free": free, "pages_held": self.table.num_pages - free, "rows_kept": len(self._rows),
            "parked": self.former.num_parked, "yielded": self.former.num_yielded, "preempted": self.num_preempted,
            "evicted": self.room.num_evicted, "out_of_room": self.former.num_failed_room,
            "waits": self.holding.num_waits, "waited_s": self.holding.waited_s, **self.tiers.counters(),
        }  # fmt: skip

    _APPLY: ClassVar[dict[type, Callable[[SimCore, Any], None]]] = {
        CreateFile: _create, ForkFile: _fork, AppendTokens: _append, TruncateFile: _truncate, DropFile: _drop, ForwardJob: _forward,
        GenerateJob: _generate, SampleJob: _ask, RowJob: _ask, CancelJob: _cancel, PinFile: _pin, LimitDomain: _limit,
        MoveJob: _move, SaveJob: _move, ExtractJob: _extract, ConcatJob: _concat, ProcessBegan: _schedule_by,
        ProcessEnded: _schedule_by, Rests: _schedule_by, Resumes: _schedule_by, Weigh: _schedule_by, SetPolicy: _schedule_by,
    }  # fmt: skip
