"""Jobs of the simulator (engine/sim/job.py): a forward or a generate on one file, and what a step makes of it.

A job's pages are lent to it from its first step to its end, as they are lent to a vLLM request (engine/job.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vllm_symphony.abi.types import Distribution, JobId
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.sim import grammar as grammars
from vllm_symphony.engine.sim.model import END, Row, decode
from vllm_symphony.engine.sim.pool import SimBlock
from vllm_symphony.engine.sim.sampler import distribution, fires, sample_row
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import ForwardJob, GenerateDone, GenerateJob, GenerateTokens, StepSpan
from vllm_symphony.kernel.sched.runnable import Runnable

UNTIL_TOP_K = 20


@dataclass(slots=True, eq=False)
class SimJob:
    """`base`: tokens of the file before the call; `lowest`: first index that must be computed; `computed`: tokens with KV."""

    effect: ForwardJob | GenerateJob
    file: PagedFile
    base: int
    lowest: int
    lent: bool = False
    blocks: list[SimBlock] = field(default_factory=list)
    computed: int = 0
    wanted: tuple[int, ...] = ()
    keep: frozenset[int] = frozenset()
    distributions: dict[int, Distribution] = field(default_factory=dict)
    rows: dict[int, Row] = field(default_factory=dict)
    call: Runnable | None = None  # as the run queue has it
    first_step: int = 0
    arrived_s: float = 0.0
    last_step: int = 0
    device_s: float = 0.0
    on_done: Callable[[SimJob, SymphonyError | None], None] | None = None  # instead of a completion (an edit's fork)

    @property
    def id(self) -> JobId:
        return self.effect.job

    @property
    def span(self) -> StepSpan:
        return StepSpan(self.first_step, self.last_step, self.device_s)

    def take_row(self, index: int, row: Row) -> None:
        """A row that a forward asked for, or keeps."""
        e = self.effect
        assert isinstance(e, ForwardJob)
        if index in self.keep:
            self.rows[index] = row
        if index in self.wanted:
            self.distributions[index] = distribution(row, index, e.top_k, e.temperature, e.entropy)


@dataclass(slots=True, eq=False)
class Writer:
    """The fused loop of one generate: a row in, a token (or an end) out. `text` is held back while it may become a stop string."""

    job: SimJob
    end_tokens: tuple[int, ...]
    fresh_seed: Callable[[], int]
    num_tokens: int = 0
    state: grammars.Node | None = None
    pending: list[int] = field(default_factory=list)  # tokens whose bytes are no whole character yet
    text: str = ""
    shown: int = 0

    def begin(self) -> None:
        """Bring the grammar to where the file stands. Raises InvalidArgument, NotSupported."""
        e = self.effect
        if e.grammar is not None:
            start = e.grammar.start if e.grammar.start is not None else self.job.base
            self.state = grammars.state_after(e.grammar, self.job.file.tokens[start : self.job.base])

    @property
    def effect(self) -> GenerateJob:
        assert isinstance(self.job.effect, GenerateJob)
        return self.job.effect

    def take(self, row: Row) -> tuple[GenerateTokens | None, GenerateDone | None]:
        """One step: the row after the file's last token. The token is put into the file."""
        e, f = self.effect, self.job.file
        last = len(f.tokens) - 1
        if e.until is not None and fires(e.until, row, self.num_tokens):
            self.job.rows[last] = row
            text = self._release("")
            fired = distribution(row, last, UNTIL_TOP_K, 1.0, True)
            return (GenerateTokens(e.job, [], [], text) if text else None), self._done("until", None, fired)
        mask = grammars.mask_of(self.state) if self.state is not None else None
        seed = e.sampler.seed if e.sampler.seed is not None else self.fresh_seed()
        (token,), (logprob,) = sample_row(row, e.sampler, f.tokens, e.penalty_from, mask, seed, last, 0, 1)
        f.tokens.append(token)
        self.num_tokens += 1
        ends = token in e.stop_tokens or (token in self.end_tokens and (not e.ignore_eos or e.grammar is not None))
        if self.state is not None and token < END:
            self.state = grammars.derive(self.state, token)
        stop = self._grow(token, ends)
        done = None
        if stop is not None:
            done = self._done("stop", stop)
        elif ends:
            done = self._done("grammar" if e.grammar is not None and token in self.end_tokens else "stop", str(token))
        elif self.num_tokens >= e.max_tokens:
            done = self._done("length", None)
        text = self._release("" if done else max(e.stop, key=len, default=""))
        return GenerateTokens(e.job, [token], [logprob] if e.logprobs else [], text if e.text else ""), done

    def _done(self, reason: str, stop: str | None, fired: Distribution | None = None) -> GenerateDone:
        return GenerateDone(self.effect.job, reason, stop, self.job.computed, fired)

    def _grow(self, token: int, ends: bool) -> str | None:
        """Add the token's text; cut it at a stop string that it completes, and return that."""
        if not (self.effect.text or self.effect.stop) or ends:
            return None
        self.pending.append(token)
        new = decode(self.pending)
        if new.endswith("\ufffd") and len(self.pending) < 4:
            return None  # a character that is not whole yet
        self.pending.clear()
        self.text += new
        for stop in self.effect.stop:
            at = self.text.find(stop, max(0, len(self.text) - len(new) - len(stop) + 1))
            if at >= 0:
                self.text = self.text[:at]
                return stop
        return None

    def _release(self, longest_stop: str) -> str:
        """Text that may be shown: all but what a stop string could begin with."""
        upto = len(self.text) - max(0, len(longest_stop) - 1)
        text = self.text[self.shown : upto] if upto > self.shown else ""
        self.shown = max(self.shown, min(upto, len(self.text)))
        return text
