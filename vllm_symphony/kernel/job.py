"""A job: one piece of device work for a call (kernel/job.py).

    submitted --CancelJob?--> exactly one completion --> retired: the file is free again, the call answered

A job outlives its call when the process ends first; it then finishes for the file's sake alone, because the device may have done
the work by the time the cancellation arrives, and what the device holds and what the kernel knows of a file must stay the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import JobId
from vllm_symphony.errors import DataCorrupt, Interrupted, SymphonyError, TimedOut
from vllm_symphony.kernel.budget import Payer
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import CancelJob, JobFailed, StepSpan
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.timer import after

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine


class Job(Pending):
    """Work on `inode` through `fd`. `writes`: it holds the file's writer bit. `planned`: how many tokens of the file may be
    computed with it, for its owner's quota. `payer` is charged for it; `held`: tokens that are kept free for it in the budgets.
    `stopping`: why it was cancelled."""

    __slots__ = ("fd", "held", "id", "inode", "payer", "planned", "process", "stopping", "writes")

    def __init__(self, m: Machine, call: Call, inode: Inode, fd: int, writes: bool) -> None:
        """Number the job and take hold of the file; everything was checked before."""
        self.call = call
        self.timer = None
        self.process = call.process
        self.inode = inode
        self.fd = fd
        self.writes = writes
        self.planned = self.held = 0
        self.payer = Payer(m, call)
        self.stopping: SymphonyError | None = None
        m.num_jobs += 1
        self.id = JobId(m.num_jobs)
        m.jobs[self.id] = self
        if writes:
            inode.writer = self.id
        else:
            inode.readers.add(self.id)

    def interrupt(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """Ask the device to stop; the first reason is the one that the caller gets, with the completion."""
        if self.stopping is None:
            self.stopping = error
            m.effects.append(CancelJob(self.id))

    def drop(self, m: Machine) -> None:
        """The call is gone; the work is cancelled but holds its file until the device says that it stopped."""
        self.call = None
        if self.stopping is None:
            self.stopping = Interrupted("the process ended")
            m.effects.append(CancelJob(self.id))

    def cut_short(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """Nothing is left of a limit of tokens. What this job needs was kept free for it."""

    def hold(self, num_tokens: int) -> None:
        """So many tokens are put into files or drawn if it succeeds; the budgets have room for them."""
        self.held = num_tokens
        self.payer.hold(num_tokens)

    def closed(self, m: Machine, fd: int, now_ns: int) -> None:
        if fd == self.fd:
            self.interrupt(m, Interrupted(f"fd {fd} was closed", fd=fd), now_ns)

    def limit(self, m: Machine, timeout_s: float | None, now_ns: int) -> None:
        """End it with ETIMEDOUT after so many seconds."""
        if timeout_s is not None:

            def expire(at_ns: int) -> None:
                self.interrupt(m, TimedOut(f"not done in {timeout_s:g} s", timeout_s=timeout_s), at_ns)

            self.timer = m.timers.at(after(now_ns, timeout_s), expire)

    def retire(self, m: Machine, span: StepSpan) -> None:
        """The device is done with it: free the file for the next writer and charge the process."""
        del m.jobs[self.id]
        if self.timer is not None:
            m.timers.cancel(self.timer)
        inode = self.inode
        if self.writes:
            inode.writer = None
            m.keep.settle(inode)
        else:
            inode.readers.discard(self.id)
        if inode.lock is not None:
            inode.lock.stir()  # who waits for it waits for writers too
        if self.held:
            self.payer.release(self.held)
        self.process.fds.touched[inode.ino] = inode
        if span.last:
            call = self.call
            self.payer.compute(span.last - span.first + 1, span.device_s)
            if call is not None:
                call.step_first = span.first if call.step_first is None else min(call.step_first, span.first)
                call.step_last = span.last if call.step_last is None else max(call.step_last, span.last)
        if not inode.num_open and not inode.names:
            self.let_go(m)

    def let_go(self, m: Machine) -> None:
        """Nobody else has the file any more."""
        m.files.release(self.inode)

    def why(self, failed: JobFailed) -> SymphonyError:
        """What to tell the caller: the reason of the cancellation, unless the device failed on its own."""
        if self.stopping is not None and isinstance(failed.error, Interrupted):
            return self.stopping
        return failed.error

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        """Take the device's answer. Each call's job says how."""
        raise NotImplementedError

    def failed(self, m: Machine, failed: JobFailed, now_ns: int) -> None:
        """The device gave up, or was told to; the file is as it was before the job."""
        self.retire(m, failed.span)
        if self.call is not None:
            m.fail(self.call, self.why(failed), now_ns)


def surprise(completion: object) -> DataCorrupt:
    """A completion of the wrong kind for its job."""
    return DataCorrupt(f"the device answered with {type(completion).__name__}")
