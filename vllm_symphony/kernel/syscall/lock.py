"""flock: locks of open files (kernel/syscall/lock.py); what a lock is: kernel/fs/lock.py.

flock --nobody in the way--> LeaseResult at once
      --somebody----------> LockWait --its turn--> LeaseResult
"""

from __future__ import annotations

from vllm_symphony.abi.calls import MAX_LEASE_S, Flock, LeaseResult
from vllm_symphony.errors import BadFile, InvalidArgument, TimedOut, WouldBlock
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs.lock import EXCLUSIVE, SHARED, UNLOCK, FileLock, LockWait
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument
from vllm_symphony.kernel.timer import after


def flock(m: Machine, call: Call, a: Flock) -> LeaseResult | None:
    """Lock the open file, renew its lease, or let go."""
    if a.kind not in (SHARED, EXCLUSIVE, UNLOCK):
        raise InvalidArgument(f"kind must be {SHARED}, {EXCLUSIVE} or {UNLOCK}, not {a.kind!r}")
    if not 0 < a.lease_s <= MAX_LEASE_S:
        raise InvalidArgument(f"lease_s must be in 0..{MAX_LEASE_S:g}, not {a.lease_s}", lease_s=a.lease_s)
    argument.demand_timeout(a.timeout_s)
    file = call.process.fds.get(a.fd, call.cred)
    if a.kind == EXCLUSIVE and not file.writable:
        raise BadFile(f"fd {a.fd} is open for reading only: it can be locked {SHARED}", fd=a.fd)
    inode, holder = file.inode, file.holder
    if a.kind == UNLOCK:
        if inode.lock is not None:
            inode.lock.unlock(holder)
        return LeaseResult(0.0)

    lock = inode.lock = inode.lock or FileLock(m, inode)
    if lock.take(holder, a.kind, a.lease_s, call.start_ns):
        return LeaseResult(a.lease_s)
    if not a.wait:
        lock.stir()  # it goes if it is new
        raise WouldBlock(f"fd {a.fd} cannot be locked now: {lock.kind or 'a call writes the file'}", fd=a.fd)
    wait = LockWait(call, lock, holder, a.fd, a.kind, a.lease_s)
    lock.wait(wait)
    call.pending = wait
    if wait is lock.upgrade:
        lock.renew(holder, a.lease_s, call.start_ns)
    if a.timeout_s is not None:
        late = TimedOut(f"not locked in {a.timeout_s:g} s", timeout_s=a.timeout_s)
        wait.timer = m.timers.at(after(call.start_ns, a.timeout_s), lambda now_ns: wait.interrupt(m, late, now_ns))
    return None
