"""A process: whose it is, what it holds, how it ended (kernel/process.py).

    program     STARTING --started--> RUNNING --exited--> ZOMBIE --wait, or pushed out--> gone
    client      RUNNING --disconnected--> gone        a connection: own fds and children, no code
    edge        the same, and it may call in the name of a principal, and for a session
    session     a client that outlives its connections by a lease (kernel/lease.py); ends like a program, into a zombie

Everything that a process owns hangs here, so that its end is one walk over this object: calls in flight, fds, threads, children,
viewers of its output. A zombie holds nothing but its status, its usage and its events.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import ABI_MINOR, Credentials, ExitStatus, Pid, ProcessRecord, ProcessStat, ProcessState, Usage
from vllm_symphony.kernel.event import EventRing
from vllm_symphony.kernel.fs.fd import FdTable
from vllm_symphony.kernel.ipc.handle import HandleTable
from vllm_symphony.kernel.limits import Limits
from vllm_symphony.kernel.request import Requests
from vllm_symphony.kernel.sched.view import NOTHING, Standing
from vllm_symphony.kernel.tally import PageClock, Tally, Thread
from vllm_symphony.kernel.timer import Timer

if TYPE_CHECKING:
    from vllm_symphony.kernel.budget import Budget
    from vllm_symphony.kernel.call import Call, Held, Pending
    from vllm_symphony.kernel.grant import Grant
    from vllm_symphony.kernel.lifecycle import ChildWait


UMASK = 0o022  # bits that new files and directories do not get, unless the process says otherwise


class Kind(StrEnum):
    """What is behind a pid."""

    PROGRAM = "program"
    CLIENT = "client"
    EDGE = "edge"
    SESSION = "session"


class ByteSource:
    """Random bytes as a function of (kernel seed, pid, how many were drawn): a hash in counter mode."""

    __slots__ = ("_block", "_key", "_rest")

    def __init__(self, seed: int, pid: int) -> None:
        self._key = blake2b(f"{seed}:{pid}".encode()).digest()
        self._block = 0
        self._rest = b""

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        last = self._block + -(-max(0, count - len(self._rest)) // blake2b.MAX_DIGEST_SIZE)
        blocks = [blake2b(block.to_bytes(8, "little"), key=self._key).digest() for block in range(self._block, last)]
        drawn = b"".join((self._rest, *blocks))
        self._block, self._rest = last, drawn[count:]
        return drawn[:count]


class Process:
    """One process and all that it owns. Plain state: `machine` and `lifecycle` keep the rules."""

    __slots__ = (
        "abi", "below", "budget", "called_ns", "calls", "children", "code", "connected", "cred", "detached", "died_of",
        "ended_ns", "events", "exhausted", "exit", "fds", "grant", "handles", "held", "inherited", "killed", "kind",
        "lease_s", "lease_timer", "limit_timer", "lost", "memory_bytes", "minor", "name", "orphaned", "os_pid", "pages",
        "parent", "pid", "priority", "program", "random", "reported", "requests", "runtime", "session", "source", "spawner",
        "started_ns", "state", "stdin", "stopped", "tally", "term_timer", "termed", "threads", "traceparent", "umask",
        "viewers", "waiters",
    )  # fmt: skip

    def __init__(self, pid: Pid, kind: Kind, name: str, cred: Credentials, limits: Limits, seed: int, now_ns: int) -> None:
        self.pid = pid
        self.kind = kind
        self.name = name
        self.cred = cred
        self.state = ProcessState.STARTING if kind is Kind.PROGRAM else ProcessState.RUNNING
        self.parent: Process | None = None
        self.spawner: Pid | None = None  # its first parent, for the event log: it stays when the parent has ended
        self.children: dict[Pid, Process] = {}  # in order of birth; zombies wait here to be reaped
        self.detached = False
        self.session = pid  # the pid at the top of its tree
        self.source: str | None = None
        self.code = b""  # a WebAssembly module, in place of a source
        self.program = ""  # of the registry: owner/name@version
        self.priority = 0  # among its principal's own, as its manifest says
        self.runtime = ""
        self.stdin = False  # its standard input comes by `feed`
        self.os_pid: int | None = None
        self.abi = ""
        self.minor = ABI_MINOR  # of the ABI that it was written for, as far as it said
        self.umask = UMASK
        self.traceparent = ""  # W3C: what its caller's trace calls it
        self.grant: Grant | None = None  # of a program: the tools that it may call

        self.connected = True
        self.lease_s = 0.0
        self.lease_timer: Timer | None = None
        self.called_ns = 0  # when the last call from outside of its connection ended

        self.threads: dict[int, Thread] = {0: Thread("main")}
        self.fds = FdTable(limits.fds)
        self.inherited: dict[str, int] = {}  # fds that it was started with, by name
        self.handles = HandleTable(limits.channels if kind is Kind.EDGE else limits.handles)  # many share an edge's
        self.calls: dict[int, Call] = {}  # by call id; those without a reply, and an edge's for us, under negative numbers
        self.requests = Requests(limits.requests)
        self.waiters: list[ChildWait] = []  # calls of ours that wait for a child
        self.viewers: list[Pending] = []  # streams of anyone that show our events
        self.events = EventRing(pid, limits.event_count, limits.event_bytes)
        self.random = ByteSource(seed, pid)

        self.budget: Budget | None = None  # None of an edge: whom it calls for pays
        self.exhausted = ""  # the limit whose end it was told, in words
        self.limit_timer: Timer | None = None  # from then to TERM
        self.stopped = False  # between STOP and CONT
        self.held: list[Held] = []  # its calls that wait for CONT, in order

        self.reported: ExitStatus | None = None  # by the `exit` call
        self.exit: ExitStatus | None = None  # when it ended
        self.termed = self.killed = False
        self.orphaned = ""  # why, when it ends because its parent did
        self.lost: str | None = None  # the device's last words, when it died under us
        self.died_of = ""  # `limit` or `denied`, when the host knows it
        self.term_timer: Timer | None = None

        self.started_ns = now_ns
        self.ended_ns: int | None = None
        self.tally = Tally()
        self.below = Tally()  # of all that it spawned and that has ended, with what those did
        self.pages = PageClock(now_ns)
        self.memory_bytes = 0

    @property
    def has_ended(self) -> bool:
        return self.state is ProcessState.ZOMBIE

    @property
    def is_leaving(self) -> bool:
        """It was told to end, or said that it does."""
        return self.termed or self.killed or self.reported is not None

    def visible_to(self, cred: Credentials) -> bool:
        """A principal sees its own processes, scope `admin` all."""
        return self.cred.principal == cred.principal or cred.is_admin

    @property
    def own_budget(self) -> Budget:
        """Of a process that has one: all but edges."""
        assert self.budget is not None
        return self.budget

    @property
    def shown_state(self) -> ProcessState:
        return ProcessState.STOPPED if self.stopped and not self.has_ended else self.state

    def settle_pages(self, page_size: int, now_ns: int) -> None:
        """Add up page-seconds."""
        self.tally.page_s += self.pages.settle(self.fds, page_size, now_ns)

    def usage(self) -> Usage:
        return self.tally.usage()

    def all_below(self) -> Tally:
        """What was used by all that it spawned and that it has waited for, or that is still its child, with what those spawned."""
        total = Tally()
        total.add(self.below)
        for child in self.children.values():
            total.add(child.tally)
            total.add(child.all_below())
        return total

    def stat(self, page_size: int, offset_ns: int, standing: Standing = NOTHING) -> ProcessStat:
        """As `ps` shows it. Pages count once, however many fds show the file. `standing`: of its calls before the device."""
        inodes = {file.inode.ino: file.inode for file in self.fds.files.values()}
        return ProcessStat(
            pid=self.pid,
            parent=self.parent.pid if self.parent is not None else None,
            name=self.name,
            principal=self.cred.principal,
            state=str(self.shown_state),
            started_ns=self.started_ns + offset_ns,
            ended_ns=None if self.ended_ns is None else self.ended_ns + offset_ns,
            num_threads=len(self.threads),
            num_files=len(self.fds),
            num_pages=sum(inode.num_pages(page_size) for inode in inodes.values()),
            waiting=tuple(call.op for call in self.calls.values() if call.pending is not None),
            usage=self.usage(),
            exit=self.exit,
            kind=str(self.kind),
            abi=self.abi,
            lease_s=self.lease_s,
            connected=self.connected,
            session=self.session,
            program=self.program,
            runtime=self.runtime,
            memory_bytes=self.memory_bytes,
            num_running=standing.running,
            num_queued=standing.queued,
            service=standing.service,
        )

    def record(self, number: int, offset_ns: int) -> ProcessRecord:
        """As the event log has it."""
        ended_ns = None if self.ended_ns is None else self.ended_ns + offset_ns
        code, reason = (self.exit.code, self.exit.reason) if self.exit is not None else (0, "")
        return ProcessRecord(
            number, self.pid, str(self.kind), self.name, self.cred.principal, self.spawner, self.started_ns + offset_ns,
            self.detached, self.program, self.runtime, self.traceparent, ended_ns, code, reason,
        )  # fmt: skip

    def check(self) -> None:
        """A zombie holds nothing; parent and children agree."""
        self.events.check()
        for file in self.fds.files.values():
            assert file.inode.num_open > 0
        assert all(child.parent is self for child in self.children.values())
        assert self.parent is None or self.parent.children.get(self.pid) is self
        assert all(self in (call.process, call.door) and not call.ended for call in self.calls.values())
        self.pages.check(self.fds)
        assert self.stopped or not self.held
        assert all(held.call is None or self.calls.get(held.call.key) is held.call for held in self.held)
        assert self.lease_timer is None or not self.lease_timer.live or not (self.connected or self.has_ended)
        if self.has_ended:
            assert self.exit is not None and self.ended_ns is not None
            assert not (self.calls or len(self.fds) or self.children or self.waiters or self.viewers or self.threads)
            assert not len(self.handles)
            assert all(timer is None or not timer.live for timer in (self.term_timer, self.limit_timer))
            assert not (self.held or self.stopped)
            assert not self.requests
        else:
            assert self.exit is None and 0 in self.threads
