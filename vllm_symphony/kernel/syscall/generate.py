"""generate: the fused loop (kernel/syscall/generate.py).

    file [p p p] --GenerateJob--> GenerateTokens* --> file [p p p t t t ...] --GenerateDone--> result with all of them
                                        +--> Part, when the caller streams

Every token that was delivered stays in the file, also on cancel, time-out and failure; the error then carries the `length`. The
kernel tells the device where penalties and the grammar began (lengths of the file), so that a call may take up where another one
stopped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vllm_symphony.abi.calls import Generate, GeneratePart, GenerateResult
from vllm_symphony.abi.types import Distribution, Grammar, pack_floats, pack_tokens
from vllm_symphony.errors import ContextTooLong, DeviceLost, Interrupted, InvalidArgument, SymphonyError, from_reason
from vllm_symphony.kernel import overrun
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.effect import GenerateDone, GenerateJob, GenerateTokens, JobFailed, Part
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.job import Job, surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument


class GenerateWork(Job):
    """One generate on the device, and what it delivered so far. `quota`: how many tokens the quota of the file's owner, or a limit
    of tokens, leaves it, if fewer than it asked for. `cut`: others have used meanwhile what was left."""

    __slots__ = ("args", "cut", "grammar", "logprobs", "quota", "text", "tokens")

    def __init__(self, m: Machine, call: Call, inode: Inode, args: Generate, grammar: Grammar | None) -> None:
        super().__init__(m, call, inode, args.fd, writes=True)
        self.args = args
        self.grammar = grammar
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.text: list[str] = []
        self.quota: int | None = None
        self.cut = False

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        if isinstance(completion, GenerateTokens):
            self.deliver(m, completion, now_ns)
        elif isinstance(completion, GenerateDone):
            self.done(m, completion, now_ns)
        else:
            self.failed(m, JobFailed(self.id, surprise(completion)), now_ns)

    def deliver(self, m: Machine, step: GenerateTokens, now_ns: int) -> None:
        """One step's tokens: into the file, and on to the caller."""
        inode = self.inode
        if not step.tokens:
            return
        inode.sampling.drawn(inode.length, self.grammar)
        inode.extend(step.tokens, inode.next_position, now_ns)
        inode.frontier = inode.length - 1
        m.account.shares.grew(inode)
        if inode.names:
            m.files.changed(inode, "modify")
        self.payer.draw(len(step.tokens))
        self.tokens += step.tokens
        self.logprobs += step.logprobs
        if step.text:
            self.text.append(step.text)
        if self.args.stream and self.call is not None and self.call.id:
            part = GeneratePart(pack_tokens(step.tokens), step.text, pack_floats(step.logprobs))
            m.emit(Part(self.call.door.pid, self.call.id, part))

    def done(self, m: Machine, done: GenerateDone, now_ns: int) -> None:
        """It ended by its own rules."""
        inode = self.inode
        inode.frontier = min(done.frontier, inode.length)
        if self.grammar is not None and (done.reason == "grammar" or self._ended_by_token(m, done)):
            inode.sampling.finished(self.grammar)
        length = inode.length
        self.retire(m, done.span)
        if self.call is not None:
            reason = "quota" if done.reason == "length" and len(self.tokens) == self.quota else done.reason
            m.finish(self.call, self._result(length, reason, done.stop, done.distribution), now_ns)

    def _result(self, length: int, reason: str, stop: str | None = None, last: Distribution | None = None) -> GenerateResult:
        return GenerateResult(
            length=length,
            reason=reason,
            tokens=pack_tokens(self.tokens),
            text="".join(self.text),
            stop=stop,
            logprobs=pack_floats(self.logprobs),
            distribution=last,
        )

    def cut_short(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """Nothing is left of a limit of tokens: end with what there is."""
        self.cut = self.cut or self.stopping is None
        self.interrupt(m, error, now_ns)

    def failed(self, m: Machine, failed: JobFailed, now_ns: int) -> None:
        length = self.inode.length
        self.retire(m, failed.span)
        if self.call is None:
            return
        if self.cut and self.tokens and isinstance(failed.error, Interrupted):
            m.finish(self.call, self._result(length, "quota"), now_ns)
        else:
            m.fail(self.call, with_length(self.why(failed), length), now_ns)

    def _ended_by_token(self, m: Machine, done: GenerateDone) -> bool:
        return (
            done.reason == "stop"
            and done.stop not in self.args.stop
            and self.tokens[-1:] != []
            and (self.tokens[-1] in m.model.eos_tokens)
        )


def with_length(error: SymphonyError, length: int) -> SymphonyError:
    """The same error, and how much of the file there is: the caller keeps what was delivered."""
    return from_reason(error.reason, error.message, {**error.values, "length": length}, error.retry_after_s)


def generate(m: Machine, call: Call, a: Generate) -> None:
    """Start the loop; answers with GenerateResult."""
    if m.lost is not None:
        raise DeviceLost(m.lost)
    model = m.model
    file = call.process.fds.get_writable(a.fd, call.cred)
    inode = file.inode
    argument.demand_at(a.at, inode)
    argument.demand_timeout(a.timeout_s)
    argument.demand_sampler(a.sampler, model.vocab_size)
    argument.demand_stops(a.stop)
    argument.demand_grammar(a.grammar)
    argument.demand_predicate(a.until, model.vocab_size)
    stop_tokens = argument.tokens(a.stop_tokens, model.vocab_size, "stop_tokens")
    if a.max_tokens < 1:
        raise InvalidArgument(f"max_tokens must be 1 or more, not {a.max_tokens}", max_tokens=a.max_tokens)
    length = inode.length
    penalty_from = inode.sampling.penalty_from(a.sampler.penalty_from, length)
    grammar = None
    if a.grammar is not None:
        grammar = replace(a.grammar, start=inode.sampling.grammar_start(a.grammar, length))
    if not length:
        raise InvalidArgument("generate on an empty file: there is no distribution yet", fd=a.fd)
    room = model.max_positions - inode.next_position
    if room < 1:
        raise ContextTooLong(f"the file reaches the model's limit of {model.max_positions} positions", limit=model.max_positions)
    inode.demand_free()
    inode.demand_fresh()
    file.demand_write(call.start_ns)
    wanted = min(a.max_tokens, room)
    max_tokens = m.account.demand_pages(inode, overrun.demand_tokens(m, call, wanted, least=1), least=1)

    work = GenerateWork(m, call, inode, a, grammar)
    work.planned = length + max_tokens
    inode.stale = False
    work.quota = max_tokens if max_tokens < wanted else None
    call.pending = work
    m.emit(
        GenerateJob(
            job=work.id,
            ino=inode.ino,
            max_tokens=max_tokens,
            sampler=a.sampler,
            penalty_from=penalty_from,
            stop=a.stop,
            stop_tokens=tuple(stop_tokens),
            ignore_eos=a.ignore_eos,
            grammar=grammar,
            until=a.until,
            logprobs=a.logprobs,
            start=inode.next_position,
            owner=call.owner,
            text=a.text,
        )
    )
    work.limit(m, a.timeout_s, call.start_ns)
