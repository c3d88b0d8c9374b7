"""Open channels of a process (kernel/ipc/handle.py).

    ch 1 --> Handle(channel, may receive, may send)      numbers from 1 upward, never used twice in a process, as those of files

An edge process acts for many principals, so its handles belong to the one that opened them. A handle is not inherited and does
not travel: who is to have a channel opens it by its name, with rights of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Credentials
from vllm_symphony.errors import AccessDenied, BadFile, TooManyFiles

if TYPE_CHECKING:
    from vllm_symphony.kernel.ipc.channel import Channel, Queue
    from vllm_symphony.kernel.ipc.wait import RequestWait
    from vllm_symphony.kernel.process import Process


class Handle:
    """What a `ch` stands for. `queue`: what it receives from; `requests`: received through it and not answered, by token."""

    __slots__ = ("ch", "channel", "may_receive", "may_send", "principal", "process", "queue", "requests")

    def __init__(self, process: Process, channel: Channel, access: str, principal: str) -> None:
        self.process = process
        self.channel = channel
        self.may_receive = "r" in access
        self.may_send = "w" in access
        self.principal = principal
        self.ch = 0
        self.queue: Queue | None = None
        self.requests: dict[int, RequestWait] = {}


class HandleTable:
    """ch -> Handle of one process."""

    __slots__ = ("_limit", "_next", "handles")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._next = 1
        self.handles: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self.handles)

    def demand_room(self) -> None:
        """Raises TooManyFiles when the table is full."""
        if len(self.handles) >= self._limit:
            raise TooManyFiles(f"{self._limit} channels are open, the most a process may have", limit=self._limit)

    def add(self, handle: Handle) -> int:
        """Give it a number; there is room."""
        handle.ch = self._next
        self._next += 1
        self.handles[handle.ch] = handle
        return handle.ch

    def get(self, ch: int, cred: Credentials) -> Handle:
        """The handle of that number, if it is the caller's. Raises BadFile."""
        handle = self.handles.get(ch)
        if handle is None or (handle.principal != cred.principal and not cred.is_admin):
            raise BadFile(f"channel {ch} is not open ({len(self.handles)} are)", ch=ch)
        return handle

    def get_receiver(self, ch: int, cred: Credentials) -> Handle:
        """The same, if it may receive. Raises BadFile, AccessDenied."""
        handle = self.get(ch, cred)
        if not handle.may_receive:
            raise AccessDenied(f"channel {ch} is open for sending only", ch=ch)
        return handle

    def get_sender(self, ch: int, cred: Credentials) -> Handle:
        """The same, if it may send. Raises BadFile, AccessDenied."""
        handle = self.get(ch, cred)
        if not handle.may_send:
            raise AccessDenied(f"channel {ch} is open for receiving only", ch=ch)
        return handle
