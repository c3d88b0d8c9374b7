"""A message on its way (kernel/ipc/letter.py): from the call that sends it until the last queue that took it has let it go.

    send --> Letter --in one queue, or in one of each subscriber--> recv: Message, files opened anew
               |
               +-- holds the files that come along, so that they live though the sender closes them or ends

While it is on its way its files stay their owner's. Who receives one gets an fd of its own, as if by `open`, with the rights that
came along and no others; what a process may have open counts. Who pays for it then: kernel/ipc/gift.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Message, Pid, SendFd
from vllm_symphony.errors import InvalidArgument, TooManyFiles
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.fs.inode import Inode

if TYPE_CHECKING:
    from vllm_symphony.kernel.ipc.wait import RequestWait
    from vllm_symphony.kernel.machine import Machine


class Letter:
    """One message. `asker`: the call that waits for an answer to it; `num_holds`: queues and calls that have it."""

    __slots__ = ("asker", "data", "files", "is_answer", "num_holds", "pid", "principal", "seq")

    def __init__(self, m: Machine, call: Call, data: bytes, fds: Sequence[SendFd], *, is_answer: bool = False) -> None:
        """Hold the caller's open files of these numbers. The caller holds the letter.

        Raises:
            InvalidArgument: the message is too large, or has too many files.
            BadFile: a file is not open, or not for writing where that is to be handed on.
            QuotaExceeded: too much that this principal sent has not been received.
        """
        limits, table, cred = m.limits, call.process.fds, call.cred
        if len(data) > limits.message_bytes or len(fds) > limits.message_fds:
            raise InvalidArgument(
                f"a message has up to {limits.message_bytes} bytes and {limits.message_fds} files, not {len(data)} and {len(fds)}: "
                "put more into a file",
                limit=limits.message_bytes,
            )
        self.files: tuple[tuple[Inode, bool], ...] = tuple(
            ((table.get_writable(f.fd, cred) if f.writable else table.get(f.fd, cred)).inode, f.writable) for f in fds
        )
        self.data = data
        self.pid: Pid = call.process.pid
        self.principal = cred.principal
        self.is_answer = is_answer
        self.asker: RequestWait | None = None
        self.seq = 0
        self.num_holds = 1
        m.channels.enter(self)
        for inode, _ in self.files:
            inode.num_open += 1

    def release(self, m: Machine) -> None:
        """One that had it lets go; with the last one its files go, unless somebody else has them."""
        self.num_holds -= 1
        if self.num_holds:
            return
        m.channels.leave(self)
        for inode, _ in self.files:
            inode.num_open -= 1
        for inode, _ in self.files:
            if inode.ino in m.files.inodes:  # a file may be in it twice
                m.files.release(inode)
                m.channels.gifts.released(inode)

    def open_for(self, m: Machine, call: Call, *, missing: int = 0, token: int = 0) -> Message:
        """What the caller receives, its files open there. The letter is as before; who holds it lets go then.

        Raises:
            TooManyFiles: they do not fit into its table.
            QuotaExceeded: its principal may not own what was given away.
        """
        fds = call.process.fds
        if len(fds) + len(self.files) > fds.limit:
            raise TooManyFiles(f"{len(fds)} files are open, {fds.limit} may be: the message has {len(self.files)}", limit=fds.limit)
        if self.files and call.cred.principal != self.principal:
            m.channels.gifts.receive(self, call.cred.principal)
        opened = tuple(int(fds.add(OpenFile(inode, writable, call.cred.principal))) for inode, writable in self.files)
        return Message(self.seq, self.data, self.pid, self.principal, opened, token, missing)
