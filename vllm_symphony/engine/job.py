"""Jobs: device calls in flight, as the engine thread sees them (engine/job.py).

    effect (ForwardJob | GenerateJob) -> FileJob -> a short-lived vLLM Request -> rows of StepResults -> one completion

A forward is a request that samples one token nobody looks at; a generate is the same request with many. While the job waits, the
file keeps its pages; from its first step on they are lent to the request.
Source: vllm/v1/request.py, vllm/v1/engine/detokenizer.py (0.32).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer, IncrementalDetokenizer
from vllm.v1.request import Request

from vllm_symphony.abi.draw import key64
from vllm_symphony.abi.types import Distribution, Grammar, JobId, unpack_tokens
from vllm_symphony.engine import salt
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.plan import RowPlan, StepResult
from vllm_symphony.errors import InvalidArgument, SymphonyError
from vllm_symphony.kernel.effect import ForwardJob, GenerateJob, StepSpan

CLIENT = -1  # client_index of our requests: their outputs never mix with those of vLLM's front ends
JOB_PREFIX = "lip-"  # of our request ids

PRIMING_TOKENS = 32  # of the file, that the detokenizer sees before the new ones
STEPS_IN_FLIGHT = 8  # more than any executor's queue; older steps' rows are known not to have fired

# One token that nobody looks at. A lasting request stays after it, at rest, and goes on with the tokens of the next forward.
FORWARD_ONCE = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, ignore_eos=True)
FORWARD_LASTING = SamplingParams(max_tokens=1 << 30, temperature=0.0, detokenize=False, ignore_eos=True)


@dataclass(slots=True, eq=False)
class FileJob:
    """One forward or generate on one file. `base`: tokens of the file before the call; `lowest`: first index to compute."""

    effect: ForwardJob | GenerateJob
    file: PagedFile
    base: int
    lowest: int
    request: Request
    wanted: tuple[int, ...] = ()  # indices in the file of the distributions, ascending
    keep: frozenset[int] = frozenset()
    rows: dict[int, Distribution] = field(default_factory=dict)
    row_ids: dict[int, int] = field(default_factory=dict)  # index -> id of the kept row, given when planned
    lent: bool = False
    began_at: int = 0  # tokens with KV when it was lent its pages
    error: SymphonyError | None = None
    on_done: Callable[[FileJob], None] | None = None  # instead of a completion (rows that are computed again)
    detokenizer: IncrementalDetokenizer | None = None
    grammar_fed: bool = False
    given: tuple[int, ...] = ()  # tokens that the runner must still be told of (a forward on a request that was at rest)
    fired: Distribution | None = None
    first_step: int = 0
    arrived_s: float = 0.0  # by the engine's clock: at the engine
    last_step: int = 0
    device_s: float = 0.0
    # of a generate: whether anything must be planned for it in each step
    plain: bool = True

    @property
    def id(self) -> JobId:
        return self.effect.job

    @property
    def num_tokens(self) -> int:
        """Tokens that the request holds now (prompt and sampled)."""
        return self.request.num_tokens

    @property
    def span(self) -> StepSpan:
        return StepSpan(self.first_step, self.last_step, self.device_s)

    def plan(self, computed: int, num_new: int, chunk_ends: bool, new_row_id: Callable[[], int]) -> RowPlan | None:
        """What the runner does for this job in a step that computes file indices [computed, computed + num_new)."""
        deltas = self._deltas(computed, num_new)
        e = self.effect
        if isinstance(e, ForwardJob):
            end = computed + num_new
            outputs = tuple(i - computed for i in self.wanted if computed <= i < end)
            given, self.given = self.given, ()
            if not outputs and not deltas and not given:
                return None
            keep = []
            for offset in outputs:
                if (i := computed + offset) in self.keep:
                    self.row_ids[i] = new_row_id()
                    keep.append((offset, self.row_ids[i]))
            return RowPlan(outputs, e.top_k, e.temperature, e.entropy, tuple(keep), deltas, given=given)
        if self.plain and not deltas:
            return None
        row = RowPlan(deltas=deltas)
        if chunk_ends:
            last = computed + num_new - 1
            if e.until is not None:
                row.until, row.until_row = e.until, new_row_id()
                row.num_generated = last + 1 - self.base
                row.top_k, row.entropy = 20, True
                self.row_ids[last] = row.until_row
                if len(self.row_ids) > STEPS_IN_FLIGHT:
                    del self.row_ids[next(iter(self.row_ids))]
            if e.sampler.seed is not None:
                row.draw_seed = key64(e.sampler.seed, last)
            if e.penalty_from != self.base and (e.sampler.presence_penalty or e.sampler.frequency_penalty):
                row.penalty_from, row.penalty_row = e.penalty_from, True
        return row

    def _deltas(self, computed: int, num_new: int) -> tuple[tuple[int, int], ...]:
        runs = self.file.runs
        if len(runs) == 1 and not runs[0][1]:
            return ()
        end = computed + num_new
        out: list[tuple[int, int]] = []
        for at, delta in runs:
            if at >= end:
                break
            if at <= computed:
                out = [(0, delta)]
            else:
                out.append((at - computed, delta))
        return tuple(out) if any(d for _, d in out) else ()

    def take_row(self, index: int, result: StepResult, j: int) -> Distribution:
        e = self.effect
        k = e.top_k if isinstance(e, ForwardJob) else 20
        numbers = result.numbers[j]
        return Distribution(
            position=index,
            ids=result.ids[j, :k].astype("<u4").tobytes(),
            logprobs=numbers[3 : 3 + k].astype("<f4").tobytes(),
            logsumexp=float(numbers[0]),
            entropy=float(numbers[2]),
            temperature=e.temperature if isinstance(e, ForwardJob) else 1.0,
            logsumexp_t=float(numbers[1]),
        )


@dataclass(slots=True)
class _Prompt:
    """What vLLM's detokenizer reads of a request."""

    request_id: str
    prompt_token_ids: list[int]
    sampling_params: SamplingParams


