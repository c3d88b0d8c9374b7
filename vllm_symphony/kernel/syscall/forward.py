"""forward and forward_many: the model's distributions (kernel/syscall/forward.py).

    file [a b c] --forward([d e])--> ForwardJob --ForwardDone--> file [a b c d e], distributions after d and e

Atomic: the tokens join the file when the device has done them, so that error, cancel and time-out leave no trace and nobody sees a
length that may be taken back. The file's writer bit is held meanwhile: a second writer is EBUSY, never queued behind the first.
With no tokens the call asks again for the distribution after the last one; any number may ask that at once of a shared file, those
after the first on a fork that lives as long as the job.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any

from vllm_symphony.abi.calls import CallError, Forward, ForwardMany, ForwardManyResult, ForwardResult
from vllm_symphony.abi.types import unpack_tokens
from vllm_symphony.errors import DeviceLost, InvalidArgument, SymphonyError
from vllm_symphony.kernel import overrun
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import ForwardDone, ForwardJob, JobFailed
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.job import Job, surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument


class ForwardWork(Job):
    """One forward on the device; `batch` is set for an item of forward_many, which is number `index` there."""

    __slots__ = ("batch", "index", "start", "tokens")

    def __init__(self, m: Machine, call: Call, inode: Inode, fd: int, tokens: list[int], start: int) -> None:
        super().__init__(m, call, inode, fd, writes=True)
        self.tokens = tokens
        self.start = start
        self.batch: Batch | None = None
        self.index = 0

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        if not isinstance(completion, ForwardDone):
            self.failed(m, JobFailed(self.id, surprise(completion)), now_ns)
            return
        inode = self.inode
        tokens = self.tokens
        inode.extend(tokens, self.start, now_ns)
        length = inode.frontier = len(inode.tokens)
        m.account.shares.grew(inode)
        if inode.names and tokens:
            m.files.changed(inode, "modify")
        self.payer.count("num_forwards")
        self.retire(m, completion.span)
        self.payer.put(len(tokens))
        result = ForwardResult(length, completion.distributions)
        if self.batch is not None:
            self.batch.settle(m, self.index, result, None, now_ns)
        elif self.call is not None:
            m.finish(self.call, result, now_ns)

    def failed(self, m: Machine, failed: JobFailed, now_ns: int) -> None:
        if self.batch is None:
            super().failed(m, failed, now_ns)
            return
        self.retire(m, failed.span)
        self.batch.settle(m, self.index, None, self.why(failed), now_ns)


class Batch(Pending):
    """A forward_many: answers when its last item ended."""

    __slots__ = ("errors", "open", "results")

    def __init__(self, call: Call, size: int) -> None:
        super().__init__(call)
        self.results: list[ForwardResult | None] = [None] * size
        self.errors: list[CallError | None] = [None] * size
        self.open: dict[int, ForwardWork] = {}

    def settle(self, m: Machine, index: int, result: ForwardResult | None, error: SymphonyError | None, now_ns: int) -> None:
        """Item `index` ended."""
        self.results[index] = result
        self.errors[index] = wire_error(error) if error is not None else None
        self.open.pop(index, None)
        if not self.open and self.call is not None:
            m.finish(self.call, self.answer(), now_ns)

    def answer(self) -> ForwardManyResult:
        """What is known of all items."""
        return ForwardManyResult(tuple(self.results), tuple(self.errors))

    def interrupt(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        for work in list(self.open.values()):
            work.interrupt(m, error, now_ns)

    def drop(self, m: Machine) -> None:
        self.call = None
        for work in self.open.values():
            work.drop(m)

    def closed(self, m: Machine, fd: int, now_ns: int) -> None:
        for work in list(self.open.values()):
            work.closed(m, fd, now_ns)


def wire_error(error: SymphonyError) -> CallError:
    """An error as data, inside a result."""
    return CallError(error.reason, error.message, dict(error.values), error.retry_after_s)


def forward(m: Machine, call: Call, a: Forward) -> None:
    """Start one forward; answers with ForwardResult."""
    call.pending = submit(m, call, a)


def forward_many(m: Machine, call: Call, a: ForwardMany) -> ForwardManyResult | None:
    """Start them all; each item succeeds or fails alone."""
    if len(a.items) > m.limits.items:
        raise InvalidArgument(f"{len(a.items)} items, the most is {m.limits.items}", limit=m.limits.items)
    batch = Batch(call, len(a.items))
    for index, item in enumerate(a.items):
        try:
            work = submit(m, call, item)
        except SymphonyError as error:
            batch.errors[index] = wire_error(error)
        else:
            work.batch, work.index = batch, index
            batch.open[index] = work
    if not batch.open:
        return batch.answer()
    call.pending = batch
    return None


def submit(m: Machine, call: Call, a: Forward) -> ForwardWork:
    """Check everything, then take the file and send the job; on an error nothing has changed."""
    if m.lost is not None:
        raise DeviceLost(m.lost)
    file = call.process.fds.get(a.fd, call.cred)
    inode = file.inode
    model = m.model
    tokens = argument.tokens(a.tokens, model.vocab_size, context=model.max_positions)
    num_tokens = len(tokens)
    if num_tokens and not file.writable:
        call.process.fds.get_writable(a.fd, call.cred)
    if a.at is not None:
        argument.demand_at(a.at, inode)
    if not num_tokens and not inode.tokens:
        raise InvalidArgument("no tokens on an empty file: there is no distribution yet", fd=a.fd)
    outputs = _outputs(a, num_tokens)
    if not 0 <= a.top_k <= model.max_top_k:
        raise InvalidArgument(f"top_k must be in 0..{model.max_top_k}, not {a.top_k}", top_k=a.top_k, limit=model.max_top_k)
    if not 0 < a.temperature < inf:
        raise InvalidArgument(f"temperature must be positive and finite, not {a.temperature}")
    if a.timeout_s is not None:
        argument.demand_timeout(a.timeout_s)
    keep = _keep(a.keep, num_tokens)
    start = argument.start_position(a.start, inode, num_tokens, model.max_positions)
    inode.demand_fresh()
    if num_tokens:
        overrun.demand_tokens(m, call, num_tokens)
    if inode.writer is not None:
        if num_tokens or not _only_looks(m, inode):
            inode.demand_free()
        inode = m.files.clone(file, call.cred.principal, call.start_ns)  # for this job alone; it drops it when it ends
    else:
        if num_tokens:
            file.demand_write(call.start_ns)
        m.account.demand_pages(inode, num_tokens)

    work = ForwardWork(m, call, inode, a.fd, tokens, start)
    work.planned = inode.length + num_tokens
    work.hold(num_tokens)
    inode.stale = False  # what is exact is computed again
    owner = call.owner
    m.effects.append(ForwardJob(work.id, inode.ino, tokens, start, outputs, a.top_k, keep, a.temperature, a.entropy, owner))
    if a.timeout_s is not None:
        work.limit(m, a.timeout_s, call.start_ns)
    return work


def _only_looks(m: Machine, inode: Inode) -> bool:
    """The job that holds the file's writer bit will not change it: it asks for what follows the last token, as we do."""
    work = m.jobs.get(inode.writer) if inode.writer is not None else None
    return isinstance(work, ForwardWork) and not work.tokens


