"""Sessions: remote programs that outlive their connections (kernel/lease.py).

    connected --lost--> lease runs --resumed--> connected
                            \\--expired--> finalise: the session and its children end with reason `lease`

A call from outside of the connection (an edge's unary ones) begins the lease anew, and so does its end; while it is in flight the
lease does not run out.
"""

from __future__ import annotations

from vllm_symphony.abi.calls import MAX_LEASE_S
from vllm_symphony.abi.types import Credentials, ExitStatus
from vllm_symphony.errors import InvalidArgument, NoSuchProcess, WouldBlock
from vllm_symphony.kernel import lifecycle
from vllm_symphony.kernel.effect import ProcessBegan
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind, Process
from vllm_symphony.trace.context import well_formed

EXPIRED = 129  # as a shell shows SIGHUP


def open_session(m: Machine, cred: Credentials, lease_s: float, name: str, now_ns: int, traceparent: str = "") -> Process:
    """A new session, connected.

    Raises:
        InvalidArgument: the lease is not in 0..MAX_LEASE_S.
        WouldBlock: too many sessions are open.
    """
    if not 0 < lease_s <= MAX_LEASE_S:
        raise InvalidArgument(f"lease_s must be in 0..{MAX_LEASE_S:g}, not {lease_s}", lease_s=lease_s)
    if len(name) > lifecycle.MAX_NAME:
        raise InvalidArgument(f"name has {len(name)} characters, the most is {lifecycle.MAX_NAME}")
    for held, limit, whose in (
        (m.num_sessions, m.limits.sessions, ""),
        (m.sessions_of[cred.principal], m.limits.sessions_each, f" of {cred.principal}"),
    ):
        if held >= limit:
            raise WouldBlock(f"{held} sessions{whose} are open, the most at once", limit=limit)
    process = lifecycle.birth(m, Kind.SESSION, name or "session", cred, now_ns)
    process.lease_s = lease_s
    process.traceparent = well_formed(traceparent)
    m.sessions_of[cred.principal] += 1
    m.emit(ProcessBegan(process.pid, None, cred.principal, process.name))
    lifecycle.tell_of(m, process)
    return process


def find(m: Machine, pid: int, cred: Credentials) -> Process:
    """The session, if it is open and the caller's. Raises NoSuchProcess."""
    process = m.find(pid, cred)
    if process.kind is not Kind.SESSION or process.has_ended:
        raise NoSuchProcess(f"no open session: {pid}", pid=pid)
    return process


def suspend(m: Machine, process: Process, now_ns: int) -> None:
    """Its connection is gone: from here it has `lease_s`."""
    process.connected = False
    renew(m, process, now_ns)


def resume(m: Machine, process: Process) -> None:
    """It is connected again."""
    process.connected = True
    m.timers.cancel(process.lease_timer)


def renew(m: Machine, process: Process, now_ns: int) -> None:
    """Begin the lease anew, while nobody is connected."""
    if not process.connected:
        m.timers.cancel(process.lease_timer)
        process.lease_timer = m.timers.at(now_ns + int(process.lease_s * 1e9), lambda at_ns: _expire(m, process, at_ns))


def _expire(m: Machine, process: Process, now_ns: int) -> None:
    is_called = any(call.door is not process for call in process.calls.values())
    since_ns = now_ns if is_called else process.called_ns
    if since_ns + int(process.lease_s * 1e9) > now_ns:
        renew(m, process, since_ns)
        return
    end(m, process, f"nobody connected for {process.lease_s:g} s", now_ns)


def end(m: Machine, process: Process, why: str, now_ns: int) -> None:
    """End the session and its children, with reason `lease`."""
    if not process.has_ended:
        lifecycle.finalise(m, process, ExitStatus(EXPIRED, "lease", error=why), now_ns)
