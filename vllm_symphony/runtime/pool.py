"""The processes that the fork server holds ready for programs (runtime/pool.py).

    fork --> locked down, loop made --> waits on its leash --[socket, stdout, stderr, stdin?]--> runs one program --> ends
             `READY` of them, made while nothing else is to do; one that is needed at once is made then, and waits no time

A ready process has been through everything that does not depend on the program: a start costs two packets and the program itself.
It was made for certain rlimits; a launch with others gets one of its own. The leash is a SOCK_SEQPACKET pair: the files come over
it, and the errno if the lockdown failed; when the fork server is gone it ends and the child with it.
The fork is the C library's, not Python's: `os.fork` goes through locks and hooks that a process with one thread has no use for, and
each page that they write to is a page that every program has for itself (about 250 of them, a millisecond). What the hooks do that
matters, the child does: its random state comes from the program's seed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from vllm_symphony.abi.launch import Rlimits
from vllm_symphony.runtime.sandbox import Plan, Slot

READY = 16
READY_WHEN_IDLE = 4
_ERRNO_BYTES = 4
_libc = ctypes.PyDLL(None, use_errno=True)  # holds the interpreter lock: the child's copy of it is held by the child


@dataclass(slots=True, eq=False)
class Child:
    """A process that we forked and have not reaped. `pid` is the kernel's, 0 while it has no program."""

    os_pid: int
    pidfd: int
    leash: socket.socket
    rlimits: Rlimits
    slot: Slot | None
    pid: int = 0
    was_killed: bool = False

    def hand(self, pid: int, fds: list[int]) -> None:
        """Give it a program's files: it runs. If it has just died, its end is the program's."""
        self.pid = pid
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self.leash, [b"+"], fds)

    def has_ended(self) -> bool:
        return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: int) -> None:
        """To its whole group, whose id cannot be anybody else's: the leader is not reaped yet."""
        os.killpg(self.os_pid, number)

    def close(self) -> None:
        os.close(self.pidfd)
        self.leash.close()


@dataclass(slots=True, eq=False)
class _Berth:
    """What a child needs before it is forked."""

    plan: Plan | None
    slot: Slot | None
    ours: socket.socket
    theirs: socket.socket
    os_pid: int = -1
    is_adopted: bool = False


class End(NamedTuple):
    """How a child ended. `failure`: the errno of a lockdown that failed; `out_of_memory`: the system killed it for its memory."""

    status: int
    cpu_s: float
    failure: int
    out_of_memory: bool


