"""What a program reads from its standard input, on its way there (engine/input.py).

    feed --> waiting (the kernel allows 1 MiB) --> pipe (64 KiB, the system's) --> the program

A program that does not read makes nobody wait but who feeds it: the kernel asks how much waits before it takes more.
"""

from __future__ import annotations

import os
from collections import deque

from vllm_symphony.engine.poll import WRITABLE, Poll


class InputPipe:
    """The writing end of a program's standard input. Owns the fd."""

    def __init__(self, fd: int, poll: Poll) -> None:
        os.set_blocking(fd, False)
        self.closed = False
        self.waiting_bytes = 0
        self._fd = fd
        self._poll = poll
        self._waiting: deque[bytes] = deque()
        self._ends = False
        self._is_watched = False

    def write(self, data: bytes, eof: bool = False) -> None:
        """In order; after `eof` nothing more is taken."""
        if self.closed or self._ends:
            return
        self._ends = eof
        if data:
            self._waiting.append(data)
            self.waiting_bytes += len(data)
        self._push(0)

    def close(self) -> None:
        """What waits is lost. Idempotent."""
        if not self.closed:
            self.closed = True
            self._poll.forget(self._fd)
            os.close(self._fd)
            self._waiting.clear()
            self.waiting_bytes = 0

    def _push(self, mask: int) -> None:
        while self._waiting:
            head = self._waiting[0]
            try:
                num_written = os.write(self._fd, head)
            except BlockingIOError:
                self._watch()
                return
            except OSError:  # nobody reads it any more
                self.close()
                return
            self.waiting_bytes -= num_written
            self._waiting.popleft()
            if num_written < len(head):
                self._waiting.appendleft(head[num_written:])
        if self._ends:
            self.close()
        elif self._is_watched:
            self._is_watched = False
            self._poll.forget(self._fd)

    def _watch(self) -> None:
        """While something waits only: a pipe that has room would be reported without end."""
        if not self._is_watched:
            self._is_watched = True
            self._poll.watch(self._fd, self._push, WRITABLE)
