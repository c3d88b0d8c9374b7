"""What the reactor and the fork server say to each other (abi/launch.py).

    reactor                                                  fork server (runtime/zygote.py)
                                                       <--   READY level
      LAUNCH pid, rlimits + [socket, stdout, stderr, stdin?] -->   a process
                                                       <--   STARTED pid, os pid      or   FAILED pid, errno
      KILL, STOP, CONT pid                             -->   a signal to its process group
                                                       <--   USED: CPU seconds and memory of those that worked
                                                       <--   EXITED pid, exit code, CPU seconds, cause

One record is one packet of a SOCK_SEQPACKET socket, so there are no frames to cut; the file descriptors travel by SCM_RIGHTS. The
program itself does not pass here but as the first frame on its own socket (abi/codec.py `Program`), whatever its size. When either
side closes, the other ends all programs. Requests are carried out in order, so KILL may follow LAUNCH at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

FDS_PER_LAUNCH = 3  # socket, stdout, stderr; a fourth is stdin
_RECORD = struct.Struct("<BBQqd")
_RLIMITS = struct.Struct("<QdII")
_USED = struct.Struct("<QdQ")
_USED_PER_PACKET = 128
PACKET_BYTES = 1 + _USED_PER_PACKET * _USED.size


class Verb(IntEnum):
    """`value` of the record means: nothing for the first four, the level's letter (`ord`), the OS pid, the exit code (128 + n for
    signal n), the errno, nothing."""

    LAUNCH = 1
    KILL = 2
    STOP = 3
    CONT = 4
    READY = 5
    STARTED = 6
    EXITED = 7
    FAILED = 8
    USED = 9


class Cause(IntEnum):
    """What ended a program, where the fork server knows more than a signal: a denied system call, memory, CPU time."""

    NONE = 0
    DENIED = 1
    MEMORY = 2
    CPU = 3


class Rlimits(NamedTuple):
    """What the system keeps for one process. `tasks`: threads; `fds`: open files."""

    memory_bytes: int = 256 << 20
    cpu_s: float = 60.0
    tasks: int = 16
    fds: int = 64


class Used(NamedTuple):
    """What a program has used since it started: CPU seconds of all its threads, and resident memory now."""

    pid: int
    cpu_s: float
    memory_bytes: int


class Record(NamedTuple):
    """One packet. `pid` is the kernel's; `cpu_s` and `cause` are set with EXITED, `rlimits` with LAUNCH."""

    verb: Verb
    pid: int
    value: int = 0
    cpu_s: float = 0.0
    cause: Cause = Cause.NONE
    rlimits: Rlimits | None = None

    def pack(self) -> bytes:
        head = _RECORD.pack(self.verb, self.cause, self.pid, self.value, self.cpu_s)
        return head if self.rlimits is None else head + _RLIMITS.pack(*self.rlimits)

    @staticmethod
    def unpack(packet: bytes) -> Record:
        """Raises struct.error or ValueError on what is no record."""
        verb, cause, pid, value, cpu_s = _RECORD.unpack_from(packet)
        tail = packet[_RECORD.size :]
        return Record(Verb(verb), pid, value, cpu_s, Cause(cause), Rlimits(*_RLIMITS.unpack(tail)) if tail else None)


def pack_used(used: Sequence[Used]) -> Iterator[bytes]:
    """As few packets as hold them."""
    for start in range(0, len(used), _USED_PER_PACKET):
        yield bytes((Verb.USED,)) + b"".join(_USED.pack(*one) for one in used[start : start + _USED_PER_PACKET])


def unpack_used(packet: bytes) -> Iterator[Used]:
    """Of a packet whose first byte is `Verb.USED`."""
    return (Used(*fields) for fields in _USED.iter_unpack(packet[1:]))
