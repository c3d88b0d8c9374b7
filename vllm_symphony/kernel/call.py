"""A call in flight, and what it waits for (kernel/call.py).

    Kernel.call --> Call --handler--> result at once                    -> Reply
                                 or   call.pending = what it waits for  -> Reply when that comes

A `Pending` is a device job, a timer, a child, a stream, or of a stopped process that it may go on. Whatever ends a call early goes
through it: `interrupt` asks politely (the reply comes when the work has really stopped), `drop` at once (the process is gone,
nobody reads the reply).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import Credentials
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import Owner
from vllm_symphony.kernel.timer import Timer
from vllm_symphony.trace.summary import Digest

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine
    from vllm_symphony.kernel.process import Process
    from vllm_symphony.kernel.request import Requests
    from vllm_symphony.kernel.tally import Tally


class Call:
    """One system call from its frame to its reply. `key` names it in its process; `digest` is what the event log keeps of it.

    `door` is whom the answer goes to: the process itself, or an edge that calls for it, under its own `id`. `requests` is where its
    `request_id` stands, if it has one, until it ends.
    """

    __slots__ = (
        "cred", "digest", "door", "ended", "id", "key", "op", "pending", "process", "request_id", "requests", "rests", "start_ns",
        "step_first", "step_last", "tid",
    )  # fmt: skip

    def __init__(
        self, process: Process, door: Process, call_id: int, tid: int, op: str, digest: Digest, cred: Credentials, now_ns: int
    ) -> None:
        self.process = process
        self.door = door
        self.request_id = ""
        self.requests: Requests | None = None
        self.id = self.key = call_id
        self.tid = tid
        self.op = op
        self.digest = digest
        self.cred = cred
        self.start_ns = now_ns
        self.pending: Pending | None = None
        self.ended = False
        self.rests = False  # the device was told that its thread waits for something else
        self.step_first: int | None = None
        self.step_last: int | None = None

    @property
    def owner(self) -> Owner:
        """Whose a job for this call is."""
        process = self.process
        return Owner(process.pid, self.tid, self.cred.principal, process.program or process.name, process.priority)

    def tallies(self) -> tuple[Tally, ...]:
        """Who counts what it uses: its process, and its thread if that runs."""
        thread = self.process.threads.get(self.tid)
        return (self.process.tally,) if thread is None else (self.process.tally, thread.tally)


class Pending:
    """What a call waits for. `timer` is the call's own time limit, or the thing it waits for."""

    __slots__ = ("call", "timer")

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call
        self.timer: Timer | None = None

    def interrupt(self, m: Machine, error: SymphonyError, now_ns: int) -> None:
        """End the call early with `error`; waiting for events stops at once."""
        call = self.call
        if call is not None:
            self.drop(m)
            m.fail(call, error, now_ns)

    def drop(self, m: Machine) -> None:
        """Let go of the call, which ends elsewhere."""
        m.timers.cancel(self.timer)
        self.call = None

    def closed(self, m: Machine, fd: int, now_ns: int) -> None:
        """The caller closed this fd."""

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        """Work: take its completion."""

    def flush(self, m: Machine, now_ns: int) -> None:
        """Streams: send what is new."""


class Held(Pending):
    """A call of a stopped process: it is carried out when the process goes on."""

    __slots__ = ("args", "request_id")

    def __init__(self, call: Call, args: Any, request_id: str) -> None:
        super().__init__(call)
        self.args = args
        self.request_id = request_id

    def drop(self, m: Machine) -> None:
        if self.call is not None:
            self.call.process.held.remove(self)
        super().drop(m)
