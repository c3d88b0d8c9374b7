"""extract and concat: new files from parts of others (kernel/syscall/edit.py).

    extract [0:2) [5:8)  of  a b c d e f g h     a b f g h      positions 0 1 5 6 7 (keep) or 0 1 2 3 4 (compact)
    concat               of  a b c  and  x y     a b c x y      x y computed again (recompute) or rotated to 3 4 (rotate)

The result is an anonymous file of the caller's, open for writing. What needs no surgery is a fork and answered at once: an extract
of the first tokens, a concat that computes. The rest is a job; its file is held by the job until the device has made it, and if
that fails it never was. Lineage goes one way: exact, pruned, approximate; a new file is no better than what it was made
of, but a single token is exact, for it is always computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vllm_symphony.abi.calls import Concat, Extract, FdResult
from vllm_symphony.abi.types import Ino, Span
from vllm_symphony.errors import ContextTooLong, DeviceLost, InvalidArgument, NotSupported, QuotaExceeded, TooManyFiles
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.effect import ConcatJob, EditDone, ExtractJob, JobFailed
from vllm_symphony.kernel.fs import recipe
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.fs.inode import LINEAGE, Inode
from vllm_symphony.kernel.job import Job, surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument

PRUNED, APPROXIMATE = LINEAGE[1:]
MAX_PARTS = 1024  # spans of an extract, files of a concat


class EditWork(Job):
    """The new file on its way; the device knows it when it is done."""

    __slots__ = ("is_made",)

    def __init__(self, m: Machine, call: Call, inode: Inode) -> None:
        super().__init__(m, call, inode, -1, writes=True)
        self.is_made = False

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        if not isinstance(completion, EditDone):
            self.failed(m, JobFailed(self.id, surprise(completion)), now_ns)
            return
        self.is_made = True
        self.inode.frontier = completion.frontier
        m.account.shares.grew(self.inode)
        call, result, error = self.call, None, None
        if call is not None:
            try:
                result = _opened(call, self.inode)
            except TooManyFiles as full:
                error = full
        self.retire(m, completion.span)
        if call is not None and error is not None:
            m.fail(call, error, now_ns)
        elif call is not None:
            m.finish(call, result, now_ns)

    def let_go(self, m: Machine) -> None:
        if self.is_made:
            super().let_go(m)
        else:
            m.files.forget(self.inode)


def extract(m: Machine, call: Call, a: Extract) -> FdResult | None:
    """A file of some of the tokens; at once when these are the first ones."""
    source = _source(m, call, a.fd)
    inode = source.inode
    if a.positions not in ("keep", "compact"):
        raise InvalidArgument(f"positions must be 'keep' or 'compact', not {a.positions!r}")
    argument.demand_timeout(a.timeout_s)
    spans = _merged(a.spans, inode.length)
    compact = a.positions == "compact"
    call.process.fds.demand_room()
    if len(spans) == 1 and not spans[0].start and not (compact and inode.positions(0, 1) != [0]):
        last = spans[0].stop - 1
        if not compact or inode.positions(last, last + 1) == [last]:
            fork = m.files.clone(source, call.cred.principal, call.start_ns)
            m.files.cut(fork, spans[0].stop, call.start_ns)
            return _opened(call, fork)
    _demand_able(m, "compact" if compact else "extract")

    dst = m.files.new(call.cred.principal, 0o600, call.start_ns)
    for span in spans:
        tokens = inode.tokens[span.start : span.stop].tolist()
        if compact:
            dst.extend(tokens, dst.next_position, call.start_ns)
        else:
            _extend_at(dst, tokens, inode.positions(span.start, span.stop), call.start_ns)
    if dst.length > 1:  # what is one token is computed from it
        dst.fidelity = APPROXIMATE if compact else _worst(inode.fidelity, PRUNED)
        dst.recipe = recipe.of_extract(inode, spans, compact)
    num_stay = 0 if spans[0].start else spans[0].stop
    _demand_pages(m, inode, dst, min(num_stay, _num_compact(inode)) if compact else num_stay)
    work = EditWork(m, call, dst)
    owner = call.owner
    m.emit(ExtractJob(work.id, inode.ino, dst.ino, spans, compact, dst.domain, owner))
    _wait(m, call, work, a.timeout_s)
    return None


def concat(m: Machine, call: Call, a: Concat) -> FdResult | None:
    """A file of the tokens of all; at once when they are computed later."""
    if not 1 <= len(a.fds) <= MAX_PARTS:
        raise InvalidArgument(f"concat takes 1..{MAX_PARTS} files, not {len(a.fds)}", limit=MAX_PARTS)
    if a.mode not in ("recompute", "rotate"):
        raise InvalidArgument(f"mode must be 'recompute' or 'rotate', not {a.mode!r}")
    argument.demand_timeout(a.timeout_s)
    files = [call.process.fds.get(fd, call.cred) for fd in a.fds]
    first, others = files[0], [file.inode for file in files[1:] if file.inode.length]
    start, more = first.inode.next_position, sum(inode.length for inode in others)
    if start + more > m.model.max_positions:
        limit = m.model.max_positions
        raise ContextTooLong(f"{more} tokens from position {start} pass the model's limit of {limit}", limit=limit)
    call.process.fds.demand_room()
    tokens = [token for inode in others for token in inode.tokens]
    first.inode.demand_fresh()
    if a.mode == "recompute" or not others:
        fork = m.files.clone(first, call.cred.principal, call.start_ns)
        m.files.extend(fork, tokens, start, call.start_ns)
        return _opened(call, fork)
    for inode in others:
        inode.demand_fresh()
    _demand_able(m, "rotate")

    dst = m.files.new(call.cred.principal, 0o600, call.start_ns)
    dst.copy_head(first.inode)
    dst.extend(tokens, start, call.start_ns)
    if dst.length > 1:
        dst.fidelity = APPROXIMATE
        dst.recipe = recipe.of_concat([first.inode, *others])
    if first.inode.length:
        _demand_pages(m, first.inode, dst, first.inode.length)
    else:
        _demand_pages(m, others[0], dst, _num_compact(others[0]))
    work = EditWork(m, call, dst)
    owner = call.owner
    srcs: list[tuple[Ino, int]] = [(inode.ino, inode.length) for inode in (first.inode, *others)]
    m.emit(ConcatJob(work.id, tuple(srcs), dst.ino, dst.domain, owner))
    _wait(m, call, work, a.timeout_s)
    return None


def _source(m: Machine, call: Call, fd: int) -> OpenFile:
    """The open file, whose keys and values are there or can be computed."""
    file = call.process.fds.get(fd, call.cred)
    file.inode.demand_fresh()
    return file


def _num_compact(inode: Inode) -> int:
    """How many of its first tokens are at the position that is their index."""
    if inode.runs[0] != (0, 0):
        return 0
    return inode.runs[1][0] if len(inode.runs) > 1 else inode.length


def _demand_pages(m: Machine, source: Inode, dst: Inode, num_stay: int) -> None:
    """The new file begins with so many tokens as they are in `source`. Raises QuotaExceeded; then it never was."""
    try:
        m.account.make(source, dst, num_stay)
    except QuotaExceeded:
        m.files.forget(dst)
        raise


def _opened(call: Call, inode: Inode) -> FdResult:
    """An fd for the new file; nobody holds it yet. Raises TooManyFiles."""
    fds = call.process.fds
    fds.demand_room()
    return FdResult(fds.add(OpenFile(inode, True, call.cred.principal)), inode.ino, inode.length)


def _wait(m: Machine, call: Call, work: EditWork, timeout_s: float | None) -> None:
    call.pending = work
    work.planned = work.inode.length
    work.limit(m, timeout_s, call.start_ns)


def _merged(spans: Sequence[Span], length: int) -> tuple[Span, ...]:
    """The spans, those that touch made one. Raises InvalidArgument."""
    if not 1 <= len(spans) <= MAX_PARTS:
        raise InvalidArgument(f"extract takes 1..{MAX_PARTS} spans, not {len(spans)}", limit=MAX_PARTS)
    for span in spans:
        if not 0 <= span.start < span.stop <= length:
            raise InvalidArgument(
                f"[{span.start}, {span.stop}) is no part of the file's {length} tokens",
                start=span.start,
                stop=span.stop,
                length=length,
            )
    if (bad := next(((a, b) for a, b in pairwise(spans) if b.start < a.stop), None)) is not None:
        raise InvalidArgument(f"spans must ascend and not overlap: [.., {bad[0].stop}) is before [{bad[1].start}, ..)")
    merged = [spans[0]]
    for span in spans[1:]:
        if span.start == merged[-1].stop:
            merged[-1] = Span(merged[-1].start, span.stop)
        else:
            merged.append(span)
    return tuple(merged)


def _extend_at(dst: Inode, tokens: list[int], positions: list[int], now_ns: int) -> None:
    """Append tokens at positions that ascend."""
    at = 0
    for i in range(1, len(tokens) + 1):
        if i == len(tokens) or positions[i] != positions[i - 1] + 1:
            dst.extend(tokens[at:i], positions[at], now_ns)
            at = i


def _demand_able(m: Machine, what: str) -> None:
    """Raises DeviceLost, NotSupported with the reason."""
    if m.lost is not None:
        raise DeviceLost(m.lost)
    if (reason := m.model.unsupported.get(what)) is not None:
        raise NotSupported(f"{what} is not possible with this model: {reason}", operation=what)


def _worst(*lineages: str) -> str:
    return max(lineages, key=LINEAGE.index)
