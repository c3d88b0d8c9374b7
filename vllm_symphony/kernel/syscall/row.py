"""sample and logits: draws from a position of a file, and its whole row (kernel/syscall/row.py).

A handle is (file, position): the row after that token. The device keeps rows as a cache and recomputes a missing one from the
file's prefix, so both calls work on any position; the file does not change. Its owner's quota must have room for what of that
prefix is not computed. They only look: several may run at once, also beside a writer, but then only below the length that was
delivered when they began.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm_symphony.abi.calls import Logits, LogitsResult, Sample, SampleResult
from vllm_symphony.abi.types import Grammar, pack_floats, pack_tokens
from vllm_symphony.errors import DeviceLost, InvalidArgument, StaleFile
from vllm_symphony.kernel import overrun
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.effect import JobFailed, RowDone, RowJob, SampleDone, SampleJob
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.job import Job, surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument


class SampleWork(Job):
    """Draws on the device; remembers through which fd, to record that the program sampled there."""

    __slots__ = ("file", "grammar", "position")

    def __init__(self, m: Machine, call: Call, file: OpenFile, fd: int, position: int, grammar: Grammar | None) -> None:
        super().__init__(m, call, file.inode, fd, writes=False)
        self.planned = position + 1
        self.file = file
        self.position = position
        self.grammar = grammar

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        if not isinstance(completion, SampleDone):
            self.failed(m, JobFailed(self.id, surprise(completion)), now_ns)
            return
        sampling = self.file.sampling
        sampling.drawn(self.position + 1, self.grammar)
        if self.grammar is not None and len(completion.tokens) == 1 and completion.tokens[0] in m.model.eos_tokens:
            sampling.finished(self.grammar)
        self.retire(m, completion.span)
        self.payer.draw(len(completion.tokens), "sampled")
        if self.call is not None:
            m.finish(self.call, SampleResult(pack_tokens(completion.tokens), pack_floats(completion.logprobs)), now_ns)


class RowWork(Job):
    """The row on its way."""

    __slots__ = ("position",)

    def __init__(self, m: Machine, call: Call, file: OpenFile, fd: int, position: int) -> None:
        super().__init__(m, call, file.inode, fd, writes=False)
        self.planned = position + 1
        self.position = position

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        if not isinstance(completion, RowDone):
            self.failed(m, JobFailed(self.id, surprise(completion)), now_ns)
            return
        self.retire(m, completion.span)
        if self.call is not None:
            m.finish(self.call, LogitsResult(self.position, completion.logits), now_ns)


def sample(m: Machine, call: Call, a: Sample) -> None:
    """Draw `n` tokens; answers with SampleResult."""
    file, position = _handle(m, call, a.fd, a.position)
    argument.demand_timeout(a.timeout_s)
    argument.demand_sampler(a.sampler, m.model.vocab_size)
    argument.demand_grammar(a.grammar)
    if not 1 <= a.n <= argument.MAX_DRAWS:
        raise InvalidArgument(f"n must be in 1..{argument.MAX_DRAWS}, not {a.n}", n=a.n)
    if not 0 <= a.first_draw < argument.MAX_DRAW:
        raise InvalidArgument(f"first_draw must be in 0..{argument.MAX_DRAW - 1}", first_draw=a.first_draw)
    penalty_from = file.sampling.penalty_from(a.sampler.penalty_from, position + 1)
    grammar = None
    if a.grammar is not None:
        grammar = replace(a.grammar, start=file.sampling.grammar_start(a.grammar, position + 1))
    m.account.demand_computed(file.inode, position + 1)

    overrun.demand_tokens(m, call, a.n)
    work = SampleWork(m, call, file, a.fd, position, grammar)
    work.hold(a.n)
    call.pending = work
    owner = call.owner
    m.emit(SampleJob(work.id, file.inode.ino, position, a.sampler, penalty_from, grammar, a.n, a.first_draw, owner))
    work.limit(m, a.timeout_s, call.start_ns)


def logits(m: Machine, call: Call, a: Logits) -> None:
    """Fetch the row; answers with LogitsResult."""
    file, position = _handle(m, call, a.fd, a.position)
    argument.demand_timeout(a.timeout_s)
    m.account.demand_computed(file.inode, position + 1)

    work = RowWork(m, call, file, a.fd, position)
    call.pending = work
    m.emit(RowJob(work.id, file.inode.ino, position, call.owner))
    work.limit(m, a.timeout_s, call.start_ns)


def _handle(m: Machine, call: Call, fd: int, position: int | None) -> tuple[OpenFile, int]:
    """The open file and the index of a token that it holds."""
    if m.lost is not None:
        raise DeviceLost(m.lost)
    file = call.process.fds.get(fd, call.cred)
    length = file.inode.length
    if not length:
        raise InvalidArgument("the file is empty: there is no distribution yet", fd=fd)
    if position is None:
        position = length - 1
    if length <= position < file.inode.longest:
        raise StaleFile(f"the row at {position} is gone: the file was cut to {length} tokens", position=position, length=length)
    if not 0 <= position < length:
        raise InvalidArgument(f"position is {position}, the file has {length} tokens", position=position, length=length)
    file.inode.demand_fresh()
    return file, position
