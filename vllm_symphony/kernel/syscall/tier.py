"""pin and advise: where a file's pages should be (kernel/syscall/tier.py); engine/tier.py moves them.

pin      --PinFile--> the device keeps the pages, and brings back what is below; the owner's limit is kernel/fs/account.py's
advise   --MoveJob--> MoveWork until it is done, or nobody waits

Nothing of the file changes by either, so they run beside calls that read it; pages that a call writes cannot be moved away.
"""

from __future__ import annotations

from typing import Any

from vllm_symphony.abi.calls import Advise, Done, Pin
from vllm_symphony.abi.types import JobId
from vllm_symphony.errors import BadFile, FileBusy, InvalidArgument, TimedOut
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import CancelJob, JobFailed, MoveJob, PinFile
from vllm_symphony.kernel.fs.node import MAY_READ, MAY_WRITE
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument, target
from vllm_symphony.kernel.timer import after


def pin(m: Machine, call: Call, a: Pin) -> Done:
    """Keep the file's pages on the device, or let them go."""
    inode, _ = target.file(m, call, a.fd, a.path, MAY_WRITE)
    if a.fd is not None and not call.process.fds.get(a.fd, call.cred).writable:
        raise BadFile(f"fd {a.fd} is open for reading only: its file can be pinned by who may write it", fd=a.fd)
    if a.pinned:
        inode.demand_fresh()
        m.account.pin(inode)
    else:
        m.account.unpin(inode)
    m.emit(PinFile(inode.ino, a.pinned))
    return Done()


class MoveWork(Pending):
    """Pages of a file on their way, for a call that waits."""

    __slots__ = ("fd", "id")

    def __init__(self, m: Machine, call: Call, job: JobId, a: Advise) -> None:
        super().__init__(call)
        self.id = job
        self.fd = a.fd
        m.works[job] = self
        if a.timeout_s is not None:
            late = TimedOut(f"not done in {a.timeout_s:g} s", timeout_s=a.timeout_s)
            self.timer = m.timers.at(after(call.start_ns, a.timeout_s), lambda now_ns: self.interrupt(m, late, now_ns))

    def drop(self, m: Machine) -> None:
        """Nobody waits any more: what has not moved stays."""
        super().drop(m)
        if m.works.pop(self.id, None) is not None and m.lost is None:
            m.emit(CancelJob(self.id))

    def closed(self, m: Machine, fd: int, now_ns: int) -> None:
        if fd == self.fd:
            self.interrupt(m, BadFile(f"fd {fd} was closed", fd=fd), now_ns)

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        del m.works[self.id]
        call = self.call
        if call is None:
            return
        super().drop(m)
        if isinstance(completion, JobFailed):
            m.fail(call, completion.error, now_ns)
        else:
            m.finish(call, Done(), now_ns)


def advise(m: Machine, call: Call, a: Advise) -> Done | None:
    """Bring pages back to the device, or demote them; answered now or when it is done."""
    if a.advice not in ("willneed", "dontneed"):
        raise InvalidArgument(f"advice must be 'willneed' or 'dontneed', not {a.advice!r}")
    if a.tier not in ("host", "disk"):
        raise InvalidArgument(f"tier must be 'host' or 'disk', not {a.tier!r}")
    argument.demand_timeout(a.timeout_s)
    inode, _ = target.file(m, call, a.fd, a.path, MAY_READ)
    inode.demand_fresh()
    if a.advice == "dontneed" and inode.pinned:
        raise FileBusy(f"ino {inode.ino} is pinned to the device: unpin it first", ino=inode.ino)
    if a.advice == "dontneed" and inode.writer is not None:
        raise FileBusy(f"a call writes ino {inode.ino}: its pages cannot be moved away", ino=inode.ino)
    if a.advice == "willneed":
        m.account.demand_pages(inode, 0)
    m.num_jobs += 1
    job = JobId(m.num_jobs)
    tier = "device" if a.advice == "willneed" else a.tier
    m.emit(MoveJob(job, inode.ino, tier, call.owner))
    if not a.wait:
        return Done()  # its completion is for nobody
    call.pending = MoveWork(m, call, job, a)
    return None