def _outputs(a: Forward, num_tokens: int) -> tuple[int, ...]:
    """The indices at which distributions are wanted; -1 stands for the last token before the call."""
    if a.outputs == "last" and not a.indices:
        return (num_tokens - 1,)
    if a.indices and a.outputs:
        raise InvalidArgument(f"indices go with outputs='', not with {a.outputs!r}")
    if not num_tokens:
        raise InvalidArgument("without tokens outputs must be 'last'")
    if a.outputs == "all":
        return tuple(range(num_tokens))
    if a.outputs:
        raise InvalidArgument(f"outputs must be 'last', 'all' or '', not {a.outputs!r}")
    if len(a.indices) & 3:
        raise InvalidArgument(f"indices has {len(a.indices)} bytes, no multiple of 4")
    indices = unpack_tokens(a.indices)
    if any(i >= j for i, j in pairwise(indices)) or (indices and indices[-1] >= num_tokens):
        raise InvalidArgument(f"indices must ascend within 0..{num_tokens - 1}")
    return tuple(indices)


def _keep(keep: str, num_tokens: int) -> tuple[int, ...]:
    """The indices whose rows are to be kept."""
    if keep == "last" or (keep == "all" and not num_tokens):
        return (num_tokens - 1,)
    if keep == "none":
        return ()
    if keep == "all":
        return tuple(range(num_tokens))
    raise InvalidArgument(f"keep must be 'last', 'all' or 'none', not {keep!r}")
