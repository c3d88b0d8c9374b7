"""Grammars of file jobs, through vLLM's structured-output backend (engine/grammar.py).

A grammar's state belongs to the file: (grammar, start). A job whose file already holds tokens of the grammar feeds them to a fresh
matcher before its first step, so that `generate(100)` equals 100 x `generate(1)`. Compilation runs in vLLM's own thread pool; the
engine loop is woken when it is done. JSON of files is compact: small models fill a JSON grammar's optional blanks for ever, and
compact JSON is as valid. Plain requests keep what the operator chose: files have a twin of vLLM's backend that differs there.
Source: vllm/v1/structured_output/__init__.py, request.py, backend_types.py (0.32).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import copy
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.request import Request, RequestStatus

from vllm_symphony.abi.types import Grammar
from vllm_symphony.engine.job import FileJob, structured_outputs
from vllm_symphony.errors import InvalidArgument, NotSupported
from vllm_symphony.kernel.effect import GenerateJob

MATCHERS_KEPT = 64


class Grammars:
    def __init__(self, manager: Any, vllm_config: Any, tokenizer: Any, wake: Callable[[], None]) -> None:
        self.manager = manager
        self.vllm_config = vllm_config
        self.tokenizer = tokenizer
        self.wake = wake
        self.news = False  # a compilation ended; set by its thread, taken by the engine's
        self._twin: Any = None
        self._compiled: OrderedDict[tuple[str, str], Any] = OrderedDict()  # matchers for `sample`, reset before each use

    def validate(self, params: SamplingParams) -> None:
        """Refuse what the backend cannot express, and let vLLM choose the backend. Raises InvalidArgument or NotSupported."""
        if self.tokenizer is None:
            raise NotSupported("a grammar needs the tokenizer; serve without --skip-tokenizer-init")
        try:
            params._validate_structured_outputs(
                self.vllm_config.model_config, self.vllm_config.structured_outputs_config, self.tokenizer
            )
        except Exception as error:  # backends raise what they like, VLLMValidationError (no ValueError) among it
            raise InvalidArgument(f"invalid grammar: {_first_line(error)}") from error

    def begin(self, request: Request) -> None:
        """Start compiling a request's grammar."""
        self._init(request)
        grammar = request.structured_output_request._grammar
        if isinstance(grammar, Future):
            grammar.add_done_callback(self._compiled_one)

    def _init(self, request: Request) -> None:
        """Compile as vLLM does, by our twin of its backend, which vLLM makes at the first grammar."""
        if self._twin is None:
            if self.manager.backend is None:
                self.manager.grammar_init(request)
            self._twin = copy(self.manager)
            self._twin.backend = copy(self.manager.backend)
            self._twin.backend.disable_any_whitespace = True
        self._twin.grammar_init(request)

    def _compiled_one(self, _: Any) -> None:
        self.news = True
        self.wake()

    def ready(self, job: FileJob) -> bool:
        """Whether the job may be scheduled: its grammar is compiled and has seen the file's tokens since its start.

        Raises:
            InvalidArgument: it does not compile, or the file's tokens do not fit it.
        """
        request = job.request
        if request.structured_output_request is None or job.grammar_fed:
            return True
        if not request.structured_output_request.is_grammar_ready:
            return False
        grammar = request.structured_output_request.grammar
        if isinstance(grammar, Exception):
            raise InvalidArgument(f"invalid grammar: {_first_line(grammar)}") from grammar
        assert isinstance(job.effect, GenerateJob) and job.effect.grammar is not None and grammar is not None
        start = job.effect.grammar.start
        if start is not None and start < job.base:
            self._feed(grammar, request.request_id, job.file.tokens[start : job.base])
        job.grammar_fed = True
        if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
            request.status = RequestStatus.WAITING
        return True

    def bitmask(self, g: Grammar, tokens: list[int], end_tokens: Sequence[int]) -> torch.Tensor:
        """What the grammar allows after `tokens`: one row of 32-bit words, a bit per token id."""
        matcher = self._matcher(g, end_tokens)
        self._feed(matcher, "sample", tokens)
        size = self.vllm_config.model_config.get_vocab_size()
        mask = torch.full((1, -(-size // 32)), -1, dtype=torch.int32)
        if not matcher.is_terminated():
            matcher.fill_bitmask(mask, 0)
        matcher.reset()
        return mask[0]

    def _matcher(self, g: Grammar, end_tokens: Sequence[int]) -> Any:
        key = (g.kind, g.text)
        if key not in self._compiled:
            params = SamplingParams(max_tokens=1, structured_outputs=structured_outputs(g), stop_token_ids=list(end_tokens))
            self.validate(params)
            request = Request("sample", [0], params, None)
            self._init(request)
            grammar: Any = request.structured_output_request._grammar
            try:
                self._compiled[key] = grammar.result() if isinstance(grammar, Future) else grammar
            except Exception as error:  # whatever the backend's compiler throws is the program's grammar
                raise InvalidArgument(f"invalid grammar: {_first_line(error)}") from error
            while len(self._compiled) > MATCHERS_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key]

    def _feed(self, matcher: Any, rid: str, tokens: list[int]) -> None:
        if tokens and not matcher.accept_tokens(rid, tokens):
            matcher.reset()
            raise InvalidArgument(f"the file's last {len(tokens)} tokens, since the grammar's start, do not fit the grammar")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