class Pool:
    """Makes children and hands them out. `become(leash, plan, slot)` is the life of a child: it never returns. Without a plan
    children are not confined."""

    def __init__(self, plan: Plan | None, become: Callable[[int, Plan | None, Slot | None], None]) -> None:
        self.target = 0
        self.children: dict[int, Child] = {}  # by pidfd: ready and running
        self.new: list[Child] = []  # whose end nobody listens for yet
        self._plan = plan
        self._become = become
        self._rlimits = Rlimits()
        self._missed: Rlimits | None = None  # that the last launch asked for, and got from a fork
        self._ready: list[Child] = []

    @property
    def wants_more(self) -> bool:
        return len(self._ready) < self.target

    def make_ready(self, count: int = 1) -> None:
        """More children that wait. Raises OSError; some may be made then."""
        self._ready += self._fork(self._rlimits, count)

    def make_enough(self, num_launches: int) -> None:
        """That many launches come now. Raises OSError."""
        if num_launches > len(self._ready):
            self.make_ready(num_launches - len(self._ready))

    def shrink(self) -> None:
        """End what is above the target: it sees its leash end."""
        while len(self._ready) > self.target:
            self._ready.pop().leash.shutdown(socket.SHUT_RDWR)

    def pick(self, rlimits: Rlimits) -> Child:
        """A child for a program. Raises OSError."""
        while self._ready and rlimits == self._rlimits:
            child = self._ready.pop(0)
            if not child.has_ended():
                return child
        if rlimits != self._rlimits and rlimits == self._missed:
            self._change(rlimits)
        self._missed = rlimits
        (child,) = self._fork(rlimits, 1)
        return child

    def reap(self, child: Child) -> End:
        """Forget a child that has ended."""
        del self.children[child.pidfd]
        if child in self._ready:
            self._ready.remove(child)
        failure = _said(child.leash)
        child.close()
        _, status, usage = os.wait4(child.os_pid, 0)
        is_suspect = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and not child.was_killed
        out_of_memory = is_suspect and child.slot is not None and child.slot.was_killed_for_memory()
        self._give(child.slot)
        return End(status, usage.ru_utime + usage.ru_stime, failure, out_of_memory)

    def _change(self, rlimits: Rlimits) -> None:
        """Twice the same others: it is what programs ask for here."""
        target, self.target = self.target, 0
        self.shrink()
        self.target, self._rlimits = target, rlimits

    def _fork(self, rlimits: Rlimits, count: int) -> list[Child]:
        """All forks at once, and what belongs to each before and after: a page that is written between two is copied each time."""
        berths: list[_Berth] = []
        try:
            berths += (self._berth(rlimits) for _ in range(count))
            for berth in berths:
                berth.os_pid = fork()
                if berth.os_pid <= 0:
                    break
            if berth.os_pid == 0:
                self._become(berth.theirs.fileno(), berth.plan, berth.slot)
            if berth.os_pid < 0:
                number = ctypes.get_errno()
                raise OSError(number, f"fork: {os.strerror(number)}")
            return [self._adopt(berth, rlimits) for berth in berths]
        except OSError:
            for berth in berths:
                self._leave(berth)
            raise

    def _berth(self, rlimits: Rlimits) -> _Berth:
        plan, slot = self._plan, None
        if plan is not None:
            plan = _with(plan, rlimits)
            slot = plan.slots.take(plan) if plan.slots is not None else None
            plan = slot.plan(plan) if slot is not None else plan
        try:
            return _Berth(plan, slot, *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        except OSError:
            self._give(slot)
            raise

    def _adopt(self, berth: _Berth, rlimits: Rlimits) -> Child:
        os.setpgid(berth.os_pid, berth.os_pid)
        pidfd = os.pidfd_open(berth.os_pid)
        child = self.children[pidfd] = Child(berth.os_pid, pidfd, berth.ours, rlimits, berth.slot)
        berth.theirs.close()
        berth.is_adopted = True
        self.new.append(child)
        return child

    def _leave(self, berth: _Berth) -> None:
        """Something failed: one that was not adopted ends. (One that was is a child like others: it waits.)"""
        if berth.is_adopted:
            return
        berth.ours.close()
        berth.theirs.close()
        if berth.os_pid > 0:
            os.kill(berth.os_pid, signal.SIGKILL)
            os.waitpid(berth.os_pid, 0)
        self._give(berth.slot)

    def _give(self, slot: Slot | None) -> None:
        if slot is not None and self._plan is not None and self._plan.slots is not None:
            self._plan.slots.give(slot)


def fork() -> int:
    """The C library's: -1 when it failed, errno in ctypes."""
    pid: int = _libc.fork()
    return pid


def _with(plan: Plan, rlimits: Rlimits) -> Plan:
    whole_s = -int(-rlimits.cpu_s // 1)
    return replace(plan, memory_bytes=rlimits.memory_bytes, cpu_s=whole_s, tasks=rlimits.tasks, fds=rlimits.fds)


def is_assigned(leash: socket.socket) -> bool:
    """In the child: a program is here already."""
    poll = select.poll()
    poll.register(leash, select.POLLIN)
    return bool(poll.poll(0))


def tell_failure(leash: socket.socket, error: OSError) -> None:
    """In the child: its lockdown failed."""
    leash.send((error.errno or errno.EPERM).to_bytes(_ERRNO_BYTES, "little"))


def _said(leash: socket.socket) -> int:
    try:
        return int.from_bytes(leash.recv(_ERRNO_BYTES, socket.MSG_DONTWAIT), "little")
    except (BlockingIOError, ConnectionError):
        return 0
