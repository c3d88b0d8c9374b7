"""Drives a Device by effects, without a kernel: what the engine tests speak (tests/engine/driver.py)."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vllm_symphony.abi.types import Distribution, Grammar, Ino, JobId, Predicate, Sampler, Span, unpack_floats, unpack_tokens
from vllm_symphony.kernel.effect import (
    AppendTokens,
    CancelJob,
    ConcatJob,
    CreateFile,
    DropFile,
    EditDone,
    ExtractJob,
    ForkFile,
    ForwardDone,
    ForwardJob,
    GenerateDone,
    GenerateJob,
    GenerateTokens,
    JobFailed,
    Owner,
    RowJob,
    SampleJob,
    StepRan,
    TruncateFile,
)  # fmt: skip

TIMEOUT_S = 60
OF_NOBODY = Owner()


@dataclass
class Generated:
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    done: Any = None


class Driver:
    """Thread-safe: each call waits for its own completion."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.ids = itertools.count(1)
        self.inos = itertools.count(1)
        self.waiting: dict[int, queue.Queue[Any]] = {}
        self.lengths: dict[int, int] = {}
        self.steps: list[StepRan] = []
        self.lock = threading.Lock()
        self.died: BaseException | None = None
        host.start(self.deliver, self.death)

    def deliver(self, batch: Any) -> None:
        for c in batch:
            if isinstance(c, StepRan):
                self.steps.append(c)
            else:
                self.waiting[c.job].put(c)

    def death(self, error: BaseException) -> None:
        self.died = error

    def submit(self, *effects: Any) -> None:
        with self.lock:
            self.host.submit(effects)

    def job(self) -> tuple[JobId, queue.Queue[Any]]:
        job = JobId(next(self.ids))
        q: queue.Queue[Any] = queue.Queue()
        self.waiting[job] = q
        return job, q

    # ---- files

    def create(self, tokens: list[int] = (), domain: str = "") -> Ino:  # type: ignore[assignment]
        ino = Ino(next(self.inos))
        self.lengths[ino] = len(tokens)
        self.submit(CreateFile(ino, list(tokens), domain))
        return ino

    def fork(self, src: Ino, length: int | None = None, domain: str = "") -> Ino:
        ino = Ino(next(self.inos))
        n = self.lengths[src] if length is None else length
        self.lengths[ino] = n
        self.submit(ForkFile(src, ino, n, domain))
        return ino

    def start_extract(self, src: Ino, *spans: tuple[int, int], compact: bool = False) -> tuple[JobId, Ino, queue.Queue[Any]]:
        job, q = self.job()
        dst = Ino(next(self.inos))
        self.lengths[dst] = sum(stop - start for start, stop in spans)
        self.submit(ExtractJob(job, src, dst, tuple(Span(*s) for s in spans), compact, "", Owner()))
        return job, dst, q

    def start_concat(self, *srcs: Ino) -> tuple[JobId, Ino, queue.Queue[Any]]:
        job, q = self.job()
        dst = Ino(next(self.inos))
        self.lengths[dst] = sum(self.lengths[src] for src in srcs)
        self.submit(ConcatJob(job, tuple((src, self.lengths[src]) for src in srcs), dst, "", Owner()))
        return job, dst, q

    def extract(self, src: Ino, *spans: tuple[int, int], compact: bool = False) -> Ino:
        return self.edited(*self.start_extract(src, *spans, compact=compact)[1:])

    def concat(self, *srcs: Ino) -> Ino:
        return self.edited(*self.start_concat(*srcs)[1:])

    def edited(self, dst: Ino, q: queue.Queue[Any]) -> Ino:
        """The new file, when it is made."""
        done = q.get(timeout=TIMEOUT_S)
        if isinstance(done, JobFailed):
            raise done.error
        assert isinstance(done, EditDone) and done.frontier == self.lengths[dst] - 1
        return dst

    def append(self, ino: Ino, tokens: list[int], start: int | None = None) -> None:
        self.submit(AppendTokens(ino, list(tokens), self.lengths[ino] if start is None else start))
        self.lengths[ino] += len(tokens)

    def truncate(self, ino: Ino, length: int) -> None:
        self.lengths[ino] = length
        self.submit(TruncateFile(ino, length))

    def drop(self, *inos: Ino) -> None:
        self.submit(*[DropFile(i) for i in inos])

    def cancel(self, job: JobId) -> None:
        self.submit(CancelJob(job))

    # ---- jobs

    def start_forward(
        self, ino: Ino, tokens: list[int], *, start: int | None = None, outputs: Any = "last", top_k: int = 5, keep: Any = "last",
        temperature: float = 1.0, entropy: bool = False,
    ) -> tuple[JobId, queue.Queue[Any]]:  # fmt: skip
        n = len(tokens)
        index = {"last": (n - 1,) if n else (-1,), "all": tuple(range(n)), "none": ()}
        outs = index[outputs] if isinstance(outputs, str) else tuple(outputs)
        kept = index[keep] if isinstance(keep, str) else tuple(keep)
        kept = tuple(i for i in kept if i in outs)
        job, q = self.job()
        at = self.lengths[ino] if start is None else start
        self.submit(ForwardJob(job, ino, list(tokens), at, outs, top_k, kept, temperature, entropy, Owner()))
        return job, q

    def forward(self, ino: Ino, tokens: list[int], **kw: Any) -> tuple[Distribution, ...]:
        _, q = self.start_forward(ino, tokens, **kw)
        done = q.get(timeout=TIMEOUT_S)
        if isinstance(done, JobFailed):
            raise done.error
        assert isinstance(done, ForwardDone)
        self.lengths[ino] += len(tokens)
        return done.distributions

    def start_generate(
        self, ino: Ino, max_tokens: int, *, sampler: Sampler = Sampler(), penalty_from: int | None = None,
        stop: tuple[str, ...] = (), stop_tokens: tuple[int, ...] = (), ignore_eos: bool = True,
        grammar: Grammar | None = None, until: Predicate | None = None, logprobs: bool = False,
        start: int | None = None, text: bool = True, owner: Owner = OF_NOBODY,
    ) -> tuple[JobId, queue.Queue[Any]]:  # fmt: skip
        job, q = self.job()
        n = self.lengths[ino]
        self.submit(
            GenerateJob(
                job, ino, max_tokens, sampler, n if penalty_from is None else penalty_from, stop, stop_tokens, ignore_eos, grammar,
                until, logprobs, n if start is None else start, owner, text,
            )
        )  # fmt: skip
        return job, q

    def collect(self, ino: Ino, q: queue.Queue[Any], out: Generated | None = None) -> Generated:
        g = out or Generated()
        while True:
            c = q.get(timeout=TIMEOUT_S)
            if isinstance(c, GenerateTokens):
                g.tokens += c.tokens
                g.logprobs += c.logprobs
                g.text += c.text
                self.lengths[ino] += len(c.tokens)
                continue
            g.done = c
            if isinstance(c, JobFailed):
                raise c.error
            assert isinstance(c, GenerateDone)
            return g

    def generate(self, ino: Ino, max_tokens: int, **kw: Any) -> Generated:
        _, q = self.start_generate(ino, max_tokens, **kw)
        return self.collect(ino, q)

    def sample(
        self, ino: Ino, position: int, sampler: Sampler, *, n: int = 1, penalty_from: int = 0, grammar: Grammar | None = None,
        first_draw: int = 0,
    ) -> tuple[list[int], list[float]]:  # fmt: skip
        job, q = self.job()
        self.submit(SampleJob(job, ino, position, sampler, penalty_from, grammar, n, first_draw, Owner()))
        done = q.get(timeout=TIMEOUT_S)
        if isinstance(done, JobFailed):
            raise done.error
        return done.tokens, done.logprobs

    def row(self, ino: Ino, position: int) -> list[float]:
        job, q = self.job()
        self.submit(RowJob(job, ino, position, Owner()))
        done = q.get(timeout=TIMEOUT_S)
        if isinstance(done, JobFailed):
            raise done.error
        return unpack_floats(done.logits)

    def call_evict(self, *inos: Ino) -> None:
        """Take the pages of idle files; their tokens stay."""
        table = self.host.device.table

        def evict() -> None:
            for i in inos:
                self.host.device.retire(table.files[i])
                table.evict(table.files[i])

        self.call(evict)

    # ---- truth

    def call(self, fn: Callable[[], Any]) -> Any:
        """Run `fn` on the engine thread, after all mail so far."""
        return self.host.call_in_engine(fn)

    def check(self) -> None:
        self.call(self.host.device.check)

    def counters(self) -> dict[str, float]:
        return self.call(self.host.counters)

    def clear(self) -> None:
        """End every job and drop every file."""
        device = self.host.device
        jobs, files = self.call(lambda: ([j for j in device.by_id if j > 0], [i for i in device.table.files if i > 0]))
        self.submit(*[CancelJob(j) for j in jobs], *[DropFile(i) for i in files])

    def assert_nothing_left(self) -> None:
        """No file, job, request, page or row; and whatever was preempted, we gave up (room.py, rule 4)."""

        def look() -> None:
            d, s = self.host.device, self.host.scheduler
            d.check()
            assert not d.table.files and not d.by_id and not d.jobs and not d.finished, (d.table.files, d.by_id, d.jobs, d.finished)
            assert not s.requests and not s.running and not s.parked
            assert d.table.pool.get_num_free_blocks() == d.table.num_pages
            d.rows.check_empty()
            assert s.num_preempted == s.admission.num_given_up, "vLLM has preempted by itself"

        self.call(look)


def ids(d: Distribution) -> list[int]:
    return unpack_tokens(d.ids)


def logprobs(d: Distribution) -> list[float]:
    return unpack_floats(d.logprobs)