def make_detokenizer(e: GenerateJob, tokens: Sequence[int], tokenizer: Any) -> IncrementalDetokenizer | None:
    """vLLM's incremental detokenizer, primed with the end of the file; None where neither text nor stop strings are wanted."""
    if not (e.text or e.stop) or tokenizer is None:
        return None
    params = SamplingParams(stop=list(e.stop) or None, output_kind=RequestOutputKind.DELTA)
    tail = tokens[-PRIMING_TOKENS:]
    whole = len(tail) - _num_pending(tail, tokenizer)
    prompt: Any = _Prompt(str(e.job), list(tail[:whole]), params)
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, prompt)
    if isinstance(detokenizer, FastIncrementalDetokenizer):
        for token in tail[whole:]:
            detokenizer.decode_next(token)
    return detokenizer


def _num_pending(tail: Sequence[int], tokenizer: Any) -> int:
    """How many of the last tokens are the beginning of a character that the next ones complete: a stream that is primed with
    half a character would give all of its context again when the character is complete."""
    for n in range(min(4, len(tail))):  # a character has at most four bytes
        if not tokenizer.decode(tail[max(0, len(tail) - n - 4) : len(tail) - n], skip_special_tokens=True).endswith("\ufffd"):
            return n
    return 0


def generate_params(e: GenerateJob, end_tokens: Sequence[int]) -> SamplingParams:
    """vLLM's sampling parameters of a generate. A seed is a constant here: the runner keys the generator in each step."""
    s = e.sampler
    stop_tokens = set(e.stop_tokens)
    if not e.ignore_eos or e.grammar is not None:  # a grammar allows them only where it is complete, and nothing else there
        stop_tokens.update(end_tokens)
    params = SamplingParams(
        max_tokens=e.max_tokens,
        temperature=s.temperature,
        top_k=s.top_k,
        top_p=s.top_p,
        min_p=s.min_p,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        repetition_penalty=s.repetition_penalty,
        logit_bias=dict(s.logit_bias) if s.logit_bias else None,
        allowed_token_ids=unpack_tokens(s.allowed) if s.allowed is not None else None,
        seed=0 if s.seed is not None else None,
        stop_token_ids=sorted(stop_tokens),
        ignore_eos=True,  # the model's own end tokens are among the stop tokens
        logprobs=0 if e.logprobs else None,
        detokenize=False,
        structured_outputs=structured_outputs(e.grammar) if e.grammar is not None else None,
    )
    params._all_stop_token_ids.update(stop_tokens)  # a grammar masks them until it is complete
    return params


def structured_outputs(g: Grammar) -> StructuredOutputsParams:
    if g.kind == "json":
        return StructuredOutputsParams(json=g.text)
    if g.kind == "regex":
        return StructuredOutputsParams(regex=g.text)
    if g.kind == "choice":
        try:
            choices = json.loads(g.text)
        except ValueError as error:
            raise InvalidArgument(f"invalid grammar: choices are not JSON: {error}") from error
        if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
            raise InvalidArgument("invalid grammar: choices must be a JSON list of strings that are not empty")
        return StructuredOutputsParams(choice=choices)
    return StructuredOutputsParams(grammar=g.text)


def give_tokens(request: Request, tokens: Sequence[int], page_size: int) -> None:
    """Put `tokens` in place of the request's last sampled one, which has no KV yet."""
    request._all_token_ids[-1:] = tokens
    request._output_token_ids[-1:] = tokens
    if request._block_hasher is not None:
        if len(request.block_hashes) * page_size > request.num_tokens - len(tokens):
            del request.block_hashes[-1:]  # counted the token that is gone
        request.update_block_hashes()


def make_request(rid: str, file: PagedFile, params: SamplingParams, hasher: Any, *, lookup: bool) -> Request:
    """A request over all the file's tokens. Private files neither publish hashes nor find any; `lookup=False` finds none."""
    request = Request(rid, file.tokens.copy(), params, None, client_index=CLIENT, arrival_time=time.time())
    if file.private or hasher is None:
        request.skip_reading_prefix_cache = True
        return request
    request.cache_salt = salt.of_domain(file.domain)
    request.block_hashes = file.hashes.copy()
    request._block_hasher = hasher
    request.update_block_hashes()
    request.skip_reading_prefix_cache = not lookup
    return request
