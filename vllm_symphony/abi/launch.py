"""What the reactor and the fork server say to each other (abi/launch.py).

    reactor                                   fork server (runtime/zygote.py)
      LAUNCH pid + [socket, stdout, stderr]  -->   fork
                                             <--   STARTED pid, os pid      or   FAILED pid, errno
      KILL pid                               -->   SIGKILL to its process group
                                             <--   EXITED pid, exit code, CPU seconds

One record is one packet of a SOCK_SEQPACKET socket, so there are no frames to cut; the file descriptors travel by SCM_RIGHTS. The
program itself does not pass here but as the first frame on its own socket (abi/codec.py `Program`), whatever its size. When either
side closes, the other ends all programs. Requests are carried out in order, so KILL may follow LAUNCH at once.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

FDS_PER_LAUNCH = 3  # socket, stdout, stderr
_RECORD = struct.Struct("<BQqd")
RECORD_BYTES = _RECORD.size


class Verb(IntEnum):
    """`value` of the record means: nothing, nothing, the OS pid, the exit code (128 + n for signal n), the errno."""

    LAUNCH = 1
    KILL = 2
    STARTED = 3
    EXITED = 4
    FAILED = 5


class Record(NamedTuple):
    """One packet. `pid` is the kernel's; `cpu_s` is set with EXITED: user and system time of the program and what it waited for."""

    verb: Verb
    pid: int
    value: int = 0
    cpu_s: float = 0.0

    def pack(self) -> bytes:
        return _RECORD.pack(self.verb, self.pid, self.value, self.cpu_s)

    @staticmethod
    def unpack(packet: bytes) -> Record:
        """Raises struct.error or ValueError on what is no record."""
        verb, pid, value, cpu_s = _RECORD.unpack(packet)
        return Record(Verb(verb), pid, value, cpu_s)
