"""The device that leaps (simulate/device.py): the simulator's core where only counts matter, not which token came.

    begin as ever: mail, room, policies --> all rows decode? --> so many equal steps at once as pass before anything can happen
                                                                 (a call's end, an arrival, no free page, a move's end)

Who decides is `SimCore`: run queue, memory policy, page table and tiers are those that serve. What is left out is the model: a
token is `TOKEN`, pages hold nothing, and of a call's tokens the first is told when it comes, the others with its end. A leap is
exact: each of its steps has its own time, by the contexts of that step. With a `stride` above 1 it is not: while all decode, calls
are admitted, and their ends told, every so many steps only.
A fork of a named file finds its pages as vLLM finds a prefix, by whoever computed it first (`_adopt`, `_publish`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf, sqrt
from typing import Any, ClassVar

from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.sim.core import Cost, SimCore
from vllm_symphony.engine.sim.job import SimJob
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import NotSupported, SymphonyError
from vllm_symphony.kernel.effect import DropFile, ForwardDone, ForwardJob, GenerateDone, GenerateJob, GenerateTokens
from vllm_symphony.simulate.steptime import Load, StepTime

TOKEN = 7
NEVER = 1 << 30
NEGLIGIBLE = 1e-15


class LeapCore(SimCore):
    """Answers generates, and forwards without distributions. `leap` takes the place of `begin`."""

    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int,
        max_positions: int,
        clock: Callable[[], float],
        cost: Cost,
        step_time: StepTime,
        stride: int = 1,
        tiers: TierLimits = TierLimits(),  # noqa: B008  frozen
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_pages=num_pages, page_size=page_size, max_positions=max_positions, clock=clock, model=None, seed=seed, cost=cost,
            tiers=tiers,
        )  # fmt: skip
        self.step_time = step_time
        self.stride = stride
        self.busy_s = 0.0
        self.num_steps = 0
        self.num_prefilled = 0  # tokens of prompts that were computed ...
        self.num_reused = 0  # ... that were there when their call began ...
        self.num_redone = 0  # ... and that were computed before, and given up
        self._left: dict[JobId, int] = {}  # tokens that a generate still gives
        self._told: dict[JobId, int] = {}  # those that its caller has
        self._reached: dict[Ino, int] = {}  # tokens of a file that had KV once
        self._source: dict[Ino, Ino] = {}  # what a file was forked from

    # ---- the step

    def leap(self, until_s: float) -> float | None:
        """Begin; the seconds until it can make a difference that somebody looks, at the first step's end at least. `until_s`: when
        something comes from outside. None: nothing can be computed (see `wake_at`)."""
        if self.begin() is None:
            return None
        load, first_end, last_end = self._look()
        num_steps = 1
        if last_end:
            waits = len(self.jobs) > len(self.batch)  # then a policy may change its mind after any step
            exact = 1 if waits else self._steps_within(load, first_end, until_s)
            num_steps = self._grant(max(exact, min(self.stride, last_end)))
        if num_steps > 1:
            load = self._lengthen(num_steps)
            self.step += num_steps - 1
        self.num_steps += num_steps
        self.equal_steps = num_steps
        self.step_s = self.step_time.of_load(load) + (num_steps - 1) * self.step_time.step_s
        self.busy_s += self.step_s
        return self.step_s

    def _look(self) -> tuple[Load, int, int]:
        """What is in the batch, and after how many steps the first and the last of its calls end; 0 if there are prompts, or if
        somebody waits for a first token, which is to be told when it comes."""
        tokens = reads = 0
        pairs, first_end, last_end = 0.0, NEVER, 1
        told, lefts = self._told, self._left
        for job, n in self.batch:
            tokens += n
            if n > 1:
                pairs += n * (job.computed + n / 2)
                first_end = 0
            else:
                reads += job.computed
                left = lefts[job.effect.job] if job.effect.job in told else 0
                first_end = left if left < first_end else first_end
                last_end = left if left > last_end else last_end
        return Load(len(self.batch), tokens, reads, pairs), first_end, last_end if first_end else 0

    def _lengthen(self, num_steps: int) -> Load:
        """Each call decodes for so many steps, or to its end; what is in them together."""
        self.batch = [(job, min(num_steps, self._left[job.effect.job])) for job, _ in self.batch]
        tokens = sum(n for _, n in self.batch)
        reads = sum(n * job.computed + n * (n - 1) // 2 for job, n in self.batch)
        return Load(tokens, tokens, reads, 0.0)

    def _steps_within(self, load: Load, most: int, until_s: float) -> int:
        """At most `most`, until time is over: the one in which that happens is the last."""
        seconds = min(until_s, self._horizon()) - self.clock()
        first, growth = self.step_time.of_load(load), self.step_time.read_s * load.rows  # contexts grow by a token a step
        if most * first + growth * most * (most - 1) / 2 <= seconds:
            return most
        a, b = growth / 2, first - growth / 2  # a k^2 + b k = seconds
        steps = seconds / b if a < NEGLIGIBLE else (sqrt(b * b + 4 * a * max(0.0, seconds)) - b) / (2 * a)
        return max(1, min(most, ceil(steps)))

    def _grant(self, most: int) -> int:
        """At most `most`, as far as pages are free; they are taken."""
        size, free = self.table.page_size, self.pool.get_num_free_blocks()
        while most > 1:
            ends = (job.computed + min(most, self._left[job.effect.job]) for job, _ in self.batch)
            needs = [-(-end // size) - len(job.blocks) for end, (job, _) in zip(ends, self.batch, strict=True)]
            if sum(needs) <= free:
                for (job, _), need in zip(self.batch, needs, strict=True):
                    if need > 0:
                        job.blocks += self.pool.get_new_blocks(need)
                return most
            most //= 2
        return 1

    def _horizon(self) -> float:
        """When the device would do something although nothing came and no call ended: a move ends, pages are to be fetched."""
        return min((t for t in (self.mover.next_end, self.fetches.due_s) if t is not None), default=inf)

    def _enqueue(self, job: SimJob) -> None:
        if isinstance(job.effect, ForwardJob) and (job.effect.outputs or job.effect.keep):
            raise NotSupported("the leaping device has no distributions: it answers generates, and forwards without outputs")
        super()._enqueue(job)
        self._left[job.id] = job.effect.max_tokens if isinstance(job.effect, GenerateJob) else 0

    def _compute(self, job: SimJob, n: int) -> None:
        job_id, tokens = job.effect.job, job.file.tokens
        is_prompt = job_id not in self._told or job.computed + 1 < len(tokens)
        job.computed += n
        if is_prompt:
            self.num_prefilled += n
            if job.computed < len(tokens):
                return
            self._publish(job)
            if isinstance(job.effect, ForwardJob):
                self._end(job)
                self._num_answered += 1
                self.out.append(ForwardDone(job_id, (), job.span))
                return
            n = 1
        tokens += [TOKEN] * n
        left = self._left[job_id] = self._left[job_id] - n
        if not left:
            self._tell_rest(job)
            self._end(job)
            self.out.append(GenerateDone(job_id, "length", None, job.file.frontier, None, job.span))
        elif job_id not in self._told:
            self._tell_rest(job)

    def _tell_rest(self, job: SimJob) -> None:
        """The tokens that the caller does not have yet."""
        assert isinstance(job.effect, GenerateJob)
        drawn = job.effect.max_tokens - self._left[job.id]
        if more := drawn - self._told.get(job.id, 0):
            self.out.append(GenerateTokens(job.id, [TOKEN] * more))
        self._told[job.id] = drawn

    def fail(self, job: SimJob, error: SymphonyError) -> None:
        if isinstance(job.effect, GenerateJob):
            self._tell_rest(job)
        super().fail(job, error)

    def _end(self, job: SimJob) -> None:
        ino = job.file.ino
        self._reached[ino] = max(self._reached.get(ino, 0), job.computed)
        self._told.pop(job.id, None)
        self._left.pop(job.id)
        super()._end(job)

    # ---- what is there already

    def start(self, job: SimJob) -> None:
        super().start(job)
        reached = min(self._reached.get(job.file.ino, 0), len(job.file.tokens))
        self.num_reused += job.computed
        self.num_redone += max(0, reached - job.computed)

    def pages_needed(self, job: SimJob) -> int:
        self._adopt(job)
        return super().pages_needed(job)

    def _adopt(self, job: SimJob) -> None:
        """Of what it was forked from, the full pages that have been computed since."""
        f, src = job.file, self._source_of(job.file)
        if src is None or src.job is not None or f.copies or f.blocks:
            return
        full = min(src.frontier, len(f.tokens) - 1) // self.table.page_size
        if full:
            self.table.adopt(f, src.blocks[:full])
            job.lowest = max(job.lowest, f.frontier)
            src.last_used = self.clock()

    def _publish(self, job: SimJob) -> None:
        """It has computed its prompt; what it was forked from gets the pages, if it has none."""
        src = self._source_of(job.file)
        if src is None or src.job is not None or src.blocks or src.copies or src.move is not None:
            return
        full = min(len(src.tokens), job.computed) // self.table.page_size
        src.last_used = self.clock()
        self.table.adopt(src, job.blocks[:full])

    def _source_of(self, f: PagedFile) -> PagedFile | None:
        return self.table.files.get(self._source.get(f.ino, Ino(0)))

    def fork_file(self, ino: Ino, dst: Ino, length: int, domain: str | None = None) -> PagedFile:
        f = super().fork_file(ino, dst, length, domain)
        self._source[dst] = ino
        self._reached[dst] = min(length, self._reached.get(ino, 0))
        return f

    def _drop(self, e: DropFile) -> None:
        super()._drop(e)
        self._reached.pop(e.ino, None)
        self._source.pop(e.ino, None)

    _APPLY: ClassVar[dict[type, Callable[[Any, Any], None]]] = {**SimCore._APPLY, DropFile: _drop}

    # ---- truth

    def check(self) -> None:
        """Every page is accounted for; what they hold is nothing here."""
        self.table.check([*(job.blocks for job in self.jobs.values() if job.lent), *self.tiers.lent_blocks()])
        self.tiers.check()
        for job in self.jobs.values():
            assert job.file.job == job.id, (job.id, job.file.job)
        assert self._told.keys() <= self._left.keys() == self.jobs.keys()
